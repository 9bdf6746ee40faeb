"""What this machine has, as Ray counts it, and the Ray cluster that a run would join."""

import logging
import os
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from jigsaw.errors import JigsawError
from jigsaw.prepare.runner import answers


def installed(package: str) -> str | None:
    """The installed version of a package, None if there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def gpus() -> int:
    """Number of NVIDIA GPUs that this process may use."""
    from ray._private.accelerators import NvidiaGPUAcceleratorManager as Manager

    visible = Manager.get_current_process_visible_accelerator_ids()
    present = int(Manager.get_current_node_num_accelerators())
    return present if visible is None else min(present, len(visible))


def cores() -> int:
    """Number of CPU cores that Ray would deal out, a container's limit respected."""
    from ray._private.utils import get_num_cpus

    return int(get_num_cpus(override_docker_cpu_warning=True))


def last_cluster() -> str:
    """Address of the last cluster that ``ray start`` made on this machine, running or not; empty if there is none."""
    path = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")
    return path.read_text().strip() if path.is_file() else ""


def cluster(address: str | None) -> str | None:
    """Address of the Ray cluster that ``ray.init(address)`` joins; None where it starts one of its own.

    Raises:
        JigsawError: if it would join one that does not answer.
    """
    wanted = address or os.environ.get("RAY_ADDRESS", "")
    if wanted == "local":
        return None
    last = last_cluster()
    if wanted in ("", "auto"):
        if last and answers(last):
            return last
        if wanted:
            raise JigsawError("Ray's address is auto, but no cluster runs here; ray start --head, or unset RAY_ADDRESS")
        return None
    if not answers(wanted):
        raise JigsawError(f"no Ray cluster answers at {wanted}; start it, or unset RAY_ADDRESS")
    return wanted


def nodes_of(address: str) -> tuple[list[Mapping[str, float]], Mapping[str, float]]:
    """(resources of each node, resources that are free in all) of a Ray cluster, such as ``{"CPU": 64, "GPU": 8}``.

    Raises:
        JigsawError: if it cannot be joined.
    """
    import ray

    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        why = " ".join(str(error).split())
        raise JigsawError(f"the Ray cluster at {address} cannot be joined: {why:.200}") from error
    try:
        return [node["Resources"] for node in ray.nodes() if node["Alive"]], ray.available_resources()
    finally:
        ray.shutdown()
