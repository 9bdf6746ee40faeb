"""``jigsaw quickstart``: the whole chain with a tiny model, on the CPU."""

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from jigsaw import machine
from jigsaw.errors import JigsawError
from jigsaw.toy.settings import FORMED, RAISE_AT, ROUNDS, STEPS, STEPS_OF_PICTURES, WINDOW, Kind, Settings
from jigsaw.verl_plugin.cpu.environment import ENVIRONMENT


def quickstart(
    task: Annotated[
        Kind,
        typer.Option(help="What is rendered and trained; mixture is all."),
    ] = "image",
    grid: Annotated[str, typer.Option(help="Of pictures: rows x columns of tiles.")] = "2x1",
    clips: Annotated[int, typer.Option(help="Of films.")] = 2,
    points: Annotated[int, typer.Option(help="Of rooms.")] = 2,
    begin_with: Annotated[
        str | None,
        typer.Option(help=f"An easier grid, like 2x1, until {WINDOW} steps were {RAISE_AT:.0%} exact."),
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of your own pictures instead of rendered scenes.")] = None,
    steps: Annotated[
        int | None,
        typer.Option(help="GRPO steps.", min=1, show_default=f"{STEPS}, or {STEPS_OF_PICTURES} with --images"),
    ] = None,
    warm_start_steps: Annotated[
        int | None,
        typer.Option(
            help="Supervised steps on puzzles before GRPO.",
            min=1,
            show_default=f"up to {ROUNDS} rounds, until {FORMED:.0%} of replies are permutations, enough names right",
        ),
    ] = None,
    model: Annotated[Literal["qwen2_5_vl", "qwen3_vl"], typer.Option(help="Family of the tiny model.")] = "qwen2_5_vl",
    seed: Annotated[int, typer.Option(help="Seed of pictures, weights and draws.", min=0)] = 0,
    out: Annotated[Path | None, typer.Option(help="Output folder.", show_default="outputs/quickstart")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON; all else on stderr.")] = False,
) -> None:
    """Train a tiny Qwen-VL on jigsaws with verl, Ray and vLLM, on the CPU, and test what it learned.

    Stopped at any point, it resumes from the last complete checkpoint when started again.

    Example: [bold]jigsaw quickstart --grid 2x2[/]
    """
    os.environ.update(ENVIRONMENT)  # before verl and torch are imported
    try:
        from jigsaw.toy import quickstart as toy
    except ModuleNotFoundError as error:
        raise JigsawError(f"{error.name} is not installed; first: {machine.SETUP}") from error

    folder = str(images.resolve()) if images else None
    settings = Settings(grid, begin_with, folder, warm_start_steps, seed, model, task, clips, points)
    toy.start(out, settings, steps, as_json=as_json)
