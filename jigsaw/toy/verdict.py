"""What held-out puzzles say about a model: means, how sure they are, and what follows."""

from collections.abc import Hashable, Sequence

from jigsaw.evaluation.statistics import clustered_error

Scores = Sequence[dict[str, float]]
"""The reward's metrics (:func:`jigsaw.reward.compute_score`) of each puzzle."""

SURE = 2.0
"""Standard errors from which a difference counts."""
FORMED = 0.9
"""Share of valid permutations below which the form of the answer is what is missing."""


def mean_scores(scores: Scores) -> dict[str, float]:
    """Each metric's mean over the puzzles."""
    return {name: sum(score[name] for score in scores) / len(scores) for name in scores[0]}


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
