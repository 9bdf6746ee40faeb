"""Makes the pictures that the README shows: ``python assets/make.py`` from the repository's root.

``puzzle.png``, ``video_and_depth.png`` and ``worlds.png`` are drawn from rendered media by the code that makes the
training data.
``quickstart.png`` is the training curve of the last quickstart, copied where there is one.
"""

import dataclasses
import shutil
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.figure import SubFigure

from jigsaw import Puzzle, build_puzzle
from jigsaw.prepare.images import ImageOptions, image_row
from jigsaw.prepare.pipeline import prepare_rows
from jigsaw.prepare.scenes import DepthOptions
from jigsaw.prepare.videos import VideoOptions
from jigsaw.rows import Row, read_rows
from jigsaw.toy.films import write_films
from jigsaw.toy.rgbd import render_views, write_scene
from jigsaw.toy.rooms import write_rooms
from jigsaw.toy.scenes import write_scenes
from jigsaw.toy.settings import Settings
from jigsaw.toy.videos import write_video
from jigsaw.toy.warm_start import IN_ORDER, name_thought, names_of
from jigsaw.toy.worlds import World, worlds_of

ASSETS = Path(__file__).parent
CURVES = ASSETS.parent / "outputs/quickstart/training.png"

SIDE = 240  # pixels of a scene
EXAMPLES = (((3, 3), 15), ((2, 1), 3))  # grid, scene
ACCENT = "#2a6f97"


def main() -> None:
    """Draw the puzzles and copy the curve."""
    figure = plt.figure(figsize=(9.6, 6.2))
    with tempfile.TemporaryDirectory() as media_root:
        scenes = write_scenes(media_root, 1 + max(scene for _, scene in EXAMPLES), seed=0, size=SIDE)
        for band, (grid, scene) in zip(figure.subfigures(len(EXAMPLES), 1), EXAMPLES, strict=True):
            record = {"path": scenes[scene].name, "width": SIDE, "height": SIDE}
            row = image_row(record, scene, "train", ImageOptions(grid=grid))
            draw_puzzle(band, build_puzzle(row, media_root), *grid)
    save(figure, ASSETS / "puzzle.png")
    draw_video_and_depth()
    draw_worlds()
    if CURVES.is_file():
        shutil.copyfile(CURVES, ASSETS / "quickstart.png")


def draw_puzzle(band: SubFigure, puzzle: Puzzle, rows: int, columns: int) -> None:
    """Draw source, tiles as shown, prompt and answer, from left to right."""
    left, middle, right = band.subfigures(1, 3, width_ratios=(1, 1.1, 1.5))
    source = left.subplots(gridspec_kw={"left": 0.06, "right": 0.94, "bottom": 0.06, "top": 0.86})
    source.imshow(puzzle.reassemble())
    source.set_axis_off()
    left.suptitle(f"the picture, {rows}×{columns}", fontsize=10, y=0.96)

    spacing = {"left": 0.06, "right": 0.94, "bottom": 0.06, "top": 0.80, "hspace": 0.30, "wspace": 0.10}
    axes = middle.subplots(rows, columns, squeeze=False, gridspec_kw=spacing)
    for place, (axis, tile) in enumerate(zip(axes.flat, puzzle.pieces, strict=True), start=1):
        axis.imshow(tile)
        axis.set_title(f"Tile {place}", fontsize=8, color=ACCENT, pad=2)
        axis.set_axis_off()
    middle.suptitle("what the model sees, one image a tile", fontsize=10, y=0.96)

    first, *_, last = texts(puzzle)
    tiles = " ".join(f"Tile {place}: [image]" for place in (1, 2)) + (" …" if len(puzzle.pieces) > 2 else "")
    paragraphs = [first.splitlines()[0], tiles, *last.strip().splitlines()]
    prompt = "\n\n".join(textwrap.fill(paragraph, 54) for paragraph in paragraphs)
    right.text(0.04, 0.85, prompt, fontsize=7.5, va="top")
    answer = ", ".join(map(str, puzzle.answer))
    right.text(0.04, 0.08, "right answer", fontsize=9, va="bottom", color="grey")
    right.text(0.27, 0.075, answer, fontsize=11, va="bottom", color=ACCENT, weight="bold")
    right.suptitle("what it is asked", fontsize=10, x=0.04, y=0.96, ha="left")


