"""The packed engine learns what verl's own does: verl's workers with either, on one rank and on two (rank.py)."""

import os
from collections.abc import Callable
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

PAIRS = tuple(f"{first}-{second}" for first, second in product(("image", "video", "both", "text"), repeat=2))
UPDATES = tuple(f"{mode}-{update}" for mode in ("token-mean", "seq-mean-token-mean") for update in (1, 2, "unpadded"))
AWKWARD = (
    "equal lengths",
    "padding alone in a micro-batch",
    "a response of no token",
    "another response of no token",
    "no token to learn from",
    "a group over the budget",
)


@pytest.fixture(scope="module")
def packed(
    tiny_model: Path, side_by_side: Callable[..., list[tuple[int, str]]], ranks_of: Callable[[Path], Any]
) -> Any:
    """The updates of rank.py by the packed engine."""
    script = str(Path(__file__).with_name("rank.py"))
    with TemporaryDirectory() as folder:
        commands = [[script, str(tiny_model), folder, str(rank), str(size)] for size in (1, 2) for rank in range(size)]
        for status, output in side_by_side(commands, {**os.environ, "VERL_ENGINE_VENDOR": "packed"}, seconds=600):
            assert status == 0, output
        return ranks_of(Path(folder))


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("update", [*PAIRS, *UPDATES, *AWKWARD])
def test_an_update_is_verls(ranks: Any, packed: Any, update: str, size: int) -> None:
    ranks.assert_learned_alike(packed, update, size=size)


@pytest.mark.parametrize("size", [1, 2])
def test_the_tower_is_called_once_a_pack(packed: Any, size: int) -> None:
    assert {packed.metrics(update, ranks=size)["tower_calls"] for update in (*PAIRS, *AWKWARD)} == {1.0}
