"""What verl imports in each of its processes (``VERL_USE_EXTERNAL_MODULES``, configs/base.yaml): mends at its edge."""

import os
import warnings
from importlib.metadata import requires, version

# verl names each engine that is not installed, in each of its processes; a run of FSDP needs none of them.
warnings.filterwarnings("ignore", r"\w+ engine is not available", UserWarning)

from jigsaw.verl_plugin import patches  # noqa: E402


def other_version(requirements: list[str], installed: str) -> str | None:
    """One line where another verl is installed than the one among a distribution's requirements; None where it is."""
    (pinned,) = {line.split(";")[0].split("==")[1].strip() for line in requirements if line.startswith("verl[")}
    if installed == pinned:
        return None
    return f"verl {installed} is installed; jigsaw replaces internals of verl {pinned} (docs/edge.md): install that one"


if line := other_version(requires("visual-jigsaw") or [], version("verl")):
    warnings.warn(line, stacklevel=1)

patches.apply()

if os.environ.get("VERL_PLATFORM") == "cpu":
    from jigsaw.verl_plugin.cpu import patches as cpu_patches
    from jigsaw.verl_plugin.cpu import platform

    platform.register()
    cpu_patches.apply()
