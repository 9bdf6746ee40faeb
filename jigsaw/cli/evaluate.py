"""``jigsaw eval``: a model on the paper's benchmarks."""

import json
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from jigsaw import machine
from jigsaw.errors import JigsawError

if TYPE_CHECKING:
    from jigsaw.lmms_plugin.run import Cost


class Suite(StrEnum):
    """Benchmarks that belong together."""

    image = "image"
    video = "video"
    scenes = "3d"
    all = "all"


class Protocol(StrEnum):
    """How replies are read."""

    paper = "paper"
    fixed = "fixed"
    both = "both"


class Engine(StrEnum):
    """Who answers."""

    hf = "hf"
    vllm = "vllm"


def evaluate(
    model: Annotated[str, typer.Argument(help="Folder or hub name of the model.", metavar="MODEL")],
    suite: Annotated[Suite | None, typer.Option(help="Benchmarks of the paper.", show_default=False)] = None,
    tasks: Annotated[
        str, typer.Option(help="In place of it or besides: names of tasks, of lmms-eval's own too.", metavar="NAME,…")
    ] = "",
    frames: Annotated[str, typer.Option(help="Most frames of a film; several for a run each.", metavar="N,…")] = "16",
    protocol: Annotated[Protocol, typer.Option(help="Read replies as the paper did, or carefully.")] = Protocol.both,
    engine: Annotated[Engine, typer.Option(help="Who answers.")] = Engine.vllm,
    gpus: Annotated[int, typer.Option(help="Processes, each with a GPU where there are any.", min=1)] = 1,
    limit: Annotated[
        int | None, typer.Option(help="The first so many questions of each task.", min=1, show_default=False)
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Longest reply.", min=1, show_default="as the tasks say: 1024 of ours")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of replies and results.", show_default="outputs/eval/MODEL")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON; all else on stderr.")] = False,
) -> None:
    """Ask a model the paper's benchmarks and score its replies.

    VJ_DATA names the folder with their data. All data and media are found before the model is loaded. Stopped at any
    point and started again, it asks what is not answered yet.

    Example: [bold]jigsaw eval visual_jigsaw_image_7B --suite image[/]
    """
    if not find_spec("lmms_eval"):
        raise JigsawError(f"lmms_eval is not installed; first: {machine.SETUP}")
    from jigsaw.lmms_plugin import FEWEST_FRAMES
    from jigsaw.lmms_plugin.run import Evaluation, costs, run, tasks_of

    console = Console(stderr=True)
    names = tasks_of(suite and suite.value, [name for name in tasks.split(",") if name], protocol.value)
    numbers = _frames(frames, FEWEST_FRAMES)
    console.print(_costs(costs(names, limit), numbers))
    options = {"max_new_tokens": max_tokens} if max_tokens else {}
    evaluation = Evaluation(model, names, numbers, engine.value, gpus, limit, options=options)
    results = run(evaluation, out or Path("outputs/eval") / Path(model).name)
    if as_json:
        print(json.dumps(results, indent=2))
    else:
        Console().print(_results(results))


def _frames(text: str, fewest: int) -> tuple[int, ...]:
    try:
        numbers = tuple(dict.fromkeys(int(number) for number in text.split(",")))
    except ValueError as error:
        raise JigsawError(f"--frames {text}: must be numbers, such as 16,32,64") from error
    if min(numbers) < fewest:
        raise JigsawError(f"--frames {text}: must be {fewest} or more")
    return numbers


def _costs(found: "list[Cost]", frames: tuple[int, ...]) -> Table:
    table = Table("task", title="To ask")
    for name in ("questions", "pictures", "films", *(f"frames at {most}" for most in frames), "tokens of films"):
        table.add_column(name, justify="right")
    for cost in found:
        counts = [cost.questions, cost.pictures, cost.films, *(cost.frames(most) for most in frames)]
        tokens = sum(cost.frames(most) for most in frames) * 256 // 2
        table.add_row(
            cost.task, *(f"{count:,}" if count else "" for count in counts), f"≤ {tokens:,}" if tokens else ""
        )
    return table


def _results(results: dict[str, Any]) -> Table:
    table = Table("benchmark", "metric", "frames", title=f"{results['model']}, by {results['engine']}")
    for name in ("paper's way", "careful", "chance", "questions", "unreadable"):
        table.add_column(name, justify="right")
    rows: dict[tuple[str, str, int | None], dict[str, Any]] = {}
    for figure in results["figures"]:
        key = (figure["benchmark"], figure["metric"], figure["frames"])
        rows.setdefault(key, {})[figure["protocol"]] = figure
    for (benchmark, metric, frames), by_protocol in rows.items():
        one = next(iter(by_protocol.values()))
        values = [f"{by_protocol[way]['value']:.4f}" if way in by_protocol else "" for way in ("paper", "fixed")]
        luck = "" if one["chance"] is None else f"{one['chance']:.4f}"
        unread = "" if one["unreadable"] is None else f"{one['unreadable']:.1%}"
        table.add_row(benchmark, metric, str(frames or ""), *values, luck, f"{one['n']:,}", unread)
    return table
