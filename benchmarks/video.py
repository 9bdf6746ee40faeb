"""CPU time of a video puzzle, from a row to six clips: from the film, beside bare decoding of it, and from its frames.

The film is rendered: 72 s of 720×480 at 30 frames a second, H.264. Bare decoding is what anyone would write to see
every frame: a loop over decord's reader. All are measured in turn, so a busy machine slows them alike.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import decord

from jigsaw.media.video import Bounds, extract_frames, probe
from jigsaw.tasks import build_puzzle
from jigsaw.tasks.video import MAX_PIXELS, TRIM, clip_indices
from jigsaw.toy.rows import video_row
from jigsaw.toy.videos import write_video

CLIPS, SECONDS, FPS, SIZE = 6, 72, 30, (720, 480)


def make_row(**video: Any) -> dict[str, Any]:
    path = video.pop("path")
    return video_row(path, CLIPS, id="film", struct=video)


def cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def measure(repeats: int = 5) -> list[dict[str, object]]:
    """See ``benchmarks/run.py``."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        film = write_video(root / "film.mp4", seconds=SECONDS, fps=FPS, size=SIZE)
        info = probe(film)
        wanted = clip_indices(info.frames, info.fps, clips=CLIPS, trim=TRIM, fps=2, min_frames=4, max_frames=12)
        extract_frames(film, wanted, info, root / "frames", bounds=Bounds(28, MAX_PIXELS, MAX_PIXELS))
        from_film = make_row(path="film.mp4")
        from_frames = make_row(path="frames", frames=[list(clip) for clip in wanted], source_fps=info.fps)

        def bare() -> None:
            for _ in decord.VideoReader(str(film)):
                pass

        works = (lambda: build_puzzle(from_film, root), bare, lambda: build_puzzle(from_frames, root))
        for work in works:  # imports, caches
            work()
        rounds = [[cpu_seconds(work) for work in works] for _ in range(repeats)]
    film_s, bare_s, frames_s = zip(*rounds, strict=True)
    return [
        {
            "name": f"video puzzle, {CLIPS} clips, from {SECONDS} s of H.264, {SIZE[0]}×{SIZE[1]}",
            **_spread(film_s),
            "other": "decord: loop over all frames",
            "other_s": median(bare_s),
            "ratio": median(ours / other for ours, other in zip(film_s, bare_s, strict=True)),
            "bar": "<= 1.2 x",
        },
        {
            "name": f"video puzzle, {CLIPS} clips, from extracted frames",
            **_spread(frames_s),
            "other": None,
            "other_s": None,
            "ratio": None,
            "bar": "<= 0.15 s",
        },
    ]


def _spread(seconds: tuple[float, ...]) -> dict[str, float]:
    return {"ours_s": median(seconds), "ours_min_s": min(seconds), "ours_max_s": max(seconds)}
