"""Cameras: intrinsics, poses and how the pixels of a colour picture and of a depth map lie over each other.

Pixel (x, y) is the square with its centre at (x, y). Camera: x right, y down, z forward.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from jigsaw.errors import MediaError

Floats = npt.NDArray[np.float64]
Size = tuple[int, int]
"""(width, height) in pixels."""

_LONGEST_TEXT = 1 << 16  # bytes; a matrix takes some hundred
_SAME_ASPECT = 0.01  # ScanNet's two differ by 0.4 %
_SAME_SCALE = 0.05
_LEAST_OVERLAP = 0.5


@dataclass(frozen=True)
class Intrinsics:
    """A pinhole camera: focal lengths and principal point in pixels."""

    fx: float
    fy: float
    cx: float
    cy: float

    @classmethod
    def from_matrix(cls, matrix: Floats) -> "Intrinsics":
        """Of a 3×3 or 4×4 matrix."""
        return cls(float(matrix[0, 0]), float(matrix[1, 1]), float(matrix[0, 2]), float(matrix[1, 2]))

    def fits(self, size: Size) -> bool:
        """Whether pictures of this size can come from this camera: a wrong one is mostly that of another resolution."""
        width, height = size
        values = np.array([self.fx / width, self.fy / height, self.cx / width, self.cy / height])
        # Fields of view from 11° to 136°, the axis near the middle. Written so that NaN does not pass.
        return bool(((values >= (0.2, 0.2, 0.35, 0.35)) & (values <= (5, 5, 0.65, 0.65))).all())


@dataclass(frozen=True)
class PixelMap:
    """Where the pixels of a picture lie in its depth map: ``x_depth = scale[0] · x_colour + offset[0]``, y alike.

    That holds for every depth as long as both cameras stand in one place and look one way.
    """

    scale: tuple[float, float]
    offset: tuple[float, float]

    def __call__(self, points: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.intp]:
        """[y, x] pixels of the depth map, (..., 2), nearest to [y, x] pixels of the picture, (..., 2)."""
        nearest: npt.NDArray[np.intp] = np.rint(points * self.scale[::-1] + self.offset[::-1]).astype(np.intp)
        return nearest


def register(colour_size: Size, depth_size: Size, cameras: tuple[Intrinsics, Intrinsics] | None) -> PixelMap:
    """Lay a depth map over its colour picture.

    Args:
        colour_size: (width, height) of the picture.
        depth_size: (width, height) of the depth map.
        cameras: intrinsics of colour and depth; without them both must show the same field of view.

    Raises:
        MediaError: if the map cannot belong to the picture; the message says why, the caller knows the files.
    """
    sizes = f"{colour_size[0]}×{colour_size[1]}, {depth_size[0]}×{depth_size[1]}"
    if cameras is None:
        if abs(colour_size[0] * depth_size[1] / (colour_size[1] * depth_size[0]) - 1) > _SAME_ASPECT:
            raise MediaError(None, f"picture and depth map differ in aspect, and there are no intrinsics ({sizes})")
        scale = depth_size[0] / colour_size[0], depth_size[1] / colour_size[1]
        return PixelMap(scale, ((scale[0] - 1) / 2, (scale[1] - 1) / 2))
    for camera, size, name in zip(cameras, (colour_size, depth_size), ("picture", "depth map"), strict=True):
        if not camera.fits(size):
            raise MediaError(None, f"the intrinsics are not those of a {name} of its size ({size[0]}×{size[1]})")
    colour, depth = cameras
    scale = depth.fx / colour.fx, depth.fy / colour.fy
    if abs(scale[0] / scale[1] - 1) > _SAME_SCALE:
        raise MediaError(
            None, f"picture and depth map differ in the shape of their pixels, by their intrinsics ({sizes})"
        )
    offset = depth.cx - scale[0] * colour.cx, depth.cy - scale[1] * colour.cy
    covered = 1.0
    for side in (0, 1):
        low = max(0.0, -offset[side] / scale[side])
        high = min(float(colour_size[side]), (depth_size[side] - offset[side]) / scale[side])
        covered *= max(0.0, high - low) / colour_size[side]
    if covered < _LEAST_OVERLAP:
        raise MediaError(None, f"the depth map covers less than half of the picture, by their intrinsics ({sizes})")
    return PixelMap(scale, offset)


def read_matrix(path: str | os.PathLike[str]) -> Floats:
    """A 3×3 or 4×4 matrix from a text file, float64; it may hold NaN and infinities.

    Raises:
        MediaError: if the file holds anything else.
    """
    try:
        with Path(path).open("rb") as file:
            values = np.array(file.read(_LONGEST_TEXT).split(), dtype=np.float64)
    except OSError as error:
        raise MediaError(path, f"cannot be read ({error.strerror}); make it readable") from error
    except ValueError:
        values = np.empty(0)
    if values.size not in (9, 16):
        raise MediaError(path, "holds no 3×3 or 4×4 matrix of numbers; export it again")
    side = 3 if values.size == 9 else 4
    return values.reshape(side, side)
