"""A run that is stopped and killed again and again ends with the weights of one that nothing disturbed."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from jigsaw.errors import JigsawError
from jigsaw.prepare.images import ImageOptions
from jigsaw.prepare.pipeline import prepare_rows
from jigsaw.show.training import Metrics, read_metrics
from jigsaw.toy.scenes import write_scenes
from jigsaw.verl_plugin.checkpoint import last_whole
from jigsaw.verl_plugin.stop import STOPPED

pytestmark = [pytest.mark.e2e, pytest.mark.slow("faults"), pytest.mark.timeout(3000)]

STEPS = 20
SAVES_EVERY = 2
VICTIMS = ("driver", "ray::WorkerDict", "ray::AgentLoopWorkerTQ", "ray::vLLMHttpServer", "ray::TransferQueueController")
"""How the commands of processes begin that are killed, in this order."""


@dataclass
class Trained:
    """A run's folder, and how its starts ended."""

    folder: Path
    command: list[str]
    codes: list[int]
    said: str

    def log(self) -> list[dict[int, Metrics]]:
        """The metrics of each start."""
        return [read_metrics([file]) for file in sorted((self.folder / "metrics").glob("*.jsonl"))]

    def weights(self) -> dict[str, torch.Tensor]:
        shard = torch.load(self.folder / f"global_step_{STEPS}/actor/model_world_size_1_rank_0.pt", weights_only=False)
        return {name: value.full_tensor() if hasattr(value, "full_tensor") else value for name, value in shard.items()}


def _command(folder: Path, root: Path, model: Path) -> list[str]:
    train = ["-c", "from jigsaw.cli import main; main()", "train", "quickstart"]
    return [
        sys.executable,
        *train,
        f"data.train_files={root}/rows/train.parquet",
        f"data.val_files={root}/rows/val.parquet",
        f"data.media_root={root}/scenes",
        "data.train_batch_size=8",
        "actor_rollout_ref.rollout.n=4",
        f"actor_rollout_ref.model.path={model}",
        f"reward.custom_reward_function.path={Path(__file__).with_name('some_reward.py')}",
        f"trainer.total_training_steps={STEPS}",
        f"trainer.default_local_dir={folder}",
        f"hydra.run.dir={folder}/hydra",
        "trainer.val_before_train=false",
        "trainer.test_freq=-1",
        f"trainer.save_freq={SAVES_EVERY}",
    ]


def _below(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _find(supervisor: psutil.Process, name: str) -> psutil.Process | None:
    """A running process of a run by how its command begins."""
    for process in _below(supervisor):
        try:
            command = " ".join(process.cmdline())
            if command.startswith(name) or (name == "driver" and process.ppid() == supervisor.pid):
                return process
        except psutil.NoSuchProcess:
            continue
    return None


def _steps(folder: Path) -> int:
    """The number of lines that all starts have written."""
    return sum(file.read_bytes().count(b"\n") for file in (folder / "metrics").glob("*.jsonl"))


def _kill_all(supervisor: psutil.Process, folder: Path, killed: list[str]) -> None:
    """Kill one after the other, each some steps after the last; by this seed some steps are not saved yet."""
    draw = random.Random(1)
    for victim in VICTIMS:
        seen, steps = _steps(folder), draw.randint(1, 3)
        while _steps(folder) < seen + steps:
            time.sleep(0.1)
        time.sleep(draw.uniform(0, 2))
        process = _find(supervisor, victim)
        assert process is not None, victim
        process.kill()
        killed.append(victim)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, Trained]:
    """One run that nothing disturbs, and one that is stopped by SIGTERM, then started with restarts and killed."""
    root = tmp_path_factory.mktemp("faults")
    write_scenes(root / "scenes", 48, seed=3)
    prepare_rows(root / "scenes", root / "rows", ImageOptions(grid=(2, 2), val=8), progress=lambda done, total: None)
    calm, disturbed = root / "calm", root / "disturbed"
    undisturbed = subprocess.run(_command(calm, root, tiny_model), check=False)
    command = _command(disturbed, root, tiny_model)
    stopped = _run(command, lambda process: _stop(process, disturbed))
    killed: list[str] = []
    restarted = _run([*command, f"--restarts={len(VICTIMS)}"], lambda process: _kill_all(process, disturbed, killed))
    assert killed == list(VICTIMS)
    return {
        "calm": Trained(calm, _command(calm, root, tiny_model), [undisturbed.returncode], ""),
        "disturbed": Trained(disturbed, command, [stopped[0], restarted[0]], stopped[1] + restarted[1]),
    }


