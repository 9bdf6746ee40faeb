"""What lmms-eval finds of this package: the model class ``vj_qwen_vl``, by an entry point (pyproject.toml)."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest

NAME = "vj_qwen_vl"
FEWEST_FRAMES = 8
"""Of the films of a question: a film needs two, and CVBench shows each in a quarter."""


def manifest() -> "ModelManifest":
    """Where the class is; it is imported when it is asked for."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id=NAME, chat_class_path="jigsaw.lmms_plugin.model.QwenVL")
