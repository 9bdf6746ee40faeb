"""Small crops of pictures of any size: what the tiny model of the quickstart can learn from.

Photographs keep thousands of tokens a tile, and a few dozen of them are soon learned by heart. So each gives many
crops, which are written once, small; training then decodes nothing large. The split stays by picture.
"""

import random
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from jigsaw.errors import JigsawError, MediaError
from jigsaw.files import atomic_write
from jigsaw.media.image import Box, open_rgb
from jigsaw.prepare.frames import Frames
from jigsaw.prepare.images import ImageOptions, check_picture, tile_tokens
from jigsaw.prepare.pipeline import Sources, stamp_of, usable_file
from jigsaw.reader import Record

SIDE = 112
"""Pixels a side of a crop, as of a rendered scene: with 2×1 tiles that is 8 tokens a tile."""
SPAN = (0.75, 1.0)
"""Share of the picture's height that a crop spans, or of its width where the grid has more columns than rows: as much
as there is, for what tells a tile's place is what changes across the whole picture."""
SHARD_SIZE = 8


@dataclass(frozen=True, kw_only=True)
class CropOptions(ImageOptions):
    """What decides the crops and their rows, besides the pictures.

    Attributes:
        folder: gets the crops, JPEG files of ``SIDE`` × ``SIDE`` pixels; the rows hold paths relative to it.
        crops: number of crops a picture. ``val`` and ``limit`` count pictures.
    """

    folder: Path
    crops: int = 1

    def validate(self) -> None:
        """Raise JigsawError if a value makes no sense."""
        if self.crops < 1:
            raise JigsawError(f"crops is {self.crops}; it must be 1 or more a picture")
        super().validate()

    def arguments(self) -> dict[str, Any]:
        """All of it but the folder as JSON values, as the manifest says it."""
        return {name: value for name, value in super().arguments().items() if name != "folder"}

    def sources(self, media_root: Path, only: str | None = None) -> Sources:
        """The pictures below a folder."""
        drawn = {"grid": list(self.grid), "seed": self.seed, "crops": self.crops}
        frames = Frames(self.folder.absolute(), str, drawn)
        return replace(
            super().sources(media_root, only),
            command="quickstart",
            look=partial(write_crops, pictures=media_root.absolute(), crops=frames, options=self),
            shard_size=SHARD_SIZE,
            frames=frames,
        )


def write_crops(path: str, *, pictures: Path, crops: Frames, options: CropOptions) -> list[Record]:
    """Write the crops of one picture; one record each, ``{reason}`` alone for the picture's rejection.

    Args:
        path: of the picture, relative to ``pictures``.
        pictures: folder that the picture must not leave.
        crops: folder for the crops.
        options: see :class:`CropOptions`.
    """
    (record,) = check_picture(path, media_root=pictures, options=options)
    if "reason" in record:
        return [record]
    file = usable_file(path, pictures)
    try:
        picture = open_rgb(file)
    except MediaError as error:
        return [{"reason": error.why}]
    boxes = [crop_box(picture.size, options.grid, f"{options.seed}/{path}/{number}") for number in range(options.crops)]
    folder, tokens = crops.claim(path, stamp_of(path, pictures)), tile_tokens((SIDE, SIDE), options.grid)
    records = []
    for number, box in enumerate(boxes):
        name = f"{number:03d}.jpg"
        # Coarsely first where there is much to take together, which is many times as fast and looks the same.
        crop = picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)
        with atomic_write(folder / name) as target:
            crop.save(target, format="JPEG", quality=95)
        records.append({"path": f"{path}/{name}", "width": SIDE, "height": SIDE, "tokens": tokens, "smaller": False})
    return records


def crop_box(size: tuple[int, int], grid: tuple[int, int], key: str) -> Box:
    """Where a crop lies in a picture: a square, or less wide where the picture is; a pure function of its arguments.

    Args:
        size: (width, height) of the picture in pixels.
        grid: (rows, columns) of the puzzle.
        key: names the crop.
    """
    rng = random.Random(key)
    across = grid[1] > grid[0]
    width, height = reversed(size) if across else size
    long = max(1, round(height * rng.uniform(*SPAN)))
    short = min(width, long)
    left, top = rng.randint(0, width - short), rng.randint(0, height - long)
    return (top, left, top + long, left + short) if across else (left, top, left + short, top + long)
