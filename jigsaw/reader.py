"""A process of its own that works items one by one: a file on which it hangs or dies costs that item alone.

Its keeper sends a list of items and is told the result of each as it is finished, so the first item without a result
is the one that a dead or silent process was at. What comes back is JSON and raw bytes, never unpickled: a file may have
made the process say it.
"""

import fcntl
import json
import os
import resource
import select
import signal
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from queue import LifoQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any

from jigsaw.errors import JigsawError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Record = dict[str, Any]
"""What is said of an item: JSON values, the same for the same item in every process."""

Work = Callable[[Any], list[Record]]
"""What is done to an item. Its module can be imported and its arguments pickled."""

Making = Callable[[Any], tuple[Record, Sequence[Any]]]
"""Work that also makes bytes: a record of an item, and buffers."""

MEMORY = 4 << 30
"""Bytes that the process may allocate: a file that asks for more must not take the machine with it."""

_MEMORY, _REFUSED, _RAISED = b"memory", b"refused:", b"raised:"


def json_line(value: Any) -> bytes:
    """One line of JSON in UTF-8, readable as far as its text is valid."""
    # A file name that is no valid UTF-8 holds lone surrogates; `backslashreplace` writes them as JSON's own \udcxx.
    return json.dumps(value, ensure_ascii=False, sort_keys=True).encode("utf-8", "backslashreplace") + b"\n"


class ReaderDied(Exception):
    """The process did not live to say what came of an item, or was ended for its silence; the message says which."""


