"""What Ray cannot place ends the run in one line; verl and its queue would wait for it for ever.

The launcher compares a run with the machines before it starts (preflight.py). On a cluster that others use, what was
free then may be taken since.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import ray

from jigsaw.errors import JigsawError

_PATIENCE_S = 60.0
_LOOK_EVERY_S = 0.2


def wait_for_group(group: Any, bundles: Sequence[Mapping[str, float]]) -> None:
    """Wait until Ray has set a placement group aside.

    Raises:
        JigsawError: if it has not within a minute.
    """
    if not group.wait(_PATIENCE_S):
        parts = Counter(
            " and ".join(f"{count:g} {kind}" for kind, count in sorted(bundle.items())) for bundle in bundles
        )
        wanted = ", ".join(f"{count} × {part}" for part, count in parts.items())
        raise JigsawError(
            f"Ray has no machine with {wanted} free: {_free()}; end what runs there, or ask for fewer GPUs"
        )


def wait_for_actors(actors: Sequence[Any]) -> None:
    """Wait until Ray has given each of the queue's actors a process; what that takes to start is not waited for.

    Raises:
        JigsawError: if one has none within a minute.
    """
    end = time.monotonic() + _PATIENCE_S
    while waiting := [actor for actor in actors if not _has_process(actor)]:
        if time.monotonic() > end:
            raise JigsawError(
                f"Ray has no CPU core for {len(waiting)} of {len(actors)} actors of verl's queue: {_free()}; end what "
                "runs there, or lower transfer_queue.backend.SimpleStorage.num_data_storage_units"
            )
        time.sleep(_LOOK_EVERY_S)


def _has_process(actor: Any) -> bool:
    # Ray tells a state of an actor that waits for a core from that of one whose process starts by this alone.
    return bool(ray._private.state.actors(actor._actor_id.hex()).get("Pid"))


def _free() -> str:
    """What is free on each machine."""
    nodes = ray._private.state.available_resources_per_node().values()
    return ", ".join(f"{node.get('GPU', 0):g} GPU and {node.get('CPU', 0):g} CPU" for node in nodes)
