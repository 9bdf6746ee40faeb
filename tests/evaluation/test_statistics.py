"""Errors and differences, against scipy, by hand, and on made data whose truth is known."""

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap, sem

from jigsaw.errors import JigsawError
from jigsaw.evaluation.statistics import (
    Unit,
    clustered_error,
    compare,
    compare_parts,
    error_of_parts,
    holm,
    mcnemar,
)


def units(values: object, clusters: object) -> dict[str, Unit]:
    pairs = zip(values, clusters, strict=True)  # type: ignore[call-overload]
    return {str(number): Unit(float(value), int(cluster)) for number, (value, cluster) in enumerate(pairs)}


def test_errors_are_scipys_where_each_question_is_a_cluster() -> None:
    values = np.random.default_rng(0).integers(0, 2, 60).tolist()
    assert clustered_error(values, range(60)) == pytest.approx(sem(values))


def test_the_interval_is_scipys() -> None:
    random = np.random.default_rng(1)
    base, other = random.integers(0, 2, 200), random.integers(0, 2, 200)
    found = compare(units(base, range(200)), units(other, range(200)))
    assert found is not None
    theirs = bootstrap(((other - base).astype(float),), np.mean, n_resamples=10_000, method="percentile", rng=2)
    assert found.difference == pytest.approx((other - base).mean())
    assert found.low == pytest.approx(theirs.confidence_interval.low, abs=0.01)
    assert found.high == pytest.approx(theirs.confidence_interval.high, abs=0.01)
    assert found.smallest == pytest.approx(2.8 * theirs.standard_error, rel=0.05)


def test_copies_add_no_certainty() -> None:
    random = np.random.default_rng(2)
    base, other = random.integers(0, 2, 50), random.integers(0, 2, 50)
    once = compare(units(base, range(50)), units(other, range(50)))
    copied = compare(units(np.tile(base, 8), np.tile(range(50), 8)), units(np.tile(other, 8), np.tile(range(50), 8)))
    assert once is not None
    assert copied is not None
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high), abs=0.02)
    assert copied.smallest == pytest.approx(once.smallest, rel=0.05)


def test_mcnemar_is_the_binomial_test() -> None:
    differences = [1] * 9 + [-1] * 2 + [0] * 30
    assert mcnemar(differences) == binomtest(9, 11).pvalue
    assert mcnemar([0, 0]) == 1


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_same_seed_gives_the_same() -> None:
    random = np.random.default_rng(3)
    pair = [units(random.integers(0, 2, 40), range(40)) for _ in range(2)]
    assert compare(*pair) == compare(*pair)


def test_other_questions_are_named_and_one_cluster_says_nothing() -> None:
    with pytest.raises(JigsawError, match="2: was asked of one of the models alone"):
        compare(units([1, 0, 1], range(3)), units([1, 0], range(2)))
    assert compare(units([1, 0], [0, 0]), units([1, 1], [0, 0])) is None


def draw(random: np.random.Generator, gain: float) -> tuple[dict[str, Unit], dict[str, Unit], float]:
    """Two models on 60 pictures of 1 to 5 questions; how hard a picture is, both share."""
    sizes = random.integers(1, 6, 60)
    clusters = np.repeat(np.arange(60), sizes)
    hard = np.repeat(random.uniform(0.2, 0.7, 60), sizes)
    helped = np.repeat(random.normal(gain, 0.1, 60), sizes)
    base = random.random(len(clusters)) < hard
    other = random.random(len(clusters)) < np.clip(hard + helped, 0, 1)
    return units(base, clusters), units(other, clusters), gain


@pytest.mark.seconds
def test_false_gains_are_rare_and_intervals_hold_the_truth() -> None:
    """2,000 comparisons of models that are alike, 500 of models that are not."""
    random = np.random.default_rng(4)
    found = [compare(*draw(random, 0.0)[:2], draws=1000) for _ in range(2000)]
    gains = sum(one is not None and one.p <= 0.05 and one.difference > 0 for one in found)
    assert gains / 2000 <= 0.05
    for gain in (0.0, 0.1):
        held = 0
        for _ in range(500):
            base, other, truth = draw(random, gain)
            one = compare(base, other, draws=1000)
            held += one is not None and one.low <= truth <= one.high
        assert 0.92 <= held / 500 <= 0.98


@pytest.mark.seconds
def test_what_is_called_visible_is_seen_in_four_of_five_cases() -> None:
    random = np.random.default_rng(5)
    probe = [compare(*draw(random, 0.0)[:2], draws=1000) for _ in range(50)]
    smallest = float(np.mean([one.smallest for one in probe if one]))
    seen = 0
    for _ in range(300):
        one = compare(*draw(random, smallest)[:2], draws=1000)
        seen += one is not None and one.low > 0
    assert 0.7 <= seen / 300 <= 0.9


def left_out(model: dict[str, Unit], parts: int = 20) -> tuple[float, list[float]]:
    """A mean, and what it is with each part of the clusters left out."""
    values = np.array([unit.value for unit in model.values()])
    its = np.array([int(unit.cluster) % parts for unit in model.values()])  # type: ignore[call-overload]
    return float(values.mean()), [float(values[its != part].mean()) for part in range(parts)]


def test_the_jackknifes_error_is_the_means() -> None:
    random = np.random.default_rng(6)
    ratios = []
    for _ in range(50):
        base, *_ = draw(random, 0.0)
        plain = clustered_error([unit.value for unit in base.values()], [unit.cluster for unit in base.values()])
        ratios.append(error_of_parts(left_out(base)[1]) / plain)
    assert np.mean(ratios) == pytest.approx(1, abs=0.1)


@pytest.mark.seconds
def test_by_the_jackknife_false_gains_are_rare_and_intervals_hold_the_truth() -> None:
    random = np.random.default_rng(7)
    gains = 0
    for _ in range(2000):
        base, other, _ = draw(random, 0.0)
        one = compare_parts(left_out(base), left_out(other), len(base))
        gains += one is not None and one.p <= 0.05 and one.difference > 0
    assert gains / 2000 <= 0.05
    held = 0
    for _ in range(500):
        base, other, truth = draw(random, 0.1)
        one = compare_parts(left_out(base), left_out(other), len(base))
        held += one is not None and one.low <= truth <= one.high
    assert 0.92 <= held / 500 <= 0.98
