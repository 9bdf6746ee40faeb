"""GRPO with verl, Ray and vLLM on the CPU: a mixture, saves, a resume, a merge, a reload, and a broken picture."""

import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForImageTextToText, AutoProcessor

from jigsaw.errors import JigsawError
from jigsaw.prepare.images import ImageOptions
from jigsaw.prepare.pipeline import prepare_rows
from jigsaw.processes import processes_of
from jigsaw.reward import compute_score
from jigsaw.show.report import write_report
from jigsaw.show.training import Metrics, heldout_exact, record_of
from jigsaw.toy.benchmarks import write_benchmarks
from jigsaw.toy.scenes import write_scenes
from jigsaw.verl_plugin.checkpoint import last_whole, log_override
from jigsaw.verl_plugin.dataset import JigsawDataset
from jigsaw.verl_plugin.testing import compose_config

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]

SOURCES = {"first": 0, "second": 12}
"""By name; which row each begins with."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, make_run: Any, model_of_family: Path) -> Iterator[Any]:
    """24 training pictures in two sources, one of which is broken after its row was made, and 8 held out."""
    folder = tmp_path_factory.mktemp("run")
    scenes = folder / "scenes"
    write_scenes(scenes, 32, seed=3)
    prepare_rows(scenes, folder / "data", ImageOptions(grid=(2, 2), val=8), progress=lambda done, total: None)
    rows = pq.read_table(folder / "data/train.parquet")
    for source, begin in SOURCES.items():
        pq.write_table(rows.slice(begin, 12), folder / f"data/{source}.parquet")
    yield make_run(folder, scenes, model_of_family)
    assert processes_of(folder) == []


def _of_data(run: Any) -> list[str]:
    sources = ",".join(f"{{name:{source},files:{run.folder}/data/{source}.parquet}}" for source in SOURCES)
    kept = [f"trainer.rollout_data_dir={run.folder}/rollouts", "trainer.rollout_freq=1", "trainer.rollout_prompts=8"]
    return ["data.train_files=null", f"data.mixture=[{sources}]", *kept]


def _drawn(run: Any, step: int) -> Counter[str]:
    """The truths of a step's puzzles, by the config alone."""
    given = (f"data.val_files={run.folder}/data/val.parquet", f"data.media_root={run.media_root}")
    data = compose_config(Path("configs"), "quickstart", *given, *_of_data(run)).data
    processor = AutoProcessor.from_pretrained(run.model)
    dataset = JigsawDataset(data.train_files, processor.tokenizer, data, processor)
    return Counter(str(dataset[index]["reward_model"]["ground_truth"]) for index in range(8 * step - 8, 8 * step))


def _trained_on(run: Any, step: int) -> Counter[str]:
    """The truths of a step's prompts, as they were kept."""
    return Counter({line["uid"].split("_")[0]: str(line["gts"]) for line in _kept(run, step)}.values())


