"""vLLM's CPU path multiplies by weights that were packed once; the patch has it use the live ones."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.e2e

_CODE = """
import torch
from jigsaw.verl_plugin.cpu.patches import keep_plain_weights
keep_plain_weights()
from vllm.model_executor.layers import utils

torch.manual_seed(0)
layer = torch.nn.Linear(64, 64, bias=False)
x = torch.randn(3, 64)
layer.weight.requires_grad_(False)
update = layer.weight + 1
utils.dispatch_cpu_unquantized_gemm(layer, remove_weight=True)
assert layer.weight.shape == update.shape, "the weight is gone"
layer.weight.copy_(update)
got = utils.cpu_unquantized_gemm(layer, x, layer.weight)
assert torch.allclose(got, x @ update.T, atol=1e-4), "the update did not reach the multiplication"
print("live")
"""


def _run(platform: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "VERL_PLATFORM": platform}
    return subprocess.run([sys.executable, "-c", _CODE], capture_output=True, text=True, env=environment, check=False)


def test_updates_reach_vllms_layers_with_the_patch() -> None:
    result = _run("cpu")
    assert result.stdout.endswith("live\n"), result.stderr


def test_vllm_still_needs_the_patch() -> None:
    result = _run("")
    assert result.returncode != 0, "works without the patch now: remove it"
    assert "the weight is gone" in result.stderr or "did not reach" in result.stderr
