"""Orders and answers: draw, invert, validate, compare. Standard library only.

Two views of one permutation (paper, section 3.1):

* an *order* is 0-based: ``order[j]`` is the original piece that is shown at place ``j``;
* an *answer* is 1-based and its inverse: ``answer[i]`` is the place where original piece ``i`` is shown.
"""

import hashlib
import json
from collections.abc import Sequence
from itertools import combinations, starmap
from math import factorial
from operator import gt, index


def draw(k: int, *, seed: int, split: str, sample_id: str, epoch: int) -> tuple[int, ...]:
    """Draw an order of ``k`` pieces, uniform over all k! of them, the identity included.

    The draw depends on its arguments alone: no global state, no platform, no process or worker count.

    Args:
        k: number of pieces, at least 1.
        seed: the run's seed.
        split: name of the split, for example ``"train"``.
        sample_id: the row's id, unique in its split.
        epoch: 0-based pass over the data; another epoch gives an independent order.

    Returns:
        The 0-based order, a permutation of ``range(k)``.

    Raises:
        ValueError: if ``k`` is below 1.
        TypeError: if ``seed`` or ``epoch`` is no whole number, which would draw as its whole part does.

    >>> draw(4, seed=0, split="train", sample_id="a", epoch=0)
    (1, 3, 2, 0)
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    # JSON keeps the fields apart: ("a", "bc") and ("ab", "c") are different keys.
    key = json.dumps([index(seed), str(split), str(sample_id), index(epoch)]).encode()
    orders = factorial(k)
    size = (orders.bit_length() + 7) // 8
    excess_bits = 8 * size - orders.bit_length()
    attempt = 0
    while True:  # rejection keeps the draw exactly uniform; less than two attempts on average
        block = hashlib.shake_256(key + attempt.to_bytes(4, "big")).digest(size)
        rank = int.from_bytes(block, "big") >> excess_bits
        if rank < orders:
            return _unrank(rank, k)
        attempt += 1


def _unrank(rank: int, k: int) -> tuple[int, ...]:
    """The ``rank``-th permutation of ``range(k)`` in lexicographic order (Lehmer code)."""
    left = list(range(k))
    order = []
    for size in range(k, 0, -1):
        place, rank = divmod(rank, factorial(size - 1))
        order.append(left.pop(place))
    return tuple(order)


def answer_of(order: Sequence[int]) -> tuple[int, ...]:
    """The 1-based answer to a 0-based order.

    >>> answer_of((2, 0, 1))
    (2, 3, 1)
    """
    answer = [0] * len(order)
    for place, piece in enumerate(order):
        answer[piece] = place + 1
    return tuple(answer)


def order_of(answer: Sequence[int]) -> tuple[int, ...]:
    """The 0-based order that a 1-based answer undoes; the inverse of :func:`answer_of`.

    >>> order_of((2, 3, 1))
    (2, 0, 1)
    """
    order = [0] * len(answer)
    for piece, place in enumerate(answer):
        order[place - 1] = piece
    return tuple(order)


def is_answer(values: Sequence[int], k: int) -> bool:
    """Whether ``values`` is a permutation of 1..k: right length, no repeats, nothing out of range."""
    return len(values) == k and set(values) == set(range(1, k + 1))


def position_agreement(a: Sequence[int], b: Sequence[int]) -> float:
    """Share of places at which two permutations of equal length agree, 0 to 1."""
    return sum(x == y for x, y in zip(a, b, strict=True)) / len(a)


def kendall_tau(a: Sequence[int], b: Sequence[int]) -> float:
    """Kendall's tau: (concordant − discordant pairs) / all pairs, −1 to 1; 1 for a single piece."""
    k = len(a)
    pairs = k * (k - 1) // 2
    if pairs == 0:
        return 1.0
    rank = {value: place for place, value in enumerate(b)}
    ranks = [rank[value] for value in a]
    discordant: int = sum(starmap(gt, combinations(ranks, 2)))
    return 1.0 - 2.0 * discordant / pairs


def footrule(a: Sequence[int], b: Sequence[int]) -> int:
    """Spearman's footrule: the sum over pieces of how far each one is from its place."""
    rank = {value: place for place, value in enumerate(b)}
    return sum(abs(place - rank[value]) for place, value in enumerate(a))


def largest_footrule(k: int) -> int:
    """The footrule of a reversal, which no other permutation of ``k`` pieces exceeds: ⌊k²/2⌋."""
    return k * k // 2
