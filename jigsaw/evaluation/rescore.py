"""Kept replies scored by the tasks as they are now, without a model: all of them, and with a part left out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

from jigsaw.errors import JigsawError
from jigsaw.evaluation.questions import Document
from jigsaw.evaluation.results import Folder, units_of
from jigsaw.evaluation.tasks import OURS, Task, read_task

PARTS = 20
"""Into which the clusters of a figure are dealt, each left out once."""
_SAME = 1e-9


def rescored(folder: Folder) -> Folder:
    """What a model's replies come to now; a task that is not ours stays as it was.

    Args:
        folder: what an evaluation left. The benchmarks' data must be there, as for asking them.

    Raises:
        JigsawError: if the data are not there, or a task asks in other words than those that were answered.
    """
    questions = dict(folder.questions)
    figures = dict(folder.figures)
    for (name, frames), rows in folder.questions.items():
        if name not in OURS:
            continue
        task = read_task(name)
        answered = _answered(task, rows, str(folder.path))
        said = [task.score(doc, [reply]) for doc, reply in answered]
        values = [{metric: number(value) for metric, value in one.items()} for one in said]
        questions[name, frames] = [{**row, "values": one} for row, one in zip(rows, values, strict=True)]
        found = task.figures(answered)
        for key, figure in folder.figures.items():
            if (key[0], key[2]) == (name, frames):
                if key[1] not in found:
                    raise JigsawError(f"{folder.path}: {name} has no {key[1]} any more; start its evaluation again")
                without = left_out(task, key[1], answered, questions[name, frames], found[key[1]])
                now = {"value": found[key[1]], "unreadable": found.get("unreadable"), "without": without}
                figures[key] = {**figure, **now}
    return replace(folder, questions=questions, figures=figures)


def left_out_of(name: str, metric: str, rows: Sequence[Mapping[str, Any]], value: float) -> list[float] | None:
    """:func:`left_out` by the questions of an evaluation; None for a task that is not ours.

    Args:
        name: of the task.
        metric: of it.
        rows: the questions.
        value: what the metric is.
    """
    if name not in OURS or _is_mean(rows, metric, value):
        return None
    task = read_task(name)
    return left_out(task, metric, _answered(task, rows, name), rows, value)


def left_out(
    task: Task,
    metric: str,
    answered: Sequence[tuple[Document, str]],
    rows: Sequence[Mapping[str, Any]],
    value: float,
) -> list[float] | None:
    """A metric with each part of the clusters left out, for its error; None where it is a mean, whose error is known.

    Args:
        task: that scores.
        metric: of it.
        answered: questions and replies.
        rows: the same questions as an evaluation left them.
        value: what the metric is of all of them.
    """
    if _is_mean(rows, metric, value):
        return None
    parts = [int(sha256(row["cluster"].encode()).hexdigest(), 16) % PARTS for row in rows]
    found = []
    for part in range(PARTS):
        rest = [one for one, its in zip(answered, parts, strict=True) if its != part]
        figures = task.figures(rest) if rest else {}
        if metric not in figures:
            return None
        found.append(figures[metric])
    return found


def _is_mean(rows: Sequence[Mapping[str, Any]], metric: str, value: float) -> bool:
    units = units_of(rows, metric)
    return bool(units) and abs(sum(unit.value for unit in units.values()) / len(units) - value) < _SAME


def _answered(task: Task, rows: Iterable[Mapping[str, Any]], where: str) -> list[tuple[Document, str]]:
    docs = {str(doc["id"]): doc for doc in task.documents()}
    found = []
    for row in rows:
        doc = docs.get(row["id"])
        if doc is None or doc["prompt"] != row["prompt"]:
            why = "is no question of the benchmark's any more" if doc is None else "is asked in other words now"
            raise JigsawError(f"{where}: {task.name}, question {row['id']}, {why}; start its evaluation again")
        found.append((doc, row["reply"]))
    return found


def number(value: Any) -> float | None:
    """What a question adds to a metric, if that is a number, alone or beside its group."""
    if isinstance(value, tuple | list) and len(value) == 2 and isinstance(value[0], str):
        value = value[1]
    return float(value) if isinstance(value, bool | int | float) else None
