"""Two data-parallel ranks learn as one: verl's own workers, FSDP2 on gloo, a process a rank.

With one mini-batch a step, as in our configs. Of several, verl fills each with a part of every rank's share, so which
sequences an optimizer step sees depends on the number of ranks, and so do the weights.
"""

import os
import re
from collections.abc import Callable
from importlib.util import find_spec, module_from_spec
from itertools import product
from math import cos, pi
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText
from verl import DataProto
from verl.models.transformers import qwen2_vl, qwen3_vl
from verl.trainer.ppo.v1.utils import compute_advantage_for_multi_trajectories

from jigsaw.errors import JigsawError
from jigsaw.toy.model import build_tiny_model
from jigsaw.toy.warm_start import CUE_WORDS
from jigsaw.verl_plugin import patches

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(500)]

PAIRS = tuple(map("-".join, product(("image", "video", "both", "text"), repeat=2)))
MODES = ("token-mean", "seq-mean-token-mean")

# --- ranks whose micro-batches differ ---------------------------------------------------------------------------


@pytest.mark.parametrize("pair", PAIRS)
def test_ranks_that_see_different_media_learn_as_one(ranks: Any, pair: str) -> None:
    ranks.assert_equal(pair)


@pytest.mark.parametrize("size", [1, 2])
def test_the_tower_is_called_once_a_micro_batch(ranks: Any, size: int) -> None:
    assert {ranks.metrics(pair, ranks=size)["tower_calls"] for pair in PAIRS} == {1.0}


@pytest.mark.parametrize("pair", PAIRS)
def test_the_tower_learns_from_media_alone(ranks: Any, pair: str) -> None:
    start, end = ranks.weights("start"), ranks.weights(pair)
    moved = {name for name in start if ".visual." in name and not torch.equal(start[name], end[name])}
    assert bool(moved) == (pair != "text-text")


# --- one update ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "number"), list(product(MODES, (1, 2))))
def test_an_update_is_the_same_on_one_rank_and_on_two(ranks: Any, mode: str, number: int) -> None:
    ranks.assert_equal(f"{mode}-{number}")


