"""Rows of each task by hand, ours and as released, for tests and benchmarks; a puzzle of each over rendered media."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from jigsaw.prompts import render
from jigsaw.rows import AnswerFormat
from jigsaw.tasks import depth, image, video
from jigsaw.toy.videos import Film, write_video

POINTS = 6


def image_row(path: str, grid: tuple[int, int] = (2, 2), *, struct: dict[str, Any] | None = None, **said: Any) -> Any:
    """A row that cuts a picture into a grid of (rows, columns).

    Args:
        path: of the picture, relative to the media root.
        grid: rows and columns.
        struct: more of the column ``images``: sizes.
        said: see :func:`_row`.
    """
    prompt = {"rows": grid[0], "columns": grid[1]}
    return _row(
        "image", image.DATA_SOURCE, prompt, {"path": path, "jigsaw_config": list(grid)} | (struct or {}), **said
    )


def video_row(
    path: str,
    clips: int = 2,
    grid: tuple[int, int] | None = None,
    *,
    trim: float | None = video.TRIM,
    struct: dict[str, Any] | None = None,
    **said: Any,
) -> Any:
    """A row that cuts a video into clips or, with a grid of (rows, columns), each of them into tiles too.

    Args:
        path: of the video, relative to the media root.
        clips: number of clips.
        grid: rows and columns; None for whole frames.
        trim: the share of a clip that is left out at each end.
        struct: more of the column ``videos``: rate, frames, sizes.
        said: see :func:`_row`.
    """
    prompt = {"clips": clips} | ({} if grid is None else {"rows": grid[0], "columns": grid[1]})
    media = {"path": path, "jigsaw_clip_num": clips, "spatial_jigsaw_grid_config": grid}
    return _row("video", video.DATA_SOURCE, prompt, media | (struct or {}), trim=trim, **said)


def depth_row(path: str, points: Sequence[Sequence[int]], *, struct: dict[str, Any] | None = None, **said: Any) -> Any:
    """A row that asks for the order of points by depth; they lie half a metre behind one another unless told.

    Args:
        path: of the picture, relative to the media root.
        points: (y, x) of each in pixels, nearest first.
        struct: more of the column ``images``: sizes.
        said: see :func:`_row`; ``depths`` in metres and ``draw`` among them.
    """
    depths = [1 + 0.5 * rank for rank in range(len(points))]
    media = {"path": path, "points": points, "resize_size": None}
    said = {"depths": depths, "draw": depth.AFTER_RESIZE} | said
    return _row("depth", depth.DATA_SOURCE, {"points": len(points)}, media | (struct or {}), **said)


def _row(
    task: str,
    data_source: str,
    prompt: dict[str, int],
    media: dict[str, Any],
    *,
    id: str = "a",
    split: str = "train",
    answer_format: AnswerFormat = "answer_tag",
    **extra_info: Any,
) -> dict[str, Any]:
    return {
        "data_source": data_source,
        "prompt": [{"role": "user", "content": render(task, answer_format, **prompt)}],
        "videos" if task == "video" else "images": [media],
        "extra_info": {"id": id, "split": split, "answer_format": answer_format, **extra_info},
    }


def released(row: dict[str, Any]) -> dict[str, Any]:
    """One of the rows above as the released files hold it.

    Without id, split, trim and depths; the path of a picture in a list, sizes of -1 where it is not resized or cropped;
    other words, which ask for a box; a truth that is meant to be overwritten.
    """
    column, mark = ("videos", "<video>") if "videos" in row else ("images", "<image>")
    (media,) = row[column]
    marks = row["prompt"][0]["content"].count(mark)
    if column == "videos":
        media = {"clip_order": list(range(marks)), **media}
    else:
        sizes = ("resize_size",) if "points" in media else ("resize_size", "crop_size")
        media = {**media, "path": [media["path"]], **{name: media.get(name) or [-1, -1] for name in sizes}}
    ask = "Think in <think> </think>, then give the order in \\boxed{}."
    return {
        "data_source": row["data_source"],
        "prompt": [{"role": "user", "content": f"{mark * marks} {ask}"}],
        column: [media],
        "reward_model": {"style": "rule", "ground_truth": "1, 2"},
        "extra_info": {"index": 0},
    }


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
    points = [[int(height * (1 + 4 * (n % 2)) / 6), int(width * (1 + n) / (POINTS + 1))] for n in range(POINTS)]
    return {
        "image": image_row("picture.jpg", grid, id="image"),
        "video": video_row("film.mp4", clips, id="video"),
        "depth": depth_row("picture.jpg", points, id="depth"),
    }
