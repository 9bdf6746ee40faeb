"""verl's agent loop with all that a prompt's responses have in common made and carried once.

verl 0.9.1 fetches the media once a response, runs the processor about three times for each, computes the positions
twice, and sends each response's media to vLLM and its features to the trainer. Here the first of a prompt's responses
builds, its siblings wait for that one build, and it is dropped when the last one is done: the memory is bounded by the
prompts in flight and those of the next step, which are built ahead. Media, token ids, positions and features are those
of verl's own calls, made once.
"""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence, Sized
from contextvars import Context, ContextVar
from copy import deepcopy
from functools import cached_property
from itertools import chain, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar
from uuid import uuid4

import ray
import torch
import transfer_queue as tq
from tensordict import TensorDict
from verl import DataProto
from verl.experimental.agent_loop.agent_loop import DictConfigWrap, register
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop
from verl.experimental.reward_loop.reward_loop import RewardLoopWorker
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ
from verl.utils.rollout_trace import rollout_trace_attr
from verl.utils.tensordict_utils import index_select_tensor_dict, list_of_dict_to_tensordict
from verl.utils.tokenizer.chat_template import apply_chat_template

from jigsaw.errors import JigsawError
from jigsaw.prompt_tokens import has_stamps, with_media
from jigsaw.response import parse
from jigsaw.verl_plugin.benchmarks import MARK, REPLY
from jigsaw.verl_plugin.dataset import JigsawDataset
from jigsaw.verl_plugin.difficulty import Schedule, item_at_level
from jigsaw.verl_plugin.features import encode, put, reference
from jigsaw.verl_plugin.patches import positions_of_the_rollout, responses_are_put_by
from jigsaw.verl_plugin.plans import POSITION
from jigsaw.verl_plugin.queue_watch import end_with_the_queue
from jigsaw.verl_plugin.seeds import reply_seed

T = TypeVar("T")
ANSWER = "answer"
"""Where among a reply's extra fields its answer is, as text: ``2, 1``; None where it has none."""
_RESTARTS = 20
"""Of a worker; one that dies in its start would else be started for ever."""


