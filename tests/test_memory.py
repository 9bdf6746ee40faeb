"""The memory plan (jigsaw/memory.py): its arithmetic, and what it says of activations beside what there is.

Beside figures of an H100 (benchmarks/gpu_h100.json), beside runs on tensors without data at the true shapes, and beside
the tensors of a real update on the CPU, sharded by FSDP2. Live tensors are counted, not the process's memory, in which
the allocator keeps what was freed.
"""

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import ref

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import (
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from jigsaw import memory
from jigsaw.memory import GIB, Load, Setup, backward, forward, lacks, largest_budget, phases, remedies
from jigsaw.packing import head, kernels
from jigsaw.packing.layout import Layout
from jigsaw.packing.model import take_packs
from jigsaw.shapes import Shapes
from jigsaw.verl_plugin.memory import shapes_of

GRIDS = {"image": [(1, 12, 16)] * 9, "video": [(6, 20, 24)] * 6, "depth": [(1, 70, 92)]}
PROMPTS = {"image": 670, "video": 4500, "depth": 1780}
H100: dict[str, Any] = json.loads((Path(__file__).parents[1] / "benchmarks/gpu_h100.json").read_text())
REPLIES: list[int] = H100["replies"]
SMALL = {
    "model_type": "qwen2_5_vl", "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 1408, "vocab_size": 4096,
    "vision_config": {
        "depth": 3, "hidden_size": 128, "num_heads": 4, "intermediate_size": 384, "out_hidden_size": 256,
        "patch_size": 14, "temporal_patch_size": 2, "spatial_merge_size": 2, "window_size": 112,
        "fullatt_block_indexes": [2],
    },
}  # fmt: skip


def seven(**changes: Any) -> Setup:
    """The image recipe's setup on eight cards of 80 GB."""
    settings = {
        "nodes": 1, "gpus_per_node": 8, "gpu_memory": 80.0, "sharing": -1, "packed": True, "budget": 16384,
        "log_prob_budget": 16384, "micro_batch": 4, "log_prob_micro_batch": 8, "prompt": 8192, "response": 2048,
        "prompts": 256, "log_probs": False, "reference": False, "entropy": True, "share": 0.6, "tensor_parallel": 1,
        "bucket": 2048, "offload_moments": False, "offload_weights": False, "offload_all": False,
        "keep_gradients": False, "checkpoints": 3,
    }  # fmt: skip
    return Setup(shapes=changes.pop("shapes", None) or shapes("7B"), **{**settings, **changes})


def shapes(size: str) -> Shapes:
    family = "Qwen3-VL" if size in ("4B", "8B") else "Qwen2.5-VL"
    return shapes_of(f"Qwen/{family}-{size}-Instruct")


def gib(found: list[memory.Phase], name: str, part: str = "") -> float:
    """GiB of a phase, or of one of its parts."""
    (phase,) = (phase for phase in found if phase.name == name)
    return sum(p.size for p in phase.parts if part in p.what) / GIB


# --- against what was measured -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["7B", "3B"])
@pytest.mark.parametrize("task", ["image", "video", "depth"])
def test_activations_are_those_of_an_h100(size: str, task: str) -> None:
    measured = H100[f"f {size}"][f"{task}, ours"]
    load = Load(measured["tokens"], sum(map(math.prod, GRIDS[task])), sum(REPLIES))
    assert backward(shapes(size), load).size / GIB == pytest.approx(measured["live_gib"], rel=0.02)


def test_weights_and_gradients_are_those_of_an_h100() -> None:
    for size in ("7B", "3B"):
        assert 4 * shapes(size).parameters / GIB == H100[f"f {size}"]["model"]["weights_and_gradients_gib"]


class Live(TorchDispatchMode):
    """Bytes of the storages that live: those of some tensors, and all that are made under it.

    Args:
        held: the tensors.
        resized: whether storages change their size, as FSDP2's do; to look at each of them again takes time.
    """

    def __init__(self, *held: Tensor, resized: bool = False) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._storages: dict[int, ref[torch.UntypedStorage]] = {}
        self._resized = resized
        self._hold(held)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self._hold(leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor))
        if self._resized:
            alive = (storage() for storage in list(self._storages.values()))
            self.now = sum(storage.nbytes() for storage in alive if storage is not None)
        self.peak = max(self.peak, self.now)
        return out

    def _hold(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            storage = getattr(tensor, "_local_tensor", tensor).untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if key not in self._storages:
                self._storages[key] = ref(storage, lambda _, key=key, size=size: self._free(key, size))
                self.now += size

    def _free(self, key: int, size: int) -> None:
        del self._storages[key]
        self.now -= size


@pytest.fixture
def _kernels_without_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the GPU's kernels return; a tensor without data takes the CPU's, which copy segments together."""

    def of_forward(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        return torch.empty_like(q), q.new_empty(q.shape[1], q.shape[0], dtype=torch.float32)

    def of_backward(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, ...]:
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)

    monkeypatch.setattr(kernels, "forward", of_forward)
    monkeypatch.setattr(kernels, "backward", of_backward)


def build(config: dict[str, Any]) -> PreTrainedModel:
    """A model that takes packs, with gradient checkpointing."""
    text = {name: value for name, value in config.items() if name not in ("model_type", "vision_config")}
    head = text.get("head_dim", text["hidden_size"] // text["num_attention_heads"])
    sections = [head // 8, head // 8, head // 4]
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections}
    both = {"vision_config": config["vision_config"], "tie_word_embeddings": text["tie_word_embeddings"]}
    if text["vocab_size"] < 10**5:
        both |= {"image_token_id": 4000, "video_token_id": 4001}
    if config["model_type"] == "qwen3_vl":
        model = Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text, **both))
    else:
        text |= {"bos_token_id": 1, "eos_token_id": 2}
        model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, **both))
    model.train().gradient_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
    return take_packs(model)


def config_of(size: str, layers: int | None) -> dict[str, Any]:
    """A model's config, cut to some layers and as many blocks of the tower."""
    text, tower = shapes(size).text, shapes(size).tower
    depth = layers or tower.depth
    of_family = {"window_size": tower.window * tower.patch, "fullatt_block_indexes": [depth - 1]}
    if tower.deep:
        of_family = {
            "deepstack_visual_indexes": [block * depth // tower.deep for block in range(tower.deep)],
            "num_position_embeddings": tower.places,
        }
    return {
        "model_type": "qwen3_vl" if tower.deep else "qwen2_5_vl", "hidden_size": text.hidden,
        "num_hidden_layers": layers or text.layers, "num_attention_heads": text.heads, "head_dim": text.head_dim,
        "num_key_value_heads": text.kv_heads, "intermediate_size": text.intermediate, "vocab_size": text.vocabulary,
        "tie_word_embeddings": text.tied,
        "vision_config": {
            "depth": depth, "hidden_size": tower.hidden, "num_heads": tower.heads,
            "intermediate_size": tower.intermediate, "out_hidden_size": tower.out, "patch_size": tower.patch,
            "spatial_merge_size": tower.merge, **of_family,
        },
    }  # fmt: skip


def peak_without_data(config: dict[str, Any], task: str, *, gradients: bool) -> int:
    """Bytes at the most that live beside weights and their gradients, of one group as a pack in bfloat16."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            model = build(config)
    finally:
        torch.set_default_dtype(before)
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    pack = Layout((PROMPTS[task],), (tuple(REPLIES),), torch.device("meta"))
    name = "video" if task == "video" else "image"
    grids = torch.tensor(GRIDS[task])
    tower = Shapes.of(config).tower
    standing = Live(*model.parameters(), *(weight.grad for weight in model.parameters()), *model.buffers())
    begin = standing.now
    with standing, torch.set_grad_enabled(gradients):
        found, _ = model(
            pack=pack,
            input_ids=torch.zeros(1, pack.tokens, dtype=torch.int64, device="meta"),
            position_ids=torch.zeros(3, 1, pack.tokens, dtype=torch.int64, device="meta"),
            **{
                "pixel_values_videos" if task == "video" else "pixel_values": torch.zeros(
                    int(grids.prod(-1).sum()), tower.inputs, device="meta"
                ),
                f"{name}_grid_thw": grids,
            },
        )
        if gradients:
            found.sum().backward()
    return standing.peak - begin


def check_without_data(size: str, task: str, layers: int | None, *, gradients: bool) -> None:
    config = config_of(size, layers)
    load = Load(PROMPTS[task] + sum(REPLIES), sum(map(math.prod, GRIDS[task])), sum(REPLIES))
    planned = (backward if gradients else forward)(Shapes.of(config), load).size
    assert planned == pytest.approx(peak_without_data(config, task, gradients=gradients), rel=0.03)


@pytest.mark.usefixtures("_kernels_without_data")
@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("size", ["3B", "7B", "32B", "4B", "8B"])
def test_activations_are_those_of_the_model_cut_to_three_layers(size: str, gradients: bool) -> None:
    check_without_data(size, "image", 3, gradients=gradients)


@pytest.mark.e2e
@pytest.mark.usefixtures("_kernels_without_data")
@pytest.mark.parametrize(
    ("size", "task"),
    [("3B", "image"), ("7B", "image"), ("7B", "video"), ("32B", "video"), ("4B", "image"), ("8B", "video")],
)
def test_activations_are_those_of_the_whole_model(size: str, task: str) -> None:
    check_without_data(size, task, None, gradients=True)


@pytest.mark.parametrize("of_entropy", [False, True])
def test_the_head_holds_no_more_logits_than_planned(of_entropy: bool) -> None:
    """In bfloat16, its chunks one after another."""
    hidden = torch.empty(900, 64, dtype=torch.bfloat16, device="meta", requires_grad=True)
    weight = torch.empty(20000, 64, dtype=torch.bfloat16, device="meta", requires_grad=True)
    targets = torch.empty(900, dtype=torch.int64, device="meta")
    live = Live(hidden, weight, targets)
    begin = live.now
    with live:
        found, entropy = head.log_probs(hidden, weight, targets, max_mib=32)
        (found.sum() + entropy.sum() if of_entropy else found.sum()).backward()
    gradients = sum(2 * leaf.numel() for leaf in (hidden, weight))
    assert live.peak - begin < gradients + 32 * 2**20 * 1.03


def test_the_head_is_the_one_that_is_planned_with() -> None:
    assert head.LogProbHead.max_mib == memory.HEAD_MIB
    assert head.BYTES_PER_LOGIT == memory.BYTES_PER_LOGIT


@pytest.fixture
def _eight_ranks() -> Iterator[None]:
    """The first of eight ranks, whose collectives move nothing."""
    from torch import distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=8)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    dist.destroy_process_group()


@pytest.mark.e2e
@pytest.mark.usefixtures("_eight_ranks")
@pytest.mark.parametrize("tied", [True, False])
def test_an_update_takes_what_is_planned(tied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it: shards, gathered weights, gradients on their way, activations and Adam's step, on real tensors."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy
    from verl.utils.fsdp_utils import apply_fsdp2

    config = {**SMALL, "tie_word_embeddings": tied}
    model = build(config)
    model.lm_head.max_mib = 4
    monkeypatch.setattr(memory, "HEAD_MIB", 4)
    precision = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=True)
    mesh = init_device_mesh("cpu", (8,))
    apply_fsdp2(model, {"mesh": mesh, "mp_policy": precision, "reshard_after_forward": True}, {})
    optimizer = torch.optim.AdamW(model.parameters())
    grids = torch.tensor([(1, 12, 16)] * 3)
    pack = Layout((160,), ((230,) * 8,), torch.device("cpu"))
    ids = torch.full((1, pack.tokens), 7)
    ids[0, :144] = 4000
    inputs = {"input_ids": ids, "position_ids": torch.arange(pack.tokens).expand(3, 1, -1).clone()}
    inputs |= {"pixel_values": torch.rand(576, 1176), "image_grid_thw": grids}
    live = Live(*model.parameters(), *model.buffers(), *inputs.values(), resized=True)
    for _ in range(2):  # the first step has no moments yet
        with live:
            for _ in range(2):  # gradients of the first pack lie beside the second's
                with torch.autocast("cpu", torch.bfloat16):
                    found, _ = model(pack=pack, **inputs)
                found.sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    monkeypatch.setattr(Setup, "load", lambda *_: Load(pack.tokens, 576, 1840))
    found = phases(seven(shapes=Shapes.of(config)))
    planned = gib(found, "update") - gib(found, "update", "vLLM asleep") - gib(found, "update", "CUDA contexts")
    assert planned * GIB == pytest.approx(live.peak, rel=0.05)


# --- arithmetic --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("gpus", "trainer", "rollout"), [(8, 15.4, 61), (4, 30.9, 73), (2, 61.8, 96), (1, 123.6, 142)])
def test_weights_gradients_and_moments_are_shared_out(gpus: int, trainer: float, rollout: float) -> None:
    found = phases(seven(gpus_per_node=gpus))
    held = ("weights, float32", "gradients, float32", "Adam's moments, float32")
    assert sum(gib(found, "update", part) for part in held) == pytest.approx(trainer, abs=0.05)
    assert gib(found, "rollout") == pytest.approx(rollout, abs=1)


def test_weights_are_shared_among_some_ranks_alone_where_the_run_says_so() -> None:
    assert gib(phases(seven(sharing=4)), "checkpoint", "weights") == pytest.approx(7.72, abs=0.01)
    assert gib(phases(seven(nodes=2)), "checkpoint", "weights") == pytest.approx(1.93, abs=0.01)
    assert gib(phases(seven(nodes=2, sharing=99)), "checkpoint", "weights") == pytest.approx(1.93, abs=0.01)


def test_what_is_offloaded_is_on_the_card_when_it_is_needed_alone() -> None:
    plain, found = phases(seven()), phases(seven(offload_moments=True, offload_weights=True, log_probs=True))
    for name, part in (
        ("rollout", "float32"),
        ("weight sync", "float32"),
        ("log-probs", "moments"),
        ("checkpoint", "moments"),
    ):
        assert gib(found, name, part) == 0
    for name, part in (("log-probs", "weights, float32"), ("update", "moments"), ("checkpoint", "weights")):
        assert gib(found, name, part) > 3
    assert gib(found, "update") == gib(plain, "update")


def test_a_trainer_that_is_all_in_host_memory_leaves_a_layer_on_the_card() -> None:
    found = phases(seven(offload_all=True, gpus_per_node=1))
    assert [phase.name for phase in found if gib(found, phase.name, ", float32")] == []
    assert gib(found, "update", "gathered") == pytest.approx(1.54, abs=0.01)
    host = memory.machine(seven(offload_all=True, gpus_per_node=1))
    held = sum(gib(host, "host memory", part) for part in ("weights, f", "gradients", "Adam's"))
    assert held == pytest.approx(123.6, abs=0.05)


def test_gradients_that_are_shared_out_last_are_whole_until_then() -> None:
    more = gib(phases(seven(keep_gradients=True)), "update") - gib(phases(seven()), "update")
    assert more == pytest.approx(30.9, abs=0.05)


def test_log_probs_are_planned_where_they_are_computed_alone() -> None:
    names = ["rollout", "update", "weight sync", "checkpoint"]
    assert [phase.name for phase in phases(seven())] == names
    for needs in ({"log_probs": True}, {"reference": True}):
        assert [phase.name for phase in phases(seven(**needs))] == [names[0], "log-probs", *names[1:]]


def test_verls_own_engine_holds_all_logits() -> None:
    """14 bytes of each before an update, 26 and 8.1 in one: 80 GiB for eight videos of 5,045 tokens."""
    setup = seven(packed=False, prompt=4500, response=545, log_probs=True)
    found = phases(setup)
    assert gib(found, "log-probs", "logits") == pytest.approx(80, abs=0.1)
    assert gib(found, "update", "logits") == pytest.approx(80 * 26 / 14 / 2, abs=0.1)
    quiet = phases(replace(setup, entropy=False))
    assert gib(quiet, "update", "logits") == pytest.approx(80 * 8.1 / 14 / 2, abs=0.1)


def test_on_few_cards_the_optimizers_step_takes_most() -> None:
    update = phases(seven(gpus_per_node=2, budget=10_240))[1]
    assert "Adam's step" in " ".join(part.what for part in update.parts)
    assert update.size / GIB == pytest.approx(61.8 + 15.4 + 3, abs=0.1)


def test_the_largest_budget_is_the_largest() -> None:
    setup = seven(log_probs=True)
    largest = largest_budget(setup)
    assert largest % 1024 == 0
    for budget, fits in ((largest, True), (largest + 1024, False)):
        assert (lacks(replace(setup, budget=budget, log_prob_budget=budget)) == []) is fits
    spared = max(phase.size for phase in phases(replace(setup, budget=largest)))
    assert spared <= 0.9 * setup.card
    assert largest_budget(seven(gpus_per_node=1)) == 0


def test_what_does_not_fit_is_named_with_what_it_takes() -> None:
    (rollout,) = lacks(seven(share=0.8))
    assert rollout == "rollout takes 76.8 GiB of the 71.1 that are 90% of a card"
    (cache,) = lacks(seven(share=0.2, gpus_per_node=8))
    assert cache == "vLLM's share, 15.8 GiB, has no room beside its weights for one sequence of 10,240 tokens"


@pytest.mark.parametrize(
    ("setup", "changes"),
    [
        (seven(share=0.8), {"share": 0.7}),
        (seven(budget=99_999), {"budget": 56_320}),
        (seven(gpus_per_node=4, share=0.9), {"share": 0.55}),
        (seven(packed=False), {"packed": True}),
        (seven(gpus_per_node=2), {"offload_all": True}),
        (seven(keep_gradients=True, budget=40_000), {"keep_gradients": False}),
        (
            seven(gpu_memory=24.0, shapes=shapes("3B")),
            {"share": 0.55, "budget": 13_312, "log_prob_budget": 13_312},
        ),
        (seven(gpu_memory=40.0), {"share": 0.55, "budget": 14_336, "log_prob_budget": 14_336}),
        (seven(shapes=shapes("32B")), {"tensor_parallel": 2, "offload_all": True}),
    ],
)
def test_the_remedy_is_the_smallest_change_that_fits(setup: Setup, changes: dict[str, Any]) -> None:
    assert lacks(setup)
    here, *more = remedies(setup)
    assert [lacks(found) for found in (here, *more)] == [[]] * (1 + len(more))
    assert here == replace(setup, **changes)


def test_more_gpus_are_as_few_as_it_takes() -> None:
    _, more = remedies(seven(gpus_per_node=1))
    assert (more.nodes, more.gpus_per_node, more.offload_all) == (1, 4, False)
    _, large = remedies(seven(shapes=shapes("32B")))
    assert (large.nodes, large.gpus_per_node, large.tensor_parallel) == (2, 8, 2)
    assert len(remedies(seven(share=0.8))) == 1, "it fits the cards as they are"


def test_a_card_without_room_for_a_layer_is_too_small() -> None:
    assert memory.too_small(seven()) is None
    assert "vLLM needs" in (memory.too_small(seven(gpu_memory=4.0)) or "")
    alone = seven(gpu_memory=16.0, gpus_per_node=1)
    assert memory.too_small(alone)
    assert all(found.gpus > 1 for found in remedies(alone))


def test_every_rank_loads_a_tied_model_and_the_first_alone_an_untied_one() -> None:
    tied, untied = (memory.machine(seven(shapes=shapes(size))) for size in ("3B", "7B"))
    assert gib(tied, "host memory, at the start", "model") == pytest.approx(8 * 13.99, abs=0.05)
    assert gib(untied, "host memory, at the start", "model") == pytest.approx(30.9, abs=0.05)


def test_a_machine_holds_its_part_of_what_is_offloaded() -> None:
    found = memory.machine(seven(nodes=2, offload_moments=True, reference=True))
    assert gib(found, "host memory", "Adam's") == pytest.approx(61.8 / 2, abs=0.05)
    assert gib(found, "host memory", "reference") == pytest.approx(30.9 / 2, abs=0.05)


def test_media_lie_in_shared_memory_with_vllms_queues() -> None:
    found = memory.machine(seven(prompts=128, tensor_parallel=2))
    assert gib(found, "/dev/shm", "queues") == pytest.approx((4 * 160 + 8 * 240) / 1024)
    assert gib(found, "/dev/shm", "media") == pytest.approx(128 * 4 * 8192 * 1176 / GIB)


def test_checkpoints_take_twelve_bytes_a_weight() -> None:
    assert gib(memory.machine(seven()), "disk") == pytest.approx(3 * 92.7, abs=0.1)
    (disk,) = memory.machine(seven(checkpoints=None))[-1].parts
    assert disk.size / GIB == pytest.approx(92.7, abs=0.1)
    assert disk.how.endswith("and as much with each further one")


def test_an_adapter_has_gradients_and_moments_alone() -> None:
    whole, frozen = seven(), seven(adapter=10_000_000)
    sizes = [{part.what: part.size for part in phases(setup)[1].parts} for setup in (whole, frozen)]
    assert sizes[1]["weights, float32"] == pytest.approx(sizes[0]["weights, float32"], rel=0.01)
    assert sizes[1]["gradients, float32"] == 4e7 / 8
    assert sizes[1]["Adam's moments, float32"] == 8e7 / 8
    assert "gradient of the head" not in sizes[1]
    host = {part.what: part.size for phase in memory.machine(frozen) for part in phase.parts}
    assert host["weights while an adapter is merged, a copy, float32"] == 4 * whole.shapes.parameters