def draw_video_and_depth() -> None:
    """Draw a video puzzle's clips in the order shown and a depth puzzle's picture, each with its answer."""
    figure = plt.figure(figsize=(9.6, 3.9))
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.05))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_video(root / "films/film.mp4", seconds=26, size=(168, 112), seed=4)
        write_scene(root / "rooms/room", render_views(0, 2, 2), "exported")
        prepare_rows(root / "films", root / "video", VideoOptions(), progress=lambda done, total: None)
        prepare_rows(root / "rooms", root / "depth", DepthOptions(), progress=lambda done, total: None)
        video = build_puzzle(read_rows(root / "video/train.parquet")[0], root / "films")
        depth = build_puzzle(read_rows(root / "depth/train.parquet")[0], root / "rooms")
    axes = left.subplots(6, 1, gridspec_kw={"left": 0.14, "right": 0.96, "bottom": 0.10, "top": 0.88, "hspace": 0.12})
    for place, (axis, clip) in enumerate(zip(axes, video.pieces, strict=True), start=1):
        axis.imshow(np.concatenate([frame.permute(1, 2, 0).numpy() for frame in clip.frames], axis=1))
        axis.set_ylabel(f"Clip {place}", fontsize=8, color=ACCENT, rotation=0, ha="right", va="center")
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    axis = right.subplots(gridspec_kw={"left": 0.02, "right": 0.98, "bottom": 0.10, "top": 0.88})
    axis.imshow(depth.media[0])
    axis.set_axis_off()
    for part, title, puzzle in ((left, "which clip came first?", video), (right, "which point is nearest?", depth)):
        part.suptitle(title, fontsize=10, y=0.97)
        part.text(0.30, 0.02, "right answer", fontsize=9, color="grey")
        part.text(0.50, 0.015, ", ".join(map(str, puzzle.answer)), fontsize=11, color=ACCENT, weight="bold")
    save(figure, ASSETS / "video_and_depth.png")


def draw_worlds() -> None:
    """Draw a puzzle of each of the quickstart's worlds, what is named of its pieces, and the answer."""
    settings = Settings("2x2", None, None, None, 0, task="mixture", clips=3, points=3)
    figure = plt.figure(figsize=(9.6, 3.2))
    bands: Any = figure.subfigures(1, 3, width_ratios=(1, 1, 1.3))
    with tempfile.TemporaryDirectory() as folder:
        for band, world in zip(bands, worlds_of(settings), strict=True):
            rendered, root = Path(folder) / world.folder, Path(folder) / world.root
            {"image": write_scenes, "video": write_films, "depth": write_rooms}[world.task](rendered, 12, seed=0)
            options = dataclasses.replace(world.options(28, root), val=0)
            data = Path(folder) / "data" / world.task
            prepare_rows(rendered, data, options, progress=lambda done, total: None)
            row = read_rows(data / "train.parquet")[1]
            draw_world(band, world, row, build_puzzle(row, root))
    save(figure, ASSETS / "worlds.png")


def draw_world(band: SubFigure, world: World, row: Row, puzzle: Puzzle) -> None:
    """Draw the pieces as shown, with their names, and the right reply."""
    space = {"left": 0.06, "right": 0.94, "bottom": 0.18, "top": 0.83, "hspace": 0.32, "wspace": 0.05}
    names = names_of(world, row, puzzle)
    if world.task == "depth":
        axis = band.subplots(gridspec_kw=space)
        axis.imshow(puzzle.media[0])
        axis.set_axis_off()
        axis.set_title(" · ".join(f"{number} {name}" for number, name in enumerate(names, 1)), fontsize=8, color=ACCENT)
    else:
        rows, columns = (2, 2) if world.task == "image" else (3, 1)
        for number, (axis, piece) in enumerate(
            zip(band.subplots(rows, columns, gridspec_kw=space).flat, puzzle.pieces, strict=True), 1
        ):
            still = world.task == "image"
            axis.imshow(piece if still else np.concatenate(list(piece.frames.permute(0, 2, 3, 1).numpy()), axis=1))
            axis.set_axis_off()
            axis.set_title(f"{number} {names[number - 1]}", fontsize=8, color=ACCENT, pad=2)
    band.suptitle(str(world), fontsize=10, y=0.97)
    order = name_thought(names, puzzle.answer).partition(IN_ORDER)[2].strip()
    band.text(0.5, 0.13, textwrap.fill(f"in order: {order}", 40), fontsize=8, ha="center", va="top")


def texts(puzzle: Puzzle) -> list[str]:
    """The text parts of the prompt, in order."""
    return [part["text"] for message in puzzle.messages for part in message["content"] if part["type"] == "text"]


def save(figure: Any, path: Path) -> None:
    """Write a PNG, by rename."""
    draft = path.with_suffix(".draft.png")
    figure.savefig(draft, dpi=120, metadata={"Software": None})
    draft.replace(path)


if __name__ == "__main__":
    main()
