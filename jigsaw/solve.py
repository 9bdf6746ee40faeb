"""Puzzles asked of a model: by plain transformers, or of a server that speaks OpenAI's protocol, such as vLLM's."""

import json
import os
import time
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from PIL import Image

from jigsaw import machine
from jigsaw.errors import JigsawError
from jigsaw.hub import NAME
from jigsaw.media.image import encoded, greyed
from jigsaw.prepare.images import ImageOptions
from jigsaw.prepare.pipeline import Options
from jigsaw.prepare.scenes import DepthOptions
from jigsaw.prepare.videos import VideoOptions
from jigsaw.puzzle import CutOptions, Message, Plan, Puzzle
from jigsaw.reward import compute_score
from jigsaw.rows import AnswerFormat
from jigsaw.tasks import cut

if TYPE_CHECKING:
    import httpx

GREEDY = {"do_sample": False}
SAMPLED = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
"""As verl's rollout draws."""
_LARGEST_REPLY = 2**22
_SHOWN = 200


CUT_INTO = {"image": "grid", "video": "clips", "depth": "points"}
"""What says how a task's source is cut, by its name in :func:`options_of`."""


def options_of(
    task: str,
    *,
    grid: tuple[int, int] = ImageOptions.grid,
    clips: int = VideoOptions.clips,
    points: int = DepthOptions.points,
    answer_format: AnswerFormat = "answer_tag",
    seed: int = 0,
) -> Options:
    """How rows are made of a file of one's own: whatever its size, one puzzle of it.

    Args:
        task: ``image``, ``video`` or ``depth``.
        grid: (rows, columns) of a picture's tiles.
        clips: of a video.
        points: of a scene's frame.
        answer_format: in which the prompt asks for the answer.
        seed: of what is drawn while rows are made.
    """
    if task == "image":
        return ImageOptions(grid=grid, answer_format=answer_format, seed=seed, min_side=1)
    if task == "video":
        return VideoOptions(clips=clips, answer_format=answer_format, seed=seed, min_seconds=0)
    return DepthOptions(points=points, answer_format=answer_format, seed=seed, samples_per_scene=1)


def solve(
    model: Any,
    processor: Any,
    plans: Sequence[Plan],
    media_root: str | os.PathLike[str],
    *,
    grey: bool = False,
    sample: bool = False,
    max_new_tokens: int = 64,
    batch_size: int = 32,
) -> list[str]:
    """The model's replies to puzzles; the pixels of one batch at a time are in memory.

    Args:
        model: a Hugging Face image-text-to-text model.
        processor: its processor.
        plans: the puzzles.
        media_root: folder of their media.
        grey: whether all pictures and clips are shown as one grey: nothing left to see, all else equal.
        sample: whether to draw the replies at temperature 1, as a rollout does, by torch's global seed; else greedily.
        max_new_tokens: longest reply.
        batch_size: puzzles at once.
    """
    options = _cut_options(processor)
    replies: list[str] = []
    for start in range(0, len(plans), batch_size):
        puzzles = [cut(planned, media_root, options) for planned in plans[start : start + batch_size]]
        replies += _replies(model, processor, puzzles, grey=grey, sample=sample, max_new_tokens=max_new_tokens)
    return replies


def _cut_options(processor: Any) -> CutOptions:
    maker = processor.image_processor
    return CutOptions(factor=maker.patch_size * maker.merge_size)


def _replies(
    model: Any, processor: Any, puzzles: Sequence[Puzzle], *, grey: bool, sample: bool, max_new_tokens: int
) -> list[str]:
    """The model's replies to one batch."""
    import torch

    processor.tokenizer.padding_side = "left"
    media = [without_content(item) if grey else item for puzzle in puzzles for item in puzzle.media]
    inputs = processor(
        text=[
            processor.apply_chat_template(puzzle.messages, add_generation_prompt=True, tokenize=False)
            for puzzle in puzzles
        ],
        padding=True,
        return_tensors="pt",
        **shown(media),
    ).to(model.device)
    with torch.inference_mode():
        output = model.generate(
            **inputs,
            max_new_tokens=max_new_tokens,
            # verl's rollout never draws these, nor could a picture be put in their place.
            suppress_tokens=[model.config.image_token_id, model.config.video_token_id],
            **(SAMPLED if sample else GREEDY),
        )
    replies: list[str] = processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return replies


