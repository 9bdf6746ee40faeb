"""Depth jigsaw: numbered discs on one picture are put in order, nearest to the camera first (the paper's 3D jigsaw).

The source order of the points is nearest first; ``order[j]`` is the rank of the point that carries number j + 1.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageDraw, ImageFont

from jigsaw.errors import MediaError, RowError
from jigsaw.media.camera import PixelMap, Size
from jigsaw.media.image import image_size, open_rgb
from jigsaw.puzzle import CutOptions, Plan, Puzzle, Spec
from jigsaw.rows import Row, extra_info, media_path, media_struct, struct_path
from jigsaw.tasks.base import Mark, Task
from jigsaw.tasks.image import picture_size
from jigsaw.tokens import Medium

DATA_SOURCE = "visual_depth_jigsaw"

RADIUS = 15
"""Of a disc, in pixels of the picture that it is drawn on (released code)."""
MIN_PIXELS, MIN_METRES = 40, 0.2
"""Every two points are at least so far apart in the source picture, and more than this in depth (paper)."""
NEAREST, FARTHEST = 0.1, 10.0
"""Metres; what a point's depth may be (paper)."""
MOST_POINTS = 99
"""Numbers of more digits do not fit a disc."""

AFTER_RESIZE, BEFORE_RESIZE = "after_resize", "before_resize"

_RED, _DARK_RED, _WHITE, _ALPHA = (255, 0, 0), (110, 0, 0), (255, 255, 255), 120
_SUPERSAMPLING = 8

# A point's depth is that of a patch of the map: so many pixels of the picture to each side, half a disc.
_REACH = 8
_CANDIDATES = 1024
_STARTS = 16


class DepthTask(Task):
    """Points of a picture by their distance from the camera."""

    name = "depth"
    media_type = "image"
    column = "images"
    fields = frozenset({"path", "points", "resize_size"})
    sized_by = "resize_size"

    def owns(self, row: Row) -> bool:
        """Whether it holds a picture, and says that it goes by depth."""
        source = str(row.get("data_source"))
        return row.get("videos") is None and row.get("images") is not None and "depth" in source

    def read(self, row: Row) -> Spec:
        """What the row says of its picture: ``{path, points, resize, draw}``.

        ``points`` are [y, x] pixels of the upright file, nearest first; ``resize`` is [width, height] or None; ``draw``
        says when the discs are drawn: ``after_resize`` (own rows, by ``extra_info.draw``) or ``before_resize``
        (released).

        Raises:
            RowError: if a value makes no sense, or the points do not go from near to far by ``extra_info.depths``.
        """
        struct = media_struct(row, "images", "path, points, resize_size")
        path = struct_path(struct, "images")
        points = _points(struct)
        draw = extra_info(row).get("draw")
        if draw not in (None, BEFORE_RESIZE, AFTER_RESIZE):
            raise RowError(f"extra_info.draw is {draw!r:.60}; it must be {AFTER_RESIZE}, {BEFORE_RESIZE} or null")
        _check_depths(row, len(points))
        return {
            "path": path,
            "points": points,
            "resize": picture_size(struct, "resize_size"),
            "draw": draw or BEFORE_RESIZE,
        }

    def pieces(self, said: Spec) -> int:
        """Number of points."""
        return len(said["points"])

    def media_count(self, said: Spec) -> int:
        """One picture, which carries all points."""
        return 1

    def specs(self, said: Spec, order: Sequence[int]) -> list[Spec]:
        """One spec; its points stand in the order of the numbers that they carry."""
        return [{"task": self.name, **said, "points": [said["points"][rank] for rank in order]}]

    def sizes(self, wanted: Sequence[Spec], media_root: str | os.PathLike[str], options: CutOptions) -> list[Medium]:
        """The sizes of the pictures, by their headers.

        Raises:
            MediaError: if a header cannot be read, or a point lies outside its picture.
        """
        found: list[Medium] = []
        for spec in wanted:
            size = image_size(media_path(spec["path"], media_root))
            _check_inside(spec, size)
            width, height = spec["resize"] or size
            found.append((width, height, 1))
        return found

    def cut(self, wanted: Sequence[Spec], media_root: str | os.PathLike[str], options: CutOptions) -> list[Image.Image]:
        """The pictures with their discs.

        Returns:
            RGB images.

        Raises:
            MediaError: if a picture cannot be read, or a point lies outside it.
        """
        return [_marked(spec, media_root) for spec in wanted]

    def shown(self, wanted: Sequence[Spec], media: Sequence[Image.Image]) -> list[list[int]]:
        """The pieces: the [y, x] points in pixels of the source picture, in the order of their numbers."""
        return [point for spec in wanted for point in spec["points"]]

    def in_words(self, plan: Plan) -> str:
        """The number of points."""
        return f"{len(plan.order)} points"

    def marks(self, row: Row, puzzle: Puzzle) -> list[Mark]:
        """The points, nearest first."""
        depths = extra_info(row).get("depths") or [None] * len(puzzle.answer)
        return [
            Mark(number, x, y, depth)
            for number, depth in zip(puzzle.answer, depths, strict=True)
            for y, x in [puzzle.pieces[number - 1]]
        ]

    def wording(self, said: Spec) -> dict[str, int]:
        """The number of points."""
        return {"points": self.pieces(said)}


