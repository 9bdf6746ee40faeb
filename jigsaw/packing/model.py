"""transformers' Qwen2.5-VL, trained on packs: a prompt passes through it and its tower once for all its responses."""

from typing import Any

import torch
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
            inputs: with ``pack`` those of :meth:`_packed`.
        """
        if pack is None:
            return super().forward(*args, **inputs)
        given = {name: value for name, value in inputs.items() if value is not None}  # peft hands on None, too
        return self._packed(pack, **given)

    def _packed(self, pack: Layout, input_ids: Tensor, temperature: float = 1.0, **inputs: Any) -> Any:
        """The forward pass over a pack.

        Args:
            pack: where the tokens lie.
            input_ids: ``(1, tokens)`` int64.
            temperature: divides the logits.
            inputs: see :meth:`hidden_states`.
        """
        hidden = self.hidden_states(pack, input_ids, **inputs)
        return self.lm_head(hidden[pack.predicting], input_ids[0, pack.prompt_tokens :], temperature)

    def hidden_states(
        self,
        pack: Layout,
        input_ids: Tensor,
        position_ids: Tensor,
        pixel_values: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        video_grid_thw: Tensor | None = None,
    ) -> Tensor:
        """``(tokens, size)``, what the head takes, of all tokens of a pack.

        Args:
            pack: where the tokens lie.
            input_ids: ``(1, tokens)`` int64.
            position_ids: ``(3, 1, tokens)`` int64.
            pixel_values: patches of the prompts' pictures, of each prompt once, in the order of the pack.
            image_grid_thw: their grids; on the CPU they save waiting for the device.
            pixel_values_videos: patches of the prompts' videos.
            video_grid_thw: their grids.
        """
        media = (
            (self.config.image_token_id, pixel_values, image_grid_thw),
            (self.config.video_token_id, pixel_values_videos, video_grid_thw),
        )
        shown = [(token, patches, grid) for token, patches, grid in media if patches is not None and grid is not None]
        embeds = self.get_input_embeddings()(input_ids)
        # One call of the tower, whatever there is: with sharded weights a call is a row of collectives.
        if shown:
            grids = torch.cat([grid for *_, grid in shown]).cpu()
            features = self._see(torch.cat([patches for _, patches, _ in shown]), grids)
            for token, patches, _ in shown:
                count = len(patches) // self.model.visual.spatial_merge_unit
                # Of prompts alone: a response may hold the token too.
                places = (input_ids == token) & (torch.arange(pack.tokens, device=self.device) < pack.prompt_tokens)
                embeds = embeds.masked_scatter(places[..., None], features[:count].to(embeds))
                features = features[count:]
        else:
            vision = self.config.vision_config
            merge = vision.spatial_merge_size
            blank = embeds.new_zeros(merge**2, vision.in_channels * vision.temporal_patch_size * vision.patch_size**2)
            embeds = embeds + 0.0 * self._see(blank, torch.tensor([[1, merge, merge]])).mean()
        hidden = self.model.language_model(inputs_embeds=embeds, position_ids=position_ids, use_cache=False, pack=pack)
        return hidden.last_hidden_state[0]  # type: ignore[no-any-return]

    def _see(self, patches: Tensor, grids: Tensor) -> Tensor:
        windows = Windows(grids, self.config.vision_config, self.device).arguments()
        seen = self.model.visual(patches.to(self.model.visual.dtype), grid_thw=grids.to(self.device), **windows)
        return seen.pooler_output  # type: ignore[no-any-return]


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
