"""Kept replies scored by the tasks as they are now, without a model: all of them, and with a part left out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from jigsaw.errors import JigsawError
from jigsaw.evaluation.questions import Document
from jigsaw.evaluation.results import Folder, chance, units_of_mean
from jigsaw.evaluation.tasks import JIGSAWS, OURS, Task, read_task

PARTS = 20
"""Into which the clusters of a figure are dealt, each left out once."""


def rescored(folder: Folder) -> tuple[Folder, list[str]]:
    """What a model's replies come to now, and what there is to know about it, a line each.

    Args:
        folder: what an evaluation left. The benchmarks' data must be there, as for asking them. Nothing is written.

    Returns:
        The folder with figures of now. Puzzles, and tasks that are lmms-eval's or scored by rules, stay as they were.

    Raises:
        JigsawError: if the data are not there, or a task asks in other words than those that were answered.
    """
    questions, figures, notes = dict(folder.questions), dict(folder.figures), []
    names = dict.fromkeys((task, frames) for task, _, frames in folder.figures)
    for name, frames in names:
        rows = folder.questions.get((name, frames), ())
        if not rows or name not in OURS or name.startswith(JIGSAWS):
            notes.append(f"{folder.model}, {name}: is shown as it was scored")
            continue
        task = read_task(name)
        answered = _answered(task, rows, str(folder.path))
        scores = task.scores(answered)
        together = zip(rows, answered, scores, strict=True)
        now = [_as_now(row, doc, score) for row, (doc, _), score in together]
        if others := sum(row["target"] != new["target"] for row, new in zip(rows, now, strict=True)):
            notes.append(f"{folder.model}, {name}: {others} of its right answers are others now")
        questions[name, frames] = now
        found = task.figures(scores)
        without = left_out(task, scores, now, found)
        for key, figure in folder.figures.items():
            if (key[0], key[2]) != (name, frames):
                continue
            if key[1] not in found:
                raise JigsawError(f"{folder.path}: {name} has no {key[1]} any more; start its evaluation again")
            new = {"value": found[key[1]], "unreadable": found.get("unreadable"), "without": without.get(key[1])}
            figures[key] = {**figure, **new, "chance": chance(now, key[1])}
    return replace(folder, questions=questions, figures=figures), notes


def _as_now(row: Mapping[str, Any], doc: Document, values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **row,
        "target": str(doc["answer"]),
        "group": doc["group"],
        "letters": None if row["letters"] is None else doc["letters"],
        "values": {metric: number(value) for metric, value in values.items()},
    }


def left_out_of(name: str, rows: Sequence[Mapping[str, Any]], found: Mapping[str, float]) -> dict[str, list[float]]:
    """:func:`left_out` of a task by its name; nothing for one that is not ours, or has means alone.

    Args:
        name: of the task.
        rows: the questions as an evaluation left them.
        found: its metrics.
    """
    if name not in OURS or all(units_of_mean(rows, metric, value) for metric, value in found.items()):
        return {}
    task = read_task(name)
    return left_out(task, task.scores(_answered(task, rows, name)), rows, found)


def left_out(
    task: Task,
    scores: Sequence[Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
    found: Mapping[str, float],
) -> dict[str, list[float]]:
    """Metrics that are no means, with each part of the clusters left out: what their errors follow from.

    Args:
        task: that scores.
        scores: of the replies to each question.
        rows: the same questions as an evaluation left them.
        found: the metrics of all of them.

    Returns:
        By metric; nothing where there are too few clusters for the parts.
    """
    metrics = [metric for metric, value in found.items() if not units_of_mean(rows, metric, value)]
    parts = [_part(row["cluster"]) for row in rows]
    if not metrics or len({row["cluster"] for row in rows}) < 2 * PARTS:
        return {}
    figures = [
        task.figures([one for one, its in zip(scores, parts, strict=True) if its != part]) for part in range(PARTS)
    ]
    return {metric: [one[metric] for one in figures] for metric in metrics if all(metric in one for one in figures)}


def _part(cluster: str) -> int:
    """The part that a cluster is dealt to, wherever the data lie: by the name of a file and of its folder."""
    return int(sha256("/".join(Path(cluster).parts[-2:]).encode()).hexdigest(), 16) % PARTS


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
