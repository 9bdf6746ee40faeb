"""The supervised start of the tiny model: the answer's format and a few words for what it sees, never the order.

A model with random weights answers nothing that a reward could tell apart. So it first learns, from single tiles,
to name what they show, and from whole puzzles to answer in the right form, with orders drawn at random: what it
knows about order afterwards is chance, and everything above it comes from GRPO.
"""

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from jigsaw.permutation import answer_of
from jigsaw.puzzle import Message, Plan, Puzzle
from jigsaw.rows import Row
from jigsaw.tasks import cut, plan


@dataclass(frozen=True)
class Example:
    """A chat with its media in place, and the reply to learn."""

    messages: list[Message]
    media: list[Image.Image]
    reply: str


def order_example(planned: Plan, media_root: str | os.PathLike[str], rng: random.Random) -> Example:
    """A puzzle with a reply of the right form whose order is drawn at random, whatever the pixels show."""
    puzzle = cut(planned, media_root)
    order = list(range(len(planned.order)))
    rng.shuffle(order)
    answer = ", ".join(str(place) for place in answer_of(order))
    return Example(planned.messages, puzzle.media, f"<think>{THOUGHT}</think><answer>{answer}</answer>")


def naming_example(tile: Image.Image, name: str) -> Example:
    """A single tile and what it shows."""
    content = [{"type": "image", "image": {}}, {"type": "text", "text": NAMING_PROMPT}]
    return Example([{"role": "user", "content": content}], [tile], name)


NAMING_PROMPT = "\nWhat is this?"
THOUGHT = "Look."
WORDS = ("sky", "ground", "sunny ", "shady ", THOUGHT, NAMING_PROMPT)
"""What the tokenizer should spell in few tokens."""


def scene_name(puzzle: Puzzle, place: int) -> str:
    """What the piece at a 0-based place of a rendered scene shows: sky or ground, towards the light or away from it."""
    rows, columns = puzzle.grid or (1, 1)
    row, column = divmod(puzzle.order[place], columns)
    light = "" if columns == 1 else "sunny" if column < columns / 2 else "shady"
    what = "" if rows == 1 else "sky" if row < rows / 2 else "ground"
    return f"{light} {what}".strip()


def picture_name(puzzle: Puzzle, place: int) -> str:
    """What the piece at a 0-based place of any picture shows, read off its pixels: brightness, colour, texture."""
    pixels = np.asarray(puzzle.pieces[place].convert("HSV").resize((32, 32)), dtype=np.float32)
    hue, saturation, value = (np.median(pixels[..., channel]) for channel in range(3))
    brightness = "dark" if value < 85 else "bright" if value > 170 else "medium"
    colour = "grey" if saturation < 40 else HUES[round(hue / 256 * len(HUES)) % len(HUES)]
    rough = np.abs(np.diff(pixels[..., 2], axis=0)).mean() > 12
    return f"{brightness} {colour} {'rough' if rough else 'smooth'}"


HUES = ("red", "yellow", "green", "cyan", "blue", "magenta")


def warm_start_example(
    rows: Sequence[Row], media_root: str | os.PathLike[str], index: int, *, seed: int, scenes: bool
) -> Example:
    """The example of an index, a pure function of its arguments: puzzles and single tiles in turn.

    Args:
        rows: training rows.
        media_root: folder of their pictures.
        index: 0-based number of the example.
        seed: of all draws.
        scenes: whether the pictures are rendered scenes, whose parts have names.
    """
    rng = random.Random(f"{seed}/{index}")
    planned = plan(rng.choice(rows), seed, index)
    if index % 2:
        return order_example(planned, media_root, rng)
    puzzle = cut(planned, media_root)
    place = rng.randrange(len(puzzle.pieces))
    return naming_example(puzzle.pieces[place], (scene_name if scenes else picture_name)(puzzle, place))
