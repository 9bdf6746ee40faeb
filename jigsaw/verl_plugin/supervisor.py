"""Restarts: the trainer is a child, and goes on from the last whole checkpoint when a fault or a hang ends it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Protocol

from jigsaw.errors import JigsawError, print_error
from jigsaw.processes import MARK, kill_leftovers, processes_of, shared_memory_of
from jigsaw.verl_plugin.checkpoint import last_whole
from jigsaw.verl_plugin.stop import SUPERVISOR

TRAINED = "training/global_step"
"""In the metrics of a step that was trained, not only tested."""
_LOOK_S = 0.2
_NOTE_S = 10.0
_POLITE_S = 10.0
_HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Start(Protocol):
    """What a start needs to say of itself, see :class:`jigsaw.verl_plugin.launch.Start`."""

    @property
    def command(self) -> list[str]:
        """The trainer's."""

    @property
    def metrics(self) -> Path:
        """JSON-lines file that it writes, which is new with each start."""


@dataclass(frozen=True)
class Limits:
    """What a run is allowed.

    Attributes:
        restarts: starts after the first.
        hang_factor: a step may take so many times the median of those before.
        hang_floor_s: seconds that any step may take.
        start_s: seconds that may pass until a start's first step, and its second where none was seen before.
        interrupt_s: seconds that a trainer has to end on Ctrl-C.
        patience_s: seconds within which what a dead trainer held must be free again, GPUs of a cluster for example.
    """

    restarts: int
    hang_factor: float = 20.0
    hang_floor_s: float = 600.0
    start_s: float = 3600.0
    interrupt_s: float = 30.0
    patience_s: float = 90.0


@dataclass(frozen=True)
class Ending:
    """How a start ended: the child's exit code as a shell says it, in words, and whether it had made a step."""

    code: int = field(compare=False)
    words: str
    fruitful: bool


@dataclass
class Progress:
    """What a start's metrics file says as it grows."""

    file: Path
    steps: list[int] = field(default_factory=list)
    """Trained ones."""
    gaps: list[float] = field(default_factory=list)
    """Seconds between two of their lines."""
    changed: float = field(default_factory=time.monotonic)
    """When the last line came; at first, when the start began."""
    _read: int = 0
    _trained: float | None = None

    def look(self) -> None:
        """Read the lines that have come."""
        if not self.file.is_file() or self.file.stat().st_size <= self._read:
            return
        with self.file.open("rb") as lines:
            lines.seek(self._read)
            for line in lines:
                if line.endswith(b"\n"):
                    self._read += len(line)
                    self._take(line)

    def _take(self, line: bytes) -> None:
        self.changed = time.monotonic()
        try:
            record = json.loads(line)
            data = record["data"]
        except (ValueError, TypeError, LookupError):  # a disk that was full in between
            return
        if isinstance(data, dict) and TRAINED in data:
            if self._trained is not None:
                self.gaps.append(self.changed - self._trained)
            self._trained = self.changed
            self.steps.append(int(str(record["step"])))


