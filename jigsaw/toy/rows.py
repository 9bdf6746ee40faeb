"""One puzzle of each task over rendered media, at any size."""

from pathlib import Path
from typing import Any

from PIL import Image

from jigsaw.prompts import render
from jigsaw.tasks import depth, image, video
from jigsaw.toy.videos import Film, write_video

POINTS = 6


def write_puzzles(
    media_root: Path,
    *,
    picture: tuple[int, int] = (112, 112),
    grid: tuple[int, int] = (2, 2),
    film: tuple[int, int] = (84, 56),
    fps: float = 8,
    seconds: float = 6,
    clips: int = 2,
) -> dict[str, dict[str, Any]]:
    """Write a picture and a film; rows by task (``image``, ``video``, ``depth``) that cut them.

    Args:
        media_root: folder for ``picture.jpg`` and ``film.mp4``; made if missing.
        picture: (width, height) in pixels.
        grid: (rows, columns) that the picture is cut into.
        film: (width, height) in pixels, both even.
        fps: the film's frames a second.
        seconds: the film's length.
        clips: number of pieces that the film is cut into.
    """
    write_video(media_root / "film.mp4", seconds=seconds, fps=fps, size=film)
    Image.fromarray(Film(1, picture)[0]).save(media_root / "picture.jpg", quality=95)
    width, height = picture
    rows, columns = grid
    points = [[int(height * (1 + 4 * (n % 2)) / 6), int(width * (1 + n) / (POINTS + 1))] for n in range(POINTS)]

    def row(task: str, source: str, prompt: str, extra: dict[str, Any] | None = None, **media: Any) -> dict[str, Any]:
        return {
            "data_source": source,
            "prompt": [{"role": "user", "content": prompt}],
            "extra_info": {"id": task, "split": "train", "answer_format": "answer_tag", **(extra or {})},
            **media,
        }

    return {
        "image": row(
            "image",
            image.DATA_SOURCE,
            render("image", "answer_tag", rows=rows, columns=columns),
            images=[{"path": "picture.jpg", "jigsaw_config": [rows, columns]}],
        ),
        "video": row(
            "video",
            video.DATA_SOURCE,
            render("video", "answer_tag", clips=clips),
            videos=[{"path": "film.mp4", "jigsaw_clip_num": clips}],
            extra={"trim": video.TRIM},
        ),
        "depth": row(
            "depth",
            depth.DATA_SOURCE,
            render("depth", "answer_tag", points=POINTS),
            images=[{"path": "picture.jpg", "points": points, "resize_size": [-1, -1]}],
            extra={"depths": [1 + 0.5 * n for n in range(POINTS)], "draw": depth.AFTER_RESIZE},
        ),
    }
