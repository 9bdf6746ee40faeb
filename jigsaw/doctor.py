"""Is this machine ready to train? One check a thing that a run needs, and what to do where it is not."""

import json
import os
import resource
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import psutil

from jigsaw.machine import (
    DISTRIBUTION,
    SETUP,
    SETUP_GPU,
    Pin,
    answers,
    available_cores,
    installed,
    last_cluster,
    pins,
)

Status = Literal["ok", "warning", "problem"]

PYTHONS = ((3, 11), (3, 12))
GIB = 2**30
QUICKSTART_MEMORY = 12 * GIB
SHARED_MEMORY = 2 * GIB  # Ray's object store and the weights on their way to vLLM live there
DISK = 12 * GIB  # 7.6 GiB of packages, the rest for checkpoints; setup.sh asks for as much
DISK_AT_LEAST = 1 * GIB
OPEN_FILES = 65536  # what Ray's documentation recommends
_PROBE_SECONDS = 60

# Imports run in processes of their own: what a broken installation raises, prints or keeps of memory stays there.
_PROBES = {
    "torch": (
        "import json, torch\n"
        "gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]\n"
        "print(json.dumps([[gpu.name, gpu.total_memory] for gpu in gpus]))"
    ),
    "ray": "import ray",
    "verl": "import verl, jigsaw.verl_plugin.install, jigsaw.verl_plugin.agent_loop",
}


@dataclass(frozen=True)
class Check:
    """What one look at the machine found.

    Attributes:
        name: what was looked at.
        status: ok, warning (it runs, but) or problem (it will not run).
        found: what is there.
        advice: what to do; empty when ok.
    """

    name: str
    status: Status
    found: str
    advice: str = ""


@dataclass(frozen=True)
class Probe:
    """The end of an import in a process of its own: what it printed, or the error that it died of (None if none)."""

    printed: str
    error: str | None


def examine() -> list[Check]:
    """Look at everything. Starts no Ray and changes nothing; takes seconds, most of them torch's and verl's imports."""
    with ThreadPoolExecutor(len(_PROBES)) as pool:
        probes = {name: pool.submit(probe, code) for name, code in _PROBES.items() if find_spec(name) is not None}
        memory, limit = psutil.virtual_memory(), memory_limit()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        checks = [
            check_python(sys.version_info[:2]),
            *check_packages(pins(), installed),
            check_memory(min(memory.total, limit), min(memory.available, limit)),
            check_cores(available_cores()),
            check_shared_memory(shutil.disk_usage("/dev/shm").total if Path("/dev/shm").is_dir() else None),
            check_open_files(soft, hard),
            check_disk(Path.cwd(), shutil.disk_usage(Path.cwd()).free),
            check_gpus(
                _result(probes, "torch"),
                has_driver=shutil.which("nvidia-smi") is not None,
                for_gpus=installed("vllm") is not None,
            ),
        ]
        if (imported := _result(probes, "ray")) is not None:
            address = os.environ.get("RAY_ADDRESS", "")
            checks.append(check_ray(imported, address, last_cluster(), answers))
        if (imported := _result(probes, "verl")) is not None:
            checks.append(check_plugin(imported))
    return checks


def _result(probes: dict[str, Future[Probe]], name: str) -> Probe | None:
    return probes[name].result() if name in probes else None


def probe(code: str, seconds: float = _PROBE_SECONDS) -> Probe:
    """Run a line of Python in a process of its own, with this Python and its paths.

    Args:
        code: what to run.
        seconds: how long it may take.
    """
    try:
        ended = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, errors="replace", timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return Probe("", f"took longer than {seconds:.0f} s")
    if ended.returncode == 0:
        return Probe(ended.stdout, None)
    last = ended.stderr.strip().splitlines()[-1:] or [f"ended with exit code {ended.returncode}"]
    return Probe(ended.stdout, last[0])


