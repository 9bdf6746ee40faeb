"""Rendered films that have a direction of time, for a tiny model to learn the video jigsaw from.

Something changes one way: the sun sets, a leaf falls, sand runs through an hourglass, a flower grows. It begins at a
state drawn at random, so a single frame does not tell when it is shown, while two clips beside each other do. Means
tell nothing either: the light flickers, and what moves keeps its size.
"""

import hashlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from jigsaw.files import atomic_write
from jigsaw.toy.scenes import write_series
from jigsaw.toy.videos import Pixels, write_frames

Array = npt.NDArray[np.floating[Any]]

WIDTH, HEIGHT = 56, 84
"""Pixels; upright, as things fall and grow: six of Qwen2.5-VL's tokens every two frames."""
FRAMES, FPS = 48, 2
"""The paper's shortest film, 24 s, at the rate that is shown."""
CHANGE = (0.40, 0.50)
"""Share of the way from the first state to the last that a film covers."""
_SUPERSAMPLING = 3

Shape = tuple[tuple[int, int, int], list[tuple[float, float]]]
"""A colour and points (right, down) in widths of the picture, from its upper left corner; it is 1.5 of them high. Two
points are the corners round an ellipse, more are a polygon."""


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
    rng = _rng("light", seed, index)
    # Skies and walls are cool and not too bright, so that what moves, which is warm, stands out.
    colours = np.array([70, 90, 120]) * rng.uniform(0.6, 1.4) + rng.uniform(-14, 14, (5, 3, 3))
    fine = WIDTH * _SUPERSAMPLING, HEIGHT * _SUPERSAMPLING
    back = Image.fromarray(colours.clip(0, 255).astype(np.uint8)).resize(fine, Image.Resampling.BICUBIC)
    # Drawn for every frame: did it only drift, the first and the last clip would differ most in it.
    light = rng.uniform(0.8, 1.1, (FRAMES, 1)) + rng.uniform(-0.06, 0.06, (FRAMES, 3))
    pictures = []
    for state in states:
        picture = back.copy()
        draw = ImageDraw.Draw(picture)
        # The same draws in every frame: the look of a film does not change.
        for colour, points in KINDS[kind](_rng("look", seed, index), float(state)):
            paint = draw.ellipse if len(points) == 2 else draw.polygon
            paint([(right * fine[0], down * fine[0]) for right, down in points], fill=colour)
        pictures.append(np.asarray(picture.reduce(_SUPERSAMPLING)))
    film: Pixels = (np.stack(pictures) * light[:, None, None]).clip(0, 255).astype(np.uint8)
    return film


def _sun(rng: np.random.Generator, state: float) -> list[Shape]:
    x, y, radius = rng.uniform(0.25, 0.75), 0.18 + 0.93 * state, rng.uniform(0.13, 0.17)
    hills = [(place / 5, rng.uniform(1.26, 1.38)) for place in range(6)]
    glow, disc = ((240, 170, 80), _disc(x, y, 1.25 * radius)), ((255, 220, 120), _disc(x, y, radius))
    return [glow, disc, (_shade(rng, 60, 70, 50), [(0, 1.5), *hills, (1, 1.5)])]


def _leaf(rng: np.random.Generator, state: float) -> list[Shape]:
    swing = 2 * np.pi * rng.uniform(2, 4) * state + rng.uniform(0, 7)
    middle = np.array([rng.uniform(0.4, 0.6) + rng.uniform(0.1, 0.22) * np.sin(swing), 0.15 + 1.2 * state])
    lean = 0.6 * np.cos(swing)
    turn = np.array([[np.cos(lean), np.sin(lean)], [-np.sin(lean), np.cos(lean)]])
    rim = [(-1, 0), (-0.5, 0.8), (0.2, 0.9), (1, 0.1), (1.5, 0.1), (1.5, -0.1), (1, -0.1), (0.2, -0.9), (-0.5, -0.8)]
    leaf = [(float(x), float(y)) for x, y in middle + np.array(rim) * (0.17, 0.1) @ turn]
    trunk = rng.choice((0.08, 0.92))
    return [(_shade(rng, 60, 45, 40), _box(trunk, 0.75, 0.05, 0.75)), (_shade(rng, 225, 125, 45), leaf)]


def _hourglass(rng: np.random.Generator, state: float) -> list[Shape]:
    x, half = float(rng.uniform(0.45, 0.55)), float(rng.uniform(0.3, 0.38))
    sand, wood, glass = _shade(rng, 230, 190, 100), _shade(rng, 110, 70, 45), _shade(rng, 30, 40, 55)
    # What has left the upper triangle fills the lower one from its foot, so there is always as much sand.
    left = 1 - 0.9 * state
    upper = [(x, 0.75), (x - left * half, 0.75 - 0.6 * left), (x + left * half, 0.75 - 0.6 * left)]
    lower = [(x - half, 1.35), (x - left * half, 0.75 + 0.6 * left), (x + left * half, 0.75 + 0.6 * left)]
    bulbs = [(x - half, 0.15), (x + half, 0.15), (x - half, 1.35), (x + half, 1.35)]
    frame: list[Shape] = [(wood, _box(x, y, 1.15 * half, 0.045)) for y in (0.15, 1.35)]
    return [(glass, bulbs), (sand, upper), (sand, [*lower, (x + half, 1.35)]), *frame]


def _flower(rng: np.random.Generator, state: float) -> list[Shape]:
    x, foot, top = rng.uniform(0.3, 0.7), 1.23, 1.05 - 0.84 * state
    petals, green = _shade(rng, 235, 110, 120), _shade(rng, 70, 130, 60)
    leaves: list[Shape] = [
        (green, [(x, y), (x + 0.1 * side, y - 0.09), (x + 0.18 * side, y - 0.07)])
        for y in np.arange(foot - 0.15, top + 0.15, -0.18).tolist()
        for side in (-1, 1)
    ]
    crown: list[Shape] = [
        (petals, _disc(x + 0.1 * np.cos(angle), top + 0.1 * np.sin(angle), 0.07)) for angle in np.arange(6) * np.pi / 3
    ]
    pot = [(x - 0.17, foot), (x + 0.17, foot), (x + 0.12, 1.5), (x - 0.12, 1.5)]
    ground: list[Shape] = [(_shade(rng, 70, 50, 40), _box(0.5, 1.4, 0.5, 0.1)), (_shade(rng, 150, 85, 55), pot)]
    stalk = (green, _box(x, (top + foot) / 2, 0.02, (foot - top) / 2))
    return [stalk, *leaves, *crown, ((250, 220, 110), _disc(x, top, 0.07)), *ground]


KINDS: dict[str, Callable[[np.random.Generator, float], list[Shape]]] = {
    "sun": _sun,
    "leaf": _leaf,
    "hourglass": _hourglass,
    "flower": _flower,
}
"""What happens, and its shapes at a state."""


def _disc(x: float, y: float, radius: float) -> list[tuple[float, float]]:
    return [(x - radius, y - radius), (x + radius, y + radius)]


def _box(x: float, y: float, across: float, down: float) -> list[tuple[float, float]]:
    """The corners of a box that reaches so far to each side of its middle."""
    return [(x - across, y - down), (x + across, y - down), (x + across, y + down), (x - across, y + down)]


def _shade(rng: np.random.Generator, *colour: int) -> tuple[int, int, int]:
    """A colour like this one."""
    red, green, blue = (int(tone) for tone in np.add(colour, rng.uniform(-20, 20, 3)))
    return red, green, blue


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
