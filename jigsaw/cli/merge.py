"""``jigsaw merge``: a checkpoint to a Hugging Face folder."""

import os
from pathlib import Path
from tempfile import mkstemp
from typing import Annotated

import typer

from jigsaw import machine
from jigsaw.errors import JigsawError
from jigsaw.verl_plugin.cpu.environment import ENVIRONMENT


def merge(
    checkpoint: Annotated[Path, typer.Argument(help="A folder global_step_N.", metavar="CHECKPOINT")],
    out: Annotated[Path, typer.Argument(help="Folder to make.", metavar="OUT")],
) -> None:
    """Make a Hugging Face folder of a checkpoint, for transformers, vLLM and lmms-eval.

    Example: [bold]jigsaw merge outputs/image_jigsaw/checkpoints/global_step_1000 merged[/]
    """
    if not machine.gpus():
        os.environ.update(ENVIRONMENT)
    try:
        from jigsaw.verl_plugin.checkpoint import is_saved, is_supervised
        from jigsaw.verl_plugin.child import merge_checkpoint
    except ModuleNotFoundError as error:
        raise JigsawError(f"{error.name} is not installed; to merge: {machine.SETUP_GPU}") from error

    actor = checkpoint if is_supervised(checkpoint) else checkpoint / "actor"
    if not actor.is_dir():
        raise JigsawError(f"{checkpoint}: is no checkpoint; name a folder global_step_N, which has a folder actor")
    if not is_saved(checkpoint):
        raise JigsawError(f"{checkpoint}: is not complete, its save was cut off; take an earlier one")
    if out.exists():
        raise JigsawError(f"{out}: is there already; remove it or choose another folder")
    descriptor, name = mkstemp(prefix="jigsaw-merge-", suffix=".log")
    os.close(descriptor)
    log = Path(name)  # of an error, which names it, it is left
    merge_checkpoint(actor, out, log=log)
    log.unlink()
    print(f"{out}: made of {checkpoint}")
