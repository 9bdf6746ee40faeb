"""What verl imports in each of its processes (``VERL_USE_EXTERNAL_MODULES``, configs/base.yaml): mends at its edge."""

import os
import warnings

# verl names each engine that is not installed, in each of its processes; a run of FSDP needs none of them.
warnings.filterwarnings("ignore", r"\w+ engine is not available", UserWarning)

from jigsaw.verl_plugin import patches  # noqa: E402

patches.apply()

if os.environ.get("VERL_PLATFORM") == "cpu":
    from jigsaw.verl_plugin.cpu import patches as cpu_patches
    from jigsaw.verl_plugin.cpu import platform

    platform.register()
    cpu_patches.apply()
