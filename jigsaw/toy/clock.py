"""What a run took, over all its starts: seconds and memory."""

import threading
import time
from pathlib import Path

import psutil

from jigsaw.files import json_object, write_json
from jigsaw.processes import memory_of, processes_of, resident


class Clock:
    """Seconds and memory that a run took, over all its starts, kept in a file.

    Args:
        path: JSON file ``{"seconds", "seconds_install", "peak_gib"}``; read if it is there.
        seconds_install: what the installation took before this start.
    """

    def __init__(self, path: Path, seconds_install: float) -> None:
        before = {"seconds": 0.0, "seconds_install": 0.0, "peak_gib": 0.0}
        if path.is_file():
            before.update(json_object(path, *before, remedy="delete it: what the run took so far will not count"))
        self._path = path
        self._before = before["seconds"] + seconds_install
        self._begin = time.monotonic()
        self._stopped = threading.Event()
        self.seconds_install = before["seconds_install"] + seconds_install
        self.peak_gib = before["peak_gib"]
        """Most memory of the run's processes at a time, in GiB; what they share counts once."""

    @property
    def seconds(self) -> float:
        """Seconds so far, installation included."""
        return float(self._before + time.monotonic() - self._begin)

    def watch_memory(self) -> None:
        """Watch the memory of the run's processes from now on, in a thread: of this one and those of its folder.

        Until :meth:`stop`, or until this process ends.
        """

        def watch() -> None:
            highest = 0
            while not self._stopped.wait(3):
                processes = [psutil.Process(), *processes_of(self._path.parent)]
                held = sum(map(resident, processes))
                if held > highest:  # what they share is found by a walk over all pages, which slows the run
                    highest = held
                    self.peak_gib = max(self.peak_gib, sum(map(memory_of, processes)) / 2**30)

        threading.Thread(target=watch, daemon=True).start()

    def stop(self) -> None:
        """Watch no longer."""
        self._stopped.set()

    def save(self) -> None:
        """Keep them for the next start."""
        values = {"seconds": self.seconds, "seconds_install": self.seconds_install, "peak_gib": self.peak_gib}
        write_json(self._path, values)
