"""Attention in which the responses to a prompt share it: pieces over segments, merged by their log-sum-exp."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jigsaw.packing import kernels
from jigsaw.packing.kernels import Segments


@dataclass(frozen=True, eq=False)
class Piece:
    """The part of an attention between a slice of the queries and a slice of the keys."""

    queries: slice
    keys: slice
    segments: Segments
    causal: bool


def attend(q: Tensor, k: Tensor, v: Tensor, pieces: Sequence[Piece], scale: float) -> Tensor:
    """Attention that is the sum of its pieces, with exact gradients.

    Args:
        q: ``(tokens, heads, size)``.
        k: ``(tokens, key heads, size)``; the key heads divide the heads.
        v: as ``k``.
        pieces: the first has every query and key; no query meets a key twice.
        scale: factor of the scores.

    Returns:
        ``(tokens, heads, size)``.
    """
    return _Attend.apply(q, k, v, pieces, scale)  # type: ignore[no-untyped-call, no-any-return]


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, pieces: Sequence[Piece], scale: float) -> Tensor:
        first, *others = pieces
        out, lse = kernels.forward(q, k, v, first.segments, first.causal, scale)
        for piece in others:
            here, there = piece.queries, piece.keys
            part, part_lse = kernels.forward(q[here], k[there], v[there], piece.segments, piece.causal, scale)
            # A group without a response token has no query here, so that every log-sum-exp is finite.
            share = torch.sigmoid(part_lse - lse[:, here]).T[..., None]
            out[here] = torch.lerp(out[here].to(share.dtype), part.to(share.dtype), share)
            lse[:, here] = torch.logaddexp(lse[:, here], part_lse)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.pieces, ctx.scale = pieces, scale
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        first, *others = ctx.pieces
        grad = grad.contiguous()
        dq, dk, dv = kernels.backward(grad, q, k, v, out, lse, first.segments, first.causal, ctx.scale)
        for piece in others:
            here, there = piece.queries, piece.keys
            parts = kernels.backward(
                grad[here],
                q[here],
                k[there],
                v[there],
                out[here],
                lse[:, here],
                piece.segments,
                piece.causal,
                ctx.scale,
            )
            for whole, part in zip((dq[here], dk[there], dv[there]), parts, strict=True):
                whole += part
        return dq, dk, dv, None, None
