"""Two nodes of Ray train as two ranks on one: real steps, by ``jigsaw train``; and as a job of Ray's."""

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pytest
import torch

from jigsaw.prepare.images import ImageOptions
from jigsaw.prepare.pipeline import prepare_rows
from jigsaw.show.training import Metrics, read_metrics
from jigsaw.toy.scenes import write_scenes

pytestmark = [pytest.mark.e2e, pytest.mark.slow("cluster"), pytest.mark.timeout(1800)]

STEPS = 3
BIN = Path(sys.executable).parent
RAY = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
NODE = ("--num-cpus=16", "--num-gpus=1", "--object-store-memory=300000000")
"""Of ``ray start``, as configs/machine/cpu_cluster.yaml says."""


class Trained(NamedTuple):
    """A run that ended: its steps' metrics, its replies as verl writes them, its weights."""

    metrics: dict[int, Metrics]
    replies: list[dict[str, Any]]
    weights: dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def overrides(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> list[str]:
    """What both runs have in common: a tiny model, and steps with gradients."""
    folder = tmp_path_factory.mktemp("rows")
    write_scenes(folder / "scenes", 40, seed=3)
    prepare_rows(folder / "scenes", folder / "rows", ImageOptions(grid=(2, 2), val=8), progress=lambda *_: None)
    return [
        f"data.train_files={folder}/rows/train.parquet",
        f"data.val_files={folder}/rows/val.parquet",
        f"data.media_root={folder}/scenes",
        "data.train_batch_size=8",
        "actor_rollout_ref.rollout.n=4",
        "actor_rollout_ref.rollout.agent.num_workers=2",
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=16",
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=16",
        f"actor_rollout_ref.model.path={tiny_model}",
        f"reward.custom_reward_function.path={Path(__file__).with_name('where_reward.py')}",
        f"trainer.total_training_steps={STEPS}",
        "trainer.val_before_train=false",
        "trainer.test_freq=-1",
        f"trainer.save_freq={STEPS}",
    ]


def _places(run: Path) -> list[str]:
    return [
        f"hydra.run.dir={run}/hydra",
        f"trainer.default_local_dir={run}/checkpoints",
        f"trainer.rollout_data_dir={run}/replies",
        "trainer.rollout_freq=1",
        "trainer.rollout_prompts=8",
    ]


def _read(run: Path) -> Trained:
    replies = [json.loads(line) for file in (run / "replies").glob("*.jsonl") for line in file.read_text().splitlines()]
    weights: dict[str, torch.Tensor] = {}
    for rank in range(2):
        shard = run / f"checkpoints/global_step_{STEPS}/actor/model_world_size_2_rank_{rank}.pt"
        for name, value in torch.load(shard, weights_only=False).items():
            weights[f"{name} {rank}"] = value.to_local() if hasattr(value, "to_local") else value
    return Trained(read_metrics((run / "checkpoints/metrics").glob("*.jsonl")), replies, weights)


@pytest.fixture(scope="module")
def one_node(machines: Any, overrides: list[str], tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Two ranks on one machine, in a Ray of their own."""
    run = tmp_path_factory.mktemp("one")
    given = [*overrides, *_places(run), "trainer.n_gpus_per_node=2"]
    machines[0].run(BIN / "jigsaw", "train", "quickstart", *given, log=run / "log", **RAY)
    return _read(run)


@pytest.fixture(scope="module")
def ray_of_two(machines: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Ray that is started on both machines as docs/cluster.md says."""
    head, other = machines
    logs = tmp_path_factory.mktemp("ray")
    with TemporaryDirectory(prefix="ray") as folder:  # by the usual one, others on this machine would find and join it
        start = [BIN / "ray", "start", *NODE]
        head.run(*start, "--head", "--port=6379", f"--temp-dir={folder}", log=logs / "head", **RAY)
        other.run(*start, f"--address={head.address}:6379", log=logs / "other", **RAY)
        yield f"{head.address}:6379"


@pytest.fixture(scope="module")
def two_nodes(
    machines: Any, ray_of_two: str, overrides: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Trained:
    """A rank on each of two machines."""
    run = tmp_path_factory.mktemp("two")
    given = [*overrides, *_places(run), "machine=cpu_cluster", f"ray_kwargs.ray_init.address={ray_of_two}"]
    machines[0].run(BIN / "jigsaw", "train", "quickstart", *given, log=run / "log", **RAY)
    return _read(run)


def test_steps_have_gradients_and_rollout_and_trainer_agree(two_nodes: Trained) -> None:
    assert sorted(two_nodes.metrics) == list(range(1, STEPS + 1))
    for values in two_nodes.metrics.values():
        assert values["actor/grad_norm"] > 0
        assert values["training/rollout_probs_diff_max"] <= 1e-3


def test_puzzles_are_built_on_both(machines: Any, two_nodes: Trained) -> None:
    """The one of a worker is built where its responses are scored."""
    responses = Counter(reply["node"] for reply in two_nodes.replies)
    numbers = [float(machine.address.rpartition(".")[2]) for machine in machines]
    assert responses == dict.fromkeys(numbers, STEPS * 8 * 4 // 2)


def test_the_data_come_in_the_same_order_and_get_the_same_replies(one_node: Trained, two_nodes: Trained) -> None:
    def by_step(run: Trained) -> list[tuple[Any, ...]]:
        return sorted(
            tuple(reply[name] for name in ("step", "id", "epoch", "input", "output", "score")) for reply in run.replies
        )

    assert len(by_step(one_node)) == STEPS * 8 * 4
    assert by_step(one_node) == by_step(two_nodes)


def test_weights_are_the_same_but_for_rounding(one_node: Trained, two_nodes: Trained) -> None:
    assert one_node.weights.keys() == two_nodes.weights.keys()
    for name, weight in one_node.weights.items():
        torch.testing.assert_close(two_nodes.weights[name], weight, rtol=0, atol=1e-6, msg=name)


def test_a_job_of_rays_trains(machines: Any, ray_of_two: str, overrides: list[str], tmp_path: Path) -> None:
    """The command of docs/cluster.md; verl finds the cluster by what Ray tells its jobs."""
    few = ["trainer.total_training_steps=1", "trainer.save_freq=-1"]
    given = [*overrides, *_places(tmp_path), "machine=cpu_cluster", *few]
    submit = [BIN / "ray", "job", "submit", "--address=http://127.0.0.1:8265", "--"]
    machines[0].run(*submit, BIN / "jigsaw", "train", "quickstart", *given, log=tmp_path / "log", **RAY)
    assert "succeeded" in (tmp_path / "log").read_text()
    assert sorted(read_metrics((tmp_path / "checkpoints/metrics").glob("*.jsonl"))) == [1]


def test_a_run_goes_on_when_a_node_that_was_lost_is_back(
    machines: Any, ray_of_two: str, overrides: list[str], two_nodes: Trained, tmp_path: Path
) -> None:
    head, other = machines
    given = [*overrides, *_places(tmp_path), "machine=cpu_cluster", f"ray_kwargs.ray_init.address={ray_of_two}"]
    log = tmp_path / "log"
    command = [BIN / "jigsaw", "train", "quickstart", *given, "trainer.save_freq=1", "--restarts=1"]
    run = head.start(*command, log=log, **RAY)
    while not read_metrics((tmp_path / "checkpoints/metrics").glob("*.jsonl")):
        assert run.poll() is None, log.read_text()[-4000:]
        time.sleep(0.2)
    for process in other.all():
        if process.pid != other.holder:
            process.kill()
    other.run(BIN / "ray", "start", *NODE, f"--address={ray_of_two}", log=tmp_path / "again", **RAY)
    assert run.wait() == 0, log.read_text()[-4000:]
    assert "restart 1 of 1: the trainer ended with exit code 1 after step " in log.read_text()
    again = _read(tmp_path)
    assert sorted(again.metrics) == list(range(1, STEPS + 1))
    for name, weight in two_nodes.weights.items():
        torch.testing.assert_close(again.weights[name], weight, rtol=0, atol=1e-6, msg=name)
