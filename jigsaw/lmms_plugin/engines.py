"""Who answers: transformers, or vLLM. Both see the same tokens and pixels."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, Protocol, Self, TypeVar

import torch

from jigsaw.errors import JigsawError
from jigsaw.evaluation.shown import Policy, Seconds, Show, Shown
from jigsaw.prompt_tokens import has_stamps, place_as_vllm, with_media

Item = TypeVar("Item")
Made = TypeVar("Made")

FAMILIES = ("qwen2_5_vl", "qwen3_vl")
MOST_IMAGES, MOST_CLIPS = 32, 4
"""Of a question: ViewSpatial's and CVBench's."""
MOST_TOKENS = 32_768
"""Of prompt and reply, where the model has room for more: 16,384 of pictures, and text."""
MOST_AT_ONCE = 64
"""Questions in vLLM at a time; more would only hold memory."""


@dataclass(frozen=True)
class Generation:
    """How a reply is drawn."""

    max_new_tokens: int = 1024
    temperature: float = 0.0
    top_p: float = 1.0


@dataclass(frozen=True)
class Asked:
    """A question before it is prepared.

    Attributes:
        messages: gives lmms-eval's; called when they are needed, for they may hold pictures.
        policy: of its media.
        generation: of its reply.
    """

    messages: Callable[[], Sequence[Any]]
    policy: Policy
    generation: Generation


@dataclass(frozen=True)
class Reply:
    """What came back.

    Attributes:
        text: without special tokens.
        tokens: of the reply.
        prompt: token ids that the model saw.
    """

    text: str
    tokens: int
    prompt: tuple[int, ...]


class Engine(Protocol):
    """A model that answers."""

    seconds: Seconds

    def ask(self, questions: Sequence[Asked]) -> Iterator[tuple[int, Reply]]:
        """Replies as they come, each with the place of its question.

        Raises:
            MediaError: if a medium cannot be read.
        """

    def forget(self) -> None:
        """Drop what is kept of questions that were asked, so that they cost what they cost at first."""


def workers() -> int:
    """Threads that read and prepare media."""
    return min(8, max(2, os.cpu_count() or 1))


class Transformers:
    """Answers by ``generate``, question after question or by the batch, while threads prepare what comes next.

    Args:
        name: of the model, a folder or on the hub.
        batch_size: questions at once.
        attn_implementation: as transformers takes it.
    """

    def __init__(self, name: str, *, batch_size: int, attn_implementation: str) -> None:
        from transformers import AutoModelForImageTextToText

        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
        self._device = torch.device(device)
        self._processor = load_processor(name)
        self._model = (
            AutoModelForImageTextToText.from_pretrained(
                name, dtype=dtype_of(name), attn_implementation=attn_implementation
            )
            .to(self._device)
            .eval()
        )
        place_as_vllm(self._model)
        self._show = Show(self._processor)
        self._batch_size = batch_size
        self.seconds = self._show.media.seconds

    def ask(self, questions: Sequence[Asked]) -> Iterator[tuple[int, Reply]]:
        """See :class:`Engine`."""
        batches = [
            range(begin, min(begin + self._batch_size, len(questions)))
            for begin in range(0, len(questions), self._batch_size)
        ]
        with Ahead(lambda places: self._prepared([questions[place] for place in places]), batches) as prepared:
            while prepared:
                places, inputs = prepared.take()
                yield from zip(places, self._replies(inputs, questions[places[0]].generation), strict=True)

    def forget(self) -> None:
        """See :class:`Engine`."""
        self._show.media.forget()

    def _prepared(self, questions: Sequence[Asked]) -> dict[str, Any]:
        shown = [self._show(question.messages(), question.policy) for question in questions]
        begin = time.perf_counter()
        features = features_of(self._processor, shown)
        self.seconds.add("preparing", begin)
        return features

    def _replies(self, inputs: dict[str, Any], generation: Generation) -> list[Reply]:
        begin = time.perf_counter()
        drawn = {"do_sample": True, "temperature": generation.temperature, "top_p": generation.top_p, "top_k": 0}
        greedy = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        ids = inputs["input_ids"]
        with torch.inference_mode():
            output = self._model.generate(
                **{name: value.to(self._device) for name, value in inputs.items()},
                max_new_tokens=generation.max_new_tokens,
                **(drawn if generation.temperature else greedy),
            )
        said = output[:, ids.shape[1] :].cpu()
        texts = self._processor.batch_decode(said, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        pad = self._processor.tokenizer.pad_token_id
        self.seconds.add("asking", begin)
        return [
            Reply(text, int((tokens != pad).sum()), tuple(prompt[mask.bool()].tolist()))
            for text, tokens, prompt, mask in zip(texts, said, ids, inputs["attention_mask"], strict=True)
        ]


class Ahead(Generic[Item, Made]):
    """Items with what ``prepare`` makes of them, in order; threads work a little ahead of who takes them.

    Args:
        prepare: called in threads.
        items: what is prepared.
    """

    def __init__(self, prepare: Callable[[Item], Made], items: Iterable[Item]) -> None:
        self._prepare = prepare
        self._rest = iter(items)
        self._waiting: deque[tuple[Item, Future[Made]]] = deque()
        self._count = workers()
        self._pool = ThreadPoolExecutor(self._count, thread_name_prefix="prepare")

    def __enter__(self) -> Self:
        self._fill()
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _fill(self) -> None:
        for item in islice(self._rest, 2 * self._count - len(self._waiting)):
            self._waiting.append((item, self._pool.submit(self._prepare, item)))

    def __bool__(self) -> bool:
        """Whether there is more to take."""
        return bool(self._waiting)

    @property
    def is_ready(self) -> bool:
        """Whether the next can be taken at once."""
        return bool(self._waiting) and self._waiting[0][1].done()

    def take(self) -> tuple[Item, Made]:
        """The next one; waits for it.

        Raises:
            Exception: what ``prepare`` raised.
        """
        item, future = self._waiting.popleft()
        self._fill()
        return item, future.result()


def dtype_of(name: str) -> str:
    """Number type in which a model is asked: as in the paper on a GPU, the checkpoint's own without one."""
    from transformers import AutoConfig

    if torch.cuda.is_available():
        return "bfloat16"
    return str(AutoConfig.from_pretrained(name).dtype or torch.float32).removeprefix("torch.")


