"""Checkpoints that are known to be whole, in a folder that one run holds alone.

verl 0.9.1 names the newest checkpoint in a tracker file that it rewrites in place: a run that is killed in that
moment leaves it empty, and the next start fails on it. So each finished checkpoint is marked, and a run resumes from
the newest marked one.
"""

import errno
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from textwrap import shorten
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import DictConfig

from jigsaw.errors import JigsawError

MARKER = "WHOLE"
LOCK = ".lock"
_NAME = re.compile(r"global_step_(\d+)")
_TRACKER = "latest_checkpointed_iteration.txt"
_log = logging.getLogger(__name__)
_BROKEN = (OSError, RuntimeError, EOFError, ValueError, KeyError, UnpicklingError)
"""What reading and writing tensors raises; Ray's error of what a rank raised is of the same class."""
_SHORT = 120
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP)


class MarkWhole:
    """Marks a checkpoint once verl has written all of it (``trainer.checkpoint_callback_class``).

    verl makes one in the process that trains, before anything is loaded, and keeps it: so the run's hold on the folder
    ends with that process, however it ends.

    A checkpoint counts from :meth:`mark` on, which the trainer calls once the step's metrics are written: verl saves
    before it writes them, and a run that went on from a checkpoint without them would leave a hole in its log. Where
    one checkpoint alone is kept it counts at once: verl has removed the one before.

    Raises:
        JigsawError: if another run trains in the folder, or this one would write over complete checkpoints.
    """

    def __init__(self, config: DictConfig) -> None:
        check_async_save(config)
        folder = Path(config.trainer.default_local_dir)
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = _hold(folder)
        self._saved: Path | None = None
        self._folder, self._kept = folder, config.trainer.get("max_actor_ckpt_to_keep")
        check_beginning(config.trainer)
        # verl took the weights of these away to make room. A save would bring half of them back below the marker.
        for checkpoint in _later(folder, first_step(config.trainer)):
            (checkpoint / MARKER).unlink()

    def on_save(self, trainer: Any, global_step: int, checkpoint_dir: str, **_: Any) -> None:
        """Called by verl's trainer after each save."""
        checkpoint = Path(checkpoint_dir)
        for path in [*sorted(checkpoint.rglob("*")), checkpoint]:
            _flush(path)
        self._saved = checkpoint
        if self._kept == 1:
            self.mark()

    def mark(self) -> None:
        """Mark the checkpoint that was saved since the last call, if one was; of old ones the weights go.

        verl removes those of its own start alone: with each restart there would be more.
        """
        if self._saved is None:
            return
        (self._saved / MARKER).touch()
        _flush(self._saved)
        self._saved = None
        if self._kept:
            for checkpoint in list(filter(_has_weights, _later(self._folder, -1)))[: -self._kept]:
                shutil.rmtree(checkpoint / "actor")


