"""Mends of vLLM: its CPU path multiplies by weights that were packed once; its queues outlive it in /dev/shm."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from jigsaw.verl_plugin.cpu.patches import linear

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


def test_a_row_is_the_same_in_any_batch() -> None:
    x, weight, bias = torch.randn(70, 96), torch.randn(64, 96), torch.randn(64)
    whole = linear(x, weight, bias)
    torch.testing.assert_close(whole, x @ weight.T + bias)
    for begin, end in ((0, 1), (3, 5), (17, 50), (69, 70)):
        assert torch.equal(linear(x[begin:end], weight, bias), whole[begin:end])
    many = linear(x.repeat(15, 1), weight, bias).view(15, 70, 64)
    assert torch.equal(many, whole.expand(15, -1, -1))
    assert torch.equal(linear(x.view(7, 10, 96), weight, bias), whole.view(7, 10, 64))
    assert linear(x[:0], weight, bias).shape == (0, 64)


@pytest.mark.slow("upstream")
def test_vllm_still_needs_the_patch() -> None:
    result = _run("")
    assert result.returncode != 0, "works without the patch now: remove it"
    assert "the weight is gone" in result.stderr or "did not reach" in result.stderr


_QUEUE = """
import os, signal, sys, threading
from pathlib import Path
from vllm.distributed.device_communicators.shm_broadcast import MessageQueue
if sys.argv[1]:
    from jigsaw.verl_plugin.patches import queues_leave_no_files
    queues_leave_no_files()

queue = MessageQueue(1, 1)
print(queue.buffer.shared_memory.name, flush=True)
reader = MessageQueue.create_from_handle(queue.export_handle(), 0)
ready = threading.Thread(target=reader.wait_until_ready)
ready.start()
queue.wait_until_ready()
ready.join()
queue.enqueue({"a": 1})
assert reader.dequeue() == {"a": 1}
print("read", flush=True)
from multiprocessing.resource_tracker import _resource_tracker
for pid in (_resource_tracker._pid, os.getpid()):  # as Ray ends a worker with its children
    os.kill(pid, signal.SIGKILL)
"""


@pytest.mark.parametrize("patched", [True, False], ids=["with the patch", "without"])
def test_a_queue_that_is_killed_leaves_no_shared_memory(patched: bool) -> None:
    command = [sys.executable, "-c", _QUEUE, "yes" if patched else ""]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    name, read = ended.stdout.split()
    assert read == "read", ended.stderr
    left = Path("/dev/shm", name)
    assert left.exists() is not patched, "works without the patch now: remove it"
    left.unlink(missing_ok=True)
