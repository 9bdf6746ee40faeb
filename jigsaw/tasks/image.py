"""Image jigsaw: a picture is cut into rows × columns tiles, each shown as an image of its own (paper, 3.1)."""

import os
from collections.abc import Sequence
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
        RowError: if the row does not hold exactly one such struct.
    """
    images = row.get("images")
    if images is None or len(images) != 1:
        raise RowError(
            f"an image row needs exactly one entry in 'images', found {0 if images is None else len(images)}"
        )
    struct = images[0]
    path = _unnest(struct.get("path"))
    if not isinstance(path, str) or not path:
        raise RowError("images[0].path must be the path of a picture")
    grid = struct.get("jigsaw_config")
    if grid is None or len(grid) != 2 or min(grid) < 1 or max(grid) < 2:
        raise RowError(f"images[0].jigsaw_config must be [rows, columns] with two tiles or more, got {grid}")
    return {
        "path": path,
        "grid": [int(side) for side in grid],
        "resize": _size(struct, "resize_size"),
        "crop": _size(struct, "crop_size"),
    }


def _unnest(value: Any) -> Any:
    """Released rows hold some values bare and some in a list of one."""
    return value[0] if isinstance(value, list) and value else value


def _size(struct: dict[str, Any], name: str) -> list[int] | None:
    size = struct.get(name)
    if size is not None and len(size) == 1:
        size = size[0]
    if size is None:
        return None
    if len(size) != 2:
        raise RowError(f"images[0].{name} must be [width, height], got {size}")
    width, height = (int(side) for side in size)
    return [width, height] if width > 0 and height > 0 else None


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