def test_advantages_follow_the_sequences_wherever_they_lie() -> None:
    """Each number of ranks has its own order of a batch: verl balances the lengths between the ranks."""
    rewards, uids = torch.rand(8, 1, generator=torch.Generator().manual_seed(0)), np.array([*"aaaabbb", "padding"])

    def advantages(order: list[int]) -> torch.Tensor:
        data = DataProto.from_dict(
            {"token_level_rewards": rewards[order].clone(), "response_mask": torch.ones(8, 1)},
            non_tensors={"uid": uids[order].astype(object)},
        )
        keys = [f"{uids[number]}_{number}_0" for number in order]
        return compute_advantage_for_multi_trajectories(data, keys, "grpo").batch["advantages"]

    order = [7, 2, 5, 0, 6, 4, 1, 3]
    torch.testing.assert_close(advantages(order), advantages(list(range(8)))[order], rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_padding_does_not_change_an_update(ranks: Any, mode: str) -> None:
    ranks.assert_equal(f"{mode}-unpadded")
    assert ranks.distance(f"{mode}-unpadded", f"{mode}-1") <= ranks.FLOAT


@pytest.mark.parametrize(("mode", "number"), list(product(MODES, (1, 2))))
def test_the_updates_clip_ratios_and_gradients_and_follow_the_schedule(ranks: Any, mode: str, number: int) -> None:
    metrics = ranks.metrics(f"{mode}-{number}")
    assert 0.1 < metrics["actor/pg_clipfrac"] < 0.9
    assert metrics["grad_norm"] > 10 * 0.1  # rank.py's clip_grad
    assert metrics["lr"] == pytest.approx(3e-4 * (1 + cos(pi * number / 4)) / 2)
    assert ranks.distance(f"{mode}-{number - 1}", f"{mode}-{number}") > 1e-4


# --- the patch: ours works, and verl still needs it ------------------------------------------------------------------

_RANK = """
import datetime, sys, torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForImageTextToText
from verl.models.transformers.monkey_patch import apply_monkey_patch

folder, store, plugin, rank, ranks, kind = sys.argv[1:]
if plugin:
    __import__(plugin)
torch.distributed.init_process_group(
    "gloo", init_method="file://" + store, rank=int(rank), world_size=int(ranks), timeout=datetime.timedelta(seconds=20)
)
model = AutoModelForImageTextToText.from_pretrained(folder)
apply_monkey_patch(model, use_remove_padding=False)
mesh = init_device_mesh("cpu", (int(ranks),))
for block in model.model.visual.blocks:
    fully_shard(block, mesh=mesh)
fully_shard(model, mesh=mesh)
ids, media = [1], {}
if kind in ("image", "both"):
    ids += [model.config.image_token_id] * 4
    media |= {"pixel_values": torch.ones(16, 1176), "image_grid_thw": torch.tensor([[1, 4, 4]])}
if kind in ("video", "both"):
    ids += [model.config.video_token_id] * 4
    media |= {"pixel_values_videos": torch.ones(16, 1176), "video_grid_thw": torch.tensor([[1, 4, 4]])}
places = torch.arange(len(ids)).expand(4, 1, -1)
model(input_ids=torch.tensor([ids]), position_ids=places, **media).logits.sum().backward()
"""


@pytest.mark.slow("upstream")
@pytest.mark.parametrize(
    ("kinds", "error"),
    [(("both", "image"), "Timed out waiting"), (("text",), "object has no attribute 'mean'")],
    ids=["two ranks wait for one another", "text alone"],
)
def test_verl_still_needs_one_tower_call(
    side_by_side: Callable[..., Any], tiny_model: Path, tmp_path: Path, kinds: tuple[str, ...], error: str
) -> None:
    def run(plugin: str) -> tuple[list[int], str]:
        arguments = (str(tiny_model), str(tmp_path / f"store{plugin}"), plugin)
        commands = [("-c", _RANK, *arguments, str(rank), str(len(kinds)), kind) for rank, kind in enumerate(kinds)]
        bare = {name: value for name, value in os.environ.items() if not name.startswith("VERL_")}
        statuses, outputs = zip(*side_by_side(commands, bare, seconds=90), strict=True)
        return list(statuses), "".join(outputs)

    assert run("jigsaw.verl_plugin.install")[0] == [0] * len(kinds)
    statuses, output = run("")
    assert any(statuses), "works without the patch now: remove it"
    assert re.search(error, output), output


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl"])
def embedding(request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tiny model of a family, verl's module for it, and a second copy of that, without our function."""
    folder, module = tiny_model, qwen2_vl
    if request.param == "qwen3_vl":
        folder = build_tiny_model(tmp_path_factory.mktemp("model") / "tiny", family="qwen3_vl", words=CUE_WORDS)
        module = qwen3_vl
    spec = find_spec(module.__name__)
    assert spec is not None
    assert spec.loader is not None
    copy = module_from_spec(spec)
    spec.loader.exec_module(copy)
    return AutoModelForImageTextToText.from_pretrained(folder).model, module, copy


def _embed(module: Any, model: Any, **inputs: Any) -> tuple[torch.Tensor, Any, list[torch.Tensor]]:
    """Embeddings, the mask that was given, and what goes to the text's first layers, where it goes."""
    found = module._get_input_embeds(model, **inputs)
    if isinstance(found, tuple):
        return *found, []
    levels = found["deepstack_visual_embeds"] or []
    return found["inputs_embeds"], found["attention_mask"], [*levels, *([found["visual_pos_masks"]] if levels else [])]


def _micro_batch(model: Any, kind: str) -> dict[str, torch.Tensor]:
    """Two sequences with images, videos or both."""
    rng = torch.Generator().manual_seed(0)
    ids = torch.randint(300, 400, (2, 60), generator=rng)
    size = 3 * 2 * model.config.vision_config.patch_size**2
    features = {}
    if kind in ("image", "both"):
        features["image_grid_thw"] = torch.tensor([[1, 4, 6], [1, 8, 8]])
        features["pixel_values"] = torch.randn(24 + 64, size, generator=rng)
        ids[0, 3:9] = ids[1, 25:41] = model.config.image_token_id
    if kind in ("video", "both"):
        features["video_grid_thw"] = torch.tensor([[2, 4, 4], [3, 4, 6]])
        features["pixel_values_videos"] = torch.randn(32 + 72, size, generator=rng)
        ids[0, 30:38] = ids[1, 5:23] = model.config.video_token_id
    return {"input_ids": ids, **features}


@pytest.mark.parametrize("kind", ["image", "video", "both"])
def test_one_tower_call_gives_what_verls_calls_give(embedding: Any, kind: str) -> None:
    model, module, verls = embedding
    inputs = _micro_batch(model, kind)
    mask = torch.ones_like(inputs["input_ids"])
    ours, our_mask, our_levels = _embed(module, model, attention_mask=mask, **inputs)
    theirs, _, their_levels = _embed(verls, model, attention_mask=mask, **inputs)
    assert module._get_input_embeds.__module__ == patches.__name__ != verls._get_input_embeds.__module__
    assert our_mask is mask
    for one, two in zip((ours, *our_levels), (theirs, *their_levels), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-6 if kind == "both" else 0)
    assert not torch.equal(ours, model.get_input_embeddings()(inputs["input_ids"]))


def test_text_alone_runs_the_tower_and_changes_nothing(embedding: Any) -> None:
    model, module, _ = embedding
    ids = _micro_batch(model, "text")["input_ids"]
    embeds, *_ = _embed(module, model, input_ids=ids)
    assert torch.equal(embeds, model.get_input_embeddings()(ids))
    model.zero_grad()
    embeds.sum().backward()
    gradients = [weight.grad for weight in model.visual.parameters()]
    assert gradients
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


def test_tokens_without_features_are_refused(embedding: Any) -> None:
    model, module, _ = embedding
    inputs = _micro_batch(model, "image")
    inputs["input_ids"][0, 50] = model.config.image_token_id
    with pytest.raises(JigsawError, match=r"23 tokens \(id \d+\) stand for 22 visual features"):
        module._get_input_embeds(model, **inputs)
