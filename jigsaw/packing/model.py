"""transformers' Qwen2.5-VL and Qwen3-VL, trained on packs: a prompt passes through once for all its responses."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import (
    AttentionInterface,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLForConditionalGeneration,
    Qwen3VLTextModel,
)

from jigsaw.packing.attention import attend
from jigsaw.packing.head import LogProbHead
from jigsaw.packing.layout import Layout
from jigsaw.packing.tower import Frames, Windows

# No "flash" in the first name, and no mask function under it: transformers builds no mask then and looks for no packing
# of its own. The second has it, as the tower hands all segments over at once to such an attention only.
TEXT_ATTENTION = "jigsaw_shared_prefix"
TOWER_ATTENTION = "jigsaw_flash_frames"


class Packed(nn.Module):
    """A model that takes packs, and is transformers' own for everything else: a base before transformers' class."""

    tower: ClassVar[type[Frames]]
    """What is worked out of the grids for its vision tower."""
    config: Any
    device: Any
    model: Any
    lm_head: Any
    get_input_embeddings: Any

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
        deep: dict[str, Any] = {}
        # One call of the tower, whatever there is: with sharded weights a call is a row of collectives.
        if shown:
            seen = self._see(torch.cat([patches for _, patches, _ in shown]), torch.cat([grid for *_, grid in shown]))
            # A response may hold the token too.
            of_prompts = torch.arange(pack.tokens, device=self.device) < pack.prompt_tokens
            places = [(input_ids == token) & of_prompts for token, *_ in shown]
            counts = [len(patches) // self.model.visual.spatial_merge_unit for _, patches, _ in shown]
            for place, features in zip(places, seen.pooler_output.split(counts), strict=True):
                embeds = embeds.masked_scatter(place[..., None], features.to(embeds))
            if levels := _levels(seen):
                deep = {"visual_pos_masks": _where(places, counts), "deepstack_visual_embeds": levels}
            del seen, features  # they lie in the embeddings
        else:
            vision = self.config.vision_config
            merge = vision.spatial_merge_size
            blank = embeds.new_zeros(merge**2, vision.in_channels * vision.temporal_patch_size * vision.patch_size**2)
            seen = self._see(blank, torch.tensor([[1, merge, merge]]))
            embeds = embeds + 0.0 * sum(features.mean() for features in (seen.pooler_output, *_levels(seen)))
        hidden = self.model.language_model(
            inputs_embeds=embeds, position_ids=position_ids, use_cache=False, pack=pack, **deep
        )
        return hidden.last_hidden_state[0]  # type: ignore[no-any-return]

    def _see(self, patches: Tensor, grids: Tensor) -> Any:
        grids = grids.cpu()
        frames = self.tower(grids, self.config.vision_config, self.device).arguments()
        return self.model.visual(patches.to(self.model.visual.dtype), grid_thw=grids.to(self.device), **frames)


class PackedQwen2_5_VL(Packed, Qwen2_5_VLForConditionalGeneration):  # type: ignore[misc]
    """Qwen2.5-VL that takes packs."""

    tower = Windows


class PackedQwen3_VL(Packed, Qwen3VLForConditionalGeneration):  # type: ignore[misc]
    """Qwen3-VL that takes packs."""

    tower = Frames


def _levels(seen: Any) -> Sequence[Tensor]:
    """What a tower shows besides its last layer: Qwen3-VL's, to the first layers of the text."""
    return seen.get("deepstack_features") or ()


def _where(places: Sequence[Tensor], counts: Sequence[int]) -> Tensor:
    """Indices ``(features,)`` of the tokens that stand for features, kind after kind; no wait for the device."""
    found = [(~place[0]).to(torch.uint8).argsort(stable=True) for place in places]
    return torch.cat([at[:count] for at, count in zip(found, counts, strict=True)])


class _PackedQwen3_VLText(Qwen3VLTextModel):  # type: ignore[misc]
    """Qwen3-VL's text model, which is told where its tower's features go by indices."""

    def _deepstack_process(self, hidden_states: Tensor, visual_pos_masks: Tensor, visual_embeds: Tensor) -> Tensor:
        # transformers' way waits for the device in each layer, and copies all tokens twice.
        if visual_pos_masks.dtype == torch.bool:
            return super()._deepstack_process(hidden_states, visual_pos_masks, visual_embeds)  # type: ignore[no-any-return]
        return hidden_states.index_add(1, visual_pos_masks, visual_embeds[None].to(hidden_states))


_FAMILIES = (PackedQwen2_5_VL, PackedQwen3_VL)


def take_packs(model: Any) -> Any:
    """The same model, its weights and hooks untouched, made to take packs. Before it is sharded.

    Args:
        model: transformers' Qwen2.5-VL or Qwen3-VL for conditional generation.

    Raises:
        ValueError: for another model.
    """
    packed = [family for family in _FAMILIES if type(model) in family.__bases__]
    if not packed:
        raise ValueError(f"{type(model).__name__} takes no packs: Qwen2.5-VL and Qwen3-VL do")
    model.__class__ = packed[0]
    model.lm_head.__class__ = LogProbHead
    if isinstance(model, PackedQwen3_VL):
        model.model.language_model.__class__ = _PackedQwen3_VLText
    use_packed_attention(model)
    return model


def use_packed_attention(model: Any, packed: bool = True) -> None:
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
    frames: Frames | None = inputs.get("frames")
    if frames is None:
        raise ValueError(f"{TOWER_ATTENTION!r} attends over packs only: give the model a pack, or use 'sdpa'")
    q, k, v = (t[0].transpose(0, 1) for t in (query, key, value))
    return attend(q, k, v, frames.pieces(cu_seq_lens_q), scaling)[None], None


AttentionInterface.register(TEXT_ATTENTION, _text_attention)
AttentionInterface.register(TOWER_ATTENTION, _tower_attention)
