"""Image jigsaw: a picture is cut into rows × columns tiles, each shown as an image of its own (paper, 3.1)."""

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from PIL import Image

from jigsaw.errors import MediaError, RowError
from jigsaw.media.image import Box, center_crop_box, image_size, open_rgb, tile_boxes
from jigsaw.puzzle import CutOptions, Plan, Spec
from jigsaw.rows import Row, media_path, media_struct, struct_path, unnest, whole_numbers
from jigsaw.tasks.base import Level, Task, is_count
from jigsaw.tokens import Medium

DATA_SOURCE = "visual_jigsaw_image"


class ImageTask(Task):
    """Tiles of a picture."""

    name = "image"
    media_type = "image"
    column = "images"
    fields = frozenset({"path", "jigsaw_config", "resize_size", "crop_size"})
    sized_by = "resize_size"
    level_form = "a grid of two tiles or more, for example [2, 1]"

    def owns(self, row: Row) -> bool:
        """Whether it holds a picture."""
        return row.get("videos") is None and row.get("images") is not None

    def read(self, row: Row) -> Spec:
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

    def pieces(self, said: Spec) -> int:
        """Number of tiles."""
        rows, columns = said["grid"]
        return int(rows * columns)

    def grid(self, said: Spec) -> tuple[int, int]:
        """(rows, columns) of the tiling."""
        rows, columns = said["grid"]
        return rows, columns

    def specs(self, said: Spec, order: Sequence[int]) -> list[Spec]:
        """One spec a tile, in the order shown."""
        return [{"task": self.name, **said, "tile": tile} for tile in order]

    def sizes(self, wanted: Sequence[Spec], media_root: str | os.PathLike[str], options: CutOptions) -> list[Medium]:
        """The sizes of the wanted tiles, by their pictures' headers.

        Raises:
            MediaError: if a picture's header cannot be read, or it is smaller than its grid or its crop.
        """
        found: list[Medium] = []
        for picture_spec, specs_of_picture in _by_picture(wanted):
            boxes = _boxes(picture_spec, image_size(media_path(picture_spec["path"], media_root)))
            tiles = (boxes[spec["tile"]] for spec in specs_of_picture)
            found += [(right - left, bottom - top, 1) for left, top, right, bottom in tiles]
        return found

    def cut(self, wanted: Sequence[Spec], media_root: str | os.PathLike[str], options: CutOptions) -> list[Image.Image]:
        """Cut the wanted tiles, in the order given; a picture that neighbours share is decoded once.

        Returns:
            RGB images.

        Raises:
            MediaError: if a picture cannot be read or is smaller than its grid or its crop.
        """
        tiles = []
        for picture_spec, specs_of_picture in _by_picture(wanted):
            picture, boxes = _open(picture_spec, media_root)
            tiles += [picture.crop(boxes[spec["tile"]]) for spec in specs_of_picture]
        return tiles

    def in_words(self, plan: Plan) -> str:
        """Rows × columns."""
        rows, columns = plan.grid or (0, 0)
        return f"{rows} × {columns} tiles"

    def level(self, given: Any) -> Level | None:
        """(rows, columns) of a list of two numbers that make two tiles or more."""
        sides = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else []
        return (sides[0], sides[1]) if len(sides) == 2 and all(map(is_count, sides)) and max(sides) > 1 else None

    def at_level(self, row: Row, level: Level) -> Row:
        """The row with another grid."""
        (struct,) = row["images"]
        return {**row, "images": [{**struct, "jigsaw_config": level}]}

    def wording(self, said: Spec) -> dict[str, int]:
        """The grid."""
        return dict(zip(("rows", "columns"), said["grid"], strict=True))


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


def _by_picture(wanted: Sequence[Spec]) -> Iterator[tuple[Spec, Iterator[Spec]]]:
    """Neighbours that share a picture, after what they share."""
    # Dicts are compared, not hashed: a key of text costs as much as a tile.
    return groupby(wanted, key=lambda spec: {**spec, "tile": None})


def _open(spec: Spec, media_root: str | os.PathLike[str]) -> tuple[Image.Image, list[Box]]:
    picture = open_rgb(media_path(spec["path"], media_root))
    boxes = _boxes(spec, picture.size)
    if spec["resize"]:
        picture = picture.resize(tuple(spec["resize"]), Image.Resampling.BICUBIC)
    if spec["crop"]:
        picture = picture.crop(center_crop_box(picture.size, tuple(spec["crop"])))
    return picture, boxes


def _boxes(spec: Spec, size: tuple[int, int]) -> list[Box]:
    """The tiles of a picture that has this size in its file."""
    path, (rows, columns) = spec["path"], spec["grid"]
    width, height = spec["resize"] or size
    if spec["crop"]:
        if spec["crop"][0] > width or spec["crop"][1] > height:
            raise MediaError(path, f"{width}×{height} pixels are fewer than its crop {spec['crop']}")
        width, height = spec["crop"]
    if width < columns or height < rows:
        raise MediaError(
            path,
            f"{width}×{height} pixels cannot be cut into {rows} rows and {columns} columns; "
            "choose a smaller grid or drop the picture",
        )
    return tile_boxes((width, height), rows, columns)
