"""Answer puzzles with plain transformers: no verl, no vLLM, no Ray."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from jigsaw.puzzle import Puzzle
from jigsaw.reward import compute_score


def solve(
    model: Any, processor: Any, puzzles: Sequence[Puzzle], *, max_new_tokens: int = 32, batch_size: int = 32
) -> list[str]:
    """The model's replies to puzzles, decoded greedily.

    Args:
        model: a Hugging Face image-text-to-text model.
        processor: its processor.
        puzzles: with their pixels.
        max_new_tokens: longest reply.
        batch_size: puzzles at once.
    """
    processor.tokenizer.padding_side = "left"
    replies: list[str] = []
    for start in range(0, len(puzzles), batch_size):
        batch = puzzles[start : start + batch_size]
        inputs = processor(
            text=[
                processor.apply_chat_template(puzzle.messages, add_generation_prompt=True, tokenize=False)
                for puzzle in batch
            ],
            images=[image for puzzle in batch for image in puzzle.media],
            padding=True,
            return_tensors="pt",
        ).to(model.device)
        with torch.inference_mode():
            output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        new = output[:, inputs["input_ids"].shape[1] :]
        replies += processor.batch_decode(new, skip_special_tokens=True)
    return replies


def greyed(puzzle: Puzzle) -> list[Image.Image]:
    """The puzzle's media with every pixel the same mid grey: nothing left to see, all else equal."""
    return [Image.new("RGB", image.size, (128, 128, 128)) for image in puzzle.media]


def mean_scores(puzzles: Sequence[Puzzle], replies: Sequence[str]) -> dict[str, float]:
    """The reward's metrics (:func:`jigsaw.reward.compute_score`), averaged over puzzles."""
    scores = [
        compute_score("visual_jigsaw_image", reply, puzzle.answer, {"answer_format": puzzle.answer_format})
        for puzzle, reply in zip(puzzles, replies, strict=True)
    ]
    return {name: sum(score[name] for score in scores) / len(scores) for name in scores[0]}
