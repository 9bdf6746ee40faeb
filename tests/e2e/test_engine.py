"""The packed engine learns what verl's own does: verl's workers with either, on one rank and on two (rank.py)."""

from itertools import product
from typing import Any

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

PAIRS = tuple(map("-".join, product(("image", "video", "both", "text"), repeat=2)))
UPDATES = tuple(f"{mode}-{update}" for mode in ("token-mean", "seq-mean-token-mean") for update in (1, 2, "unpadded"))
AWKWARD = (
    "equal lengths",
    "padding alone in a micro-batch",
    "a response of no token",
    "another response of no token",
    "no token to learn from",
    "a group over the budget",
)


OTHERS = (
    "a group of sixteen",
    "its own words",
    "float32",
    "two updates a step",
    "log-probabilities",
    "kl",
    "lora",
)


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("update", [*PAIRS, *UPDATES, *AWKWARD, *OTHERS])
def test_an_update_is_verls(ranks: Any, packed_ranks: Any, update: str, size: int) -> None:
    ranks.assert_learned_alike(packed_ranks, update, size=size)


@pytest.mark.parametrize("size", [1, 2])
def test_the_tower_is_called_once_a_pack(packed_ranks: Any, size: int) -> None:
    assert {packed_ranks.metrics(update, ranks=size)["tower_calls"] for update in (*PAIRS, *AWKWARD)} == {1.0}


@pytest.mark.parametrize("size", [1, 2])
def test_one_forward_pass_says_what_verls_two_do(ranks: Any, packed_ranks: Any, size: int) -> None:
    verls, ours = (of.metrics("its own words", ranks=size) for of in (ranks, packed_ranks))
    names = [name for name in verls if name.startswith("training/rollout_")]
    assert len(names) == 5
    assert {name: ours[name] for name in names} == pytest.approx({name: verls[name] for name in names}, rel=1e-5)
    assert ours["actor/ppo_kl"] == ours["actor/pg_clipfrac"] == 0.0


@pytest.mark.parametrize("size", [1, 2])
def test_in_bfloat16_it_is_no_further_from_the_truth_than_verl(ranks: Any, packed_ranks: Any, size: int) -> None:
    truth = ranks.weights("float32 gradients", ranks=size)

    def error(of: Any) -> float:
        found = of.weights("bfloat16 gradients", ranks=size)
        squares = [((found[name].float() - truth[name]).norm() ** 2, truth[name].norm() ** 2) for name in truth]
        return float((sum(wrong for wrong, _ in squares) / sum(right for _, right in squares)) ** 0.5)

    assert 1e-4 < error(packed_ranks) <= 1.5 * error(ranks)
