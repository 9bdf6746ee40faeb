"""Pictures to rows of the image jigsaw: every picture below a folder, cut by one grid."""

import hashlib
import heapq
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from jigsaw.errors import JigsawError, MediaError
from jigsaw.media.image import image_size, open_rgb
from jigsaw.prepare.runner import (
    Job,
    Progress,
    Record,
    available_cores,
    begin,
    fingerprint,
    json_line,
    output_folder,
    publish,
    read_manifest,
    read_shards,
    run_shards,
)
from jigsaw.rows import ANSWER_FORMATS, AnswerFormat, media_path

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".tif", ".tiff", ".gif"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".avif", ".avifs"),
)
"""Lower case; what a file holds is decided by its content."""

OUTPUTS = ("rejected.jsonl", "val.parquet", "train.parquet")

ROW_GROUP = 10_000
"""Rows a row group: fixed, so the bytes do not depend on how the rows arrive."""

_GRID = re.compile(r"([0-9]{1,4})x([0-9]{1,4})")


@dataclass(frozen=True)
class ImageOptions:
    """What decides the rows, besides the pictures.

    Attributes:
        grid: (rows, columns) of tiles.
        min_side: pixels; pictures with a shorter side are left out (paper: 84).
        val: number of pictures for the validation split.
        seed: of the split and of the sample that ``limit`` draws.
        verify: decode every picture in full; otherwise headers alone are read.
        answer_format: how the prompt asks for the answer.
        limit: look at a random sample of so many pictures; None for all.
    """

    grid: tuple[int, int] = (3, 3)
    min_side: int = 84
    val: int = 0
    seed: int = 0
    verify: bool = False
    answer_format: AnswerFormat = "answer_tag"
    limit: int | None = None

    def validate(self) -> None:
        """Raise JigsawError if a value makes no sense."""
        if min(self.grid) < 1 or max(self.grid) < 2:
            raise JigsawError(f"--grid {_grid_text(self.grid)}: needs two tiles or more, for example 3x3")
        if self.min_side < 0:
            raise JigsawError(f"--min-side {self.min_side}: must be 0 pixels or more")
        if self.val < 0:
            raise JigsawError(f"--val {self.val}: must be 0 pictures or more")
        if self.limit is not None and self.limit < 1:
            raise JigsawError(f"--limit {self.limit}: must be 1 picture or more")
        if self.answer_format not in ANSWER_FORMATS:
            raise JigsawError(f"--answer-format {self.answer_format}: must be one of {', '.join(ANSWER_FORMATS)}")


@dataclass(frozen=True)
class Summary:
    """What came of it.

    Attributes:
        found: pictures below the media root.
        sampled: of these, pictures that were looked at; fewer than ``found`` with a limit.
        kept: rows, ``train`` + ``val`` of them.
        rejected: pictures by reason; ``sampled`` = ``kept`` + their sum.
        up_to_date: the folder was finished already; nothing was done.
    """

    found: int
    sampled: int
    kept: int
    train: int
    val: int
    rejected: dict[str, int]
    up_to_date: bool


def parse_grid(text: str) -> tuple[int, int]:
    """(rows, columns) from text like ``"3x3"``.

    Raises:
        JigsawError: if the text is anything else or makes fewer than two tiles.

    >>> parse_grid("2x3")
    (2, 3)
    """
    match = _GRID.fullmatch(text)
    if match is None:
        raise JigsawError(f"--grid {text}: must be rows x columns, for example 3x3")
    grid = int(match[1]), int(match[2])
    ImageOptions(grid).validate()
    return grid


def _grid_text(grid: tuple[int, int]) -> str:
    return f"{grid[0]}x{grid[1]}"


