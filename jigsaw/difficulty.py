"""A difficulty schedule: few pieces first, more as the measured accuracy grows.

A level follows from the accuracies of the steps before it and from nothing else, so a run that resumes goes on at the
very level at which it stopped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from statistics import fmean
from typing import Any

from jigsaw.errors import JigsawError, RowError
from jigsaw.rows import Row, answer_format
from jigsaw.tasks import TASKS
from jigsaw.tasks.base import Level, Task, is_count

LEVELS = "levels"
"""Where in its ``extra_info`` a prompt holds its puzzle at each level."""
_FORM = "{levels: [[2, 1], [2, 2]], raise_at: 0.8, window: 10}"


@dataclass(frozen=True)
class Difficulty:
    """The schedule of one task.

    Attributes:
        levels: two or more, each of more pieces than the one before.
        raise_at: the next level begins when the mean of the exact accuracy over ``window`` steps reaches this share.
        window: number of steps.
    """

    levels: tuple[Level, ...]
    raise_at: float
    window: int

    def level(self, accuracies: Sequence[float]) -> int:
        """0-based level of the step that follows steps of these accuracies, all from the run's first step on."""
        level = begin = 0
        for end in range(self.window, len(accuracies) + 1):
            if end - begin >= self.window and fmean(accuracies[end - self.window : end]) >= self.raise_at:
                level, begin = min(level + 1, len(self.levels) - 1), end
        return level


def read_difficulties(config: Any) -> dict[str, Difficulty]:
    """The ones in ``data.difficulty``, by task; none where it is null.

    Raises:
        JigsawError: if they make no sense.
    """
    if not isinstance(config, Mapping | None):
        raise JigsawError(
            f"data.difficulty is {config}; it must be null or hold a schedule by task, like image: {_FORM}"
        )
    return {str(task): _read(f"data.difficulty.{task}", str(task), given) for task, given in (config or {}).items()}


def _read(where: str, task: str, given: Any) -> Difficulty:
    with_levels = [name for name, known in TASKS.items() if known.level_form]
    if task not in with_levels:
        raise JigsawError(f"{where} names no task with levels; these have some: {', '.join(with_levels)}")
    whole = isinstance(given, Mapping) and set(given) == {"levels", "raise_at", "window"}
    if not whole or not _is_list(given["levels"]):
        raise JigsawError(f"{where} is {given}; it must be like {_FORM}")
    levels = tuple(_level(where, TASKS[task], level) for level in given["levels"])
    raise_at, window = given["raise_at"], given["window"]
    if len(levels) < 2:
        raise JigsawError(f"{where}.levels holds {len(levels)}; it must hold two or more")
    pieces = [level if isinstance(level, int) else prod(level) for level in levels]
    if any(after <= before for before, after in pairwise(pieces)):
        raise JigsawError(f"{where}.levels holds {given['levels']}; each must have more pieces than the one before")
    is_share = isinstance(raise_at, int | float) and not isinstance(raise_at, bool) and 0 < raise_at <= 1
    if not is_share or not is_count(window):
        raise JigsawError(
            f"{where} has raise_at={raise_at} and window={window}; raise_at is a share above 0, at most 1, and window "
            "a number of steps"
        )
    return Difficulty(levels, float(raise_at), window)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _level(where: str, task: Task, given: Any) -> Level:
    if (level := task.level(given)) is None:
        raise JigsawError(f"{where}.levels holds {given}; a level of it is {task.level_form}")
    return level


def at_level(row: Row, task: str, level: Level) -> Row:
    """A row of a task with as many pieces as a level asks for, and the prompt that goes with them.

    Raises:
        RowError: if the row's prompt is not the one that ``jigsaw prepare`` writes, so that what to ask for other
            pieces cannot be known; or if its clips' frames were extracted, which are of its own clips alone.
    """
    known, wording = TASKS[task], answer_format(row)
    if row["prompt"][0]["content"] != known.prompt(known.read(row), wording):
        raise RowError("a difficulty schedule changes the prompt; make the rows with jigsaw prepare")
    changed = known.at_level(row, level)
    return {**changed, "prompt": [{"role": "user", "content": known.prompt(known.read(changed), wording)}]}
