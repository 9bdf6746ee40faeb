"""What a run's model replied: the replies that verl wrote down, beside the pieces that they were to."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from jigsaw.difficulty import at_level, read_difficulties
from jigsaw.errors import JigsawError, RowError
from jigsaw.mixture import read_sources
from jigsaw.permutation import is_answer
from jigsaw.puzzle import Plan
from jigsaw.response import Parsed, parse
from jigsaw.reward import reading
from jigsaw.rows import MEDIA_COLUMNS, Row, each_row, read_table, row_at, row_id
from jigsaw.show.gallery import Card, Figure, build_card, put_together
from jigsaw.tasks import plan, plan_again

Config = Mapping[str, Any]
"""A run's config as its start recorded it."""
Reply = Mapping[str, Any]
"""A line of what verl writes down."""
SHOWN = 3
"""Steps, and different answers to a prompt, that are shown."""
_NAMING = ("data_source", "extra_info", *MEDIA_COLUMNS)
"""Columns that a row's id follows from."""
PROMPTS = 2
"""Prompts of a step that are shown."""


@dataclass(frozen=True)
class Answered:
    """The replies to a prompt that say the same.

    Attributes:
        count: how many they are.
        score: their mean reward.
        text: the first of them.
        answer: what was read from them, 1-based; None where there is none.
        reason: why there is none; empty where there is one, or nobody knows how to read the replies.
        whole: the picture that the answer makes of a tiling, else None.
    """

    count: int
    score: float
    text: str
    answer: tuple[int, ...] | None = None
    reason: str = ""
    whole: Figure | None = None


@dataclass(frozen=True)
class Sample:
    """A prompt of a step and its replies.

    Attributes:
        step: the training step.
        replies: how many there are.
        score: their mean reward.
        truth: the right answer, 1-based.
        prompt: as the model was given it, its media left out.
        answered: the replies by what they say, the most frequent first, :data:`SHOWN` at most.
        card: the puzzle; None where it could not be made again.
        why: why there is no puzzle, else empty.
    """

    step: int
    replies: int
    score: float
    truth: tuple[int, ...]
    prompt: str
    answered: tuple[Answered, ...]
    card: Card | None = None
    why: str = ""

    @property
    def others(self) -> int:
        """How many replies are not among those that are shown."""
        return self.replies - sum(each.count for each in self.answered)


class Rows:
    """The rows that a run trains on, found by their ids.

    Args:
        config: the run's.
        begun_in: the folder that its paths are relative to.

    Raises:
        JigsawError: if they cannot be read.
    """

    def __init__(self, config: Config, begun_in: Path) -> None:
        data = config["data"]
        sources = read_sources(data["mixture"] or data["train_files"], data["media_root"], data["epochs"])
        self._files = [begun_in / file for source in sources for file in source.files]
        self._media_roots = [begun_in / source.media_root for source in sources for _ in source.files]
        self._tables = [read_table(file) for file in self._files]
        self._difficulties = read_difficulties(data["difficulty"])

    @cached_property
    def _places(self) -> dict[str, tuple[int, int]]:
        """Number of the file and 0-based place in it, by id; prompts, most of what there is, are left unread."""
        found: dict[str, tuple[int, int]] = {}
        for number, table in enumerate(self._tables):
            named = table.select([name for name in _NAMING if name in table.column_names])
            for place, row in enumerate(each_row(named)):
                with suppress(RowError):  # a row without an id to read is none that was trained on
                    if not isinstance(row, RowError):
                        found[row_id(row, place)] = number, place
        return found

    def find(self, name: Any) -> tuple[Row, int, Path]:
        """A row by its id, its 0-based place in its file, and the folder of its media.

        Raises:
            JigsawError: if there is no such row.
        """
        if name not in self._places:
            raise JigsawError(f"{', '.join(map(str, self._files))}: no row {name}; the rows were changed since")
        number, place = self._places[name]
        return row_at(self._tables[number], place), place, self._media_roots[number]

    def again(self, row: Row, place: int, truth: Sequence[int]) -> tuple[Row, Plan]:
        """A row's puzzle with this right answer, and the row, of that level of a difficulty schedule that it is of."""
        planned = plan(row, index=place)
        if len(planned.answer) != len(truth) and planned.task in self._difficulties:
            for level in self._difficulties[planned.task].levels:
                easier = at_level(row, planned.task, level)
                if len(plan(easier, index=place).answer) == len(truth):
                    return easier, plan_again(easier, truth, index=place)
        return row, plan_again(row, truth, index=place)

    def kinds(self) -> dict[str, tuple[str, Mapping[str, Any]]]:
        """The data source of each task, and what its puzzles say of themselves, by the first row of each file."""
        found: dict[str, tuple[str, Mapping[str, Any]]] = {}
        for table in self._tables:
            with suppress(RowError):  # the rows may have been changed since
                row = row_at(table, 0)
                planned = plan(row)
                found.setdefault(planned.task, (str(row["data_source"]), planned.extra_info))
        return found


