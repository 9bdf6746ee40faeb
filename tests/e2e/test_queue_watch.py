"""TransferQueue's controller may die; who waits for it is told."""

import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import ray
import transfer_queue as tq
from omegaconf import OmegaConf

from jigsaw.errors import JigsawError
from jigsaw.verl_plugin import queue_watch

pytestmark = [pytest.mark.e2e, pytest.mark.slow("faults")]


@pytest.fixture
def controller(shared_ray: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """That of a queue which is watched."""
    before = signal.getsignal(signal.SIGUSR1)
    monkeypatch.setattr(queue_watch, "_EVERY_S", 0.1)
    tq.init(OmegaConf.create({"backend": {"SimpleStorage": {"num_data_storage_units": 1}}}))
    queue_watch.end_with_the_queue()
    yield ray.get_actor("TransferQueueController", namespace="transfer_queue")
    tq.close()
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.timeout(60)
def test_who_waits_for_a_dead_controller_is_told(controller: Any) -> None:
    with pytest.raises(JigsawError, match="TransferQueue's controller died"):
        ray.kill(controller)
        while True:  # it may answer once more
            tq.kv_list("train")


@pytest.mark.timeout(60)
def test_a_queue_that_is_closed_is_watched_no_more(controller: Any) -> None:
    (watch,) = (thread for thread in threading.enumerate() if thread.name == "queue watch")
    tq.close()
    watch.join(timeout=20)
    assert not watch.is_alive()
    time.sleep(0.5)  # an error would come now
