"""Log-probabilities of chosen tokens from hidden states, with never more than a set amount of logits in memory."""

from typing import Any

import torch
from torch import Tensor, nn

BYTES_PER_LOGIT = 8  # at the most: the logits in their own type and in float32, or two buffers of float32


class LogProbHead(nn.Linear):
    """A language model's head that gives log-probabilities in place of logits where it is given targets.

    Called as a module, so that hooks on it (FSDP2's) run. Logits are made in chunks, and again in the backward pass.
    """

    max_mib = 512  # MiB of a chunk's logits and what is made of them

    def forward(  # type: ignore[override]
        self, hidden: Tensor, targets: Tensor | None = None, temperature: float = 1.0
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Log-probabilities ``(n,)`` and entropies ``(n,)`` in nats, float32, both with gradient.

        Args:
            hidden: ``(n, size)``; without ``targets`` of any shape, for plain logits.
            targets: ``(n,)`` int64, the tokens whose log-probabilities are wanted.
            temperature: divides the logits.
        """
        if targets is None:
            return super().forward(hidden)
        return log_probs(hidden, self.weight, targets, self.max_mib, temperature)


def log_probs(
    hidden: Tensor, weight: Tensor, targets: Tensor, max_mib: int, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies ``(n,)`` in nats, of at least float32; see :class:`LogProbHead`.

    Args:
        hidden: ``(n, size)``.
        weight: ``(vocabulary, size)``.
        targets: ``(n,)`` int64.
        max_mib: bound on a chunk's logits and what is made of them, in MiB; a chunk has one row at least.
        temperature: divides the logits.
    """
    return _LogProbs.apply(hidden, weight, targets, max_mib, temperature)  # type: ignore[no-untyped-call, no-any-return]


class _LogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, max_mib: int, temperature: float
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.rows = max(1, max_mib * 2**20 // (weight.shape[0] * BYTES_PER_LOGIT))
        float_type = torch.promote_types(hidden.dtype, torch.float32)
        chosen, entropy, lse = (hidden.new_empty(len(hidden), dtype=float_type) for _ in range(3))
        for at in _chunks(len(hidden), ctx.rows):
            logits = (hidden[at] @ weight.T).to(float_type)
            if temperature != 1.0:
                logits /= temperature
            chosen[at] = logits.gather(1, targets[at, None])[:, 0]
            highest = logits.amax(1)
            odds = logits.sub_(highest[:, None]).exp()
            total = odds.sum(1)
            lse[at] = highest + total.log()
            entropy[at] = total.log() - odds.mul_(logits).sum(1) / total
            del logits, odds  # or they would lie beside the next chunk's
        ctx.temperature = temperature
        ctx.save_for_backward(hidden, weight, targets, lse, entropy)
        return chosen - lse, entropy

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, grad_entropy: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, targets, lse, entropy = ctx.saved_tensors
        grad = torch.zeros_like(lse) if grad is None else grad
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        d_hidden = torch.empty_like(hidden) if wants_hidden else None
        d_weight = torch.zeros_like(weight) if wants_weight else None
        for at in _chunks(len(hidden), ctx.rows):
            logp = (hidden[at] @ weight.T).to(lse.dtype)
            if ctx.temperature != 1.0:
                logp /= ctx.temperature
            logp.sub_(lse[at, None])
            if grad_entropy is None:
                d_logits = logp.exp_().mul_(-grad[at, None])
            else:  # of the entropy H: -p (log p + H)
                p = logp.exp()
                slope = logp.add_(entropy[at, None]).mul_(-grad_entropy[at, None])
                d_logits = p.mul_(slope.sub_(grad[at, None]))
                del p, slope
            del logp
            d_logits.scatter_add_(1, targets[at, None], grad[at, None])
            if ctx.temperature != 1.0:
                d_logits /= ctx.temperature
            d_logits = d_logits.to(weight.dtype)
            if d_hidden is not None:
                d_hidden[at] = d_logits @ weight
            if d_weight is not None:
                d_weight.addmm_(d_logits.T, hidden[at])
            del d_logits
        return d_hidden, d_weight, None, None, None


def _chunks(n: int, rows: int) -> list[slice]:
    return [slice(start, start + rows) for start in range(0, n, rows)]