def longest(name: str) -> int:
    """Tokens that a model has positions for."""
    from transformers import AutoConfig

    return int(AutoConfig.from_pretrained(name).get_text_config().max_position_embeddings)


def load_processor(name: str) -> Any:
    """The processor of a model.

    Raises:
        JigsawError: if it is of another family than those that are asked here, or cannot be loaded.
    """
    from transformers import AutoConfig, AutoProcessor

    try:
        family = AutoConfig.from_pretrained(name).model_type
        if family not in FAMILIES:
            raise JigsawError(f"{name}: is a {family}; vj_qwen_vl asks {' and '.join(FAMILIES)}")
        return AutoProcessor.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        raise JigsawError(f"{name}: cannot be loaded ({' '.join(str(error).split())[:200]})") from error


def features_of(processor: Any, shown: Sequence[Shown]) -> dict[str, torch.Tensor]:
    """What transformers' model takes of a batch, padded on the left."""
    found: dict[str, Any] = {}
    if images := [image for each in shown for image in each.images]:
        found |= dict(processor.image_processor(images=images, return_tensors="pt"))
    videos = [video for each in shown for video in each.videos]
    if videos:
        frames, told = zip(*videos, strict=True)
        of_videos = processor.video_processor(
            videos=list(frames), video_metadata=list(told), do_sample_frames=False, return_tensors="pt"
        )
        found |= {name: of_videos[name] for name in ("pixel_values_videos", "video_grid_thw")}
        if not has_stamps(processor):
            each = processor.video_processor.temporal_patch_size
            found["second_per_grid_ts"] = torch.tensor([each / metadata["fps"] for metadata in told])
    grids: dict[str, Iterable[torch.Tensor]] = {
        name: iter(found[name]) for name in ("image_grid_thw", "video_grid_thw") if name in found
    }
    rows = []
    for each in shown:
        ids = processor.tokenizer(each.text)["input_ids"]
        rows.append(with_media(ids, grids, [metadata for _, metadata in each.videos], processor))
    padded = processor.tokenizer.pad({"input_ids": rows}, padding_side="left", return_tensors="pt")
    ids = padded["input_ids"]
    kinds = (ids == processor.image_token_id).int() + 2 * (ids == processor.video_token_id).int()
    return {**found, "input_ids": ids, "attention_mask": padded["attention_mask"], "mm_token_type_ids": kinds}


