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
    ("day", (0.44, 0.62, 0.84), (0.46, 0.58, 0.36)),
    ("sea", (0.46, 0.58, 0.36), (0.44, 0.62, 0.84)),
    ("day", (0.76, 0.77, 0.78), (0.42, 0.47, 0.38)),
    ("snow", (0.42, 0.47, 0.38), (0.76, 0.77, 0.78)),
    ("day", (0.26, 0.31, 0.48), (0.27, 0.46, 0.34)),
    ("night", (0.27, 0.46, 0.34), (0.26, 0.31, 0.48)),
    ("dusk", (0.80, 0.52, 0.30), (0.34, 0.25, 0.31)),
    ("sand", (0.34, 0.25, 0.31), (0.80, 0.52, 0.30)),
    ("dusk", (0.76, 0.54, 0.57), (0.32, 0.39, 0.52)),
    ("snow", (0.32, 0.39, 0.52), (0.76, 0.54, 0.57)),
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
    sky_colour = np.float32(exposure * (np.array(sky_mean) + rng.normal(0, 0.035, 3)))
    ground_colour = np.float32(exposure * (np.array(ground_mean) + rng.normal(0, 0.035, 3)))

    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    horizon = _horizon(rng, setting, x[0])
    light = np.array([rng.uniform(0.08, 0.40), rng.uniform(0.07, min(0.36, float(horizon.min()) - 0.08))])
    sky = sky_colour + _sky(rng, setting, x, y, horizon, light)
    ground = ground_colour + _ground(rng, setting, x, y, horizon, light)
    # One pixel of blending keeps the horizon from looking cut with scissors.
    below = np.clip((y - horizon) * size, 0, 1)[..., None]

    shadows, objects = _objects(rng, setting, size, horizon, sky_colour, ground_colour)
    ground *= 1 - 0.45 * shadows[..., None]
    sky, ground = _level(sky, ground, sky_colour, ground_colour, below, objects, rng.normal(0, 0.02, 3))
    picture = sky * (1 - below) + ground * below
    picture = picture * (1 - objects[..., 3:]) + objects[..., :3] * objects[..., 3:]
    picture += rng.normal(0, 0.008, picture.shape)
    return Image.fromarray((picture.clip(0, 1) * 255 + 0.5).astype(np.uint8))


def _horizon(rng: np.random.Generator, setting: str, x: Array) -> Array:
    """Height of the horizon in each column, 0 = top; shape (size,). Level at sea, else tilted or hilly."""
    height = np.full_like(x, rng.uniform(0.40, 0.60))
    if setting == "sea":
        return height
    height += np.float32(rng.uniform(-0.03, 0.03)) * (x - 0.5)
    for waves in (1, 2, 4):
        height += np.float32(rng.normal(0, 0.006)) * np.sin(2 * np.pi * (waves * x + rng.uniform()), dtype=np.float32)
    return height.clip(0.38, 0.62)


def _noise(rng: np.random.Generator, size: int, cells: tuple[int, int]) -> Array:
    """Smooth noise of ``cells`` = (rows, columns) bumps, about −1..1; shape (size, size)."""
    coarse = Image.fromarray(rng.uniform(-1, 1, cells).astype(np.float32))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))


