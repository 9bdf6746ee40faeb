"""Puzzles with their media inside, as a parquet file that the `datasets` library loads: for small sets, and for others'
tools, which need nothing of this package to show or ask them."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from jigsaw.cutter import Cutter
from jigsaw.errors import JigsawError, MediaError, RowError
from jigsaw.files import atomic_write
from jigsaw.media.image import encoded
from jigsaw.media.video import Clip
from jigsaw.rows import each_row, read_table
from jigsaw.tasks import TASKS, plan

_ROW_GROUP = 50
"""Rows that are in memory at a time; the `datasets` library reads a row group at a time, too."""
_TIME_LIMIT = 300
OnProgress = Callable[[int, int], Any]


@dataclass(frozen=True)
class Bundled:
    """What was written: number of rows, and why others were left out, by their ids."""

    rows: int
    left_out: dict[str, str]


def write_bundle(
    data: str | os.PathLike[str],
    media_root: str | os.PathLike[str],
    out: Path,
    *,
    seed: int = 0,
    limit: int | None = None,
    on_progress: OnProgress = lambda done, total: None,
) -> Bundled:
    """Write the puzzles of a file's rows with all that a model is shown; by rename.

    A row of the bundle holds ``id``, ``task``, ``prompt`` (text, ``<image>`` or ``<video>`` where a medium stands),
    ``images`` in the order shown, ``videos`` (the frames of each clip, in the order shown) with their ``fps``, the
    ``answer`` (1-based), ``answer_format``, and ``grid`` of a tiling. The orders are those of epoch 0. Pictures are
    PNG: pixel for pixel what the training shows.

    Args:
        data: parquet file of rows.
        media_root: folder that the rows' paths are relative to.
        out: the parquet file to write.
        seed: of the orders, ``data.seed`` of a training.
        limit: the first so many rows; None for all.
        on_progress: called with (rows done, all).

    Raises:
        JigsawError: if the file cannot be read, no row has media that can be used, or the disk refuses.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Features, List, Value
    from datasets import Image as Picture

    features = Features(
        {
            "id": Value("string"),
            "task": Value("string"),
            "prompt": Value("string"),
            "images": List(Picture()),
            "videos": List(List(Picture())),
            "fps": List(Value("float64")),
            "answer": List(Value("int64")),
            "answer_format": Value("string"),
            "grid": List(Value("int64")),
        }
    )
    if not Path(media_root).is_dir():
        raise JigsawError(f"{media_root}: no such folder; give the one that the rows' paths are relative to")
    table = read_table(data)
    table = table if limit is None else table.slice(0, limit)
    left_out: dict[str, str] = {}
    examples = _examples(table, media_root, seed, left_out, lambda done: on_progress(done, table.num_rows))
    rows = 0
    with atomic_write(out) as file, pq.ParquetWriter(file, features.arrow_schema, compression="none") as writer:
        while group := list(islice(examples, _ROW_GROUP)):
            writer.write_table(pa.Table.from_pylist(group, schema=features.arrow_schema))
            rows += len(group)
        if not rows:
            first = next(iter(left_out.values()), "it holds no rows")
            raise JigsawError(f"{data}: no puzzle could be made of its rows; {first}")
    return Bundled(rows, left_out)


def _examples(
    table: Any, media_root: str | os.PathLike[str], seed: int, left_out: dict[str, str], on_row: Callable[[int], Any]
) -> Iterator[dict[str, Any]]:
    """The rows of a bundle; why others are none is noted."""
    cutter = Cutter(readers=1, time_limit=_TIME_LIMIT)
    for index, row in enumerate(each_row(table)):
        name = str(index)
        try:
            if isinstance(row, RowError):
                raise row
            planned = plan(row, seed, index=index)
            name = planned.id
            media = cutter.cut_media(planned.messages, media_root)
        except (RowError, MediaError) as error:
            left_out[name] = str(error)
        else:
            mark = f"<{TASKS[planned.task].media_type}>"
            text = [item["text"] if item["type"] == "text" else mark for m in planned.messages for item in m["content"]]
            clips = [one for one in media if isinstance(one, Clip)]
            yield {
                "id": planned.id,
                "task": planned.task,
                "prompt": "".join(text),
                "images": [_png(one) for one in media if not isinstance(one, Clip)],
                "videos": [[_png(picture) for picture in clip.pictures()] for clip in clips],
                "fps": [clip.fps for clip in clips],
                "answer": list(planned.answer),
                "answer_format": planned.answer_format,
                "grid": list(planned.grid or ()),
            }
        on_row(index + 1)


def _png(picture: Image.Image) -> dict[str, Any]:
    return {"bytes": encoded(picture, "png"), "path": None}