class Vllm:
    """Answers by vLLM, many questions at a time: while some are answered, others are prepared.

    Args:
        name: of the model, a folder or on the hub.
        options: of vLLM's ``EngineArgs``.
    """

    def __init__(self, name: str, **options: Any) -> None:
        self._processor = load_processor(name)
        self._show = Show(self._processor)
        self.seconds = self._show.media.seconds
        from transformers import GenerationConfig
        from vllm import EngineArgs, LLMEngine

        # As transformers takes it from the checkpoint: Qwen2.5-VL's says 1.05.
        try:
            self._penalty = GenerationConfig.from_pretrained(name).repetition_penalty or 1.0
        except OSError:  # the checkpoint has none
            self._penalty = 1.0
        if not torch.cuda.is_available():  # processes would only hand pixels about, and spin on the cores
            os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
            options.setdefault("distributed_executor_backend", "uni")
            options.setdefault("enforce_eager", True)  # compiling takes longer than it saves
        if options.get("max_model_len") is None:
            options["max_model_len"] = min(MOST_TOKENS, longest(name))
        self._engine = LLMEngine.from_engine_args(
            EngineArgs(
                model=name,
                dtype=dtype_of(name),
                limit_mm_per_prompt={"image": MOST_IMAGES, "video": MOST_CLIPS},
                disable_log_stats=True,
                **options,
            )
        )

    def ask(self, questions: Sequence[Asked]) -> Iterator[tuple[int, Reply]]:
        """See :class:`Engine`."""
        engine, begin = self._engine, time.perf_counter()

        def shown(place: int) -> Shown:
            return self._show(questions[place].messages(), questions[place].policy)

        with Ahead(shown, range(len(questions))) as prepared:
            while prepared or engine.has_unfinished_requests():
                has_room = engine.get_num_unfinished_requests() < MOST_AT_ONCE
                if (prepared.is_ready and has_room) or not engine.has_unfinished_requests():
                    place, made = prepared.take()
                    self._add(place, made, questions[place].generation)
                else:
                    yield from self._answered()
        self.seconds.add("asking", begin)

    def forget(self) -> None:
        """See :class:`Engine`."""
        self._show.media.forget()
        self._engine.reset_mm_cache()
        self._engine.reset_prefix_cache()

    def _add(self, place: int, shown: Shown, generation: Generation) -> None:
        from vllm import SamplingParams

        begin = time.perf_counter()
        media: dict[str, Any] = {}
        if shown.images:
            media["image"] = list(shown.images)
        if shown.videos:
            media["video"] = [(frames.numpy(), told) for frames, told in shown.videos]
        prompt = {"prompt_token_ids": self._processor.tokenizer(shown.text)["input_ids"], "multi_modal_data": media}
        params = SamplingParams(
            max_tokens=generation.max_new_tokens,
            temperature=generation.temperature,
            top_p=generation.top_p,
            repetition_penalty=self._penalty,
            seed=place if generation.temperature else None,
            detokenize=False,  # its text leaves out what is no whole character yet
        )
        self._engine.add_request(str(place), prompt, params)
        self.seconds.add("preparing", begin)

    def _answered(self) -> Iterator[tuple[int, Reply]]:
        for output in self._engine.step():
            if output.finished:
                said = list(output.outputs[0].token_ids)
                text = self._processor.decode(said, skip_special_tokens=True, clean_up_tokenization_spaces=False)
                yield int(output.request_id), Reply(text, len(said), tuple(output.prompt_token_ids))