def samples(folder: Path, last: int, rows: Rows | str, options: Mapping[str, Any]) -> list[Sample]:
    """Replies of the first step that wrote some down, of the last one and of one half-way.

    Args:
        folder: of verl's files ``STEP.jsonl``.
        last: the run's last step; what an earlier start wrote after it is left out.
        rows: what the run trains on; or why it is not known, then there are no puzzles.
        options: of the reward, which say how replies are read.
    """
    files = {int(file.stem): file for file in folder.glob("*.jsonl") if file.stem.isdecimal()}
    steps = sorted(step for step in files if step <= last)
    chosen = sorted({steps[place * (len(steps) - 1) // (SHOWN - 1)] for place in range(SHOWN)} if steps else ())
    return [
        _sample(step, replies, rows, options)
        for step in chosen
        for replies in list(_alike(read_replies(files[step]), _prompt).values())[:PROMPTS]
    ]


def read_replies(file: Path) -> list[Reply]:
    """The lines of a file of verl's that are complete: ``input``, ``output``, ``gts``, ``score`` and more."""
    found: list[Reply] = []
    for line in file.read_bytes().splitlines(keepends=True):
        try:
            reply = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            continue
        if isinstance(reply, dict) and _is_whole(reply):
            found.append(reply)
    return found


def _is_whole(reply: Reply) -> bool:
    truth = reply.get("gts")
    texts = (reply.get("input"), reply.get("output"))
    return (
        all(isinstance(text, str) for text in texts)
        and isinstance(reply.get("score"), int | float)
        and isinstance(truth, list)
        and is_answer(truth, len(truth))
    )


def _alike(replies: Sequence[Reply], key: Callable[[Reply], Any]) -> dict[Any, list[Reply]]:
    groups: dict[Any, list[Reply]] = {}
    for reply in replies:
        groups.setdefault(key(reply), []).append(reply)
    return groups


def _prompt(reply: Reply) -> str:
    """What the replies to one prompt of a step have in common; verl's uid is of a reply: PROMPT_NUMBER_TURN."""
    uid = str(reply.get("uid", "")).rsplit("_", 2)[0]
    return uid or json.dumps([reply["input"], reply["gts"]])


def _score(replies: Sequence[Reply]) -> float:
    return fmean(reply["score"] for reply in replies)


def _sample(step: int, replies: list[Reply], rows: Rows | str, options: Mapping[str, Any]) -> Sample:
    first = replies[0]
    truth = tuple(first["gts"])
    sample = Sample(step, len(replies), _score(replies), truth, first["input"], answered=())
    try:
        if "id" not in first or isinstance(rows, str):
            raise JigsawError(rows if isinstance(rows, str) else "the replies do not say which row they are to")
        row, place, media_root = rows.find(first["id"])
        row, planned = rows.again(row, place, truth)
        card, puzzle = build_card(row, planned, place, media_root)
    except JigsawError as error:
        groups = _alike(replies, lambda reply: reply["output"])
        plain = [Answered(len(group), _score(group), text) for text, group in groups.items()]
        return replace(sample, answered=_most(plain), why=str(error))
    read = reader(str(row["data_source"]), planned, options)
    found = []
    for answer, group in _alike(replies, lambda reply: read(reply["output"]).answer).items():
        text = group[0]["output"]
        whole = None if answer is None else put_together(puzzle, answer)
        found.append(Answered(len(group), _score(group), text, answer, read(text).reason or "", whole))
    return replace(sample, answered=_most(found), card=card)


def _most(answered: list[Answered]) -> tuple[Answered, ...]:
    return tuple(sorted(answered, key=lambda each: -each.count)[:SHOWN])


def reader(source: str, planned: Plan, options: Mapping[str, Any]) -> Callable[[str], Parsed]:
    """How the reward reads a reply to a puzzle."""
    chosen = {**options, **(options.get("tasks") or {}).get(planned.task, {})}
    said = {name: chosen.get(name) for name in ("answer_format", "profile")}
    answer_format, profile = reading(source, planned.extra_info, **said)
    return lambda text: parse(text, len(planned.answer), answer_format, strict=profile == "paper")
