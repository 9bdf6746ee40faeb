"""The platform "cpu" for verl's registry (verl 0.9.1 ships CUDA, ROCm and NPU)."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import psutil
import torch
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry


class _CpuDevice(str):
    """The one CPU device: ``tensor.to(device)`` reads "cpu", while f-strings that build "cpu:N" read "0".

    verl uses ``current_device()`` both ways; an int 0 would mean cuda:0 to ``Tensor.to``.
    """

    def __format__(self, spec: str) -> str:
        return format("0", spec)


def _device_module() -> ModuleType:
    """``torch.cpu`` with the calls of ``torch.cuda`` that verl makes; memory figures are the process's."""
    process = psutil.Process()
    module = ModuleType("jigsaw_cpu_device")
    module.__dict__.update({name: getattr(torch.cpu, name) for name in dir(torch.cpu) if not name.startswith("__")})

    def resident(*_: Any) -> int:
        return int(process.memory_info().rss)

    def free_and_total(*_: Any) -> tuple[int, int]:
        memory = psutil.virtual_memory()
        return int(memory.available), int(memory.total)

    def nothing(*_: Any, **__: Any) -> None:
        return None

    module.__dict__.update(
        memory_allocated=resident,
        memory_reserved=resident,
        max_memory_allocated=resident,
        max_memory_reserved=resident,
        mem_get_info=free_and_total,
        get_device_name=lambda *_: "cpu",
        get_rng_state=lambda *_: torch.get_rng_state(),
        set_rng_state=lambda state, *_: torch.set_rng_state(state),
        manual_seed=torch.manual_seed,
        manual_seed_all=torch.manual_seed,
        set_device=nothing,
        empty_cache=nothing,
        ipc_collect=nothing,
        reset_peak_memory_stats=nothing,
        set_per_process_memory_fraction=nothing,
    )
    return module


class CpuPlatform(PlatformBase):  # type: ignore[misc]
    """One CPU as verl's accelerator. Ray's "GPU" resource is a logical count here (``ray.init(num_gpus=N)``)."""

    device_name = "cpu"
    vendor_name = "cpu"
    device_module = _device_module()

    def is_available(self) -> bool:
        """Always."""
        return True

    def current_device(self) -> Any:
        """The device, see :class:`_CpuDevice`."""
        return _CpuDevice("cpu")

    def device_count(self) -> int:
        """One."""
        return 1

    def set_device(self, device_index: int) -> None:
        """Nothing to select."""

    def synchronize(self, device_index: int | None = None) -> None:
        """CPU work is synchronous."""

    def manual_seed(self, seed: int) -> None:
        """Seed torch."""
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        """Seed torch."""
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None:
        """The CPU allocator has none."""

    def empty_cache(self) -> None:
        """The CPU allocator keeps none."""

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        """No compute capability."""
        return None, None

    def communication_backend_name(self) -> str:
        """Gloo."""
        return "gloo"

    def visible_devices_envvar(self) -> str:
        """The variable that Ray sets for its "GPU" resource."""
        return "CUDA_VISIBLE_DEVICES"

    def ray_resource_name(self) -> str:
        """Ray's "GPU": verl's vLLM replica looks accelerator ids up under that name alone."""
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        """As for CUDA, whose resource name is used."""
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self) -> bool:
        """False: weights go to the rollout through shared memory."""
        return False

    def rollout_env_vars(self) -> dict[str, str]:
        """vLLM finds its CPU threads by itself only on machines that it has to itself."""
        return {"VLLM_CPU_OMP_THREADS_BIND": os.environ.get("VLLM_CPU_OMP_THREADS_BIND", "nobind")}

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        """No profiler ranges."""
        yield

    def profiler_start(self) -> None:
        """No profiler."""

    def profiler_stop(self) -> None:
        """No profiler."""

    def cudart(self) -> Any:
        """No CUDA runtime."""
        return None


def register() -> None:
    """Register the platform under the name "cpu" (``VERL_PLATFORM=cpu``)."""
    PlatformRegistry.register(platform="cpu")(CpuPlatform)
