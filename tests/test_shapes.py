"""Shapes of a model (jigsaw/shapes.py) against transformers' own class, without memory for its weights."""

import pytest
import torch

from jigsaw.errors import JigsawError
from jigsaw.shapes import Shapes

TOWER = {"depth": 3, "hidden_size": 160, "intermediate_size": 300, "num_heads": 2, "fullatt_block_indexes": [1]}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("nested", [True, False])
def test_parameters_are_those_of_the_model(tied: bool, nested: bool) -> None:
    # Imported here: it takes seconds, and all processes of the tests read this file.
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    text = {"hidden_size": 256, "intermediate_size": 500, "num_hidden_layers": 3, "vocab_size": 900}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = Qwen2_5_VLConfig(
        text_config=text, vision_config={**TOWER, "out_hidden_size": 256}, tie_word_embeddings=tied
    )
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(config)
    model.tie_weights()
    saved = config.to_dict()
    if not nested:  # as in the released config.json
        saved |= saved.pop("text_config") | {"model_type": "qwen2_5_vl"}
        saved["tie_word_embeddings"] = tied
    shapes = Shapes.of(saved)
    assert shapes.parameters == sum(weight.numel() for weight in model.parameters())
    assert shapes.tower.parameters == sum(weight.numel() for weight in model.model.visual.parameters())


def test_another_family_is_named() -> None:
    with pytest.raises(JigsawError, match="the model is a llama; known are the shapes of qwen2_5_vl alone"):
        Shapes.of({"model_type": "llama"})
