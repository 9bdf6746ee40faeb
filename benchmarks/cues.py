"""What a quickstart's model looks at: its held-out puzzles once more, with one cue taken from the media at a time.

    source train_scripts/env_cpu.sh
    .venv/bin/python benchmarks/cues.py RUN... [--json FILE]

A RUN is the output folder of a finished ``jigsaw quickstart``. What the trained model still gets right without a cue it
does not need that one for. Nothing is trained on the changed media.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import typer
from PIL import Image, ImageFilter
from probes import CONSOLE, REMEDY, JsonFile, Run, Runs
from rich.progress import track
from rich.table import Table
from run import machine

from jigsaw.files import write_json
from jigsaw.prepare.images import list_pictures
from jigsaw.processes import told_in_one_line
from jigsaw.puzzle import Plan, media_specs
from jigsaw.solve import scores_of, solve
from jigsaw.toy.quickstart import Part, Quickstart, finished, load
from jigsaw.toy.rooms import SHADE, render_room
from jigsaw.toy.verdict import mean_scores

Pixels = npt.NDArray[np.uint8]
"""(H, W, RGB)."""
BLUR = 6
"""Standard deviation, in pixels."""
Result = dict[str, Any]


@dataclass(frozen=True)
class Medium:
    """A picture, or the frames of a film.

    Attributes:
        name: its path.
        frames: one or more.
        grid: rows and columns that a picture is cut into.
    """

    name: str
    frames: list[Pixels]
    grid: tuple[int, int]


Change = Callable[[Medium], list[Pixels]]


def _tiles(medium: Medium) -> Iterator[tuple[slice, slice]]:
    """Where the tiles of a picture lie."""
    rows, columns = medium.grid
    height, width = (side // count for side, count in zip(medium.frames[0].shape[:2], (rows, columns), strict=True))
    for row in range(rows):
        for column in range(columns):
            yield slice(row * height, (row + 1) * height), slice(column * width, (column + 1) * width)


def _spread(pixels: npt.NDArray[Any], mean: npt.NDArray[Any], by: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Pixels about another mean, with their distances from their own times a factor."""
    spread: npt.NDArray[Any] = mean + (pixels - pixels.mean((0, 1))) * by
    return spread


def _bytes(pixels: npt.NDArray[Any]) -> Pixels:
    return pixels.round().clip(0, 255).astype(np.uint8)


