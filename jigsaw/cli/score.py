"""``jigsaw score``: how good are the answers to a file of puzzles?"""

import json
from collections.abc import Sequence
from math import factorial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from jigsaw.errors import JigsawError, RowError
from jigsaw.response import parse
from jigsaw.reward import compute_score, reading
from jigsaw.rows import Row, read_rows, row_id
from jigsaw.tasks import plan

# What is averaged over the responses, by its name in the JSON, and how the table calls it.
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
    summary = summarise(read_rows(data), _read_responses(responses), seed=seed, epoch=epoch, data=data)
    if as_json:
        print(json.dumps(summary, indent=2))
    else:
        _print_table(summary)


def summarise(
    rows: list[dict[str, Any]], responses: Sequence[tuple[str, str, str]], *, seed: int, epoch: int, data: Path
) -> dict[str, float]:
    """Score responses and average.

    Args:
        rows: all rows of the file.
        responses: (where it stands, row id, reply) of each, at least one.
        seed: the run's seed.
        epoch: 0-based pass over the data.
        data: the file of the rows, for messages.

    Returns:
        ``rows``, ``rows_without_response`` and ``responses`` (counts); the means over the responses of ``exact``,
        ``position_accuracy``, ``kendall_tau``, ``valid_permutation``, ``well_formed`` and ``score``; and what blind
        guessing of valid permutations would reach: ``chance_exact`` (mean of 1/K!), ``chance_position_accuracy``
        (mean of 1/K).

    Raises:
        JigsawError: if an id comes twice among the rows or is unknown among the responses, or a row is no puzzle row.
    """
    places = _places(rows, data)
    totals = dict.fromkeys((*_LABELS, "chance_exact", "chance_position_accuracy"), 0.0)
    for where, name, reply in responses:
        if name not in places:
            raise JigsawError(f"{where}: {data} has no row with the id {name!r}; score with the file that was asked")
        try:
            scored = _score_one(rows[places[name]], places[name], reply, seed, epoch)
        except RowError as error:
            raise RowError(f"{data}, row {places[name]}: {error}") from error
        for key, value in scored.items():
            totals[key] += value
    return {
        "rows": len(rows),
        "rows_without_response": len(rows) - len({name for _, name, _ in responses}),
        "responses": len(responses),
        **{key: total / len(responses) for key, total in totals.items()},
    }


def _places(rows: list[dict[str, Any]], data: Path) -> dict[str, int]:
    """0-based place of every row by its id.

    Raises:
        JigsawError: if an id comes twice or cannot be read.
    """
    places: dict[str, int] = {}
    for place, row in enumerate(rows):
        try:
            name = row_id(row, place)
        except RowError as error:
            raise RowError(f"{data}, row {place}: {error}") from error
        if name in places:
            raise JigsawError(f"{data}: rows {places[name]} and {place} have the same id {name!r}; ids must be unique")
        places[name] = place
    return places


def _score_one(row: Row, place: int, reply: str, seed: int, epoch: int) -> dict[str, float]:
    planned = plan(row, seed=seed, epoch=epoch, index=place)
    k = len(planned.answer)
    source = str(row["data_source"])
    answer_format, profile = reading(source, planned.extra_info)
    result = compute_score(source, reply, planned.answer, planned.extra_info)
    well_formed = parse(reply, k, answer_format, strict=profile == "paper").well_formed
    return {
        **{key: result[key] for key in _LABELS if key in result},
        "well_formed": float(well_formed),
        "chance_exact": 1 / factorial(k),
        "chance_position_accuracy": 1 / k,
    }


def _read_responses(path: Path) -> list[tuple[str, str, str]]:
    """(``file:line``, id, reply) of every line that is not blank."""
    if not path.exists() or path.is_dir():  # a pipe will do: /dev/stdin, or the shell's <(…)
        raise JigsawError(f'{path}: no such file; write one object {{"id", "response"}} a line')
    found = []
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise JigsawError(f"{where}: is not JSON ({error}); one object a line is expected") from error
            if (
                not isinstance(record, dict)
                or not isinstance(record.get("id"), (str, int))
                or not isinstance(record.get("response"), str)
            ):
                raise JigsawError(f'{where}: must be an object with "id" and "response", the response a string')
            found.append((where, str(record["id"]), record["response"]))
    if not found:
        raise JigsawError(f'{path}: holds no responses; write one object {{"id", "response"}} a line')
    return found


def _print_table(summary: dict[str, float]) -> None:
    responses, rows, without = summary["responses"], summary["rows"], summary["rows_without_response"]
    table = Table(
        title=f"{responses:,} {'response' if responses == 1 else 'responses'} to {rows - without:,} "
        f"of {rows:,} {'puzzle' if rows == 1 else 'puzzles'}"
    )
    table.add_column("mean of")
    table.add_column("responses", justify="right")
    table.add_column("chance", justify="right")
    for key, label in _LABELS.items():
        chance = summary.get(f"chance_{key}")
        table.add_row(label, f"{summary[key]:.4f}", "" if chance is None else f"{chance:.4g}")
    console = Console()
    console.print(table)
    if without:
        said = "row has no response and is" if without == 1 else "rows have no response and are"
        console.print(f"{without:,} {said} not counted.")
