"""What of a vision tower follows from the grids alone, worked out once a batch; all segments in one call a layer.

transformers cuts the patches into windows or frames in every layer, by lengths that it reads back from the device, and
calls the attention once for each (``modeling_qwen2_5_vl.py`` and ``modeling_qwen3_vl.py``, 5.9 to 5.17).
"""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.vision_utils import (
    get_vision_bilinear_indices_and_weights,
    get_vision_cu_seqlens,
    get_vision_position_ids,
    get_vision_window_index,
)

from jigsaw.packing.attention import Piece
from jigsaw.packing.kernels import Segments


class Frames:
    """Of Qwen3-VL's tower, where the patches of a frame see each other: which they are, and where each lies.

    Args:
        grid: ``(pictures, 3)`` int64 on the CPU: patches in time, height and width.
        config: the tower's.
        device: where the tower is.
    """

    def __init__(self, grid: Tensor, config: PreTrainedConfig, device: torch.device | str) -> None:
        self.frames = _piece(get_vision_cu_seqlens(grid), device)
        self._precomputed = {
            "cu_seqlens": self.frames.segments.starts,
            "position_ids": get_vision_position_ids(grid, config.spatial_merge_size),
            "max_seqlen": self.frames.segments.longest,  # transformers from 5.17 on
            **self._further(grid, config),
        }
        for name, value in self._precomputed.items():
            if isinstance(value, Tensor):
                self._precomputed[name] = value.to(device)

    def _further(self, grid: Tensor, config: PreTrainedConfig) -> dict[str, Any]:
        """What the tower of this family takes besides."""
        side = int(config.num_position_embeddings**0.5)
        indices, weights = get_vision_bilinear_indices_and_weights(grid, side, config.spatial_merge_size)
        return {"bilinear_indices": indices, "bilinear_weights": weights}

    def arguments(self, modality: str = "") -> dict[str, Any]:
        """What the tower takes in place of working it out, named as the whole model has it for a ``modality``."""
        prefix = f"{modality}_" if modality else ""
        return {f"{prefix}{name}": value for name, value in {**self._precomputed, "frames": self}.items()}

    def pieces(self, starts: Tensor) -> tuple[Piece]:
        """The attention of a layer that was given these ``starts``."""
        return (self.frames,)


class Windows(Frames):
    """Of Qwen2.5-VL's tower, where most layers see windows of a frame, and the tower holds patches window by window."""

    def _further(self, grid: Tensor, config: PreTrainedConfig) -> dict[str, Any]:
        index, starts = get_vision_window_index(grid, config.spatial_merge_size, config.window_size, config.patch_size)
        self.windows = _piece(starts, self.frames.segments.starts.device)
        return {
            "window_index": index,
            "cu_window_seqlens": self.windows.segments.starts,
            "max_window_seqlen": self.windows.segments.longest,
        }

    def pieces(self, starts: Tensor) -> tuple[Piece]:
        """Windows are parts of frames: if there are as many of both, they are the same."""
        return (self.windows if len(starts) == len(self.windows.segments.starts) else self.frames,)


def _piece(starts: Tensor, device: torch.device | str) -> Piece:
    segments = Segments.of(starts.diff().tolist(), device=device)
    return Piece(slice(0, int(starts[-1])), slice(0, int(starts[-1])), segments, causal=False)
