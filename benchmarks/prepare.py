"""Speed of ``jigsaw prepare image`` on JPEGs of COCO's size, beside bare header reading with Pillow in the same run.

python benchmarks/prepare.py [--pictures 20000] [--json FILE]
"""

import json
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table

from jigsaw.prepare.images import ImageOptions, check_picture, list_pictures, prepare_images
from jigsaw.prepare.runner import available_cores

DISTINCT = 50  # files; the rest are links to them, so the disk's cache is warm for everyone alike


def make_pictures(root: Path, count: int) -> None:
    """``count`` JPEGs of 640×480 in 20 folders."""
    rng = np.random.default_rng(0)
    sources = []
    for number in range(DISTINCT):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        sources.append(root.parent / f"source{number}.jpg")
        coarse.resize((640, 480), Image.Resampling.BICUBIC).save(sources[-1], quality=90)
    for number in range(count):
        folder = root / f"{number % 20:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        os.link(sources[number % DISTINCT], folder / f"{number:012d}.jpg")


def bare_header(path: Path) -> tuple[int, int]:
    """What a user would write: open, ask for the size."""
    with Image.open(path) as image:
        return image.size


def bare_decode(path: Path) -> tuple[int, int]:
    """What a user would write to be sure: decode to RGB."""
    with Image.open(path) as image:
        return image.convert("RGB").size


def rate(work: Callable[[], int]) -> float:
    """Pictures a second of wall time; ``work`` returns how many it did."""
    start = time.perf_counter()
    done = work()
    return done / (time.perf_counter() - start)


def each(function: Callable[[str], object], paths: list[str]) -> int:
    for path in paths:
        function(path)
    return len(paths)


def measure(count: int) -> dict[str, float]:
    """Rates in pictures a second, by name."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "media"
        make_pictures(root, count)
        paths = list_pictures(root)
        few = paths[: max(1, count // 20)]  # decoding takes so much longer
        check = partial(check_picture, media_root=root, grid=(3, 3), min_side=84)

        def whole(workers: int) -> int:
            out = Path(folder) / f"out{workers}"
            summary = prepare_images(
                root, out, ImageOptions(val=100), workers=workers, progress=lambda done, total: None
            )
            return summary.kept

        each(lambda path: bare_header(root / path), paths)  # warms the cache
        return {
            "bare header, Pillow, 1 process": rate(lambda: each(lambda path: bare_header(root / path), paths)),
            "check_picture, header, 1 process": rate(lambda: each(partial(check, verify=False), paths)),
            "bare decode, Pillow, 1 process": rate(lambda: each(lambda path: bare_decode(root / path), few)),
            "check_picture, --verify, 1 process": rate(lambda: each(partial(check, verify=True), few)),
            "prepare image, start to rows, 1 worker": rate(lambda: whole(1)),
            f"prepare image, start to rows, {available_cores()} workers": rate(lambda: whole(available_cores())),
        }


def main(
    pictures: Annotated[int, typer.Option(help="Number of pictures, at least 200.")] = 20_000,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
) -> None:
    """Print the rates, each beside the bare one of its kind."""
    rates = measure(pictures)
    table = Table("what", "pictures/s", "of bare Pillow", title=f"{pictures:,} JPEGs, 640×480")
    for name, value in rates.items():
        kind = "decode" if "decode" in name or "verify" in name else "header"
        table.add_row(name, f"{value:,.0f}", f"{value / rates[f'bare {kind}, Pillow, 1 process']:.2f}")
    Console().print(table)
    if json_file is not None:
        json_file.write_text(json.dumps({"pictures": pictures, "per_second": rates}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
