"""How sure a score is, and a difference of two: errors by clusters, paired bootstrap, McNemar, Holm.

Questions about one picture, film, scene or group are not independent, so they are drawn together.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

from jigsaw.errors import JigsawError

DRAWS = 10_000
LEVEL = 0.05
"""Share of false gains that is allowed, over all tasks together."""
_CHUNK = 500
_SURE, _POWER = 1.96, 0.84  # normal quantiles: 95 % two-sided, 80 % of cases


@dataclass(frozen=True)
class Unit:
    """What counts once in a score: a question, or a group of them.

    Attributes:
        value: what it adds to the mean.
        cluster: what it belongs to.
    """

    value: float
    cluster: Hashable


@dataclass(frozen=True)
class Comparison:
    """Two models on the same units.

    Attributes:
        difference: of their means, the other's less the base's.
        low, high: its 95 % interval.
        p: of no difference, two-sided: the larger of the bootstrap's and McNemar's, or the jackknife's.
        smallest: difference that so many units show in four of five cases.
        units: how many.
        clusters: how many; of the jackknife, parts.
    """

    difference: float
    low: float
    high: float
    p: float
    smallest: float
    units: int
    clusters: int


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


def compare(
    base: Mapping[str, Unit], other: Mapping[str, Unit], *, draws: int = DRAWS, seed: int = 0
) -> Comparison | None:
    """How another model differs from a base, by a paired bootstrap over clusters; None for fewer than two clusters.

    Args:
        base: units by name.
        other: the same units of the other model.
        draws: of the bootstrap.
        seed: of them.

    Raises:
        JigsawError: if both have not the same units.
    """
    import numpy as np

    if base.keys() != other.keys():
        missing = next(iter(base.keys() ^ other.keys()))
        raise JigsawError(f"{missing}: was asked of one of the models alone; evaluate both on the same questions")
    names = list(base)
    differences = np.array([other[name].value - base[name].value for name in names])
    places: dict[Hashable, int] = {}
    numbers = np.array([places.setdefault(base[name].cluster, len(places)) for name in names])
    count = len(places)
    if count < 2:
        return None
    sums = np.bincount(numbers, weights=differences, minlength=count)
    sizes = np.bincount(numbers, minlength=count).astype(float)
    random = np.random.default_rng(seed)
    means = np.concatenate(
        [
            (counts @ sums) / (counts @ sizes)
            for begin in range(0, draws, _CHUNK)
            for counts in [random.multinomial(count, np.full(count, 1 / count), size=min(_CHUNK, draws - begin))]
        ]
    )
    low, high = np.quantile(means, [LEVEL / 2, 1 - LEVEL / 2])
    beyond = min(int((means <= 0).sum()), int((means >= 0).sum()))
    by_bootstrap = min(1.0, 2 * (beyond + 1) / (draws + 1))
    return Comparison(
        float(differences.mean()),
        float(low),
        float(high),
        max(by_bootstrap, mcnemar(differences.tolist())),
        (_SURE + _POWER) * float(means.std(ddof=1)),
        len(names),
        count,
    )


def error_of_parts(without: Sequence[float]) -> float:
    """The standard error of a figure by the jackknife: from what it is with each of its parts left out.

    >>> error_of_parts([1.0, 1.0])
    0.0
    """
    mean = sum(without) / len(without)
    return sqrt(sum((value - mean) ** 2 for value in without) * (len(without) - 1) / len(without))


def compare_parts(
    base: tuple[float, Sequence[float]], other: tuple[float, Sequence[float]], units: int
) -> Comparison | None:
    """:func:`compare` for figures that are no means, by the jackknife and Student's t.

    Args:
        base: the figure, and what it is with each part left out.
        other: of the other model, the same parts.
        units: how many questions.

    Returns:
        None where nothing differs from part to part, so that nothing is known of chance.
    """
    from scipy.stats import t

    parts = len(base[1])
    difference = other[0] - base[0]
    error = error_of_parts([mine - its for mine, its in zip(other[1], base[1], strict=True)])
    if error == 0:
        return None
    reach = float(t.ppf(1 - LEVEL / 2, parts - 1)) * error
    p = float(2 * t.sf(abs(difference) / error, parts - 1))
    return Comparison(difference, difference - reach, difference + reach, p, (_SURE + _POWER) * error, units, parts)


def mcnemar(differences: Sequence[float]) -> float:
    """The exact two-sided p of McNemar's test: whether as many units were won as lost.

    >>> mcnemar([1, 1, 1, 1, 1, 1, 0, 0])
    0.03125
    """
    from scipy.stats import binomtest

    won = sum(difference > 0 for difference in differences)
    lost = sum(difference < 0 for difference in differences)
    return float(binomtest(won, won + lost).pvalue) if won + lost else 1.0


def holm(ps: Sequence[float]) -> list[float]:
    """p of several tests, adjusted so that at most :data:`LEVEL` of all comparisons name any difference where none is.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted = [0.0] * len(ps)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[place]))
        adjusted[place] = largest
    return adjusted
