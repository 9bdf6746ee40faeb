"""What held-out puzzles say about a model: means, how sure they are, and what follows. Standard library only."""

from collections.abc import Hashable, Sequence
from math import sqrt

Scores = Sequence[dict[str, float]]
"""The reward's metrics (:func:`jigsaw.reward.compute_score`) of each puzzle."""

SURE = 2.0
"""Standard errors from which a difference counts."""
FORMED = 0.9
"""Share of valid permutations below which the form of the answer is what is missing."""


def mean_scores(scores: Scores) -> dict[str, float]:
    """Each metric's mean over the puzzles."""
    return {name: sum(score[name] for score in scores) / len(scores) for name in scores[0]}


def clustered_error(values: Sequence[float], clusters: Sequence[Hashable]) -> float:
    """The standard error of a mean of values that belong together in clusters; infinite for fewer than two clusters.

    Puzzles of one picture are not independent: a model that fails one is likely to fail the others. Values that are
    each a cluster of their own give the usual standard error.

    Args:
        values: one a puzzle.
        clusters: the picture of each puzzle.

    >>> clustered_error([1, 0, 1, 0], "abcd") < clustered_error([1, 1, 0, 0], "aabb")
    True
    """
    mean = sum(values) / len(values)
    sums: dict[Hashable, float] = {}
    for value, cluster in zip(values, clusters, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + value - mean
    if len(sums) < 2:
        return float("inf")
    return sqrt(sum(total**2 for total in sums.values()) * len(sums) / (len(sums) - 1)) / len(values)


def verdict(after: Scores, greyed: Scores, pictures: Sequence[Hashable], chance: float) -> str:
    """One sentence: whether the model learned, whether it looks at the pictures, and what to do if not.

    Args:
        after: of the trained model, one a puzzle.
        greyed: the same puzzles greyed out.
        pictures: the picture of each puzzle.
        chance: exact accuracy of a blind guess.
    """
    exact = [score["exact"] for score in after]
    above = [value - chance for value in exact]
    seen = [value - blind["exact"] for value, blind in zip(exact, greyed, strict=True)]
    valid, blind_exact = mean_scores(after)["valid_permutation"], mean_scores(greyed)["exact"]
    figures = f"{mean_scores(after)['exact']:.0%} exact where guessing gives {chance:.0%}"
    if valid < FORMED:
        return (
            f"It did not learn: {1 - valid:.0%} of the replies name no order at all; "
            "start again with more --warm-start-steps."
        )
    if not _is_sure(above, pictures):
        return (
            f"It did not learn: {figures} is within what chance does; train on with more --steps, "
            "or give more pictures whose parts tell their place, such as landscapes."
        )
    if not _is_sure(seen, pictures):
        return (
            f"It is better than chance ({figures}) but does not look at the pictures: greyed out, {blind_exact:.0%}; "
            "train on with more --steps, or give more pictures."
        )
    return f"It learned: {figures}; and it looks at the pictures: greyed out, {blind_exact:.0%}."


def _is_sure(differences: Sequence[float], clusters: Sequence[Hashable]) -> bool:
    """Whether their mean is above 0 by more than chance does."""
    return sum(differences) / len(differences) > SURE * clustered_error(differences, clusters)