class Reader:
    """Keeps one such process, and starts another where it had to be ended. Not for several threads at a time."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection

    def lines(self, work: Work, items: Sequence[Any], time_limit: float) -> list[bytes]:
        """A line of JSON for every item: the list of its records, or ``[{"reason"}]`` where no process survives it.

        Args:
            work: what is done to an item.
            items: the items.
            time_limit: seconds of wall time that an item may take.

        Raises:
            JigsawError: if the work raises one.
            RuntimeError: if it raises anything else, or no process can be started; with the trace.
        """
        lines: list[bytes] = []
        while len(lines) < len(items):
            more, why = self._until_it_ends(work, items[len(lines) :], time_limit)
            lines += more
            if why is not None:
                # It may have been chance: a machine short of memory, a slow disk. So once more, alone.
                again, why = self._until_it_ends(work, items[len(lines) : len(lines) + 1], time_limit)
                lines += again or [json_line([{"reason": why}])]
        return lines

    def make(self, work: Making, item: Any, time_limit: float) -> tuple[Record, "npt.NDArray[np.uint8]"]:
        """What the work makes of an item: its record, and the bytes of its buffers, one behind the other.

        Args:
            work: what is done to it.
            item: the item.
            time_limit: seconds of wall time that it may take.

        Raises:
            ReaderDied: if no process survives it. One that dies is asked once more, as it may have been chance; one
                that is too slow is not.
            JigsawError: if the work raises one.
            RuntimeError: if it raises anything else, or no process can be started; with the trace.
        """
        try:
            return self._made(work, item, time_limit)
        except _EndedByItself:
            return self._made(work, item, time_limit)

    def _made(self, work: Making, item: Any, time_limit: float) -> tuple[Record, "npt.NDArray[np.uint8]"]:
        import numpy as np

        process = self._process or self._start()
        try:
            self._pipe.send((work, [item], True))
            record, size = json.loads(self._answer(process, item, time_limit))
            if size > MEMORY:
                raise EOFError  # no honest process has so much
            made = np.empty(size, np.uint8)
            missing = made.data
            while missing:
                self._wait(process, time_limit)
                taken = os.readv(self._pipe.fileno(), [missing])
                if not taken:
                    raise EOFError
                missing = missing[taken:]
        except (EOFError, OSError):
            raise _EndedByItself(self._last_words(process)) from None
        except BaseException:
            if self._process is process:  # what it has still to say is no answer to the next item
                self._end(process)
            raise
        return record, made

    def _until_it_ends(self, work: Work, items: Sequence[Any], time_limit: float) -> tuple[list[bytes], str | None]:
        """The lines of the first items, and why the next one has none; None if all have."""
        process = self._process or self._start()
        lines: list[bytes] = []
        try:
            self._pipe.send((work, items, False))
            for item in items:
                lines.append(self._answer(process, item, time_limit))
        except ReaderDied as error:
            return lines, str(error)
        except (EOFError, OSError):
            return lines, self._last_words(process)
        return lines, None

    def _wait(self, process: subprocess.Popen[bytes], time_limit: float) -> None:
        if not self._pipe.poll(time_limit):
            self._end(process)
            raise ReaderDied(f"the reader took longer than {time_limit:g} s")

    def _answer(self, process: subprocess.Popen[bytes], item: Any, time_limit: float) -> bytes:
        self._wait(process, time_limit)
        message = self._pipe.recv_bytes()
        if message == _MEMORY:
            self._end(process)
            raise ReaderDied(f"the reader needs more than {MEMORY >> 30} GiB of memory")
        if message.startswith(_REFUSED):
            self._end(process)
            raise JigsawError(message.removeprefix(_REFUSED).decode())
        if message.startswith(_RAISED):
            self._end(process)
            raise RuntimeError(f"at {item!r:.300}: {message.removeprefix(_RAISED).decode()}")
        return message

    def _last_words(self, process: subprocess.Popen[bytes]) -> str:
        return f"the reader died on it ({_ending(self._end(process))})"

    def _start(self) -> subprocess.Popen[bytes]:
        status = None
        for _ in range(2):  # the first may be killed by chance, as any other
            self._pipe, theirs = Pipe()
            process = self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                stdin=subprocess.PIPE,  # never written: it closes when this process ends, however it ends
                stdout=subprocess.DEVNULL,  # chatter of libraries; what a file is worth is said by its record
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
            theirs.close()
            try:
                self._pipe.recv_bytes()
                return process
            except (EOFError, OSError):
                status = self._end(process)
        raise RuntimeError(f"a reader cannot start ({_ending(status)})")

    def _end(self, process: subprocess.Popen[bytes]) -> int | None:
        """Kill the process; its exit status, None if even that does not end it (it reads from a dead network drive)."""
        self._process = None
        self._pipe.close()
        for patience in (0.2, 5):  # seconds; one that is about to end by itself has a status to tell
            with suppress(subprocess.TimeoutExpired):
                process.wait(patience)
            process.kill()
        if process.stdin is not None:
            process.stdin.close()
        return process.returncode


class Readers:
    """Several of them, for any number of threads.

    Args:
        count: processes at most; each is started when all others are at work, and kept.
        time_limit: seconds of wall time that an item may take.
    """

    def __init__(self, count: int, time_limit: float) -> None:
        self._time_limit = time_limit
        self._free: LifoQueue[Reader] = LifoQueue()
        for _ in range(count):
            self._free.put(Reader())

    def make(self, work: Making, item: Any) -> tuple[Record, "npt.NDArray[np.uint8]"]:
        """See :meth:`Reader.make`; waits for a process that is free."""
        reader = self._free.get()
        try:
            return reader.make(work, item, self._time_limit)
        finally:
            self._free.put(reader)


class _EndedByItself(ReaderDied):
    pass


def _ending(status: int | None) -> str:
    return f"signal {-status}" if status is not None and status < 0 else f"exit status {status}"


def _serve(pipe: Connection) -> None:
    """The process itself; an error of the work ends it, after it was told."""

    def tell(raised: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(raised, MemoryError):
            pipe.send_bytes(_MEMORY)
        elif issubclass(raised, JigsawError):
            pipe.send_bytes(_REFUSED + str(error).encode("utf-8", "backslashreplace"))
        else:
            text = "".join(traceback.format_exception(raised, error, trace))
            pipe.send_bytes(_RAISED + text.encode("utf-8", "backslashreplace"))

    sys.excepthook = tell
    pipe.send_bytes(b"started")
    while True:
        work, items, makes = pipe.recv()
        for item in items:
            if makes:
                record, buffers = work(item)
                parts = [memoryview(buffer).cast("B") for buffer in buffers]
                pipe.send_bytes(json_line([record, sum(map(len, parts))]))
                for part in parts:
                    while part:
                        part = part[os.write(pipe.fileno(), part) :]  # the pipe itself would copy them twice
            else:
                pipe.send_bytes(json_line(work(item)))


def _end_with_keeper() -> None:
    """Have the kernel end this process when its keeper ends: a library may hang with Python's lock in its hands."""
    keeper = sys.stdin.fileno()
    signal.signal(signal.SIGIO, signal.SIG_DFL)  # ends it
    fcntl.fcntl(keeper, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(keeper, fcntl.F_SETFL, fcntl.fcntl(keeper, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([keeper], [], [], 0)[0]:  # it has ended already
        os._exit(1)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the keeper's affair
    _end_with_keeper()
    warnings.simplefilter("ignore")
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY if hard < 0 else min(MEMORY, hard), hard))
    _serve(Connection(int(sys.argv[1])))