def _sky(rng: np.random.Generator, setting: str, x: Array, y: Array, horizon: Array, light: Array) -> Array:
    """What the sky adds to its colour: shape (size, size, 3)."""
    size = len(x)
    distance = np.hypot(x - light[0], y - light[1]).astype(np.float32)
    # Paler towards the horizon, darker away from the light.
    tone = 0.30 * (y / horizon) ** 2 - 0.16 * x + 0.22 * np.exp(-((distance / 0.16) ** 2))
    warm = np.array([1.0, 0.9, 0.7], np.float32)
    sky = np.multiply.outer(tone, np.ones(3, np.float32)) + 0.12 * np.exp(-distance / 0.3)[..., None] * warm

    cover = rng.uniform(0.0, 0.5) if setting == "night" else rng.uniform(0.2, 1.0)
    cloud = _noise(rng, size, (6, 4)) + 0.5 * _noise(rng, size, (14, 8))
    sky += (0.16 * cover * (cloud - 0.2).clip(0, 1))[..., None]
    if setting == "night":
        stars = rng.integers(0, size, (2, rng.integers(30, 60)))
        sky[stars[0], stars[1]] += rng.uniform(0.2, 0.7, (stars.shape[1], 1)).astype(np.float32)
    if rng.uniform() < 0.8:  # else the light stands behind clouds and shows by its glow alone
        radius = rng.uniform(0.035, 0.06)
        disc = ((radius - distance) * size + 0.5).clip(0, 1)[..., None]
        sky += disc * np.array([0.45, 0.42, 0.30], np.float32)
    return sky.astype(np.float32)


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
    tone += grain * near**0.5 * patches[(24 * depth).astype(int) % 64, (16 * across).astype(int) % 64]
    # Haze pales the distance; the light lies on the ground below it.
    tone += 0.24 * (1 - near) ** 2
    tone += 0.10 * np.exp(-(((x - light[0]) / (0.05 + 0.15 * near)) ** 2))
    return np.multiply.outer(tone, np.ones(3, np.float32)).astype(np.float32)


def _wave(phase: Array, frequency: Array) -> Array:
    """A wave of ``phase`` in turns, faded out where its ``frequency`` in turns a pixel is too high to be drawn."""
    return np.sin(2 * np.pi * phase, dtype=np.float32) * (1.4 - 3 * frequency).clip(0, 1)


def _level(
    sky: Array, ground: Array, sky_colour: Array, ground_colour: Array, below: Array, objects: Array, lean: Array
) -> tuple[Array, Array]:
    """Give sky and ground, objects included, the means of their palette, and left and right the same mean but ``lean``.

    Only the background is moved, twice: what is clipped at black and white in the first round is made up for in the
    second.
    """
    cover = objects[..., 3:]
    ramp = np.linspace(-1, 1, len(sky), dtype=np.float32)[None, :, None]
    for _ in range(2):
        for layer, colour, weight in ((sky, sky_colour, 1 - below), (ground, ground_colour, below)):
            seen = (layer.clip(0, 1) * (1 - cover) + objects[..., :3] * cover) * weight
            layer += (colour * weight.sum() - seen.sum((0, 1))) / (weight * (1 - cover)).sum()
        picture = (sky * (1 - below) + ground * below).clip(0, 1) * (1 - cover) + objects[..., :3] * cover
        half = len(sky) // 2
        gap = picture[:, half:].mean((0, 1)) - picture[:, :half].mean((0, 1)) - lean
        ground -= ramp * (gap / (ramp[:, half:] * below[:, half:] * (1 - cover[:, half:])).mean() / 2).astype(
            np.float32
        )
    return sky, ground


Painter = Callable[[ImageDraw.ImageDraw, float, float, float, Colour, bool], None]
"""Draws one object: canvas, x and y of its foot, height (pixels), colour, whether it is night."""


def _fill(colour: Sequence[float], gain: float) -> tuple[int, int, int, int]:
    red, green, blue = (int(255 * min(1.0, max(0.0, channel * gain))) for channel in colour)
    return red, green, blue, 255


def _tree(draw: ImageDraw.ImageDraw, x: float, y: float, height: float, colour: Colour, night: bool) -> None:
    crown = 0.32 * height
    draw.rectangle((x - 0.05 * height, y - 0.5 * height, x + 0.05 * height, y), fill=_fill((0.3, 0.22, 0.16), 0.9))
    draw.ellipse((x - crown, y - height, x + crown, y - 0.3 * height), fill=_fill(colour, 0.55))
    draw.ellipse((x - crown, y - height, x + 0.3 * crown, y - 0.45 * height), fill=_fill(colour, 1.25))


