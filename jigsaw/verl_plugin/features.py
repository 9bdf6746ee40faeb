"""A prompt's pixels on their way to the trainer: one copy a prompt, a byte a value, whatever the number of responses.

verl 0.9.1 stores the processor's output, float32, with every response, and each rank reads it twice a step. Here a
response carries its prompt's key alone. The pixels lie once in a partition of their own of verl's TransferQueue; a rank
reads them once for all of the prompt's responses that it trains on, and keeps them until its next batch.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import transfer_queue as tq
from tensordict import TensorDict
from tensordict.tensorclass import NonTensorData, NonTensorStack

PARTITION = "features"
_KEY = "features_of"
FIELD = "features"
_CODED = "coded"
_ROWS = 4096
"""Rows that are coded at a time: what they need fits a core's cache."""

Features = dict[str, Any]
Scale = tuple[torch.Tensor, torch.Tensor]
"""Mean and standard deviation of a channel, float32, shape (channels, 1), in grey levels."""

# --- coding -----------------------------------------------------------------------------------------------------


def encode(features: Mapping[str, Any], processor: Any) -> Features:
    """The processor's output with its pixels as the bytes that they were made of.

    Pixels are (patches, channels × values) float32, each a grey level minus the channel's mean, over its standard
    deviation. Where that is not so to the last bit, they stay as they are.
    """
    encoded, scales = dict(features), {}
    for name, maker in (("pixel_values", "image_processor"), ("pixel_values_videos", "video_processor")):
        if name in encoded:
            scale = _scale(getattr(processor, maker))
            levels = _levels(encoded[name], scale)
            if levels is not None:
                encoded[name], scales[name] = levels, scale
    return {**encoded, _CODED: scales}


def decode(features: Mapping[str, Any]) -> Features:
    """What :func:`encode` was given."""
    decoded = dict(features)
    for name, scale in decoded.pop(_CODED).items():
        levels = decoded[name]
        decoded[name] = torch.empty(levels.shape, dtype=torch.float32)
        for start in range(0, len(levels), _ROWS):
            rows = slice(start, start + _ROWS)
            decoded[name][rows] = _pixels(levels[rows], scale)
    return decoded


def _scale(maker: Any) -> Scale:
    mean, deviation = torch.tensor(maker.image_mean), torch.tensor(maker.image_std)
    # As transformers joins scaling to 0–1 and normalising, so that not even the last bit differs.
    return (mean * (1.0 / maker.rescale_factor))[:, None], (deviation * (1.0 / maker.rescale_factor))[:, None]


def _pixels(levels: torch.Tensor, scale: Scale) -> torch.Tensor:
    mean, deviation = scale
    values = levels.reshape(len(levels), len(mean), -1).to(torch.float32)
    return values.sub_(mean).div_(deviation).reshape(levels.shape)


def _levels(pixels: torch.Tensor, scale: Scale) -> torch.Tensor | None:
    """uint8 grey levels of the same shape, None where they do not give back the very pixels."""
    mean, deviation = scale
    levels = torch.empty(pixels.shape, dtype=torch.uint8)
    for start in range(0, len(pixels), _ROWS):
        rows = slice(start, start + _ROWS)
        values = pixels[rows].reshape(-1, len(mean), pixels.shape[1] // len(mean)) * deviation + mean
        levels[rows] = values.round_().clamp_(0, 255).reshape(-1, pixels.shape[1])
        if not torch.equal(_pixels(levels[rows], scale), pixels[rows]):
            return None
    return levels


# --- carrying ---------------------------------------------------------------------------------------------------


def reference(key: str) -> Features:
    """What a response carries in place of its prompt's features."""
    return {_KEY: key}


async def put(key: str, encoded: Features) -> None:
    """Lay a prompt's features down for the trainer."""
    fields = TensorDict({FIELD: NonTensorStack(encoded)}, batch_size=[1])
    await tq.async_kv_put(key=key, partition_id=PARTITION, fields=fields, tag={"status": "success"})


def kept() -> set[str]:
    """The keys of the prompts whose features lie there."""
    return set((tq.kv_list(PARTITION) or {}).get(PARTITION, {}))


def clear_unused() -> None:
    """Drop the features of the prompts that the trainer is through with."""
    keys = kept()  # looked up first: what comes in between is not among them
    used = {key.split("_")[0] for key in (tq.kv_list("train") or {}).get("train", {})}
    if unused := keys - used:
        tq.kv_clear(keys=sorted(unused), partition_id=PARTITION)


class Reader:
    """A rank's view of the features: what its present batch needs, read once."""

    def __init__(self) -> None:
        self._held: dict[str, Features] = {}

    async def resolve(self, batch: TensorDict) -> None:
        """Put the features in the place of the references in ``multi_modal_inputs``, shared by a prompt's responses."""
        if "multi_modal_inputs" not in batch:
            return
        rows = list(batch["multi_modal_inputs"])
        keys = [row.get(_KEY) for row in rows]
        needed = set(keys) - {None}
        missing = sorted(needed - set(self._held))
        self._held = {key: self._held[key] for key in needed & set(self._held)}
        if missing:
            data = await tq.async_kv_batch_get(keys=missing, partition_id=PARTITION)
            self._held.update(zip(missing, data[FIELD], strict=True))
        batch["multi_modal_inputs"] = NonTensorStack(
            *(row if key is None else self._held[key] for key, row in zip(keys, rows, strict=True))
        )


def decode_shared(rows: Iterable[Any]) -> list[Any]:
    """The features of a micro-batch's responses, decoded once a prompt."""
    plain = [row.data if isinstance(row, NonTensorData) else row for row in rows]
    shared = {id(row): row for row in plain if row is not None and _CODED in row}
    decoded = {place: decode(row) for place, row in shared.items()}
    return [decoded.get(id(row), row) for row in plain]
