"""Run verl's trainer as a child: noise to a log file, one line a step, nothing left behind when it stops."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from jigsaw.errors import JigsawError, print_error
from jigsaw.files import atomic_folder, atomic_write
from jigsaw.show.training import Metrics, read_metrics

MARK = "JIGSAW_RUN"
"""Environment variable that all processes of a run inherit, Ray's and vLLM's too; its value is the run's folder."""


class Clock:
    """Seconds and memory that a run took, over all its starts, kept in a file.

    Args:
        path: JSON file ``{"seconds", "seconds_install", "peak_gib"}``; read if it is there.
        seconds_install: what the installation took before this start.
    """

    def __init__(self, path: Path, seconds_install: float) -> None:
        before = {"seconds": 0.0, "seconds_install": 0.0, "peak_gib": 0.0}
        if path.is_file():
            before.update(json.loads(path.read_text()))
        self._path = path
        self._before = before["seconds"] + seconds_install
        self._begin = time.monotonic()
        self.seconds_install = before["seconds_install"] + seconds_install
        self.peak_gib = before["peak_gib"]
        """Most memory of the run's processes at a time, in GiB; what they share counts once."""

    @property
    def seconds(self) -> float:
        """Seconds so far, installation included."""
        return float(self._before + time.monotonic() - self._begin)

    def watch_memory(self) -> None:
        """Watch the memory of the run's processes from now on, in a thread: of this one and those of its folder."""

        def watch() -> None:
            highest = 0
            while True:
                processes = [psutil.Process(), *processes_of(self._path.parent)]
                resident = sum(map(_resident, processes))
                if resident > highest:  # what they share is found by a walk over all pages, which slows the run
                    highest = resident
                    self.peak_gib = max(self.peak_gib, sum(map(_memory_of, processes)) / 2**30)
                time.sleep(3)

        threading.Thread(target=watch, daemon=True).start()

    def save(self) -> None:
        """Keep them for the next start."""
        values = {"seconds": self.seconds, "seconds_install": self.seconds_install, "peak_gib": self.peak_gib}
        write_json(self._path, values)


def write_json(path: Path, value: object) -> None:
    """Write a JSON file by rename."""
    with atomic_write(path) as file:
        file.write(json.dumps(value, indent=2).encode() + b"\n")


GRPO = ("verl.trainer.main_ppo",)
SFT = ("torch.distributed.run", "--standalone", "--nproc_per_node=1", "-m", "verl.trainer.sft_trainer")


def train_with_verl(
    overrides: Sequence[str],
    *,
    trainer: Sequence[str] = GRPO,
    run: Path,
    log: Path,
    metrics: Path,
    on_step: Callable[[int, Metrics], None],
) -> None:
    """Run one of verl's trainers to its end.

    Args:
        overrides: the trainer's arguments: config and Hydra overrides.
        trainer: the module, and what goes before the overrides.
        run: the run's folder; it marks the processes.
        log: file that takes everything the processes print.
        metrics: JSON-lines file that verl's file logger writes.
        on_step: called with each step and its metrics as they come.

    Raises:
        JigsawError: if the trainer fails; the message holds its last error and names the log.
        KeyboardInterrupt: on Ctrl-C, after all processes are gone.
    """
    metrics.unlink(missing_ok=True)  # of a start that was cut off before its first checkpoint
    begin = _size(log)
    environment = {**os.environ, MARK: str(run), "VERL_FILE_LOGGER_PATH": str(metrics), "PYTHONUNBUFFERED": "1"}
    if trainer == GRPO:
        from jigsaw.verl_plugin.checkpoint import metrics_override

        overrides = [*overrides, metrics_override(metrics)]
    seen: set[int] = set()

    def report() -> None:
        for step, values in read_metrics([metrics]).items():
            if step not in seen:
                seen.add(step)
                on_step(step, values)

    with log.open("ab") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", *trainer, *overrides],
            stdout=sink,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches this process alone, which then ends the others in order
        )
        try:
            while process.poll() is None:
                time.sleep(0.5)
                report()
            report()
        finally:
            with _undisturbed():
                kill_leftovers(run)
                process.wait()
    if process.returncode != 0:
        raise JigsawError(f"training stopped: {last_error(log, begin)} (all of it: {log})")


def processes_of(run: Path) -> list[psutil.Process]:
    """All processes of a run but this one."""
    return [process for process in psutil.process_iter() if _mark_of(process) == str(run)]


