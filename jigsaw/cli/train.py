"""``jigsaw train``: GRPO by a recipe, checked before it starts."""

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jigsaw import machine
from jigsaw.cli.inputs import Data, MediaRoot, Model
from jigsaw.errors import JigsawError, Problems

if TYPE_CHECKING:
    from jigsaw.verl_plugin.launch import Start


def train(
    recipe: Annotated[
        str, typer.Argument(help="Of configs/, such as image, or a YAML file of your own.", metavar="RECIPE")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Hydra overrides of its values; model=NAME for another model.", metavar="NAME=VALUE"),
    ] = None,
    model: Model = None,
    data: Data = None,
    media_root: MediaRoot = None,
    output: Annotated[
        str | None, typer.Option(help="The run's folder; without it outputs/RECIPE_jigsaw.", metavar="DIR")
    ] = None,
    cfg: Annotated[
        Literal["job"] | None, typer.Option("--cfg", help="Print the config that verl would get, and end.")
    ] = None,
    resolve: Annotated[bool, typer.Option("--resolve", help="With --cfg: its references followed.")] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            envvar="DRY_RUN",
            help="Check all that a start needs, with verl's own validation too; show what it takes, and end.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --dry-run: a JSON object instead of a table.")] = False,
    restarts: Annotated[
        int,
        typer.Option(min=0, help="So often, go on from the last complete checkpoint when a fault ends the run."),
    ] = 0,
    hang_factor: Annotated[
        float, typer.Option(min=1, help="With --restarts: a step of so many times the usual is a fault.")
    ] = 20,
    hang_limit: Annotated[
        float, typer.Option(min=0, help="With --restarts: minutes that any step may take; no fault before.")
    ] = 10,
    start_limit: Annotated[
        float, typer.Option(min=0, help="With --restarts: minutes until a start's first step; more are a fault.")
    ] = 60,
) -> None:
    """Train by a recipe. Started again, it resumes from the last complete checkpoint.

    Rows, media folders, model, GPUs, cores and the run's folder are checked first; what is wrong is said at once, with
    exit code 1. Then verl's trainer takes over. To check the media themselves: jigsaw verify.

    SIGTERM has the step that runs finished and saved, and ends with exit code 143; a second one ends at once.

    Example: [bold]jigsaw train image --data data/image --media-root COCO/train2017 trainer.save_freq=20[/]
    """
    try:
        from omegaconf import OmegaConf

        from jigsaw.verl_plugin import launch, preflight
        from jigsaw.verl_plugin.benchmarks import Benchmarks
        from jigsaw.verl_plugin.supervisor import Limits, Supervisor
    except ModuleNotFoundError as error:
        raise JigsawError(f"{error.name} is not installed; to train: {machine.SETUP_GPU}") from error

    inputs = launch.Inputs(model, data, media_root, output)
    given = [*inputs.overrides(), *(overrides or [])]

    def again() -> "Start":
        start = launch.plan_start(recipe, given)
        if found := preflight.problems(start.config):
            raise Problems(found)
        start.make_ready()
        return start

    start = launch.plan_start(recipe, given)
    if cfg is not None:
        print(OmegaConf.to_yaml(start.config, resolve=resolve), end="")
        return
    if left := launch.leave_cpu(start.config):
        print(f"the recipe is for GPUs; left out, of train_scripts/env_cpu.sh: {', '.join(left)}", file=sys.stderr)
    if found := preflight.problems(start.config):
        raise Problems(found)
    if dry_run:
        _show(start, as_json)
        return
    if start.config.eval.suite:
        print(f"asked during training: {Benchmarks(start.config.eval)}", file=sys.stderr)
    start.make_ready()
    if restarts:
        limits = Limits(restarts, hang_factor=hang_factor, hang_floor_s=60 * hang_limit, start_s=60 * start_limit)
        folder = Path(start.config.trainer.default_local_dir)
        raise typer.Exit(Supervisor(again, folder, limits, launch.environment()).run(start))
    launch.train(start)


def _show(start: "Start", as_json: bool) -> None:
    from jigsaw.verl_plugin.benchmarks import Benchmarks
    from jigsaw.verl_plugin.dry_run import verls_problems, what_it_takes

    if found := verls_problems(start.config):
        raise Problems(found)
    takes = what_it_takes(start)
    if as_json:
        print(json.dumps(takes, indent=2))
        return
    rows, memory, gpus = takes["rows"], takes["memory"], takes["machines"] * takes["gpus_a_machine"]
    if isinstance(memory, dict):
        room = memory.pop("room")
        memory = f"{', '.join(f'{phase} {size}' for phase, size in memory.items())} of {room}"
    table = Table(show_header=False)
    for name, value in {
        "model": takes["model"],
        "rows": f"{rows['train']:,} to train on, {rows['held_out']:,} held out",
        "a step": f"{takes['prompts_a_step']} prompts × {takes['responses_a_prompt']} responses on {gpus} GPUs, "
        f"{takes['machines']} × {takes['gpus_a_machine']}",
        "steps": f"{takes['steps']}; a checkpoint every {takes['saves_every']}, a test every {takes['tests_every']}",
        "benchmarks": str(Benchmarks(start.config.eval)),
        "GiB of a GPU": memory,
        "checkpoints": takes["checkpoints"],
        "begins": f"from {takes['resumes_from']}" if takes["resumes_from"] else "anew",
        "metrics": ", ".join([takes["metrics"], *takes["loggers"]]),
    }.items():
        table.add_row(name, Text(str(value)))
    console = Console(highlight=False)
    console.print(table)
    console.print(shlex.join(takes["command"]), soft_wrap=True, markup=False)
    console.print("nothing is known to stop this run")
