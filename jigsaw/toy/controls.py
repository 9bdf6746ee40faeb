"""Controls of the quickstart: what GRPO makes of a reward that says nothing, and of pictures that show nothing.

The rewards stand in for :func:`jigsaw.reward.compute_score` in the config, with all its metrics; their ``score`` alone
is another.
"""

import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jigsaw.files import atomic_write
from jigsaw.prepare.images import list_pictures
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
    """Write a folder of pictures with the pixels of each in an order of its own: colours stay, what is seen goes.

    Args:
        pictures: folder of PNG and JPEG files, and folders of some.
        folder: where to, under the same names; what is there is kept.
    """
    _write(pictures, folder, _shuffled)


def write_grey(pictures: str | os.PathLike[str], folder: str | os.PathLike[str]) -> None:
    """Write a folder of pictures of the same sizes in one grey; see :func:`write_shuffled`."""
    _write(pictures, folder, lambda picture, rng: without_content(picture))


def _write(
    pictures: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    changed: Callable[[Image.Image, np.random.Generator], Image.Image],
) -> None:
    for path in list_pictures(Path(pictures)):
        target = Path(folder) / path
        if target.is_file():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(Path(pictures) / path) as opened:
            made = changed(opened.convert("RGB"), np.random.default_rng(list(sha256(path.encode()).digest())))
            with atomic_write(target) as file:
                made.save(file, opened.format, quality=100, subsampling=0)  # of a JPEG; PNG knows neither


def _shuffled(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    pixels = np.asarray(picture)
    return Image.fromarray(rng.permutation(pixels.reshape(-1, 3)).reshape(pixels.shape))