class Supervisor:
    """Keeps a run going.

    Args:
        plan: works out a start anew, from the last whole checkpoint; raises JigsawError for what stands against it.
        folder: the run's checkpoints.
        limits: how long, and how often.
        environment: of the trainer.
    """

    def __init__(
        self, plan: Callable[[], Start], folder: Path, limits: Limits, environment: dict[str, str] | None = None
    ) -> None:
        self._plan = plan
        self._folder = folder
        self._limits = limits
        # Another run that is refused in this folder must not end this one's processes with its own.
        self._mark = folder.resolve() / f"supervisor-{os.getpid()}"
        of_child = {MARK: str(self._mark), SUPERVISOR: str(os.getpid())}
        self._environment = {**(os.environ if environment is None else environment), **of_child}
        self._child: subprocess.Popen[bytes] | None = None
        self._asked: signal.Signals | None = None
        self._impatient = False
        self._step = 0
        self._gaps: list[float] = []

    def run(self, start: Start) -> int:
        """Train to the end; the exit code that says how.

        Args:
            start: the first one.

        Raises:
            JigsawError: if something stands against a restart.
        """
        with self._signals():
            before: Ending | None = None
            for restart in range(1, self._limits.restarts + 2):
                ending = self._train(start)
                if self._asked is not None:
                    return self._stopped(ending)
                if ending.code == 0:
                    return 0
                if ending == before and not ending.fruitful:
                    return self._give_up(ending, "twice alike and without a step, so it is not tried again")
                if restart > self._limits.restarts:
                    return self._give_up(ending, f"all restarts are used ({self._limits.restarts})")
                before, again = ending, self._plan_again()
                if again is None:
                    return self._stopped(ending)
                start = again
                _say(f"restart {restart} of {self._limits.restarts}: {self._told(ending)}; goes on from {self._from()}")
        raise AssertionError  # the last start returns

    def _train(self, start: Start) -> Ending:
        progress = Progress(start.metrics)
        self._child = child = subprocess.Popen(
            start.command,
            stdin=subprocess.DEVNULL,
            env=self._environment,
            start_new_session=True,  # a terminal's Ctrl-C and a scheduler's signals come from here, once
        )
        shared: set[Path] = set()  # noted while it runs: what died with it can no longer be asked
        try:
            if self._asked is not None:  # just before there was a child
                child.send_signal(self._asked)
            why = self._watch(child, progress, shared)
        finally:
            code = _end(child)
            self._child = None
            kill_leftovers(self._mark, shared)
        progress.look()
        self._gaps += progress.gaps
        self._step = max([self._step, *progress.steps])
        words = why or (f"ended by signal {-code}" if code < 0 else f"ended with exit code {code}")
        return Ending(128 - code if code < 0 else code, words, bool(progress.steps))

    def _watch(self, child: "subprocess.Popen[bytes]", progress: Progress, shared: set[Path]) -> str | None:
        """Wait until a child has ended, or is to be ended; in words why, None where it ended by itself."""
        noted, interrupted = float("-inf"), None
        while child.poll() is None:
            time.sleep(_LOOK_S)
            now = time.monotonic()
            progress.look()
            if now - noted > _NOTE_S:
                noted = now
                shared |= shared_memory_of(processes_of(self._mark))
            if self._asked is signal.SIGINT:
                interrupted = interrupted or now
                if now - interrupted > self._limits.interrupt_s:
                    return "did not end on Ctrl-C"
            if self._impatient:
                return "was ended at once"
            if self._asked is None and now - progress.changed > (limit := self._limit(progress)):
                return f"hung, made no step within {limit:.0f} s, and was ended"
        return None

    def _limit(self, progress: Progress) -> float:
        """Seconds that may pass without a line in the metrics."""
        gaps = self._gaps + progress.gaps
        if not progress.steps or not gaps:
            return self._limits.start_s
        return max(self._limits.hang_floor_s, self._limits.hang_factor * median(gaps))

    def _plan_again(self) -> Start | None:
        """The next start, once nothing stands against it; None where the run is to end instead."""
        end = time.monotonic() + self._limits.patience_s
        while self._asked is None:
            try:
                return self._plan()
            except JigsawError:
                if time.monotonic() > end:
                    raise
            time.sleep(_LOOK_S)
        return None

    def _stopped(self, ending: Ending) -> int:
        """Tell of the end that a signal asked for."""
        assert self._asked is not None
        if ending.code == 0:
            return 0
        _say(f"stopped by {self._asked.name} {self._after()}; the same command goes on from {self._from()}")
        return 128 + self._asked

    def _give_up(self, ending: Ending, why: str) -> int:
        told = f"{self._told(ending)}; {why}; the same command goes on from {self._from()}"
        print_error(JigsawError(told))
        return ending.code

    def _told(self, ending: Ending) -> str:
        return f"the trainer {ending.words} {self._after()}"

    def _after(self) -> str:
        return f"after step {self._step}" if self._step else "before the first step"

    def _from(self) -> str:
        checkpoint = last_whole(self._folder)
        return checkpoint.name if checkpoint else "the beginning"

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Hand signals on to the child; a second one ends all at once."""

        def take(number: int, _: object) -> None:
            if self._asked is not None:
                self._impatient = True
                return
            # A terminal that closes says no more than a scheduler: there is time to save.
            self._asked = signal.SIGINT if number == signal.SIGINT else signal.SIGTERM
            if self._child is not None:
                self._child.send_signal(self._asked)

        before = {number: signal.getsignal(number) for number in _HANDLED}
        for number in _HANDLED:
            if number != signal.SIGHUP or before[number] is not signal.SIG_IGN:  # nohup's
                signal.signal(number, take)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _end(child: "subprocess.Popen[bytes]") -> int:
    """Have a child ended, politely first; its return code."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(_POLITE_S)
        except subprocess.TimeoutExpired:
            child.kill()
    return child.wait()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