def shown(media: Sequence[Any]) -> dict[str, Any]:
    """How a processor is handed pictures and clips, whose frames are chosen and scaled already."""
    images = [item for item in media if isinstance(item, Image.Image)]
    clips = [item for item in media if not isinstance(item, Image.Image)]
    found: dict[str, Any] = {"images": images} if images else {}
    if clips:
        times = [clip.metadata() for clip in clips]
        found |= {"videos": [clip.frames for clip in clips], "video_metadata": times, "do_sample_frames": False}
    return found


def without_content(piece: Any) -> Any:
    """A picture, or a clip, of its size in one grey."""
    if isinstance(piece, Image.Image):
        return greyed(piece)
    return replace(piece, frames=piece.frames.new_full(piece.frames.shape, 128))


def scores_of(plans: Sequence[Plan], replies: Sequence[str]) -> list[dict[str, float]]:
    """The reward's metrics (:func:`jigsaw.reward.compute_score`) of each reply."""
    return [
        compute_score(f"visual_jigsaw_{planned.task}", reply, planned.answer, planned.extra_info)
        for planned, reply in zip(plans, replies, strict=True)
    ]


class Model(Protocol):
    """Who can be asked."""

    @property
    def options(self) -> CutOptions:
        """How its puzzles are cut."""

    def get_ready(self) -> None:
        """Do what takes long once.

        Raises:
            JigsawError: if it cannot be asked.
        """

    def ask(self, puzzle: Puzzle, *, max_new_tokens: int) -> str:
        """Its reply to a puzzle, greedily drawn.

        Raises:
            JigsawError: if there is none.
        """


