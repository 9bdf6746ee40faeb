"""Restarts, by a stand-in for the trainer: what ends it, what is told, what is left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from jigsaw.errors import JigsawError
from jigsaw.processes import processes_of
from jigsaw.verl_plugin.checkpoint import MARKER
from jigsaw.verl_plugin.stop import STOP, STOPPED, end_with_the_supervisor, is_asked, stop_by_sigterm
from jigsaw.verl_plugin.supervisor import TRAINED, Limits, Progress, Supervisor

pytestmark = pytest.mark.seconds

_TRAINER = f"""
import json, os, signal, subprocess, sys, time

def step(number):
    with open(sys.argv[1], "a") as file:
        print(json.dumps({{"step": number, "data": {{"{TRAINED}": number}}}}), file=file)

def supervisor(number):
    os.kill(os.getppid(), number)

"""


@dataclass
class Start:
    """A start whose trainer is a few lines of Python."""

    command: list[str]
    metrics: Path


@dataclass
class Run:
    """A run whose starts do one thing after the other; the last again and again."""

    folder: Path
    scripts: list[str]
    starts: int = 0

    def start(self) -> Start:
        script = self.scripts[min(self.starts, len(self.scripts) - 1)]
        self.starts += 1
        metrics = self.folder / f"metrics-{self.starts}.jsonl"
        return Start([sys.executable, "-c", _TRAINER + script, str(metrics)], metrics)

    def train(self, restarts: int, **limits: float) -> int:
        """The exit code; nothing of the run is left then."""
        supervisor = Supervisor(self.start, self.folder, Limits(restarts, **limits))
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
        code = supervisor.run(self.start())
        assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
        assert processes_of(supervisor._mark) == []
        return code


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Run]:
    return lambda *scripts: Run(tmp_path, list(scripts))


def checkpoint(folder: Path, step: int) -> None:
    for part in ("actor", MARKER):
        (folder / f"global_step_{step}" / part).mkdir(parents=True)


def test_a_run_without_a_fault_starts_once(run: Callable[..., Run], capfd: pytest.CaptureFixture[str]) -> None:
    trained = run("step(1); print('of the trainer')")
    assert trained.train(3) == 0
    assert trained.starts == 1
    assert capfd.readouterr() == ("of the trainer\n", "")


def test_a_fault_is_told_and_the_run_goes_on(run: Callable[..., Run], capfd: pytest.CaptureFixture[str]) -> None:
    trained = run(
        "step(13); step(14); os.kill(os.getpid(), 9)", "step(13); step(14); step(15); sys.exit(1)", "step(16)"
    )
    checkpoint(trained.folder, 12)
    assert trained.train(5) == 0
    assert capfd.readouterr().err.splitlines() == [
        "restart 1 of 5: the trainer ended by signal 9 after step 14; goes on from global_step_12",
        "restart 2 of 5: the trainer ended with exit code 1 after step 15; goes on from global_step_12",
    ]


def test_when_the_restarts_are_used_the_trainers_code_is_the_runs(
    run: Callable[..., Run], capfd: pytest.CaptureFixture[str]
) -> None:
    trained = run("step(1); sys.exit(7)")
    assert trained.train(2) == 7
    assert trained.starts == 3
    assert capfd.readouterr().err.splitlines()[-1] == (
        "error: the trainer ended with exit code 7 after step 1; all restarts are used (2); the same command goes on "
        "from the beginning"
    )
    assert run("step(1); os.kill(os.getpid(), 9)").train(1) == 137


def test_a_start_that_ends_twice_alike_without_a_step_is_not_tried_again(
    run: Callable[..., Run], capfd: pytest.CaptureFixture[str]
) -> None:
    trained = run("step(1); sys.exit(1)", "sys.exit(1)")
    assert trained.train(9) == 1
    assert trained.starts == 3
    assert "twice alike and without a step, so it is not tried again" in capfd.readouterr().err
    assert run("sys.exit(1)", "sys.exit(2)", "sys.exit(1)", "step(1)").train(9) == 0


def test_what_stands_against_a_restart_is_waited_for_and_then_said(run: Callable[..., Run]) -> None:
    trained = run("step(1); sys.exit(1)", "step(2)")
    refusals = ["taken"] * 2

    def plan() -> Start:
        if refusals:
            raise JigsawError(refusals.pop())
        return trained.start()

    assert Supervisor(plan, trained.folder, Limits(1)).run(trained.start()) == 0
    refusals = ["taken"] * 99
    trained.starts = 0
    with pytest.raises(JigsawError, match="taken"):
        Supervisor(plan, trained.folder, Limits(1, patience_s=0.5)).run(trained.start())


def test_a_step_that_takes_many_times_its_usual_is_ended(
    run: Callable[..., Run], capfd: pytest.CaptureFixture[str]
) -> None:
    hangs = "for number in range(3): step(number); time.sleep(0.3)\n"
    hangs += "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)'])\n"  # goes, too
    hangs += "time.sleep(99)"
    trained = run(hangs, "step(3)")
    assert trained.train(1, hang_factor=1, hang_floor_s=3) == 0
    assert capfd.readouterr().err == (
        "restart 1 of 1: the trainer hung, made no step within 3 s, and was ended after step 2; goes on from the "
        "beginning\n"
    )


def test_the_usual_is_the_median_over_all_starts(tmp_path: Path) -> None:
    supervisor = Supervisor(Run(tmp_path, []).start, tmp_path, Limits(1, hang_factor=10, hang_floor_s=60, start_s=500))
    start = Progress(tmp_path / "metrics.jsonl")
    assert supervisor._limit(start) == 500
    start.steps = [1]
    assert supervisor._limit(start) == 500
    start.steps, start.gaps = [1, 2, 3, 4], [8, 9, 1000]
    assert supervisor._limit(start) == 90
    supervisor._gaps = [2, 2, 2, 2]
    assert supervisor._limit(start) == 60


def test_a_start_that_makes_no_step_is_ended(run: Callable[..., Run], capfd: pytest.CaptureFixture[str]) -> None:
    trained = run("time.sleep(99)")
    assert trained.train(9, start_s=0.3) == STOPPED
    assert trained.starts == 2
    assert "hung, made no step within 0 s, and was ended before the first step; twice" in capfd.readouterr().err


def test_sigterm_goes_to_the_trainer_and_ends_both(run: Callable[..., Run], capfd: pytest.CaptureFixture[str]) -> None:
    saves = "def end(*_): step(2); sys.exit(143)\n"
    saves += "signal.signal(signal.SIGTERM, end); step(1); supervisor(signal.SIGTERM); time.sleep(99)"
    trained = run(saves)
    assert trained.train(9) == STOPPED
    assert trained.starts == 1
    assert capfd.readouterr().err == "stopped by SIGTERM after step 2; the same command goes on from the beginning\n"


def test_a_second_signal_ends_all_at_once(run: Callable[..., Run]) -> None:
    deaf = "signal.signal(signal.SIGTERM, lambda *_: None); step(1); supervisor(signal.SIGHUP); time.sleep(1)\n"
    deaf += "signal.signal(signal.SIGTERM, signal.SIG_DFL); supervisor(signal.SIGTERM); time.sleep(99)"
    assert run(deaf).train(9) == STOPPED


def test_ctrl_c_ends_both_even_a_trainer_that_does_not_listen(run: Callable[..., Run]) -> None:
    assert run("signal.signal(2, signal.SIG_IGN); supervisor(2); time.sleep(99)").train(9, interrupt_s=0.3) == 130


def test_a_trainer_ends_with_its_supervisor(tmp_path: Path) -> None:
    trainer = "from jigsaw.verl_plugin.stop import end_with_the_supervisor\n"
    trainer += "end_with_the_supervisor(); step(1); time.sleep(99)"
    code = "from pathlib import Path\nfrom test_supervisor import Run\n"
    code += f"Run(Path({str(tmp_path)!r}), [{trainer!r}]).train(1)"
    supervisor = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parent)
    metrics = tmp_path / "metrics-1.jsonl"
    while not (metrics.exists() and metrics.read_text()):
        assert supervisor.poll() is None
        time.sleep(0.05)
    children = psutil.Process(supervisor.pid).children()
    supervisor.kill()
    supervisor.wait()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert len(children) == 1
    assert alive == []


def test_a_trainer_whose_supervisor_is_gone_already_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    end_with_the_supervisor()  # has none
    monkeypatch.setenv("JIGSAW_SUPERVISOR", str(os.getpid()))
    child = [sys.executable, "-c", "from jigsaw.verl_plugin.stop import *; end_with_the_supervisor(); print('trains')"]
    assert subprocess.run(child, check=True, capture_output=True).stdout == b"trains\n"
    monkeypatch.setenv("JIGSAW_SUPERVISOR", "1")
    assert subprocess.run(child, check=False).returncode == STOPPED


def test_a_request_to_stop_lies_in_the_runs_folder_and_a_second_one_ends(tmp_path: Path) -> None:
    (tmp_path / STOP).touch()  # an earlier run's
    code = "import os, sys\nfrom pathlib import Path\nfrom jigsaw.verl_plugin.stop import *\n"
    code += "folder = Path(sys.argv[1]); stop_by_sigterm(folder); assert not is_asked(folder)\n"
    code += "os.kill(os.getpid(), 15); assert is_asked(folder); print('goes on', flush=True)\n"
    code += "os.kill(os.getpid(), 15); print('never')"
    ended = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (STOPPED, "goes on\n")
    assert ended.stderr.count("\n") == 1
    assert is_asked(tmp_path)
    assert stop_by_sigterm.__doc__


def test_a_line_that_is_not_complete_waits_and_a_test_is_no_step(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    progress = Progress(file)
    progress.look()
    line = f'{{"step": 3, "data": {{"{TRAINED}": 3}}}}\n'
    file.write_text('{"step": 2, "data": {"val-core/x": 0.5}}\n' + line[:10])
    progress.look()
    assert progress.steps == []
    with file.open("a") as appended:
        appended.write(line[10:] + line.replace("3", "4"))
    progress.look()
    progress.look()
    assert progress.steps == [3, 4]
    with file.open("a") as appended:
        appended.write("{half\n" + line.replace("3", "5"))
    progress.look()
    assert progress.steps == [3, 4, 5]
    assert len(progress.gaps) == 2