def _pine(draw: ImageDraw.ImageDraw, x: float, y: float, height: float, colour: Colour, night: bool) -> None:
    for top, foot, half in ((1.0, 0.55, 0.17), (0.75, 0.3, 0.23), (0.5, 0.08, 0.29)):
        peak, base = (x, y - top * height), y - foot * height
        draw.polygon([peak, (x - half * height, base), (x + half * height, base)], fill=_fill(colour, 0.5))
        draw.polygon([peak, (x - half * height, base), (x - 0.05 * height, base)], fill=_fill(colour, 1.2))
    draw.rectangle((x - 0.03 * height, y - 0.09 * height, x + 0.03 * height, y), fill=_fill((0.3, 0.22, 0.16), 0.8))


def _house(draw: ImageDraw.ImageDraw, x: float, y: float, height: float, colour: Colour, night: bool) -> None:
    half, wall = 0.55 * height, 0.55 * height
    edge = x + 0.2 * half
    draw.rectangle((x - half, y - wall, edge, y), fill=_fill((0.85, 0.80, 0.72), 0.55 if night else 1.0))
    draw.rectangle((edge, y - wall, x + half, y), fill=_fill((0.85, 0.80, 0.72), 0.25 if night else 0.5))
    roof = (0.62, 0.28, 0.22)
    peak = x - 0.4 * half
    draw.polygon([(x - 1.1 * half, y - wall), (peak, y - height), (edge, y - wall)], fill=_fill(roof, 1.2))
    ridge = [(peak, y - height), (x + 0.6 * half, y - height), (x + 1.1 * half, y - wall), (edge, y - wall)]
    draw.polygon(ridge, fill=_fill(roof, 0.55))
    pane = _fill((1.0, 0.85, 0.4), 1.0) if night else _fill((0.25, 0.3, 0.4), 1.0)
    draw.rectangle((x - 0.6 * half, y - 0.75 * wall, x - 0.2 * half, y - 0.35 * wall), fill=pane)


def _rock(draw: ImageDraw.ImageDraw, x: float, y: float, height: float, colour: Colour, night: bool) -> None:
    top = (x - 0.1 * height, y - 0.6 * height)
    right = [(x + 0.4 * height, y - 0.45 * height), (x + 0.65 * height, y)]
    draw.polygon([(x - 0.6 * height, y), top, *right], fill=_fill(colour, 0.45))
    draw.polygon([(x - 0.6 * height, y), (x - 0.45 * height, y - 0.4 * height), top, (x, y)], fill=_fill(colour, 1.2))


def _cactus(draw: ImageDraw.ImageDraw, x: float, y: float, height: float, colour: Colour, night: bool) -> None:
    thick = 0.09 * height
    for left, gain in ((-1.0, 1.3), (0.0, 0.6)):
        draw.rectangle((x + left * thick, y - height, x + (left + 1) * thick, y), fill=_fill(colour, gain))
    draw.rectangle((x - 0.32 * height, y - 0.75 * height, x - 0.2 * height, y - 0.4 * height), fill=_fill(colour, 1.2))
    draw.rectangle((x - 0.32 * height, y - 0.5 * height, x, y - 0.4 * height), fill=_fill(colour, 0.9))
    draw.rectangle((x + 0.2 * height, y - 0.85 * height, x + 0.32 * height, y - 0.5 * height), fill=_fill(colour, 0.6))
    draw.rectangle((x, y - 0.6 * height, x + 0.32 * height, y - 0.5 * height), fill=_fill(colour, 0.6))


def _boat(draw: ImageDraw.ImageDraw, x: float, y: float, height: float, colour: Colour, night: bool) -> None:
    hull = [(-0.4, -0.16), (0.4, -0.16), (0.26, 0.0), (-0.26, 0.0)]
    draw.polygon([(x + a * height, y + b * height) for a, b in hull], fill=_fill((0.5, 0.25, 0.2), 0.9))
    draw.polygon(
        [(x, y - height), (x - 0.36 * height, y - 0.2 * height), (x, y - 0.2 * height)], fill=_fill((1, 1, 1), 0.95)
    )
    draw.polygon(
        [(x, y - height), (x + 0.3 * height, y - 0.2 * height), (x, y - 0.2 * height)], fill=_fill((1, 1, 1), 0.5)
    )