def prepare_images(
    media_root: Path, out: Path, options: ImageOptions, *, workers: int | None = None, progress: Progress
) -> Summary:
    """Make ``train.parquet``, ``val.parquet``, ``rejected.jsonl`` and ``manifest.json`` of the pictures below a folder.

    Their bytes depend on the pictures and the options alone. A run that was killed goes on where it was.

    Args:
        media_root: folder of the pictures; the rows hold paths relative to it.
        out: output folder; made if need be.
        options: what decides the rows.
        workers: number of processes; None for one a core.
        progress: told (pictures done, pictures in all).

    Raises:
        JigsawError: if an option makes no sense, no picture is fit, or the folder cannot be used.
    """
    options.validate()
    if workers is not None and workers < 1:
        raise JigsawError(f"--workers {workers}: must be 1 or more")
    found = list_pictures(media_root)
    sample = sorted(_draw(found, options.limit, "limit", options.seed)) if options.limit is not None else found
    if options.val >= len(sample):
        raise JigsawError(f"--val {options.val}: leaves nothing to train on; {len(sample)} pictures are there")
    job = Job(
        command="prepare image",
        arguments={**asdict(options), "grid": _grid_text(options.grid)},
        listing=fingerprint(_stamp(media_root, path) for path in found),
        versions=_versions(),
        outputs=OUTPUTS,
    )
    with output_folder(out):
        if not begin(out, job):
            return Summary(**read_manifest(out)["counts"], up_to_date=True)
        check = partial(
            check_picture,
            media_root=media_root,
            grid=options.grid,
            min_side=options.min_side,
            verify=options.verify,
        )
        run_shards(out, sample, check, workers=workers or available_cores(), progress=progress)
        return _publish(out, job, options, media_root, len(found), len(sample))


def list_pictures(media_root: Path) -> list[str]:
    """POSIX paths of all pictures below a folder, relative to it and sorted, by their suffixes.

    Linked folders are not entered: inside the root their pictures are found anyway, outside they cannot be used.
    Those outside are listed, so that they are rejected where people see it.

    Raises:
        JigsawError: if the folder or one below it cannot be read, or there is no picture.
    """
    if not media_root.is_dir():
        raise JigsawError(f"{media_root}: no such folder; give the folder that holds the pictures")

    def refuse(error: OSError) -> None:
        raise JigsawError(f"{error.filename}: cannot be listed ({error.strerror}); make it readable or move it away")

    root = Path(os.path.realpath(media_root))
    paths = []
    for folder, folders, files in os.walk(root, onerror=refuse):
        below = Path(folder).relative_to(root)
        paths += [(below / name).as_posix() for name in files if name.lower().endswith(SUFFIXES)]
        links = [below / name for name in folders if (root / below / name).is_symlink()]
        paths += [link.as_posix() for link in links if not (root / link).resolve().is_relative_to(root)]
    if not paths:
        raise JigsawError(f"{media_root}: holds no pictures ({', '.join(SUFFIXES)}); is it the right folder?")
    return sorted(paths)


def _stamp(media_root: Path, path: str) -> list[Any]:
    """What tells that a picture was replaced: its path, its bytes and its time of change in ns."""
    try:
        status = os.stat(media_root / path)
    except OSError as error:  # a dead link, say; it is rejected when its turn comes
        return [path, error.errno]
    return [path, status.st_size, status.st_mtime_ns]


def _draw(paths: list[str], count: int, purpose: str, seed: int) -> list[str]:
    """``count`` of the paths, in the order of a hash: independent of the other paths and of their order."""

    def rank(path: str) -> bytes:
        return hashlib.sha256(json.dumps([purpose, seed, path]).encode()).digest()

    return heapq.nsmallest(count, paths, key=rank)


