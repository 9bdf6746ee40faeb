"""What a model is shown of a question: its text, its pictures, and frames of its films as the paper samples them."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from typing import Any

import torch
from PIL import Image, ImageFile
from qwen_vl_utils.vision_process import IMAGE_MAX_TOKEN_NUM, fetch_image, smart_nframes, smart_resize
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import resize

from jigsaw.errors import MediaError
from jigsaw.evaluation.shelf import Shelf
from jigsaw.media.video import Clip

LEAST_TOKENS, MOST_TOKENS = 128, 256
"""Of a frame of a film; each two frames share theirs."""

_KEPT = 8  # media that follow each other in questions are read once


@dataclass(frozen=True)
class Policy:
    """How media are shown.

    Attributes:
        max_frames: of a film.
        fps: frames a second, where that gives fewer.
        time_embedding: ``released``, each two frames last 1 s, as in the paper; or ``true``.
    """

    max_frames: int = 16
    fps: float = 2.0
    time_embedding: str = "released"


@dataclass(frozen=True, eq=False)
class Shown:
    """A question as it is shown.

    Attributes:
        text: by the chat template, one mark a medium.
        images: RGB, scaled.
        videos: of each film its frames, uint8 (T, C, H, W), scaled, and what says when they are.
    """

    text: str
    images: tuple[Image.Image, ...] = ()
    videos: tuple[tuple[torch.Tensor, dict[str, Any]], ...] = ()


@dataclass
class Seconds:
    """What was spent, in all threads together."""

    decoding: float = 0.0
    preparing: float = 0.0
    asking: float = 0.0
    lock: Lock = field(default_factory=Lock, repr=False)

    def add(self, what: str, since: float) -> None:
        """Add what has passed since a moment of ``time.perf_counter``."""
        with self.lock:
            setattr(self, what, getattr(self, what) + time.perf_counter() - since)


class Media:
    """Reads the media of questions, in any number of threads.

    Args:
        patch: pixels of a side of a vision patch.
        merge: patches of a side of a token.
        tokens: that the pictures of a question share, at most; the paper's.
    """

    def __init__(self, patch: int, merge: int, tokens: int = IMAGE_MAX_TOKEN_NUM) -> None:
        ImageFile.LOAD_TRUNCATED_IMAGES = False  # by lmms-eval, half a picture would be shown as a whole one
        self._patch, self._factor, self._tokens = patch, patch * merge, tokens
        self._shelf = Shelf(_KEPT)
        self.seconds = Seconds()

    def __call__(
        self, messages: Sequence[Mapping[str, Any]], policy: Policy
    ) -> tuple[tuple[Image.Image, ...], tuple[Clip, ...]]:
        """A question's pictures, RGB, and frames of its films, both scaled.

        Args:
            messages: of chat; a medium is a path, a picture or, ``as_is``, a clip. What is ``as_is`` is not scaled.
            policy: of its media.

        Raises:
            MediaError: if a medium cannot be read.
        """
        parts = [part for message in messages for part in message["content"]]
        pictures = [part for part in parts if part["type"] == "image"]
        most = round(self._tokens * self._factor**2 / max(len(pictures), 1))
        return (
            tuple(part["url"] if part.get("as_is") else self._picture(part["url"], most) for part in pictures),
            tuple(
                part["url"]
                if part.get("as_is")
                else self._shelf.get((part["url"], policy), partial(self._clip, part["url"], policy))
                for part in parts
                if part["type"] == "video"
            ),
        )

    def forget(self) -> None:
        """Drop the media that are kept."""
        self._shelf = Shelf(_KEPT)

    def _picture(self, picture: Any, max_pixels: int) -> Image.Image:
        if isinstance(picture, Image.Image):
            return self._scaled(picture, max_pixels)

        def read() -> Image.Image:
            try:
                with Image.open(picture) as opened:
                    return self._scaled(opened, max_pixels)
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                raise MediaError(picture, f"cannot be read as a picture ({error}); replace it") from error

        shown: Image.Image = self._shelf.get((picture, max_pixels), read)
        return shown

    def _scaled(self, picture: Image.Image, max_pixels: int) -> Image.Image:
        begin = time.perf_counter()
        picture = picture.convert("RGB")
        self.seconds.add("decoding", begin)
        begin = time.perf_counter()
        scaled: Image.Image = fetch_image({"image": picture, "max_pixels": max_pixels}, image_patch_size=self._patch)
        self.seconds.add("preparing", begin)
        return scaled

    def _clip(self, film: str, policy: Policy) -> Clip:
        """Frames of a film as qwen-vl-utils samples and scales them, decoded by decord."""
        from decord import DECORDError, VideoReader

        begin = time.perf_counter()
        try:
            reader = VideoReader(film, num_threads=1)  # films are read beside each other
            total, rate = len(reader), reader.get_avg_fps()
            count = smart_nframes({"fps": policy.fps, "max_frames": policy.max_frames}, total, rate)
            indices = torch.linspace(0, total - 1, count).round().long().tolist()
            frames = torch.from_numpy(reader.get_batch(indices).asnumpy()).permute(0, 3, 1, 2)
        except (DECORDError, RuntimeError, ValueError) as error:
            said = str(error).strip().splitlines()[-1:] or [type(error).__name__]
            raise MediaError(film, f"cannot be read as a film ({said[0]}); replace it") from error
        self.seconds.add("decoding", begin)
        begin = time.perf_counter()
        tokens = self._factor**2
        size = smart_resize(*frames.shape[2:], self._factor, LEAST_TOKENS * tokens, MOST_TOKENS * tokens)
        scaled = [resize(frame, list(size), InterpolationMode.BICUBIC, antialias=True) for frame in frames]
        clip = Clip(torch.stack(scaled), tuple(indices), count / total * rate)
        self.seconds.add("preparing", begin)
        return clip


class Show:
    """Makes of chat messages what a model is shown.

    Args:
        processor: Qwen2.5-VL's or Qwen3-VL's.
    """

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self.media = Media(processor.image_processor.patch_size, processor.image_processor.merge_size)

    def __call__(self, messages: Sequence[Mapping[str, Any]], policy: Policy) -> Shown:
        """What is shown of a question; see :class:`Media`.

        Raises:
            MediaError: if a medium cannot be read.
        """
        pictures, clips = self.media(messages, policy)
        return Shown(
            self._processor.apply_chat_template(_marked(messages), tokenize=False, add_generation_prompt=True),
            pictures,
            tuple((clip.frames, clip.metadata(policy.time_embedding)) for clip in clips),
        )


def _marked(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages as chat templates take them: a mark in place of each medium."""
    return [
        {
            "role": message["role"],
            "content": [part if part["type"] == "text" else {"type": part["type"]} for part in message["content"]],
        }
        for message in messages
    ]
