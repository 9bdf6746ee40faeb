"""Two data-parallel ranks learn as one: verl's own workers, FSDP2 on gloo, a process a rank.

With one mini-batch a step, as in our configs. Of several, verl fills each with a part of every rank's share, so which
sequences an optimizer step sees depends on the number of ranks, and so do the weights.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec, module_from_spec
from itertools import product
from math import cos, pi
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText
from verl.models.transformers import qwen2_vl

from jigsaw.errors import JigsawError
from jigsaw.verl_plugin import patches

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

KINDS = ("image", "video", "both", "text")
PAIRS = tuple(f"{first}-{second}" for first, second in product(KINDS, repeat=2))
MODES = ("token-mean", "seq-mean-token-mean")
FLOAT = 1e-6
"""Much less than the 3e-4 by which a step moves a weight; the largest weights are rounded to 1e-7."""


def _run(commands: Sequence[Sequence[str]], environment: Mapping[str, str], seconds: float) -> list[tuple[int, str]]:
    """Exit status and last output of Python processes that run side by side and are ended after so many seconds."""
    environment = {**environment, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, *command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for command in commands
    ]
    end = time.monotonic() + seconds
    try:
        return [
            (process.wait(), output[-2000:])
            for process in processes
            for output, _ in [process.communicate(timeout=max(0.0, end - time.monotonic()))]
        ]
    finally:
        for process in processes:
            process.kill()


class Results:
    """The weights after each update, and its metrics."""

    def __init__(self, folder: Path, ranks: int) -> None:
        self._weights = load_file(folder / f"{ranks}.safetensors")
        self.metrics: dict[str, dict[str, float]] = json.loads((folder / f"{ranks}.json").read_text())

    def weights(self, update: str) -> dict[str, torch.Tensor]:
        prefix = f"{update}/"
        return {k.removeprefix(prefix): weight for k, weight in self._weights.items() if k.startswith(prefix)}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[int, Results]:
    """What one rank and what two ranks make of the same batches (rank.py)."""
    folder = tmp_path_factory.mktemp("ranks")
    script = str(Path(__file__).with_name("rank.py"))
    commands = [
        [script, str(tiny_model), str(folder), str(rank), str(ranks)] for ranks in (1, 2) for rank in range(ranks)
    ]
    for status, output in _run(commands, os.environ, seconds=300):
        assert status == 0, output
    return {ranks: Results(folder, ranks) for ranks in (1, 2)}


def _assert_equal_weights(results: dict[int, Results], update: str) -> None:
    one, two = results[1].weights(update), results[2].weights(update)
    assert one.keys() == two.keys()
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=0, atol=FLOAT, msg=lambda text, name=name: f"{name}: {text}")


def _assert_equal_metrics(results: dict[int, Results], update: str) -> None:
    """The weights alone do not tell the scale of a gradient: it is clipped, and Adam divides by it."""
    one, two = results[1].metrics[update], results[2].metrics[update]
    for name in ("loss", "grad_norm", "lr", "actor/pg_clipfrac", "actor/entropy_loss"):
        assert two[name] == pytest.approx(one[name], rel=1e-5, abs=FLOAT), name


# --- ranks whose micro-batches differ ---------------------------------------------------------------------------


@pytest.mark.parametrize("pair", PAIRS)
def test_ranks_that_see_different_media_learn_as_one(results: dict[int, Results], pair: str) -> None:
    _assert_equal_weights(results, pair)
    _assert_equal_metrics(results, pair)


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_tower_is_called_once_a_micro_batch(results: dict[int, Results], ranks: int) -> None:
    assert {results[ranks].metrics[pair]["tower_calls"] for pair in PAIRS} == {1.0}


@pytest.mark.parametrize("pair", PAIRS)
def test_the_tower_learns_from_media_alone(results: dict[int, Results], pair: str) -> None:
    start, end = results[2].weights("token-mean-0"), results[2].weights(pair)
    moved = {name for name in start if ".visual." in name and not torch.equal(start[name], end[name])}
    assert bool(moved) == (pair != "text-text")


# --- one update ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "number"), product(MODES, (1, 2)))
def test_an_update_is_the_same_on_one_rank_and_on_two(results: dict[int, Results], mode: str, number: int) -> None:
    _assert_equal_weights(results, f"{mode}-{number}")
    _assert_equal_metrics(results, f"{mode}-{number}")


@pytest.mark.parametrize(("mode", "number"), product(MODES, (1, 2)))
def test_the_updates_clip_ratios_and_gradients_and_follow_the_schedule(
    results: dict[int, Results], mode: str, number: int
) -> None:
    metrics = results[2].metrics[f"{mode}-{number}"]
    assert 0.1 < metrics["actor/pg_clipfrac"] < 0.9
    assert metrics["grad_norm"] > 10 * 0.1  # rank.py's clip_grad
    assert metrics["lr"] == pytest.approx(3e-4 * (1 + cos(pi * number / 4)) / 2)
    before, after = (results[2].weights(f"{mode}-{n}") for n in (number - 1, number))
    assert max(float((after[name] - before[name]).abs().max()) for name in after) > 1e-4


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


@pytest.mark.parametrize(
    ("kinds", "error"),
    [(("both", "image"), "collective mismatch|Timed out"), (("text",), "object has no attribute 'mean'")],
    ids=["two ranks that differ", "text alone"],
)
def test_verl_still_needs_one_tower_call(tiny_model: Path, tmp_path: Path, kinds: tuple[str, ...], error: str) -> None:
    bare = {name: value for name, value in os.environ.items() if not name.startswith("VERL_")}
    results = {
        plugin: _run(
            [
                [
                    "-c",
                    _RANK,
                    str(tiny_model),
                    str(tmp_path / f"store{plugin}"),
                    plugin,
                    str(rank),
                    str(len(kinds)),
                    kind,
                ]
                for rank, kind in enumerate(kinds)
            ],
            bare,
            seconds=90,
        )
        for plugin in ("jigsaw.verl_plugin", "")
    }
    assert [status for status, _ in results["jigsaw.verl_plugin"]] == [0] * len(kinds), results
    statuses, outputs = zip(*results[""], strict=True)
    assert any(statuses), "works without the patch now: remove it"
    assert re.search(error, "".join(outputs)), outputs


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    return AutoModelForImageTextToText.from_pretrained(tiny_model).model


@pytest.fixture(scope="module")
def verl_embeds() -> Any:
    """verl's own function, from a second copy of its module."""
    spec = find_spec(qwen2_vl.__name__)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module._get_input_embeds


