"""Everything that touches verl: the dataset, the agent loop, the sampler, and mends at its edge.

verl imports this package in each of its processes (``VERL_USE_EXTERNAL_MODULES`` in configs/base.yaml).
"""

import os

from jigsaw.verl_plugin import patches

patches.apply()

if os.environ.get("VERL_PLATFORM") == "cpu":
    from jigsaw.verl_plugin import cpu

    cpu.install()
