"""Visual Jigsaw: post-training that makes multimodal models see better, without labels."""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jigsaw.puzzle import Plan, Puzzle
    from jigsaw.tasks import build_puzzle, cut, plan

__all__ = ["Plan", "Puzzle", "build_puzzle", "cut", "plan"]

try:
    __version__ = version("visual-jigsaw")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    # Loaded on first use: `import jigsaw` and the reward stay free of Pillow and NumPy.
    if name not in __all__:
        raise AttributeError(f"module 'jigsaw' has no attribute {name!r}")
    return getattr(import_module("jigsaw.puzzle" if name in ("Plan", "Puzzle") else "jigsaw.tasks"), name)
