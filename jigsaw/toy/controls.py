"""Controls of the quickstart: what GRPO makes of a reward that says nothing, and of pictures that show nothing.

The rewards stand in for :func:`jigsaw.reward.compute_score` in the config, with all its metrics; their ``score`` alone
is another.
"""

import os
from collections.abc import Callable
from hashlib import sha256
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from jigsaw.files import atomic_write
from jigsaw.prepare.images import list_pictures
from jigsaw.prepare.videos import SUFFIXES as VIDEOS
from jigsaw.reward import compute_score
from jigsaw.solve import without_content


def random_score(data_source: str, solution_str: str, ground_truth: Any, **told: Any) -> dict[str, float]:
    """0 or 1, by a hash of the puzzle and the reply: as good as drawn, and the same every time.

    Of the puzzle and not of its answer alone: of those and of replies there are few, so that a model could learn them.
    """
    puzzle = told["extra_info"]["id"], told["extra_info"].get("epoch"), ground_truth
    scores = compute_score(data_source, solution_str, ground_truth, **told)
    return scores | {"score": float(sha256(f"{puzzle}/{solution_str}".encode()).digest()[0] % 2)}


def format_score(data_source: str, solution_str: str, ground_truth: Any, **told: Any) -> dict[str, float]:
    """Whether the reply names an order, any."""
    scores = compute_score(data_source, solution_str, ground_truth, **told)
    return scores | {"score": scores["valid_permutation"]}


def write_shuffled(pictures: str | os.PathLike[str], folder: str | os.PathLike[str]) -> None:
    """Write a folder of pictures with their pixels in an order drawn at random: colours stay, what is seen goes.

    Each picture keeps its own pixels, a film's frames those of the film: frame by frame, how much there is of a colour
    would still tell what comes first. A film's frames lie in a folder of its name, with a video's suffix.

    Args:
        pictures: folder of PNG and JPEG files, and folders of some.
        folder: where to, under the same names; what is there is kept.
    """
    _write(pictures, folder, _shuffled)


def write_grey(pictures: str | os.PathLike[str], folder: str | os.PathLike[str]) -> None:
    """Write a folder of pictures of the same sizes in one grey; see :func:`write_shuffled`."""
    _write(pictures, folder, lambda group, rng: list(map(without_content, group)))


def _write(
    pictures: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    changed: Callable[[list[Image.Image], np.random.Generator], list[Image.Image]],
) -> None:
    for group, members in groupby(list_pictures(Path(pictures)), _group):
        paths = list(members)
        if all((Path(folder) / path).is_file() for path in paths):
            continue
        opened = [Image.open(Path(pictures) / path) for path in paths]
        rng = np.random.default_rng(list(sha256(group.encode()).digest()))
        written = changed([each.convert("RGB") for each in opened], rng)
        for path, before, after in zip(paths, opened, written, strict=True):
            target = Path(folder) / path
            target.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(target) as file:
                after.save(file, before.format, quality=100, subsampling=0)  # of a JPEG; PNG knows neither


def _group(path: str) -> str:
    """The film that a picture is a frame of, or the picture itself."""
    parent = PurePosixPath(path).parent
    return str(parent) if parent.suffix.lower() in VIDEOS else path


def _shuffled(pictures: list[Image.Image], rng: np.random.Generator) -> list[Image.Image]:
    shapes = [np.asarray(picture).shape for picture in pictures]
    pixels = rng.permutation(np.concatenate([np.asarray(picture).reshape(-1, 3) for picture in pictures]))
    parts = np.split(pixels, np.cumsum([height * width for height, width, _ in shapes])[:-1])
    return [Image.fromarray(part.reshape(shape)) for part, shape in zip(parts, shapes, strict=True)]
