"""Rendered halls with pillars, for a tiny model to learn the depth jigsaw from.

All pillars are about as wide, carry checks of the same size, and are lit from the left. So how far one is shows by the
size of both, by its foot on the floor, by what hides what, and by how much brighter its left half is than its right,
which haze takes; their colours, heights and places from left to right say nothing.
"""

import hashlib
import os
from functools import partial
from pathlib import Path

import numpy as np

from jigsaw.files import atomic_folder
from jigsaw.media.camera import Intrinsics
from jigsaw.tasks.depth import RADIUS
from jigsaw.toy.rgbd import Size, View, cast, look_at, shaded, write_scene
from jigsaw.toy.scenes import write_series

SIZE: Size = (168, 112)
"""6 × 4 of Qwen2.5-VL's tokens: a disc is larger than one of them, and must not cover a whole pillar."""
PILLARS = 4
NEAREST, FARTHEST = 1.8, 4.5
"""Metres between which pillars stand; the wall behind them is beyond what a point's depth may be."""
WIDE, HIGH = (0.6, 0.75), (0.9, 2.1)
"""Metres. The eye is at 1.5, so a point on a pillar may lie above or below the horizon, wherever the pillar stands."""
LATTICE, FIRST, JITTER = 28, (35, 42), 2
"""Pixels from one place where a point may be marked to the next, the first one, (y, x), and how far off it may lie.

The discs keep to places in tokens, a side of which are 28 pixels: anywhere, a tiny model could hardly read their
numbers. To the right it is the middle, so that half a token is on the bright side of a pillar. Downwards it is the
middle of a patch: the first there is room for a disc at, and the digit is in one patch, or in two beside each other.
"""
CHECKS, SHADE, HAZE = 0.12, 0.8, 1.2
"""Contrast of the checks, and of the halves of a pillar at the nearest distance; the metres in which haze takes all but
1/e of the latter."""
_EYE = 1.5
_REACH = 8
"""Pixels round a point whose readings count (jigsaw/tasks/depth.py)."""
_SUPERSAMPLING = 2


def render_room(seed: int, index: int, *, shade: float = SHADE) -> View:
    """Render one hall, a pure function of its arguments.

    Args:
        seed: names a series of halls.
        index: 0-based number of the hall in its series.
        shade: contrast of the halves of a pillar at the nearest distance.

    Returns:
        The view. Its depth map is of the picture's size and has readings round the places for points alone, else 0.
    """
    rng = np.random.default_rng(list(hashlib.sha256(f"hall/{seed}/{index}".encode()).digest()))
    camera = _camera(SIZE)
    # Each is farther than the one before by a fifth or more.
    ratio = (FARTHEST / NEAREST) ** (1 / (PILLARS - 0.7))
    far = NEAREST * ratio ** (np.arange(PILLARS) + rng.uniform(0, 0.3, PILLARS))
    wide, high = rng.uniform(*WIDE, PILLARS), rng.uniform(*HIGH, PILLARS)
    columns = np.arange(FIRST[1], SIZE[0] - RADIUS, LATTICE)
    column = rng.choice(columns, PILLARS, replace=False)
    across = (column - camera.cx + rng.uniform(-JITTER, JITTER, PILLARS)) * far / camera.fx
    low = np.column_stack((across - wide / 2, far, np.zeros(PILLARS)))
    pillars = np.stack((low, low + np.column_stack((wide, rng.uniform(0.3, 0.9, PILLARS), high))), axis=1)
    hall = rng.uniform(((-4.0, -1.0, 0.0), (2.5, 12.0, 2.8)), ((-2.5, -1.0, 0.0), (4.0, 16.0, 3.5)))
    boxes, colours = np.concatenate((hall[None], pillars)), rng.uniform(0.25, 0.65, (PILLARS + 1, 3))

    pose = look_at(np.array([0, 0, _EYE]), np.array([0, 1, _EYE]))
    depth, *_ = cast(boxes, pose, camera, SIZE)
    fine = (SIZE[0] * _SUPERSAMPLING, SIZE[1] * _SUPERSAMPLING)
    shades = np.append(0, shade * np.exp((NEAREST - far) / HAZE))  # the hall is plain
    checks = np.append(0, np.full(PILLARS, CHECKS))
    picture = shaded(boxes, colours, pose, _camera(fine), fine, checks, shades).reduce(_SUPERSAMPLING)
    y, x = (
        np.abs((np.arange(side) - first + LATTICE // 2) % LATTICE - LATTICE // 2) <= _REACH + JITTER
        for side, first in zip(depth.shape, FIRST, strict=True)
    )
    return View(picture, np.where(y[:, None] & x, depth, 0), pose)


def _camera(size: Size) -> Intrinsics:
    """Looks level; the horizon lies above the middle, for there is more to see on the floor than under the ceiling."""
    return Intrinsics(0.9 * size[0], 0.9 * size[0], (size[0] - 1) / 2, 0.4 * size[1] - 0.5)


def write_rooms(folder: str | os.PathLike[str], count: int, *, seed: int, workers: int = 1) -> list[Path]:
    """Write halls 0 to ``count`` − 1 of a series as scenes ``room-SEED-00000`` and so on; what is there is kept.

    Args:
        folder: made if missing.
        count: number of halls.
        seed: names the series.
        workers: processes; the files are the same for any number.

    Returns:
        The scenes' folders in order, each of one view.

    Raises:
        JigsawError: if ``count`` or ``workers`` is under 1.
    """
    return write_series(partial(_write_room, Path(folder), seed), folder, count, workers=workers)


def _write_room(folder: Path, seed: int, index: int) -> Path:
    path = folder / f"room-{seed}-{index:05d}"
    if not path.is_dir():
        with atomic_folder(path) as draft:
            write_scene(draft, [render_room(seed, index)], "folder")
    return path
