"""``jigsaw prepare``: raw data sets to rows."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
)
from rich.table import Table
from rich.text import Text

from jigsaw.prepare.images import ImageOptions, parse_grid, prepare_images
from jigsaw.prepare.pipeline import Rejects, Summary
from jigsaw.prepare.runner import Progress as OnProgress
from jigsaw.rows import AnswerFormat

prepare = typer.Typer(help="Make rows (train.parquet, val.parquet) from raw data sets.", no_args_is_help=True)

Out = Annotated[Path, typer.Option(help="Output folder.")]
Seed = Annotated[int, typer.Option(help="Seed of all that is drawn.")]
Workers = Annotated[int | None, typer.Option(help="Number of readers at a time; one a core if not given.")]
RayAddress = Annotated[
    str | None, typer.Option(help="Work on this Ray cluster, for example 10.0.0.1:6379; its nodes see the same files.")
]
Format = Annotated[AnswerFormat, typer.Option(help="How the prompt asks for the answer.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")]


@prepare.callback()
def _group() -> None:
    # With a callback Typer keeps the command's name, also while there is one command alone.
    pass


@prepare.command()
def image(
    media_root: Annotated[Path, typer.Option(help="Folder of pictures; all below it are taken.")],
    out: Out,
    grid: Annotated[str, typer.Option(help="Rows x columns of tiles.")] = "3x3",
    min_side: Annotated[int, typer.Option(help="Leave out pictures with a shorter side, in pixels.")] = 84,
    val: Annotated[
        int, typer.Option(help="Number of pictures for val.parquet; 0 leaves it empty, and training needs some.")
    ] = 0,
    seed: Seed = 0,
    workers: Workers = None,
    ray_address: RayAddress = None,
    verify: Annotated[bool, typer.Option("--verify", help="Decode every picture, not its header alone.")] = False,
    answer_format: Format = "answer_tag",
    limit: Annotated[int | None, typer.Option(help="Look at a random sample of so many pictures.")] = None,
    as_json: AsJson = False,
) -> None:
    """Image jigsaws from every picture below a folder. A run that was stopped goes on when started again.

    Example: [bold]jigsaw prepare image --media-root COCO/train2017 --out data/image --grid 3x3 --val 500[/]
    """
    options = ImageOptions(
        grid=parse_grid(grid),
        min_side=min_side,
        verify=verify,
        val=val,
        seed=seed,
        limit=limit,
        answer_format=answer_format,
    )
    with _progress_bar("pictures") as (progress, rejects):
        summary = prepare_images(
            media_root, out, options, workers=workers, ray_address=ray_address, progress=progress, rejects=rejects
        )
    _report(summary, out, "pictures", as_json)


def _report(summary: Summary, out: Path, noun: str, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"out": str(out), **asdict(summary)}))
        return
    title = f"{out} is up to date" if summary.up_to_date else f"{out}"
    table = Table(title=Text(title), show_header=False)
    table.add_column("what")
    table.add_column("number", justify="right")
    table.add_row(f"{noun} found", f"{summary.found:,}")
    if summary.sampled < summary.found:
        table.add_row("sampled by --limit", f"{summary.sampled:,}")
    for reason, count in summary.rejected.items():
        table.add_row(Text(f"rejected: {reason}"), f"{count:,}")
    table.add_row("rows kept", f"{summary.kept:,}", style="bold")
    table.add_row("  train", f"{summary.train:,}")
    table.add_row("  val", f"{summary.val:,}")
    Console().print(table, soft_wrap=False)


@contextmanager
def _progress_bar(noun: str) -> Iterator[tuple[OnProgress, Rejects]]:
    """A bar on stderr with rate, time left and rejects; nothing where stderr is not a terminal.

    Ctrl-C inside it ends the command with one line.
    """
    console = Console(stderr=True)
    columns = (TextColumn(noun), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[pace]}"))
    try:
        with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
            task = None
            begun, before, rejected = time.monotonic(), 0, 0

            def count(number: int) -> None:
                nonlocal rejected
                rejected = number

            def show(done: int, total: int) -> None:
                # Rich's own rate looks at the last steps alone, which come in bursts here: a shard from every worker.
                nonlocal task, begun, before
                if task is None:  # what an earlier run has done is no part of this run's rate
                    begun, before = time.monotonic(), done
                    task = bar.add_task(noun, total=total, pace="")
                rate = (done - before) / max(time.monotonic() - begun, 1e-9)
                left = f"{rate:,.1f}/s, {timedelta(seconds=round((total - done) / rate))} left, " if rate else ""
                bar.update(task, completed=done, pace=f"{left}{rejected:,} rejected")

            yield show, count
    except KeyboardInterrupt:
        typer.echo("stopped; what is finished is kept: start the same command again to go on", err=True)
        raise typer.Exit(130) from None
