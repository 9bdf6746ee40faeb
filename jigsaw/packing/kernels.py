"""Attention over segments of a packed sequence, and its gradients, by the flash kernels that torch brings.

Both directions take and give the log-sum-exp, which no public function of torch does: pieces of an attention are merged
by it, and a piece's gradients are exact when its backward pass is given the *merged* output and log-sum-exp, as ring
attention does. On CUDA these are the kernels under ``torch.nn.attention.varlen`` (torch 2.11; bfloat16 and float16); on
the CPU their twin, which knows no segments and is called once for all segments of equal lengths.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor

aten = torch.ops.aten


@dataclass(frozen=True, eq=False)
class Segments:
    """Consecutive segments of queries, each attending to the keys of the segment of the same number.

    Args:
        queries: queries in each segment; 0 is allowed.
        keys: keys in each segment, as many segments.
        starts: ``(segments + 1,)`` int32, where the segments of queries begin, and their end.
        key_starts: the same of the keys.
    """

    queries: tuple[int, ...]
    keys: tuple[int, ...]
    starts: Tensor
    key_starts: Tensor

    @classmethod
    def of(
        cls, queries: Sequence[int], keys: Sequence[int] | None = None, device: torch.device | str = "cpu"
    ) -> "Segments":
        """Segments of these lengths; without ``keys`` a segment's queries are its keys."""
        starts = torch.tensor([0, *accumulate(queries)], dtype=torch.int32, device=device)
        if keys is None:
            return cls(tuple(queries), tuple(queries), starts, starts)
        key_starts = torch.tensor([0, *accumulate(keys)], dtype=torch.int32, device=device)
        return cls(tuple(queries), tuple(keys), starts, key_starts)

    @cached_property
    def longest(self) -> int:
        """Bound on the queries of a segment."""
        # From 2 on: the kernel treats segments of one query each as a decoding step, where none may be empty.
        return max(2, *self.queries)

    @cached_property
    def longest_key(self) -> int:
        """Keys of the longest segment."""
        return max(self.keys)

    @cached_property
    def batches(self) -> list[tuple[Tensor, Tensor]]:
        """Rows of queries ``(n, queries)`` and of keys ``(n, keys)``, for each pair of lengths that occurs."""
        found: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
        start = key_start = 0
        for queries, keys in zip(self.queries, self.keys, strict=True):
            if queries:  # the kernel divides by their number
                found[queries, keys].append((start, key_start))
            start, key_start = start + queries, key_start + keys
        return [
            (
                torch.tensor([at for at, _ in starts])[:, None] + torch.arange(queries),
                torch.tensor([at for _, at in starts])[:, None] + torch.arange(keys),
            )
            for (queries, keys), starts in found.items()
        ]


def forward(q: Tensor, k: Tensor, v: Tensor, segments: Segments, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """Output ``(queries, heads, size)`` and log-sum-exp ``(heads, queries)`` in float32.

    Args:
        q: ``(queries, heads, size)``.
        k: ``(keys, key heads, size)``; the key heads divide the heads.
        v: as ``k``.
        segments: which queries see which keys.
        causal: a segment's query ``i`` sees its keys up to ``i`` (queries and keys of a segment are as many then).
        scale: factor of the scores.
    """
    return (_forward_cuda if q.is_cuda else _forward_cpu)(q, k, v, segments, causal, scale)


def backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    segments: Segments,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``q``, ``k`` and ``v``; ``out`` and ``lse`` are those of the whole attention, all pieces merged."""
    work = _backward_cuda if q.is_cuda else _backward_cpu
    return work(grad, q, k, v, out, lse, segments, causal, scale)


def _forward_cuda(
    q: Tensor, k: Tensor, v: Tensor, segments: Segments, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    out, lse, *_ = aten._flash_attention_forward(
        q, k, v, segments.starts, segments.key_starts, segments.longest, segments.longest_key, 0.0, causal, False,
        scale=scale,
    )  # fmt: skip
    return out, lse


def _backward_cuda(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    segments: Segments,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    state, unused = q.new_zeros(2, dtype=torch.uint64), q.new_empty(0)  # of the dropout that there is not
    return aten._flash_attention_backward(  # type: ignore[no-any-return]
        grad, q, k, v, out, lse.contiguous(), segments.starts, segments.key_starts, segments.longest,
        segments.longest_key, 0.0, causal, state, unused, scale=scale,
    )  # fmt: skip


def _forward_cpu(
    q: Tensor, k: Tensor, v: Tensor, segments: Segments, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    out, lse = torch.zeros_like(q), q.new_zeros(q.shape[1], q.shape[0], dtype=_accumulation(q))
    for rows, key_rows in segments.batches:
        part, part_lse = aten._scaled_dot_product_flash_attention_for_cpu(
            *(t.transpose(1, 2) for t in (q[rows], k[key_rows], v[key_rows])), 0.0, causal, scale=scale
        )
        out[rows] = part.transpose(1, 2)
        lse[:, rows] = part_lse.transpose(0, 1)
    return out, lse


def _backward_cpu(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    segments: Segments,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    grads = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for rows, key_rows in segments.batches:
        parts = aten._scaled_dot_product_flash_attention_for_cpu_backward(
            *(t.transpose(1, 2) for t in (grad[rows], q[rows], k[key_rows], v[key_rows], out[rows])),
            lse[:, rows].transpose(0, 1), 0.0, causal, scale=scale,
        )  # fmt: skip
        for whole, part, at in zip(grads, parts, (rows, key_rows, key_rows), strict=True):
            whole[at] = part.transpose(1, 2)
    return grads


def _accumulation(q: Tensor) -> torch.dtype:
    return torch.float64 if q.dtype == torch.float64 else torch.float32
