"""Which responses are trained together."""

from collections import Counter
from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jigsaw.packing.packs import plan_packs, share_rows

BUDGET = 100


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[int], list[int], list[str]]:
    """Prompts, responses and groups of rows that fit the budget each."""
    groups = draw(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 8)), min_size=1, max_size=6))
    rows = [
        (prompt, draw(st.integers(0, BUDGET - 60)), str(n))
        for n, (prompt, size) in enumerate(groups)
        for _ in range(size)
    ]
    rows = draw(st.permutations(rows))
    return [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]


def size(pack: list[int], prompts: list[int], responses: list[int], groups: list[str]) -> int:
    return sum({groups[row]: prompts[row] for row in pack}.values()) + sum(responses[row] for row in pack)


@given(batches(), st.integers(1, 60))
def test_packs_hold_every_row_once_within_the_budget(batch: tuple[list[int], list[int], list[str]], least: int) -> None:
    prompts, responses, groups = batch
    packs = plan_packs(prompts, responses, groups, BUDGET, least)
    assert sorted(row for pack in packs for row in pack) == list(range(len(prompts)))
    assert len(packs) >= min(least, len(prompts))
    for pack in packs:
        assert size(pack, prompts, responses, groups) <= BUDGET
        runs = [group for group, _ in groupby(groups[row] for row in pack)]
        assert len(runs) == len(set(runs))  # the rows of a group beside each other


@given(batches())
def test_a_group_that_fits_is_not_cut(batch: tuple[list[int], list[int], list[str]]) -> None:
    prompts, responses, groups = batch
    packs = plan_packs(prompts, responses, groups, BUDGET)
    parts = Counter(group for pack in packs for group in {groups[row] for row in pack})
    for group, count in parts.items():
        rows = [row for row, name in enumerate(groups) if name == group]
        whole = size(rows, prompts, responses, groups)
        assert count == 1 or whole > BUDGET
        # Of as few parts as the tokens need, or one more where they do not divide.
        room = BUDGET - prompts[rows[0]]
        assert count <= 2 * -(-(whole - prompts[rows[0]]) // room) or count == 1


def test_groups_share_a_pack() -> None:
    assert plan_packs([20] * 4, [10] * 4, ["a", "b", "a", "b"], 80) == [[0, 2, 1, 3]]
    assert len(plan_packs([20] * 4, [10] * 4, ["a", "b", "a", "b"], 79)) == 2


def test_a_row_over_the_budget_is_refused() -> None:
    with pytest.raises(ValueError, match="a prompt of 20 tokens with a response of 81 is over the budget of 100"):
        plan_packs([20, 20], [5, 81], ["a", "a"], 100)


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 8)), min_size=1, max_size=9), st.integers(1, 4), st.data())
def test_ranks_get_as_many_rows_each(groups: list[tuple[int, int]], ranks: int, data: st.DataObject) -> None:
    names = [str(n) for n, (_, size) in enumerate(groups) for _ in range(size)]
    names = data.draw(st.permutations([*names, *["padding"] * (-len(names) % ranks)]))
    shares = share_rows(names, ranks, len)
    assert sorted(row for share in shares for row in share) == list(range(len(names)))
    assert {len(share) for share in shares} == {len(names) // ranks}
    for share in shares:  # an update that is made of a part of them holds whole groups too
        runs = [group for group, _ in groupby(names[row] for row in share)]
        assert len(runs) == len(set(runs))


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 5), st.data())
def test_groups_of_one_size_stay_whole(ranks: int, each: int, n: int, data: st.DataObject) -> None:
    names = data.draw(st.permutations([group for group in range(ranks * each) for _ in range(n)]))
    shares = share_rows(names, ranks, len)
    of_ranks = [{names[row] for row in share} for share in shares]
    assert sum(len(groups) for groups in of_ranks) == ranks * each


def test_ranks_get_equal_work() -> None:
    work = {"a": 9.0, "b": 5.0, "c": 4.0, "d": 1.0}
    names = ["a", "a", "b", "b", "c", "c", "d", "d"]
    shares = share_rows(names, 2, lambda rows: work[names[rows[0]]])
    assert [[names[row] for row in share] for share in shares] == [["a", "a", "d", "d"], ["b", "b", "c", "c"]]


def test_a_group_that_fits_on_no_rank_is_cut() -> None:
    assert share_rows(["a"] * 4 + ["b"] * 4 + ["c"] * 4, 2, len) == [[0, 1, 2, 3, 8, 9], [4, 5, 6, 7, 10, 11]]
