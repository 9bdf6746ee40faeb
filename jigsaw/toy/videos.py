"""Rendered videos: a view that pans over a hilly land from dawn to dusk while two balls cross it."""

import os
from collections.abc import Iterable
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]

GOP = 30
"""Frames from one key frame to the next."""


class Film:
    """The frames of one video, a pure function of its arguments; no two are alike.

    Args:
        frames: number of frames.
        size: (width, height) in pixels.
        seed: names the land and the ways of the balls.
    """

    def __init__(self, frames: int, size: tuple[int, int], seed: int = 0) -> None:
        self.frames, self.size = frames, size
        rng = np.random.default_rng(seed)
        width, height = size
        coarse = rng.integers(40, 216, (6, 16, 3), dtype=np.uint8)
        # Twice as wide as the view, which pans from its left end to its right end.
        land = Image.fromarray(coarse).resize((2 * width, height), Image.Resampling.BICUBIC)
        grain = rng.integers(-12, 13, (height, 2 * width, 1))
        self._land = (np.asarray(land, dtype=np.int64) + grain).clip(0, 255).astype(np.uint8)
        self._y, self._x = np.mgrid[0:height, 0:width]
        self._balls = [(rng.uniform(0.2, 0.8), rng.uniform(0, 1), rng.integers(0, 256, 3)) for _ in range(2)]

    def __getitem__(self, index: int) -> Pixels:
        """The frame of a 0-based index: uint8 (height, width, RGB)."""
        width, height = self.size
        time = index / max(self.frames - 1, 1)
        left = round(time * width)
        light = np.arange(256) * (0.3 + 0.7 * time)
        frame = light.astype(np.uint8)[self._land[:, left : left + width]]
        radius = 0.12 * min(width, height)
        for level, start, colour in self._balls:
            # Once across in 40 frames, so that neighbours differ even where the land hardly moves.
            x, y = (start + index / 40) % 1 * width, level * height
            near = slice(max(0, int(y - radius)), int(y + radius) + 2)
            frame[near][(self._x[near] - x) ** 2 + (self._y[near] - y) ** 2 < radius**2] = colour
        return frame


def write_video(
    path: str | os.PathLike[str], *, seconds: float, fps: float = 30, size: tuple[int, int] = (64, 48), seed: int = 0
) -> Path:
    """Write a rendered video as H.264.

    Args:
        path: the file; its suffix names the container, for example ``.mp4``.
        seconds: length; ``round(seconds · fps)`` frames.
        fps: frames a second.
        size: (width, height) in pixels, both even.
        seed: names the film.

    Returns:
        The file.
    """
    film = Film(round(seconds * fps), size, seed)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_frames(path, (film[index] for index in range(film.frames)), fps=fps)
    return path


def write_frames(
    file: Path | IO[bytes], frames: Iterable[Pixels], *, fps: float, container_format: str | None = None
) -> None:
    """Write frames as H.264; the same frames give the same bytes.

    Args:
        file: its path, or an open file.
        frames: one or more, each uint8 (height, width, RGB), both sides even.
        fps: frames a second.
        container_format: FFmpeg's name of it, for example ``mp4``; None for what the path's suffix says.
    """
    import av

    frames = iter(frames)
    first = next(frames)
    with av.open(file, "w", format=container_format) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width, _ = first.shape
        stream.pix_fmt = "yuv420p"
        # The encoder's choices depend on the number of threads, and with AVX-512 change from run to run.
        stream.options = {
            "preset": "veryfast",
            "crf": "20",
            "g": str(GOP),
            "threads": "1",
            "x264-params": "cpu-independent=1",
        }
        for frame in chain([first], frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def write_videos(folder: str | os.PathLike[str], count: int, *, seed: int, seconds: float = 24) -> list[Path]:
    """Write videos 0 to ``count`` − 1 of a series as ``video-00000.mp4`` and so on.

    Args:
        folder: made if missing.
        count: number of videos.
        seed: names the series.
        seconds: length of each.
    """
    return [
        write_video(Path(folder) / f"video-{index:05d}.mp4", seconds=seconds, seed=seed * 100_000 + index)
        for index in range(count)
    ]
