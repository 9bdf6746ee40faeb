"""Checkpoints that are known to be whole.

verl 0.9.1 names the newest checkpoint in a tracker file that it rewrites in place: a run that is killed in that
moment leaves it empty, and the next start fails on it. So each finished checkpoint is marked, and a run resumes from
the newest marked one: ``python -m jigsaw.verl_plugin.checkpoint FOLDER [OVERRIDE]...`` prints what a start adds to
verl's command line.
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
        raise JigsawError(f"{value}: holds '${{', which the config language resolves; rename the folder")
    quoted = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return f"{key}='{quoted}'"


def metrics_override(file: Path) -> str:
    """A Hydra override that has verl's file logger write to ``file``.

    It goes with the job: the logger runs on any node, and where a cluster was there before, not in our environment.
    """
    return override("+ray_kwargs.ray_init.runtime_env.env_vars.VERL_FILE_LOGGER_PATH", file)


def folder_of(overrides: Iterable[str], default: Path) -> Path:
    """The checkpoint folder, absolute, that the last of a command line's Hydra overrides names; else the default.

    Raises:
        JigsawError: if Hydra cannot read it.
    """
    given = [text for text in overrides if text.startswith("trainer.default_local_dir=")]
    try:
        named = OverridesParser.create().parse_overrides(given)
    except OverrideParseException as error:
        raise JigsawError(f"{error.override}: Hydra cannot read it; quote the folder, \"…='FOLDER'\"") from error
    return Path(str(named[-1].value()) if named else default).resolve()


def start_overrides(folder: Path) -> list[str]:
    """Hydra overrides of a start: where it resumes, and a new metrics file, for verl's logger empties what is there."""
    metrics = folder / "metrics" / f"{datetime.now(UTC):%Y%m%dT%H%M%S}.jsonl"
    overrides = [*resume_overrides(folder), metrics_override(metrics)]
    metrics.parent.mkdir(parents=True, exist_ok=True)
    return overrides


if __name__ == "__main__":
    try:
        print(*start_overrides(folder_of(sys.argv[2:], Path(sys.argv[1]))), sep="\n")
    except JigsawError as error:
        print_error(error)
        sys.exit(1)
