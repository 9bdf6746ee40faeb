"""Image jigsaw: a picture is cut into rows × columns tiles, each shown as an image of its own (paper, 3.1)."""

import os
from collections.abc import Mapping, Sequence
from operator import index
from typing import Any

from PIL import Image

from jigsaw.errors import MediaError, RowError
from jigsaw.media.image import center_crop_box, open_rgb, tile_boxes
from jigsaw.puzzle import Spec
from jigsaw.rows import Row, media_path

DATA_SOURCE = "visual_jigsaw_image"
MEDIA_TYPE = "image"


def source(row: Row) -> Spec:
    """What the row says of its picture: ``{path, grid: [rows, columns], resize, crop}``; sizes are (w, h) or None.

    Raises:
        RowError: if the row does not hold exactly one such struct, or a value in it makes no sense.
    """
    images = row.get("images")
    if not isinstance(images, (list, tuple)) or len(images) != 1 or not isinstance(images[0], Mapping):
        raise RowError(
            f"images is {images!r:.60}; it must be a list with exactly one entry, a struct {{path, jigsaw_config}}"
        )
    struct = images[0]
    path = _unnest(struct.get("path"))
    if not isinstance(path, str) or not path:
        raise RowError(
            f"images[0].path is {struct.get('path')!r:.60}; it must be the path of one picture below the media root"
        )
    grid = _whole_pair(struct.get("jigsaw_config"))
    if grid is None or min(grid) < 1 or max(grid) < 2:
        raise RowError(
            f"images[0].jigsaw_config is {struct.get('jigsaw_config')!r:.60}; it must be [rows, columns] with two "
            "tiles or more, for example [3, 3]"
        )
    return {
        "path": path,
        "grid": grid,
        "resize": _size(struct, "resize_size"),
        "crop": _size(struct, "crop_size"),
    }


def _unnest(value: Any) -> Any:
    """Released rows hold some values bare and some in a list of one."""
    return value[0] if isinstance(value, (list, tuple)) and len(value) == 1 else value


def _whole_pair(value: Any) -> list[int] | None:
    """A list of two whole numbers, whatever their type; None if the value is anything else."""
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        return None
    try:
        return [index(number) for number in value]
    except TypeError:
        return None


def _size(struct: Mapping[str, Any], name: str) -> list[int] | None:
    given = struct.get(name)
    if (size := _unnest(given)) is None:
        return None
    pair = _whole_pair(size)
    if pair is None:
        raise RowError(f"images[0].{name} is {given!r:.60}; it must be [width, height] in pixels, or null for none")
    width, height = pair
    if width <= 0 or height <= 0:
        return None
    # The limit that is set for files; a row could else ask for more memory than there is.
    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        raise RowError(f"images[0].{name} is {given!r:.60}; it must have {Image.MAX_IMAGE_PIXELS} pixels or fewer")
    return pair


def grid(row: Row) -> tuple[int, int]:
    """(rows, columns) of the tiling."""
    rows, columns = source(row)["grid"]
    return rows, columns


def pieces(row: Row) -> int:
    """Number of tiles."""
    rows, columns = grid(row)
    return rows * columns


def specs(row: Row, order: Sequence[int]) -> list[Spec]:
    """One spec a tile, in the order shown."""
    picture = source(row)
    return [{"task": "image", **picture, "tile": tile} for tile in order]


def cut(wanted: Sequence[Spec], media_root: str | os.PathLike[str]) -> list[Image.Image]:
    """Cut the wanted tiles, in the order given; a picture that several specs share is decoded once.

    Returns:
        RGB images.

    Raises:
        MediaError: if a picture cannot be read or is smaller than its grid or its crop.
    """
    pictures: dict[str, tuple[Image.Image, list[tuple[int, int, int, int]]]] = {}
    tiles = []
    for spec in wanted:
        key = repr({name: value for name, value in spec.items() if name != "tile"})
        if key not in pictures:
            pictures[key] = _open(spec, media_root)
        picture, boxes = pictures[key]
        tiles.append(picture.crop(boxes[spec["tile"]]))
    return tiles


def _open(spec: Spec, media_root: str | os.PathLike[str]) -> tuple[Image.Image, list[tuple[int, int, int, int]]]:
    path, (rows, columns) = spec["path"], spec["grid"]
    picture = open_rgb(media_path(path, media_root))
    if spec["resize"]:
        picture = picture.resize(tuple(spec["resize"]), Image.Resampling.BICUBIC)
    if spec["crop"]:
        if spec["crop"][0] > picture.width or spec["crop"][1] > picture.height:
            raise MediaError(f"{path}: {picture.width}×{picture.height} pixels are fewer than its crop {spec['crop']}")
        picture = picture.crop(center_crop_box(picture.size, tuple(spec["crop"])))
    if picture.width < columns or picture.height < rows:
        raise MediaError(
            f"{path}: {picture.width}×{picture.height} pixels cannot be cut into {rows} rows and {columns} columns; "
            "choose a smaller grid or drop the picture"
        )
    return picture, tile_boxes(picture.size, rows, columns)
