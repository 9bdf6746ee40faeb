"""``jigsaw plan``: does a recipe fit its GPUs, and what is there to do if not?"""

import json
from collections.abc import Iterable
from math import isfinite
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jigsaw import memory
from jigsaw.errors import JigsawError, OptionError, Problems
from jigsaw.machine import SETUP
from jigsaw.memory import GIB, Phase
from jigsaw.pace import SHARE_OF_ROLLOUT, SHARE_OF_UPDATE, pace


def plan(
    recipe: Annotated[
        str, typer.Argument(help="Of configs/, such as image, or a YAML file of your own.", metavar="RECIPE")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Hydra overrides of its values; model=NAME for another model.", metavar="NAME=VALUE"),
    ] = None,
    gpus: Annotated[
        int | None, typer.Option(help="GPUs on a machine; without it trainer.n_gpus_per_node.", metavar="N")
    ] = None,
    gpu_memory: Annotated[float, typer.Option(help="Of a GPU, the GB by which it is called.", metavar="GB")] = 80.0,
    prompt_tokens: Annotated[
        int, typer.Option(help="Of a prompt, on average, for the time a step takes.", metavar="N")
    ] = 700,
    reply_tokens: Annotated[int, typer.Option(help="Of a reply, on average.", metavar="N")] = 450,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object instead of tables.")] = False,
) -> None:
    """Work out what a recipe takes of its GPUs' memory in each phase, of host memory, /dev/shm and disk.

    From the shapes of the model alone: no data, no weights, no GPU. With a tenth of a card to spare; what does not fit
    is said with what to do, and exit code 1. A step's time is worked out for H100s, by assumed shares of their peak.

    Example: [bold]jigsaw plan video model=qwen3_vl_8b --gpus 4[/]
    """
    _check_options(gpu_memory, gpus=gpus, prompt_tokens=prompt_tokens, reply_tokens=reply_tokens)
    try:
        from jigsaw.verl_plugin import launch, preflight
        from jigsaw.verl_plugin import memory as options
    except ModuleNotFoundError as error:
        raise JigsawError(f"{error.name} is not installed; to plan a training: {SETUP}") from error

    given = [*(overrides or []), *([] if gpus is None else [f"trainer.n_gpus_per_node={gpus}"])]
    config = launch.plan_start(recipe, given).config
    setup = options.setup_of(config, gpu_memory)
    if found := preflight.problems_of_sizes(config):
        raise Problems(found)
    if why := memory.too_small(setup):
        raise OptionError("gpu_memory", gpu_memory, why)
    lacks, phases, machine = memory.lacks(setup), memory.phases(setup), memory.machine(setup)
    largest = memory.largest_budget(setup) if setup.packed else None
    replies = config.actor_rollout_ref.rollout.n
    takes = pace(setup, replies, prompt_tokens, reply_tokens)
    advice = [options.overrides(setup, other) for other in memory.remedies(setup)] if lacks else []
    if as_json:
        summary = {
            "gpus": setup.gpus,
            "card_gib": _gib(setup.card),
            "room_gib": _gib(setup.room),
            "fits": not lacks,
            "lacks": lacks,
            "advice": advice,
            "max_tokens_per_gpu": {"set": setup.budget, "largest": largest} if setup.packed else None,
            "assumed_seconds": {"rollout": takes.rollout, "update": takes.update, "step": takes.step},
            "phases": _summary(phases),
            "machine": _summary(machine),
        }
        print(json.dumps(summary, indent=2, ensure_ascii=False))
    else:
        card = f"{gpu_memory:g} GB"
        console = Console(highlight=False)
        console.print(
            _table(phases, f"each of {setup.gpus} GPUs of {card}" if setup.gpus > 1 else f"a GPU of {card}", setup.room)
        )
        console.print(_table(machine, f"each of {setup.nodes} machines" if setup.nodes > 1 else "the machine"))
        for lack in lacks:
            console.print(f"does not fit: {lack}", style="bold red", soft_wrap=True)
        for number, found in enumerate(advice):
            console.print(f"{'or' if number else 'fits with'}: {' '.join(found)}", soft_wrap=True)
        if lacks and not advice:
            console.print("no setting here makes it fit; take a smaller model or larger cards")
        if not lacks:
            console.print(f"fits, with {memory.SPARE:.0%} of a card to spare")
        if largest:
            option = options.OPTIONS["budget"]
            console.print(f"packs may have up to {largest:,} tokens; {option} is {setup.budget:,}", soft_wrap=True)
        console.print(
            f"a step of {setup.prompts:,} prompts of {prompt_tokens:,} tokens × {replies} replies of {reply_tokens:,} "
            f"takes {takes.step:,.0f} s on H100s: rollout {takes.rollout:,.0f} s, at {SHARE_OF_ROLLOUT:.0%} of their "
            f"peak, training {takes.update:,.0f} s, at {SHARE_OF_UPDATE:.0%}; both assumed",
            soft_wrap=True,
        )
    if lacks:
        raise typer.Exit(1)


def _check_options(gpu_memory: float, **counts: int | None) -> None:
    for name, value in counts.items():
        if value is not None and value < 1:
            raise OptionError(name, value, "must be 1 or more")
    if not (isfinite(gpu_memory) and gpu_memory > 0):
        raise OptionError("gpu_memory", gpu_memory, "must be a number of GB above 0")


def _gib(size: float) -> float:
    return round(size / GIB, 2)


def _summary(phases: Iterable[Phase]) -> dict[str, Any]:
    return {
        phase.name: {
            "gib": _gib(phase.size),
            "parts": [{"what": part.what, "gib": _gib(part.size), "how": part.how} for part in phase.parts],
        }
        for phase in phases
    }


def _table(phases: Iterable[Phase], title: str, room: float | None = None) -> Table:
    table = Table(title=title)
    table.add_column("phase" if room else "of")
    table.add_column("what", overflow="fold")
    table.add_column("GiB", justify="right")
    table.add_column("how it is worked out", overflow="fold")
    for phase in phases:
        table.add_section()
        of = "" if room is None else f"of {room / GIB:.1f}"
        style = "bold" if room is None or phase.size <= room else "bold red"
        table.add_row(Text(phase.name, style="bold"), "", Text(f"{phase.size / GIB:.1f}", style=style), of)
        for part in phase.parts:
            table.add_row("", Text(part.what), f"{part.size / GIB:.1f}", Text(part.how))
    return table
