"""A run that is stopped and killed again and again ends with the weights of one that nothing disturbed."""

import os
import random
import re
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

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(3000)]
SLOW = pytest.mark.slow("faults")

STEPS = 40
SAVES_EVERY = 2
VICTIMS = ("driver", "ray::WorkerDict", "ray::AgentLoopWorkerTQ", "ray::vLLMHttpServer", "ray::TransferQueueController")
"""How the commands of processes begin that are killed: each once at random, and once while a checkpoint is saved."""
FAULTS = 2 * len(VICTIMS) + 1
"""With a rank that hangs, the last one."""


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

    def weights(self, step: int = STEPS) -> dict[str, torch.Tensor]:
        shard = torch.load(self.folder / f"global_step_{step}/actor/model_world_size_1_rank_0.pt", weights_only=False)
        return {name: value.full_tensor() if hasattr(value, "full_tensor") else value for name, value in shard.items()}


def _command(folder: Path, root: Path, model: Path, *overrides: str) -> list[str]:
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
        *overrides,
    ]


def _below(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _find(supervisor: psutil.Process, name: str) -> psutil.Process:
    """A running process of a run by how its command begins, which Ray writes anew with each call."""
    for _ in range(100):
        for process in _below(supervisor):
            try:
                command = " ".join(process.cmdline())
                if command.startswith(name) or (name == "driver" and process.ppid() == supervisor.pid):
                    return process
            except psutil.NoSuchProcess:
                continue
        time.sleep(0.1)
    raise AssertionError(f"{name} is not among {[process.name() for process in _below(supervisor)]}")


def _steps(folder: Path) -> int:
    """The number of lines that all starts have written."""
    return sum(file.read_bytes().count(b"\n") for file in (folder / "metrics").glob("*.jsonl"))


def _left(folder: Path) -> list[psutil.Process]:
    """The processes of a run."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(folder) in process.environ().get("JIGSAW_RUN", ""):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def _disturb(supervisor: psutil.Process, folder: Path, done: list[str]) -> None:
    """One fault after the other, each some steps after the last; by this seed some steps are not saved yet."""
    draw = random.Random(1)
    for number, victim in enumerate([*VICTIMS, *VICTIMS]):
        seen, steps = _steps(folder), draw.randint(1, 3)
        while _steps(folder) < seen + steps:
            time.sleep(0.1)
        if number < len(VICTIMS):
            time.sleep(draw.uniform(0, 2))
        else:
            since = time.time()
            while not _is_saving(folder, since):
                time.sleep(0.002)
        _find(supervisor, victim).kill()
        done.append(victim)
    seen = _steps(folder)
    while _steps(folder) < seen + 2:
        time.sleep(0.1)
    _find(supervisor, "ray::WorkerDict").suspend()
    done.append("hang")


def _is_saving(folder: Path, since: float) -> bool:
    """Whether a checkpoint's first files have been written since then, and its last has not."""

    def written(file: Path) -> bool:
        return file.exists() and file.stat().st_mtime >= since

    return any(
        any(map(written, checkpoint.glob("actor/*.pt"))) and not written(checkpoint / "data.pt")
        for checkpoint in folder.glob("global_step_*")
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of scenes and rows."""
    folder = tmp_path_factory.mktemp("faults")
    write_scenes(folder / "scenes", 48, seed=3)
    prepare_rows(
        folder / "scenes", folder / "rows", ImageOptions(grid=(2, 2), val=8), progress=lambda done, total: None
    )
    return folder


@SLOW
def test_a_killed_rank_and_a_killed_driver_change_no_weights_and_the_restarts_end(root: Path, tiny_model: Path) -> None:
    folder, steps = root / "short", ["trainer.total_training_steps=3", "trainer.save_freq=1"]
    calm = Trained(root / "short_calm", _command(root / "short_calm", root, tiny_model, *steps), [], "")
    subprocess.run(calm.command, check=True)

    def disturb(supervisor: psutil.Process) -> None:
        for step, victim in enumerate(("ray::WorkerDict", "driver"), 1):
            while _steps(folder) < step:
                time.sleep(0.1)
            _find(supervisor, victim).kill()

    code, said = _run([*_command(folder, root, tiny_model, *steps), "--restarts=1"], disturb)
    disturbed = Trained(folder, [], [code], said)
    told = [line for line in said.splitlines() if line.startswith(("restart ", "error: the trainer "))]
    assert len(told) == 2
    assert told[0].startswith("restart 1 of 1: the trainer ended with exit code 1 after step 1; goes on from global_")
    assert told[1].startswith("error: the trainer ended by signal 9 after step 2; all restarts are used (1); the same")
    assert code == 128 + signal.SIGKILL
    assert [list(start) for start in disturbed.log()] == [[1], [2]]
    one, two = calm.weights(2), disturbed.weights(2)
    assert [name for name in one if not torch.equal(one[name], two[name])] == []
    start = calm.weights(3)
    assert [name for name in one if not torch.equal(one[name], start[name])] != []  # its steps move weights
    assert _left(folder) == []


@pytest.fixture(scope="module")
def runs(root: Path, tiny_model: Path) -> dict[str, Trained]:
    """One run that nothing disturbs, and one that is stopped by SIGTERM, then started with restarts and killed."""
    calm, disturbed = root / "calm", root / "disturbed"
    undisturbed = subprocess.run(_command(calm, root, tiny_model), check=False)
    command = _command(disturbed, root, tiny_model)
    stopped = _run(command, lambda process: _stop(process, disturbed))
    done: list[str] = []
    limits = [f"--restarts={FAULTS}", "--hang-limit=0.5"]
    restarted = _run([*command, *limits], lambda process: _disturb(process, disturbed, done))
    assert len(done) == FAULTS
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


@SLOW
def test_sigterm_ends_a_run_with_its_step_saved(runs: dict[str, Trained]) -> None:
    first, said = runs["disturbed"].log()[0], runs["disturbed"].said
    assert runs["disturbed"].codes[0] == STOPPED
    last = max(first)
    assert f"error: stopped by SIGTERM after step {last} of {STEPS}; it is saved as global_step_{last}\n" in said


@SLOW
def test_each_fault_is_told_and_costs_no_more_than_the_steps_since_the_last_save(runs: dict[str, Trained]) -> None:
    disturbed = runs["disturbed"]
    assert disturbed.codes[1] == 0
    restarts = [line for line in disturbed.said.splitlines() if line.startswith("restart ")]
    starts = disturbed.log()
    assert len(restarts) == FAULTS - 2  # a new agent-loop worker needs no new start
    assert re.search(r"the trainer hung, made no step within \d+ s, and was ended after step \d+", restarts[-1])
    assert len(starts) == len(restarts) + 2
    for before, after in pairwise(starts):
        assert 0 <= max(before) + 1 - min(after) <= SAVES_EVERY


@SLOW
def test_the_log_of_all_starts_has_no_hole_and_no_repeat(runs: dict[str, Trained]) -> None:
    files = sorted((runs["disturbed"].folder / "metrics").glob("*.jsonl"))
    joined, calm = read_metrics(files), runs["calm"].log()[0]
    assert list(joined) == list(calm) == list(range(1, STEPS + 1))
    for name in ("critic/score/mean", "actor/grad_norm", "actor/entropy"):
        assert [values[name] for values in joined.values()] == [values[name] for values in calm.values()]


@SLOW
def test_the_weights_are_those_of_a_run_that_nothing_disturbed(runs: dict[str, Trained]) -> None:
    assert runs["calm"].codes == [0]
    one, two = runs["calm"].weights(), runs["disturbed"].weights()
    assert one.keys() == two.keys()
    assert [name for name in one if not torch.equal(one[name], two[name])] == []


@SLOW
def test_nothing_is_left(runs: dict[str, Trained]) -> None:
    folder = runs["disturbed"].folder
    assert last_whole(folder) == folder / f"global_step_{STEPS}"
    assert _left(folder) == []


@SLOW
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


@SLOW
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
