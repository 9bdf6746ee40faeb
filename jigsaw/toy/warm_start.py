"""The supervised start of the tiny model: the answer's format and a few words for what it sees, never the order.

A model with random weights answers nothing that a reward could tell apart. So it first learns to answer puzzles in the
right form: what each piece shows, then an order drawn at random. What it knows about order afterwards is chance, and
everything above it comes from GRPO. The pieces of rendered media have names. Of other pictures nothing is known but
their pixels: there its replies say what those tell of each tile.
"""

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from jigsaw.permutation import answer_of
from jigsaw.puzzle import Message, Puzzle
from jigsaw.rows import Row
from jigsaw.tasks import cut, plan
from jigsaw.toy.worlds import World

Pixels = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Example:
    """A chat with its media in place, and the reply to learn."""

    messages: list[Message]
    media: list[Any]
    reply: str


def order_example(puzzle: Puzzle, thought: str, rng: random.Random) -> Example:
    """A puzzle with a reply of the right form whose order is drawn at random, whatever the pixels show."""
    order = list(range(len(puzzle.order)))
    rng.shuffle(order)
    answer = ", ".join(str(place) for place in answer_of(order))
    return Example(puzzle.messages, puzzle.media, f"<think>{thought}</think><answer>{answer}</answer>")


def name_thought(world: World, row: Row, puzzle: Puzzle) -> str:
    """The number of each piece shown, 1-based, and what it shows; never which place is its own."""
    numbers = range(1, len(puzzle.order) + 1)
    return ", ".join(f"{number} {world.name(row, puzzle, number - 1)}" for number in numbers)


def _brightness(tile: Pixels) -> float:
    return float(tile.mean())


def _blueness(tile: Pixels) -> float:
    return float(tile[..., 2].mean() - tile[..., 0].mean())


def _sharpness(tile: Pixels) -> float:
    grey = tile.mean(-1)
    return float(np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean())


CUES: tuple[tuple[str, str, Callable[[Pixels], float]], ...] = (
    ("bright", "dark", _brightness),
    ("cool", "warm", _blueness),
    ("sharp", "smooth", _sharpness),
)
"""What the pixels of any tile say: words for much and little of it, and how much of it is in a tile, an array of shape
(height, width, RGB) in 0..255. In many photographs they tell the sky from the ground."""
CUE_WORDS = ("bright ", "dark ", "cool ", "warm ", "sharp", "smooth", ", ")
"""What the tokenizer should spell in few tokens for pictures of any kind."""


def cue_thought(puzzle: Puzzle) -> str:
    """What the cues say of each piece shown: a word each, the first one for the half of the pieces with more of it."""
    pixels = [np.asarray(piece, dtype=np.float32) for piece in puzzle.pieces]
    words: list[list[str]] = [[] for _ in pixels]
    for much, little, measure in CUES:
        strength = [measure(piece) for piece in pixels]
        ranked = sorted(range(len(strength)), key=strength.__getitem__, reverse=True)
        for rank, place in enumerate(ranked):
            words[place].append(much if rank < len(ranked) / 2 else little)
    return ", ".join(map(" ".join, words))


def warm_start_example(
    rows: Sequence[Row], media_root: str | os.PathLike[str], index: int, *, seed: int, world: World | None
) -> Example:
    """The example of an index, a pure function of its arguments.

    Args:
        rows: training rows.
        media_root: folder of their media.
        index: 0-based number of the example.
        seed: of all draws.
        world: that the media are rendered of; None for pictures of any kind.
    """
    rng = random.Random(f"{seed}/{index}")
    row = rng.choice(rows)
    puzzle = cut(plan(row, seed, index), media_root)
    thought = name_thought(world, row, puzzle) if world else cue_thought(puzzle)
    return order_example(puzzle, thought, rng)
