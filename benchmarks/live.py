"""Live activations of an update at true shapes, on fake tensors: no card, no memory, no weights."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch
from weakref import finalize

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from jigsaw.flops import Group
from jigsaw.packing import kernels
from jigsaw.packing.attention import Piece
from jigsaw.packing.kernels import Segments
from jigsaw.packing.layout import Layout
from jigsaw.packing.model import PackedQwen2_5_VL, take_packs
from jigsaw.packing.tower import Windows

CPU = torch.device("cpu")


class Live(TorchDispatchMode):
    """Bytes of the storages that were made under it and are still there, and the most they were at once.

    Args:
        known: tensors that do not count, such as weights and their gradients.
    """

    def __init__(self, known: Sequence[Tensor]) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._held = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._hold(tensor.untyped_storage())
        return out

    def _hold(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self._held:
            return
        self._held.add(storage._cdata)
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        # A storage's Python object lives as long as the storage itself.
        finalize(storage, self._free, storage._cdata, storage.nbytes())

    def _free(self, key: int, size: int) -> None:
        self._held.discard(key)
        self.live -= size


class FakeModel(PackedQwen2_5_VL):
    """A model on fake tensors: its windows are worked out beforehand, for which numbers are needed."""

    seen: Windows

    def _see(self, patches: Tensor, grids: Tensor) -> Any:
        return self.model.visual(patches, grid_thw=grids, **self.seen.arguments())


class Meter:
    """Peaks of updates of one model, as bfloat16 gradient checkpointing on.

    Args:
        config: the model's.
    """

    def __init__(self, config: Qwen2_5_VLConfig) -> None:
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)
        try:
            with self.mode, CPU:
                model = Qwen2_5_VLForConditionalGeneration(copy.deepcopy(config))  # its attention is noted in it
                # There is no dropout, and fake tensors have no random state that could be kept.
                model.gradient_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
                model = take_packs(model.train())
                model.__class__ = FakeModel
                self.weights = list(model.parameters())
                for weight in self.weights:
                    weight.grad = torch.zeros_like(weight)
        finally:
            torch.set_default_dtype(before)
        self.model, self.config = model, config

    def packed(self, group: Group, entropy: bool) -> int:
        """Bytes at the most that live in an update of a group as one pack."""

        def work(inputs: dict[str, Tensor]) -> Tensor:
            layout = Layout((group.prompt,), (group.responses,), CPU)
            chosen, entropies = self.model(pack=layout, **inputs)
            return chosen.sum() + (0 * entropies.sum() if entropy else 0)

        return self._peak([group], work)

    def apart(self, rows: Sequence[Group], padded: bool, entropy: bool) -> int:
        """Bytes at the most that live in verl's update of a micro-batch.

        What verl's engine does with logits, by its own functions. Its attention is ours and needs no mask: with one the
        figure would be larger.

        Args:
            rows: groups of one response each.
            padded: all to the longest.
            entropy: the loss has it too, with a factor of 0, as where it is but logged.
        """
        true = [row.prompt + sum(row.responses) for row in rows]
        lengths = [max(true)] * len(true) if padded else true

        def work(inputs: dict[str, Tensor]) -> Tensor:
            layout = Layout(tuple(lengths), ((),) * len(lengths), CPU)
            all_logits = self.model.lm_head(
                self.model.hidden_states(layout, **inputs)
            )  # lives on, as verl's output does
            loss = all_logits.new_zeros((), dtype=torch.float32)
            if entropy:
                loss = loss + 0 * entropies(all_logits).sum()
            logits = all_logits
            if padded:
                rows = all_logits.view(len(true), max(true), -1)
                logits = torch.cat([row[:length] for row, length in zip(rows, true, strict=True)])
            labels = torch.zeros(len(logits), dtype=torch.int64)
            return loss + log_probs(logits, labels).sum()

        return self._peak([Group(n, (), row.grids) for n, row in zip(lengths, rows, strict=True)], work)

    def _peak(self, groups: Sequence[Group], work: Callable[[dict[str, Tensor]], Tensor]) -> int:
        tokens = sum(group.prompt + sum(group.responses) for group in groups)
        grids = [grid for group in groups for grid in group.grids]
        vision = self.config.vision_config
        real = Windows(torch.tensor(grids), vision, "cpu")
        with self.mode, gpu_kernels():
            self.model.seen = fake(real)
            pixels = torch.empty(
                sum(map(math.prod, grids)),
                vision.in_channels * vision.temporal_patch_size * vision.patch_size**2,
                dtype=torch.bfloat16,
                device=CPU,
            )
            inputs = {
                "input_ids": torch.zeros(1, tokens, dtype=torch.int64, device=CPU),
                "position_ids": torch.zeros(3, 1, tokens, dtype=torch.int64, device=CPU),
                "pixel_values": pixels,
                "image_grid_thw": torch.tensor(grids),
            }
            gradients = [weight.grad for weight in self.weights if weight.grad is not None]
            live = Live([*self.weights, *gradients, *self.model.buffers(), *inputs.values()])
            with live:
                work(inputs).backward()
        return live.peak


def fake(windows: Windows) -> Windows:
    """The same windows, their tensors fake."""
    found = object.__new__(Windows)
    for name in ("windows", "frames"):
        piece = getattr(windows, name)
        segments = Segments.of(piece.segments.queries, device=CPU)
        setattr(found, name, Piece(piece.queries, piece.keys, segments, causal=False))
    found._precomputed = {
        name: torch.empty(value.shape, dtype=value.dtype, device=CPU) if isinstance(value, Tensor) else value
        for name, value in windows._precomputed.items()
    }
    return found


@contextmanager
def gpu_kernels() -> Iterator[None]:
    """The attention that a GPU has: fake tensors are on the CPU, as autograd wants a card for fake ones on a card."""
    with (
        patch.object(kernels, "_forward_cpu", kernels._forward_cuda),
        patch.object(kernels, "_backward_cpu", kernels._backward_cuda),
    ):
        yield


def entropies(logits: Tensor) -> Tensor:
    """verl's, with the casts to float32 that autocast makes on a GPU."""
    odds = logits.float().softmax(-1)
    return logits.float().logsumexp(-1) - (odds * logits).sum(-1)


def log_probs(logits: Tensor, labels: Tensor, rows: int = 64) -> Tensor:
    """verl's without flash-attn's cross entropy, with the same casts: row by row there, a few rows at a time here."""
    parts = zip(logits.split(rows), labels.split(rows), strict=True)
    return torch.cat([part.float().log_softmax(-1).gather(-1, label[:, None])[:, 0] for part, label in parts])
