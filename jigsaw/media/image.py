"""Pictures: open any still picture as 8-bit RGB, upright; resize, crop and cut it into tiles."""

import os
import struct
import zlib
from bisect import bisect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from jigsaw.errors import MediaError

Box = tuple[int, int, int, int]
"""(left, top, right, bottom) in pixels; right and bottom are exclusive."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF")
"""Pillow's names of the formats that are read, whatever a file's suffix says. The list is closed because Pillow hands
some others to programs of the system: an EPS file runs Ghostscript."""

# What Pillow's readers are seen to raise on damaged files, besides its own errors.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    RuntimeError,
    struct.error,
    zlib.error,
)

# Orientation is EXIF tag 274; its values 5 to 8 turn the picture by a quarter, which swaps the sides.
_EXIF_ORIENTATION = 274
_QUARTER_TURNS = (5, 6, 7, 8)


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """Open a still picture; turn all that Pillow may raise on a bad file into one clear MediaError."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            # Pillow only warns up to twice its limit. Asked here, as a warnings filter is not thread-safe.
            if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
                raise Image.DecompressionBombError
            # A multi-picture JPEG (MPO, from phones) is a still with extras behind it, not an animation.
            if getattr(image, "is_animated", False) and image.format != "MPO":
                raise MediaError(path, "is animated; save the frame you want as a still picture")
            if image.mode == "F":
                raise _too_deep(path)
            yield image
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise MediaError(path, f"has more than {Image.MAX_IMAGE_PIXELS} pixels; scale it down first") from error
    except UnidentifiedImageError as error:
        raise MediaError(path, "is not a picture that can be read; remove or replace it") from error
    except _DAMAGE as error:
        # The system's own words without the path, which the message names already.
        why = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
        raise MediaError(path, f"cannot be decoded ({' '.join(why.split())}); remove or replace it") from error


def _too_deep(path: str | os.PathLike[str]) -> MediaError:
    """The error for pixels whose black and white no one has agreed upon: scaled by a guess they come out blank."""
    return MediaError(path, "has float/32-bit pixels; save it as 8 or 16 bits")


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(width, height) of the upright picture in pixels, from the header alone.

    Raises:
        MediaError: if the file is no still picture or is too large to be safe.
    """
    with opened(path) as image:
        width, height = image.size
        # Pillow gives the upright size of a TIFF right away.
        if image.format != "TIFF" and _exif(image, path).get(_EXIF_ORIENTATION) in _QUARTER_TURNS:
            return height, width
        return width, height


def _exif(image: Image.Image, path: str | os.PathLike[str]) -> Image.Exif:
    """The EXIF data of a picture that is open; its pixels are decoded only where there is no other way."""
    if image.format == "PNG" and not _png_metadata_after_pixels(Path(path)):
        # Pillow's own method for PNG decodes all pixels first, to find metadata that stands behind them.
        return Image.Image.getexif(image)
    return image.getexif()


def _png_metadata_after_pixels(path: Path) -> bool:
    """Whether a PNG holds EXIF, XMP or text behind its first pixel data. Reads the heads of its chunks alone."""
    pixels_seen = False
    with path.open("rb") as file:
        file.seek(8)  # the signature
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            pixels_seen |= kind == b"IDAT"
            if pixels_seen and kind in (b"eXIf", b"iTXt", b"tEXt", b"zTXt"):
                return True
            file.seek(length + 4, os.SEEK_CUR)  # and its checksum
    return False


def open_rgb(path: str | os.PathLike[str]) -> Image.Image:
    """Decode a picture to 8-bit RGB, upright.

    Transparency is laid over white, 16-bit grey is scaled to 8 bits, palettes and CMYK are converted and the
    EXIF orientation is applied.

    Raises:
        MediaError: if the file is no still picture, is damaged, is too large to be safe, or has float or 32-bit pixels.
    """
    with opened(path) as image:
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return _to_rgb(image, path)


def _to_rgb(image: Image.Image, path: str | os.PathLike[str]) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        # Drop the subclass that Pillow's readers return, as image.copy() would, but not at the price of a copy: 6 % of
        # what it takes to decode a picture of 640×480.
        return image._new(image.im)
    if image.mode.startswith("I"):  # I;16 and its kin, and I: 16-bit grey in most files
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise _too_deep(path)
        return Image.fromarray((values // 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def scaled_size(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """(width, height) of a picture scaled so that its longer side is ``longest`` pixels.

    >>> scaled_size((4032, 3024), 1296)
    (1296, 972)
    """
    width, height = size
    return max(1, round(width * longest / max(size))), max(1, round(height * longest / max(size)))


def largest_size(size: tuple[int, int], fits: Callable[[tuple[int, int]], bool]) -> tuple[int, int] | None:
    """The size itself if it fits, else the largest below it of its shape that does; None if none is found.

    Args:
        size: (width, height).
        fits: whether a size does; what is larger than one that does not should not either.
    """
    if fits(size):
        return size
    sides = range(1, max(size))
    found = bisect(sides, False, key=lambda side: not fits(scaled_size(size, side)))
    return scaled_size(size, sides[found - 1]) if found else None


def center_crop_box(size: tuple[int, int], crop: tuple[int, int]) -> Box:
    """The centred box of ``crop`` = (width, height) in a picture of ``size`` = (width, height)."""
    left, top = (size[0] - crop[0]) // 2, (size[1] - crop[1]) // 2
    return left, top, left + crop[0], top + crop[1]


def tile_boxes(size: tuple[int, int], rows: int, columns: int) -> list[Box]:
    """The boxes of a ``rows`` × ``columns`` tiling of a picture, in raster order, without gap or overlap.

    Where a side does not divide, its first tiles are one pixel longer.

    Args:
        size: (width, height) in pixels; at least (columns, rows).
    """
    xs, ys = _edges(size[0], columns), _edges(size[1], rows)
    return [(xs[c], ys[r], xs[c + 1], ys[r + 1]) for r in range(rows) for c in range(columns)]


def _edges(length: int, parts: int) -> list[int]:
    base, extra = divmod(length, parts)
    return [i * base + min(i, extra) for i in range(parts + 1)]


def encoded(picture: Image.Image, format: str, **options: Any) -> bytes:
    """A picture as the bytes of a file, by Pillow's name of the format and its options."""
    buffer = BytesIO()
    picture.save(buffer, format=format, **options)
    return buffer.getvalue()


def greyed(picture: Image.Image) -> Image.Image:
    """A picture of the same size, all mid grey."""
    return Image.new("RGB", picture.size, (128, 128, 128))
