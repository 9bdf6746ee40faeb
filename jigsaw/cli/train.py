"""``jigsaw train``: GRPO by a recipe, checked before it starts."""

import sys
from typing import Annotated, Literal

import typer

from jigsaw import machine
from jigsaw.errors import JigsawError, Problems


def train(
    recipe: Annotated[
        str, typer.Argument(help="image, video, depth, mixture, or a YAML file of your own.", metavar="RECIPE")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Hydra overrides of its values.", metavar="NAME=VALUE")
    ] = None,
    cfg: Annotated[
        Literal["job"] | None, typer.Option("--cfg", help="Print the config that verl would get, and end.")
    ] = None,
    resolve: Annotated[bool, typer.Option("--resolve", help="With --cfg: its references followed.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Check all that a start needs, and end.")] = False,
) -> None:
    """Train by a recipe. Started again, it resumes from the last complete checkpoint.

    Rows, media folders, model, GPUs, cores and the run's folder are checked first; what is wrong is said at once, with
    exit code 1. Then verl's trainer takes over. To check the media themselves: jigsaw verify.

    Example: [bold]jigsaw train image data.train_files=data/train.parquet data.val_files=data/val.parquet
    data.media_root=COCO/train2017 trainer.n_gpus_per_node=4[/]
    """
    try:
        from omegaconf import OmegaConf

        from jigsaw.verl_plugin import launch, preflight
    except ModuleNotFoundError as error:
        raise JigsawError(f"{error.name} is not installed; to train: {machine.SETUP_GPU}") from error

    start = launch.plan_start(recipe, overrides or [])
    if cfg is not None:
        print(OmegaConf.to_yaml(start.config, resolve=resolve), end="")
        return
    if left := launch.leave_cpu(start.config):
        print(f"the recipe is for GPUs; left out, of train_scripts/env_cpu.sh: {', '.join(left)}", file=sys.stderr)
    if found := preflight.problems(start.config):
        raise Problems(found)
    if check:
        print("nothing is known to stop this run")
    else:
        launch.train(start)
