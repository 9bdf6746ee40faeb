"""``jigsaw eval``: all benchmarks in small by one command; killed, by several processes, given bad data."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import psutil
import pytest
from transformers import AutoModelForImageTextToText, AutoProcessor

from jigsaw.lmms_plugin.replies import weights_of
from jigsaw.prompt_tokens import place_as_vllm
from jigsaw.solve import solve
from jigsaw.tasks import plan
from jigsaw.toy.benchmarks import MAKERS, write_benchmarks
from jigsaw.toy.rows import write_puzzles

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("benchmarks")
    write_benchmarks(root)
    return root


@pytest.fixture
def model(restless: Callable[[str], Path]) -> Path:
    return restless("qwen2_5_vl")


class Command:
    """``jigsaw eval`` on the benchmarks."""

    def __init__(self, benchmarks: Path, model: Path, out: Path):
        self.out = out
        self.environment = {**os.environ, "VJ_DATA": str(benchmarks), "HF_HOME": str(out.parent / "hf")}
        self.words = [sys.executable, "-c", "from jigsaw.cli import main; main()", "eval", str(model)]
        self.words += ["--engine=hf", "--max-tokens=4", f"--out={out}"]

    def __call__(self, *options: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        ended = subprocess.run(
            [*self.words, *options], capture_output=True, text=True, check=False, env=self.environment
        )
        assert ended.returncode == code, ended.stderr[-3000:]
        return ended

    def killed(self, *options: str, replies: int) -> None:
        """Kill it, all its processes, once it has so many replies."""
        process = subprocess.Popen(
            [*self.words, *options],
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while process.poll() is None and len(self.replies()) < replies:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def replies(self) -> list[str]:
        file = self.out / "replies.jsonl"
        return file.read_text().splitlines() if file.is_file() else []

    def figures(self) -> dict[tuple[Any, ...], tuple[float, int]]:
        results = json.loads((self.out / "results.json").read_text())
        return {(one["task"], one["metric"], one["frames"]): (one["value"], one["n"]) for one in results["figures"]}


@pytest.fixture
def command(benchmarks: Path, model: Path, tmp_path: Path) -> Command:
    return Command(benchmarks, model, tmp_path / "out")


def test_all_benchmarks_by_one_command(command: Command) -> None:
    ended = command("--suite=all", "--frames=8,16", "--json")
    figures = command.figures()
    assert {task for task, _, _ in figures} == {name + kind for name in MAKERS for kind in ("", "_fixed")}
    films = {task for task, _, frames in figures if frames}
    assert {(task, frames) for task, _, frames in figures if frames} == {(task, n) for task in films for n in (8, 16)}
    assert figures["vj_mmvp", "pair_acc", None][1] == 8
    assert json.loads(ended.stdout)["figures"][0]["chance"] == 0.5
    assert "To ask" in ended.stderr
    rows = [json.loads(line) for line in command.replies()]
    assert len({row["key"] for row in rows}) == len(rows)
    assert len({row["reply"] for row in rows}) > 10
    # Started again it asks nothing, so it needs no model; by two processes it comes to the same.
    shutil.move(command.out / "replies.jsonl", command.out / "kept.jsonl")
    command("--suite=all", "--frames=8,16", "--gpus=2")
    assert command.figures() == figures
    by_key = {row["key"]: row["reply"] for row in rows}
    assert {json.loads(line)["key"]: json.loads(line)["reply"] for line in command.replies()} == by_key


def test_killed_it_goes_on_where_it_was(command: Command, benchmarks: Path, model: Path, tmp_path: Path) -> None:
    whole = Command(benchmarks, model, tmp_path / "whole")
    whole("--tasks=vj_mmvp,vj_cvbench,vj_vsr")
    count = len(whole.replies())
    draw = random.Random(0)
    for _ in range(2):
        command.killed("--tasks=vj_mmvp,vj_cvbench,vj_vsr", replies=draw.randrange(1, count))
    with (command.out / "replies.jsonl").open("a") as file:
        file.write('{"key": "torn')  # what a kill in the middle of a write leaves
    before = command.replies()[:-1]
    command("--tasks=vj_mmvp,vj_cvbench,vj_vsr")
    after = command.replies()
    assert after[: len(before)] == before  # nothing was lost
    assert sorted(after) == sorted(whole.replies())  # nothing was asked twice
    assert command.figures() == whole.figures()


def test_what_it_holds_stays_and_new_weights_are_asked_anew(command: Command, model: Path, tmp_path: Path) -> None:
    mine = tmp_path / "model"
    shutil.copytree(model, mine)
    command.words[command.words.index(str(model))] = str(mine)
    key = weights_of(str(mine))
    command("--tasks=vj_vsr")
    command("--tasks=vj_sat", "--protocol=paper")
    assert {task for task, _, _ in command.figures()} == {"vj_vsr", "vj_vsr_fixed", "vj_sat"}
    asked = len(command.replies())
    (mine / "README.md").write_text("no weights")
    assert weights_of(str(mine)) == key
    settings = json.loads((mine / "generation_config.json").read_text())
    (mine / "generation_config.json").write_text(json.dumps({**settings, "repetition_penalty": 1.3}))
    command("--tasks=vj_sat", "--protocol=paper")
    assert len(command.replies()) == asked + 4
    assert {task for task, _, _ in command.figures()} == {"vj_sat"}  # of these weights
    for other, told in (("--engine=vllm", "engine hf, not engine vllm"), ("--limit=2", "no limit, not limit 2")):
        assert f"holds results by {told}; give another --out" in command("--tasks=vj_sat", other, code=1).stderr
    command.words[command.words.index(str(mine))] = str(model)
    assert "holds results of" in command("--tasks=vj_sat", code=1).stderr


def test_it_ends_with_who_started_it(command: Command) -> None:
    process = subprocess.Popen([*command.words, "--suite=all"], env=command.environment, stderr=subprocess.DEVNULL)
    while not command.replies():
        assert process.poll() is None
        time.sleep(0.02)
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    gone, alive = psutil.wait_procs(children, timeout=10)
    assert children
    assert gone
    assert not alive


def test_vllm_answers_on_this_machine(command: Command) -> None:
    command.words[command.words.index("--engine=hf")] = "--engine=vllm"
    command("--tasks=vj_cvbench,vj_sat")
    assert len(command.replies()) == 8
    assert command.figures()["vj_cvbench", "acc", 16][1] == 4


def test_held_out_puzzles_by_the_rewards_metrics(command: Command, model: Path, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = list(write_puzzles(tmp_path / "media", picture=(112, 84), grid=(2, 1), film=(56, 56)).values())
    names = {name for row in rows for name in row}
    pq.write_table(
        pa.Table.from_pylist([{name: row.get(name) for name in names} for row in rows]), tmp_path / "r.parquet"
    )
    options = ["--suite=jigsaw", f"--rows={tmp_path / 'r.parquet'}", f"--media-root={tmp_path / 'media'}"]
    command(*options)
    tasks = {f"vj_jigsaw_{task}{kind}" for task in ("image", "video", "depth") for kind in ("", "_grey")}
    metrics = {"exact", "position_accuracy", "valid_permutation", "format", "kendall", "chance_corrected"}
    assert {(task, metric) for task, metric, _ in command.figures()} == set(product(tasks, metrics))
    assert len(command.replies()) == 6
    with (command.out / "questions.jsonl").open() as lines:
        questions = {row["task"]: row for row in map(json.loads, lines)}
    processor = AutoProcessor.from_pretrained(model)
    loaded = AutoModelForImageTextToText.from_pretrained(model)
    place_as_vllm(loaded)
    for row in rows:  # what training shows, asked by plain transformers
        planned = plan(row)
        (reply,) = solve(loaded, processor, [planned], tmp_path / "media", max_new_tokens=4)
        assert questions[f"vj_jigsaw_{planned.task}"]["reply"] == reply
    assert "give both --rows and --media-root" in command(*options[:2], code=1).stderr
    assert "held-out puzzles need --rows" in command("--suite=jigsaw", code=1).stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--tasks=vj_tvbemch"], "eval/tasks; is it vj_tvbench or"),
        (["--tasks=mathvista_testmini"], "mathvista_testmini: not run, for it is scored by a judge"),
        ([], "nothing to evaluate: give --suite or --tasks"),
        (["--tasks=vj_sat", "--frames=x"], "--frames x: must be numbers, such as 16,32,64"),
        (["--tasks=vj_sat", "--frames=2"], "--frames 2: must be 8 or more"),
    ],
)
def test_what_cannot_be_asked_is_named(command: Command, options: list[str], said: str) -> None:
    ended = command(*options, code=1)
    assert said in " ".join(ended.stderr.split())
    assert not command.out.exists()


def test_data_and_media_are_found_first(command: Command, benchmarks: Path, tmp_path: Path) -> None:
    command.words[command.words.index("eval") + 1] = str(tmp_path / "no_model")
    broken = tmp_path / "broken"
    shutil.copytree(benchmarks, broken)
    (broken / "TVBench/video/action_count/2.mp4").unlink()
    (broken / "vsr/test.jsonl").write_text('{"other": 1}\n')
    shutil.rmtree(broken / "sat")
    command.environment["VJ_DATA"] = str(broken)
    said = command("--tasks=vj_tvbench,vj_vsr,vj_sat,vj_mmvp", code=1).stderr
    assert "action_count/2.mp4: no such file; get it: https://huggingface.co/datasets/FunAILab/TVBench" in said
    assert "test.jsonl, row 0: has no field image, but other" in said
    assert "sat: no such folder" in said
    assert "vj_mmvp" not in said
    del command.environment["VJ_DATA"]
    assert "VJ_DATA is not set" in command("--tasks=vj_sat", code=1).stderr


def test_what_cannot_be_read_ends_it_and_what_was_answered_stays(
    command: Command, benchmarks: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(benchmarks, broken)
    (broken / "MMVP/images/6.jpg").write_text("no picture")
    command.environment["VJ_DATA"] = str(broken)
    said = command("--tasks=vj_mmvp", code=1).stderr
    assert "6.jpg: cannot be read as a picture" in said
    assert "start it again to go on" in said
    assert len(command.replies()) == 5
    assert not (command.out / "results.json").exists()


def test_a_model_that_is_none_is_named(command: Command, tmp_path: Path) -> None:
    command.words[command.words.index("eval") + 1] = str(tmp_path / "no_model")
    assert "no_model: is no folder here, and cannot be had from the hub" in command("--tasks=vj_sat", code=1).stderr