def _flush(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk before the marker says so."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def saving(checkpoint: Path) -> Iterator[None]:
    """Say in one line what kept a checkpoint from being saved, and take away what was written of it.

    Raises:
        JigsawError: in place of an error of the system's, torch's or Ray's.
    """
    try:
        yield
    except _BROKEN as error:
        shutil.rmtree(checkpoint, ignore_errors=True)
        raise JigsawError(
            f"{checkpoint}: could not be saved ({_short(error)}); if the disk is full, make room, and start again: "
            f"the run goes on from {_name(last_whole(checkpoint.parent))}"
        ) from error


@contextmanager
def loading(checkpoint: Path) -> Iterator[None]:
    """Say in one line which checkpoint cannot be loaded, and how to go on without it.

    Raises:
        JigsawError: in place of an error of the system's, torch's or Ray's.
    """
    try:
        yield
    except _BROKEN as error:
        before = [other for other in _later(checkpoint.parent, -1) if _has_weights(other) and other != checkpoint]
        raise JigsawError(
            f"{checkpoint}: cannot be loaded ({_short(error)}); a file of it is broken, or it is of another number of "
            f"GPUs; moved away, the run goes on from {_name(before[-1] if before else None)}"
        ) from error


def _short(error: Exception) -> str:
    """The last line of an error; Ray's begin with all that went before."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return shorten((lines or [type(error).__name__])[-1], _SHORT, placeholder=" …")


def _name(checkpoint: Path | None) -> str:
    return checkpoint.name if checkpoint else "the beginning"


def _hold(folder: Path) -> FileLock:
    """Hold a run's checkpoint folder until this process ends; on a disk without locks, warn that nobody can.

    Raises:
        JigsawError: if another process holds it.
    """
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise JigsawError(
            f"{folder}: another run trains in this folder; wait for it, end it, or choose another "
            "trainer.default_local_dir"
        ) from error
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise
        # A shared disk without locks, as Lustre may be, is no reason not to train.
        _log.warning("%s: its disk has no locks, so a second run in it is not refused; start one at a time", folder)
    return lock


def check_free(folder: Path) -> None:
    """Raise JigsawError if another run trains in a checkpoint folder; makes nothing."""
    if (folder / LOCK).exists():
        _hold(folder).release()


def check_async_save(config: DictConfig) -> None:
    """Raise JigsawError for asynchronous checkpoints: nobody says when one is whole."""
    if config.actor_rollout_ref.actor.checkpoint.async_save:
        raise JigsawError(
            "actor_rollout_ref.actor.checkpoint.async_save=true: nothing tells when such a checkpoint is whole; set it "
            "to false"
        )


def check_beginning(trainer: DictConfig) -> None:
    """Raise JigsawError if a run begins before checkpoints that are there: it would write over them.

    Args:
        trainer: verl's ``trainer`` config.
    """
    step = first_step(trainer)
    whole = [checkpoint for checkpoint in _later(Path(trainer.default_local_dir), step) if _has_weights(checkpoint)]
    if whole:
        raise JigsawError(
            f"{whole[-1]}: is of a later step than this run begins at ({step}), which would write over it; resume from "
            "it, move it away, or choose another trainer.default_local_dir"
        )


def first_step(trainer: DictConfig) -> int:
    """The step of the checkpoint that a run resumes from; 0 where it starts anew."""
    if trainer.resume_mode == "resume_path":
        return step_of(Path(trainer.resume_from_path))
    tracker = Path(trainer.default_local_dir, _TRACKER)
    if trainer.resume_mode == "auto" and tracker.is_file():
        return _tracked(tracker)
    return 0


def is_saved(checkpoint: Path) -> bool:
    """Whether a checkpoint was saved to its end: by our marker, or by what verl's supervised trainer writes last.

    Raises:
        JigsawError: if the name of a supervised one does not say its step.
    """
    if not is_supervised(checkpoint):
        return (checkpoint / MARKER).is_file()
    tracker = checkpoint.parent / _TRACKER  # not there beside a copy
    return not tracker.is_file() or step_of(checkpoint) <= _tracked(tracker)


def is_supervised(checkpoint: Path) -> bool:
    """Whether verl's supervised trainer saved it: it has no other parts, and no marker."""
    return (checkpoint / "huggingface").is_dir()


def _tracked(tracker: Path) -> int:
    text = tracker.read_text().strip()
    return int(text) if text.isdecimal() else 0


def is_whole(folder: Path, step: int) -> bool:
    """Whether a run's checkpoint folder holds a complete checkpoint of a step."""
    checkpoint = folder / f"global_step_{step}"
    return (checkpoint / MARKER).exists() and _has_weights(checkpoint)


def _later(folder: Path, step: int) -> list[Path]:
    """Marked checkpoints below a run's folder of later steps than one, the oldest first."""
    marked = [marker.parent for marker in folder.glob(f"global_step_*/{MARKER}") if _NAME.fullmatch(marker.parent.name)]
    return sorted((checkpoint for checkpoint in marked if step_of(checkpoint) > step), key=step_of)


def _has_weights(checkpoint: Path) -> bool:
    # verl makes room by taking the weights of an old checkpoint away; the rest of it, our marker too, it leaves there.
    return (checkpoint / "actor").is_dir()


def last_whole(folder: Path) -> Path | None:
    """The newest complete checkpoint ``global_step_N`` below a run's checkpoint folder, None where there is none."""
    return next(filter(_has_weights, reversed(_later(folder, -1))), None)


def count_whole(folder: Path) -> int:
    """Number of complete checkpoints with their weights below a run's checkpoint folder."""
    return sum(map(_has_weights, _later(folder, -1)))


def step_of(checkpoint: Path) -> int:
    """The training step of a checkpoint folder.

    Raises:
        JigsawError: if its name does not say it.
    """
    found = _NAME.fullmatch(checkpoint.name)
    if found is None:
        raise JigsawError(f"{checkpoint}: is no checkpoint of verl's; its name must be global_step_N")
    return int(found[1])


def resume_overrides(folder: Path) -> list[str]:
    """Hydra overrides that resume from the newest complete checkpoint below ``folder``, or start anew without one."""
    checkpoint = last_whole(folder)
    if checkpoint is None:
        return ["trainer.resume_mode=disable"]
    return ["trainer.resume_mode=resume_path", override("trainer.resume_from_path", checkpoint.resolve())]


def override(key: str, value: object) -> str:
    """A Hydra override with its value quoted, see :func:`quoted`."""
    return f"{key}={quoted(value)}"


def quoted(value: object) -> str:
    """A value as the config language quotes it: a path may hold blanks, commas, brackets or letters of any script.

    Raises:
        JigsawError: if the value holds ``${``, which Hydra would resolve.
    """
    if "${" in str(value):
        raise JigsawError(f"{value}: holds '${{', which the config language resolves; give the folder without")
    # Hydra takes a backslash as it is, but before a quote, the closing one included.
    escaped = re.sub(r"(\\*)('|\Z)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), str(value))
    return f"'{escaped}'"


LOGS = {
    "file": "VERL_FILE_LOGGER_PATH",
    "tensorboard": "TENSORBOARD_DIR",
    "wandb": "WANDB_DIR",
    "swanlab": "SWANLAB_LOG_DIR",
    "trackio": "TRACKIO_DIR",
}
"""The variables by which verl's loggers know where to write."""


def log_override(logger: str, place: object) -> str:
    """A Hydra override that has a logger of verl's write to a file or folder.

    It goes with the job: loggers run on any node, and where a cluster was there before, not in our environment.
    """
    return override(f"+ray_kwargs.ray_init.runtime_env.env_vars.{LOGS[logger]}", place)
