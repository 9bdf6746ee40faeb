"""What a quickstart can be told. The command line knows it without verl or torch."""

from dataclasses import dataclass
from typing import Literal

from jigsaw.shapes import FAMILIES

Kind = Literal["image", "video", "depth", "mixture"]
"""A task, or all of them in one run."""

STEPS, STEPS_OF_PICTURES = 30, 70
"""GRPO steps on rendered scenes, and on the user's pictures, whose parts nobody has named."""
LEARNED = {
    **{"2x1 tiles": 10, "1x2 tiles": 10, "2x2 tiles": 10, "3x3 tiles": 50},
    **{"2 clips": 10, "3 clips": 10, "2 points": 10, "3 points": 10},
}
"""What rendered media were seen to teach (docs/learning.md), and after how many GRPO steps every seed was half way from
chance to all puzzles, by tests every ten steps."""
RAISE_AT, WINDOW = 0.8, 5
"""Of the grid to begin with: exact accuracy, over so many steps."""
FORMED = 0.9
"""The warm start ends when this share of the replies to puzzles of its own, drawn at temperature 1 as GRPO draws them,
are permutations, and enough names of pieces are right (jigsaw/toy/worlds.py)."""
ROUNDS = 4
"""Of the warm start, after which it ends in any case."""


@dataclass(frozen=True)
class Settings:
    """What decides a quickstart's result; a folder holds the run of one of these.

    Attributes:
        grid: rows × columns of tiles, as text.
        begin_with: an easier grid to begin with, as text; None for the grid alone.
        images: folder of the user's pictures; None for rendered scenes.
        warm_start_steps: supervised steps before GRPO; None for as many as it takes, see :data:`FORMED`.
        seed: of the pictures, the weights and all draws.
        model: family of the tiny model, one of :data:`jigsaw.shapes.FAMILIES`.
        task: what is trained.
        clips: of a film.
        points: of a room.
    """

    grid: str
    begin_with: str | None
    images: str | None
    warm_start_steps: int | None
    seed: int
    model: str = FAMILIES[0]
    task: Kind = "image"
    clips: int = 2
    points: int = 2
