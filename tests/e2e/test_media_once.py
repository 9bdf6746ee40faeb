"""What the responses of a prompt share is made and carried once, and is what verl's plain path makes for each.

verl's real workers and TransferQueue, with a given reply in place of vLLM's. The plain path scores in a reward worker
of verl, ours where the response is made.
"""

import asyncio
import gc
import itertools
import json
import os
import signal
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import torch
import transfer_queue as tq
from omegaconf import DictConfig
from tensordict import TensorDict
from transformers import AutoProcessor
from verl.utils.model import extract_multi_modal_inputs
from verl.utils.tensordict_utils import chunk_tensordict
from vllm.config import ModelConfig, VllmConfig
from vllm.inputs import TokensPrompt
from vllm.model_executor.models.qwen2_5_vl import Qwen2_5_VLMultiModalProcessor
from vllm.renderers import renderer_from_config

from jigsaw.errors import JigsawError
from jigsaw.toy.rows import write_puzzles
from jigsaw.verl_plugin import features as prompt_features
from jigsaw.verl_plugin import patches
from jigsaw.verl_plugin.agent_loop import SharedPrompt, failures_path
from jigsaw.verl_plugin.dataset import JigsawDataset
from jigsaw.verl_plugin.testing import Rollout, Stack, compose_config, read, stack

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

TASKS = ("image", "video", "depth")
RESPONSES = 4
REPLY = "<think>Look.</think>"
PATHS = {"plain": "single_turn_agent", "ours": "jigsaw"}


@pytest.fixture(scope="module")
def configure(
    repository: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., DictConfig]:
    """The quickstart's config over a row of each task, with further overrides."""
    folder = tmp_path_factory.mktemp("once")
    files = []
    for task, row in write_puzzles(folder / "media").items():
        files.append(str(folder / f"{task}.parquet"))
        pq.write_table(pa.Table.from_pylist([row]), files[-1])
    return partial(
        compose_config,
        repository / "configs",
        "quickstart",
        f"data.train_files=[{','.join(files)}]",
        f"data.val_files={folder}/val.parquet",
        f"data.media_root={folder / 'media'}",
        "data.train_batch_size=1",
        "data.max_prompt_length=1024",
        f"actor_rollout_ref.model.path={tiny_model}",
        "trainer.total_training_steps=1",
        f"trainer.default_local_dir={folder}",
    )


@pytest.fixture(scope="module")
def processor(tiny_model: Path) -> Any:
    return AutoProcessor.from_pretrained(tiny_model)


@pytest.fixture(scope="module")
def items(configure: Callable[..., DictConfig], processor: Any) -> dict[str, dict[str, Any]]:
    """A prompt of each task, as the dataset gives it."""
    data = configure().data
    dataset = JigsawDataset(data.train_files, processor.tokenizer, data, processor)
    of_epoch = [dataset[index] for index in range(len(TASKS))]
    return {item["extra_info"]["task"]: item for item in of_epoch}


class Rolled:
    """Responses as the trainer reads them, what the servers were asked for them, and what it took."""

    def __init__(self, services: Stack, run: Rollout, items: list[dict[str, Any]], *, validate: bool = False) -> None:
        self.batch: TensorDict = read(run.run(items, n=RESPONSES, validate=validate))
        self.requests = services.requests()
        self.counts = run.take_counts()


@pytest.fixture(scope="module")
def services(shared_ray: None, configure: Callable[..., DictConfig], processor: Any) -> Iterator[Stack]:
    """Two servers that reply the same, a node each."""
    with stack(configure(), processor.tokenizer(REPLY)["input_ids"], servers=2) as made:
        assert len(set(map(_node_of, made.servers))) == 2
        yield made


@pytest.fixture(scope="module")
def rolled(
    services: Stack, configure: Callable[..., DictConfig], items: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Rolled]]:
    """Each task's responses on verl's plain path and on ours, over two workers on two nodes."""
    result: dict[str, dict[str, Rolled]] = {}
    for path, agent_loop in PATHS.items():
        config = configure(
            f"actor_rollout_ref.rollout.agent.default_agent_loop={agent_loop}",
            "actor_rollout_ref.rollout.agent.num_workers=2",
            f"reward.num_workers={int(path == 'plain')}",
        )
        with services.rollout(config) as run:
            assert len(set(map(_node_of, run.workers))) == 2
            result[path] = {task: Rolled(services, run, [items[task]]) for task in TASKS}
            result[path]["all"] = Rolled(services, run, [items[task] for task in TASKS])
            result[path]["validation"] = Rolled(services, run, [items[task] for task in TASKS], validate=True)
    return result


