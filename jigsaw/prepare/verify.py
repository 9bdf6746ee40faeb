"""Are the rows of a file good? Each row's media are opened, or its puzzle built, as training would."""

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from jigsaw.errors import JigsawError, MediaError, OptionError, RowError
from jigsaw.prepare.folder import OnProgress
from jigsaw.prepare.pipeline import Rejects, reason_kind
from jigsaw.prepare.ray_work import work_on_ray
from jigsaw.puzzle import Plan, media_specs
from jigsaw.reader import Record
from jigsaw.rows import Row, chat, each_row, read_table, row_at, row_id
from jigsaw.tasks import TASKS, cut, media_sizes, plan
from jigsaw.tokens import MAX_PROMPT_LENGTH, Medium, media_tokens, text_tokens

if TYPE_CHECKING:
    import pyarrow as pa

PART = 50
"""Rows that a worker takes at a time."""

HEADER_LIMIT, DECODE_LIMIT = 120, 1800
"""Seconds that a row may take: its media's headers, and its puzzle."""


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be trained on.

    Attributes:
        index: 0-based place in the file.
        id: the row's id.
        reason: what is wrong with it.
    """

    index: int
    id: str
    reason: str


@dataclass(frozen=True)
class Report:
    """What came of it.

    Attributes:
        rows: number of rows.
        tasks: number of rows by task; bad rows may belong to none.
        most_tokens: of the largest prompt among the rows whose media's headers can be read; its text by its bound.
        bad: the bad rows, in order.
    """

    rows: int
    tasks: dict[str, int]
    most_tokens: int
    bad: list[BadRow]

    @property
    def reasons(self) -> dict[str, int]:
        """Number of bad rows by reason, the most frequent first."""
        return dict(Counter(reason_kind(row.reason) for row in self.bad).most_common())


def verify_rows(
    data: Path,
    media_root: Path,
    *,
    decode: bool = False,
    max_prompt_length: int = MAX_PROMPT_LENGTH,
    workers: int | None = None,
    ray_address: str | None = None,
    progress: OnProgress,
    rejects: Rejects = lambda count: None,
) -> Report:
    """Check every row of a parquet file: it is a puzzle row, its id is its own, its media are there and fit its prompt.

    Args:
        data: the parquet file.
        media_root: folder that its paths are relative to.
        decode: build each puzzle; otherwise the headers of the media are read.
        max_prompt_length: tokens that a prompt may take.
        workers: number of rows at work at a time; None for one a core.
        ray_address: of a Ray cluster; None for this machine.
        progress: told (rows done, rows in all).
        rejects: told the number of bad rows so far.

    Raises:
        JigsawError: if the file or the folder cannot be read.
    """
    if workers is not None and workers < 1:
        raise OptionError("workers", workers, "must be 1 or more")
    if not media_root.is_dir():
        raise JigsawError(f"{media_root}: no such folder; give the one that the rows' paths are relative to")
    table = read_table(data)
    check = partial(check_row, media_root=media_root.absolute(), decode=decode, max_prompt_length=max_prompt_length)
    limit = DECODE_LIMIT if decode else HEADER_LIMIT
    reasons: dict[int, str] = {}
    places: defaultdict[str, list[int]] = defaultdict(list)
    tasks: Counter[str] = Counter()
    done = most_tokens = 0
    progress(done, table.num_rows)
    worked = work_on_ray(_parts(table), check, time_limit=limit, workers=workers, ray_address=ray_address)
    for start, lines in worked:
        for index, line in enumerate(lines, start):
            (record,) = json.loads(line)
            if "id" not in record:  # its reader did not live to tell
                record["id"] = _name(row_at(table, index), index)
            places[record["id"]].append(index)
            if "reason" in record:
                reasons[index] = record["reason"]
            if "task" in record:
                tasks[record["task"]] += 1
            most_tokens = max(most_tokens, record.get("tokens", 0))
        done += len(lines)
        rejects(len(reasons))
        progress(done, table.num_rows)
    names = {}
    for name, indices in places.items():
        for index in sorted(indices):
            if index != min(indices):
                reasons.setdefault(index, f"its id is that of another row ({min(indices)})")
            if index in reasons:
                names[index] = name
    bad = [BadRow(index, names[index], reasons[index]) for index in sorted(reasons)]
    return Report(table.num_rows, dict(sorted(tasks.items())), most_tokens, bad)


def _parts(table: "pa.Table") -> Iterator[tuple[int, list[tuple[int, Row | RowError]]]]:
    rows = enumerate(each_row(table))
    for start in range(0, table.num_rows, PART):
        yield start, list(islice(rows, PART))


def _name(row: Row, index: int) -> str:
    try:
        return row_id(row, index)
    except RowError:
        return str(index)


def check_row(
    item: tuple[int, Row | RowError], *, media_root: Path, decode: bool, max_prompt_length: int
) -> list[Record]:
    """One record: ``{id, task, tokens}`` of the row, as far as they can be told, with ``reason`` if it is bad.

    Args:
        item: the row's 0-based place in its file, and the row, or why it cannot be read.
        media_root: folder that its paths are relative to.
        decode: build the puzzle.
        max_prompt_length: tokens that its prompt may take.
    """
    index, row = item
    if isinstance(row, RowError):
        return [{"id": str(index), "reason": str(row)}]
    record: Record = {"id": _name(row, index)}
    try:
        planned = plan(row, index=index)
        record["task"] = planned.task
        sizes = media_sizes(planned.messages, media_root)
        if (reason := _too_long(record, planned, sizes, text_tokens(chat(row)), max_prompt_length)) is not None:
            record["reason"] = reason
        elif decode:
            cut(planned, media_root)
    except RowError as error:
        record["reason"] = str(error).removeprefix(f"row {record['id']}: ")
    except MediaError as error:
        record["reason"] = _reason(error, planned, media_root)
    return [record]


def _too_long(record: Record, planned: Plan, sizes: Sequence[Medium], text: int, most: int) -> str | None:
    """Why a prompt does not fit, None if it does; the record gets its ``tokens``."""
    try:
        media = media_tokens(sizes)
    except ValueError as error:
        return f"cannot be shown to the model ({error})"
    record["tokens"] = media + text
    if media + text <= most:
        return None
    return (
        f"takes more tokens than a prompt may have ({media:,} of its media and up to {text:,} of its text, over "
        f"{most:,}); make its media smaller by {TASKS[planned.task].sized_by}, or raise data.max_prompt_length"
    )


def _files(planned: Plan) -> Iterator[str]:
    """Path of each file that the puzzle needs."""
    for spec in media_specs(planned.messages):
        yield from TASKS[planned.task].files(spec)


def _reason(error: MediaError, planned: Plan, media_root: Path) -> str:
    """A reason with the file in brackets, where what differs from row to row stands."""
    if error.path is None:
        return error.why
    path = str(error.path)
    if os.path.isabs(path):  # a file that was found, by its real path; the row names it by another
        names = {os.path.realpath(media_root / name): name for name in _files(planned)}
        path = names.get(path, path)
    return f"{error.why} ({path})"
