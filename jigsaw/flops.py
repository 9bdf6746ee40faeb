"""FLOP of training a Qwen2.5-VL or Qwen3-VL, by parts, from its shapes alone.

Counted are matrix products, two FLOP for a multiplication and its addition; norms, activations and the softmax are left
out. What is done how often follows from how verl trains, the plain model as well as packs:

* Every block of the language model and of the tower is checkpointed: its forward pass runs again in the backward pass,
  but for the last product, the down projection, whose result nothing needs (torch stops there). Patch embedding, merger
  and head are not checkpointed; a head that makes its logits in chunks makes them twice.
* The backward pass of a linear layer is two products for one; of the patch embedding it is one, for pixels have no
  gradient; of an attention it is five for two, for flash kernels work out the scores again.
* An attention multiplies the pairs of query and key that its kernel is told of: causal, about half of them; with an
  explicit mask, all.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from math import prod

from jigsaw.shapes import Shapes, Tower

Grid = tuple[int, int, int]
"""Patches of a picture or video in time, height and width."""


@dataclass(frozen=True)
class Flop:
    """FLOP by parts.

    Attributes:
        tower: the vision tower, with its own attention and the merger.
        attention: pairs of query and key of the language model.
        linear: its linear layers, without the head.
        head: its logits.
    """

    tower: int = 0
    attention: int = 0
    linear: int = 0
    head: int = 0

    @property
    def total(self) -> int:
        """All parts."""
        return self.tower + self.attention + self.linear + self.head

    def __add__(self, other: "Flop") -> "Flop":
        return Flop(
            self.tower + other.tower,
            self.attention + other.attention,
            self.linear + other.linear,
            self.head + other.head,
        )


@dataclass(frozen=True)
class Group:
    """A prompt and its responses, in tokens, and the grids of the prompt's media."""

    prompt: int
    responses: tuple[int, ...]
    grids: tuple[Grid, ...] = ()


@dataclass(frozen=True)
class Work:
    """What goes through the model in one forward pass.

    Attributes:
        grids: of all media that the tower sees, as often as it sees them.
        tower_runs: prompts whose media it sees, as often as it sees them.
        tokens: through the language model, padding too.
        pairs: of query and key that its attention multiplies, in each layer and head.
        positions: of which logits are made.
    """

    grids: tuple[Grid, ...]
    tower_runs: int
    tokens: int
    pairs: int
    positions: int


def packed(groups: Iterable[Group]) -> Work:
    """Prompts trained once: a response sees its prompt and itself; logits where a response is predicted."""
    groups = list(groups)
    responses = sum(sum(group.responses) for group in groups)
    return Work(
        grids=tuple(grid for group in groups for grid in group.grids),
        tower_runs=len(groups),
        tokens=sum(group.prompt for group in groups) + responses,
        pairs=sum(
            _causal(group.prompt) + sum(_causal(n) + n * group.prompt for n in group.responses) for group in groups
        ),
        positions=responses,
    )


def apart(groups: Iterable[Group]) -> list[Group]:
    """Every response with a prompt of its own."""
    return [Group(group.prompt, (response,), group.grids) for group in groups for response in group.responses]


def unpadded(groups: Iterable[Group]) -> Work:
    """Every response with its prompt and the prompt's media anew, without padding; logits of every token."""
    work = packed(apart(groups))
    return Work(work.grids, work.tower_runs, work.tokens, work.pairs, positions=work.tokens)


def padded(micro_batches: Iterable[Sequence[Group]]) -> Work:
    """The same in rows that are as long as the longest of their micro-batch, with an explicit mask.

    Args:
        micro_batches: groups of one response each, see :func:`apart`.
    """
    batches = [list(batch) for batch in micro_batches]
    shapes = [(len(batch), max(group.prompt + sum(group.responses) for group in batch)) for batch in batches]
    tokens = sum(rows * longest for rows, longest in shapes)
    return Work(
        grids=tuple(grid for batch in batches for group in batch for grid in group.grids),
        tower_runs=sum(map(len, batches)),
        tokens=tokens,
        pairs=sum(rows * longest**2 for rows, longest in shapes),
        positions=tokens,
    )


def forward(shapes: Shapes, work: Work) -> Flop:
    """A forward pass."""
    text = shapes.text
    return Flop(
        tower=sum(_tower_forward(shapes.tower, grid) for grid in work.grids),
        attention=4 * text.heads * text.head_dim * text.layers * work.pairs,
        linear=2 * text.layer_linear * text.layers * work.tokens,
        head=2 * text.head * work.positions,
    )


def update(shapes: Shapes, work: Work, head_again: bool) -> Flop:
    """A forward pass with gradient, what checkpointing runs again, and the backward pass.

    Args:
        shapes: of the model.
        work: of the forward pass.
        head_again: whether the head makes its logits anew in the backward pass, as ours in chunks does.
    """
    text, once = shapes.text, forward(shapes, work)
    not_again = 2 * text.hidden * text.intermediate * text.layers * work.tokens
    return Flop(
        tower=sum(_tower_update(shapes.tower, grid) for grid in work.grids),
        attention=once.attention * 9 // 2,
        linear=4 * once.linear - not_again,
        head=once.head * (4 if head_again else 3),
    )


def group_flops(shapes: Shapes, prompt_tokens: int, response_tokens: Sequence[int]) -> int:
    """FLOP of the language model in an update on a packed prompt and its responses, to give ranks equal work."""
    return update(shapes, packed([Group(prompt_tokens, tuple(response_tokens))]), head_again=True).total


def _causal(tokens: int) -> int:
    """Pairs of query and key of tokens that see themselves and what is before them."""
    return tokens * (tokens + 1) // 2


@cache
def _tower_forward(tower: Tower, grid: Grid) -> int:
    embed, linear, attention, merger = _tower_parts(tower, grid)
    return embed + linear + attention + merger


@cache
def _tower_update(tower: Tower, grid: Grid) -> int:
    embed, linear, attention, merger = _tower_parts(tower, grid)
    not_again = 2 * tower.hidden * tower.intermediate * tower.depth * prod(grid)
    return 2 * embed + 4 * linear - not_again + attention * 9 // 2 + 3 * merger


def _tower_parts(tower: Tower, grid: Grid) -> tuple[int, int, int, int]:
    """Of a forward pass: patch embedding, linear layers of the blocks, their attention, merger."""
    patches, (time, height, width) = prod(grid), grid
    window = tower.window // tower.merge * tower.merge or max(height, width)
    windows = [
        min(window, height - top) * min(window, width - left)
        for top in range(0, height, window)
        for left in range(0, width, window)
    ]
    frame = (height * width) ** 2
    pairs = time * (tower.full * frame + (tower.depth - tower.full) * sum(patches**2 for patches in windows))
    return (
        2 * tower.embed * patches,
        2 * tower.layer_linear * tower.depth * patches,
        4 * tower.hidden * pairs,
        2 * tower.merger * patches // tower.merge**2,
    )
