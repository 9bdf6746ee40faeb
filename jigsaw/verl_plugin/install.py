"""What verl imports in each of its processes (``VERL_USE_EXTERNAL_MODULES``, configs/base.yaml): mends at its edge."""

import os
import warnings
from importlib.metadata import version

# verl names each engine that is not installed, in each of its processes; a run of FSDP needs none of them.
warnings.filterwarnings("ignore", r"\w+ engine is not available", UserWarning)

from jigsaw.machine import Pin, pins  # noqa: E402
from jigsaw.verl_plugin import patches  # noqa: E402


def other_verl(pins: list[Pin] | None, installed: str) -> str | None:
    """One line where another verl is installed than the pinned one; None where it is that, or nothing is pinned."""
    wanted = {pin.wanted for pin in pins or [] if pin.package == "verl" and not pin.met_by(installed)}
    if not wanted:
        return None
    return f"verl {installed} is installed; install {min(wanted)}, whose internals jigsaw replaces (docs/edge.md)"


if line := other_verl(pins(), version("verl")):
    warnings.warn(line, stacklevel=1)

patches.apply()

if os.environ.get("VERL_PLATFORM") == "cpu":
    from jigsaw.verl_plugin.cpu import patches as cpu_patches
    from jigsaw.verl_plugin.cpu import platform

    platform.register()
    cpu_patches.apply()