def check_picture(path: str, *, media_root: Path, grid: tuple[int, int], min_side: int, verify: bool) -> list[Record]:
    """One record: ``{path, width, height}`` of the upright picture in pixels, or ``{path, reason}`` for its rejection.

    In a reason, what differs from picture to picture stands in brackets; the summary counts what stands before them.

    Args:
        path: relative to ``media_root``.
        media_root: folder that the picture must not leave.
        grid: (rows, columns).
        min_side: pixels.
        verify: decode the picture instead of reading its header alone.
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        return [{"path": path, "reason": "its name is not valid UTF-8, which rows cannot hold; rename it"}]
    try:
        file = media_path(path, media_root)
    except MediaError as error:
        return [{"path": path, "reason": _without_place(error, path, media_root)}]
    try:
        width, height = open_rgb(file).size if verify else image_size(file)
    except MediaError as error:
        return [{"path": path, "reason": str(error).removeprefix(f"{file}: ")}]
    rows, columns = grid
    if min(width, height) < min_side:
        return [{"path": path, "reason": f"a side is shorter than {min_side} pixels ({width}×{height})"}]
    if height < rows or width < columns:
        return [{"path": path, "reason": f"has fewer pixels than a grid of {_grid_text(grid)} ({width}×{height})"}]
    return [{"path": path, "width": width, "height": height}]


def _without_place(error: MediaError, path: str, media_root: Path) -> str:
    """A reason that is the same wherever the media root lies."""
    text = str(error).removeprefix(f"{path}: ")
    return text.replace(f" {os.path.realpath(media_root)}", "")


def _publish(out: Path, job: Job, options: ImageOptions, media_root: Path, found: int, sampled: int) -> Summary:
    rejected: Counter[str] = Counter()
    kept = []
    for record in read_shards(out, sampled):
        if "reason" in record:
            rejected[record["reason"].partition(" (")[0].partition(";")[0]] += 1
        else:
            kept.append(record["path"])
    if options.val >= len(kept):
        said = ", ".join(f"{count}: {reason}" for reason, count in sorted(rejected.items()))
        raise JigsawError(
            f"{media_root}: {len(kept)} of {sampled} pictures are fit, --val {options.val} leaves nothing to train on; "
            f"rejected were {said or 'none'}"
        )
    val = set(_draw(kept, options.val, "val", options.seed))
    counts: dict[str, Any] = {
        "found": found,
        "sampled": sampled,
        "kept": len(kept),
        "train": len(kept) - len(val),
        "val": len(val),
        "rejected": dict(sorted(rejected.items())),
    }

    def write(name: str, file: IO[bytes]) -> None:
        records = read_shards(out, sampled)
        if name == "rejected.jsonl":
            file.writelines(json_line(record) for record in records if "reason" in record)
        else:
            split = name.removesuffix(".parquet")
            wanted = (record for record in records if "reason" not in record)
            _write_rows(file, split, (r for r in wanted if (r["path"] in val) == (split == "val")), options)

    publish(out, job, counts, write)
    return Summary(**counts, up_to_date=False)


def row_schema() -> "pa.Schema":
    """The schema of image rows, see :mod:`jigsaw.rows`."""
    import pyarrow as pa

    size = pa.list_(pa.int64())
    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    image = pa.struct([("path", pa.string()), ("jigsaw_config", size), ("resize_size", size), ("crop_size", size)])
    reward_model = pa.struct([("style", pa.string()), ("ground_truth", pa.string())])
    extra_info = pa.struct(
        [
            ("id", pa.string()),
            ("index", pa.int64()),
            ("split", pa.string()),
            ("answer_format", pa.string()),
            ("width", pa.int64()),
            ("height", pa.int64()),
        ]
    )
    return pa.schema(
        [
            ("data_source", pa.string()),
            ("prompt", pa.list_(message)),
            ("images", pa.list_(image)),
            ("reward_model", reward_model),
            ("extra_info", extra_info),
        ]
    )


def image_row(record: Record, index: int, split: str, options: ImageOptions) -> Record:
    """The row of one picture.

    Args:
        record: ``{path, width, height}`` of :func:`check_picture`.
        index: 0-based place of the row in its file.
        split: name of the split.
        options: the grid and the answer format.
    """
    from jigsaw.prompts import render
    from jigsaw.tasks.image import DATA_SOURCE

    rows, columns = options.grid
    return {
        "data_source": DATA_SOURCE,
        "prompt": [
            {"role": "user", "content": render("image", options.answer_format, rows=rows, columns=columns)},
        ],
        "images": [
            {
                "path": record["path"],
                "jigsaw_config": [rows, columns],
                "resize_size": [-1, -1],
                "crop_size": [-1, -1],
            }
        ],
        "reward_model": {"style": "rule", "ground_truth": ""},
        "extra_info": {
            # With the grid, so that files of several grids can be put together.
            "id": f"{record['path']}#{_grid_text(options.grid)}",
            "index": index,
            "split": split,
            "answer_format": options.answer_format,
            "width": record["width"],
            "height": record["height"],
        },
    }


def _write_rows(file: IO[bytes], split: str, records: Iterator[Record], options: ImageOptions) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = row_schema()
    rows = (image_row(record, index, split, options) for index, record in enumerate(records))
    with pq.ParquetWriter(file, schema, compression="zstd", compression_level=3) as writer:
        while group := list(islice(rows, ROW_GROUP)):
            writer.write_table(pa.Table.from_pylist(group, schema=schema), row_group_size=ROW_GROUP)


def _versions() -> dict[str, str]:
    import PIL
    import pyarrow as pa

    from jigsaw import __version__

    return {"jigsaw": __version__, "pillow": PIL.__version__, "pyarrow": pa.__version__}
