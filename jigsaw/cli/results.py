"""``jigsaw results``: evaluated models side by side."""

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from jigsaw.errors import JigsawError


def results(
    folders: Annotated[
        list[Path], typer.Argument(help="Folders of jigsaw eval; the first is compared with.", metavar="DIR…")
    ],
    against: Annotated[
        Literal["paper"] | None, typer.Option(help="Give the paper's figures, too.", show_default=False)
    ] = None,
    trained_on: Annotated[
        Path | None,
        typer.Option(help="Training rows: tell questions about their media apart.", metavar="ROWS", show_default=False),
    ] = None,
    rescore: Annotated[
        bool, typer.Option(help="Score the kept replies by the tasks as they are now; takes VJ_DATA, no model.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Write it as .md, .json, .png or .html, too.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object instead of a table.")] = False,
) -> None:
    """Show what models scored, how sure that is, and whether they differ.

    Example: [bold]jigsaw results outputs/eval/base outputs/eval/trained --against paper --out results.html[/]
    """
    from jigsaw.evaluation.rescore import rescored
    from jigsaw.evaluation.results import as_json as told
    from jigsaw.evaluation.results import lines_of, read_folder, warnings_of
    from jigsaw.show.evaluated import KINDS, NOTE, tables, write

    if out and out.suffix.lower() not in KINDS:
        raise JigsawError(f"--out {out}: must end in {', '.join(KINDS)}")
    found = [read_folder(folder) for folder in folders]
    notes = []
    if rescore:
        anew = [rescored(folder) for folder in found]
        found, notes = [folder for folder, _ in anew], [note for _, of_folder in anew for note in of_folder]
    lines = lines_of(found, paper=against == "paper", trained_on=trained_on)
    if out:
        write(found, lines, out)
    if as_json:
        print(json.dumps(told(found, lines), indent=1))
        return
    for note in notes:
        print(note, file=sys.stderr)
    console = Console()
    for table in tables(found, lines):
        shown = Table(title=table.title)
        for column in table.columns:
            shown.add_column(column, no_wrap=column in ("benchmark", "metric", "read"))
        for row in table.rows:
            shown.add_row(*row)
        console.print(shown)
    console.print(NOTE, style="dim")
    for folder in found:
        for warning in warnings_of(folder):
            console.print(warning, style="bold", markup=False)
