"""The same start gives the same run, bit for bit: replies, metrics and weights; also when it is resumed."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from jigsaw.prepare.images import ImageOptions
from jigsaw.prepare.pipeline import prepare_rows
from jigsaw.show.training import Metrics
from jigsaw.toy.scenes import write_scenes

pytestmark = [pytest.mark.e2e, pytest.mark.slow("training"), pytest.mark.timeout(1500)]

STEPS = 4
DIFFER = ("timing", "perf/", "time", "memory", "throughput", "mfu")
"""In the names of metrics that may differ."""


@pytest.fixture(scope="module")
def starts(
    tmp_path_factory: pytest.TempPathFactory, make_run: Any, model_of_family: Path
) -> dict[str, tuple[Any, Any]]:
    """Two runs of the same settings, and one that was stopped half way and started again; with metrics by step."""
    folder = tmp_path_factory.mktemp("same")
    scenes = folder / "scenes"
    write_scenes(scenes, 40, seed=3)
    prepare_rows(scenes, folder / "rows", ImageOptions(grid=(2, 2), val=8), progress=lambda done, total: None)
    found = {}
    for name, stops in (("one", (STEPS,)), ("other", (STEPS,)), ("resumed", (STEPS // 2, STEPS))):
        (folder / name).mkdir()
        (folder / name / "data").symlink_to(folder / "rows")
        run = make_run(folder / name, scenes, model_of_family)
        metrics: dict[int, Metrics] = {}
        for stop in stops:
            kept = [f"trainer.{which}_data_dir={folder / name / which}" for which in ("rollout", "validation")]
            metrics |= run.train(stop, "data.epochs=2", *kept, some_reward=True)
        found[name] = run, metrics
    return found


@pytest.mark.parametrize("other", ["other", "resumed"])
def test_metrics_are_the_same(starts: dict[str, Any], other: str) -> None:
    (_, one), (_, two) = starts["one"], starts[other]
    assert sorted(one) == sorted(two) == list(range(1, STEPS + 1))
    for step, values in one.items():
        same = {name: value for name, value in values.items() if not any(part in name for part in DIFFER)}
        assert len(same) > 40
        assert {name: two[step][name] for name in same} == same, step


@pytest.mark.parametrize("other", ["other", "resumed"])
@pytest.mark.parametrize("which", ["rollout", "validation"])
def test_replies_are_the_same(starts: dict[str, Any], other: str, which: str) -> None:
    one, two = (_replies(starts[name][0].folder / which) for name in ("one", other))
    assert one == two
    assert len({line for lines in one.values() for line in lines}) > 10


@pytest.mark.parametrize("other", ["other", "resumed"])
def test_weights_are_the_same(starts: dict[str, Any], other: str) -> None:
    one, two = (_weights(starts[name][0].folder) for name in ("one", other))
    assert one.keys() == two.keys()
    assert [name for name in one if not torch.equal(one[name], two[name])] == []


def _replies(folder: Path) -> dict[str, list[str]]:
    """By step, what was asked, said and scored; verl sorts its file by names that it draws anew in each run."""
    kept = ("input", "output", "gts", "score", "step")
    return {
        file.stem: sorted(
            json.dumps([line[name] for name in kept]) for line in map(json.loads, file.read_text().splitlines())
        )
        for file in sorted(folder.glob("*.jsonl"))
    }


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    shard = torch.load(
        folder / f"checkpoints/global_step_{STEPS}/actor/model_world_size_1_rank_0.pt", weights_only=False
    )
    return {name: value.full_tensor() if hasattr(value, "full_tensor") else value for name, value in shard.items()}