def _apart(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """A task that knows nothing of the prompt it is made for.

    A task keeps its context, and so does the reader of a socket that is opened in it: the queue's stay open, and
    would keep the prompt whose call opened them.
    """
    return asyncio.get_running_loop().create_task(work, context=Context())


class _Once(Generic[T]):
    """The result of an async call that is made by the first caller and awaited by the others."""

    def __init__(self) -> None:
        self._task: asyncio.Task[T] | None = None

    async def __call__(self, make: Callable[[], Awaitable[T]]) -> T:
        if self._task is None:
            self._task = _apart(_awaited(make))
        # Shielded: one cancelled sibling must not cancel the build of the others.
        return await asyncio.shield(self._task)


async def _awaited(make: Callable[[], Awaitable[T]]) -> T:
    return await make()


class SharedPrompt:
    """What the responses of one prompt have in common.

    Args:
        key: verl's name of the prompt; a prompt that is built ahead gets it when it comes.
        validate: whether it is one of a validation.
    """

    def __init__(self, key: str = "", validate: bool = False) -> None:
        self.key = key
        self.validate = validate
        self.media: _Once[dict[str, Any]] = _Once()
        self.tokens: _Once[list[int]] = _Once()
        self.carried: _Once[None] = _Once()
        self.sent: dict[str, ray.ObjectRef] = {}
        """The media in Ray's object store, by verl's name for the argument."""
        self.features: dict[str, Any] = {}
        """The processor's output as the trainer takes it, but for the pixels of a validation's prompt."""
        self.marked: list[int] = []
        """Token ids with a mark for each of the media, for a rollout that puts in more than the marks anew."""
        self.positions = torch.empty(4, 0, dtype=torch.int64)
        """Of the prompt's tokens, int64 (4, tokens); set with the tokens."""
        self.responses: list[dict[str, Any]] = []
        """What verl would put into the queue for each, once it is there."""
        self.failed = False


# A worker makes one asyncio task a prompt and, inside it, one a response; each inherits its parent's context.
_prompt: ContextVar[SharedPrompt] = ContextVar("jigsaw_shared_prompt")


class _SendOnce:
    """A client of the rollout's servers that sends a prompt's media once, and all its requests to one server.

    That server runs its processor and the prompt's prefill once: vLLM's caches keep both.
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    async def generate(self, request_id: str, **request: Any) -> Any:
        shared = _prompt.get()
        for name in ("image_data", "video_data"):
            if request.get(name) is not None:
                if name not in shared.sent:
                    shared.sent[name] = ray.put(request[name])
                request[name] = shared.sent[name]  # Ray hands the server what the reference stands for
        if shared.marked:
            request["prompt_ids"] = shared.marked
        # verl sends what has one id to one server; vLLM gets an id of its own for each request.
        return await self._client.generate(shared.key, **request)


class _Queue:
    """What the worker calls of verl's queue; a prompt's responses are put together, once all of them are there.

    A put asks the queue's processes four times, and the trainer takes a group as a whole. Of a group that failed
    nothing is put.

    Args:
        note_failure: is told a prompt's ``extra_info`` and the error where its responses cannot be put.
    """

    def __init__(self, note_failure: Callable[[dict[str, Any], Exception], None]) -> None:
        self._note_failure = note_failure

    async def async_kv_batch_put(self, **response: Any) -> None:
        """verl's call for each response."""
        _prompt.get().responses.append(response)

    async def async_kv_put(self, *, key: str, partition_id: str, tag: dict[str, Any]) -> None:
        """verl's call when a prompt's state changes."""
        if tag["status"] == "finished":
            responses = _prompt.get().responses
            keys, rows, tags = (
                list(chain.from_iterable(response[name] for response in responses))
                for name in ("keys", "fields", "tags")
            )
            try:
                fields = list_of_dict_to_tensordict(rows)
                await _apart(tq.async_kv_batch_put(keys=keys, fields=fields, tags=tags, partition_id=partition_id))
            except Exception as error:  # verl turns it into a failed group
                self._note_failure(rows[0]["extra_info"], error)
                raise
        await _apart(tq.async_kv_put(key=key, partition_id=partition_id, tag=tag))


@register("jigsaw")
class JigsawAgentLoop(SingleTurnAgentLoop):  # type: ignore[misc]
    """verl's single-turn loop, its media and its prompt tokens shared by the responses of a prompt."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.server_manager: Any = _SendOnce(self.server_manager)

    async def process_multi_modal_info(self, messages: list[dict[str, Any]]) -> dict[str, Any]:
        """The prompt's media, cut once."""
        plain = super().process_multi_modal_info
        return await _prompt.get().media(lambda: plain(messages))

    async def ct_build_initial_tokens(
        self, messages: list[dict[str, Any]], *, mm_inputs_out: dict[str, Any], **media: Any
    ) -> list[int]:
        """The prompt's token ids, from one run of the processor, whose features are kept for the trainer."""
        shared, plain = _prompt.get(), super().ct_build_initial_tokens

        async def build() -> list[int]:
            features: dict[str, Any] = {}
            tokens = await plain(messages, mm_inputs_out=features, **media)
            if media.get("videos") and has_stamps(self.processor):
                shared.marked = await self.loop.run_in_executor(None, self._marked, messages)
                metadata = [of_video for _, of_video in media["videos"]]
                tokens = with_media(shared.marked, features, metadata, self.processor)
            shared.features, shared.positions = await self.loop.run_in_executor(
                None, _for_trainer, features, tokens, self.processor, shared.validate
            )
            return list(tokens)

        return list(await shared.tokens(build))

    def _marked(self, messages: list[dict[str, Any]]) -> list[int]:
        """Token ids of the chat as it is before the media are put in, as verl's builder makes its text."""
        options = self.continuous_token_builder.chat_template_kwargs
        text = apply_chat_template(self.processor, messages, tokenize=False, add_generation_prompt=True, **options)
        return list(self.processor.tokenizer(text)["input_ids"])


def _reward_worker_here(config: Any) -> Any:
    """verl's reward worker in this process, called as its Ray actor is."""
    worker = RewardLoopWorker(config)

    async def compute_score(data: DataProto) -> dict[str, Any]:
        data.non_tensor_batch = deepcopy(data.non_tensor_batch)  # verl's reward managers write into it
        score: dict[str, Any] = await worker.compute_score(data)
        return score

    return SimpleNamespace(compute_score=SimpleNamespace(remote=compute_score))


# verl exports the worker as a Ray actor class, which cannot be subclassed; this is the class inside.
_Worker = AgentLoopWorkerTQ.__ray_metadata__.modified_class


class PlainAgentLoopWorker(_Worker):  # type: ignore[misc, valid-type]
    """verl's worker with the rollout's positions, which notes the prompts that failed; Ray starts one that died anew.

    With ``reward.num_workers=0`` it scores its responses itself.
    """

    reward_loop_worker_handles: list[Any] | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.reward_loop_worker_handles == []:
            self.reward_loop_worker_handles = [_reward_worker_here(self.config)]
        positions_of_the_rollout(self.processor)
        self._life = uuid4().hex
        # Of a benchmark's questions, as jigsaw eval has it: the checkpoint's. verl's rollout has none.
        self._penalty = getattr(self.model_config.generation_config, "repetition_penalty", None) or 1.0

    async def generate_sequences(self, batch: TensorDict) -> str:
        """verl's own; the name of the life that took the prompts."""
        await super().generate_sequences(batch)
        return self._life

    async def life(self) -> str:
        """Name of this one of the worker's lives."""
        return self._life

    @ray.method(max_task_retries=0)  # type: ignore[untyped-decorator]
    async def end_of_life(self) -> None:
        """Never returns: who asked is told by Ray when this process ends."""
        await asyncio.Event().wait()

    async def _run_prompt(
        self, prompt: dict[str, Any], sampling_params: Any, trajectory: dict[str, Any], **kwargs: Any
    ) -> None:
        _prompt.set(self._shared(prompt, trajectory["validate"]))
        await super()._run_prompt(prompt, sampling_params, trajectory, **kwargs)

    def _shared(self, prompt: dict[str, Any], validate: bool) -> SharedPrompt:
        return SharedPrompt(prompt["uid"], validate)

    async def _run_agent_loop(
        self, sampling_params: dict[str, Any], trajectory: dict[str, Any], *, session_id: int, **kwargs: Any
    ) -> Any:
        row = kwargs["extra_info"]
        try:
            seed = reply_seed(self.config.data.seed or 0, row["split"], row["id"], trajectory["step"], session_id)
            if MARK in row:
                sampling_params = {**sampling_params, "repetition_penalty": self._penalty}
            return await self._respond({**sampling_params, "seed": seed}, trajectory, session_id=session_id, **kwargs)
        except Exception as error:  # verl turns any error into a failed group; here it is only written down
            self._note_failure(row, error)
            raise

    async def _respond(self, *args: Any, **kwargs: Any) -> Any:
        return await super()._run_agent_loop(*args, **kwargs)

    async def _agent_loop_postprocess(self, output: Any, validate: bool, **kwargs: Any) -> None:
        """verl's own, of a reply whose answer is noted, so that it shows where all replies have one.

        A reply to a benchmark's question earns nothing; the trainer scores all of them together.
        """
        reply = self.tokenizer.decode(output.response_ids, skip_special_tokens=True)
        if (place := kwargs["extra_info"].get(MARK)) is not None:
            output.reward_score = 0.0
            output.extra_fields["reward_extra_info"] = {MARK: place, REPLY: reply}
        else:
            pieces, form = len(kwargs["reward_model"]["ground_truth"]), kwargs["extra_info"]["answer_format"]
            answer = parse(reply, pieces, form, strict=False).answer
            output.extra_fields[ANSWER] = None if answer is None else ", ".join(map(str, answer))
        await super()._agent_loop_postprocess(output, validate, **kwargs)

    def _note_failure(self, extra_info: dict[str, Any], error: Exception) -> None:
        shared = _prompt.get()
        if shared.failed:
            return
        shared.failed = True
        note_failure(self.config, extra_info, str(error))


class JigsawAgentLoopWorker(PlainAgentLoopWorker):
    """Runs the responses of a prompt on what they share, and builds prompts ahead."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        responses_are_put_by(_Queue(self._note_failure))
        self._ahead: dict[str, SharedPrompt] = {}
        """Prompts that are built, or being built, before they come, by their messages."""

    def _shared(self, prompt: dict[str, Any], validate: bool) -> SharedPrompt:
        shared = self._ahead.pop(_content(prompt["raw_prompt"]), None) or SharedPrompt()
        shared.key, shared.validate = prompt["uid"], validate
        return shared

    @ray.method(max_task_retries=0)  # type: ignore[untyped-decorator]
    async def build_ahead(self, prompts: list[list[dict[str, Any]]]) -> None:
        """Build prompts of these messages once those at hand are done; what was built before and did not come goes."""
        if self.background_tasks:
            await asyncio.wait(self.background_tasks)
        self._ahead = {_content(messages): SharedPrompt() for messages in prompts}
        builds = (self._build(messages, self._ahead[_content(messages)]) for messages in prompts)
        await asyncio.gather(*builds, return_exceptions=True)  # whoever needs it finds the error in it

    @cached_property
    def _loop(self) -> JigsawAgentLoop:
        """Made on first use: it wants the event loop that it will run on."""
        return JigsawAgentLoop(
            trainer_config=DictConfigWrap(self.config),
            server_manager=self.llm_client,
            tokenizer=self.tokenizer,
            processor=self.processor,
            dataset_cls=self.dataset_cls,
            data_config=DictConfigWrap(self.config.data),
            hf_model_type=self.hf_model_type,
        )

    async def _build(self, messages: list[dict[str, Any]], shared: SharedPrompt) -> None:
        _prompt.set(shared)
        given = await self._loop.process_multi_modal_info(messages)
        await self._loop.ct_build_initial_tokens(messages, mm_inputs_out={}, **given)

    async def _respond(
        self, sampling_params: Any, trajectory: dict[str, Any], *, agent_name: str, trace: bool, **kwargs: Any
    ) -> None:
        """verl's own on one loop for all responses; verl makes one anew for each, at about the cost of its run."""
        with rollout_trace_attr(trace=trace):  # verl's trainer v1 asks for none
            output = await self._loop.run(sampling_params, **kwargs)
            await self._agent_loop_postprocess(output, trajectory["validate"], **kwargs)

    async def _agent_loop_postprocess(self, output: Any, validate: bool, **kwargs: Any) -> None:
        """verl's own, once the prompt's features lie where the trainer reads them; validation needs none."""
        shared = _prompt.get()
        if not validate:
            await shared.carried(lambda: put(shared.key, shared.features))
        await super()._agent_loop_postprocess(output, validate, **kwargs)

    def _compute_multi_modal_inputs(self, output: Any, input_ids: torch.Tensor) -> dict[str, Any]:
        shared = _prompt.get()
        return {} if shared.validate else reference(shared.key)

    def _compute_position_ids(self, input_ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        """int64 (1, 4, tokens): the prompt's, and behind them a response's, one step a token."""
        prompt = _prompt.get().positions
        behind = torch.arange(1, input_ids.shape[1] - prompt.shape[1] + 1)
        vision = (prompt[1:].max() + behind).expand(3, -1)
        response = torch.cat([(prompt[0, -1] + behind)[None], vision])
        return torch.cat([prompt, response], dim=1)[None]


def _for_trainer(
    features: dict[str, Any], tokens: list[int], processor: Any, validate: bool
) -> tuple[dict[str, Any], torch.Tensor]:
    """A prompt's features and positions, made as verl makes them for each response."""
    features = {name: value for name, value in features.items() if name != "attention_mask"}
    grids = features.get("image_grid_thw")
    if grids is not None:
        features["images_seqlens"] = torch.repeat_interleave(grids[:, 1] * grids[:, 2], grids[:, 0])
    worker = SimpleNamespace(processor=processor)
    ids = torch.tensor(tokens)[None]
    positions = _Worker._compute_position_ids(worker, ids, torch.ones_like(ids), features)
    return {} if validate else encode(features, processor), positions[0]


class _Given(NamedTuple):
    """A prompt that a worker was given: the worker's number and life, and the prompt's place in a batch."""

    worker: int
    life: str
    batch: TensorDict
    row: int


class JigsawAgentLoopManager(AgentLoopManagerTQ):  # type: ignore[misc]
    """verl's manager with our workers.

    A worker may die: the machine is short of memory, a library crashes. verl's trainer would wait for its prompts for
    ever. Here Ray starts it anew, and :meth:`give_again` hands it what it had not finished.

    With ``rollout.agent.default_agent_loop=single_turn_agent`` in place of ``jigsaw`` each response takes verl's plain
    path: everything is made and carried anew for it, and is the same to the last bit.
    """

    running: ClassVar["JigsawAgentLoopManager | None"] = None
    """The one of this process, for the code that waits for prompts: verl hands it to nobody."""
    config: Any
    llm_client: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        shares = self.rollout_config.agent.default_agent_loop == "jigsaw"
        lives_again = ray.remote(max_restarts=_RESTARTS, max_task_retries=-1)
        self.agent_loop_workers_class = lives_again(JigsawAgentLoopWorker if shares else PlainAgentLoopWorker)
        self._step: tuple[int, bool] | None = None
        self._given: dict[str, _Given] = {}
        """By uid; of this step or validation."""
        self._given_again: set[str] = set()
        self._last_position = -1
        JigsawAgentLoopManager.running = self
        end_with_the_queue()
        self._schedule = Schedule(self.config.trainer.default_local_dir, self.config.data.difficulty)
        # Other modes roll out while they train anyway; dynamic sampling draws prompts that nobody can foresee.
        synchronous = self.config.trainer.v1.trainer_mode == "sync" and not self.config.algorithm.filter_groups.enable
        self._looks_ahead = shares and synchronous

    async def _init_agent_loop_workers(self) -> None:
        # Ray 2.60 forgets a constructor's large arguments, so that the actor cannot be started anew
        # (ray-project/ray#53727), unless they are references that are kept.
        config, client = self.config, self.llm_client
        self._arguments = ray.put(config), ray.put(client)
        self.config, self.llm_client = self._arguments
        await super()._init_agent_loop_workers()
        self.config, self.llm_client = config, client
        self._ends = [worker.end_of_life.remote() for worker in self.agent_loop_workers]
        """Each is ready once that life has ended."""

    def generate_sequences(self, prompts: TensorDict) -> None:
        """verl's own, for the puzzles of the level that the run has reached; those of the next step are built after."""
        extras = list(prompts["extra_info"])
        training = all(POSITION in extra for extra in extras)
        if training:
            positions = [extra[POSITION] for extra in extras]
            check_no_second_start([self._last_position, *positions], self._dataset)
            self._last_position = positions[-1]
        step = prompts["global_steps"], training
        if step != self._step:  # all prompts of the one before are done
            self._step = step
            self._given.clear()
            self._given_again.clear()
        self._give(enumerate(self._schedule.choose(prompts).chunk(len(self.agent_loop_workers))))
        if self._looks_ahead and training:
            following = self._following(max(positions) + 1, len(extras), prompts)
            for worker, chunk in zip(self.agent_loop_workers, following, strict=False):
                worker.build_ahead.remote(chunk)

    def _give(self, batches: Iterable[tuple[int, TensorDict]]) -> None:
        """Hand batches to workers of these numbers."""
        batches = list(batches)
        lives = ray.get([self.agent_loop_workers[number].generate_sequences.remote(batch) for number, batch in batches])
        for (number, batch), life in zip(batches, lives, strict=True):
            self._given.update({uid: _Given(number, life, batch, row) for row, uid in enumerate(list(batch["uid"]))})

    def give_again(self, partition_id: str, unfinished: Callable[[], Iterable[str]]) -> None:
        """Hand prompts whose worker died to its next life; one that loses its worker twice fails, and is noted.

        To be called now and then by the code that waits for them.

        Args:
            partition_id: verl's, of the prompts that are waited for.
            unfinished: tells their uids; called where a worker died.
        """
        ended, _ = ray.wait(self._ends, num_returns=len(self._ends), timeout=0)
        for end in ended:
            number = self._ends.index(end)
            worker = self.agent_loop_workers[number]
            self._ends[number] = worker.end_of_life.remote()
            life = ray.get(worker.life.remote())  # once it has begun
            lost = [
                uid
                for uid in unfinished()
                if uid in self._given and self._given[uid].worker == number and self._given[uid].life != life
            ]
            for uid in self._given_again.intersection(lost):
                batch, row = self._given.pop(uid)[2:]
                note_failure(self.config, list(batch["extra_info"])[row], "the worker of its rollout died, twice")
                tq.kv_put(key=uid, partition_id=partition_id, tag={"status": "failure"})
            again = [uid for uid in lost if uid not in self._given_again]
            self._given_again.update(again)
            self._give(
                (number, index_select_tensor_dict(self._given[uid].batch, [self._given[uid].row])) for uid in again
            )

    @property
    def uids(self) -> list[str]:
        """The prompts of this step or validation, in the order of the data."""
        return list(self._given)

    @property
    def _dataset(self) -> JigsawDataset:
        assert JigsawDataset.training is not None  # prompts to train on come from it
        return JigsawDataset.training

    def _following(self, begin: int, count: int, prompts: TensorDict) -> list[list[list[dict[str, Any]]]]:
        """The messages of the next prompts by worker, as verl deals prompts out; levels as they are now."""
        dataset, steps = self._dataset, self.config.trainer.total_training_steps
        end = len(dataset) if steps is None else steps * self.config.data.train_batch_size
        levels = self._schedule.levels(prompts["global_steps"])
        items = [dataset[index] for index in range(begin, min(begin + count, end))]
        messages = [item_at_level(item, levels)["raw_prompt"] for item in items]
        parts = torch.arange(count).chunk(len(self.agent_loop_workers))
        return [messages[part[0] : part[-1] + 1] for part in parts]


def check_no_second_start(positions: Sequence[int], dataset: Sized) -> None:
    """Raise JigsawError where prompts of these positions begin a dataset anew after its end.

    verl restarts a dataset that has ended, in silence; the orders of epoch 0 would come again.
    """
    for before, after in pairwise(positions):
        if before == len(dataset) - 1 and after <= before:
            raise JigsawError(
                f"the rows are used up: dynamic sampling has taken the {len(dataset)} prompts of all epochs; raise "
                "data.epochs (of a mixture, its sources' epochs) and start again, to resume from the last checkpoint"
            )


def _content(messages: list[dict[str, Any]]) -> str:
    return json.dumps(messages, sort_keys=True)


def failures_path(config: Any) -> Path:
    """The file that lists prompts whose group failed, one JSON object a line: ``id, epoch, reason``."""
    return Path(config.trainer.default_local_dir) / "failed_prompts.jsonl"


def note_failure(config: Any, extra_info: dict[str, Any], reason: str) -> None:
    """Add a prompt to that file."""
    line = json.dumps({"id": extra_info["id"], "epoch": extra_info["epoch"], "reason": reason})
    path = failures_path(config)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(line + os.linesep)
