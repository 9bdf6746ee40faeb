"""verl's agent loop with one cut and one processor run a prompt, whatever the number of responses.

verl 0.9.1 fetches the media once a response and runs the processor about three times for each. Here the first of
a prompt's responses builds, its siblings wait for that one build, and it is dropped when the last one is done: the
memory is bounded by the prompts in flight. Media, token ids and features are those of verl's own calls, made once.
"""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Generic, TypeVar

import ray
import torch
from verl.experimental.agent_loop.agent_loop import register
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop
from verl.models.transformers.qwen2_vl import get_rope_index
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ

T = TypeVar("T")


class _Once(Generic[T]):
    """The result of an async call that is made by the first who asks and awaited by the others."""

    def __init__(self) -> None:
        self._task: asyncio.Task[T] | None = None

    async def __call__(self, make: Callable[[], Awaitable[T]]) -> T:
        if self._task is None:
            self._task = asyncio.ensure_future(_awaited(make))
        # Shielded: one cancelled sibling must not cancel the build of the others.
        return await asyncio.shield(self._task)


async def _awaited(make: Callable[[], Awaitable[T]]) -> T:
    return await make()


class SharedPrompt:
    """What the responses of one prompt have in common."""

    def __init__(self) -> None:
        self.media: _Once[dict[str, Any]] = _Once()
        self.tokens: _Once[list[int]] = _Once()
        self.features: dict[str, Any] = {}
        """The processor's output but for the token ids, filled by the run that makes ``tokens``."""
        self.failed = False


# A worker makes one asyncio task a prompt and, inside it, one a response; each inherits its parent's context.
_prompt: ContextVar[SharedPrompt] = ContextVar("jigsaw_shared_prompt")


@register("jigsaw")
class JigsawAgentLoop(SingleTurnAgentLoop):  # type: ignore[misc]
    """verl's single-turn loop, its media and its prompt tokens shared by the responses of a prompt."""

    async def process_multi_modal_info(self, messages: list[dict[str, Any]]) -> dict[str, Any]:
        """The prompt's media, cut once."""
        plain = super().process_multi_modal_info
        return await _prompt.get().media(lambda: plain(messages))

    async def ct_build_initial_tokens(
        self, messages: list[dict[str, Any]], *, mm_inputs_out: dict[str, Any], **media: Any
    ) -> list[int]:
        """The prompt's token ids, from one run of the processor."""
        shared, plain = _prompt.get(), super().ct_build_initial_tokens
        tokens = await shared.tokens(lambda: plain(messages, mm_inputs_out=shared.features, **media))
        mm_inputs_out.update(shared.features)
        return list(tokens)


# verl exports the worker as a Ray actor class, which cannot be subclassed; this is the class inside.
_Worker = AgentLoopWorkerTQ.__ray_metadata__.modified_class


class JigsawAgentLoopWorker(_Worker):  # type: ignore[misc, valid-type]
    """Runs the responses of a prompt on shared media and notes the prompts that failed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        positions_of_the_rollout(self.processor)

    async def _run_prompt(self, prompt: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        _prompt.set(SharedPrompt())
        await super()._run_prompt(prompt, *args, **kwargs)

    async def _run_agent_loop(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super()._run_agent_loop(*args, **kwargs)
        except Exception as error:  # verl turns any error into a failed group; here it is only written down
            self._note_failure(kwargs["extra_info"], error)
            raise

    def _note_failure(self, extra_info: dict[str, Any], error: Exception) -> None:
        shared = _prompt.get()
        if shared.failed:
            return
        shared.failed = True
        line = json.dumps({"id": extra_info["id"], "epoch": extra_info["epoch"], "reason": str(error)})
        path = failures_path(self.config)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(line + os.linesep)

    def _compute_multi_modal_inputs(self, output: Any, input_ids: torch.Tensor) -> dict[str, Any]:
        shared = _prompt.get()
        features = {name: value for name, value in shared.features.items() if name != "attention_mask"}
        grids = features.get("image_grid_thw")
        if grids is not None:  # as verl's own method does
            features["images_seqlens"] = torch.repeat_interleave(grids[:, 1] * grids[:, 2], grids[:, 0])
        return features


class JigsawAgentLoopManager(AgentLoopManagerTQ):  # type: ignore[misc]
    """verl's manager with :class:`JigsawAgentLoopWorker` as its workers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.agent_loop_workers_class = ray.remote(JigsawAgentLoopWorker)


def positions_of_the_rollout(processor: Any) -> None:
    """Have a processor of verl's place tokens as vLLM does, in time too.

    verl 0.9.1 takes the positions from transformers' model and never tells it how long frames last. transformers
    5.9.0 also cuts that time to whole seconds and lets the text behind a video begin before the video's last frame
    (modeling_qwen2_5_vl.py, ``get_rope_index``); vLLM, as Qwen's own code did, does neither. A rollout would then be
    trained on other positions than it was made with. For pictures all agree.
    """

    def time_of_frames(multi_modal_inputs: dict[str, Any]) -> dict[str, Any]:
        # Taken out: the positions are all that the model needs of it.
        return {"second_per_grid_ts": multi_modal_inputs.pop("second_per_grid_ts", None)}

    def place(
        input_ids: torch.Tensor, attention_mask: torch.Tensor, mm_token_type_ids: Any = None, **grids: Any
    ) -> tuple[torch.Tensor, None]:
        # verl's function looks behind every start of a picture, also one that a reply ends with.
        real = torch.isin(input_ids.roll(-1), pads) | (input_ids != start)
        ids = torch.where(real, input_ids, processor.tokenizer.eos_token_id)
        positions = get_rope_index(processor, ids[0], attention_mask=attention_mask[0], **grids)
        return (positions * attention_mask).unsqueeze(1), None

    pads = torch.tensor([processor.image_token_id, processor.video_token_id])
    start = processor.tokenizer.convert_tokens_to_ids("<|vision_start|>")
    processor.get_rope_index_kwargs = time_of_frames
    processor.get_rope_index = place


def failures_path(config: Any) -> Path:
    """The file that lists prompts whose group failed, one JSON object a line: ``id, epoch, reason``."""
    return Path(config.trainer.default_local_dir) / "failed_prompts.jsonl"
