"""A task of lmms-eval's own that a judge scores, beside the same one scored by rules."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, Image

from jigsaw.media.image import encoded
from jigsaw.toy.scenes import render_scene

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
ROWS = 2
CARD = """---
configs:
- config_name: testmini
  data_files: [{split: testmini, path: testmini.parquet}]
---
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A working directory with MathVerse in small where the hub's name leads to it."""
    folder = tmp_path / "CaraJ/MathVerse-lmmseval"
    folder.mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    rows = [
        {
            "sample_index": str(number),
            "problem_index": str(number),
            "problem_version": "Vision Only",
            "question": f"What is {number}?",
            "answer": "A",
            "question_type": "multi-choice",
            "metadata": {"split": "testmini"},
            "query_wo": f"What is {number}? Choices: A:one B:two",
            "query_cot": "",
            "question_for_eval": f"What is {number}? Choices: A:one B:two",
            "image": {"bytes": encoded(render_scene(1, number), "PNG"), "path": None},
        }
        for number in range(ROWS)
    ]
    Dataset.from_list(rows).cast_column("image", Image()).to_parquet(folder / "testmini.parquet")
    return tmp_path


def test_a_judge_scores_and_what_it_says_is_kept(place: Path, judge: Any, tiny_model: Path) -> None:
    words = ["-c", "from jigsaw.cli import main; main()", "eval", str(tiny_model), "--engine=hf", "--max-tokens=4"]
    of_judge = {"OPENAI_API_KEY": judge.key, "OPENAI_API_URL": judge.url}
    ended = subprocess.run(
        [sys.executable, *words, "--out=out", "--tasks=mathverse_testmini,mathverse_rules"],
        cwd=place,
        env={**os.environ, "HF_HOME": str(place / "hf"), "HF_HUB_OFFLINE": "1", **of_judge},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    results = json.loads((place / "out/results.json").read_text())
    found = {figure["task"]: (figure["metric"], figure["value"], figure["n"]) for figure in results["figures"]}
    assert found == {"mathverse_testmini": ("gpt_eval_score", 1.0, ROWS), "mathverse_rules": ("acc", 0.0, ROWS)}
    of_judge = {figure["task"]: figure["judge"] for figure in results["figures"]}
    by = {"url": judge.url, "models": [judge.asked[0]["model"]]}
    assert of_judge == {"mathverse_testmini": by, "mathverse_rules": None}
    kept = [json.loads(line) for line in (place / "out/judge.jsonl").read_text().splitlines()]
    assert [(line["reply"], line["tokens"]) for line in kept] == [("1", 1)] * ROWS