def _resident(process: psutil.Process) -> int:
    """Bytes of a process, what it shares with others in full."""
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:  # it ended in the meantime
        return 0


def _memory_of(process: psutil.Process) -> int:
    """Bytes of a process; pages that it shares with others count in part, so that the sum over all counts them once."""
    try:
        return int(process.memory_full_info().pss)
    except (psutil.NoSuchProcess, psutil.AccessDenied):  # it ended in the meantime
        return 0


def kill_leftovers(run: Path) -> None:
    """End all processes of a run, Ray's and vLLM's included, politely first, and remove their shared memory."""
    mine = processes_of(run)
    shared = set().union(*map(_shared_memory, mine))
    for process in mine:
        _signal(process, signal.SIGTERM)
    _, alive = psutil.wait_procs(mine, timeout=10)
    for process in alive:
        _signal(process, signal.SIGKILL)
    psutil.wait_procs(alive, timeout=10)
    # Killed in the midst of an exchange of weights, say: nobody is left to remove it.
    if shared:
        for file in shared.difference(*map(_shared_memory, psutil.process_iter())):
            file.unlink(missing_ok=True)


def _shared_memory(process: psutil.Process) -> set[Path]:
    """The files in /dev/shm that a process has open as memory."""
    try:
        maps = Path(f"/proc/{process.pid}/maps").read_text(errors="replace")
    except OSError:  # gone already, or another user's
        return set()
    files = {line.partition("/dev/shm/")[2] for line in maps.splitlines() if "/dev/shm/" in line}
    return {Path("/dev/shm", file) for file in files if not file.endswith(" (deleted)")}


def _mark_of(process: psutil.Process) -> str | None:
    if process.pid == os.getpid():
        return None
    try:
        environment: Mapping[str, str] = process.environ()
    except (psutil.NoSuchProcess, psutil.AccessDenied):  # gone already, or another user's
        return None
    return environment.get(MARK)


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:  # it ended by itself in the meantime
        return


def _size(log: Path) -> int:
    return log.stat().st_size if log.exists() else 0


@contextmanager
def told_in_one_line(on_interrupt: Callable[[], None]) -> Iterator[None]:
    """Let a command end as its user expects: an error is one line and exit code 1, Ctrl-C or a hang-up is 130.

    Args:
        on_interrupt: says what was stopped and how to go on.
    """
    # A shell starts background jobs with SIGINT ignored; SIGHUP comes when the terminal closes.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    except (JigsawError, OSError) as error:
        print_error(error)
        sys.exit(1)
    except KeyboardInterrupt:
        on_interrupt()
        sys.exit(130)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let a second, impatient Ctrl-C wait: what it would interrupt is the ending of the other processes."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, handlers, strict=True):
            signal.signal(number, handler)


def last_error(log: Path, begin: int = 0) -> str:
    """What a log says went wrong: our own message if there is one, else the last exception, else the last line.

    Args:
        log: the file.
        begin: where in it to begin, in bytes; what stands before is of earlier starts.
    """
    lines = log.read_bytes()[begin:].decode(errors="replace").splitlines()
    exceptions = [match for line in lines if (match := _EXCEPTION.search(line))]
    own = [match["message"] for match in exceptions if match["name"].endswith("JigsawError")]
    if own:
        return own[-1]
    if exceptions:
        return exceptions[-1].group().strip()
    return next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")


_EXCEPTION = re.compile(r"(?P<name>[A-Za-z_.]*(Error|Exception)): (?P<message>.+)")


def merge_checkpoint(checkpoint: Path, target: Path, *, log: Path) -> None:
    """Turn a checkpoint of verl's FSDP engine into a Hugging Face folder, by rename.

    Args:
        checkpoint: its ``actor`` folder.
        target: folder to make.
        log: file that takes what verl's merger prints.

    Raises:
        JigsawError: if the merger fails.
    """
    begin = _size(log)
    with atomic_folder(target) as draft, log.open("ab") as sink:
        command = ["merge", "--backend=fsdp", f"--local_dir={checkpoint}", f"--target_dir={draft}"]
        code = subprocess.run(
            [sys.executable, "-m", "verl.model_merger", *command], stdout=sink, stderr=subprocess.STDOUT, check=False
        ).returncode
        if code != 0:
            raise JigsawError(f"{checkpoint} could not be merged: {last_error(log, begin)} (all of it: {log})")
