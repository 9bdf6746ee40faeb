"""verl on a machine without a GPU: a platform, and the few patches that CUDA-only code needs."""

from jigsaw.verl_plugin.cpu import patches, platform


def install() -> None:
    """Register the platform and apply the patches; called once in every process of a CPU run."""
    platform.register()
    patches.apply()
