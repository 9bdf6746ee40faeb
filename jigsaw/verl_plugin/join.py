"""Waits until all nodes of a job have joined Ray: ``python -m jigsaw.verl_plugin.join ADDRESS SECONDS NODE…``."""

import logging
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ray

from jigsaw.errors import JigsawError, print_error

_LOOK_EVERY_S = 0.5


def missing(names: Sequence[str], nodes: Iterable[Mapping[str, Any]]) -> list[str]:
    """The names that no living node of ``ray.nodes()`` has, given by ``ray start --node-name``."""
    there = {node["NodeName"] for node in nodes if node["Alive"]}
    return [name for name in names if name not in there]


def wait_for_nodes(address: str, seconds: float, names: Sequence[str]) -> None:
    """Return once nodes of all these names are part of the cluster.

    Args:
        address: of the cluster, ``host:port``.
        seconds: how long to wait at most.
        names: as given to ``ray start --node-name``.

    Raises:
        JigsawError: if one has not joined by then.
    """
    end = time.monotonic() + seconds
    ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    while late := missing(names, ray.nodes()):
        if time.monotonic() > end:
            late_ones = ", ".join(late)
            raise JigsawError(
                f"not joined within {seconds:g} s: {late_ones}; see the log of each, and whether it reaches {address}"
            )
        time.sleep(_LOOK_EVERY_S)


if __name__ == "__main__":
    _address, _seconds, *_names = sys.argv[1:]
    try:
        wait_for_nodes(_address, float(_seconds), _names)
    except JigsawError as error:
        print_error(error)
        sys.exit(1)