def _points(struct: Mapping[str, Any]) -> list[list[int]]:
    given = struct.get("points")
    try:
        points = [[round(y), round(x)] for y, x in given]  # type: ignore[union-attr]
    except (TypeError, ValueError, OverflowError):  # no list, no pairs; no numbers; NaN; infinity
        points = []
    if not 2 <= len(points) <= MOST_POINTS or min(map(min, points)) < 0:
        raise RowError(
            f"images[0].points is {given!r:.60}; it must be a list of 2 to {MOST_POINTS} [y, x] pixels, nearest first"
        )
    if len(set(map(tuple, points))) < len(points):
        raise RowError(f"images[0].points is {given!r:.60}; it holds a point twice")
    return points


def _check_depths(row: Row, count: int) -> None:
    given = extra_info(row).get("depths")
    if given is None:  # released rows have none
        return
    numbers = isinstance(given, (list, tuple)) and all(isinstance(depth, (int, float)) for depth in given)
    if not numbers or len(given) != count or not all(0 < depth < math.inf for depth in given):
        raise RowError(f"extra_info.depths is {given!r:.60}; it must be {count} depths in metres, one a point")
    if not all(near < far for near, far in pairwise(given)):
        raise RowError(f"extra_info.depths is {given!r:.60}; it must ascend, as the points go from near to far")


def _marked(spec: Spec, media_root: str | os.PathLike[str]) -> Image.Image:
    points = spec["points"]
    picture = open_rgb(media_path(spec["path"], media_root))
    size = picture.size
    _check_inside(spec, size)
    if spec["draw"] == BEFORE_RESIZE:
        draw_discs(picture, points)
    if spec["resize"]:
        picture = picture.resize(tuple(spec["resize"]), Image.Resampling.BICUBIC)
    if spec["draw"] == AFTER_RESIZE:
        draw_discs(picture, [rescaled(point, size, picture.size) for point in points])
    return picture


def _check_inside(spec: Spec, size: Size) -> None:
    """Raise MediaError unless all points lie in a picture of this size."""
    for y, x in spec["points"]:
        if y >= size[1] or x >= size[0]:
            raise MediaError(spec["path"], f"point [{y}, {x}] ([y, x]) lies outside its {size[0]}×{size[1]} pixels")


