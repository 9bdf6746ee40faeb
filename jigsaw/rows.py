"""The row: one line of a parquet file, text only. Its schema, ids, answer format and paths.

A row is a dict in verl's format, a superset of the released training data:

=================  =========================================================================================
``data_source``    names the task: contains ``jigsaw``
``prompt``         chat list of ``{"role", "content"}``; the text has an ``<image>`` or ``<video>`` mark
                   for each medium
``images``         image rows: one struct ``{path, jigsaw_config: [rows, columns], resize_size, crop_size}``;
                   depth rows: one struct ``{path, points, resize_size}``
``videos``         video rows: one struct, see :mod:`jigsaw.tasks.video`
``reward_model``   ``{"style", "ground_truth"}``; the truth is written when the order is drawn
``extra_info``     ``id, index, split, answer_format`` and what the task needs
=================  =========================================================================================
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from operator import index as to_whole
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from jigsaw.errors import JigsawError, MediaError, RowError

if TYPE_CHECKING:
    import pyarrow as pa

Row = Mapping[str, Any]
AnswerFormat = Literal["answer_tag", "boxed", "plain"]
ANSWER_FORMATS: tuple[AnswerFormat, ...] = get_args(AnswerFormat)

REQUIRED_COLUMNS = ("data_source", "prompt")
MEDIA_COLUMNS = ("images", "videos")

_PART = 1000
"""Rows that are turned into dicts at a time."""

_NO_VALUE = (ArithmeticError, LookupError, NotImplementedError, TypeError, ValueError)
"""What pyarrow is seen to raise, or its own errors derive from, where Python has no such value."""

_SURROGATE = re.compile("[\ud800-\udfff]")
"""One half of a pair that UTF-16 writes a character with: no text by itself."""


def extra_info(row: Row) -> Mapping[str, Any]:
    """The row's ``extra_info``, empty where the column is absent or null.

    Raises:
        RowError: if it is anything but a mapping.
    """
    given = row.get("extra_info")
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise RowError(f"extra_info is {given!r:.60}; it must be a struct, for example {{id, split}}, or null")
    return given


def row_id(row: Row, index: int) -> str:
    """The row's id: ``extra_info.id``, else a hash of its source, its cut and its place in the file.

    Args:
        row: the row.
        index: 0-based place of the row in its file.

    Raises:
        RowError: if ``extra_info`` is no mapping.
    """
    if (given := extra_info(row).get("id")) is not None:
        return str(given)
    cut = {column: row.get(column) for column in MEDIA_COLUMNS}
    key = json.dumps([row.get("data_source"), cut, index], sort_keys=True, default=str)
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def row_split(row: Row) -> str:
    """The row's split; a row that names none is a training row."""
    return str(extra_info(row).get("split") or "train")


def chat(row: Row) -> list[Mapping[str, str]]:
    """The row's prompt as a chat list.

    Raises:
        RowError: if it is anything else.
    """
    prompt = row.get("prompt")
    if not isinstance(prompt, list) or not all(
        isinstance(message, Mapping) and all(isinstance(message.get(key), str) for key in ("role", "content"))
        for message in prompt
    ):
        raise RowError(f"its prompt must be a list of {{role, content}}, both text, got {prompt!r:.60}")
    if any(_SURROGATE.search(message[key]) for message in prompt for key in ("role", "content")):
        raise RowError("its prompt holds a lone surrogate, which no tokenizer takes; rewrite the prompt")
    return prompt


def answer_format(row: Row) -> AnswerFormat:
    r"""The format in which the row's prompt asks for the answer.

    ``extra_info.answer_format`` if given; else what the prompt asks for (``\boxed`` → boxed,
    ``<answer>`` → answer_tag); else plain where ``data_source`` contains ``nothink``.

    Raises:
        RowError: if none of these decides, or the given name is unknown.
    """
    given = extra_info(row).get("answer_format")
    if given is not None:
        for known in ANSWER_FORMATS:
            if given == known:
                return known
        raise RowError(f"extra_info.answer_format is {given!r:.60}; it must be one of {', '.join(ANSWER_FORMATS)}")
    text = "\n".join(message["content"] for message in chat(row))
    if "\\boxed" in text:
        return "boxed"
    if "<answer>" in text:
        return "answer_tag"
    if "nothink" in str(row.get("data_source")):
        return "plain"
    raise RowError(
        "the row does not say how it wants its answer: set extra_info.answer_format to one of "
        + ", ".join(ANSWER_FORMATS)
    )


def media_struct(row: Row, column: str, names: str) -> Mapping[str, Any]:
    """The one struct in a row's ``images`` or ``videos``.

    Args:
        row: the row.
        column: ``"images"`` or ``"videos"``.
        names: the fields that it should have, for the message.

    Raises:
        RowError: if the column holds anything but exactly one struct.
    """
    media = row.get(column)
    if not isinstance(media, (list, tuple)) or len(media) != 1 or not isinstance(media[0], Mapping):
        raise RowError(f"{column} is {media!r:.60}; it must be a list with exactly one entry, a struct {{{names}}}")
    return media[0]


def struct_path(struct: Mapping[str, Any], column: str) -> str:
    """The path in a media struct, below the media root.

    Raises:
        RowError: if there is none.
    """
    path = unnest(struct.get("path"))
    if not isinstance(path, str) or not path:
        raise RowError(
            f"{column}[0].path is {struct.get('path')!r:.60}; it must be the path of one file below the media root"
        )
    return path