def _person(draw: ImageDraw.ImageDraw, x: float, y: float, height: float, colour: Colour, night: bool) -> None:
    half, head = 0.13 * height, 0.11 * height
    draw.rectangle((x - half, y - 0.72 * height, x, y), fill=_fill((0.75, 0.35, 0.3), 1.1))
    draw.rectangle((x, y - 0.72 * height, x + half, y), fill=_fill((0.75, 0.35, 0.3), 0.5))
    draw.ellipse((x - head, y - height, x + head, y - height + 2 * head), fill=_fill((0.8, 0.62, 0.5), 0.9))


# What stands in each setting, with its height in units of the eye's height above the ground.
_OBJECTS: dict[str, tuple[tuple[Painter, float], ...]] = {
    "day": ((_tree, 1.3), (_tree, 0.9), (_house, 0.9), (_person, 0.45), (_rock, 0.4)),
    "dusk": ((_tree, 1.3), (_pine, 1.2), (_house, 0.9), (_person, 0.45)),
    "night": ((_pine, 1.3), (_house, 0.9), (_tree, 1.0)),
    "snow": ((_pine, 1.4), (_pine, 0.9), (_house, 0.8), (_person, 0.45)),
    "sand": ((_cactus, 0.9), (_rock, 0.6), (_rock, 0.4), (_person, 0.45)),
    "sea": ((_boat, 1.0), (_boat, 0.7), (_rock, 0.4)),
}


def _objects(
    rng: np.random.Generator, setting: str, size: int, horizon: Array, sky_colour: Array, ground_colour: Array
) -> tuple[Array, Array]:
    """Shadows (size, size) and objects (size, size, RGB and cover), all 0..1; far ones first, feet on the ground."""
    scale = size * _SUPERSAMPLING
    shade = Image.new("L", (scale, scale))
    layer = Image.new("RGBA", (scale, scale))
    shade_draw, draw = ImageDraw.Draw(shade), ImageDraw.Draw(layer)
    night = setting == "night"
    green = (0.30, 0.46, 0.26)
    for near in np.sort(rng.uniform(0.12, 0.85, rng.integers(5, 10)) ** 1.6):
        paint, tallness = _OBJECTS[setting][rng.integers(len(_OBJECTS[setting]))]
        x = rng.uniform(0.03, 0.97)
        level = float(horizon[int(x * size)])
        foot = level + (1 - level) * near
        height = (1 - level) * (near + 0.04) * tallness * rng.uniform(0.8, 1.2)
        base = green if paint in (_tree, _pine, _cactus) else (0.5, 0.46, 0.42)
        # Distance takes an object's colour towards the haze at the horizon.
        haze = 0.6 * (1 - near) ** 3
        colour = tuple(
            (1 - haze) * channel * (0.6 if night else 1.0) + haze * far
            for channel, far in zip(base, sky_colour, strict=True)
        )
        x, foot, height = x * scale, foot * scale, height * scale
        thick = 0.12 * height
        shade_draw.polygon(
            [
                (x, foot - thick),
                (x + 0.9 * height, foot + 0.05 * height),
                (x + 0.9 * height, foot + 0.2 * height),
                (x, foot + thick),
            ],
            fill=255,
        )
        paint(draw, x, foot, height, colour, night)
    small = (size, size)
    shadows = np.asarray(shade.resize(small, Image.Resampling.BOX), np.float32) / 255
    return shadows, np.asarray(layer.resize(small, Image.Resampling.BOX), np.float32) / 255


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
    if count < 1 or workers < 1:
        raise JigsawError(f"count and workers must be 1 or more, got {count} and {workers}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write = partial(_write_scene, folder, seed, size)
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
