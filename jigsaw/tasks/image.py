"""Image jigsaw: a picture is cut into rows × columns tiles, each shown as an image of its own (paper, 3.1)."""

import os
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from PIL import Image

from jigsaw.errors import MediaError, RowError
from jigsaw.media.image import center_crop_box, open_rgb, tile_boxes
from jigsaw.puzzle import CutOptions, Spec
from jigsaw.rows import Row, media_path, media_struct, struct_path, unnest, whole_numbers

DATA_SOURCE = "visual_jigsaw_image"
MEDIA_TYPE = "image"


def source(row: Row) -> Spec:
    """What the row says of its picture: ``{path, grid: [rows, columns], resize, crop}``; sizes are (w, h) or None.

    Raises:
        RowError: if the row does not hold exactly one such struct, or a value in it makes no sense.
    """
    struct = media_struct(row, "images", "path, jigsaw_config")
    path = struct_path(struct, "images")
    grid = whole_numbers(struct.get("jigsaw_config"), 2)
    if grid is None or min(grid) < 1 or max(grid) < 2:
        raise RowError(
            f"images[0].jigsaw_config is {struct.get('jigsaw_config')!r:.60}; it must be [rows, columns] with two "
            "tiles or more, for example [3, 3]"
        )
    return {
        "path": path,
        "grid": grid,
        "resize": picture_size(struct, "resize_size"),
        "crop": picture_size(struct, "crop_size"),
    }


def picture_size(struct: Mapping[str, Any], name: str) -> list[int] | None:
    """A struct's [width, height] in pixels, bare or in a list of one; None where it holds none or [-1, -1].

    Raises:
        RowError: if it is anything else, or has more pixels than a picture may.
    """
    given = struct.get(name)
    if (size := unnest(given)) is None:
        return None
    pair = whole_numbers(size, 2)
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


def media_count(row: Row) -> int:
    """Number of pictures shown: each tile is one."""
    return pieces(row)


def specs(row: Row, order: Sequence[int]) -> list[Spec]:
    """One spec a tile, in the order shown."""
    picture = source(row)
    return [{"task": "image", **picture, "tile": tile} for tile in order]


def cut(wanted: Sequence[Spec], media_root: str | os.PathLike[str], options: CutOptions) -> list[Image.Image]:
    """Cut the wanted tiles, in the order given; a picture that neighbours share is decoded once.

    Returns:
        RGB images.

    Raises:
        MediaError: if a picture cannot be read or is smaller than its grid or its crop.
    """
    tiles = []
    # Dicts are compared, not hashed: a key of text costs as much as a tile.
    for picture_spec, specs_of_picture in groupby(wanted, key=lambda spec: {**spec, "tile": None}):
        picture, boxes = _open(picture_spec, media_root)
        tiles += [picture.crop(boxes[spec["tile"]]) for spec in specs_of_picture]
    return tiles


def shown(wanted: Sequence[Spec], media: Sequence[Image.Image]) -> list[Image.Image]:
    """The pieces: the tiles themselves."""
    return list(media)


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
