"""A run whose processes are killed goes on, or ends in one line; it never waits for ever."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from jigsaw.errors import JigsawError
from jigsaw.prepare.images import ImageOptions
from jigsaw.prepare.pipeline import prepare_rows
from jigsaw.processes import processes_of
from jigsaw.show.training import Metrics, read_metrics
from jigsaw.toy.scenes import write_scenes
from jigsaw.verl_plugin.checkpoint import last_whole

pytestmark = [pytest.mark.e2e, pytest.mark.slow("faults"), pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("killed")


def _kill(folder: Path, name: str, ready: Callable[[psutil.Process], Any]) -> None:
    """Kill the process of a run whose command begins so, as soon as it is ready."""
    while True:
        for process in processes_of(folder):
            try:
                if " ".join(process.cmdline()).startswith(name) and ready(process):
                    return process.kill()
            except psutil.NoSuchProcess:
                continue
        time.sleep(0.02)


@pytest.fixture(scope="module")
def ended(folder: Path, make_run: Callable[..., Any]) -> str:
    """How a run ends whose worker is killed in its first step, at its first prompt, and its server in the second."""
    write_scenes(folder / "scenes", 8, seed=3)
    prepare_rows(
        folder / "scenes", folder / "data", ImageOptions(grid=(2, 1), val=2), progress=lambda done, total: None
    )

    def kill() -> None:
        _kill(folder, "ray::AgentLoopWorkerTQ", lambda worker: worker.children())  # its reader
        _kill(folder, "ray::vLLMHttpServer", lambda server: _metrics(folder, 3))

    return _ended(folder, make_run, 3, kill)


def _ended(folder: Path, make_run: Callable[..., Any], steps: int, kill: Callable[[], None]) -> str:
    """The error of a run during which something is killed."""
    run = make_run(folder, folder / "scenes")
    threading.Thread(target=kill, daemon=True).start()
    with pytest.raises(JigsawError) as stopped:
        run.train(
            steps,
            "data.train_batch_size=4",
            "actor_rollout_ref.rollout.n=2",
            "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=8",
            "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=8",
            "data.max_response_length=4",
            "trainer.test_freq=-1",
        )
    assert processes_of(folder) == []
    return str(stopped.value)


def _metrics(folder: Path, steps: int) -> dict[int, Metrics]:
    return read_metrics([folder / f"metrics-{steps}.jsonl"])


def test_a_worker_that_is_killed_costs_no_prompt(ended: str, folder: Path) -> None:
    steps = _metrics(folder, 3)
    assert list(steps) == [1]
    assert steps[1]["training/failed_prompts"] == 0
    assert steps[1]["training/prompts/image"] == 4


def test_a_server_that_is_killed_ends_the_run_in_one_line_to_go_on_from(ended: str, folder: Path) -> None:
    assert "\n" not in ended
    assert ended.startswith("training stopped: all 4 prompts of a batch failed; failed_prompts.jsonl")
    assert last_whole(folder / "checkpoints") == folder / "checkpoints/global_step_1"


def test_a_queue_that_is_killed_ends_the_run_in_one_line(
    ended: str, folder: Path, make_run: Callable[..., Any]
) -> None:
    """Whose first step the run before has saved."""

    def kill() -> None:
        _kill(folder, "ray::TransferQueueController", lambda controller: _metrics(folder, 4))

    said = _ended(folder, make_run, 4, kill)
    assert "\n" not in said
    assert said.startswith("training stopped: TransferQueue's controller died")
    assert last_whole(folder / "checkpoints") == folder / "checkpoints/global_step_2"
