"""How many tokens a prompt takes, from sizes and text alone: no model is loaded and no pixel read.

Of the media the number is exact. Of the text it is a bound, as the tokenizer is the model's: a byte-level tokenizer, as
that of every Qwen, makes at most one token of a byte. English takes a third of that or less.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from unicodedata import normalize

from jigsaw.puzzle import MARK

Medium = tuple[int, int, int]
"""(width, height) in pixels, and the number of frames; 1 of a picture."""

MAX_PROMPT_LENGTH = 8192
"""Tokens: ``data.max_prompt_length`` of the recipes (paper)."""

AROUND = 2
"""Tokens before and after a medium's own: the vision's start and its end."""

_LONGEST = 200
"""Times its width that a picture may be long, or the processor refuses it."""
_TURN, _CHAT = 4, 64
"""What a chat template adds at most: to a message, besides its role, and to the whole, a default system message and the
start of the reply, which are 49 bytes and marks with Qwen2.5-VL."""


@dataclass(frozen=True)
class Vision:
    """How a model's processor makes tokens of pixels. The values are those of Qwen2.5-VL.

    Attributes:
        factor: pixels of a token's side; sides are rounded to multiples of it. Qwen3-VL: 32.
        min_pixels: smaller media are scaled up to it.
        max_pixels: larger ones are scaled down to it.
        frames: frames that one token spans.
    """

    factor: int = 28
    min_pixels: int = 4 * 28 * 28
    max_pixels: int = 16384 * 28 * 28
    frames: int = 2

    @property
    def least(self) -> int:
        """Fewest tokens of a medium, without those around it."""
        return math.ceil(self.min_pixels / self.factor**2)

    def tokens(self, medium: Medium) -> int:
        """Tokens of a medium, without those around it: transformers' ``smart_resize``, float for float.

        Raises:
            ValueError: if the processor refuses its shape.
        """
        width, height, frames = medium
        if not 0 < max(width, height) <= _LONGEST * min(width, height):
            raise ValueError(
                f"{width}×{height} pixels are too narrow; a side may be {_LONGEST} times the other at most"
            )
        across, down = round(width / self.factor), round(height / self.factor)
        pixels = across * down * self.factor**2
        if pixels > self.max_pixels:
            scale = math.sqrt((height * width) / self.max_pixels)
            across = max(1, math.floor(width / scale / self.factor))
            down = max(1, math.floor(height / scale / self.factor))
        elif pixels < self.min_pixels:
            scale = math.sqrt(self.min_pixels / (height * width))
            across = math.ceil(width * scale / self.factor)
            down = math.ceil(height * scale / self.factor)
        return across * down * math.ceil(frames / self.frames)


VISION = Vision()


def media_tokens(media: Iterable[Medium], vision: Vision = VISION) -> int:
    """Tokens of a prompt's media, those around each included.

    Raises:
        ValueError: if the processor refuses the shape of one.
    """
    return sum(AROUND + vision.tokens(medium) for medium in media)


def text_tokens(chat: Iterable[Mapping[str, str]]) -> int:
    """The most tokens that a prompt's text can take, by its UTF-8 bytes and with the chat template's.

    Args:
        chat: a row's prompt, ``{role, content}``; marks of media are not counted.
    """

    def size(text: str) -> int:
        return len(normalize("NFC", text).encode())  # as Qwen's tokenizer does, by which a few letters grow

    return _CHAT + sum(_TURN + size(message["role"]) + size(MARK.sub("", message["content"])) for message in chat)
