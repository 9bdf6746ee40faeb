"""Speed and memory of ``jigsaw prepare image`` on JPEGs of COCO's size, 640×480, beside reading headers with Pillow.

CPU seconds a picture of the work proper (a worker and its reader together), then wall seconds a picture from the start
of Ray to the finished rows. The name of the latter says what memory the processes of a worker took at most, at this
number of pictures and at a tenth of it. No two files are the same, as their padding differs; some are of one size, so
that their content is hashed too.
"""

import json
import re
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from jigsaw.prepare.images import ImageOptions, check_picture, list_pictures
from jigsaw.prepare.pipeline import prepare_rows
from jigsaw.reader import Reader

PICTURES = 10_000
DISTINCT = 50  # pictures; the rest are these with other padding


def make_pictures(root: Path, count: int) -> None:
    """``count`` JPEGs in 20 folders."""
    rng = np.random.default_rng(0)
    sources = []
    for number in range(DISTINCT):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        path = root.parent / f"source{number}.jpg"
        coarse.resize((640, 480), Image.Resampling.BICUBIC).save(path, quality=90)
        sources.append(path.read_bytes())
    for number in range(count):
        folder = root / f"{number % 20:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        padding = str(number).encode().ljust(int(rng.integers(8, 8000)))
        (folder / f"{number:012d}.jpg").write_bytes(sources[number % DISTINCT] + padding)


def bare(root: Path, paths: list[str]) -> float:
    """CPU seconds a picture of what a user would write: open, ask for the size."""
    start = time.process_time()
    for path in paths:
        with Image.open(root / path) as image:
            _ = image.size
    return (time.process_time() - start) / len(paths)


def proper(root: Path, paths: list[str], reader: Reader) -> float:
    """CPU seconds a picture of a worker and its reader."""
    look = partial(check_picture, media_root=root, options=ImageOptions())
    reader.lines(look, paths[:10], 120)
    (child,) = psutil.Process().children()
    before = time.process_time() + sum(child.cpu_times()[:2])
    reader.lines(look, paths, 120)
    return (time.process_time() + sum(child.cpu_times()[:2]) - before) / len(paths)


def most_memory() -> int:
    """MiB that a worker and its reader took at most, so far."""
    kib = 0
    for process in psutil.Process().children(recursive=True):
        if re.search("ray::_work_part|jigsaw.reader", " ".join(process.cmdline())):
            kib += int(re.findall(r"VmHWM:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())[0])
    return kib >> 10


def whole(root: Path, out: Path, limit: int) -> tuple[float, int]:
    """Wall seconds a picture from start to rows with one worker, and its memory in MiB."""
    memory = []
    start = time.perf_counter()
    options = ImageOptions(val=100, limit=limit)
    summary = prepare_rows(root, out, options, workers=1, progress=lambda done, total: memory.append(most_memory()))
    seconds = time.perf_counter() - start
    if summary.kept != limit:
        raise RuntimeError(f"{limit - summary.kept} pictures were rejected")
    return seconds / limit, max(memory)


def measure(repeats: int) -> list[dict[str, Any]]:
    """See ``benchmarks/run.py``."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "media"
        make_pictures(root, PICTURES)
        paths = list_pictures(root)
        reader = Reader()
        bare(root, paths), proper(root, paths[:100], reader)  # imports, caches
        other, ours = zip(*((bare(root, paths), proper(root, paths, reader)) for _ in range(repeats)), strict=True)
        _, at_a_tenth = whole(root, Path(folder) / "tenth", PICTURES // 10)
        seconds, memories = zip(*(whole(root, Path(folder) / f"out{n}", PICTURES) for n in range(repeats)), strict=True)
    return [
        {
            "name": "prepare image, a header, CPU of worker and reader",
            "ours_s": statistics.median(ours),
            "ours_min_s": min(ours),
            "ours_max_s": max(ours),
            "other": "Pillow: open, size",
            "other_s": statistics.median(other),
            "ratio": statistics.median(a / b for a, b in zip(ours, other, strict=True)),
            "bar": ">= 3000 /s",
        },
        {
            "name": f"prepare image, one of {PICTURES:,}, Ray's start to rows, 1 worker; {max(memories)} MiB at most "
            f"({at_a_tenth} MiB with {PICTURES // 10:,})",
            "ours_s": statistics.median(seconds),
            "ours_min_s": min(seconds),
            "ours_max_s": max(seconds),
            "other": None,
            "other_s": None,
            "ratio": None,
            "bar": None,
        },
    ]


if __name__ == "__main__":
    print(json.dumps(measure(3), indent=2, ensure_ascii=False))
