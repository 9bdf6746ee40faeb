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

from jigsaw import machine
from jigsaw.machine import (
    DISTRIBUTION,
    SETUP,
    SETUP_GPU,
    Cuda,
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
SHARED_MEMORY_A_GPU = GIB // 2  # vLLM's queues
DISK = 12 * GIB  # 7.6 GiB of packages, the rest for checkpoints; setup.sh asks for as much
DISK_FOR_GPUS = 16 * GIB  # as setup.sh does for that set; what a run's checkpoints take follows from its model
DISK_AT_LEAST = 1 * GIB
DRIVERS = {13: "580.65"}
"""The first of NVIDIA's drivers that knows a CUDA of this major version; it runs what was built with any of them."""
OPEN_FILES = 65536  # what Ray's documentation recommends
_PROBE_SECONDS = 180  # of a first import, from a slow disk or on a busy machine

# Imports run in processes of their own: what a broken installation raises, prints or keeps of memory stays there.
_PROBES = {
    "torch": (
        "import json, torch\n"
        "gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]\n"
        "print(json.dumps([[gpu.name, gpu.total_memory] for gpu in gpus]))"
    ),
    "ray": "import ray; from ray._private.utils import get_num_cpus; print(int(get_num_cpus(True)))",
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
        memory = machine.memory()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        for_gpus, gpus = installed("vllm") is not None, len(seen_gpus(_result(probes, "torch")))
        checks = [
            check_python(sys.version_info[:2]),
            *check_packages(pins(), installed),
            check_memory(memory, min(psutil.virtual_memory().available, memory)),
            check_cores(_cores(_result(probes, "ray")), gpus),
            check_shared_memory(shutil.disk_usage("/dev/shm").total if Path("/dev/shm").is_dir() else None, gpus),
            check_open_files(soft, hard),
            check_disk(Path.cwd(), shutil.disk_usage(Path.cwd()).free, DISK_FOR_GPUS if for_gpus else DISK),
            check_gpus(_result(probes, "torch"), has_driver=shutil.which("nvidia-smi") is not None, for_gpus=for_gpus),
            *(check_gpu_software() if for_gpus else []),
        ]
        if (imported := _result(probes, "ray")) is not None:
            address = os.environ.get("RAY_ADDRESS", "")
            checks.append(check_ray(imported, address, last_cluster(), answers))
        if (imported := _result(probes, "verl")) is not None:
            checks.append(check_plugin(imported))
    return checks


def check_gpu_software() -> list[Check]:
    """Judge what a GPU's first kernel takes beside the packages: Triton compiles its launchers on the machine."""
    checks = [check_compiler(machine.compiler(), os.environ.get("CC")), check_headers(machine.python_header())]
    driver, torch = machine.cuda_of_driver(), machine.cuda_of_torch()
    if driver is not None and torch is not None:  # without a driver no GPU is seen, which is said of them
        checks.append(check_driver(driver, torch))
    return checks


def _cores(imported: Probe | None) -> int:
    """As Ray counts them, a container's limit respected, where it can be asked."""
    if imported is None or imported.error is not None:
        return available_cores()
    return int(imported.printed.splitlines()[-1])


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


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"


def check_memory(total: float, available: float) -> Check:
    """Judge the memory, in bytes."""
    found = f"{_gib(available)} free of {_gib(total)}"
    if available >= QUICKSTART_MEMORY:
        return Check("memory", "ok", found)
    return Check("memory", "warning", found, f"the quickstart may need {_gib(QUICKSTART_MEMORY)}: end other programs")


def check_cores(cores: int, gpus: int = 0) -> Check:
    """Judge the number of cores that this process may use, on a machine with GPUs by what verl's actors take."""
    if gpus and cores < (wanted := machine.cores_of_a_run(gpus)):
        advice = (
            f"a run on {gpus} GPUs takes {wanted} of Ray's: machine=gpu_1 or gpu_4 take fewer, "
            f"ray_kwargs.ray_init.num_cpus={wanted} has them share cores"
        )
        return Check("CPU cores", "warning", str(cores), advice)
    if cores >= 2:
        return Check("CPU cores", "ok", str(cores))
    return Check("CPU cores", "warning", str(cores), "training works but is slow; give it 2 cores or more")


def check_shared_memory(size: int | None, gpus: int = 0) -> Check:
    """Judge the size of /dev/shm in bytes; None if there is none."""
    wanted = SHARED_MEMORY + gpus * SHARED_MEMORY_A_GPU
    advice = f"Ray and vLLM will be slow or fail; in Docker: --shm-size={max(8, -(-wanted // GIB))}g"
    if size is None:
        return Check("/dev/shm", "warning", "none", advice)
    return Check("/dev/shm", "ok", _gib(size)) if size >= wanted else Check("/dev/shm", "warning", _gib(size), advice)


def check_open_files(soft: int, hard: int) -> Check:
    """Judge the limits on open files; ``resource.RLIM_INFINITY`` is none."""
    if soft == resource.RLIM_INFINITY or soft >= OPEN_FILES:
        return Check("open files", "ok", "unlimited" if soft == resource.RLIM_INFINITY else str(soft))
    if hard == resource.RLIM_INFINITY or hard >= OPEN_FILES:
        return Check("open files", "warning", str(soft), f"for Ray on many cores: ulimit -n {OPEN_FILES}")
    advice = f"for Ray on many cores: raise nofile to {OPEN_FILES} in /etc/security/limits.conf or by docker --ulimit"
    return Check("open files", "warning", f"{soft} (at most {hard})", advice)


def check_disk(folder: Path, free: int, wanted: int = DISK) -> Check:
    """Judge the room in the working folder, in bytes."""
    found = f"{_gib(free)} free in {folder}"
    if free >= wanted:
        return Check("disk", "ok", found)
    status: Status = "warning" if free >= DISK_AT_LEAST else "problem"
    return Check("disk", status, found, f"packages and checkpoints take about {_gib(wanted)}: make room")


def check_compiler(found: str | None, chosen: str | None) -> Check:
    """Judge the C compiler.

    Args:
        found: its path; None if there is none.
        chosen: the environment's CC; None if not set.
    """
    if found is not None:
        return Check("C compiler", "ok", found)
    if chosen is not None:
        return Check("C compiler", "problem", f"CC is {chosen!r}, which is not there", "set CC to one, or unset it")
    advice = "Triton, which torch and vLLM use, compiles with it: install gcc (or clang)"
    return Check("C compiler", "problem", "neither gcc nor clang", advice)


def check_headers(path: Path) -> Check:
    """Judge the headers of this Python, by where its ``Python.h`` belongs."""
    if path.is_file():
        return Check("Python headers", "ok", str(path.parent))
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    advice = f"Triton compiles with it: install {name}-dev (Debian, Ubuntu) or {name}-devel (Red Hat)"
    return Check("Python headers", "problem", f"{path} is not there", advice)


def check_driver(driver: Cuda, torch: Cuda) -> Check:
    """Judge NVIDIA's driver by the newest CUDA that it knows and the one that torch was built with."""
    if driver.major >= torch.major:
        return Check("NVIDIA driver", "ok", f"knows CUDA {driver}, torch is built with {torch}")
    found = f"knows CUDA {driver} at most, torch is built with {torch}"
    return Check("NVIDIA driver", "problem", found, f"install driver {DRIVERS.get(torch.major, 'for it')} or newer")


def seen_gpus(imported: Probe | None) -> list[tuple[str, int]]:
    """(name, memory in bytes) of each GPU that torch sees, by the end of its probe."""
    if imported is None or imported.error is not None:
        return []
    return [(name, size) for name, size in json.loads(imported.printed.splitlines()[-1])]


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
    if gpus := [f"{name} ({_gib(size)})" for name, size in seen_gpus(imported)]:
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
