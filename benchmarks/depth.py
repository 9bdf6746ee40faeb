"""CPU time of a depth puzzle beside Pillow's decoding of its file, and of ``prepare depth`` a frame of ``.sens``.

The picture is a rendered room of ScanNet's size, 1296×968. It decodes faster than a photograph would, so what we add
weighs more. The ``.sens`` file repeats one frame; its name in the table says how much of it was read, and what memory a
process took to do so, at this number of frames and at ten times as many.
"""

import json
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from jigsaw.media.camera import register
from jigsaw.prepare.scenes import DepthOptions, depth_row, look_at_scene
from jigsaw.tasks import build_puzzle
from jigsaw.tasks.depth import choose_points
from jigsaw.toy.rgbd import View, render_views, sens_bytes

PUZZLES = 20  # a round
FRAMES, SAMPLES = 500, 50
COLOUR, DEPTH = (1296, 968), (640, 480)

# Looks at a scene, and prints the bytes that were read meanwhile and the process's greatest memory, in KiB. (Linux; the
# greatest memory of getrusage is that of the process that started this one.)
SCENE = """
import json, re, sys
from pathlib import Path
import psutil
from jigsaw.prepare.scenes import DepthOptions, look_at_scene
options = DepthOptions(samples_per_scene=int(sys.argv[3]))
before = psutil.Process().io_counters().read_chars
look_at_scene(sys.argv[2], media_root=Path(sys.argv[1]), options=options, frames=None)
read = psutil.Process().io_counters().read_chars - before
memory = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]
print(json.dumps([read, int(memory)]))
"""


def write_sens(path: Path, view: View, count: int) -> None:
    """A ``.sens`` file that holds one view a number of times."""
    one = sens_bytes([view], [view.pose])
    tail = 8 + 2 * 128
    head = 4 + 8 + 3 + 4 * 64 + struct.calcsize("<iiIIIIfQ")
    with path.open("wb") as file:
        file.write(one[: head - 8] + struct.pack("<Q", count))
        for _ in range(count):
            file.write(one[head:-tail])
        file.write(one[-tail:])


def cpu_seconds(work: Callable[[], object], times: int = 1) -> float:
    """Seconds of one call, the mean of so many."""
    start = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - start) / times


def compared(ours: list[float], others: list[float]) -> dict[str, Any]:
    return {
        "ours_s": statistics.median(ours),
        "ours_min_s": min(ours),
        "ours_max_s": max(ours),
        "other_s": statistics.median(others),
        "ratio": statistics.median(a / b for a, b in zip(ours, others, strict=True)),
    }


def measure(repeats: int = 5) -> list[dict[str, Any]]:
    """See ``benchmarks/run.py``; ``repeats`` is the number of rounds."""
    (view,) = render_views(0, 0, 1, colour_size=COLOUR, depth_size=DEPTH)
    with tempfile.TemporaryDirectory() as folder:
        return [puzzle(view, Path(folder), repeats), preparation(view, Path(folder), repeats)]


def puzzle(view: View, folder: Path, repeats: int) -> dict[str, Any]:
    view.colour.save(folder / "picture.jpg", quality=90)
    pixels = register(COLOUR, DEPTH, None)
    points, depths = choose_points(view.depth, pixels, COLOUR, count=6, shrink=1, key=[0])
    record = {"path": "picture.jpg", "scene": "room", "width": COLOUR[0], "height": COLOUR[1], "resize": [-1, -1]}
    row = depth_row({**record, "points": points, "depths": depths}, 0, "train", DepthOptions())

    def bare() -> None:
        with Image.open(folder / "picture.jpg") as image:
            image.load()

    def ours() -> None:
        build_puzzle(row, folder)

    ours(), bare()  # imports, caches
    rounds = [(cpu_seconds(ours, PUZZLES), cpu_seconds(bare, PUZZLES)) for _ in range(repeats)]
    return {
        "name": f"depth puzzle, 6 points, from a JPEG of {COLOUR[0]}×{COLOUR[1]}",
        "other": "Pillow: decode",
        "bar": "<= 1.3 x",
        **compared(*map(list, zip(*rounds, strict=True))),
    }


def preparation(view: View, folder: Path, repeats: int) -> dict[str, Any]:
    compressed = zlib.compress((view.depth * 1000).round().astype("<u2").tobytes())
    notes = []
    for count in (10 * FRAMES, FRAMES):
        path = folder / "scene.sens"
        write_sens(path, view, count)
        child = [sys.executable, "-c", SCENE, str(folder), path.name, str(SAMPLES)]
        read, memory = json.loads(subprocess.run(child, capture_output=True, check=True, text=True).stdout)
        notes.append(f"{count} frames: {read / 1e6:.1f} of {path.stat().st_size / 1e6:.0f} MB, peak {memory >> 10} MiB")

    def ours() -> None:
        records = look_at_scene(
            path.name, media_root=folder, options=DepthOptions(samples_per_scene=SAMPLES), frames=None
        )
        assert not any("reason" in record for record in records)

    rounds = [
        (cpu_seconds(ours) / SAMPLES, cpu_seconds(lambda: zlib.decompress(compressed), SAMPLES)) for _ in range(repeats)
    ]
    return {
        "name": f"prepare depth, a frame of a .sens file; {SAMPLES} sampled of {', of '.join(reversed(notes))}",
        "other": "zlib: decompress its depth map",
        "bar": None,
        **compared(*map(list, zip(*rounds, strict=True))),
    }
