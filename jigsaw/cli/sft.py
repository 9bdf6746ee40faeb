"""``jigsaw sft``: the supervised baseline."""

import shlex
from typing import Annotated

import typer

from jigsaw import machine
from jigsaw.cli.inputs import Data, MediaRoot, Model
from jigsaw.errors import JigsawError


def sft(
    recipe: Annotated[
        str, typer.Argument(help="Of configs/, ends in _sft, or a YAML file of your own.", metavar="RECIPE")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Hydra overrides of its values.", metavar="NAME=VALUE")
    ] = None,
    model: Model = None,
    data: Data = None,
    media_root: MediaRoot = None,
    output: Annotated[
        str | None, typer.Option(help="The run's folder; without it outputs/RECIPE.", metavar="DIR")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", envvar="DRY_RUN", help="Check what a start needs, print its command, and end.")
    ] = False,
) -> None:
    """Train on the right answers themselves, the baseline that GRPO is measured against; pictures alone.

    With verl's supervised trainer, on this machine's GPUs. Started again, it resumes from the newest checkpoint.

    Example: [bold]jigsaw sft image_sft --data data/image --media-root COCO/train2017[/]
    """
    try:
        from jigsaw.verl_plugin import launch
    except ModuleNotFoundError as error:
        raise JigsawError(f"{error.name} is not installed; to train: {machine.SETUP_GPU}") from error

    inputs = launch.Inputs(model, data, media_root, output).overrides(supervised=True)
    start = launch.plan_supervised(recipe, [*inputs, *(overrides or [])])
    launch.leave_cpu(start.config)
    if dry_run:
        print(shlex.join(start.command))
        print("nothing is known to stop this run")
    else:
        start.make_ready()
        launch.train(start)
