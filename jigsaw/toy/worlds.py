"""What the quickstart renders for each task: its media, how rows are made of them, and what single pieces show."""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import ClassVar

from jigsaw.prepare.images import ImageOptions, parse_grid
from jigsaw.prepare.pipeline import Options
from jigsaw.prepare.scenes import DepthOptions
from jigsaw.prepare.videos import VideoOptions
from jigsaw.prompts import render
from jigsaw.puzzle import Puzzle
from jigsaw.rows import Row
from jigsaw.toy import films, rooms, scenes
from jigsaw.toy.settings import Settings

HELDOUT = 240
"""Puzzles that are held out of training."""
TRAIN = 1000
PIXELS = 112 * 112
"""Of a picture that the tiny model sees unscaled."""


class World(ABC):
    """Rendered media of one task.

    Args:
        settings: how its sources are cut, and the seed.
    """

    task: ClassVar[str]
    folder: ClassVar[str]
    """Name of the folder of its media."""
    noun: ClassVar[str]
    """What a piece is."""
    root: ClassVar[str]
    """Name of the folder that its rows' media lie in, beside it."""
    pixels: ClassVar[int] = PIXELS
    """Of its largest picture."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @property
    @abstractmethod
    def pieces(self) -> int:
        """K, of a puzzle."""

    @property
    @abstractmethod
    def words(self) -> tuple[str, ...]:
        """What the tokenizer should spell in few tokens, the task's prompt with them."""

    @abstractmethod
    def write(self, folder: Path, workers: int) -> None:
        """Render the media."""

    @abstractmethod
    def options(self, side: int, root: Path) -> Options:
        """How rows are made; ``side`` are the pixels of a token's, ``root`` the folder of the rows' media."""

    @abstractmethod
    def name(self, row: Row, puzzle: Puzzle, place: int) -> str:
        """What the piece at a 0-based place shows; never which place is its own."""

    def __str__(self) -> str:
        return f"{self.pieces} {self.noun}"


class Landscapes(World):
    """Pictures of a sky over a ground, lit from the left."""

    task, folder, noun = "image", "scenes", "tiles"
    root = folder

    @property
    def _grid(self) -> tuple[int, int]:
        return parse_grid(self.settings.grid)

    @property
    def pieces(self) -> int:
        """Rows × columns."""
        return self._grid[0] * self._grid[1]

    @property
    def words(self) -> tuple[str, ...]:
        """Sky, ground and light; every tokenizer knows the prompts of pictures."""
        return SCENE_WORDS

    def write(self, folder: Path, workers: int) -> None:
        """Render the pictures."""
        scenes.write_scenes(folder, TRAIN + HELDOUT, seed=self.settings.seed, workers=workers)

    def options(self, side: int, root: Path) -> Options:
        """Tiles of a token or more."""
        grid = self._grid
        return ImageOptions(grid=grid, min_side=side * max(grid), val=HELDOUT, seed=self.settings.seed, verify=True)

    def name(self, row: Row, puzzle: Puzzle, place: int) -> str:
        """Sky or ground, towards the light or away from it."""
        rows, columns = puzzle.grid or (1, 1)
        at_row, at_column = divmod(puzzle.order[place], columns)
        light = "" if columns == 1 else "sunny" if at_column < columns / 2 else "shady"
        what = "" if rows == 1 else "sky" if at_row < rows / 2 else "ground"
        return f"{light} {what}".strip()

    def __str__(self) -> str:
        return f"{self.settings.grid} tiles"


class Films(World):
    """Films in which something changes one way."""

    task, folder, noun = "video", "films", "clips"
    root = "frames"

    @property
    def pieces(self) -> int:
        """Clips."""
        return self.settings.clips

    @property
    def words(self) -> tuple[str, ...]:
        """What moves, and the prompt."""
        kinds = tuple(f"{kind} " for kind in films.KINDS)
        return (render(self.task, "answer_tag", clips=self.pieces), *kinds)

    def write(self, folder: Path, workers: int) -> None:
        """Render the films."""
        films.write_films(folder, TRAIN + HELDOUT, seed=self.settings.seed, workers=workers)

    def options(self, side: int, root: Path) -> Options:
        """Four frames a clip, as large as they are; extracted, for each is read many times."""
        return VideoOptions(
            clips=self.pieces,
            max_frames=4,
            max_pixels=films.WIDTH * films.HEIGHT,
            val=HELDOUT,
            seed=self.settings.seed,
            extract_frames=root,
        )

    def name(self, row: Row, puzzle: Puzzle, place: int) -> str:
        """What is there, and how much of it, in tenths."""
        kind, states = films.film_states(self.settings.seed, _number(row["videos"][0]["path"]))
        return f"{kind} {_tenth(fmean(float(states[index]) for index in puzzle.pieces[place].indices))}"


class Rooms(World):
    """Halls with pillars, seen by one who stands in them."""

    task, folder, noun = "depth", "rooms", "points"
    root = folder
    pixels = rooms.SIZE[0] * rooms.SIZE[1]

    @property
    def pieces(self) -> int:
        """Points."""
        return self.settings.points

    @property
    def words(self) -> tuple[str, ...]:
        """The prompt."""
        return (render(self.task, "answer_tag", points=self.pieces),)

    def write(self, folder: Path, workers: int) -> None:
        """Render the halls: some have no place for three points."""
        count = TRAIN + HELDOUT
        if self.pieces > 2:
            count += count // 2
        rooms.write_rooms(folder, count, seed=self.settings.seed, workers=workers)

    def options(self, side: int, root: Path) -> Options:
        """A puzzle a hall."""
        return DepthOptions(points=self.pieces, val=HELDOUT, seed=self.settings.seed)

    def name(self, row: Row, puzzle: Puzzle, place: int) -> str:
        """How far the point of a number is, in tenths of the way to the farthest, by ratio."""
        depth = row["extra_info"]["depths"][puzzle.order[place]]
        return str(_tenth(math.log(depth / rooms.NEAREST) / math.log(rooms.FARTHEST / rooms.NEAREST)))


SCENE_WORDS = ("sky", "ground", "sunny ", "shady ")
"""What the tokenizer should spell in few tokens for landscapes."""
WORLDS: dict[str, type[World]] = {world.task: world for world in (Landscapes, Films, Rooms)}


def worlds_of(settings: Settings) -> Sequence[World]:
    """Those of a task, or of all for a mixture."""
    kinds = WORLDS.values() if settings.task == "mixture" else [WORLDS[settings.task]]
    return [kind(settings) for kind in kinds]


def _number(path: str) -> int:
    """Of a film in its series, which its name ends in."""
    found = re.search(r"(\d+)\.\w+$", path)
    assert found is not None  # films.py names them
    return int(found[1])


def _tenth(share: float) -> int:
    return min(9, max(0, int(10 * share)))
