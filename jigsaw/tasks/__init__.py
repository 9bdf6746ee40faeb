"""The one door from rows to puzzles, and the table of tasks behind it.

``plan`` draws the order and writes the messages without reading a pixel; ``cut`` adds the pixels.
"""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import fields
from itertools import groupby
from typing import Any

from jigsaw.errors import RowError
from jigsaw.permutation import answer_of, draw, is_answer, order_of
from jigsaw.puzzle import MARK, CutOptions, Message, Plan, Puzzle, Spec, media_specs
from jigsaw.rows import Row, answer_format, chat, row_id, row_split
from jigsaw.tasks.base import Task
from jigsaw.tasks.depth import DepthTask
from jigsaw.tasks.image import ImageTask
from jigsaw.tasks.video import VideoTask
from jigsaw.tokens import Medium

TASKS: dict[str, Task] = {task.name: task for task in (ImageTask(), VideoTask(), DepthTask())}
"""All tasks by name. A row that several own is of the last of them: the later, the more particular."""


def task_of(row: Row) -> Task:
    """The row's task.

    Raises:
        RowError: if the row belongs to no known task.
    """
    data_source = str(row.get("data_source"))
    owners = [task for task in TASKS.values() if task.owns(row)]
    if "jigsaw" in data_source and owners:
        return owners[-1]
    raise RowError(
        f"data_source {data_source!r:.60} names no task that is known ({', '.join(TASKS)}); it must contain 'jigsaw' "
        "and the row must fill 'images' or 'videos': make rows with jigsaw prepare"
    )


def plan(row: Row, seed: int = 0, epoch: int = 0, *, index: int = 0) -> Plan:
    """Draw the order of a row's puzzle and write its messages; no media is opened.

    Args:
        row: a row, see :mod:`jigsaw.rows`.
        seed: the run's seed.
        epoch: 0-based pass over the data.
        index: 0-based place of the row in its file; only rows without an id need it.

    Raises:
        RowError: if the row is not a puzzle row; the message names the row's id, or its place if it has none to read.
    """

    def drawn(pieces: int, name: str) -> tuple[int, ...]:
        return draw(pieces, seed=seed, split=row_split(row), sample_id=name, epoch=epoch)

    return _plan(row, index, drawn)


def plan_again(row: Row, answer: Sequence[int], *, index: int = 0) -> Plan:
    """A row's puzzle as it once was, whatever seed and epoch it was drawn with.

    Args:
        row: a row.
        answer: the puzzle's right answer, 1-based.
        index: 0-based place of the row in its file; only rows without an id need it.

    Raises:
        RowError: if the row is not a puzzle row, or not one with such an answer.
    """

    def given(pieces: int, name: str) -> tuple[int, ...]:
        if not is_answer(answer, pieces):
            raise RowError(f"its puzzle has {pieces} pieces, and no answer {', '.join(map(str, answer))}")
        return order_of(answer)

    return _plan(row, index, given)


def _plan(row: Row, index: int, order_by: Callable[[int, str], tuple[int, ...]]) -> Plan:
    """A row's plan, its order by number of pieces and row id."""
    name = str(index)
    try:
        name = row_id(row, index)
        task = task_of(row)
        said = task.read(row)
        # Before the draw, which takes time and memory by the number of pieces: any number may stand in a row.
        _check_marks(row, task.media_type, task.media_count(said))
        order = order_by(task.pieces(said), name)
        return Plan(
            task=task.name,
            id=name,
            order=order,
            answer=answer_of(order),
            answer_format=answer_format(row),
            grid=task.grid(said),
            messages=_messages(row, task.media_type, task.specs(said, order)),
        )
    except RowError as error:
        raise RowError(f"row {name}: {error}") from error


def _check_marks(row: Row, media_type: str, count: int) -> None:
    """Raise RowError unless the row's prompt holds one mark a medium, all of the task's media type."""
    marks = Counter(mark for message in chat(row) for mark in MARK.findall(message["content"]))
    if marks != {media_type: count}:
        found = " and ".join(f"{number} <{mark}>" for mark, number in marks.items()) or "none"
        wanted = f"{count} <{media_type}> marks, one a piece," if count > 1 else f"one <{media_type}> mark"
        raise RowError(f"its prompt must hold {wanted} and no others; it holds {found}")


def _messages(row: Row, media_type: str, specs: Sequence[Spec]) -> list[Message]:
    """The row's chat messages with a media item at every mark; there is one mark a spec."""
    waiting = iter(specs)
    messages: list[Message] = []
    for message in chat(row):
        content: list[dict[str, Any]] = []
        for place, part in enumerate(MARK.split(message["content"])):
            if place % 2:  # what the pattern's group took: a mark
                content.append({"type": media_type, media_type: next(waiting)})
            elif part:
                content.append({"type": "text", "text": part})
        messages.append({"role": message["role"], "content": content})
    return messages


DEFAULTS = CutOptions()


def cut_media(messages: list[Message], media_root: str | os.PathLike[str], options: CutOptions = DEFAULTS) -> list[Any]:
    """The media of chat messages with specs, in prompt order; what the messages say is all it needs.

    Raises:
        MediaError: if a file is missing, outside the media root or cannot be used.
    """
    media: list[Any] = []
    for task, specs in groupby(media_specs(messages), key=lambda spec: spec["task"]):
        media.extend(TASKS[task].cut(list(specs), media_root, options))
    return media


def media_sizes(
    messages: list[Message], media_root: str | os.PathLike[str], options: CutOptions = DEFAULTS
) -> list[Medium]:
    """The sizes of the media that :func:`cut_media` gives; the headers of all files are read, and no pixels.

    Raises:
        MediaError: if a file is missing, outside the media root or of no use by its header.
    """
    sizes: list[Medium] = []
    for task, specs in groupby(media_specs(messages), key=lambda spec: spec["task"]):
        sizes.extend(TASKS[task].sizes(list(specs), media_root, options))
    return sizes


def cut(plan: Plan, media_root: str | os.PathLike[str], options: CutOptions = DEFAULTS) -> Puzzle:
    """Add the pixels to a plan.

    Raises:
        MediaError: if a file is missing, outside the media root or cannot be used.
    """
    return with_media(plan, cut_media(plan.messages, media_root, options))


def with_media(plan: Plan, media: list[Any]) -> Puzzle:
    """A plan and the media of its messages, in prompt order, as a puzzle."""
    waiting = iter(media)
    messages = [
        {
            "role": message["role"],
            "content": [
                item if item["type"] == "text" else {"type": item["type"], item["type"]: next(waiting)}
                for item in message["content"]
            ],
        }
        for message in plan.messages
    ]
    known = {entry.name: getattr(plan, entry.name) for entry in fields(Plan)}
    pieces = TASKS[plan.task].shown(media_specs(plan.messages), media)
    return Puzzle(**{**known, "messages": messages}, media=media, pieces=pieces)


def build_puzzle(
    row: Row,
    media_root: str | os.PathLike[str],
    *,
    seed: int = 0,
    epoch: int = 0,
    index: int = 0,
    options: CutOptions = DEFAULTS,
) -> Puzzle:
    """The whole way from a row to a puzzle with pixels: :func:`plan`, then :func:`cut`."""
    return cut(plan(row, seed=seed, epoch=epoch, index=index), media_root, options)
