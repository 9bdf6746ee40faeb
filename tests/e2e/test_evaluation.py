"""The benchmarks as lmms-eval's own manager loads them: without network, model or GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jigsaw.toy.videos import write_video

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

TASKS = ("all_angles", "aotbench", "favor_bench", "lvbench", "motionbench", "tomato", "tuna_bench", "tvbench", "vsr")
LOADS = """
import sys
from lmms_eval.tasks import TaskManager, get_task_dict
manager = TaskManager(include_path=sys.argv[1], include_defaults=False)
print(sorted(name for name in manager.all_tasks if name.startswith("vj_")))
for name in ("vj_tvbench", "vj_tvbench_fixed"):
    task = get_task_dict([name], manager, task_type="chat")[name]
    (doc,) = task.test_docs()
    print(name, task.OUTPUT_TYPE, task.doc_to_messages(doc)[0]["content"])
    print([task.process_results(doc, [reply])["acc"] for reply in ("B", "The answer is B", "Boat")])
"""


def test_lmms_eval_loads_and_scores_them(repository: Path, tmp_path: Path) -> None:
    film = write_video(tmp_path / "TVBench/video/a.mp4", seconds=2)
    (tmp_path / "TVBench/all_data.json").write_text(
        '[{"video": "a.mp4", "question": "What?\\nA. x\\nB. y", "answer": "B", "task": "order"}]'
    )
    ended = subprocess.run(
        [sys.executable, "-c", LOADS, repository / "eval/tasks"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "VJ_DATA": str(tmp_path), "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"},
    )
    assert ended.returncode == 0, ended.stderr
    names, one, paper, other, careful = ended.stdout.strip().split("\n")
    assert names == str(sorted(f"vj_{task}{kind}" for task in TASKS for kind in ("", "_fixed")))
    asked = [
        {"type": "video", "url": str(film)},
        {"type": "text", "text": "\nWhat?\nA. x\nB. y\nAnswer with the option letter directly."},
    ]
    assert (one, other) == (f"vj_tvbench generate_until {asked}", f"vj_tvbench_fixed generate_until {asked}")
    assert (paper, careful) == ("[1.0, 0.0, 1.0]", "[1.0, 1.0, 0.0]")
