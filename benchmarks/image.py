"""CPU time of an image puzzle, from a row to its 3×3 tiles, beside Pillow's decoding of the same file.

The picture is noise with as much contrast at every scale as a photograph has, 640×480, in a JPEG of 160 kB: COCO's mean
(19 GB, 118,287 pictures). What Pillow does is what anyone would write, as some of COCO's pictures are grey: open the
file, convert to RGB. A round does one a number of times, then the other; median and spread are taken over the rounds.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from jigsaw.prompts import render
from jigsaw.tasks import build_puzzle

PUZZLES = 20  # a round
SIZE = (640, 480)


def write_picture(path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = np.full((SIZE[1], SIZE[0], 3), 128.0)
    for octave in range(9):
        side = 4 * 2**octave
        coarse = rng.normal(0, 30 / 2 ** (0.3 * octave), (side * 3 // 4, side, 3)).astype(np.float32)
        for channel in range(3):
            pixels[..., channel] += Image.fromarray(coarse[..., channel]).resize(SIZE, Image.Resampling.BICUBIC)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=95)


def cpu_seconds(work: Callable[[], object]) -> float:
    """Seconds of one call, the mean of a round's calls."""
    start = time.process_time()
    for _ in range(PUZZLES):
        work()
    return (time.process_time() - start) / PUZZLES


def measure(repeats: int) -> list[dict[str, object]]:
    """See ``benchmarks/run.py``; ``repeats`` is the number of rounds."""
    row = {
        "data_source": "visual_jigsaw_image",
        "prompt": [{"role": "user", "content": render("image", "answer_tag", rows=3, columns=3)}],
        "images": [{"path": "picture.jpg", "jigsaw_config": [3, 3], "resize_size": None, "crop_size": None}],
        "extra_info": {"id": "picture", "split": "train", "answer_format": "answer_tag"},
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.jpg"
        write_picture(path)

        def bare() -> None:
            with Image.open(path) as image:
                image.convert("RGB")

        def puzzle() -> None:
            build_puzzle(row, folder)

        cpu_seconds(bare), cpu_seconds(puzzle)  # imports, caches
        ours, other = zip(*((cpu_seconds(puzzle), cpu_seconds(bare)) for _ in range(repeats)), strict=True)
    return [
        {
            "name": "image puzzle, 3×3, from a JPEG of 640×480",
            "ours_s": statistics.median(ours),
            "ours_min_s": min(ours),
            "ours_max_s": max(ours),
            "other": "Pillow: open, convert to RGB",
            "other_s": statistics.median(other),
            "ratio": statistics.median(a / b for a, b in zip(ours, other, strict=True)),
            "bar": "<= 1.15 x",
        }
    ]
