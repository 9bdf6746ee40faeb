"""The windows of Qwen2.5-VL's vision tower, all in one attention call a layer and worked out once a batch.

transformers cuts the patches into windows in every layer, by lengths that it reads back from the device, and calls the
attention once a window (``modeling_qwen2_5_vl.py``, 5.9 to 5.17).
"""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.vision_utils import get_vision_cu_seqlens, get_vision_position_ids, get_vision_window_index

from jigsaw.packing.attention import Piece
from jigsaw.packing.kernels import Segments


class Windows:
    """Which patches of a batch of pictures or videos see each other, in the order in which the tower holds them.

    Args:
        grid: ``(pictures, 3)`` int64 on the CPU: patches in time, height and width.
        config: the tower's.
        device: where the tower is.
    """

    def __init__(self, grid: Tensor, config: PreTrainedConfig, device: torch.device | str) -> None:
        merge = config.spatial_merge_size
        index, cu_windows = get_vision_window_index(grid, merge, config.window_size, config.patch_size)
        cu_frames = get_vision_cu_seqlens(grid)
        self.windows = _piece(cu_windows, device)
        self.frames = _piece(cu_frames, device)
        self._precomputed = {
            "window_index": index.to(device),
            "cu_window_seqlens": self.windows.segments.starts,
            "cu_seqlens": self.frames.segments.starts,
            "position_ids": get_vision_position_ids(grid, merge).to(device),
            "max_seqlen": self.frames.segments.longest,  # the last two: transformers from 5.17 on
            "max_window_seqlen": self.windows.segments.longest,
        }

    def arguments(self, modality: str = "") -> dict[str, Any]:
        """What the tower takes in place of working it out, named as the whole model has it for a ``modality``."""
        prefix = f"{modality}_" if modality else ""
        return {f"{prefix}{name}": value for name, value in {**self._precomputed, "windows": self}.items()}

    def pieces(self, starts: Tensor) -> tuple[Piece]:
        """The attention of a layer that was given these ``starts``.

        Windows are parts of frames: if there are as many of both, they are the same.
        """
        return (self.windows if len(starts) == len(self.windows.segments.starts) else self.frames,)


def _piece(starts: Tensor, device: torch.device | str) -> Piece:
    segments = Segments.of(starts.diff().tolist(), device=device)
    return Piece(slice(0, int(starts[-1])), slice(0, int(starts[-1])), segments, causal=False)
