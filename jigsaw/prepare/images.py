"""Pictures to rows of the image jigsaw: every picture below a folder, cut by one grid."""

import re
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jigsaw.errors import MediaError, OptionError
from jigsaw.media.image import image_size, largest_size, open_rgb, tile_boxes
from jigsaw.prepare.pipeline import Options, Sources, list_files, row_schema, usable_file
from jigsaw.prompts import render
from jigsaw.reader import Record
from jigsaw.tokens import VISION, media_tokens

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".tif", ".tiff", ".gif"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".avif", ".avifs"),
)
"""Lower case; what a file holds is decided by its content."""

SHARD_SIZE = 500
"""Pictures a shard."""

NO_SIZE = (-1, -1)
"""What a row says where a picture keeps its size."""

_GRID = re.compile(r"([0-9]{1,4})x([0-9]{1,4})")


@dataclass(frozen=True, kw_only=True)
class ImageOptions(Options):
    """What decides the rows, besides the pictures.

    Attributes:
        grid: (rows, columns) of tiles.
        min_side: pixels; pictures with a shorter side are left out (paper: 84).
        max_pixels: pictures with more are scaled down to it before they are cut; None for as many as fit the prompt.
        verify: decode every picture in full; otherwise headers alone are read.
    """

    grid: tuple[int, int] = (3, 3)
    min_side: int = 84
    max_pixels: int | None = None
    verify: bool = False

    def validate(self) -> None:
        """Raise JigsawError if a value makes no sense."""
        check_grid(self.grid)
        if self.min_side < 0:
            raise OptionError("min_side", self.min_side, "must be 0 pixels or more")
        least = self.media * VISION.factor**2
        if self.max_pixels is not None and self.max_pixels < least:
            raise OptionError("max_pixels", self.max_pixels, f"must be {least} or more, for {self.media} tiles")
        super().validate()

    @property
    def prompt(self) -> str:
        """The text of every row's prompt."""
        rows, columns = self.grid
        return render("image", self.answer_format, rows=rows, columns=columns)

    @property
    def media(self) -> int:
        """Number of tiles."""
        return self.grid[0] * self.grid[1]

    def sources(self, media_root: Path, only: str | None = None) -> Sources:
        """The pictures below a folder."""
        return Sources(
            command="prepare image",
            paths=list_pictures(media_root) if only is None else [only],
            noun="pictures",
            look=partial(check_picture, media_root=media_root.absolute(), options=self),
            row=partial(image_row, options=self),
            schema=image_schema(),
            libraries=("pillow",),
            shard_size=SHARD_SIZE,
        )

    def fits(self, size: tuple[int, int]) -> bool:
        """Whether a picture of this (width, height) is small enough."""
        if self.max_pixels is not None and size[0] * size[1] > self.max_pixels:
            return False
        try:
            return tile_tokens(size, self.grid) <= self.room
        except ValueError:
            return False

    def arguments(self) -> dict[str, Any]:
        """All of it as JSON values, as the manifest says it."""
        return {**super().arguments(), "grid": grid_text(self.grid)}


def parse_grid(text: str) -> tuple[int, int]:
    """(rows, columns) from text like ``"3x3"``.

    Raises:
        JigsawError: if the text is anything else or makes fewer than two tiles.

    >>> parse_grid("2x3")
    (2, 3)
    """
    match = _GRID.fullmatch(text)
    if match is None:
        raise OptionError("grid", text, "must be rows x columns, for example 3x3")
    grid = int(match[1]), int(match[2])
    check_grid(grid)
    return grid


def check_grid(grid: tuple[int, int]) -> None:
    """Raise JigsawError unless (rows, columns) make two tiles or more."""
    if min(grid) < 1 or max(grid) < 2:
        raise OptionError("grid", grid_text(grid), "needs two tiles or more, for example 3x3")


def grid_text(grid: tuple[int, int]) -> str:
    """The inverse of :func:`parse_grid`."""
    return f"{grid[0]}x{grid[1]}"


def list_pictures(media_root: Path) -> list[str]:
    """POSIX paths of all pictures below a folder, by their suffixes; see :func:`jigsaw.prepare.pipeline.list_files`."""
    return list_files(media_root, SUFFIXES, "pictures")


def check_picture(path: str, *, media_root: Path, options: ImageOptions) -> list[Record]:
    """One record, or ``{reason}`` for the picture's rejection.

    The record holds ``width`` and ``height`` of the upright picture in pixels, ``resize`` as [width, height] or
    [-1, -1], and the ``tokens`` of its tiles.

    Args:
        path: relative to ``media_root``.
        media_root: folder that the picture must not leave.
        options: what decides the rows.
    """
    try:
        file = usable_file(path, media_root)
    except MediaError as error:
        return [{"reason": str(error)}]
    try:
        size = open_rgb(file).size if options.verify else image_size(file)
    except MediaError as error:
        return [{"reason": error.why}]
    width, height = size
    rows, columns = options.grid
    if min(size) < options.min_side:
        return [{"reason": f"a side is shorter than {options.min_side} pixels ({width}×{height})"}]
    if height < rows or width < columns:
        return [{"reason": f"has fewer pixels than a grid of {grid_text(options.grid)} ({width}×{height})"}]
    try:
        tile_tokens(size, options.grid)
    except ValueError as error:
        return [{"reason": f"cannot be cut ({error})"}]
    shown = largest_size(size, options.fits)
    if shown is None:
        return [{"reason": f"cannot be made to fit the limits of pixels and of the prompt ({width}×{height})"}]
    smaller = shown != size
    return [
        {
            "width": width,
            "height": height,
            "resize": list(shown) if smaller else list(NO_SIZE),
            "tokens": tile_tokens(shown, options.grid),
            "smaller": smaller,
        }
    ]


@lru_cache(maxsize=4096)
def tile_tokens(size: tuple[int, int], grid: tuple[int, int]) -> int:
    """Tokens of the tiles of a picture of this (width, height).

    Raises:
        ValueError: if the model takes no tiles of their shape.
    """
    boxes = tile_boxes(size, *grid)
    return media_tokens((right - left, bottom - top, 1) for left, top, right, bottom in boxes)


def image_schema() -> "pa.Schema":
    """The schema of image rows."""
    import pyarrow as pa

    size = pa.list_(pa.int64())
    image = pa.struct([("path", pa.string()), ("jigsaw_config", size), ("resize_size", size), ("crop_size", size)])
    return row_schema("images", image, [("width", pa.int64()), ("height", pa.int64())])


def image_row(record: Record, index: int, split: str, options: ImageOptions) -> Record:
    """The row of one picture.

    Args:
        record: of :func:`check_picture`, with its ``path``.
        index: 0-based place of the row in its file.
        split: name of the split.
        options: the grid and the answer format.
    """
    from jigsaw.tasks.image import DATA_SOURCE

    return {
        "data_source": DATA_SOURCE,
        "prompt": [{"role": "user", "content": options.prompt}],
        "images": [
            {
                "path": record["path"],
                "jigsaw_config": list(options.grid),
                "resize_size": list(record.get("resize", NO_SIZE)),
                "crop_size": list(NO_SIZE),
            }
        ],
        "reward_model": {"style": "rule", "ground_truth": ""},
        "extra_info": {
            # With the grid, so that files of several grids can be put together.
            "id": f"{record['path']}#{grid_text(options.grid)}",
            "index": index,
            "split": split,
            "answer_format": options.answer_format,
            "width": record["width"],
            "height": record["height"],
        },
    }
