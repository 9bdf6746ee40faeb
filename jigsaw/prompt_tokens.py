"""Tokens of prompts with media, and where they lie, as vLLM has them; transformers differs in both."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import torch


def has_stamps(processor: Any) -> bool:
    """Whether a video is a row of frames with the time of each as text before it, which is Qwen3-VL's way."""
    return type(processor).__name__ == "Qwen3VLProcessor"


def with_media(
    marked: Sequence[int],
    features: Mapping[str, Iterable[torch.Tensor]],
    metadata: Sequence[Mapping[str, Any]],
    processor: Any,
) -> list[int]:
    """Token ids of a prompt with all its media, from those with one mark for each of them.

    transformers makes tokens of text and Qwen3-VL's time stamps as a whole, so that the first stamp of a video may be
    joined with what stands before it; vLLM makes tokens of each stamp alone. What is trained are vLLM's.

    Args:
        marked: one image token for an image; start, video token and end for a video.
        features: of the processor, with the grids of all media.
        metadata: of the videos: ``fps`` and ``frames_indices``.
        processor: Qwen2.5-VL's or Qwen3-VL's.
    """
    merge = processor.image_processor.merge_size**2
    images: Iterator[Any] = iter(features.get("image_grid_thw", ()))
    videos: Iterator[Any] = iter(features.get("video_grid_thw", ()))
    timed = iter(metadata)
    start, end = (processor.tokenizer.convert_tokens_to_ids(token) for token in ("<|vision_start|>", "<|vision_end|>"))
    found: list[int] = []
    for token in marked:
        if token == processor.image_token_id:
            found += [token] * (int(next(images).prod()) // merge)
        elif token == processor.video_token_id and has_stamps(processor):
            frames, height, width = next(videos).tolist()
            found.pop()  # the start; each frame has its own
            for stamp in _stamps(next(timed), frames, processor.video_processor.temporal_patch_size):
                found += processor.tokenizer.encode(stamp, add_special_tokens=False)
                found += [start, *[token] * (height * width // merge), end]
            found.pop()  # the end, which comes
        elif token == processor.video_token_id:
            found += [token] * (int(next(videos).prod()) // merge)
        else:
            found.append(token)
    return found


def _stamps(metadata: Mapping[str, Any], frames: int, each: int) -> list[str]:
    """The time stamp before each token's frames, of which there are ``each``; the last one fills up what is missing."""
    indices = list(metadata["frames_indices"])
    indices += [indices[-1]] * (frames * each - len(indices))
    times = [index / metadata["fps"] for index in indices]
    return [f"<{(times[at] + times[at + each - 1]) / 2:.1f} seconds>" for at in range(0, len(times), each)]


def place_as_vllm(model: Any) -> None:
    """Have a Qwen2.5-VL of transformers place its tokens as vLLM does, and as Qwen's own code did; others are left.

    transformers 5.9.0 cuts the time of a frame to whole seconds, and lets the text behind a video begin before the
    video's last frame (modeling_qwen2_5_vl.py, ``get_rope_index``), which no model was trained on.
    """
    if model.config.model_type != "qwen2_5_vl":
        return
    vision = model.config.vision_config

    def get_rope_index(
        input_ids: torch.Tensor,
        mm_token_type_ids: torch.Tensor,
        image_grid_thw: torch.Tensor | None = None,
        video_grid_thw: torch.Tensor | None = None,
        second_per_grid_ts: Sequence[float] | torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **_: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        images = iter(() if image_grid_thw is None else image_grid_thw.tolist())
        videos = iter(() if video_grid_thw is None else video_grid_thw.tolist())
        seconds = iter([] if second_per_grid_ts is None else [float(each) for each in second_per_grid_ts])
        real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        places = torch.zeros(3, *input_ids.shape, dtype=input_ids.dtype, device=input_ids.device)
        beyond = []
        for row, kinds in enumerate(mm_token_type_ids):
            is_real = real[row].bool()
            parts: list[torch.Tensor] = []
            begin = 0
            for kind, tokens in groupby(kinds[is_real].tolist()):
                if kind == 0:
                    part = torch.arange(len(list(tokens))).expand(3, -1)
                elif kind == 1:
                    part = _grid(next(images), vision.spatial_merge_size, 0.0)
                else:
                    part = _grid(next(videos), vision.spatial_merge_size, next(seconds) * vision.tokens_per_second)
                parts.append(part + begin)
                begin = int(parts[-1].max()) + 1
            found = torch.cat(parts, 1).to(places)
            places[:, row, is_real] = found
            beyond.append(begin - found.shape[1])
        return places, torch.tensor(beyond, device=input_ids.device).unsqueeze(1)

    model.model.get_rope_index = get_rope_index


def _grid(grid: Sequence[int], merge: int, pace: float) -> torch.Tensor:
    """(3, tokens): frame, row and column of each token of a medium; a frame is ``pace`` after the one before."""
    frames, rows, columns = grid[0], grid[1] // merge, grid[2] // merge
    time = (torch.arange(frames) * pace).long()
    return torch.stack(
        [axis.flatten() for axis in torch.meshgrid(time, torch.arange(rows), torch.arange(columns), indexing="ij")]
    )
