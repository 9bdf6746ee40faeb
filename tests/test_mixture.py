"""Mixtures: shares of every prefix, epochs of every source, and what a config may say."""

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jigsaw.errors import JigsawError
from jigsaw.mixture import Schedule, Source, read_sources, shuffled

weights = st.one_of(st.integers(1, 60).map(Fraction), st.decimals("0.01", 3, places=2).map(Fraction))
mixtures = st.lists(st.tuples(weights, st.integers(1, 40), st.integers(1, 4)), min_size=1, max_size=9)


def schedule(mixture):
    return Schedule(*map(list, zip(*mixture, strict=True)))


@given(mixtures)
@settings(deadline=None)
def test_every_prefix_holds_every_share_to_within_one_draw(mixture):
    draws = schedule(mixture)
    total = sum(weight for weight, _, _ in mixture)
    drawn = Counter()
    for number in range(len(draws)):
        drawn[draws[number][0]] += 1
        for source, (weight, _, _) in enumerate(mixture):
            assert abs(drawn[source] - weight / total * (number + 1)) < 1


@given(mixtures)
@settings(deadline=None)
def test_each_source_counts_its_own_places_and_epochs(mixture):
    draws = schedule(mixture)
    for source, (_, rows, epochs) in enumerate(mixture):
        own = [(epoch, place) for drawn, epoch, place in map(draws.__getitem__, range(len(draws))) if drawn == source]
        every = [(epoch, place) for epoch in range(epochs) for place in range(rows)]
        assert own == every[: len(own)]
        if source == draws.first_to_end:
            assert own == every


@given(mixtures)
@settings(deadline=None)
def test_the_draws_end_where_a_source_has_no_rows_left(mixture):
    """With one epoch more, the source that ended is what the next draw is of."""
    draws = schedule(mixture)
    longer = schedule([(weight, rows, epochs + 1) for weight, rows, epochs in mixture])
    assert [draws[index] for index in range(len(draws))] == [longer[index] for index in range(len(draws))]
    source, rows, epochs = draws.first_to_end, mixture[draws.first_to_end][1], mixture[draws.first_to_end][2]
    assert longer[len(draws)] == (source, epochs, 0)
    assert rows * epochs == sum(draws[index][0] == source for index in range(len(draws)))


def test_one_source_is_drawn_epoch_by_epoch():
    draws = schedule([(Fraction(3), 2, 3)])
    assert [draws[index] for index in range(len(draws))] == [(0, epoch, row) for epoch in range(3) for row in range(2)]


def test_a_mixture_by_hand():
    draws = schedule([(Fraction(2), 100, 1), (Fraction(1), 2, 2), (Fraction(1), 100, 1)])
    assert [draws[index] for index in range(8)] == [
        *[(0, 0, 0), (1, 0, 0), (0, 0, 1), (2, 0, 0)],
        *[(0, 0, 2), (1, 0, 1), (0, 0, 3), (2, 0, 1)],
    ]
    assert len(draws) == 17
    assert draws.first_to_end == 1
    for index in (-1, 17):
        with pytest.raises(IndexError, match=f"draw {index} of 17"):
            draws[index]


@pytest.mark.timeout(30)
def test_weights_with_many_digits_cost_no_more_than_the_rows():
    draws = Schedule([Fraction("0.12345678901"), Fraction("1.98765432109")], [1000, 10**9], [2, 1])
    assert draws.first_to_end == 0
    assert sum(draws[index][0] == 0 for index in range(len(draws))) == 2000
    assert len(draws) == pytest.approx(2000 * 2.1111111 / 0.1234568, rel=1e-3)


@given(st.integers(1, 50), st.integers(0, 3))
def test_an_epoch_holds_every_row_once(rows, epoch):
    assert sorted(shuffled(rows, 0, "a", epoch)) == list(range(rows))


def test_epochs_sources_and_seeds_have_orders_of_their_own():
    orders = {tuple(shuffled(40, *key)) for key in ((0, "a", 0), (0, "a", 1), (0, "b", 0), (1, "a", 0))}
    assert len(orders) == 4
    assert shuffled(1000, 7, "video", 3)[:5] == [478, 154, 158, 100, 607]  # in every process


# --- what a config says -----------------------------------------------------------------------------------------


def test_files_without_a_name_are_one_source():
    assert read_sources("a.parquet", "media", 3) == [Source("", ("a.parquet",), Fraction(1), "media", 3)]
    assert read_sources(["a", "b"], "media", 3) == [Source("", ("a", "b"), Fraction(1), "media", 3)]


def test_a_source_takes_what_it_does_not_say_from_the_data():
    found = read_sources(
        [
            {"name": "image", "files": "a"},
            {"name": "video", "files": ["b", "c"], "weight": 0.1, "media_root": "clips", "epochs": 5},
            {"name": "depth", "files": "d", "weight": None, "media_root": None, "epochs": None},
        ],
        "media",
        3,
    )
    assert found == [
        Source("image", ("a",), Fraction(1), "media", 3),
        Source("video", ("b", "c"), Fraction(1, 10), "clips", 5),
        Source("depth", ("d",), Fraction(1), "media", 3),
    ]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"weight": 0}, "source 'x': weight is 0; it must be a number above 0"),
        ({"weight": -1}, "source 'x': weight is -1"),
        ({"weight": float("nan")}, "source 'x': weight is nan"),
        ({"weight": float("inf")}, "source 'x': weight is inf"),
        ({"weight": True}, "source 'x': weight is True"),
        ({"weight": "2"}, "source 'x': weight is '2'"),
        ({"epochs": 0}, "source 'x': epochs is 0; it must be a whole number, 1 or more"),
        ({"epochs": 1.5}, "source 'x': epochs is 1.5"),
        ({"wieght": 2}, "source 'x': wieght is unknown; known are name, files, weight, media_root, epochs"),
        ({"files": None}, "source 'x': None names no file"),
        ({"files": []}, r"source 'x': \[\] names no file"),
        ({"files": [3]}, r"source 'x': \[3\] names no file"),
        ({"file": "a", "files": None}, "source 'x': file is unknown; known are name, files"),
        ({"media_root": 3}, "source 'x': media_root is 3; it must be a folder"),
        ({"media_root": ""}, "source 'x': media_root is ''; it must be a folder"),
        ({"name": None}, "a source of data is .* it must be {name, files, weight, media_root, epochs}"),
        ({"name": "y"}, "source 'y': is there twice; names must be unique"),
        ("a.parquet", "a source of data is 'a.parquet'; it must be {name"),
    ],
)
def test_a_source_that_makes_no_sense_is_named(entry, said):
    entry = entry if isinstance(entry, str) else {"name": "x", "files": "a", **entry}
    with pytest.raises(JigsawError, match=said):
        read_sources([{"name": "y", "files": "b"}, entry], "media", 3)


@pytest.mark.parametrize("given", [None, "", [], [None], {"name": "x"}, 3])
def test_data_without_files_are_said(given):
    with pytest.raises(JigsawError, match=r"data\.val_files: .*names no file; give a parquet file of rows"):
        read_sources(given, "media", 3, "data.val_files")


def test_a_source_without_a_media_root_is_named():
    with pytest.raises(JigsawError, match="source 'x': where are its pictures or videos"):
        read_sources([{"name": "x", "files": "a"}], None, 3)
    assert read_sources([{"name": "x", "files": "a", "media_root": "m"}], None, 3)[0].media_root == "m"