def _change_replies(run: Rollout, change: Callable[[int, Any], None]) -> None:
    """Have a rollout's one worker give each reply, with its number, to ``change`` first."""

    def have_changed(worker: Any) -> None:
        generate, numbers = type(worker.llm_client).generate, itertools.count()

        async def changed(*args: Any, **request: Any) -> Any:
            output = await generate(*args, **request)
            change(next(numbers), output)
            return output

        type(worker.llm_client).generate = changed

    (worker,) = run.workers
    ray.get(worker.__ray_call__.remote(have_changed))


def _node_of(actor: Any) -> str:
    return str(ray.get(actor.__ray_call__.remote(lambda _: ray.get_runtime_context().get_node_id())))


# --- the same ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompts", [*TASKS, "all"])
def test_sharing_gives_the_trainer_what_the_plain_path_gives(
    rolled: dict[str, dict[str, Rolled]], prompts: str
) -> None:
    plain, ours = (rolled[path][prompts].batch for path in PATHS)
    assert len(ours) == len(plain) == RESPONSES * (len(TASKS) if prompts == "all" else 1)
    assert set(ours.keys()) == set(plain.keys())
    tensors, others = set(), set()
    # Left out: a prompt's own name, how long things took, what the next test compares, and a video's pixels for SGLang,
    # of which verl puts a copy of its own into the queue for each response.
    for name in set(plain.keys()) - {"uid", "metrics", "multi_modal_inputs", "mm_processor_output"}:
        for theirs, mine in zip(plain[name], ours[name], strict=True):
            if isinstance(theirs, torch.Tensor):
                tensors.add(name)
                assert theirs.dtype == mine.dtype, name
                assert torch.equal(theirs, mine), name
            else:
                others.add(name)
                assert theirs == mine, name
    assert tensors >= {"input_ids", "position_ids", "prompts", "responses", "response_mask", "rm_scores"}
    assert "rollout_log_probs" in tensors
    assert others >= {"extra_fields", "extra_info", "reward_model", "session_id", "data_source"}


