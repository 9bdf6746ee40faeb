"""What held-out puzzles say: errors by picture, and the closing sentence."""

from math import isinf, sqrt

import pytest

from jigsaw.evaluation.statistics import clustered_error
from jigsaw.toy.verdict import mean_scores, verdict


def _scores(exact: list[int], valid: list[int] | None = None) -> list[dict[str, float]]:
    return [
        {"exact": float(one), "valid_permutation": float(form)}
        for one, form in zip(exact, valid or [1] * len(exact), strict=True)
    ]


def test_values_of_their_own_give_the_usual_standard_error() -> None:
    values = [1, 0, 0, 1, 1, 1, 0, 1]
    mean = sum(values) / 8
    deviation = sqrt(sum((value - mean) ** 2 for value in values) / 7)
    assert clustered_error(values, range(8)) == pytest.approx(deviation / sqrt(8))


def test_copies_of_a_picture_make_nothing_surer() -> None:
    values = [1, 0, 0, 1, 1, 1, 0, 1]
    copied = [value for value in values for _ in range(12)]
    pictures = [number for number in range(8) for _ in range(12)]
    assert clustered_error(copied, pictures) == pytest.approx(clustered_error(values, range(8)))
    assert clustered_error(copied, range(96)) < clustered_error(copied, pictures) / 3


def test_one_picture_says_nothing() -> None:
    assert isinf(clustered_error([1, 0, 1], ["a", "a", "a"]))


def test_means_are_of_each_metric() -> None:
    assert mean_scores(_scores([1, 0, 1, 0], [1, 1, 1, 0])) == {"exact": 0.5, "valid_permutation": 0.75}


GOOD, COIN = [1] * 36 + [0] * 4, [1, 0] * 20


@pytest.mark.parametrize(
    ("after", "greyed", "expected"),
    [
        (_scores(GOOD), _scores(COIN), "It learned: 90% exact where guessing gives 50%; and it looks at the pictures"),
        (_scores(GOOD), _scores(GOOD), "does not look at the pictures: greyed out, 90%; train on with more --steps"),
        (_scores(COIN), _scores(COIN), "It did not learn: 50% exact where guessing gives 50% is within what chance"),
        (_scores([0] * 40, [0] * 20 + [1] * 20), _scores(COIN), "50% of the replies name no order at all; start again"),
    ],
)
def test_the_sentence_says_what_came_of_it(
    after: list[dict[str, float]], greyed: list[dict[str, float]], expected: str
) -> None:
    assert expected in verdict(after, greyed, range(40), chance=0.5)


def test_what_few_pictures_say_is_not_sure() -> None:
    of_three_pictures = [number // 14 for number in range(40)]
    scores = _scores([1] * 28 + [0] * 12)
    assert "did not learn" in verdict(scores, _scores(COIN), of_three_pictures, chance=0.5)
    assert "It learned" in verdict(scores, _scores([0] * 40), range(40), chance=0.5)
