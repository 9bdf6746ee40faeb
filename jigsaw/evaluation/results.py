"""What ``jigsaw eval`` left in folders, side by side: scores, how sure they are, differences, whether they are real."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import factorial, prod
from pathlib import Path
from statistics import fmean
from typing import Any

from jigsaw.errors import JigsawError
from jigsaw.evaluation.replies import first_letter_of_answer
from jigsaw.evaluation.statistics import (
    LEVEL,
    Comparison,
    Unit,
    clustered_error,
    compare,
    compare_parts,
    error_of_parts,
    holm,
)
from jigsaw.evaluation.table import paper_values, read_table
from jigsaw.files import json_lines
from jigsaw.rows import read_rows

RESULTS, QUESTIONS = "results.json", "questions.jsonl"
Name = tuple[str, str, int | None]
"""A figure: task, metric and frames."""

_OF_QUESTION = [
    "task",
    "frames",
    "id",
    "group",
    "cluster",
    "media",
    "letters",
    "pieces",
    "prompt",
    "target",
    "reply",
    "values",
]
_SAME_LETTER = 0.95
_EXACT = 1e-9
_MEDIA_KEY = re.compile(r"scene\d{4}_\d{2}|\d{12}")
"""A ScanNet scene, a COCO picture."""


@dataclass(frozen=True)
class Folder:
    """One evaluated model.

    Attributes:
        path: the folder.
        model: as it was named.
        versions: of the packages.
        figures: rows of ``results.json``.
        questions: of each task and number of frames.
    """

    path: Path
    model: str
    versions: Mapping[str, str]
    figures: Mapping[Name, Mapping[str, Any]]
    questions: Mapping[tuple[str, int | None], Sequence[Mapping[str, Any]]]


@dataclass(frozen=True)
class Score:
    """A figure of one model.

    Attributes:
        value: 0 to 1.
        error: its standard error by clusters; None where it is not known.
        n: questions.
        unreadable: share of replies in which nothing was read.
        seen, unseen: the same of questions whose media were trained on, and of the others; None unless asked for.
    """

    value: float
    error: float | None
    n: int
    unreadable: float | None
    seen: tuple[float, int] | None = None
    unseen: tuple[float, int] | None = None


@dataclass(frozen=True)
class Line:
    """A figure of all models.

    Attributes:
        benchmark, task, protocol, metric, frames: what it is.
        chance: what guesses come to, where known.
        scores: one a model; None where it was not asked.
        comparisons: of each but the first with the first.
        adjusted: their p, after Holm.
        paper: the paper's values times 100, by its models.
    """

    benchmark: str
    task: str
    protocol: str
    metric: str
    frames: int | None
    chance: float | None
    scores: tuple[Score | None, ...]
    comparisons: tuple[Comparison | None, ...]
    adjusted: tuple[float | None, ...]
    paper: Mapping[str, float]

    def verdict(self, place: int) -> str:
        """What a comparison says: ``gain``, ``loss``, ``within noise``; empty where there is none."""
        found, p = self.comparisons[place], self.adjusted[place]
        if found is None or p is None:
            return ""
        if p > LEVEL:
            return "within noise"
        return "gain" if found.difference > 0 else "loss"


def read_folder(path: Path) -> Folder:
    """What an evaluation left.

    Raises:
        JigsawError: if there is no finished evaluation, or a file is damaged.
    """
    if not (path / RESULTS).is_file():
        raise JigsawError(f"{path}: holds no {RESULTS}; jigsaw eval MODEL --out {path} makes it, or goes on with it")
    try:
        results = json.loads((path / RESULTS).read_text(encoding="utf-8"))
        figures = {(one["task"], one["metric"], one["frames"]): one for one in results["figures"]}
        questions = defaultdict(list)
        for row in read_questions(path / QUESTIONS):
            if not isinstance(row["reply"], str) or not isinstance(row["values"], dict):
                raise TypeError(f"question {row['id']!r:.60} has no reply")
            questions[row["task"], row["frames"]].append(row)
        for figure in figures.values():
            _check_figure(figure)
        return Folder(path, results["model"], results["versions"], figures, dict(questions))
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise JigsawError(f"{path}: its results cannot be read ({error!r}); start its evaluation again") from error


def _check_figure(figure: Mapping[str, Any]) -> None:
    """Raise KeyError, TypeError or ValueError if a figure is not as an evaluation writes it."""
    if not {"benchmark", "protocol", "chance", "n", "unreadable", "value"} <= figure.keys():
        raise KeyError(f"{figure['task']}, {figure['metric']} lacks fields")
    without = figure.get("without") or []
    if not isinstance(without, list):
        raise TypeError(f"{figure['task']}, {figure['metric']}: without is no list")
    for number in (figure["value"], figure["n"], figure["unreadable"] or 0, *without):
        float(number)


def read_questions(file: Path) -> Iterator[dict[str, Any]]:
    """What each question came to.

    Raises:
        JigsawError: if a line is damaged.
    """
    return json_lines(file, *_OF_QUESTION, remedy="remove the file and start its evaluation again")


def units_of(questions: Iterable[Mapping[str, Any]], metric: str) -> dict[str, Unit]:
    """What counts once in a metric: a question, or a group, right if all its questions are."""
    counted, groups = _counted(questions, metric)
    if not groups:
        return {row["id"]: Unit(row["values"][metric], row["cluster"]) for row in counted}
    size = max(map(len, groups.values()))
    return {
        name: Unit(float(len(rows) == size and all(row["values"][metric] for row in rows)), rows[0]["cluster"])
        for name, rows in groups.items()
    }


def units_of_mean(questions: Iterable[Mapping[str, Any]], metric: str, value: float) -> dict[str, Unit] | None:
    """The units of a metric if its value is their mean, else None."""
    units = units_of(questions, metric)
    return units if units and abs(fmean(unit.value for unit in units.values()) - value) < _EXACT else None


def _counted(
    questions: Iterable[Mapping[str, Any]], metric: str
) -> tuple[list[Mapping[str, Any]], dict[str, list[Mapping[str, Any]]]]:
    """The questions that a metric counts, and by name the groups, if it counts those."""
    counted = [row for row in questions if row["values"].get(metric) is not None]
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    if metric != "acc" and any(row["group"] for row in counted):
        for row in counted:
            groups[row["group"]].append(row)
    return counted, groups


def chance(questions: Iterable[Mapping[str, Any]], metric: str) -> float | None:
    """What guesses come to on average; None where that is not known."""
    counted, groups = _counted(questions, metric)
    if not counted:
        return None
    if all(row["pieces"] for row in counted):  # jigsaws
        guesses: dict[str, Callable[[int], float]] = {
            "exact": lambda pieces: 1 / factorial(pieces),
            "position_accuracy": lambda pieces: 1 / pieces,
        }
        return fmean(guesses[metric](int(row["pieces"])) for row in counted) if metric in guesses else None
    if any(row["letters"] is None for row in counted):
        return None
    luck = {row["id"]: 1 / (len(row["letters"]) or 2) for row in counted}
    if not groups:
        return fmean(luck.values())
    size = max(map(len, groups.values()))  # of a group that is not whole some were not asked, so it is not right
    return fmean(prod(luck[row["id"]] for row in rows) if len(rows) == size else 0.0 for rows in groups.values())


def lines_of(folders: Sequence[Folder], *, paper: bool = False, trained_on: Path | None = None) -> list[Line]:
    """All figures of the folders; the first is what the others are compared with.

    Args:
        folders: one a model.
        paper: whether to give the paper's values.
        trained_on: training rows; questions about their media are told apart.

    Raises:
        JigsawError: if two models were asked different questions, or the rows cannot be read.
    """
    known = media_keys(read_rows(trained_on)) if trained_on else None
    names = list(dict.fromkeys(name for folder in folders for name in folder.figures))
    found: list[Line] = []
    for name in names:
        task, metric, frames = name
        units = [_units(folder, name) for folder in folders]
        one = next(folder.figures[name] for folder in folders if name in folder.figures)
        comparisons = [
            _compared(folders[0], folders[place], name, units[0], other) if place else None
            for place, other in enumerate(units)
        ]
        found.append(
            Line(
                one["benchmark"],
                task,
                one["protocol"],
                metric,
                frames,
                one["chance"],
                tuple(_score(folder, name, of_folder, known) for folder, of_folder in zip(folders, units, strict=True)),
                tuple(comparisons),
                (None,) * len(folders),
                _paper(one["benchmark"], metric, frames) if paper else {},
            )
        )
    return _adjusted(found)


def _compared(
    first: Folder, second: Folder, name: Name, base: Mapping[str, Unit] | None, other: Mapping[str, Unit] | None
) -> Comparison | None:
    if base and other:
        return compare(base, other)
    before, after = first.figures.get(name), second.figures.get(name)
    if not before or not after or not before.get("without") or not after.get("without"):
        return None
    if {row["id"] for row in _rows(first, name)} != {row["id"] for row in _rows(second, name)}:
        raise JigsawError(f"{name[0]}: the models were asked different questions; evaluate both on the same")
    if len(before["without"]) != len(after["without"]):
        raise JigsawError(f"{name[0]}, {name[1]}: has other parts in each folder; --rescore makes them anew")
    return compare_parts((before["value"], before["without"]), (after["value"], after["without"]), before["n"])


def _rows(folder: Folder, name: Name) -> Sequence[Mapping[str, Any]]:
    return folder.questions.get((name[0], name[2]), ())


def _units(folder: Folder, name: Name) -> dict[str, Unit] | None:
    """The units of a figure, if it is their mean."""
    if name not in folder.figures:
        return None
    return units_of_mean(_rows(folder, name), name[1], folder.figures[name]["value"])


def _score(folder: Folder, name: Name, units: Mapping[str, Unit] | None, known: frozenset[str] | None) -> Score | None:
    if name not in folder.figures:
        return None
    figure = folder.figures[name]
    if not units:
        error = error_of_parts(figure["without"]) if figure.get("without") else None
        return Score(figure["value"], error, figure["n"], figure["unreadable"])
    values, clusters = [unit.value for unit in units.values()], [unit.cluster for unit in units.values()]
    error = clustered_error(values, clusters)
    seen = unseen = None
    if known is not None:
        of_clusters: dict[Hashable, bool] = {}
        for row in folder.questions[name[0], name[2]]:
            is_known = any(key in known for medium in row["media"] for key in _keys(medium))
            of_clusters[row["cluster"]] = of_clusters.get(row["cluster"], False) or is_known
        seen, unseen = (
            _mean([unit.value for unit in units.values() if of_clusters[unit.cluster] is side])
            for side in (True, False)
        )
    return Score(figure["value"], error, figure["n"], figure["unreadable"], seen, unseen)


def _mean(values: Sequence[float]) -> tuple[float, int]:
    return (sum(values) / len(values) if values else 0.0), len(values)


def _adjusted(lines: Sequence[Line]) -> list[Line]:
    """Holm over tasks, for each model and protocol: what is read in two ways is not tested twice."""
    adjusted = [list(line.adjusted) for line in lines]
    for place in range(len(lines[0].scores) if lines else 0):
        for protocol in {line.protocol for line in lines}:
            tested = [
                (number, comparison.p)
                for number, line in enumerate(lines)
                if line.protocol == protocol and (comparison := line.comparisons[place]) is not None
            ]
            for (number, _), p in zip(tested, holm([p for _, p in tested]), strict=True):
                adjusted[number][place] = p
    return [replace(line, adjusted=tuple(ps)) for line, ps in zip(lines, adjusted, strict=True)]


def _paper(benchmark: str, metric: str, frames: int | None) -> dict[str, float]:
    if benchmark not in {known.name for known in read_table().benchmarks}:
        return {}
    return {
        value.model: value.value
        for value in paper_values(benchmark)
        if value.metric == metric and value.frames in (None, frames)
    }


def media_keys(rows: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    """By what media of training rows are known again: COCO ids, ScanNet scenes, names of films."""
    return frozenset(key for row in rows for path in _paths(row) for key in _keys(path))


def _paths(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        if re.search(r"\.\w{2,5}$|scene\d{4}_\d{2}", value) and "\n" not in value:
            yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _paths(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _paths(part)


def _keys(path: str) -> list[str]:
    found = _MEDIA_KEY.findall(path)
    return found or [Path(path.partition("#")[0]).stem]


def warnings_of(folder: Folder) -> list[str]:
    """What makes a model's figures doubtful: one letter in all replies."""
    found = []
    for (task, frames), rows in folder.questions.items():
        asked = [row for row in rows if row["letters"]]
        if task.endswith("_fixed") or len(asked) < 10 or len({row["target"] for row in asked}) < 2:
            continue
        ((letter, count),) = Counter(first_letter_of_answer(row["reply"]) for row in asked).most_common(1)
        if letter and count / len(asked) >= _SAME_LETTER:
            at = f" at {frames} frames" if frames else ""
            found.append(
                f"{folder.model}, {task}{at}: one letter, {letter}, in {count / len(asked):.0%} of the replies"
            )
    return found


def as_json(folders: Sequence[Folder], lines: Sequence[Line]) -> dict[str, Any]:
    """All of it for a program."""
    return {
        "models": [{"folder": str(one.path), "model": one.model, "versions": dict(one.versions)} for one in folders],
        "warnings": [warning for one in folders for warning in warnings_of(one)],
        "figures": [
            {**asdict(line), "verdicts": [line.verdict(place) for place in range(len(folders))]} for line in lines
        ],
    }