def _stop(driver: psutil.Process, folder: Path) -> None:
    while _steps(folder) < SAVES_EVERY:  # so that the step that runs then would not be saved otherwise
        time.sleep(0.1)
    driver.send_signal(signal.SIGTERM)


def _run(command: list[str], disturb: Callable[[psutil.Process], Any]) -> tuple[int, str]:
    """Exit code and stderr of a command that is disturbed while it runs."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    threading.Thread(target=disturb, args=(psutil.Process(process.pid),), daemon=True).start()
    _, said = process.communicate()
    print(said, file=sys.stderr)
    return process.returncode, said


def test_sigterm_ends_a_run_with_its_step_saved(runs: dict[str, Trained]) -> None:
    first, said = runs["disturbed"].log()[0], runs["disturbed"].said
    assert runs["disturbed"].codes[0] == STOPPED
    last = max(first)
    assert f"error: stopped by SIGTERM after step {last} of {STEPS}; it is saved as global_step_{last}\n" in said


def test_each_fault_is_told_and_costs_no_more_than_the_steps_since_the_last_save(runs: dict[str, Trained]) -> None:
    disturbed = runs["disturbed"]
    assert disturbed.codes[1] == 0
    restarts = [line for line in disturbed.said.splitlines() if line.startswith("restart ")]
    starts = disturbed.log()
    assert len(restarts) == len(VICTIMS) - 1  # a new agent-loop worker needs no new start
    assert len(starts) == len(restarts) + 2
    for before, after in pairwise(starts):
        assert 0 <= max(before) + 1 - min(after) <= SAVES_EVERY


def test_the_log_of_all_starts_has_no_hole_and_no_repeat(runs: dict[str, Trained]) -> None:
    files = sorted((runs["disturbed"].folder / "metrics").glob("*.jsonl"))
    joined, calm = read_metrics(files), runs["calm"].log()[0]
    assert list(joined) == list(calm) == list(range(1, STEPS + 1))
    for name in ("critic/score/mean", "actor/grad_norm", "actor/entropy"):
        assert [values[name] for values in joined.values()] == [values[name] for values in calm.values()]


def test_the_weights_are_those_of_a_run_that_nothing_disturbed(runs: dict[str, Trained]) -> None:
    assert runs["calm"].codes == [0]
    one, two = runs["calm"].weights(), runs["disturbed"].weights()
    assert one.keys() == two.keys()
    assert [name for name in one if not torch.equal(one[name], two[name])] == []


def test_nothing_is_left(runs: dict[str, Trained]) -> None:
    folder = runs["disturbed"].folder
    assert last_whole(folder) == folder / f"global_step_{STEPS}"
    for process in psutil.process_iter():
        try:
            assert str(folder) not in process.environ().get("JIGSAW_RUN", "")
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue


def test_a_broken_shard_is_one_line(runs: dict[str, Trained]) -> None:
    calm = runs["calm"]
    folder = calm.folder / f"global_step_{STEPS}"
    shard = folder / "actor/model_world_size_1_rank_0.pt"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    try:
        code, said = _run([*calm.command, f"trainer.total_training_steps={STEPS + 1}"], lambda process: None)
    finally:
        shard.write_bytes(whole)
    assert code == 1
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: {folder}: cannot be loaded (")
    assert line.endswith(f"moved away, the run goes on from global_step_{STEPS - SAVES_EVERY}")


@pytest.mark.skipif(os.geteuid() != 0, reason="a small disk is mounted")
def test_a_full_disk_is_one_line_and_the_last_whole_checkpoint_stays(
    runs: dict[str, Trained], make_run: Callable[..., Any], tmp_path: Path
) -> None:
    root = runs["calm"].folder.parent
    (tmp_path / "data").symlink_to(root / "rows")
    disk = tmp_path / "checkpoints"
    disk.mkdir()
    taken = sum(file.stat().st_size for file in (runs["calm"].folder / f"global_step_{STEPS}").rglob("*"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={taken * 3 // 2}", "none", disk], check=True)
    try:
        with pytest.raises(JigsawError, match=r"global_step_2: could not be saved \(.*goes on from global_step_1 \("):
            make_run(tmp_path, root / "scenes").train(3, "trainer.test_freq=-1")
        assert sorted(path.name for path in disk.glob("global_step_*")) == ["global_step_1"]
        assert last_whole(disk) == disk / "global_step_1"
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)
