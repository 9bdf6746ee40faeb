"""Mends of verl that every machine needs, one function a patch. Each goes when its test says so."""

from typing import Any

from tensordict import TensorDict


def position_ids_of_equal_length() -> None:
    """Keep multimodal batches whose sequences all have one length from crashing.

    TransferQueue packs (4, L) position ids of equal L as ragged along dimension 1; verl then declares them
    ragged along 2 without moving a number, and the first ``unbind`` raises. Seen in verl 0.9.1
    (utils/tensordict_utils.py, ``maybe_fix_3d_position_ids``). A model that answers in a fixed format hits it.
    """
    from verl.utils import tensordict_utils

    declare_ragged = tensordict_utils.maybe_fix_3d_position_ids

    def repack(data: TensorDict) -> None:
        ids: Any = data.get("position_ids", None)
        if ids is not None and ids.is_nested and ids.dim() == 3:
            values, offsets = ids.values(), ids.offsets()
            packed_rows = values.shape[0] == int(offsets[-1]) and values.shape[0] % ids.shape[0] == 0
            if packed_rows and len(offsets.diff().unique()) == 1:
                rows = list(values.split(offsets.diff().tolist()))
                data["position_ids"] = tensordict_utils.nested_tensor_from_tensor_list(rows, ragged_idx=2)
                return
        declare_ragged(data)

    tensordict_utils.maybe_fix_3d_position_ids = repack


def apply() -> None:
    """Apply all patches; called once, at import, before verl's workers bind the names."""
    position_ids_of_equal_length()
