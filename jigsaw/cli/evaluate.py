"""``jigsaw eval``: a model on the paper's benchmarks."""

import json
import os
import re
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from jigsaw import machine
from jigsaw.errors import JigsawError
from jigsaw.evaluation.puzzles import MEDIA_ROOT, ROWS

if TYPE_CHECKING:
    from jigsaw.lmms_plugin.run import Cost


class Suite(StrEnum):
    """Benchmarks that belong together."""

    image = "image"
    video = "video"
    scenes = "3d"
    all = "all"
    jigsaw = "jigsaw"


class Protocol(StrEnum):
    """How replies are read."""

    paper = "paper"
    fixed = "fixed"
    both = "both"


class Engine(StrEnum):
    """Who answers."""

    hf = "hf"
    vllm = "vllm"


class TimeEmbedding(StrEnum):
    """Where the frames of a film lie in time."""

    released = "released"
    true = "true"


def evaluate(
    model: Annotated[str, typer.Argument(help="Folder or hub name of the model.", metavar="MODEL")],
    suite: Annotated[
        Suite | None, typer.Option(help="Benchmarks of the paper, or held-out puzzles.", show_default=False)
    ] = None,
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
    time_embedding: Annotated[
        TimeEmbedding, typer.Option(help="How long two frames of a film last: 1 s, as in the paper, or what is true.")
    ] = TimeEmbedding.released,
    out: Annotated[
        Path | None, typer.Option(help="Folder of replies and results.", show_default="outputs/eval/MODEL")
    ] = None,
    rows: Annotated[
        Path | None, typer.Option(help="Prepared rows of held-out puzzles.", metavar="FILE.parquet", show_default=False)
    ] = None,
    media_root: Annotated[
        Path | None, typer.Option(help="Folder of their media.", metavar="DIR", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON; all else on stderr.")] = False,
) -> None:
    """Ask a model the paper's benchmarks and score its replies.

    VJ_DATA names the folder with their data. All data and media are found before the model is loaded. Stopped at any
    point and started again, it asks what is not answered yet. A quickstart's folder as MODEL is its trained model, and
    brings its held-out puzzles.

    Example: [bold]jigsaw eval visual_jigsaw_image_7B --suite image[/]
    """
    if not find_spec("lmms_eval"):
        raise JigsawError(f"lmms_eval is not installed; first: {machine.SETUP}")
    from jigsaw.lmms_plugin import FEWEST_FRAMES
    from jigsaw.lmms_plugin.run import Evaluation, costs, run, tasks_of, unexpected

    console = Console(stderr=True)
    place = out or Path("outputs/eval") / Path(model).resolve().name
    model = _held_out(model, rows, media_root)
    if Path(model).is_dir():
        model = str(Path(model).resolve())
        if out is None and re.fullmatch(r"step_\d+", Path(model).name):  # many runs have one
            place = place.with_name("_".join(Path(model).parts[-3:]))
    if place.exists() and not place.is_dir():
        raise JigsawError(f"--out {place}: is a file; give a folder")
    names = tasks_of(suite and suite.value, [name.strip() for name in tasks.split(",") if name.strip()], protocol.value)
    numbers = _frames(frames, FEWEST_FRAMES)
    found = costs(names, limit)
    if found:
        console.print(_costs(found, numbers))
    for told in unexpected(found, limit):
        console.print(told, soft_wrap=True, markup=False)
    evaluation = Evaluation(model, names, numbers, engine.value, gpus, limit, time_embedding.value, max_tokens)
    results = run(evaluation, place)
    if as_json:
        print(json.dumps(results, indent=2))
    else:
        Console().print(_results(results))


def _held_out(model: str, rows: Path | None, media_root: Path | None) -> str:
    """Tell the tasks where held-out puzzles are; the model's folder, of a quickstart's the last that it exported."""
    summary = Path(model) / "summary.json"
    if summary.is_file():
        said = json.loads(summary.read_text(encoding="utf-8"))
        if "heldout_parquet" not in said and rows is None:
            parts = ", ".join(f"--rows {one['heldout_parquet']}" for one in said["tasks"].values())
            raise JigsawError(f"{model}: is a mixture; give --rows and --media-root of one of its tasks: {parts}")
        if "heldout_parquet" in said:
            rows, media_root = rows or Path(said["heldout_parquet"]), media_root or Path(said["heldout_media_root"])
        exported = sorted((Path(model) / "model").glob("step_*"), key=lambda folder: int(folder.name[5:]))
        if not exported:
            raise JigsawError(f"{model}: holds no exported model; let the quickstart end first")
        model = str(exported[-1])
    if (rows is None) != (media_root is None):
        raise JigsawError("give both --rows and --media-root, or none of them")
    if rows and media_root:
        os.environ.update({ROWS: str(rows), MEDIA_ROOT: str(media_root)})
    return model


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
    names = ["benchmark", "metric", "frames", "paper", "careful", "chance", "n", "unread"]
    rows: dict[tuple[str, str, int | None], dict[str, Any]] = {}
    for figure in results["figures"]:
        key = (figure["benchmark"], figure["metric"], figure["frames"])
        rows.setdefault(key, {})[figure["protocol"]] = figure
    lines = []
    for (benchmark, metric, frames), by_protocol in rows.items():
        one = next(iter(by_protocol.values()))
        read = [by_protocol.get("paper") or by_protocol.get("own"), by_protocol.get("fixed")]
        values = [f"{100 * figure['value']:.1f}" if figure else "" for figure in read]
        luck = "" if one["chance"] is None else f"{100 * one['chance']:.1f}"
        unread = "" if one["unreadable"] is None else f"{one['unreadable']:.0%}"
        lines.append([benchmark, metric, str(frames or ""), *values, luck, f"{one['n']:,}", unread])
    if not any(line[4] for line in lines):
        names[3] = "score"  # read in one way
    shown = [place for place, _ in enumerate(names) if any(line[place] for line in lines)]
    caption = "per cent; paper, careful: how replies are read; unread: replies in which nothing could be"
    title = f"{Path(results['model']).name}, by {results['engine']}"
    table = Table(title=title, caption=caption, box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for place in shown:
        table.add_column(names[place], justify="left" if place < 2 else "right", no_wrap=True)
    for line in lines:
        table.add_row(*(line[place] for place in shown))
    return table
