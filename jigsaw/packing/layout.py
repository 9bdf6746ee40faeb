"""Where the tokens of whole groups lie in one packed sequence: all prompts, then all responses, without padding."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor

from jigsaw.packing.attention import Piece
from jigsaw.packing.kernels import Segments


@dataclass(frozen=True, eq=False)
class Layout:
    """A pack of groups: prompt 1 … prompt g | the responses to prompt 1 … the responses to prompt g.

    In this order the prompts and the responses are slices, so that no token is copied for the attention.

    Args:
        prompts: tokens of each prompt, at least 1.
        responses: tokens of each response, group by group; 0 is allowed.
        device: where the tensors of the layout are.

    Raises:
        ValueError: a prompt without a token, or as many groups of responses as there are prompts are not given.
    """

    prompts: tuple[int, ...]
    responses: tuple[tuple[int, ...], ...]
    device: torch.device

    def __post_init__(self) -> None:
        if not self.prompts or min(self.prompts) < 1:
            raise ValueError(f"a pack needs prompts of at least one token, got lengths {self.prompts}")
        if len(self.prompts) != len(self.responses):
            raise ValueError(f"{len(self.prompts)} prompts, but {len(self.responses)} groups of responses")

    @cached_property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts: the first response begins here."""
        return sum(self.prompts)

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of every response, in the order of the pack."""
        return tuple(length for group in self.responses for length in group)

    @cached_property
    def tokens(self) -> int:
        """Tokens of the pack."""
        return self.prompt_tokens + sum(self.lengths)

    @cached_property
    def pieces(self) -> tuple[Piece, ...]:
        """The attention: every segment to itself, causally, and every response to the whole of its prompt."""
        everything, prompts = slice(0, self.tokens), slice(0, self.prompt_tokens)
        # No empty segment here: only a group's responses together may have no token.
        own = Segments.of([*self.prompts, *filter(None, self.lengths)], device=self.device)
        pieces = [Piece(everything, everything, own, causal=True)]
        if any(self.lengths):
            shared = Segments.of([sum(group) for group in self.responses], self.prompts, device=self.device)
            pieces.append(Piece(slice(self.prompt_tokens, self.tokens), prompts, shared, causal=False))
        return tuple(pieces)

    @cached_property
    def predicting(self) -> Tensor:
        """``(response tokens,)`` int64: the token whose hidden state predicts each response token, in their order.

        A response's first token is predicted by its prompt's last one, so this one occurs once a response.
        """
        rows = torch.arange(self.prompt_tokens - 1, self.tokens - 1)
        starts = accumulate(self.lengths, initial=0)
        for last, group in zip(accumulate(self.prompts), self.responses, strict=True):
            for length in group:
                start = next(starts)
                if length:
                    rows[start] = last - 1
        return rows.to(self.device)

    def join(self, prompts: Sequence[Tensor], responses: Sequence[Sequence[Tensor]]) -> Tensor:
        """The pack of something that has a last dimension of tokens, such as their ids."""
        return torch.cat([*prompts, *(response for group in responses for response in group)], dim=-1)

    def positions(self, prompts: Sequence[Tensor]) -> Tensor:
        """Positions ``(rows, tokens)`` of the pack, each response's going on from its prompt's last token.

        Args:
            prompts: ``(rows, tokens)`` of each prompt; rows are 3 (time, height, width) or whatever the model takes.
        """
        last = torch.stack([prompt[:, -1:] for prompt in prompts])
        steps = [
            [last[i] + torch.arange(1, length + 1, device=last.device) for length in group]
            for i, group in enumerate(self.responses)
        ]
        return self.join(prompts, steps)

    def split(self, values: Tensor) -> list[list[Tensor]]:
        """A value for each response token, ``(response tokens,)``, as one tensor a response, group by group."""
        parts = iter(torch.split(values, list(self.lengths)))
        return [[next(parts) for _ in group] for group in self.responses]

    @cached_property
    def segment(self) -> Tensor:
        """``(tokens,)`` int64: the prompt or response that a token belongs to, prompts first."""
        lengths = torch.tensor([*self.prompts, *self.lengths])
        return torch.arange(len(lengths)).repeat_interleave(lengths).to(self.device)

    @cached_property
    def prompt(self) -> Tensor:
        """``(tokens,)`` int64: the prompt that a token belongs to or answers."""
        groups = [*range(len(self.prompts)), *(g for g, group in enumerate(self.responses) for _ in group)]
        return torch.tensor(groups, device=self.device)[self.segment]

    def sees(self, query: Tensor, key: Tensor) -> Tensor:
        """Whether a token sees another, by their places in the pack: the attention in one line."""
        return (key <= query) & ((self.segment[key] == self.segment[query]) | (self.segment[key] == self.prompt[query]))

    def mask(self) -> Tensor:
        """``(tokens, tokens)`` bool, for checks: an attention with it is far too slow for more."""
        rows = torch.arange(self.tokens, device=self.device)
        return self.sees(rows[:, None], rows[None, :])
