"""Checkpoints that are known to be whole.

verl 0.9.1 names the newest checkpoint in a tracker file that it rewrites in place: a run that is killed in that
moment leaves it empty, and the next start fails on it. So each finished checkpoint is marked, and a run resumes from
the newest marked one: ``python -m jigsaw.verl_plugin.checkpoint RUN [OVERRIDE]...`` prints what a start adds to
verl's command line, a line each.
"""

import os
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException
from verl.trainer.ppo.checkpoint_callback import CheckpointCallback

from jigsaw.errors import JigsawError, print_error

MARKER = "WHOLE"
_FOLDER = "trainer.default_local_dir"
_QUOTE = f"write it as \"{_FOLDER}='FOLDER'\""


class MarkWhole(CheckpointCallback):  # type: ignore[misc]
    """Marks a checkpoint once verl has written all of it (``trainer.checkpoint_callback_class``)."""

    def on_save(self, trainer: Any, global_step: int, checkpoint_dir: str, async_save: bool = False, **_: Any) -> None:
        """Called by verl's trainer after each save."""
        if async_save:
            raise JigsawError("asynchronous checkpoints are not marked as whole; set actor.checkpoint.async_save=false")
        for path in sorted(Path(checkpoint_dir).rglob("*")):
            if path.is_file():
                _flush(path)
        (Path(checkpoint_dir) / MARKER).touch()


def _flush(path: Path) -> None:
    """Have the file on the disk before the marker says so."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def last_whole(folder: Path) -> Path | None:
    """The newest whole checkpoint ``global_step_N`` below a run's checkpoint folder, None where there is none."""
    # verl makes room by taking the weights of an old checkpoint away; the rest of it, our marker too, it leaves there.
    whole = [path.parent for path in folder.glob(f"global_step_*/{MARKER}") if (path.parent / "actor").is_dir()]
    return max(whole, key=step_of, default=None)


def step_of(checkpoint: Path) -> int:
    """The training step of a checkpoint folder."""
    return int(checkpoint.name.rpartition("_")[2])


def resume_overrides(folder: Path) -> list[str]:
    """Hydra overrides that resume from the newest whole checkpoint below ``folder``, or start anew without one."""
    checkpoint = last_whole(folder)
    if checkpoint is None:
        return ["trainer.resume_mode=disable"]
    return ["trainer.resume_mode=resume_path", override("trainer.resume_from_path", checkpoint.resolve())]


def override(key: str, value: object) -> str:
    """A Hydra override with its value quoted: a path may hold blanks, commas, brackets or letters of any script.

    Raises:
        JigsawError: if the value holds ``${``, which Hydra would resolve.
    """
    if "${" in str(value):
        raise JigsawError(f"{value}: holds '${{', which the config language resolves; give the folder without")
    quoted = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return f"{key}='{quoted}'"


def metrics_override(file: Path) -> str:
    """A Hydra override that has verl's file logger write to ``file``.

    It goes with the job: the logger runs on any node, and where a cluster was there before, not in our environment.
    """
    return override("+ray_kwargs.ray_init.runtime_env.env_vars.VERL_FILE_LOGGER_PATH", file)


def folder_of(overrides: Iterable[str], default: Path) -> Path:
    """The checkpoint folder that the last of a command line's Hydra overrides names; else the default.

    Raises:
        JigsawError: if Hydra cannot read it, or reads anything but text.
    """
    given = [text for text in overrides if text.lstrip("+").startswith(f"{_FOLDER}=")]
    try:
        named = [entry.value() for entry in OverridesParser.create().parse_overrides(given)]
    except OverrideParseException as error:
        raise JigsawError(f"{error.override}: Hydra cannot read it; {_QUOTE}") from error
    if not named:
        return default
    folder = named[-1]
    if not folder or not isinstance(folder, str):
        raise JigsawError(f"{given[-1]}: names no folder; {_QUOTE}")
    return Path(folder)


def start_overrides(run: Path, given: Iterable[str]) -> list[str]:
    """Hydra overrides of a start, which come before the given ones.

    They say where checkpoints go (unless told, to ``run / "checkpoints"``), where it resumes, and a new metrics file
    beside the checkpoints, for verl's logger empties what is there. This file's folder is made.

    Raises:
        JigsawError: if the given ones name no folder for checkpoints.
    """
    default = run / "checkpoints"
    folder = folder_of(given, default).resolve()
    metrics = folder / "metrics" / f"{datetime.now(UTC):%Y%m%dT%H%M%S}.jsonl"
    start = [
        override(_FOLDER, default),
        override("hydra.run.dir", run / "hydra"),
        *resume_overrides(folder),
        metrics_override(metrics),
    ]
    metrics.parent.mkdir(parents=True, exist_ok=True)
    return start


if __name__ == "__main__":
    try:
        print(*start_overrides(Path(sys.argv[1]), sys.argv[2:]), sep="\n")
    except (JigsawError, OSError) as error:
        print_error(error)
        sys.exit(1)
