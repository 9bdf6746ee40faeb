"""What the quickstart renders for each task: its media, how rows are made of them, and what single pieces show."""

import math
import random
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from jigsaw.media.image import open_rgb
from jigsaw.prepare.images import ImageOptions, parse_grid
from jigsaw.prepare.pipeline import Options
from jigsaw.prepare.scenes import DepthOptions
from jigsaw.prepare.videos import VideoOptions
from jigsaw.prompts import render
from jigsaw.puzzle import Plan, Puzzle
from jigsaw.rows import Row, media_path
from jigsaw.tasks.depth import draw_discs
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
    named: ClassVar[float]
    """The share of names that must be right, sampled, before GRPO: it learns an order of what is seen, not to see."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @property
    @abstractmethod
    def pieces(self) -> int:
        """K, of a puzzle."""

    @property
    @abstractmethod
    def lessons(self) -> int:
        """Supervised steps of a round: about what it takes to name the pieces."""

    @property
    @abstractmethod
    def words(self) -> tuple[str, ...]:
        """What the tokenizer should spell in few tokens: the task's prompt."""

    @abstractmethod
    def names(self, puzzle: Plan) -> Sequence[str]:
        """All names that pieces of a puzzle can have, K or more."""

    @abstractmethod
    def write(self, folder: Path, workers: int) -> None:
        """Render the media."""

    @abstractmethod
    def options(self, side: int, root: Path) -> Options:
        """How rows are made; ``side`` are the pixels of a token's, ``root`` the folder of the rows' media."""

    @abstractmethod
    def name(self, row: Row, puzzle: Puzzle, place: int) -> str:
        """What the piece at a 0-based place shows; never which place is its own."""

    def lesson(self, row: Row, puzzle: Puzzle, root: Path, rng: random.Random) -> tuple[list[Any], list[int]]:
        """What of a puzzle the supervised start shows: media, and the 1-based numbers of the pieces."""
        return puzzle.media, list(range(1, len(puzzle.order) + 1))

    def __str__(self) -> str:
        return f"{self.pieces} {self.noun}"


class Landscapes(World):
    """Pictures of a sky over a ground, lit from the left."""

    task, folder, noun = "image", "scenes", "tiles"
    root = folder
    named = 0.8

    @property
    def _grid(self) -> tuple[int, int]:
        return parse_grid(self.settings.grid)

    @property
    def pieces(self) -> int:
        """Rows × columns."""
        return self._grid[0] * self._grid[1]

    @property
    def lessons(self) -> int:
        """Measured: for 2 tiles the loss had fallen after 75 steps; for 4, 88 % of names are right after 300."""
        return 100 * self.pieces

    @property
    def words(self) -> tuple[str, ...]:
        """None; every tokenizer knows the prompts of pictures."""
        return ()

    def names(self, puzzle: Plan) -> Sequence[str]:
        """A name a place, in reading order: how near the light, and how high."""
        assert puzzle.grid is not None
        rows, columns = puzzle.grid
        parts, lights = HEIGHTS.get(rows, SHARES), LIGHTS.get(columns, SHARES)
        return [f"{lights[column]} {parts[row]}".strip() for row in range(rows) for column in range(columns)]

    def write(self, folder: Path, workers: int) -> None:
        """Render the pictures."""
        scenes.write_scenes(folder, TRAIN + HELDOUT, seed=self.settings.seed, workers=workers)

    def options(self, side: int, root: Path) -> Options:
        """Tiles of a token or more."""
        grid = self._grid
        return ImageOptions(grid=grid, min_side=side * max(grid), val=HELDOUT, seed=self.settings.seed, verify=True)

    def name(self, row: Row, puzzle: Puzzle, place: int) -> str:
        """See :meth:`names`."""
        return self.names(puzzle)[puzzle.order[place]]

    def __str__(self) -> str:
        return f"{self.settings.grid} tiles"


class Films(World):
    """Films in which something changes one way."""

    task, folder, noun = "video", "films", "clips"
    root = "frames"
    named = 0.45

    @property
    def pieces(self) -> int:
        """Clips."""
        return self.settings.clips

    @property
    def lessons(self) -> int:
        """Measured for 3 clips: 54 and 67 % of the names are right then."""
        return 700

    @property
    def words(self) -> tuple[str, ...]:
        """The prompt."""
        return (render(self.task, "answer_tag", clips=self.pieces),)

    def names(self, puzzle: Plan) -> Sequence[str]:
        """Tenths of the way from the first state to the last."""
        return SHARES

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
        """How far it has come on the mean of the frames."""
        _, states = films.film_states(self.settings.seed, _number(row["videos"][0]["path"]))
        return _tenth(fmean(float(states[index]) for index in puzzle.pieces[place].indices))


class Rooms(World):
    """Halls with pillars, seen by one who stands in them."""

    task, folder, noun = "depth", "rooms", "points"
    root = folder
    named = 0.45
    pixels = rooms.SIZE[0] * rooms.SIZE[1]

    @property
    def pieces(self) -> int:
        """Points."""
        return self.settings.points

    @property
    def lessons(self) -> int:
        """Measured for 3 points: the loss fell all of a sudden, after 200 to 300 steps."""
        return 200 * self.pieces

    @property
    def words(self) -> tuple[str, ...]:
        """The prompt."""
        return (render(self.task, "answer_tag", points=self.pieces),)

    def names(self, puzzle: Plan) -> Sequence[str]:
        """Tenths of the way to the farthest, by ratio."""
        return SHARES

    def write(self, folder: Path, workers: int) -> None:
        """Render the halls: nine of ten have places for two points, a fifth for three."""
        count = math.ceil((TRAIN + HELDOUT) * (1.3 if self.pieces == 2 else 5))
        rooms.write_rooms(folder, count, seed=self.settings.seed, workers=workers)

    def options(self, side: int, root: Path) -> Options:
        """A puzzle a hall."""
        return DepthOptions(points=self.pieces, val=HELDOUT, seed=self.settings.seed)

    def lesson(self, row: Row, puzzle: Puzzle, root: Path, rng: random.Random) -> tuple[list[Any], list[int]]:
        """One disc or more: what is on a disc is learned sooner from one alone."""
        count = len(puzzle.order)
        numbers = sorted(rng.sample(range(1, count + 1), rng.randint(1, count)))
        picture = open_rgb(media_path(row["images"][0]["path"], root))
        draw_discs(picture, [puzzle.pieces[number - 1] for number in numbers], numbers)
        return [picture], numbers

    def name(self, row: Row, puzzle: Puzzle, place: int) -> str:
        """How far the point of a number is."""
        depth = row["extra_info"]["depths"][puzzle.order[place]]
        return _tenth(math.log(depth / rooms.NEAREST) / math.log(rooms.FARTHEST / rooms.NEAREST))


HEIGHTS = {1: ("",), 2: ("sky", "ground"), 3: ("sky", "horizon", "ground")}
LIGHTS = {1: ("",), 2: ("sunny", "shady"), 3: ("sunny", "bright", "shady")}
"""By how many rows or columns, from the top and from the left."""
SHARES = "ABCDEFGHIJ"
"""How much there is of something, in tenths, from little to much."""
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


def _tenth(share: float) -> str:
    return SHARES[min(9, max(0, int(10 * share)))]
