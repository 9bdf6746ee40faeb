"""Where the tokens of a prompt lie, and what stands for its videos, as the rollout has it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch


def has_stamps(processor: Any) -> bool:
    """Whether a video is a row of frames with the time of each as text before it, which is Qwen3-VL's way."""
    return type(processor).__name__ == "Qwen3VLProcessor"


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


def with_stamps(
    marked: Sequence[int], features: Mapping[str, torch.Tensor], metadata: Sequence[Mapping[str, Any]], processor: Any
) -> list[int]:
    """Token ids of a Qwen3-VL prompt with all its media, from those with one mark for each of them.

    transformers makes tokens of text and time stamps as a whole, so that the first stamp of a video may be joined with
    what stands before it; vLLM makes tokens of each stamp alone. What is trained are vLLM's.

    Args:
        marked: one image token for an image; start, video token and end for a video.
        features: of the processor, with the grids of all media.
        metadata: of the videos: ``fps`` and ``frames_indices``.
        processor: Qwen3-VL's.
    """
    merge = processor.image_processor.merge_size**2
    images: Iterator[torch.Tensor] = iter(features.get("image_grid_thw", ()))
    videos: Iterator[torch.Tensor] = iter(features.get("video_grid_thw", ()))
    timed = iter(metadata)
    start, end = processor.vision_start_token_id, processor.vision_end_token_id
    found: list[int] = []
    for token in marked:
        if token == processor.image_token_id:
            found += [token] * (int(next(images).prod()) // merge)
        elif token == processor.video_token_id:
            frames, height, width = next(videos).tolist()
            found.pop()  # the start; each frame has its own
            for stamp in _stamps(next(timed), frames, processor.video_processor.temporal_patch_size):
                found += processor.tokenizer.encode(stamp, add_special_tokens=False)
                found += [start, *[token] * (height * width // merge), end]
            found.pop()  # the end, which comes
        else:
            found.append(token)
    return found


def _stamps(metadata: Mapping[str, Any], frames: int, each: int) -> list[str]:
    """The time stamp before each token's frames, of which there are ``each``; the last one fills up what is missing."""
    indices = list(metadata["frames_indices"])
    indices += [indices[-1]] * (frames * each - len(indices))
    times = [index / metadata["fps"] for index in indices]
    return [f"<{(times[at] + times[at + each - 1]) / 2:.1f} seconds>" for at in range(0, len(times), each)]
