"""A run goes on with the rows that it began with: what they hold lies, as hashes, beside its checkpoints."""

import json
from pathlib import Path

from omegaconf import DictConfig

from jigsaw.errors import JigsawError
from jigsaw.files import sha256_of, write_json
from jigsaw.verl_plugin.checkpoint import first_step
from jigsaw.verl_plugin.plans import training_sources

ROWS = "rows.json"


def remember_rows(config: DictConfig) -> None:
    """Write down beside the checkpoints which files are trained on, and what they hold.

    Raises:
        JigsawError: if it cannot be written.
    """
    folder = Path(config.trainer.default_local_dir)
    write_json(folder / ROWS, [{"file": file, "sha256": sha256_of(Path(file))} for file in _files(config)])


def check_same_rows(config: DictConfig) -> None:
    """Raise JigsawError where a run goes on from a checkpoint with other rows than it was trained on.

    A file may have been moved; an order of files is part of what comes when.
    """
    written = Path(config.trainer.default_local_dir) / ROWS
    if config.data.accept_other_rows or not first_step(config.trainer) or not written.is_file():
        return
    try:
        before = [(entry["file"], entry["sha256"]) for entry in json.loads(written.read_text(encoding="utf-8"))]
    except (ValueError, TypeError, KeyError) as error:
        raise JigsawError(f"{written}: is broken; remove it, if the rows are those of before") from error
    files = _files(config)
    if not all(Path(file).is_file() for file in files):
        return  # said of the data
    other = [file for file, (_, wanted) in zip(files, before, strict=False) if sha256_of(Path(file)) != wanted]
    if len(files) != len(before):
        other = other or files
    if other:
        names = ", ".join(file for file, _ in before)
        raise JigsawError(
            f"{', '.join(other)}: not the rows that this run was trained on so far ({names}, as {written} says); give "
            "those, choose another trainer.default_local_dir, or go on with these: data.accept_other_rows=true"
        )


def _files(config: DictConfig) -> list[str]:
    return [file for source in training_sources(config.data) for file in source.files]
