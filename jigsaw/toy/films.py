"""Rendered films that have a direction of time, for a tiny model to learn the video jigsaw from.

Something changes one way: a glass fills, a balloon swells, the sun rises, a plant grows. It begins at a state drawn at
random, so a single frame says only roughly when it is shown, while two clips beside each other say it. Means tell
nothing: what changes is lit on its left and in shade on its right, as much as makes its mean that of what is behind it,
and the light flickers. Contrast does tell, as there is more to see with time. How far guesses get:
tests/toy/test_films.py.
"""

import hashlib
import math
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from jigsaw.files import atomic_write
from jigsaw.toy.scenes import write_series
from jigsaw.toy.videos import Pixels, write_frames

Array = npt.NDArray[np.floating[Any]]
Mask = npt.NDArray[np.bool_]

WIDTH, HEIGHT = 56, 112
"""Pixels; upright, as water and plants rise: eight of Qwen2.5-VL's tokens every two frames."""
FRAMES, FPS = 48, 2
"""The paper's shortest film, 24 s, at the rate that is shown."""
CHANGE = (0.40, 0.50)
"""Share of the way from the first state to the last that a film covers."""
CONTRAST = (45, 75)
"""Of the lit half and the one in shade: how far each lies off their mean, in grey levels of 255."""
_SUPERSAMPLING = 2


def film_states(seed: int, index: int) -> tuple[str, Array]:
    """What happens in a film, a key of ``KINDS``, and how far it has come in each frame.

    Args:
        seed: names a series of films.
        index: 0-based number of the film in its series.

    Returns:
        The kind, and the states, rising within 0..1, shape (FRAMES,).
    """
    rng = _rng("film", seed, index)
    kind = list(KINDS)[rng.integers(len(KINDS))]
    change = rng.uniform(*CHANGE)
    return kind, rng.uniform(0, 1 - change) + change * np.linspace(0, 1, FRAMES)


def render_film(seed: int, index: int) -> Pixels:
    """The frames of a film, a pure function of its arguments: uint8 (FRAMES, HEIGHT, WIDTH, RGB)."""
    kind, states = film_states(seed, index)
    rng = _rng("look", seed, index)
    back = rng.uniform(90, 160) + rng.uniform(-25, 25, 3)
    light_of_sides = rng.uniform(*CONTRAST) + rng.uniform(-30, 30, 3)
    # Drawn for every frame: did it only drift, the first and the last clip would differ most in it.
    light = rng.uniform(0.85, 1.1, (FRAMES, 1)) + rng.uniform(-0.06, 0.06, (FRAMES, 3))
    size = (HEIGHT * _SUPERSAMPLING, WIDTH * _SUPERSAMPLING)
    down, right = (np.mgrid[: size[0], : size[1]].astype(np.float32) + 0.5) / size[1]
    place = rng.uniform(0.44, 0.56)
    frames = []
    for state in states:
        sides = KINDS[kind](right - place, down, float(state)) * np.sign(place - right)
        smooth = sides.reshape(HEIGHT, _SUPERSAMPLING, WIDTH, _SUPERSAMPLING).mean((1, 3))
        frames.append(back + light_of_sides * smooth[..., None])
    film: Pixels = (np.stack(frames) * light[:, None, None]).clip(0, 255).astype(np.uint8)
    return film


# Where what changes is seen. Places are in widths of the picture: to the right of its middle, and down from its upper
# edge; the lower one is at 2. All are as wide to the left as to the right.


def _water(right: Array, down: Array, state: float) -> Mask:
    """A glass that fills; the surface has ripples."""
    return (abs(right) < 0.36) & (down > 1.85 - 1.75 * state + 0.02 * np.cos(20 * right)) & (down < 1.92)


def _balloon(right: Array, down: Array, state: float) -> Mask:
    """A balloon on a string, which swells; its area goes with the state."""
    width = 0.4 * math.sqrt(0.06 + 0.94 * state)
    inside: Mask = (right / width) ** 2 + ((down - 0.95) / (2 * width)) ** 2 < 1
    return inside | (abs(right) < 0.02) & (down > 0.95)


def _sun(right: Array, down: Array, state: float) -> Mask:
    """A sun that rises behind the sea."""
    inside: Mask = right**2 + (down - (1.8 - 1.35 * state)) ** 2 < 0.42**2
    return inside & (down < 1.4)


def _plant(right: Array, down: Array, state: float) -> Mask:
    """A plant that grows, with leaves to both sides all the way up."""
    leaf = abs(right) < 0.3 * (1 - ((down + 0.5 * abs(right)) / 0.22) % 1)
    stalk = (down > 1.75 - 1.6 * state) & ((abs(right) < 0.05) | leaf & (down < 1.8))
    return stalk | (abs(right) < 0.2) & (down > 1.8)


KINDS: dict[str, Callable[[Array, Array, float], Mask]] = {
    "water": _water,
    "balloon": _balloon,
    "sun": _sun,
    "plant": _plant,
}
"""What changes, and what it looks like at a state: of all there is more to see as time goes by."""


def _rng(what: str, seed: int, index: int) -> np.random.Generator:
    return np.random.default_rng(list(hashlib.sha256(f"{what}/{seed}/{index}".encode()).digest()))


def write_films(folder: str | os.PathLike[str], count: int, *, seed: int, workers: int = 1) -> list[Path]:
    """Write films 0 to ``count`` − 1 of a series as ``film-SEED-00000.mp4`` and so on; what is there is kept.

    Args:
        folder: made if missing.
        count: number of films.
        seed: names the series.
        workers: processes; the files are the same for any number.

    Returns:
        The files in order.

    Raises:
        JigsawError: if ``count`` or ``workers`` is under 1.
    """
    return write_series(partial(_write_film, Path(folder), seed), folder, count, workers=workers)


def _write_film(folder: Path, seed: int, index: int) -> Path:
    path = folder / f"film-{seed}-{index:05d}.mp4"
    if not path.is_file():
        with atomic_write(path) as file:
            write_frames(file, render_film(seed, index), fps=FPS, container_format="mp4")
    return path
