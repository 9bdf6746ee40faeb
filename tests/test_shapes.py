"""Shapes of a model (jigsaw/shapes.py) against transformers' own class, without memory for its weights."""

from typing import Any

import pytest
import torch

from jigsaw.errors import JigsawError
from jigsaw.shapes import Shapes

TEXT = {
    "hidden_size": 256, "intermediate_size": 500, "num_hidden_layers": 3, "vocab_size": 900, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip
TOWER = {"depth": 3, "hidden_size": 160, "intermediate_size": 300, "num_heads": 2, "out_hidden_size": 256}


def check(model: Any, saved: dict[str, Any]) -> None:
    from peft import LoraConfig, get_peft_model

    model.tie_weights()
    shapes = Shapes.of(saved)
    assert shapes.parameters == sum(weight.numel() for weight in model.parameters())
    assert shapes.tower.parameters == sum(weight.numel() for weight in model.model.visual.parameters())
    for excluded, tower in ((".*visual.*", 0), (".*patch_embed.*", shapes.tower.adapter(4))):
        adapted = LoraConfig(r=4, target_modules="all-linear", exclude_modules=excluded)
        with_adapter = get_peft_model(model, adapted)
        trained = sum(weight.numel() for name, weight in with_adapter.named_parameters() if "lora" in name)
        assert trained == shapes.text.adapter(4) + tower
        with_adapter.unload()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("nested", [True, False])
def test_parameters_are_those_of_qwen2_5_vl(tied: bool, nested: bool) -> None:
    # Imported here: it takes seconds, and all processes of the tests read this file.
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    config = Qwen2_5_VLConfig(
        text_config=TEXT, vision_config={**TOWER, "fullatt_block_indexes": [1]}, tie_word_embeddings=tied
    )
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(config)
    saved = config.to_dict()
    if not nested:  # as in the released config.json
        saved |= saved.pop("text_config") | {"model_type": "qwen2_5_vl"}
        saved["tie_word_embeddings"] = tied
    check(model, saved)


@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_those_of_qwen3_vl(tied: bool) -> None:
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    config = Qwen3VLConfig(
        text_config={**TEXT, "head_dim": 48, "tie_word_embeddings": tied},
        vision_config={**TOWER, "deepstack_visual_indexes": [0, 2], "num_position_embeddings": 25},
        tie_word_embeddings=tied,
    )
    with torch.device("meta"):
        model = Qwen3VLForConditionalGeneration(config)
    check(model, config.to_dict())


def test_another_family_is_named() -> None:
    with pytest.raises(JigsawError, match="the model is a llama; known are the shapes of qwen2_5_vl and qwen3_vl"):
        Shapes.of({"model_type": "llama"})
