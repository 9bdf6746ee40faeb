"""Answer puzzles with plain transformers: no verl, no vLLM, no Ray."""

import os
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from jigsaw.puzzle import Plan
from jigsaw.reward import compute_score
from jigsaw.tasks import cut_media

GREEDY = {"do_sample": False}
SAMPLED = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
"""As verl's rollout draws."""


def solve(
    model: Any,
    processor: Any,
    plans: Sequence[Plan],
    media_root: str | os.PathLike[str],
    *,
    grey: bool = False,
    sample: bool = False,
    max_new_tokens: int = 64,
    batch_size: int = 32,
) -> list[str]:
    """The model's replies to puzzles; the pixels of one batch at a time are in memory.

    Args:
        model: a Hugging Face image-text-to-text model.
        processor: its processor.
        plans: the puzzles.
        media_root: folder of their pictures.
        grey: whether every picture is shown as one grey: nothing left to see, all else equal.
        sample: whether to draw the replies at temperature 1, as a rollout does, by torch's global seed; else greedily.
        max_new_tokens: longest reply.
        batch_size: puzzles at once.
    """
    processor.tokenizer.padding_side = "left"
    replies: list[str] = []
    for start in range(0, len(plans), batch_size):
        batch = plans[start : start + batch_size]
        images = [image for planned in batch for image in cut_media(planned.messages, media_root)]
        inputs = processor(
            text=[
                processor.apply_chat_template(planned.messages, add_generation_prompt=True, tokenize=False)
                for planned in batch
            ],
            images=[greyed(image) for image in images] if grey else images,
            padding=True,
            return_tensors="pt",
        ).to(model.device)
        with torch.inference_mode():
            output = model.generate(
                **inputs,
                max_new_tokens=max_new_tokens,
                # verl's rollout never draws these, nor could a picture be put in their place.
                suppress_tokens=[model.config.image_token_id, model.config.video_token_id],
                **(SAMPLED if sample else GREEDY),
            )
        new = output[:, inputs["input_ids"].shape[1] :]
        replies += processor.batch_decode(new, skip_special_tokens=True)
    return replies


def greyed(image: Image.Image) -> Image.Image:
    """A picture of the same size, all mid grey."""
    return Image.new("RGB", image.size, (128, 128, 128))


def scores_of(plans: Sequence[Plan], replies: Sequence[str]) -> list[dict[str, float]]:
    """The reward's metrics (:func:`jigsaw.reward.compute_score`) of each reply."""
    return [
        compute_score("visual_jigsaw_image", reply, planned.answer, planned.extra_info)
        for planned, reply in zip(plans, replies, strict=True)
    ]