def check_python(found: tuple[int, ...]) -> Check:
    """Judge the Python version, given as (major, minor)."""
    here = ".".join(map(str, found))
    if found in PYTHONS:
        return Check("Python", "ok", here)
    wanted = " or ".join(".".join(map(str, python)) for python in PYTHONS)
    return Check("Python", "problem", here, f"make the environment with Python {wanted}")


def check_packages(pins: list[Pin] | None, installed: Callable[[str], str | None]) -> list[Check]:
    """Judge the installed packages against the pins: core, training with its vLLM, evaluation.

    Args:
        pins: see :func:`pins`.
        installed: gives the installed version of a package, None if there is none.
    """
    if pins is None:
        return [
            Check(DISTRIBUTION, "warning", "not installed, so versions have no pins", f"{SETUP}, or pip install -e .")
        ]
    by_extra: dict[str, list[Pin]] = {}
    for pin in pins:
        by_extra.setdefault(pin.extra, []).append(pin)
    checks = [_check_package(pin, installed) for pin in by_extra.get("", [])]

    training = by_extra.get("train", [])
    if installed("verl") is None:
        checks.append(Check("training packages", "warning", "not installed", f"to train: {SETUP}"))
    else:
        checks += [_check_package(pin, installed) for pin in training]
        # What the extras for CPU and GPU ask for beyond training is their build of vLLM.
        known = {pin.package for pin in training}
        engines = {pin.package: pin for name in ("cpu", "gpu") for pin in by_extra.get(name, ())}
        present = [pin for name, pin in engines.items() if name not in known and installed(name) is not None]
        checks += [_check_package(pin, installed) for pin in present]
        if not present:
            checks.append(Check("vLLM", "problem", "not installed", f"{SETUP} (or: {SETUP_GPU})"))
    checks += [_check_package(pin, installed) for pin in by_extra.get("eval", []) if installed(pin.package) is not None]
    return checks


def _check_package(pin: Pin, installed: Callable[[str], str | None]) -> Check:
    found = installed(pin.package)
    if found is not None and pin.met_by(found):
        return Check(pin.package, "ok", found)
    wanted = f"{pin.package}{pin.operator}{pin.wanted}"
    return Check(pin.package, "problem", found or "not installed", f"{SETUP}, or pip install '{wanted}'")


def memory_limit() -> float:
    """The container's memory limit in bytes (cgroup 2 or 1); infinite if there is none."""
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        if Path(path).is_file() and (text := Path(path).read_text().strip()).isdecimal():
            return int(text)
    return float("inf")


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"


def check_memory(total: float, available: float) -> Check:
    """Judge the memory, in bytes."""
    found = f"{_gib(available)} free of {_gib(total)}"
    if available >= QUICKSTART_MEMORY:
        return Check("memory", "ok", found)
    return Check("memory", "warning", found, f"the quickstart may need {_gib(QUICKSTART_MEMORY)}: end other programs")


def check_cores(cores: int) -> Check:
    """Judge the number of cores that this process may use."""
    if cores >= 2:
        return Check("CPU cores", "ok", str(cores))
    return Check("CPU cores", "warning", str(cores), "training works but is slow; give it 2 cores or more")


def check_shared_memory(size: int | None) -> Check:
    """Judge the size of /dev/shm in bytes; None if there is none."""
    advice = "Ray and vLLM will be slow or fail; in Docker: --shm-size=8g"
    if size is None:
        return Check("/dev/shm", "warning", "none", advice)
    return (
        Check("/dev/shm", "ok", _gib(size))
        if size >= SHARED_MEMORY
        else Check("/dev/shm", "warning", _gib(size), advice)
    )


