"""``jigsaw report``: a page about a training run, also while it goes on."""

import json
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jigsaw.show.report import summary, write_report


def report(
    run: Annotated[
        Path, typer.Argument(help="outputs/RECIPE_jigsaw, or the folder of its checkpoints.", metavar="RUN_DIR")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The page to write; RUN_DIR/report.html if not given.", metavar="PAGE.html", show_default=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object instead of a table.")] = False,
) -> None:
    """Write a self-contained HTML page about a training run, while it goes on or after.

    Curves against chance and the blind floor, replies with what the model put together, time and memory by phase,
    config and versions.

    Example: [bold]jigsaw report outputs/image_jigsaw[/]
    """
    page, found = write_report(run, out, now=time.time())
    if as_json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return
    table = Table(show_header=False)
    for name, value in summary(found):
        table.add_row(name, Text(value))
    console = Console(highlight=False)
    console.print(table)
    console.print(f"{page}: the report", markup=False, soft_wrap=True)