def _shuffled(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    return rng.permutation(pixels.reshape(-1, 3)).reshape(pixels.shape)


def without_colour(medium: Medium) -> list[Pixels]:
    """As bright as they were, and grey."""
    return [_bytes(frame.mean(-1, keepdims=True).repeat(3, -1)) for frame in medium.frames]


def with_tiles_alike(medium: Medium) -> list[Pixels]:
    """Every tile with the mean colour and the contrast of the whole picture."""
    picture = medium.frames[0].astype(float)
    mean, contrast = picture.mean((0, 1)), picture.std((0, 1))
    for tile in _tiles(medium):
        picture[tile] = _spread(picture[tile], mean, contrast / np.maximum(picture[tile].std((0, 1)), 1))
    return [_bytes(picture)]


def blurred(medium: Medium) -> list[Pixels]:
    """Without what is finer than some ten pixels."""
    return [np.asarray(Image.fromarray(frame).filter(ImageFilter.GaussianBlur(BLUR))) for frame in medium.frames]


def without_all_three(medium: Medium) -> list[Pixels]:
    """Blurred, then grey, then with tiles alike."""
    for change in (blurred, without_colour):
        medium = replace(medium, frames=change(medium))
    return with_tiles_alike(medium)


def with_tiles_shuffled(medium: Medium) -> list[Pixels]:
    """The pixels of each tile in an order drawn at random."""
    picture, rng = medium.frames[0].copy(), np.random.default_rng(0)
    for tile in _tiles(medium):
        picture[tile] = _shuffled(picture[tile], rng)
    return [picture]


def contrasts(frames: Sequence[Pixels]) -> npt.NDArray[Any]:
    """The standard deviation of each frame's brightness, in grey levels; at least 1."""
    return np.maximum([frame.mean(-1).std() for frame in frames], 1)


def with_contrasts(medium: Medium, wanted: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> list[Pixels]:
    """Frames with other contrasts than their own, by those in turn; their means stay."""
    own = contrasts(medium.frames)
    factors = np.broadcast_to(wanted(own), own.shape) / own
    return [_bytes(_spread(frame, frame.mean((0, 1)), by)) for frame, by in zip(medium.frames, factors, strict=True)]


def with_frames_shuffled(medium: Medium) -> list[Pixels]:
    """The pixels of each frame in an order drawn at random."""
    rng = np.random.default_rng(0)
    return [_shuffled(frame, rng) for frame in medium.frames]


def with_shade(medium: Medium, shade: float) -> list[Pixels]:
    """The hall once more, its pillars lit more or less from the left."""
    _, seed, index = medium.name.partition("/")[0].split("-")
    return [np.asarray(render_room(int(seed), int(index), shade=shade).colour)]


CUES: dict[str, dict[str, Change]] = {
    "image": {
        "without colour": without_colour,
        "tiles alike in mean and contrast": with_tiles_alike,
        f"blurred by {BLUR} pixels": blurred,
        "all three at once": without_all_three,
        "pixels of each tile shuffled": with_tiles_shuffled,
    },
    "video": {
        "without colour": without_colour,
        "frames alike in contrast": partial(with_contrasts, wanted=np.mean),
        "contrasts in reverse": partial(with_contrasts, wanted=lambda own: own[::-1]),
        "pixels of each frame shuffled": with_frames_shuffled,
    },
    "depth": {
        "without colour": without_colour,
        "half the light from the left": partial(with_shade, shade=SHADE / 2),
        "no light from the left": partial(with_shade, shade=0),
    },
}
"""What is done to the media, by task."""


def write_changed(root: Path, names: Sequence[str], folder: Path, grid: tuple[int, int], change: Change) -> None:
    """Write media into a folder under their names, changed; a film is a folder of frames."""
    for name in names:
        film = root / name
        files = [film / frame for frame in list_pictures(film)] if film.is_dir() else [film]
        frames = [np.asarray(Image.open(file).convert("RGB")) for file in files]
        for file, pixels in zip(files, change(Medium(name, frames, grid)), strict=True):
            target = folder / file.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(target, quality=95, subsampling=0)


def asked(run: Quickstart, part: Part, loaded: tuple[Any, Any], told: str) -> Iterator[Result]:
    """The accuracy of greedy replies to a task's held-out puzzles as they are, and without each cue."""
    plans: list[Plan] = run.heldout_plans(part)
    names = sorted({spec["path"] for each in plans for spec in media_specs(each.messages)})
    changes: dict[str, Change | None] = {"as they are": None, **CUES[part.task]}
    for cue, change in track(changes.items(), told, transient=True, console=CONSOLE):
        with TemporaryDirectory() as folder:
            root = part.media_root
            if change is not None:
                root = Path(folder)
                write_changed(part.media_root, names, root, run.grid, change)
            scores = mean_scores(scores_of(plans, solve(*loaded, plans, root)))
        figures = {name: scores[name] for name in ("exact", "valid_permutation")}
        yield {"task": part.kind, "chance": part.chance, "cue": cue, **figures, "heldout_puzzles": len(plans)}


def of_run(name: str, run: Quickstart) -> Iterator[Result]:
    """All of a run's tasks."""
    loaded = load(run.trained_model)
    for part in run.parts:
        for result in asked(run, part, loaded, f"{name}, {part.kind}"):
            yield {"run": name, **result}


def main(runs: Runs, json_file: JsonFile = None) -> None:
    """Ask a trained model its held-out puzzles with one cue taken from the media at a time.

    Example: python benchmarks/cues.py outputs/quickstart --json cues.json
    """
    with told_in_one_line(lambda: CONSOLE.print("stopped")):
        read = [(Run.read(folder).name, finished(folder, REMEDY)) for folder in runs]
        results = [result for name, run in read for result in of_run(name, run)]
        columns = ("run", "puzzles", "media", "exact", "in form", "chance")
        table = Table(*columns, title="greedy replies to held-out puzzles")
        for each in results:
            figures = (f"{each[what]:.3f}" for what in ("exact", "valid_permutation", "chance"))
            table.add_row(*(each[what] for what in ("run", "task", "cue")), *figures)
        CONSOLE.print(table)
        if json_file is not None:
            write_json(json_file, {"machine": machine(), "results": results})


if __name__ == "__main__":
    typer.run(main)