def unnest(value: Any) -> Any:
    """Released rows hold some values bare and some in a list of one."""
    return value[0] if isinstance(value, (list, tuple)) and len(value) == 1 else value


def whole_numbers(value: Any, count: int | None = None) -> list[int] | None:
    """A list of ``count`` whole numbers (any number of them if None), whatever their type; None for anything else."""
    if not isinstance(value, (list, tuple)) or (count is not None and len(value) != count):
        return None
    try:
        return [to_whole(number) for number in value]
    except TypeError:
        return None


def media_path(path: str, media_root: str | os.PathLike[str]) -> Path:
    """The file that a row's ``path`` names, below ``media_root``.

    Raises:
        MediaError: if the path is absolute, leaves the media root (``..`` or a symbolic link), or is missing.
    """
    root = os.path.realpath(media_root)
    if os.path.isabs(path):
        raise MediaError(path, f"absolute paths are not allowed in rows; make it relative to the media root {root}")
    if "\0" in path or not _can_be_encoded(path):
        raise MediaError(ascii(path), f"is no path of this system; make it relative to the media root {root}")
    resolved = os.path.realpath(f"{root}/{path}")
    if os.path.commonpath((root, resolved)) != root:
        raise MediaError(path, f"leaves the media root {root}; move the file below it or choose another root")
    if not os.path.isfile(resolved):  # not Path.is_file, which raises on a name that is too long
        raise MediaError(path, f"no such file below the media root {root}")
    return Path(resolved)


def _can_be_encoded(path: str) -> bool:
    try:
        os.fsencode(path)
    except UnicodeEncodeError:  # one half of a pair that UTF-16 writes a character with
        return False
    return True


def read_table(path: str | os.PathLike[str]) -> "pa.Table":
    """Read a parquet file of rows, memory-mapped where possible.

    Raises:
        JigsawError: if the file is missing, is no parquet file, has no rows, lacks a column that rows need, or names
            two columns or two fields of a struct alike.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not Path(path).is_file():
        raise JigsawError(f"{path}: no such file; make it with jigsaw prepare, or give the path of one that is there")
    try:
        table = pq.read_table(path, memory_map=True)
        # Text that is no UTF-8 would else fail later, where nobody knows the file's name; so would names of fields.
        table.validate(full=True)
        twice = _named_twice(table.schema)
        found = table.column_names
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        why = " ".join(str(error).split())
        raise JigsawError(f"{path}: cannot be read as parquet ({why}); make it again with jigsaw prepare") from error
    if twice is not None:
        raise JigsawError(f"{path}: column {twice} is there twice; make it again with jigsaw prepare")
    missing = [column for column in REQUIRED_COLUMNS if column not in found]
    if not any(column in found for column in MEDIA_COLUMNS):
        missing.append(" or ".join(MEDIA_COLUMNS))
    if missing:
        raise JigsawError(
            f"{path}: column {', '.join(missing)} is missing; found {', '.join(found)}; make rows with jigsaw prepare"
        )
    if table.num_rows == 0:
        raise JigsawError(
            f"{path}: holds no rows; make it again with jigsaw prepare (a validation file needs rows for validation)"
        )
    return table


def _named_twice(schema: "pa.Schema") -> str | None:
    """The first name that two columns, or two fields of a struct, share; fields with a dot before them."""
    import pyarrow as pa

    waiting = [("", list(schema))]
    for where, fields in waiting:
        seen = set()
        for field in fields:
            if field.name in seen:
                return f"{where}{field.name}"
            seen.add(field.name)
            type_ = field.type
            while pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_):
                type_ = type_.value_type
            if pa.types.is_struct(type_):
                waiting.append((f"{where}{field.name}.", list(type_)))
    return None


def row_at(table: "pa.Table", index: int) -> dict[str, Any]:
    """The row at a 0-based place in a table, as a dict.

    Raises:
        RowError: if a column holds a value there that Python does not have, a date after the year 9999 for example.
    """
    try:
        row: dict[str, Any] = table.slice(index, 1).to_pylist()[0]
    except _NO_VALUE:
        for name, column in zip(table.column_names, table.columns, strict=True):
            try:
                column[index].as_py()
            except _NO_VALUE as error:
                why = " ".join(str(error).split())
                raise RowError(
                    f"column {name} holds a value that cannot be read ({why:.100}); mend or drop it"
                ) from error
        raise
    return row


def each_row(table: "pa.Table") -> Iterator[dict[str, Any] | RowError]:
    """The rows of a table as dicts, each that cannot be read as the error of :func:`row_at`."""
    for start in range(0, table.num_rows, _PART):
        part = table.slice(start, _PART)
        try:
            rows: list[dict[str, Any] | RowError] = part.to_pylist()
        except _NO_VALUE:
            rows = [_row_or_error(part, index) for index in range(part.num_rows)]
        yield from rows


def _row_or_error(table: "pa.Table", index: int) -> dict[str, Any] | RowError:
    try:
        return row_at(table, index)
    except RowError as error:
        return error


def read_rows(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """All rows of a parquet file as dicts.

    Raises:
        JigsawError: see :func:`read_table` and :func:`row_at`; the message names the file and the row.
    """
    rows = []
    for index, row in enumerate(each_row(read_table(path))):
        if isinstance(row, RowError):
            raise RowError(f"{path}, row {index}: {row}") from row
        rows.append(row)
    return rows
