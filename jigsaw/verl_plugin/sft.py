"""A chat with pictures and a reply to learn, in the form that verl's supervised trainer takes."""

from collections.abc import Sequence
from typing import Any

import torch

from jigsaw.verl_plugin.positions import get_rope_index


def supervised_item(
    processor: Any, messages: Sequence[dict[str, Any]], images: Sequence[Any], reply: str
) -> dict[str, Any]:
    """An item of a ``data.custom_cls`` of verl's; verl's own data set wants the pictures in the parquet file.

    Args:
        processor: of a family that is trained.
        messages: the prompt.
        images: its pictures.
        reply: what is to be learnt; the end of the turn is added.

    Returns:
        Token ids (L,), position ids (4, L), a loss mask (L,) that is 1 on the reply, and the picture features.
    """
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    reply += processor.tokenizer.eos_token
    features = dict(processor(text=[prompt + reply], images=images, return_tensors="pt"))
    ids = features.pop("input_ids")[0]
    features.pop("mm_token_type_ids", None)
    places = get_rope_index(
        processor,
        input_ids=ids,
        image_grid_thw=features["image_grid_thw"],
        attention_mask=features.pop("attention_mask")[0],
    )
    loss_mask = torch.zeros_like(ids)
    loss_mask[-len(processor.tokenizer(reply)["input_ids"]) :] = 1
    return {
        "input_ids": ids,
        "position_ids": torch.cat([torch.arange(len(ids)).unsqueeze(0), places]),
        "loss_mask": loss_mask,
        "multi_modal_inputs": features,
    }