def _kept(run: Any, step: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.folder / f"rollouts/{step}.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def first(run: Any) -> dict[int, Metrics]:
    """Three steps: one pass over the 24 pictures, so the broken one comes up."""
    row = pq.read_table(run.folder / "data/train.parquet").slice(5, 1).to_pylist()[0]
    picture = run.media_root / row["images"][0]["path"]
    picture.write_bytes(picture.read_bytes()[:500])
    offline = "+ray_kwargs.ray_init.runtime_env.env_vars.WANDB_MODE=offline"
    loggers = [log_override("tensorboard", run.folder / "tensorboard"), log_override("wandb", run.folder), offline]
    write_benchmarks(run.folder / "benchmarks", tasks=["vj_mmvp", "vj_vsr"])
    benchmarks = ["eval.suite=image", f"eval.data={run.folder / 'benchmarks'}", "eval.limit=2"]
    return run.train(3, *_of_data(run), *benchmarks, "trainer.logger=[console,file,tensorboard,wandb]", *loggers)


def test_every_step_trains(first: dict[int, Metrics]) -> None:
    assert sorted(first) == [1, 2, 3]
    for values in first.values():
        assert values["actor/grad_norm"] >= 0
        assert 0 <= values["reward/exact"] <= 1


def test_rollout_and_actor_see_the_same(first: dict[int, Metrics]) -> None:
    assert max(values["training/rollout_probs_diff_max"] for values in first.values()) < 1e-3


def test_the_start_is_recorded_and_reported(run: Any, first: dict[int, Metrics], tmp_path: Path) -> None:
    metrics = tmp_path / "checkpoints/metrics"
    metrics.mkdir(parents=True)
    for file in (run.folder / "metrics-3.jsonl", record_of(run.folder / "metrics-3.jsonl")):
        shutil.copy(file, metrics)
    _, found = write_report(tmp_path, now=time.time())
    assert (found["recipe"], found["model"]) == ("quickstart", str(run.model))
    assert found["versions"]["verl"] == version("verl")
    assert found["steps"] == {"done": 3, "planned": 3}
    assert found["state"] == "ended"
    assert found["exact"]["chance"] == pytest.approx(1 / 24)
    assert found["reward"]["floor"] == pytest.approx(0.2 + 1 / 24 + 0.2 * (1 / 4 - 1 / 24))
    assert found["samples"] == 6
    assert {name: one["metric"] for name, one in found["benchmarks"].items()} == {"MMVP": "pair_acc", "VSR": "acc"}
    record = json.loads(record_of(run.folder / "metrics-3.jsonl").read_text())
    assert record["changed"]["trainer.save_freq"] == [1, 40]
    assert "actor_rollout_ref.actor.strategy" not in record["changed"]


def test_validation_reports_held_out_exact_accuracy(first: dict[int, Metrics]) -> None:
    assert [step for step, values in first.items() if heldout_exact(values) is not None] == [2, 3]


def test_validation_asks_the_benchmarks_that_are_there(run: Any, first: dict[int, Metrics]) -> None:
    for step in (2, 3):
        figures = {name for name in first[step] if name.startswith("val-benchmark/")}
        of_all = ("acc", "unreadable", "unanswered")
        names = {*(f"{name}/{metric}" for name in ("MMVP", "VSR") for metric in of_all), "MMVP/pair_acc"}
        assert figures == {f"val-benchmark/{name}" for name in names}
        assert first[step]["val-benchmark/MMVP/unanswered"] == 0
        assert not any("benchmark/" in name for name in first[step].keys() - figures)
    failed = [json.loads(line) for line in (run.folder / "checkpoints/failed_prompts.jsonl").read_text().splitlines()]
    assert not any(one["id"].startswith(("MMVP", "VSR")) for one in failed)


def test_an_unreadable_picture_leaves_its_group_out_and_is_written_down(run: Any, first: dict[int, Metrics]) -> None:
    assert sum(values["training/failed_prompts"] for values in first.values()) == 1
    (line,) = (run.folder / "checkpoints/failed_prompts.jsonl").read_text().splitlines()
    failure = json.loads(line)
    assert "cannot be decoded" in failure["reason"]
    assert failure["epoch"] == 0


@pytest.fixture(scope="module")
def later(run: Any, first: dict[int, Metrics]) -> dict[int, Metrics]:
    """A fourth step, of a new start with verl's own engine."""
    assert last_whole(run.folder / "checkpoints") == run.folder / "checkpoints/global_step_3"
    return run.train(4, *_of_data(run), "actor_rollout_ref.model.external_lib=null")


def test_the_packed_engine_tells_what_verls_own_does(
    run: Any, first: dict[int, Metrics], later: dict[int, Metrics]
) -> None:
    assert "PackedQwen" in (run.folder / "verl.log").read_text()
    assert later[4]["training/rollout_probs_diff_max"] < 1e-3
    # What is told of the log-prob pass alone goes with it, where it says nothing.
    gone = {name for name in later[4].keys() ^ first[3].keys() if not name.startswith(("rollout_corr/", "val-"))}
    assert gone == {"perf/mfu/actor"}
    assert first[3]["timing_s/old_log_prob"] < 0.1 < later[4]["timing_s/old_log_prob"]


def test_a_new_start_goes_on_in_the_mixture(run: Any, first: dict[int, Metrics], later: dict[int, Metrics]) -> None:
    assert list(later) == [4]
    for step, values in {**first, **later}.items():
        drawn, trained_on = _drawn(run, step), _trained_on(run, step)
        assert trained_on <= drawn
        assert (drawn - trained_on).total() == values["training/failed_prompts"]


def test_loggers_that_need_no_network_write_beside_it(run: Any, first: dict[int, Metrics]) -> None:
    events = EventAccumulator(str(run.folder / "tensorboard")).Reload()
    logged = {scalar.step: scalar.value for scalar in events.Scalars("reward/exact")}
    assert logged == pytest.approx({step: values["reward/exact"] for step, values in first.items()})
    assert list((run.folder / "wandb").glob("offline-run-*/*.wandb"))


def test_a_kept_reply_says_its_row_its_answer_and_its_score(run: Any, first: dict[int, Metrics]) -> None:
    rows = {row["extra_info"]["id"]: row for row in pq.read_table(run.folder / "data/train.parquet").to_pylist()}
    lines = _kept(run, 1)
    assert [int(line["uid"].split("_")[1]) for line in lines[:8]] == [0, 1, 2, 3] * 2  # in the order of the data
    for line in lines:
        row = rows[line["id"]]
        assert (line["data_source"], line["task"], line["epoch"]) == (row["data_source"], "image", 0)
        scored = compute_score(line["data_source"], line["output"], line["gts"], {"answer_format": "answer_tag"})
        assert scored["score"] == pytest.approx(line["score"])
        assert line["exact"] == scored["exact"]
        assert line["answer"] is None or sorted(line["answer"]) == sorted("1, 2, 3, 4")


def test_a_checkpoint_merges_and_reloads(run: Any, later: dict[int, Metrics]) -> None:
    merged = run.folder / "merged"
    checkpoint = last_whole(run.folder / "checkpoints")
    assert checkpoint == run.folder / "checkpoints/global_step_4"
    command = [sys.executable, "-c", "from jigsaw.cli import main; main()", "merge", checkpoint, merged]
    users = run.folder / "merged.log"
    users.write_text("the user's")
    subprocess.run(command, check=True)
    assert users.read_text() == "the user's"
    assert (merged / "preprocessor_config.json").is_file() or (merged / "processor_config.json").is_file()

    AutoProcessor.from_pretrained(merged)
    loaded = AutoModelForImageTextToText.from_pretrained(merged, dtype=torch.float32).state_dict()
    shard = torch.load(checkpoint / "actor/model_world_size_1_rank_0.pt", weights_only=False)
    for name, value in shard.items():
        full = value.full_tensor() if hasattr(value, "full_tensor") else value
        assert torch.equal(loaded[name].bfloat16(), full.bfloat16()), name  # verl's merger rounds to bfloat16


@pytest.mark.slow("training")
def test_too_many_unreadable_pictures_stop_the_run_with_one_line(run: Any, first: dict[int, Metrics]) -> None:
    for picture in sorted(run.media_root.iterdir())[::2]:
        picture.write_bytes(b"")
    with pytest.raises(JigsawError, match=r"prompts failed, more than max_failed_share"):
        run.train(8, *_of_data(run))
