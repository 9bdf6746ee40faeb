"""Score a file of replies to a file of puzzles: the reward's measures, averaged, and what chance would reach."""

import json
from collections.abc import Sequence
from math import factorial
from pathlib import Path
from typing import Any

from jigsaw.errors import JigsawError, RowError
from jigsaw.response import parse
from jigsaw.reward import compute_score, reading
from jigsaw.rows import Row, row_id
from jigsaw.tasks import plan

MEASURES = ("exact", "position_accuracy", "kendall_tau", "valid_permutation", "well_formed", "score")
"""What is averaged over the responses."""


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
    totals = dict.fromkeys((*MEASURES, "chance_exact", "chance_position_accuracy"), 0.0)
    for where, name, reply in responses:
        if name not in places:
            raise JigsawError(f"{where}: {data} has no row with the id {name!r}; give the file of the prompts")
        try:
            scored = score_one(rows[places[name]], reply, place=places[name], seed=seed, epoch=epoch)
        except RowError as error:
            raise RowError(f"{data}, row {places[name]}: {error}") from error
        for key in totals:
            totals[key] += scored[key]
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


def score_one(row: Row, reply: str, *, place: int = 0, seed: int = 0, epoch: int = 0) -> dict[str, float]:
    """The reward's metrics of a reply, whether it is well-formed, and what guesses reach.

    Args:
        row: of the puzzle.
        reply: a model's.
        place: 0-based, of the row in its file.
        seed: the run's seed.
        epoch: 0-based pass over the data.

    Raises:
        RowError: if the row is no puzzle row.
    """
    planned = plan(row, seed=seed, epoch=epoch, index=place)
    k = len(planned.answer)
    source = str(row["data_source"])
    answer_format, profile = reading(source, planned.extra_info)
    well_formed = parse(reply, k, answer_format, strict=profile == "paper").well_formed
    return {
        **compute_score(source, reply, planned.answer, planned.extra_info),
        "well_formed": float(well_formed),
        "chance_exact": 1 / factorial(k),
        "chance_position_accuracy": 1 / k,
    }


def read_responses(path: Path) -> list[tuple[str, str, str]]:
    """(``file:line``, id, reply) of every line that is not blank.

    Raises:
        JigsawError: if there is no such file, a line is no object with ``id`` and ``response``, or none is there.
    """
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