def rescaled(point: Sequence[int], size: Size, resized: Size) -> list[int]:
    """The [y, x] pixel of a resized picture that shows the [y, x] pixel of its source; sizes are (width, height)."""
    (y, x), (width, height), (new_width, new_height) = point, size, resized
    return [(2 * y + 1) * new_height // (2 * height), (2 * x + 1) * new_width // (2 * width)]


def draw_discs(picture: Image.Image, points: Sequence[Sequence[int]], numbers: Sequence[int] | None = None) -> None:
    """Draw numbered discs on an RGB picture, in place: translucent red, white digits.

    Args:
        picture: RGB.
        points: [y, x] pixels of the centres.
        numbers: of the points; None: 1 at the first, and so on.
    """
    for number, (y, x) in zip(numbers or range(1, len(points) + 1), points, strict=True):
        colour, mask = _stamp(number)
        picture.paste(colour, (x - RADIUS, y - RADIUS), mask)


@cache
def _stamp(number: int) -> tuple[Image.Image, Image.Image]:
    """A disc's colours (RGB) and how far they cover the picture (L), 2 · RADIUS + 1 pixels a side."""
    side = 2 * RADIUS + 1
    fine = Image.new("L", (side * _SUPERSAMPLING,) * 2)
    ImageDraw.Draw(fine).ellipse((0, 0, fine.width - 1, fine.height - 1), fill=_ALPHA)
    font = ImageFont.load_default(20 if number < 10 else 17)
    colour, mask = Image.new("RGB", (side, side), _RED), fine.reduce(_SUPERSAMPLING)
    # A dark edge round the digits: white on red on a white wall cannot be read.
    for stroke, paint in ((1, _DARK_RED), (0, _WHITE)):
        text = Image.new("L", (side * 2, side * 2))
        ImageDraw.Draw(text).text((side, side), str(number), 255, font, anchor="mm", stroke_width=stroke)
        text = text.crop(text.getbbox())  # its ink alone, which is what is centred
        ink = Image.new("L", (side, side))
        ink.paste(text, ((side - text.width) // 2, (side - text.height) // 2))
        colour.paste(paint, mask=ink)
        mask = ImageChops.lighter(mask, ink)
    return colour, mask


def choose_points(
    depth: npt.NDArray[np.floating[Any]], pixels: PixelMap, size: Size, *, count: int, shrink: float, key: Sequence[Any]
) -> tuple[list[list[int]], list[float]]:
    """Points for one picture: flat places whose order by depth is sure, far enough apart for their discs.

    The map's readings round a point span at most half of what points differ by, so that any reading round a nearer
    point is nearer than any round a farther one.

    Args:
        depth: metres, (H, W); 0 where there is no reading.
        pixels: from the picture to the map.
        size: (width, height) of the picture in pixels.
        count: number of points.
        shrink: scale of the resize that follows, 1 or less; discs stay whole and apart after it.
        key: JSON values that decide the draw.

    Returns:
        [y, x] pixels of the picture, nearest first, and their depths in metres.

    Raises:
        MediaError: if there are no such points; the message says why, the caller knows the files.
    """
    margin = math.ceil((RADIUS + 1) / shrink)
    extent = np.array([size[1], size[0]]) - 2 * margin
    if extent.min() < 1:
        raise MediaError(None, f"its picture is too small for a disc ({size[0]}×{size[1]})")
    digest = hashlib.shake_256(json.dumps(list(key)).encode()).digest(8 * _CANDIDATES)
    places = margin + (np.frombuffer(digest, "<u4").reshape(-1, 2).astype(np.uint64) * extent.astype(np.uint64) >> 32)
    points = places.astype(np.int64)
    reach = tuple(max(1, math.ceil(_REACH * scale)) for scale in pixels.scale[::-1])
    depths, flat = flat_depths(depth, pixels(points), (reach[0], reach[1]))
    points, depths = points[flat], depths[flat]
    if len(points) < count:
        raise MediaError(
            None, f"its depth map has too few flat places with readings ({len(points)} of {_CANDIDATES} tried)"
        )
    apart = max(MIN_PIXELS, (2 * RADIUS + 2) / shrink)
    best = 0
    for start in range(min(_STARTS, len(points))):
        chosen: list[int] = []
        free = np.ones(len(points), bool)
        while len(chosen) < count and free.any():
            # The first that is free, from another start in every try.
            place = (start + int(np.roll(free, -start).argmax())) % len(points)
            chosen.append(place)
            free &= np.square(points - points[place]).sum(axis=1) >= apart**2
            free &= np.abs(depths - depths[place]) > MIN_METRES + 1e-5  # more than floats are off by
        if len(chosen) == count:
            chosen.sort(key=lambda place: depths[place])
            return points[chosen].tolist(), depths[chosen].tolist()
        best = max(best, len(chosen))
    raise MediaError(None, f"it has too few points that are apart in the picture and in depth ({best} of {count})")


def flat_depths(
    depth: npt.NDArray[np.floating[Any]], centres: npt.NDArray[np.integer[Any]], reach: tuple[int, int]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """The median depth round pixels of a map, and whether it can be relied on.

    It can where the patch lies inside the map and every reading in it is there, in the range of the task, and within
    half of ``MIN_METRES`` of every other.

    Args:
        depth: metres, (H, W).
        centres: (N, 2), [y, x].
        reach: pixels to each side, (in y, in x).

    Returns:
        Metres to a tenth of a millimetre, (N,), and flags, (N,).
    """
    ys = centres[:, 0, None] + np.arange(-reach[0], reach[0] + 1)
    xs = centres[:, 1, None] + np.arange(-reach[1], reach[1] + 1)
    inside = (ys[:, 0] >= 0) & (ys[:, -1] < depth.shape[0]) & (xs[:, 0] >= 0) & (xs[:, -1] < depth.shape[1])
    ys, xs = ys.clip(0, depth.shape[0] - 1), xs.clip(0, depth.shape[1] - 1)
    patches = depth[ys[:, :, None], xs[:, None, :]].reshape(len(centres), -1).astype(np.float64)
    low, high = patches.min(axis=1), patches.max(axis=1)
    flat = inside & (low >= NEAREST) & (high <= FARTHEST) & (high - low <= MIN_METRES / 2)
    return np.median(patches, axis=1).round(4), flat
