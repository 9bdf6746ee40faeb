"""The supervised start of the tiny model: the answer's format and a few words for what it sees, never the order.

A model with random weights answers nothing that a reward could tell apart. So it first learns to answer puzzles in the
right form: what each piece shows, then an order drawn at random. What it knows about order afterwards is chance, and
everything above it comes from GRPO. The pieces of rendered media have names, and a reply says them twice: as they are
shown, and as they come in the order that it answers with. Of other pictures nothing is known but their pixels: there
its replies say what those tell of each tile.
"""

import os
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt

from jigsaw.puzzle import Message, Plan, Puzzle
from jigsaw.response import reply_of
from jigsaw.rows import Row
from jigsaw.tasks import cut, plan
from jigsaw.toy.worlds import World

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth")
IN_ORDER = " in order:"
Pixels = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Example:
    """A chat with its media in place, and the reply to learn, behind what is given of it."""

    messages: list[Message]
    media: list[Any]
    reply: str
    given: str = ""


def names_of(world: World, row: Row, puzzle: Puzzle) -> list[str]:
    """What each piece shows, in the order shown; never which place is its own."""
    return [world.name(row, puzzle, place) for place in range(len(puzzle.order))]


def name_thought(names: Sequence[str], answer: Sequence[int]) -> str:
    """What each piece shows; then the names in an answer's order, each with its piece's number.

    Made of :func:`phrases_of`, so that it is three tokens a piece.

    Args:
        names: of the pieces, in the order shown.
        answer: 1-based numbers of the pieces that are spoken of.
    """
    seen = "".join(f" {ORDINALS[number - 1]} {names[number - 1]}," for number in sorted(answer))
    return seen + IN_ORDER + "".join(f" {names[number - 1]} {number}" for number in answer)


def named(world: World, row: Row, puzzle: Puzzle, reply: str) -> float:
    """The share of the pieces that a reply names right."""
    seen = name_thought(names_of(world, row, puzzle), puzzle.answer).partition(IN_ORDER)[0].split(",")[:-1]
    said = reply.removeprefix("<think>").split(",")
    return fmean(each in said for each in seen)


def phrases_of(world: World, puzzles: Iterable[Plan]) -> tuple[str, ...]:
    """What should be one token in what is said of puzzles.

    A name and whose it is must be one: alone, a tiny model then learned in 114 steps to find the number of a name. Of
    two tokens, a number and a name behind it, it had not in 1400.
    """
    found = [IN_ORDER]
    for puzzle in puzzles:
        for name in world.names(puzzle):
            found += [f" {name} ", *(f" {ordinal} {name}," for ordinal in ORDINALS[: len(puzzle.order)])]
    return tuple(dict.fromkeys(found))


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
    """The example of an index, a pure function of its arguments: a puzzle, and a reply whose order is drawn at random.

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
    media, numbers = world.lesson(row, puzzle, Path(media_root), rng) if world else (puzzle.media, puzzle.answer)
    answer = rng.sample(numbers, len(numbers))
    thought = name_thought(names_of(world, row, puzzle), answer) if world else cue_thought(puzzle)
    return Example(puzzle.messages, media, reply_of(answer, "answer_tag", thought))


def recall_example(rows: Sequence[Row], index: int, *, seed: int, world: World) -> Example:
    """The example of an index without media: names drawn at random are given, and an order of them is to be learnt.

    It teaches to find the number of a name, which is slow to learn beside what pieces show. See
    :func:`warm_start_example` for the arguments.
    """
    rng = random.Random(f"recall/{seed}/{index}")
    puzzle = plan(rng.choice(rows), seed, index)
    answer = _any_order(puzzle, rng)
    names = rng.sample(list(world.names(puzzle)), len(answer))
    # Nothing is asked: behind the wording of a puzzle it was not learned in 500 steps, with none in 300.
    messages = [{"role": "user", "content": [{"type": "text", "text": ""}]}]
    given, in_order, reply = reply_of(answer, "answer_tag", name_thought(names, answer)).partition(IN_ORDER)
    return Example(messages, [], in_order + reply, given)


def _any_order(puzzle: Plan, rng: random.Random) -> list[int]:
    return rng.sample(range(1, len(puzzle.order) + 1), len(puzzle.order))