def _micro_batch(model: Any, kind: str) -> dict[str, torch.Tensor]:
    """Two sequences with images, videos or both."""
    rng = torch.Generator().manual_seed(0)
    ids = torch.randint(300, 400, (2, 60), generator=rng)
    features = {}
    if kind in ("image", "both"):
        features["image_grid_thw"] = torch.tensor([[1, 4, 6], [1, 8, 8]])
        features["pixel_values"] = torch.randn(24 + 64, 1176, generator=rng)
        ids[0, 3:9] = ids[1, 5:21] = model.config.image_token_id
    if kind in ("video", "both"):
        features["video_grid_thw"] = torch.tensor([[2, 4, 4], [3, 4, 6]])
        features["pixel_values_videos"] = torch.randn(32 + 72, 1176, generator=rng)
        ids[0, 30:38] = ids[1, 30:48] = model.config.video_token_id
    return {"input_ids": ids, **features}


@pytest.mark.parametrize("kind", ["image", "video", "both"])
def test_one_tower_call_gives_what_verls_calls_give(model: Any, verl_embeds: Any, kind: str) -> None:
    inputs = _micro_batch(model, kind)
    mask = torch.ones_like(inputs["input_ids"])
    ours, our_mask = qwen2_vl._get_input_embeds(model, attention_mask=mask, **inputs)
    theirs, _ = verl_embeds(model, attention_mask=mask, **inputs)
    assert qwen2_vl._get_input_embeds.__module__ == patches.__name__ != verl_embeds.__module__
    assert our_mask is mask
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6 if kind == "both" else 0)
    assert not torch.equal(ours, model.get_input_embeddings()(inputs["input_ids"]))


def test_text_alone_runs_the_tower_and_changes_nothing(model: Any) -> None:
    ids = _micro_batch(model, "text")["input_ids"]
    embeds, _ = qwen2_vl._get_input_embeds(model, ids)
    assert torch.equal(embeds, model.get_input_embeddings()(ids))
    model.zero_grad()
    embeds.sum().backward()
    gradients = [weight.grad for weight in model.visual.parameters()]
    assert gradients
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


def test_tokens_without_features_are_refused(model: Any) -> None:
    inputs = _micro_batch(model, "image")
    inputs["input_ids"][0, 50] = model.config.image_token_id
    with pytest.raises(JigsawError, match=r"23 tokens \(id \d+\) stand for 22 visual features"):
        qwen2_vl._get_input_embeds(model, **inputs)
