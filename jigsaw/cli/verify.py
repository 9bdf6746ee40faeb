"""``jigsaw verify``: can every row of a file be trained on?"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jigsaw.cli.progress import RayAddress, Workers, progress_bar
from jigsaw.errors import JigsawError
from jigsaw.prepare.verify import Report, verify_rows
from jigsaw.tokens import MAX_PROMPT_LENGTH

SHOWN = 10
"""Bad rows, and reasons, that are named in the tables; ``--json`` names all."""


def verify(
    data: Annotated[Path, typer.Argument(help="Parquet file of rows.", metavar="FILE.parquet")],
    media_root: Annotated[Path, typer.Option(help="Folder that the rows' paths are relative to.", metavar="DIR")],
    decode: Annotated[
        bool, typer.Option("--decode", help="Build each puzzle, instead of reading its media's headers.")
    ] = False,
    max_prompt_length: Annotated[
        int, typer.Option(help="Tokens that a prompt may take: data.max_prompt_length of the training.")
    ] = MAX_PROMPT_LENGTH,
    workers: Workers = None,
    ray_address: RayAddress = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object instead of tables.")] = False,
) -> None:
    """Check that each row is a puzzle row with an id of its own, whose media are there, open and fit its prompt.

    Exit code 1 if not.

    Example: [bold]jigsaw verify data/video/train.parquet --media-root LLaVA-Video-178K --decode[/]
    """
    with progress_bar("rows", stopped="stopped") as (progress, rejects):
        report = verify_rows(
            data,
            media_root,
            decode=decode,
            max_prompt_length=max_prompt_length,
            workers=workers,
            ray_address=ray_address,
            progress=progress,
            rejects=rejects,
        )
    if as_json:
        print(json.dumps({"data": str(data), **asdict(report), "reasons": report.reasons}))
    else:
        _print(report, data)
    if report.bad:
        raise JigsawError(
            f"{data}: {len(report.bad):,} of {report.rows:,} rows are bad; make it again or fix its media"
        )


def _print(report: Report, data: Path) -> None:
    console = Console(highlight=False)
    table = Table(title=Text(f"{data}"), show_header=False, min_width=len(f"{data}"))
    table.add_column("what")
    table.add_column("number", justify="right")
    for task, count in report.tasks.items():
        table.add_row(f"{task} puzzles", f"{count:,}")
    reasons = list(report.reasons.items())
    for reason, count in reasons[:SHOWN]:
        table.add_row(Text(f"bad: {reason}"), f"{count:,}")
    if others := sum(count for _, count in reasons[SHOWN:]):
        table.add_row("bad: other reasons", f"{others:,}")  # those that quote a row may be as many as the rows
    table.add_row("tokens of the largest prompt, at most", f"{report.most_tokens:,}")
    table.add_row("good", f"{report.rows - len(report.bad):,}", style="bold")
    console.print(table)
    if report.bad:
        first = Table("row", "id", "what is wrong", title=f"the first {len(report.bad[:SHOWN])} bad rows")
        for row in report.bad[:SHOWN]:
            first.add_row(str(row.index), Text(row.id, overflow="fold"), Text(row.reason, overflow="fold"))
        console.print(first)