@pytest.mark.parametrize("prompts", [*TASKS, "all"])
def test_the_trainers_micro_batches_hold_the_very_pixels_of_the_plain_path(
    rolled: dict[str, dict[str, Rolled]], prompts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[Any] = []
    decode = prompt_features.decode
    monkeypatch.setattr(prompt_features, "decode", lambda features: decoded.append(features) or decode(features))
    # Two micro-batches, as verl makes them for an update.
    plain, ours = (
        [
            extract_multi_modal_inputs(micro_batch.get("multi_modal_inputs"))
            for micro_batch in chunk_tensordict(rolled[path][prompts].batch, 2)
        ]
        for path in PATHS
    )
    # Of three prompts the one in the middle has responses in both.
    assert len(decoded) == (4 if prompts == "all" else 2)
    for theirs, mine in zip(plain, ours, strict=True):
        assert set(theirs) == set(mine)
        assert any(name.startswith("pixel_values") for name in theirs)
        # The values of mm_token_type_ids are not used: verl looks whether the key is there.
        for name in set(theirs) - {"mm_token_type_ids"}:
            assert theirs[name].dtype == mine[name].dtype
            assert torch.equal(theirs[name], mine[name]), name


@pytest.mark.parametrize("prompts", [*TASKS, "all", "validation"])
def test_vllm_is_asked_the_same(rolled: dict[str, dict[str, Rolled]], prompts: str) -> None:
    def asked(path: str) -> list[tuple[Any, ...]]:
        requests = [request for of_server in rolled[path][prompts].requests for request in of_server]
        return sorted(_comparable(request) for request in requests)

    assert asked("ours") == asked("plain")


def _comparable(request: dict[str, Any]) -> tuple[Any, ...]:
    pictures = [picture.tobytes() for picture in request.get("image_data") or []]
    clips = [(frames.numpy().tobytes(), json.dumps(metadata)) for frames, metadata in request.get("video_data") or []]
    return request["prompt_ids"], json.dumps(request["sampling_params"]), pictures, clips


def test_scores_are_the_same(rolled: dict[str, dict[str, Rolled]]) -> None:
    plain, ours = (
        [fields["reward_extra_info"] for fields in rolled[path]["all"].batch["extra_fields"]] for path in PATHS
    )
    assert plain == ours
    assert plain[0]["format_reward"] == 0


def test_replies_of_several_lengths_reach_the_trainer_as_on_the_plain_path(
    services: Stack, configure: Callable[..., DictConfig], items: dict[str, dict[str, Any]]
) -> None:
    def shorten(number: int, output: Any) -> None:
        output.token_ids, output.log_probs = output.token_ids[: number + 1], output.log_probs[: number + 1]

    by_length = []
    for agent_loop in PATHS.values():
        with services.rollout(configure(f"actor_rollout_ref.rollout.agent.default_agent_loop={agent_loop}")) as run:
            _change_replies(run, shorten)
            batch = read(run.run([items["video"]], n=RESPONSES))
        names = ("input_ids", "position_ids", "response_mask", "loss_mask", "rollout_log_probs", "rm_scores")
        rows = zip(batch["responses"], *(batch[name] for name in names), strict=True)
        by_length.append(sorted(rows, key=lambda row: len(row[0])))
    assert len({len(row[0]) for row in by_length[0]}) > 1
    for plain, ours in zip(*by_length, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(plain, ours, strict=True))


# --- once -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompts", [*TASKS, "all"])
def test_a_prompt_is_cut_processed_and_carried_once(rolled: dict[str, dict[str, Rolled]], prompts: str) -> None:
    count = len(TASKS) if prompts == "all" else 1
    ours, plain = rolled["ours"][prompts].counts, rolled["plain"][prompts].counts
    assert {name: ours[name] for name in ("builds", "processor_runs", "pixel_copies")} == {
        "builds": count,
        "processor_runs": count,
        "pixel_copies": count,
    }
    assert plain["builds"] == plain["pixel_copies"] == count * RESPONSES
    # float32 for each response and the media for each request, against a byte a value and the media once
    assert ours["bytes"] * RESPONSES < plain["bytes"]


def test_the_trainer_reads_a_prompt_once_for_all_its_responses(rolled: dict[str, dict[str, Rolled]]) -> None:
    rows = list(rolled["ours"]["all"].batch["multi_modal_inputs"])
    assert len({id(row) for row in rows}) == len(TASKS)
    for row in rows:
        assert {value.dtype for name, value in row.items() if name.startswith("pixel_values")} == {torch.uint8}


@pytest.mark.parametrize("prompts", [*TASKS, "all"])
def test_all_responses_of_a_prompt_go_to_one_server(rolled: dict[str, dict[str, Rolled]], prompts: str) -> None:
    first, second = ([tuple(r["prompt_ids"]) for r in asked] for asked in rolled["ours"][prompts].requests)
    assert len(first) + len(second) == len(rolled["ours"][prompts].batch)
    assert not set(first) & set(second)


@pytest.mark.parametrize("task", TASKS)
def test_vllms_own_processor_sees_the_media_of_a_prompt_once(
    rolled: dict[str, dict[str, Rolled]], tiny_model: Path, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    patches.video_rates_reach_vllm()
    seen: list[int] = []
    process = Qwen2_5_VLMultiModalProcessor._call_hf_processor

    def counted(self: Any, prompt: Any, mm_data: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(sum(map(len, mm_data.values())))
        return process(self, prompt, mm_data, *args, **kwargs)

    monkeypatch.setattr(Qwen2_5_VLMultiModalProcessor, "_call_hf_processor", counted)
    renderer = renderer_from_config(VllmConfig(model_config=ModelConfig(str(tiny_model), dtype="float32")))
    prompts = [
        TokensPrompt(
            prompt_token_ids=request["prompt_ids"],
            multi_modal_data={
                name: request[f"{name}_data"] for name in ("image", "video") if request.get(f"{name}_data") is not None
            },
        )
        for of_server in rolled["ours"][task].requests
        for request in of_server
    ]
    assert len(prompts) == RESPONSES

    async def render() -> None:
        await asyncio.gather(*(renderer.render_cmpl_async([prompt]) for prompt in prompts))

    asyncio.run(render())
    # Asked for each response, it is handed the media by the first one alone.
    (medium,) = prompts[0]["multi_modal_data"].values()
    assert sorted(seen) == [0] * (RESPONSES - 1) + [len(medium)]


def test_validation_carries_no_pixels(rolled: dict[str, dict[str, Rolled]]) -> None:
    validation = rolled["ours"]["validation"]
    assert validation.counts["pixel_copies"] == 0
    assert not any(validation.batch["multi_modal_inputs"])
    positions = zip(rolled["plain"]["validation"].batch["position_ids"], validation.batch["position_ids"], strict=True)
    assert all(torch.equal(plain, ours) for plain, ours in positions)


# --- ahead ------------------------------------------------------------------------------------------------------


def test_the_next_step_is_built_while_this_one_trains(
    services: Stack, configure: Callable[..., DictConfig], processor: Any
) -> None:
    config = configure("trainer.total_training_steps=2")
    dataset = JigsawDataset(config.data.train_files, processor.tokenizer, config.data, processor)
    counts: Counter[str] = Counter()
    with services.rollout(config) as run:
        first = read(run.run([dataset[0]], n=RESPONSES))
        end = time.monotonic() + 60
        while counts["processor_runs"] < 2:  # no second prompt is asked for yet
            assert time.monotonic() < end
            time.sleep(0.05)
            counts += run.take_counts()
        second = read(run.run([dataset[1]], n=RESPONSES))
        counts += run.take_counts()
    assert counts["builds"] == counts["processor_runs"] == counts["pixel_copies"] == 2
    assert not torch.equal(first["prompts"][0], second["prompts"][0])
    with services.rollout(config) as run:
        unforeseen = read(run.run([dataset[1]], n=RESPONSES))
    for name in ("input_ids", "position_ids"):
        assert all(torch.equal(a, b) for a, b in zip(second[name], unforeseen[name], strict=True))


# --- failures ---------------------------------------------------------------------------------------------------


def test_a_failed_build_fails_its_group_alone(
    services: Stack,
    configure: Callable[..., DictConfig],
    rolled: dict[str, dict[str, Rolled]],
    items: dict[str, dict[str, Any]],
    tmp_path: Path,
) -> None:
    lengths = {task: len(rolled["ours"][task].batch["prompts"][0]) for task in TASKS}
    shortest, middle, longest = sorted(TASKS, key=lambda task: lengths[task])
    config = configure(f"trainer.default_local_dir={tmp_path}", f"data.max_prompt_length={lengths[middle]}")
    broken = deepcopy(items[shortest])
    for part in broken["raw_prompt"][0]["content"]:
        if part["type"] != "text":
            part[part["type"]]["path"] = "gone"
    with services.rollout(config) as run:
        services.requests()
        with pytest.raises(JigsawError, match=r"2 of 3 prompts failed"):
            run.run([broken, items[middle], items[longest]], n=RESPONSES)
        assert run.take_counts()["pixel_copies"] == 1
        assert sum(map(len, services.requests())) == RESPONSES
    reasons = {(line := json.loads(text))["id"]: line["reason"] for text in failures_path(config).open()}
    assert reasons.keys() == {shortest, longest}
    assert "gone: no such file" in reasons[shortest]
    assert f"exceeding rollout.prompt_length={lengths[middle]}" in reasons[longest]


def test_of_a_group_that_failed_in_part_the_trainer_sees_nothing(
    services: Stack, configure: Callable[..., DictConfig], items: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    config = configure(f"trainer.default_local_dir={tmp_path}")
    known = set(tq.kv_list("train")["train"])

    def lose_one(number: int, output: Any) -> None:
        if number == 1:
            raise ConnectionError("a server went away")

    with services.rollout(config) as run:
        _change_replies(run, lose_one)
        with pytest.raises(JigsawError, match=r"1 of 2 prompts failed"):
            run.run([items["image"], items["depth"]], n=RESPONSES)
    new = set(tq.kv_list("train")["train"]) - known
    prompts = {key for key in new if "_" not in key}
    assert len(prompts) == 2
    assert len(new - prompts) == RESPONSES
    assert len({key.split("_")[0] for key in new - prompts}) == 1
    (line,) = failures_path(config).read_text().splitlines()
    assert json.loads(line)["reason"] == "a server went away"


def test_a_queue_that_fails_is_noted(
    services: Stack, configure: Callable[..., DictConfig], items: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    config = configure(f"trainer.default_local_dir={tmp_path}")

    def break_queue(worker: Any) -> None:
        async def broken(**_: Any) -> None:
            raise TimeoutError("a storage unit does not answer")

        tq.async_kv_batch_put = broken  # in the worker's process

    with services.rollout(config) as run:
        ray.get(run.workers[0].__ray_call__.remote(break_queue))
        with pytest.raises(JigsawError, match=r"1 of 1 prompts failed"):
            run.run([items["image"]], n=RESPONSES)
    (line,) = map(json.loads, failures_path(config).read_text().splitlines())
    assert line["id"] == items["image"]["extra_info"]["id"]
    assert line["reason"] == "a storage unit does not answer"


def test_a_reader_that_hangs_fails_its_group_alone(
    services: Stack, configure: Callable[..., DictConfig], items: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    config = configure(f"trainer.default_local_dir={tmp_path}", "data.cut_time_limit=10")

    def stop(worker: Any) -> None:
        (reader,) = psutil.Process().children()
        reader.suspend()

    with services.rollout(config) as run:
        assert len(read(run.run([items["image"]], n=RESPONSES))) == RESPONSES
        ray.get(run.workers[0].__ray_call__.remote(stop))
        with pytest.raises(JigsawError, match=r"1 of 1 prompts failed"):
            run.run([items["image"]], n=RESPONSES)
        assert len(read(run.run([items["image"]], n=RESPONSES))) == RESPONSES
    (line,) = map(json.loads, failures_path(config).read_text().splitlines())
    assert line["reason"] == "picture.jpg: the reader took longer than 10 s; remove or replace it"


def test_the_prompts_of_a_worker_that_was_killed_are_made_again(
    services: Stack, configure: Callable[..., DictConfig], items: dict[str, dict[str, Any]]
) -> None:
    def die(number: int, output: Any) -> None:
        if number == 5:  # one prompt may be finished
            os.kill(os.getpid(), signal.SIGKILL)

    prompts = [items["image"], items["depth"]]
    with services.rollout(configure()) as run:
        expected = _answers(run.run(prompts, n=RESPONSES))
        _change_replies(run, die)
        before = psutil.Process(ray.get(run.workers[0].__ray_call__.remote(lambda _: os.getpid()))).children()
        assert _answers(run.run(prompts, n=RESPONSES)) == expected
        assert before
        assert psutil.wait_procs(before, timeout=10)[1] == []  # its readers went with it


def _answers(meta: Any) -> list[Any]:
    batch = read(meta)
    names = ("input_ids", "position_ids", "rm_scores")
    return sorted([tensor.tolist() for tensor in row] for row in zip(*(batch[name] for name in names), strict=True))


# --- memory -----------------------------------------------------------------------------------------------------


def test_nothing_of_a_finished_prompt_is_kept(
    services: Stack, configure: Callable[..., DictConfig], items: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    config = configure(f"trainer.default_local_dir={tmp_path}")
    broken = deepcopy(items["image"])
    next(part for part in broken["raw_prompt"][0]["content"] if part["type"] == "image")["image"]["path"] = "gone"

    def watch(worker: Any) -> None:
        gc.collect()
        gc.disable()
        # On the class, which the worker imports: a test's own globals are another copy in each call.
        SharedPrompt.all_made = prompts = []
        made = SharedPrompt.__init__

        def noted(self: Any, *args: Any, **kwargs: Any) -> None:
            made(self, *args, **kwargs)
            prompts.append(weakref.ref(self))

        SharedPrompt.__init__ = noted

    def kept(worker: Any) -> tuple[int, int]:
        return len(SharedPrompt.all_made), sum(prompt() is not None for prompt in SharedPrompt.all_made)

    with services.rollout(config) as run:
        (worker,) = run.workers
        ray.get(worker.__ray_call__.remote(watch))
        run.run(list(items.values()), n=RESPONSES)
        run.run(list(items.values()), n=RESPONSES, validate=True)
        with pytest.raises(JigsawError, match=r"1 of 2 prompts failed"):
            run.run([broken, items["depth"]], n=RESPONSES)
        assert ray.get(worker.__ray_call__.remote(kept)) == (8, 0)


# --- coding -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [0.0, 1e-6])
def test_pixels_come_back_to_the_last_bit(processor: Any, change: float) -> None:
    picture = torch.randint(256, (3, 56, 84), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    features = dict(processor.image_processor(images=[picture], return_tensors="pt"))
    features["pixel_values"][3, 5] += change  # no grey level any more, if at all
    encoded = prompt_features.encode(features, processor)
    assert encoded["pixel_values"].dtype == (torch.float32 if change else torch.uint8)
    decoded = prompt_features.decode(encoded)
    assert set(decoded) == set(features)
    assert all(torch.equal(decoded[name], features[name]) for name in features)


def test_rows_of_verls_own_agent_loops_pass_unchanged() -> None:
    rows = [{"pixel_values": torch.ones(1)}, {}]
    assert prompt_features.decode_shared(rows) == rows