def check_open_files(soft: int, hard: int) -> Check:
    """Judge the limits on open files; ``resource.RLIM_INFINITY`` is none."""
    if soft == resource.RLIM_INFINITY or soft >= OPEN_FILES:
        return Check("open files", "ok", "unlimited" if soft == resource.RLIM_INFINITY else str(soft))
    if hard == resource.RLIM_INFINITY or hard >= OPEN_FILES:
        return Check("open files", "warning", str(soft), f"for Ray on many cores: ulimit -n {OPEN_FILES}")
    advice = f"for Ray on many cores: raise nofile to {OPEN_FILES} in /etc/security/limits.conf or by docker --ulimit"
    return Check("open files", "warning", f"{soft} (at most {hard})", advice)


def check_disk(folder: Path, free: int) -> Check:
    """Judge the room in the working folder, in bytes."""
    found = f"{_gib(free)} free in {folder}"
    if free >= DISK:
        return Check("disk", "ok", found)
    status: Status = "warning" if free >= DISK_AT_LEAST else "problem"
    return Check("disk", status, found, f"packages and checkpoints take about {_gib(DISK)}: make room")


def check_gpus(imported: Probe | None, *, has_driver: bool, for_gpus: bool) -> Check:
    """Judge the GPUs that torch sees.

    Args:
        imported: the end of torch's probe; None if torch is not installed.
        has_driver: whether NVIDIA's driver is installed.
        for_gpus: whether the installed vLLM is the one for GPUs.
    """
    if imported is None:
        return Check("GPUs", "ok", "not looked for: torch is not installed")
    if imported.error is not None:
        return Check("GPUs", "problem", f"torch cannot be imported: {imported.error}", SETUP)
    gpus = [f"{name} ({_gib(size)})" for name, size in json.loads(imported.printed.splitlines()[-1])]
    if gpus:
        return Check("GPUs", "ok", ", ".join(f"{count} × {gpu}" for gpu, count in Counter(gpus).items()))
    if has_driver:
        advice = f"look at nvidia-smi and CUDA_VISIBLE_DEVICES; then {SETUP_GPU}"
        status: Status = "problem" if for_gpus else "warning"
        return Check("GPUs", status, "there is a driver, but torch sees no GPU", advice)
    if for_gpus:
        advice = f"install NVIDIA's driver, or the set for machines without a GPU: {SETUP}"
        return Check("GPUs", "problem", "the set for GPUs is installed, but there is no NVIDIA driver", advice)
    return Check("GPUs", "ok", "no GPU: the CPU stack is used")


def check_ray(imported: Probe, address: str, last_cluster: str, answers: Callable[[str], bool]) -> Check:
    """Judge Ray and the cluster that a run would join.

    Args:
        imported: the end of Ray's probe.
        address: the environment's RAY_ADDRESS; empty if not set.
        last_cluster: address of the last cluster started on this machine; empty if none.
        answers: whether something listens at an address.
    """
    if imported.error is not None:
        return Check("Ray", "problem", f"cannot be imported: {imported.error}", SETUP)
    if address not in ("", "auto", "local"):
        if answers(address):
            return Check("Ray", "ok", f"the cluster at RAY_ADDRESS={address} answers")
        return Check(
            "Ray", "problem", f"nothing answers at RAY_ADDRESS={address}", "start the cluster or unset RAY_ADDRESS"
        )
    if address != "local" and last_cluster and answers(last_cluster):
        advice = "a run joins it; to have its own: RAY_ADDRESS=local, or end it: ray stop"
        return Check("Ray", "warning", f"a cluster runs at {last_cluster}", advice)
    if address == "auto":
        return Check(
            "Ray", "problem", "RAY_ADDRESS=auto, but no cluster runs here", "ray start --head, or unset RAY_ADDRESS"
        )
    return Check("Ray", "ok", "no cluster runs: a run starts its own")


def check_plugin(imported: Probe) -> Check:
    """Judge whether verl can load the project's dataset."""
    if imported.error is None:
        return Check("verl plug-in", "ok", "can be imported")
    return Check("verl plug-in", "problem", f"cannot be imported: {imported.error}", SETUP)
