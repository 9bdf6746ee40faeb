"""What the commands that work through many files share: their options and their progress bar."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from jigsaw.prepare.folder import OnProgress
from jigsaw.prepare.pipeline import Rejects

Workers = Annotated[
    int | None, typer.Option(help="Number of readers at a time; one a core if not given.", show_default=False)
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        help="Work on this Ray cluster, for example 10.0.0.1:6379; its nodes must see the same files.",
        metavar="ADDRESS",
        show_default=False,
    ),
]

KEPT = "stopped; what is finished is kept: start the same command again to go on"


@contextmanager
def progress_bar(noun: str, stopped: str = KEPT) -> Iterator[tuple[OnProgress, Rejects]]:
    """A bar on stderr with rate, time left and rejects; nothing where stderr is not a terminal.

    Args:
        noun: what is counted, in the plural.
        stopped: what to say when Ctrl-C ends it.
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
        typer.echo(stopped, err=True)
        raise typer.Exit(130) from None
