"""The processes of a run: found by a mark that they inherit, measured, ended with all that is theirs."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

from jigsaw.errors import JigsawError, print_error

MARK = "JIGSAW_RUN"
"""Environment variable that all processes of a run inherit, Ray's and vLLM's too; its value is the run's folder."""


_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG, linux/prctl.h


def end_with(parent: int, number: signal.Signals) -> bool:
    """Have the system send this process a signal once its parent is gone; False if it is gone already.

    Args:
        parent: process id of the process that started this one.
        number: the signal.
    """
    ctypes.CDLL(None).prctl(_DEATH_SIGNAL, number)
    return os.getppid() == parent


def processes_of(run: Path) -> list[psutil.Process]:
    """All processes of a run but this one."""
    return [process for process in psutil.process_iter() if _mark_of(process) == str(run)]


def resident(process: psutil.Process) -> int:
    """Bytes of a process, what it shares with others in full."""
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:  # it ended in the meantime
        return 0


def memory_of(process: psutil.Process) -> int:
    """Bytes of a process; pages that it shares with others count in part, so that the sum over all counts them once."""
    try:
        return int(process.memory_full_info().pss)
    except (psutil.NoSuchProcess, psutil.AccessDenied):  # it ended in the meantime
        return 0


def shared_memory_of(processes: Iterable[psutil.Process]) -> set[Path]:
    """The files in /dev/shm that processes have open as memory."""
    return set().union(*map(_shared_memory, processes))


def kill_leftovers(run: Path, shared: Collection[Path] = ()) -> None:
    """End all processes of a run, Ray's and vLLM's included, politely first, and remove their shared memory.

    Args:
        run: the run's folder, by which its processes are marked.
        shared: files in /dev/shm that the run had, of processes that may be gone already.
    """
    mine = processes_of(run)
    shared = shared_memory_of(mine).union(shared)
    for process in mine:
        _signal(process, signal.SIGTERM)
    _, alive = psutil.wait_procs(mine, timeout=10)
    for process in alive:
        _signal(process, signal.SIGKILL)
    psutil.wait_procs(alive, timeout=10)
    # Killed in the midst of an exchange of weights, say: nobody is left to remove it.
    if shared:
        for file in shared - shared_memory_of(psutil.process_iter()):
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
def undisturbed() -> Iterator[None]:
    """Let a second, impatient Ctrl-C wait: what it would interrupt is the ending of the other processes."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, handlers, strict=True):
            signal.signal(number, handler)
