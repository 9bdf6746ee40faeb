"""GRPO of an adapter alone, with verl, Ray and vLLM on the CPU: it learns, resumes, and merges into its base."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from jigsaw.prepare.images import ImageOptions
from jigsaw.prepare.pipeline import prepare_rows
from jigsaw.toy.scenes import write_scenes
from jigsaw.verl_plugin.checkpoint import last_whole
from jigsaw.verl_plugin.export import export_checkpoint

pytestmark = [pytest.mark.e2e, pytest.mark.slow("training"), pytest.mark.timeout(1800)]

ADAPTER = [
    f"actor_rollout_ref.model.{option}"
    for option in (
        "lora_rank=4",
        "lora_alpha=8",
        "target_modules=all-linear",
        "lora.merge=true",
    )
]
TOWER = "actor_rollout_ref.model.exclude_modules"
KINDS = {
    "one rank, the tower frozen": [f"{TOWER}='.*visual.*'"],
    "two ranks, the tower too": [
        *(f"{TOWER}=null", "trainer.n_gpus_per_node=2", "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=16"),
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=16",
    ],
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, make_run: Any, untied_model: Path, kind: str) -> Any:
    """Two steps with gradient, and a third of a new start; its metrics by step."""
    folder = tmp_path_factory.mktemp("run")
    write_scenes(folder / "scenes", 40, seed=3)
    prepare_rows(
        folder / "scenes", folder / "data", ImageOptions(grid=(2, 1), val=8), progress=lambda done, total: None
    )
    run = make_run(folder, folder / "scenes", untied_model)
    fast = "actor_rollout_ref.actor.optim.lr=0.01"
    run.metrics = run.train(2, *ADAPTER, *KINDS[kind], fast, some_reward=True)
    run.metrics |= run.train(3, *ADAPTER, *KINDS[kind], fast, some_reward=True)
    return run


def test_each_step_moves_the_adapter_and_the_rollout_follows(run: Any) -> None:
    assert sorted(run.metrics) == [1, 2, 3]
    for values in run.metrics.values():
        assert values["actor/grad_norm"] > 0
        # verl sends merged weights in bfloat16, which the rollout here, in float32, works with.
        assert values["training/rollout_probs_diff_max"] < 2e-2


def test_it_merges_into_its_base_and_is_there_by_itself(run: Any, kind: str, tmp_path: Path) -> None:
    merged = tmp_path / "merged"
    export_checkpoint(last_whole(run.folder / "checkpoints"), merged)
    base, found = (_weights(folder) for folder in (run.model, merged))
    assert base.keys() == found.keys()
    adapter = load_file(merged / "lora_adapter/adapter_model.safetensors")
    config = json.loads((merged / "lora_adapter/adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 8)
    moved = 0
    for name, weight in found.items():
        # A saved model leaves out a part of the name that a loaded one's layers have.
        loaded = re.sub(r"^visual\b", "model.visual", re.sub(r"^model.layers\b", "model.language_model.layers", name))
        layer = f"base_model.model.{loaded.removesuffix('.weight')}"
        expected = base[name].float()
        if f"{layer}.lora_A.weight" in adapter:
            moved += 1
            expected = (
                expected + 2 * adapter[f"{layer}.lora_B.weight"].float() @ adapter[f"{layer}.lora_A.weight"].float()
            )
            assert not torch.equal(expected, base[name].float()), name
        torch.testing.assert_close(weight.float(), expected, rtol=8e-3, atol=1e-3)  # it is kept in bfloat16
    assert moved == len(adapter) // 2 > 0
    assert any("visual" in name for name in adapter) == ("too" in kind)


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: weight for file in folder.glob("*.safetensors") for name, weight in load_file(file).items()}