class LocalModel:
    """A model that transformers runs here, loaded when it is first needed; on the GPU if there is one.

    Args:
        name: its folder, or its name on the hub.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        if not Path(self._name).exists() and not NAME.fullmatch(self._name):
            raise JigsawError(f"{self._name}: is no folder here, and no name on the hub, OWNER/NAME")
        try:
            import torch
            from transformers import AutoModelForImageTextToText, AutoProcessor
            from transformers.utils import logging
        except ModuleNotFoundError as error:
            raise JigsawError(f"{error.name} is not installed; to ask a model here: {machine.SETUP}") from error
        from jigsaw.prompt_tokens import place_as_vllm

        logging.disable_progress_bar()
        try:
            processor = AutoProcessor.from_pretrained(self._name)
            model = AutoModelForImageTextToText.from_pretrained(self._name, dtype="auto")
        except (OSError, ValueError, KeyError) as error:
            raise JigsawError(f"{self._name}: cannot be loaded ({' '.join(str(error).split())[:_SHOWN]})") from error
        place_as_vllm(model)
        return model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), processor

    @property
    def options(self) -> CutOptions:
        """Frames of a multiple of its tokens' size.

        Raises:
            JigsawError: if it cannot be loaded.
        """
        return _cut_options(self._loaded[1])

    def get_ready(self) -> None:
        """Load it.

        Raises:
            JigsawError: if it cannot be loaded.
        """
        _ = self._loaded

    def ask(self, puzzle: Puzzle, *, max_new_tokens: int) -> str:
        """Its reply to a puzzle, greedily drawn.

        Raises:
            JigsawError: if it cannot be loaded.
        """
        return _replies(*self._loaded, [puzzle], grey=False, sample=False, max_new_tokens=max_new_tokens)[0]


@dataclass(frozen=True)
class Endpoint:
    """A server that speaks OpenAI's protocol for chats, as ``vllm serve`` does.

    Pictures go there as PNG. A clip goes as its frames, without their time: the server places them as it likes.

    Attributes:
        url: address, such as ``http://localhost:8000/v1``.
        model: name of the model there; the first that the server lists if empty.
        seconds: that an answer may take in all.
        key: that the server asks for, if it does.
    """

    url: str
    model: str = ""
    seconds: float = 300.0
    key: str | None = None

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise JigsawError(f"{self.url}: is no address of a server; it must be like http://localhost:8000/v1")

    @property
    def options(self) -> CutOptions:
        """As for Qwen2.5-VL: a server does not tell how large its model's tokens are."""
        return CutOptions()

    def get_ready(self) -> None:
        """Ask the server for its models.

        Raises:
            JigsawError: see :meth:`ask`.
        """
        self._first_model()

    def ask(self, puzzle: Puzzle, *, max_new_tokens: int) -> str:
        """The model's reply to a puzzle, greedily drawn.

        Raises:
            JigsawError: if the server cannot be reached, refuses, answers something else, more than a reply can be, or
                takes too long.
        """
        asked = {
            "model": self.model or self._first_model(),
            "messages": chat_messages(puzzle),
            "temperature": 0,
            "max_tokens": max_new_tokens,
        }
        answer = self._ask("POST", "chat/completions", asked)
        try:
            reply = answer["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError) as error:
            raise self._wrong(f"answers {json.dumps(answer)[:_SHOWN]}, which holds no reply") from error
        if not isinstance(reply, str):
            raise self._wrong(f"answers {reply!r:.{_SHOWN}} in place of a reply")
        return reply

    def _first_model(self) -> str:
        answer = self._ask("GET", "models")
        try:
            return str(answer["data"][0]["id"])
        except (KeyError, IndexError, TypeError) as error:
            raise self._wrong(f"answers {json.dumps(answer)[:_SHOWN]} when asked for its models") from error

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        import httpx

        end = time.monotonic() + self.seconds
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        try:
            with (
                httpx.Client(timeout=self.seconds, headers=headers) as client,
                client.stream(method, f"{self.url.rstrip('/')}/{path}", json=body) as response,
            ):
                text = b"".join(self._until(end, response))
                if response.is_error:
                    said = text.decode(errors="replace")[:_SHOWN]
                    raise self._wrong(f"answers {response.status_code} {' '.join(said.split())}")
                return json.loads(text)
        except httpx.TimeoutException as error:
            raise self._late() from error
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            why = " ".join(str(error).split()) or type(error).__name__
            raise self._wrong(f"cannot be asked ({why[:_SHOWN]})") from error

    def _until(self, end: float, response: "httpx.Response") -> Iterator[bytes]:
        """What comes of an answer, which may not go on for ever."""
        size = 0
        for part in response.iter_bytes():
            size += len(part)
            if size > _LARGEST_REPLY:
                raise self._wrong(f"answers more than {_LARGEST_REPLY >> 20} MiB, which is no reply")
            if time.monotonic() > end:
                raise self._late()
            yield part

    def _late(self) -> JigsawError:
        return self._wrong(f"has not answered within {self.seconds:g} s")

    def _wrong(self, what: str) -> JigsawError:
        return JigsawError(f"{self.url}: {what}; is it the address of an OpenAI-compatible server, /v1 at its end?")


def chat_messages(puzzle: Puzzle) -> list[dict[str, Any]]:
    """A puzzle's messages as OpenAI's protocol for chats has them, its media inside.

    A picture is an ``image_url``. A clip is a ``video_url``, which vLLM knows: its frames, one behind the other.
    """
    return [{"role": message["role"], "content": _content(message)} for message in puzzle.messages]


def _content(message: Message) -> list[dict[str, Any]]:
    content = []
    for item in message["content"]:
        if item["type"] == "text":
            content.append(item)
        elif item["type"] == "image":
            url = f"data:image/png;base64,{_png(item['image'])}"
            content.append({"type": "image_url", "image_url": {"url": url}})
        else:
            frames = ",".join(map(_png, item["video"].pictures()))
            url = f"data:video/jpeg;base64,{frames}"  # vLLM's name for a list of pictures
            content.append({"type": "video_url", "video_url": {"url": url}})
    return content


def _png(image: Image.Image) -> str:
    return b64encode(encoded(image, "png", compress_level=1)).decode()
