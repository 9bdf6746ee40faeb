"""Where the tokens of a prompt lie, as the rollout has it."""

from typing import Any

import torch

from jigsaw.prompt_tokens import has_stamps


def get_rope_index(processor: Any, input_ids: torch.Tensor, **inputs: Any) -> torch.Tensor:
    """Position ids (3, L) of one sequence by verl's function for the processor's family: vLLM's positions.

    Args:
        processor: of a family that is trained.
        input_ids: (L,).
        inputs: verl's, for example ``attention_mask`` (L,) and ``image_grid_thw``.
    """
    if has_stamps(processor):
        from verl.models.transformers.qwen3_vl import get_rope_index as of_family
    else:
        from verl.models.transformers.qwen2_vl import get_rope_index as of_family
    found: torch.Tensor = of_family(processor, input_ids, **inputs)
    return found
