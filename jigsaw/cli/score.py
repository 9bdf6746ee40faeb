"""``jigsaw score``: how good are the answers to a file of puzzles?"""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from jigsaw.rows import read_rows
from jigsaw.scoring import MEASURES, read_responses, summarise

# A measure as the table calls it.
_LABELS = {
    "exact": "exact",
    "position_accuracy": "pieces in place",
    "kendall_tau": "Kendall tau",
    "valid_permutation": "valid permutations",
    "well_formed": "well-formed replies",
    "score": "score",
}


def score(
    data: Annotated[Path, typer.Option(help="Parquet file of rows.", metavar="FILE.parquet")],
    responses: Annotated[
        Path,
        typer.Option(
            help='One JSON object a line: {"id": …, "response": …}; an id may come several times.',
            metavar="FILE.jsonl",
        ),
    ],
    seed: Annotated[int, typer.Option(help="Seed of the run that showed the puzzles.")] = 0,
    epoch: Annotated[int, typer.Option(help="Pass over the data in which they were shown, from 0.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object instead of a table.")] = False,
) -> None:
    """Score a model's replies to the puzzles of a parquet file, with chance beside the result.

    Example: [bold]jigsaw score --data data/val.parquet --responses replies.jsonl[/]
    """
    summary = summarise(read_rows(data), read_responses(responses), seed=seed, epoch=epoch, data=data)
    if as_json:
        print(json.dumps(summary, indent=2))
    else:
        _print_table(summary)


def _print_table(summary: dict[str, float]) -> None:
    responses, rows, without = summary["responses"], summary["rows"], summary["rows_without_response"]
    table = Table(
        title=f"{responses:,} {'response' if responses == 1 else 'responses'} to {rows - without:,} "
        f"of {rows:,} {'puzzle' if rows == 1 else 'puzzles'}"
    )
    table.add_column("mean of")
    table.add_column("responses", justify="right")
    table.add_column("chance", justify="right")
    for key in MEASURES:
        chance = summary.get(f"chance_{key}")
        table.add_row(_LABELS[key], f"{summary[key]:.4f}", "" if chance is None else f"{chance:.4g}")
    console = Console()
    console.print(table)
    if without:
        said = "row has no response and is" if without == 1 else "rows have no response and are"
        console.print(f"{without:,} {said} not counted.")
