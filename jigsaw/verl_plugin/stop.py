"""Ends a run in order: a scheduler's SIGTERM lets the step that runs be finished and saved.

The signal reaches the driver. The trainer is an actor of Ray's, perhaps on another machine and busy with its one call,
so the driver leaves a file in the run's folder, and the trainer looks for it between steps.
"""

import os
import signal
import sys
from pathlib import Path

from jigsaw.errors import JigsawError
from jigsaw.processes import end_with

STOP = "STOP"
SUPERVISOR = "JIGSAW_SUPERVISOR"
"""Environment variable that holds the process id of a trainer's supervisor (supervisor.py)."""
STOPPED = 128 + signal.SIGTERM
"""Exit code of a run that was ended by SIGTERM, as shells say it."""


class Stopped(JigsawError):
    """A run that ended because it was asked to."""


def stop_by_sigterm(folder: Path) -> None:
    """From now on, have SIGTERM ask the run in a checkpoint folder to end, and a second one end this process at once.

    A request that an earlier run left there is taken away.
    """
    folder.mkdir(parents=True, exist_ok=True)
    request = folder / STOP
    forget(folder)

    def ask(*_: object) -> None:
        if request.exists():
            sys.exit(STOPPED)
        request.touch()
        print(
            "SIGTERM: training ends after the step that runs, once it is saved; a second one ends it at once",
            file=sys.stderr,
            flush=True,
        )

    signal.signal(signal.SIGTERM, ask)


def is_asked(folder: Path) -> bool:
    """Whether the run in a checkpoint folder is to end."""
    return (folder / STOP).exists()


def forget(folder: Path) -> None:
    """Take a request away that was heard, or came too late."""
    (folder / STOP).unlink(missing_ok=True)


def end_with_the_supervisor() -> None:
    """Have the system send this process SIGTERM once its supervisor is gone, if it has one."""
    parent = os.environ.get(SUPERVISOR)
    if parent is None:
        return
    if not end_with(int(parent), signal.SIGTERM):
        sys.exit(STOPPED)
