"""Rendered landscapes for the quickstart and the tests: sky, ground, horizon, light and objects at scale.

The place of a tile shows in its structure, not in its mean colour:

- top and bottom: the sky is smooth, with clouds or stars, and pales towards the horizon; the ground is textured in
  perspective (finer towards the horizon, lines that run to a vanishing point) and carries objects that shrink with
  distance.
- left and right: the light stands at the upper left, objects are lit on their left and throw shadows to the right,
  lines on the ground lean towards the vanishing point in the middle.

Every pair of sky and ground colours of ``PALETTES`` also occurs the other way round in another setting, and the
light that the left of the sky has more than the right is taken back on the ground, so means say next to nothing.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, PngImagePlugin

from jigsaw.errors import JigsawError

Array = npt.NDArray[np.floating[Any]]
Colour = tuple[float, float, float]
"""Red, green and blue in 0..1."""

PALETTES: tuple[tuple[str, Colour, Colour], ...] = (
    # (setting, sky, ground); the two rows of a pair are each other's reverse.
    ("day", (0.44, 0.62, 0.84), (0.48, 0.58, 0.40)),
    ("sea", (0.48, 0.58, 0.40), (0.44, 0.62, 0.84)),
    ("day", (0.76, 0.77, 0.78), (0.42, 0.47, 0.38)),
    ("snow", (0.42, 0.47, 0.38), (0.76, 0.77, 0.78)),
    ("day", (0.26, 0.31, 0.48), (0.27, 0.46, 0.34)),
    ("night", (0.27, 0.46, 0.34), (0.26, 0.31, 0.48)),
    ("dusk", (0.80, 0.52, 0.30), (0.34, 0.25, 0.31)),
    ("sand", (0.34, 0.25, 0.31), (0.80, 0.52, 0.30)),
    ("dusk", (0.75, 0.58, 0.60), (0.32, 0.39, 0.52)),
    ("snow", (0.32, 0.39, 0.52), (0.75, 0.58, 0.60)),
    ("dusk", (0.78, 0.67, 0.45), (0.36, 0.50, 0.70)),
    ("sand", (0.36, 0.50, 0.70), (0.78, 0.67, 0.45)),
    ("snow", (0.45, 0.60, 0.78), (0.76, 0.78, 0.81)),
    ("sea", (0.76, 0.78, 0.81), (0.45, 0.60, 0.78)),
    ("night", (0.16, 0.18, 0.30), (0.34, 0.39, 0.48)),
    ("night", (0.34, 0.39, 0.48), (0.16, 0.18, 0.30)),
    ("sea", (0.64, 0.61, 0.56), (0.24, 0.40, 0.45)),
    ("sand", (0.24, 0.40, 0.45), (0.64, 0.61, 0.56)),
)
SETTINGS = tuple(dict.fromkeys(setting for setting, _, _ in PALETTES))

# How strongly each setting's ground shows (lines that run to the vanishing point, bands across, grain).
_TEXTURE = {
    "day": (0.10, 0.04, 0.10),
    "dusk": (0.09, 0.05, 0.08),
    "night": (0.08, 0.04, 0.08),
    "snow": (0.08, 0.06, 0.05),
    "sand": (0.07, 0.10, 0.04),
    "sea": (0.05, 0.12, 0.06),
}
_SUPERSAMPLING = 2


def render_scene(seed: int, index: int, size: int = 112) -> Image.Image:
    """Render one landscape, a pure function of its arguments.

    Args:
        seed: names a series of scenes.
        index: 0-based number of the scene in its series.
        size: side of the square picture in pixels.

    Returns:
        RGB image of ``size`` × ``size``.

    Raises:
        ValueError: if ``size`` is under 16 pixels.
    """
    if size < 16:
        raise ValueError(f"a scene needs at least 16 pixels a side, got {size}")
    rng = np.random.default_rng(list(hashlib.sha256(f"scene/{seed}/{index}".encode()).digest()))
    setting, sky_mean, ground_mean = PALETTES[rng.integers(len(PALETTES))]
    exposure = rng.uniform(0.9, 1.1)
    jitter = rng.normal(0, 0.035, (2, 3))
    sky_colour, ground_colour = (exposure * (np.array([sky_mean, ground_mean]) + jitter)).astype(np.float32)

    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    horizon = _horizon(rng, setting, x[0])
    light = np.array([rng.uniform(0.08, 0.40), rng.uniform(0.07, min(0.36, float(horizon.min()) - 0.08))])
    sky = sky_colour + _sky(rng, setting, x, y, horizon, light)
    ground = ground_colour + _ground(rng, setting, x, y, horizon, light)
    # One pixel of blending keeps the horizon from looking cut with scissors.
    below = np.clip((y - horizon) * size, 0, 1)[..., None]

    shadows, objects = _objects(rng, setting, size, horizon, sky_colour)
    ground *= 1 - 0.45 * shadows[..., None]
    brightness = float(sky_colour.mean()), float(ground_colour.mean())
    _level(sky, ground, below, objects, brightness, lean=rng.normal(0, 0.03))
    picture = sky + (ground - sky) * below
    picture += (objects[..., :3] - picture) * objects[..., 3:]
    picture += 0.008 * rng.standard_normal(picture.shape, np.float32)
    return Image.fromarray((picture.clip(0, 1) * 255 + 0.5).astype(np.uint8))


def _horizon(rng: np.random.Generator, setting: str, x: Array) -> Array:
    """Height of the horizon in each column, 0 = top; shape (size,). Level at sea, else tilted or hilly."""
    height = np.full_like(x, rng.uniform(0.40, 0.60))
    if setting == "sea":
        return height
    height += np.float32(rng.uniform(-0.03, 0.03)) * (x - 0.5)
    for waves in (1, 2, 4):
        height += np.float32(rng.normal(0, 0.011)) * np.sin(2 * np.pi * (waves * x + rng.uniform()), dtype=np.float32)
    return np.clip(height, 0.38, 0.62)


def _noise(rng: np.random.Generator, size: int, cells: tuple[int, int]) -> Array:
    """Smooth noise of ``cells`` = (rows, columns) bumps, about −1..1; shape (size, size)."""
    coarse = Image.fromarray(rng.uniform(-1, 1, cells).astype(np.float32))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))


def _sky(rng: np.random.Generator, setting: str, x: Array, y: Array, horizon: Array, light: Array) -> Array:
    """What the sky adds to its colour: shape (size, size, 3)."""
    size = len(x)
    distance = np.hypot(x - light[0], y - light[1]).astype(np.float32)
    # Paler towards the horizon, darker away from the light.
    tone = 0.30 * (y / horizon) ** 2 - 0.12 * x + 0.22 * np.exp(-((distance / 0.16) ** 2))
    warm = np.array([1.0, 0.95, 0.85], np.float32)
    sky = tone[..., None] + 0.10 * np.exp(-distance / 0.3)[..., None] * warm

    cover = rng.uniform(0.0, 0.5) if setting == "night" else rng.uniform(0.2, 1.0)
    cloud = _noise(rng, size, (6, 4)) + 0.5 * _noise(rng, size, (14, 8))
    sky += (0.16 * cover * (cloud - 0.2).clip(0, 1))[..., None]
    if setting == "night":
        stars = rng.integers(0, size, (2, rng.integers(30, 60)))
        sky[stars[0], stars[1]] += rng.uniform(0.2, 0.7, (stars.shape[1], 1)).astype(np.float32)
    if rng.uniform() < 0.8:  # else the light stands behind clouds and shows by its glow alone
        radius = rng.uniform(0.035, 0.06)
        disc = ((radius - distance) * size + 0.5).clip(0, 1)[..., None]
        sky += disc * np.array([0.45, 0.43, 0.36], np.float32)
    added: Array = sky.astype(np.float32)
    return added


def _ground(rng: np.random.Generator, setting: str, x: Array, y: Array, horizon: Array, light: Array) -> Array:
    """What the ground adds to its colour, in perspective: shape (size, size, 3)."""
    size = len(x)
    near = ((y - horizon) / (1 - horizon)).clip(0, 1)  # 0 at the horizon, 1 at the lower edge
    depth = 1 / (near + 0.08)
    across = (x - np.float32(rng.uniform(0.42, 0.58))) * depth
    lines, bands, grain = _TEXTURE[setting]

    drift = _noise(rng, size, (5, 5))
    tone = lines * _wave(across * np.float32(rng.uniform(4, 6)) + rng.uniform() + 0.15 * drift, depth * 5 / size)
    ripples = depth * np.float32(rng.uniform(5, 7)) + 0.5 * drift + across * np.float32(rng.uniform(-0.15, 0.15))
    tone += bands * _wave(ripples, 6 * depth**2 / size)
    patches = rng.normal(0, 1, (64, 64)).astype(np.float32)
    tone += grain * near**0.5 * patches[(30 * depth).astype(int) % 64, (40 * across).astype(int) % 64]
    # Haze pales the distance; the light lies on the ground below it.
    tone += 0.24 * (1 - near) ** 2
    tone += 0.10 * np.exp(-(((x - light[0]) / (0.05 + 0.15 * near)) ** 2))
    return np.repeat(tone[..., None], 3, axis=2).astype(np.float32)


def _wave(phase: Array, frequency: Array) -> Array:
    """A wave of ``phase`` in turns, faded out where its ``frequency`` in turns a pixel is too high to be drawn."""
    wave: Array = np.sin(2 * np.pi * phase, dtype=np.float32) * (1.4 - 3 * frequency).clip(0, 1)
    return wave


def _level(sky: Array, ground: Array, below: Array, objects: Array, wanted: Sequence[float], lean: float) -> None:
    """Move sky and ground, in place, to the ``wanted`` brightness, and right minus left to ``lean``.

    Objects count, but only the background moves. It takes rounds: what is clipped at black and white does not count.
    """
    thin = np.s_[::2, ::2]  # every other pixel is enough to measure
    low, cover = below[thin][..., 0], objects[thin][..., 3]
    painted = objects[thin][..., :3].mean(-1) * cover
    ramp = np.linspace(-1, 1, len(sky), dtype=np.float32)[:, None]
    free = low * (1 - cover)
    reach = 2 * float((np.abs(ramp[::2, 0]) * free).mean())  # what a ramp of 1 on the ground moves between the halves
    for _ in range(3):
        upper, lower = (layer[thin].clip(0, 1).mean(-1) * (1 - cover) + painted for layer in (sky, ground))
        sky += (wanted[0] * (1 - low).sum() - (upper * (1 - low)).sum()) / ((1 - low) * (1 - cover)).sum()
        whole = upper * (1 - low) + lower * low
        half = whole.shape[1] // 2
        gap = lean - float(whole[:, half:].mean() - whole[:, :half].mean())
        ground += (wanted[1] * low.sum() - (lower * low).sum()) / free.sum() + np.float32(gap / reach) * ramp


_MATERIALS: dict[str, Colour] = {
    "leaf": (0.30, 0.46, 0.26),
    "wood": (0.30, 0.22, 0.16),
    "stone": (0.50, 0.46, 0.42),
    "wall": (0.85, 0.80, 0.72),
    "tile": (0.62, 0.28, 0.22),
    "pane": (0.25, 0.30, 0.40),
    "sail": (0.97, 0.97, 0.95),
    "cloth": (0.75, 0.35, 0.30),
    "skin": (0.80, 0.62, 0.50),
}
_LAMPLIGHT: Colour = (1.0, 0.85, 0.4)
_LIT, _SHADED = 1.2, 0.55

Points = tuple[tuple[float, float], ...]
"""(right, up) from an object's foot, in units of its height: two are the top left and lower right of an ellipse, more
are a polygon."""


def _box(left: float, low: float, right: float, high: float) -> Points:
    return (left, low), (right, low), (right, high), (left, high)


_SHADOW: Points = ((0, 0.12), (0.9, -0.05), (0.9, -0.2), (0, -0.12))
# Each object as (material, light, points), painted in this order.
_SHAPES: dict[str, tuple[tuple[str, float, Points], ...]] = {
    "tree": (
        ("wood", 0.9, _box(-0.05, 0, 0.05, 0.5)),
        ("leaf", _SHADED, ((-0.32, 1.0), (0.32, 0.30))),
        ("leaf", _LIT, ((-0.32, 1.0), (0.10, 0.45))),
    ),
    "pine": (
        ("wood", 0.8, _box(-0.03, 0, 0.03, 0.1)),
        *(
            ("leaf", light, ((0, top), (-half, foot), (right * half, foot)))
            for top, foot, half in ((0.5, 0.08, 0.29), (0.75, 0.3, 0.23), (1.0, 0.55, 0.17))
            for light, right in ((_SHADED, 1.0), (_LIT, -0.2))
        ),
    ),
    "house": (
        ("wall", 1.0, _box(-0.55, 0, 0.11, 0.55)),
        ("wall", 0.5, _box(0.11, 0, 0.55, 0.55)),
        ("tile", _LIT, ((-0.60, 0.55), (-0.22, 1.0), (0.11, 0.55))),
        ("tile", _SHADED, ((-0.22, 1.0), (0.33, 1.0), (0.60, 0.55), (0.11, 0.55))),
        ("pane", 1.0, _box(-0.33, 0.19, -0.11, 0.41)),
    ),
    "rock": (
        ("stone", _SHADED, ((-0.95, 0), (-0.15, 1.0), (0.65, 0.75), (1.0, 0))),
        ("stone", _LIT, ((-0.95, 0), (-0.70, 0.65), (-0.15, 1.0), (0, 0))),
    ),
    "cactus": (
        ("leaf", _LIT, _box(-0.09, 0, 0, 1.0)),
        ("leaf", _SHADED, _box(0, 0, 0.09, 1.0)),
        ("leaf", _LIT, _box(-0.32, 0.4, -0.2, 0.75)),
        ("leaf", 0.9, _box(-0.32, 0.4, -0.09, 0.5)),
        ("leaf", _SHADED, _box(0.2, 0.5, 0.32, 0.85)),
        ("leaf", _SHADED, _box(0.09, 0.5, 0.32, 0.6)),
    ),
    "boat": (
        ("wood", 1.5, ((-0.4, 0.16), (0.4, 0.16), (0.26, 0), (-0.26, 0))),
        ("sail", 1.0, ((0, 1.0), (-0.36, 0.2), (0, 0.2))),
        ("sail", 0.5, ((0, 1.0), (0.3, 0.2), (0, 0.2))),
    ),
    "person": (
        ("cloth", _LIT, _box(-0.13, 0, 0, 0.75)),
        ("cloth", _SHADED, _box(0, 0, 0.13, 0.75)),
        ("skin", 1.0, ((-0.11, 1.0), (0.11, 0.76))),
    ),
}
# What stands in each setting, with its height in units of the eye's height above the ground: what is taller than 1
# crosses the horizon wherever it stands.
_OBJECTS: dict[str, tuple[tuple[str, float], ...]] = {
    "day": (("tree", 1.3), ("tree", 0.9), ("house", 0.9), ("person", 0.45), ("rock", 0.25)),
    "dusk": (("tree", 1.3), ("pine", 1.2), ("house", 0.9), ("person", 0.45)),
    "night": (("pine", 1.3), ("house", 0.9), ("tree", 1.0)),
    "snow": (("pine", 1.4), ("pine", 0.9), ("house", 0.8), ("person", 0.45)),
    "sand": (("cactus", 0.9), ("rock", 0.35), ("rock", 0.25), ("person", 0.45)),
    "sea": (("boat", 1.1), ("boat", 0.7), ("rock", 0.25)),
}


def _objects(
    rng: np.random.Generator, setting: str, size: int, horizon: Array, sky_colour: Array
) -> tuple[Array, Array]:
    """Shadows (size, size) and objects (size, size, RGB and cover), all 0..1; far ones first, feet on the ground."""
    side = size * _SUPERSAMPLING
    shade, layer = Image.new("L", (side, side)), Image.new("RGBA", (side, side))
    shade_draw, draw = ImageDraw.Draw(shade), ImageDraw.Draw(layer)
    for near in np.sort(rng.uniform(0.12, 0.75, rng.integers(5, 10)) ** 1.7):
        name, tallness = _OBJECTS[setting][rng.integers(len(_OBJECTS[setting]))]
        x = rng.uniform(0.03, 0.97)
        level = float(horizon[int(x * size)])
        foot = (x * side, (level + (1 - level) * near) * side)
        height = (1 - level) * near * tallness * rng.uniform(0.85, 1.15) * side
        shade_draw.polygon(_placed(_SHADOW, foot, height), fill=255)
        # Distance takes an object's colour towards that of the sky.
        haze = 0.6 * (1 - near) ** 3
        for material, light, points in _SHAPES[name]:
            colour = np.array(_MATERIALS[material]) * light
            if setting == "night":
                colour = np.array(_LAMPLIGHT) if material == "pane" else 0.6 * colour
            red, green, blue = (int(255 * tone) for tone in (colour + haze * (sky_colour - colour)).clip(0, 1))
            paint = draw.ellipse if len(points) == 2 else draw.polygon
            paint(_placed(points, foot, height), fill=(red, green, blue, 255))
    shadows, objects = (picture.resize((size, size), Image.Resampling.BOX) for picture in (shade, layer))
    return np.asarray(shadows, np.float32) / 255, np.asarray(objects, np.float32) / 255


def _placed(points: Points, foot: tuple[float, float], height: float) -> list[tuple[float, float]]:
    """Pixels (x, y) of points (right, up) of an object of this foot and height in pixels."""
    return [(foot[0] + right * height, foot[1] - up * height) for right, up in points]


def write_scenes(
    folder: str | os.PathLike[str], count: int, *, seed: int, size: int = 112, workers: int = 1
) -> list[Path]:
    """Write scenes 0 to ``count`` − 1 of a series as ``scene-00000.png`` and so on; finished ones are kept.

    Args:
        folder: made if missing.
        count: number of scenes.
        seed: names the series.
        size: side of the pictures in pixels.
        workers: processes; the files are the same for any number.

    Returns:
        The files in order.

    Raises:
        JigsawError: if ``count`` or ``workers`` is under 1.
    """
    return write_series(partial(_write_scene, Path(folder), seed, size), folder, count, workers=workers)


def write_series(
    write: Callable[[int], Path], folder: str | os.PathLike[str], count: int, *, workers: int
) -> list[Path]:
    """Call ``write``, which can be pickled, with 0 to ``count`` − 1, in processes, once the folder is there.

    Raises:
        JigsawError: if ``count`` or ``workers`` is under 1.
    """
    if count < 1 or workers < 1:
        raise JigsawError(f"count and workers must be 1 or more, got {count} and {workers}")
    Path(folder).mkdir(parents=True, exist_ok=True)
    if workers == 1:
        return [write(index) for index in range(count)]
    # Spawned, not forked: the caller may hold threads (Ray, torch) that a fork would copy half-alive.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        return list(pool.map(write, range(count), chunksize=32))


def _write_scene(folder: Path, seed: int, size: int, index: int) -> Path:
    path = folder / f"scene-{index:05d}.png"
    name = f"{seed}/{index}/{size}"
    if _scene_in(path) == name:
        return path
    note = PngImagePlugin.PngInfo()
    note.add_text("scene", name)
    unfinished = path.with_suffix(f".{os.getpid()}.part")
    render_scene(seed, index, size).save(unfinished, format="PNG", pnginfo=note)
    unfinished.replace(path)
    return path


def _scene_in(path: Path) -> str | None:
    """The scene that a file says it holds, so that a folder filled with another seed or size is written anew."""
    try:
        with Image.open(path) as image:
            return str(image.info.get("scene"))
    except OSError:  # missing, or no picture
        return None
