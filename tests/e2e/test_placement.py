"""What Ray has no room for ends a run in one line, where verl and its queue would wait for ever."""

import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
import ray
import transfer_queue as tq
from omegaconf import OmegaConf
from verl.single_controller.ray import RayResourcePool

from jigsaw.errors import JigsawError
from jigsaw.verl_plugin import placement

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


@pytest.fixture(autouse=True)
def two_nodes(shared_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two cores each, and no GPU; to start a process there takes some seconds."""
    monkeypatch.setattr(placement, "_PATIENCE_S", 15.0)


@pytest.fixture
def queue() -> Iterator[Any]:
    """Starts TransferQueue with a number of storage units."""

    def start(units: int) -> None:
        tq.init(OmegaConf.create({"backend": {"SimpleStorage": {"num_data_storage_units": units}}}))

    yield start
    tq.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what starts no process."""
    monkeypatch.setattr(placement, "_PATIENCE_S", 2.0)


@pytest.mark.usefixtures("impatient")
def test_gpus_that_are_not_there_are_not_waited_for() -> None:
    pool = RayResourcePool([2], max_colocate_count=3)
    with pytest.raises(
        JigsawError, match=r"^Ray has no machine with 2 × 3 CPU and 1 GPU free: 0 GPU and 2 CPU, 0 GPU a"
    ):
        pool.get_placement_groups(device_name="cpu")


@pytest.mark.usefixtures("impatient")
def test_cores_must_be_free_on_one_machine() -> None:
    with pytest.raises(
        JigsawError, match=r"^Ray has no machine with 3 × 1 CPU free: 0 GPU and 2 CPU, 0 GPU and 2 CPU; "
    ):
        RayResourcePool([3], use_gpu=False, max_colocate_count=1).get_placement_groups(device_name="cpu")
    pool = RayResourcePool([2, 2], use_gpu=False, max_colocate_count=1)
    for group in pool.get_placement_groups(device_name="cpu"):
        ray.util.remove_placement_group(group)


@pytest.mark.slow("cluster")
def test_the_queue_does_not_wait_for_cores_either(queue: Any) -> None:
    with pytest.raises(
        JigsawError, match=r"^Ray has no CPU core for [2-3] of 5 actors of verl's queue: 0 GPU and 0 CPU"
    ):
        queue(5)


class Slow:
    """An actor whose process is there long before it answers."""

    def __init__(self) -> None:
        time.sleep(5)


def test_an_actor_that_starts_slowly_is_no_matter() -> None:
    begin = time.monotonic()
    placement.wait_for_actors([ray.remote(Slow).options(num_cpus=1).remote()])
    assert time.monotonic() - begin < 5


_WAITS = """
import ray

class Asked(Exception): ...

def get(refs, *, timeout=None):
    raise Asked(f"timeout={timeout}")

ray.get = get
"""


def _asks(code: str) -> str:
    """The last line that code without the plug-in dies of, at its first wait for Ray."""
    command = [sys.executable, "-c", _WAITS + code]
    ended = subprocess.run(command, capture_output=True, text=True, env={"VERL_PLATFORM": ""}, check=False)
    return ended.stderr.splitlines()[-1]


@pytest.mark.slow("upstream")
def test_verl_still_waits_for_a_placement_without_a_limit() -> None:
    said = _asks(
        "from unittest.mock import MagicMock\n"
        "from verl.single_controller.ray import base\n"
        "base.placement_group = MagicMock()\n"
        "base.RayResourcePool([1]).get_placement_groups()\n"
    )
    assert said.endswith("Asked: timeout=None"), "it has a limit now: remove the patch"


@pytest.mark.slow("upstream")
def test_the_queue_still_waits_for_its_actors_without_a_limit() -> None:
    said = _asks(
        "from unittest.mock import MagicMock\n"
        "from transfer_queue.utils.zmq_utils import process_zmq_server_info\n"
        "process_zmq_server_info(MagicMock())\n"
    )
    assert said.endswith("Asked: timeout=None"), "it has a limit now: remove the patch"
