"""Chats with pictures and a reply to learn, in the form that verl's supervised trainer takes."""

from abc import abstractmethod
from typing import Any

import torch
from torch.utils.data import Dataset
from verl.models.transformers.qwen2_vl import get_rope_index


class SFTDataset(Dataset[dict[str, Any]]):
    """Base of a ``data.custom_cls`` for ``verl.trainer.sft_trainer``; subclasses say what an index holds.

    verl's own dataset wants the pictures in the parquet file; ours are cut on the way.

    Args:
        parquet_files: the config's ``data.train_files``.
        tokenizer: not used; verl passes it.
        config: verl's ``data`` config.
        processor: a Qwen2.5-VL processor.
        max_samples: not used; verl passes it.
    """

    def __init__(self, parquet_files: Any, tokenizer: Any, config: Any, processor: Any, max_samples: int = -1) -> None:
        self._processor = processor

    @abstractmethod
    def example(self, index: int) -> Any:
        """The example of an index, with ``messages``, ``media`` and ``reply``."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Token ids (L,), position ids (4, L), a loss mask (L,) that is 1 on the reply, and the picture features."""
        example, processor = self.example(index), self._processor
        prompt = processor.apply_chat_template(example.messages, add_generation_prompt=True, tokenize=False)
        reply = example.reply + processor.tokenizer.eos_token
        features = dict(processor(text=[prompt + reply], images=example.media, return_tensors="pt"))
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
