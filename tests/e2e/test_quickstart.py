"""The quickstart as a user runs it: stopped by Ctrl-C while it trains, started again, finished."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from jigsaw.processes import processes_of
from jigsaw.toy.benchmarks import MAKERS, write_benchmarks

pytestmark = [pytest.mark.e2e, pytest.mark.slow("learning"), pytest.mark.timeout(1800)]

KEYS = {
    "task",
    "tasks",
    "pieces",
    "chance",
    "exact_before",
    "exact_before_sampled",
    "exact_after",
    "exact_se",
    "exact_greyed",
    "valid_before",
    "valid_after",
    "score_before",
    "score_after",
    "verdict",
    "heldout_puzzles",
    "heldout_sources",
    "grpo_steps",
    "seconds_total",
    "seconds_install",
    "peak_gib",
    "versions",
    "checkpoint",
    "heldout_parquet",
    "heldout_media_root",
}


def _start(repository: Path, out: Path, log: Path) -> subprocess.Popen[bytes]:
    command = ["bash", "train_scripts/quickstart.sh", "--out", str(out), "--steps", "3", "--warm-start-steps", "60"]
    # Its own session, as a terminal would give it, so that Ctrl-C reaches the quickstart and not the tests.
    return subprocess.Popen(
        command, cwd=repository, stdout=log.open("wb"), stderr=subprocess.STDOUT, start_new_session=True
    )


def test_stopped_and_started_again_it_finishes(repository: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "run", tmp_path / "log"
    first = _start(repository, out, log)
    while "  step   1 " not in log.read_text():
        assert first.poll() is None, log.read_text()
        time.sleep(1)
    os.killpg(first.pid, signal.SIGINT)
    assert first.wait(timeout=120) == 130
    assert processes_of(out) == []
    assert "started again" in log.read_text()
    warm_start = (out / "model/warm_start/model.safetensors").stat().st_mtime_ns

    assert _start(repository, out, log).wait() == 0, log.read_text()
    assert processes_of(out) == []
    assert (out / "model/warm_start/model.safetensors").stat().st_mtime_ns == warm_start
    summary = json.loads((out / "summary.json").read_text())
    assert set(summary) >= KEYS
    assert summary["pieces"] == "2x1 tiles"
    assert summary["chance"] == 0.5
    assert summary["heldout_puzzles"] >= 200
    assert summary["exact_before_sampled"] <= 0.65
    assert (Path(summary["checkpoint"]) / "config.json").is_file()
    assert Path(summary["heldout_parquet"]).is_file()
    assert (out / "training.png").stat().st_size > 10_000
    compare(out, tmp_path / "evaluated", repository)


@pytest.mark.parametrize("task", ["image", "video", "depth"])
def test_a_task_reaches_its_first_rise(repository: Path, tmp_path: Path, task: str) -> None:
    """Sampled, the warm-started model is at chance, and so is the trained one that sees nothing."""
    out = tmp_path / task
    command = ["bash", "train_scripts/quickstart.sh", f"--task={task}", "--steps=20", f"--out={out}"]
    subprocess.run(command, cwd=repository, check=True)
    summary = json.loads((out / "summary.json").read_text())
    chance = 0.5 + 0.13  # four standard errors of 240 puzzles
    assert summary["exact_before_sampled"] <= chance
    assert summary["exact_greyed"] <= chance
    assert summary["exact_after"] >= 0.7


def test_controls_stay_at_chance(repository: Path, tmp_path: Path) -> None:
    """A frozen tower alone may learn: it saw in the supervised start, and the order is not its business."""
    figures = tmp_path / "learning.json"
    command = [".venv/bin/python", "benchmarks/learning.py", "2x1 tiles", "--seed=0", "--controls"]
    subprocess.run([*command, f"--out={tmp_path}", f"--json={figures}"], cwd=repository, check=True)
    (run, *controls) = json.loads(figures.read_text())["results"]
    assert run["exact_after"] >= 0.9
    results = {each["name"].removeprefix("2x1 tiles, "): each for each in controls}
    results.pop("frozen tower")
    assert set(results) == {"random reward", "reward for the form", "shuffled pixels", "grey pictures", "text alone"}
    blind = results["text alone"]
    assert blind["exact_after"] == blind["exact_greyed"]  # nothing is shown that could be grey
    for each in results.values():
        assert each["exact_after_sampled"] <= 0.5 + 0.13  # four standard errors of 240 puzzles
    results.pop("random reward")  # which wears out the form, too
    for each in results.values():
        assert each["steps"]["valid_permutation"][-1] >= 0.9


def compare(out: Path, folder: Path, repository: Path) -> None:
    """The warm-started model and the trained one, on held-out puzzles and on all benchmarks in small, side by side."""
    write_benchmarks(folder / "small")
    summary = json.loads((out / "summary.json").read_text())
    held_out = [f"--rows={summary['heldout_parquet']}", f"--media-root={summary['heldout_media_root']}"]
    environment = {**os.environ, "VJ_DATA": str(folder / "small"), "HF_HOME": str(folder / "hf")}
    command = ["bash", str(repository / "eval/run.sh")]
    models = {"base": [str(out / "model/warm_start"), *held_out], "trained": [str(out)]}
    for name, model in models.items():
        for suite in ("jigsaw", "all"):
            words = [*command, *model, f"--suite={suite}", "--engine=hf", "--max-tokens=64", f"--out={folder / name}"]
            killed = subprocess.Popen(words, env=environment)
            while killed.poll() is None and not (folder / name / "replies.jsonl").exists():
                time.sleep(0.1)
            time.sleep(2)
            killed.kill()
            killed.wait()
            subprocess.run(words, env=environment, check=True)
    for kind in ("md", "png", "html", "json"):
        written = folder / f"results.{kind}"
        compared = ["results", str(folder / "base"), str(folder / "trained"), "--against=paper", f"--out={written}"]
        subprocess.run([str(repository / ".venv/bin/jigsaw"), *compared], check=True, stdout=subprocess.DEVNULL)
    figures = json.loads((folder / "results.json").read_text())["figures"]
    values = {(one["task"], one["metric"]): [score["value"] for score in one["scores"]] for one in figures}
    assert values["vj_jigsaw_image", "exact"] == [summary["exact_before"], summary["exact_after"]]
    assert values["vj_jigsaw_image_grey", "exact"][1] == summary["exact_greyed"]
    assert {task for task, _ in values} >= set(MAKERS)
