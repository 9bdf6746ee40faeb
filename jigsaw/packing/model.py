"""transformers' Qwen2.5-VL, trained on packs: a prompt passes through it and its tower once for all its responses."""

from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, Qwen2_5_VLForConditionalGeneration

from jigsaw.packing.attention import attend
from jigsaw.packing.head import LogProbHead
from jigsaw.packing.layout import Layout
from jigsaw.packing.tower import Windows

# No "flash" in the first name, and no mask function under it: transformers builds no mask then and looks for no packing
# of its own. The second has it, as the tower hands all windows over at once to such an attention only.
TEXT_ATTENTION = "jigsaw_shared_prefix"
TOWER_ATTENTION = "jigsaw_flash_windows"


class PackedQwen2_5_VL(Qwen2_5_VLForConditionalGeneration):  # type: ignore[misc]
    """Qwen2.5-VL that takes packs, and is transformers' own model for everything else."""

    def forward(self, *args: Any, pack: Layout | None = None, **inputs: Any) -> Any:
        """Log-probabilities and entropies ``(response tokens,)``, float32, in the order of the pack.

        Args:
            args: only without ``pack``: transformers' own arguments.
            pack: where the tokens lie. Without it, transformers' own forward pass.
            inputs: with ``pack``: ``input_ids`` ``(1, tokens)``, ``position_ids`` ``(3, 1, tokens)``, and of each
                prompt once, in the order of the pack, ``pixel_values`` and ``image_grid_thw``,
                ``pixel_values_videos`` and ``video_grid_thw``. Grids on the CPU save waiting for the device.
        """
        if pack is None:
            return super().forward(*args, **inputs)
        for modality in ("image", "video"):
            grid = inputs.get(f"{modality}_grid_thw")
            if grid is not None:
                inputs |= Windows(grid.cpu(), self.config.vision_config, self.device).arguments(modality)
        hidden = self.model(use_cache=False, pack=pack, **inputs).last_hidden_state[0]
        targets = inputs["input_ids"][0, pack.prompt_tokens :]
        return self.lm_head(hidden[pack.predicting], targets)


def take_packs(model: Qwen2_5_VLForConditionalGeneration) -> PackedQwen2_5_VL:
    """The same model, its weights and hooks untouched, made to take packs. Before it is sharded."""
    model.__class__ = PackedQwen2_5_VL
    model.lm_head.__class__ = LogProbHead
    use_packed_attention(model)
    return model  # type: ignore[no-any-return]


def use_packed_attention(model: Qwen2_5_VLForConditionalGeneration, packed: bool = True) -> None:
    """Switch between the attention that takes packs and transformers' own ``sdpa``."""
    # Once the model stands: its constructor knows no attention of the text model alone.
    text, tower = (TEXT_ATTENTION, TOWER_ATTENTION) if packed else ("sdpa", "sdpa")
    model.set_attn_implementation({"text_config": text, "vision_config": tower})


def _text_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, scaling: float, **inputs: Any
) -> tuple[Tensor, None]:
    pack: Layout | None = inputs.get("pack")
    if pack is None:
        raise ValueError(f"{TEXT_ATTENTION!r} attends over packs only: give the model a pack, or use 'sdpa'")
    q, k, v = (t[0].transpose(0, 1) for t in (query, key, value))
    return attend(q, k, v, pack.pieces, scaling)[None], None


def _tower_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scaling: float,
    cu_seq_lens_q: Tensor,
    **inputs: Any,
) -> tuple[Tensor, None]:
    windows: Windows | None = inputs.get("windows")
    if windows is None:
        raise ValueError(f"{TOWER_ATTENTION!r} attends over packs only: give the model a pack, or use 'sdpa'")
    q, k, v = (t[0].transpose(0, 1) for t in (query, key, value))
    return attend(q, k, v, windows.pieces(cu_seq_lens_q), scaling)[None], None


AttentionInterface.register(TEXT_ATTENTION, _text_attention)
AttentionInterface.register(TOWER_ATTENTION, _tower_attention)
