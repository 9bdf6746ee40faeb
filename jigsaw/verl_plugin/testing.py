"""verl without a model: prompts through its agent-loop workers with a given reply for vLLM's."""

import itertools
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import ray
import torch
import transfer_queue as tq
from omegaconf import DictConfig, open_dict
from PIL import Image
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from tensordict import TensorDict
from tensordict.tensorclass import NonTensorStack
from transfer_queue import KVBatchMeta
from verl.experimental.reward_loop.reward_loop import RewardLoopWorker
from verl.utils import tensordict_utils, transferqueue_utils
from verl.utils.dataset.rl_dataset import collate_fn
from verl.utils.import_utils import load_class_from_fqn
from verl.workers.rollout.llm_server import LLMServerClient
from verl.workers.rollout.replica import TokenOutput
from verl.workers.rollout.router import GlobalRequestLoadBalancer

from jigsaw.cutter import Cutter
from jigsaw.errors import JigsawError
from jigsaw.verl_plugin.features import FIELD
from jigsaw.verl_plugin.launch import compose_config as compose_config

_LIMIT_S = 600


class ReplyServer:
    """Answers every prompt with the same tokens, as a vLLM server would; keeps what it was asked."""

    def __init__(self, reply: Sequence[int]) -> None:
        self._reply = list(reply)
        self._requests: list[dict[str, Any]] = []

    async def generate(self, **request: Any) -> TokenOutput:
        """verl's call of a server."""
        self._requests.append(request)
        return TokenOutput(token_ids=self._reply, log_probs=[-0.5] * len(self._reply), extra_fields={"global_steps": 0})

    def requests(self) -> list[dict[str, Any]]:
        """What it was asked since the last call of this."""
        asked, self._requests = self._requests, []
        return asked


class Rollout:
    """Workers that roll prompts out; made by :meth:`Stack.rollout`."""

    def __init__(self, manager: Any, poll_interval: float) -> None:
        self.workers: list[Any] = manager.agent_loop_workers
        self._manager = manager
        self._poll_interval = poll_interval
        ray.get([worker.__ray_call__.remote(_count_work) for worker in self.workers])

    def run(self, items: Sequence[dict[str, Any]], *, n: int, validate: bool = False) -> KVBatchMeta:
        """Roll items of a dataset out, n responses each; where the trainer finds them, by prompt and response.

        Raises:
            JigsawError: if a prompt failed; the others' responses are in the queue.
        """
        partition = "val" if validate else "train"
        batch = collate_fn(list(items))
        batch["uid"] = np.array([str(uuid.uuid4()) for _ in items], dtype=object)
        batch["__rollout_n__"] = np.array([n] * len(items), dtype=object)
        prompts = tensordict_utils.get_tensordict(batch)
        tensordict_utils.assign_non_tensor_data(prompts, "global_steps", 0)
        tensordict_utils.assign_non_tensor_data(prompts, "validate", validate)
        keys = list(batch["uid"])
        tags = [{"is_prompt": True, "status": "pending", "global_steps": 0} for _ in keys]
        tq.kv_batch_put(keys=keys, partition_id=partition, tags=tags)
        self._manager.generate_sequences(prompts)
        listed = self._wait_for(keys, partition)
        tq.kv_clear(keys=keys, partition_id=partition)
        responses = [f"{key}_{number}_0" for key in keys for number in range(n)]
        return KVBatchMeta(partition_id=partition, keys=responses, tags=[listed[key] for key in responses])

    def _wait_for(self, keys: Sequence[str], partition: str) -> dict[str, dict[str, Any]]:
        def list_queue() -> dict[str, dict[str, Any]]:
            return dict((tq.kv_list(partition) or {}).get(partition, {}))

        def unfinished() -> list[str]:
            listed = list_queue()
            return [key for key in keys if listed[key]["status"] not in ("finished", "failure")]

        end = time.monotonic() + _LIMIT_S
        while time.monotonic() < end:
            if not unfinished():
                listed = list_queue()
                if failed := [listed[key]["status"] for key in keys].count("failure"):
                    raise JigsawError(
                        f"{failed} of {len(keys)} prompts failed; failed_prompts.jsonl says which and why"
                    )
                return listed
            self._manager.give_again(partition, unfinished)
            time.sleep(self._poll_interval)
        raise JigsawError(f"{len(keys)} prompts are not rolled out after {_LIMIT_S} s")

    def take_counts(self) -> Counter[str]:
        """What was done since the last call of this, here and in the workers.

        ``builds``: prompts whose media were cut; ``processor_runs``; ``pixel_copies``: features with pixels that were
        put into the queue; ``bytes``: what went into the queue and came out of it, and media for vLLM.
        """
        taken = ray.get([worker.__ray_call__.remote(_take_counts) for worker in self.workers])
        return sum((Counter(counts) for counts in [*taken, _take_counts()]), Counter())


_counts: Counter[str] = Counter()
"""Of this process."""


def _take_counts(*_: Any) -> dict[str, int]:
    taken = dict(_counts)
    _counts.clear()
    return taken


