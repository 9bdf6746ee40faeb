"""What a row becomes: a plan (text, order, answer) and then a puzzle (the same with pixels)."""

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from jigsaw.rows import AnswerFormat

MARK = re.compile(r"<(image|video)>")
"""What stands for a medium in the text of a row's prompt."""

Message = dict[str, Any]
Spec = dict[str, Any]
"""What ``cut`` needs to make one medium: plain JSON values, the path relative to the media root."""


@dataclass(frozen=True)
class CutOptions:
    """What decides pixels besides the row: the model's processor.

    Attributes:
        factor: pixels; the sides of a clip are multiples of it. Twice the processor's patch size: 28 for Qwen2.5-VL.
    """

    factor: int = 28


@dataclass(frozen=True)
class Plan:
    """A puzzle before any pixel is read.

    Attributes:
        task: name of the task, a key of ``jigsaw.tasks.TASKS``.
        id: the row's id.
        order: 0-based; ``order[j]`` is the piece shown at place j.
        answer: 1-based; ``answer[i]`` is the place where piece i is shown.
        answer_format: how the prompt asks for the answer.
        grid: (rows, columns) of a tiling, else None.
        messages: chat messages; their content is a list of ``{"type": "text", "text"}`` and
            ``{"type": "image", "image": spec}`` (or video), the media in the order shown.
    """

    task: str
    id: str
    order: tuple[int, ...]
    answer: tuple[int, ...]
    answer_format: AnswerFormat
    grid: tuple[int, int] | None
    messages: list[Message]

    @property
    def extra_info(self) -> dict[str, Any]:
        """What the reward must know of the puzzle, the same in training and by hand: see ``compute_score``."""
        said = {"id": self.id, "task": self.task, "answer_format": self.answer_format}
        return said if self.grid is None else {**said, "grid": list(self.grid)}


@dataclass(frozen=True)
class Puzzle(Plan):
    """A puzzle with its pixels.

    Attributes:
        media: everything the model is shown, in prompt order.
        pieces: what was shuffled, in the order shown: RGB images (image), :class:`jigsaw.media.video.Clip` (video),
            [y, x] points of the picture (depth).
    """

    media: list[Any] = field(repr=False)
    pieces: list[Any] = field(repr=False)

    def reassemble(self) -> Image.Image:
        """Put the tiles back by the answer: the source after its resize and crop, pixel for pixel.

        Raises:
            TypeError: if the puzzle is not a tiling.
        """
        if self.grid is None:
            raise TypeError(f"a {self.task} puzzle is not a tiling and cannot be reassembled into a picture")
        rows, columns = self.grid
        tiles = [self.pieces[place - 1] for place in self.answer]
        widths = [tile.width for tile in tiles[:columns]]
        heights = [tiles[row * columns].height for row in range(rows)]
        whole = Image.new("RGB", (sum(widths), sum(heights)))
        for index, tile in enumerate(tiles):
            row, column = divmod(index, columns)
            whole.paste(tile, (sum(widths[:column]), sum(heights[:row])))
        return whole


def media_counts(messages: list[Message]) -> Counter[str]:
    """How many media of each kind, image or video, chat messages show."""
    return Counter(item["type"] for item in _media_items(messages))


def media_specs(messages: list[Message]) -> list[Spec]:
    """The specs of all media in chat messages, in prompt order."""
    return [item[item["type"]] for item in _media_items(messages)]


def _media_items(messages: list[Message]) -> list[dict[str, Any]]:
    return [
        item
        for message in messages
        if isinstance(message["content"], list)
        for item in message["content"]
        if item["type"] != "text"
    ]