def _count_traffic() -> None:
    """Have this process count what it puts into the queue and gets from it."""
    client = tq.get_client()
    put, get = client.async_put, client.async_get_data

    async def counted_put(data: TensorDict, *args: Any, **kwargs: Any) -> Any:
        _counts["bytes"] += size_of(data)
        for name in {"multi_modal_inputs", FIELD} & set(data.keys()):
            _counts["pixel_copies"] += sum(any("pixel_values" in key for key in features) for features in data[name])
        return await put(data, *args, **kwargs)

    async def counted_get(*args: Any, **kwargs: Any) -> Any:
        data = await get(*args, **kwargs)
        _counts["bytes"] += size_of(data)
        return data

    client.async_put, client.async_get_data = counted_put, counted_get


def _count_work(worker: Any) -> None:
    """Have a worker count what it does."""
    cutter: Any = Cutter
    cut, call, generate = cutter.cut_media, type(worker.processor).__call__, type(worker.llm_client).generate
    sent: set[ray.ObjectRef] = set()

    def counted_cut(*args: Any, **kwargs: Any) -> Any:
        _counts["builds"] += 1
        return cut(*args, **kwargs)

    def counted_call(*args: Any, **kwargs: Any) -> Any:
        _counts["processor_runs"] += 1
        return call(*args, **kwargs)

    async def counted_generate(*args: Any, **request: Any) -> Any:
        for value in (request.get("image_data"), request.get("video_data")):
            if not isinstance(value, ray.ObjectRef):
                _counts["bytes"] += size_of(value)
            elif value not in sent:
                sent.add(value)
                _counts["bytes"] += size_of(await value)
        return await generate(*args, **request)

    cutter.cut_media, type(worker.processor).__call__ = counted_cut, counted_call
    type(worker.llm_client).generate = counted_generate
    _count_traffic()


def size_of(value: Any) -> int:
    """Bytes of the tensors and pictures in a nest of containers."""
    if isinstance(value, torch.Tensor):
        return value.values().nbytes if value.is_nested else value.nbytes
    if isinstance(value, Image.Image):
        return value.width * value.height * len(value.getbands())
    if isinstance(value, Mapping | TensorDict):
        return sum(size_of(value[name]) for name in list(value.keys()))
    if isinstance(value, list | tuple | NonTensorStack):
        return sum(map(size_of, value))
    return 0


def read(batch: KVBatchMeta) -> TensorDict:
    """A batch as a rank of the trainer reads it."""
    return transferqueue_utils._meta_to_realdata(batch)


class Stack:
    """What agent-loop workers need around them, over a running Ray: made by :func:`stack`."""

    def __init__(self, config: DictConfig, reply: Sequence[int], servers: int) -> None:
        nodes = itertools.cycle(node["NodeID"] for node in ray.nodes() if node["Alive"])
        self.servers = [
            ray.remote(ReplyServer)
            .options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=True))
            .remote(reply)
            for node in itertools.islice(nodes, servers)
        ]
        handles = {str(number): server for number, server in enumerate(self.servers)}
        self._balancer = ray.remote(GlobalRequestLoadBalancer).remote(handles)
        self._rewarding = ray.remote(RewardLoopWorker).remote(config)

    @contextmanager
    def rollout(self, config: DictConfig) -> Iterator[Rollout]:
        """A config's manager and workers; ended at exit."""
        manager = load_class_from_fqn(config.actor_rollout_ref.rollout.agent.agent_loop_manager_class).create(
            config=config,
            llm_client=LLMServerClient(config, self._balancer),
            teacher_client=None,
            reward_loop_worker_handles=[self._rewarding] * config.reward.num_workers,
        )
        try:
            poll_interval = config.trainer.v1.sampler.sampler_kwargs.poll_interval
            yield Rollout(manager, poll_interval)
        finally:
            _end(manager.agent_loop_workers)

    def requests(self) -> list[list[dict[str, Any]]]:
        """What each server was asked since the last call of this."""
        asked: list[list[dict[str, Any]]] = ray.get([server.requests.remote() for server in self.servers])
        return asked

    def end(self) -> None:
        """End all of it."""
        _end([*self.servers, self._balancer, self._rewarding])


@contextmanager
def stack(config: DictConfig, reply: Sequence[int], *, servers: int = 1) -> Iterator[Stack]:
    """TransferQueue, a reward worker and stubs for vLLM's servers, over a running Ray; ended at exit.

    The reward worker is asked by rollouts whose config has ``reward.num_workers`` above 0.

    Args:
        config: verl's, composed.
        reply: the token ids of every response.
        servers: number of stubs, dealt out to Ray's nodes.
    """
    with open_dict(config):
        config.transfer_queue.enable = True
    tq.init(config.transfer_queue)
    _count_traffic()
    made = Stack(config, reply, servers)
    try:
        yield made
    finally:
        made.end()
        tq.close()


def _end(actors: Sequence[Any]) -> None:
    for actor in actors:
        ray.kill(actor)
