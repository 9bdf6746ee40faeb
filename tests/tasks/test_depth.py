"""Depth puzzles: points whose order is sure, discs where the row says, and rows of both kinds as they are."""

import json
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jigsaw import build_puzzle, cut, plan
from jigsaw.errors import MediaError, RowError
from jigsaw.media.camera import register
from jigsaw.permutation import answer_of
from jigsaw.prompts import render
from jigsaw.puzzle import media_specs
from jigsaw.tasks import TASKS, media_sizes
from jigsaw.tasks.depth import (
    FARTHEST,
    MIN_METRES,
    MIN_PIXELS,
    MOST_POINTS,
    NEAREST,
    RADIUS,
    choose_points,
    draw_discs,
    flat_depths,
    rescaled,
)
from jigsaw.toy.rows import depth_row, released

SIZE = (400, 300)
POINTS = [[40, 50], [60, 120], [100, 350], [150, 60], [200, 300], [270, 200]]
GREY = (90, 120, 150)


def make_row(points=POINTS, *, resize=None, **said):
    return depth_row("a.png", points, struct={"resize_size": resize}, **said)


def released_row(points=POINTS, resize=None):
    """With a message of the system's before the question."""
    row = released(make_row(points, resize=resize))
    return {**row, "prompt": [{"role": "system", "content": "Reason first."}, *row["prompt"]]}


@pytest.fixture
def media(tmp_path):
    Image.new("RGB", SIZE, GREY).save(tmp_path / "a.png")
    return tmp_path


def one_disc(number: int) -> np.ndarray:
    """The square round a disc of this number on grey."""
    picture = Image.new("RGB", (200, 200), GREY)
    elsewhere = [[-100, -100]] * (number - 1)
    draw_discs(picture, [*elsewhere, [100, 100]])
    return np.asarray(picture)[100 - RADIUS : 101 + RADIUS, 100 - RADIUS : 101 + RADIUS]


def square(picture: Image.Image, y: int, x: int) -> np.ndarray:
    return np.asarray(picture)[y - RADIUS : y + RADIUS + 1, x - RADIUS : x + RADIUS + 1]


# ----------------------------------------------------------------------------------------------------- order and answer


@given(st.integers(2, 12), st.integers(0, 20))
def test_the_answer_names_the_discs_from_near_to_far(count, epoch):
    points = [[20 * rank, 7 * rank] for rank in range(count)]
    planned = plan(make_row(points), epoch=epoch)
    (spec,) = media_specs(planned.messages)
    assert planned.answer == answer_of(planned.order)
    assert [spec["points"][number - 1] for number in planned.answer] == points
    assert [points[rank] for rank in planned.order] == spec["points"]
    assert planned.grid is None


def test_a_plan_is_text_and_needs_no_file():
    planned = plan(make_row(resize=[200, 150]), seed=3)
    assert json.loads(json.dumps(planned.messages)) == planned.messages
    (spec,) = media_specs(planned.messages)
    assert (spec["path"], spec["resize"]) == ("a.png", [200, 150])


def test_the_order_follows_from_seed_split_id_and_epoch():
    base = plan(make_row()).order
    assert plan(make_row()).order == base
    others = [
        plan(make_row(), seed=1),
        plan(make_row(), epoch=1),
        plan(make_row(id="b")),
        plan(make_row(split="val")),
    ]
    assert all(other.order != base for other in others)


def test_pieces_prompt_and_answer_agree(media):
    row = make_row()
    puzzle, again = build_puzzle(row, media, seed=5), cut(plan(row, seed=5), media)
    assert puzzle.pieces == [POINTS[rank] for rank in puzzle.order]
    assert len(puzzle.media) == 1
    assert puzzle.media[0].tobytes() == again.media[0].tobytes()
    assert build_puzzle(row, media, seed=6).media[0].tobytes() != puzzle.media[0].tobytes()
    (message,) = puzzle.messages
    assert [item["type"] for item in message["content"]] == ["text", "image", "text"]
    assert message["content"][1]["image"] is puzzle.media[0]
    with pytest.raises(TypeError, match="depth puzzle is not a tiling"):
        puzzle.reassemble()


@pytest.mark.parametrize("answer_format", ["answer_tag", "boxed", "plain"])
def test_the_prompt_says_what_is_wanted(answer_format):
    text = render("depth", answer_format, points=5)
    assert text.count("<image>") == 1
    assert "nearest" in text
    assert "numbered from 1 to 5" in text
    assert ("\\boxed" in text, "<answer>" in text) == (answer_format == "boxed", answer_format == "answer_tag")


# --------------------------------------------------------------------------------------------------------------- discs


def test_the_numbers_are_where_the_points_say(media):
    for epoch in range(3):
        puzzle = build_puzzle(make_row(), media, epoch=epoch)
        (picture,) = puzzle.media
        for number, (y, x) in enumerate(puzzle.pieces, 1):
            assert np.array_equal(square(picture, y, x), one_disc(number))
        for number, (y, x) in zip(puzzle.answer, POINTS, strict=True):
            assert np.array_equal(square(picture, y, x), one_disc(number))


def test_every_number_looks_different_and_stands_in_the_middle():
    discs = [one_disc(number).astype(int) for number in range(1, MOST_POINTS + 1)]
    assert all(np.abs(a - b).max() > 100 for a, b in combinations(discs, 2))
    for disc in discs:
        ys, xs = np.nonzero((disc > 230).all(axis=-1))  # the white of the digits
        for places in (ys, xs):
            assert abs((places.min() + places.max()) / 2 - RADIUS) <= 1
            assert RADIUS - places.min() < RADIUS - 2


def test_discs_are_translucent_red_and_nothing_else_changes():
    picture = Image.new("RGB", (100, 100), GREY)
    draw_discs(picture, [[50, 40]])
    values = np.asarray(picture).astype(int)
    y, x = np.mgrid[0:100, 0:100]
    far = np.hypot(y - 50, x - 40)
    assert (values[far > RADIUS + 1.3] == GREY).all()
    cover = 120 / 255
    expected = [cover * 255 + (1 - cover) * GREY[0], (1 - cover) * GREY[1], (1 - cover) * GREY[2]]
    ring = (far > 12) & (far < RADIUS - 0.5)
    assert np.abs(values[ring] - expected).max() <= 1


def test_discs_at_the_edge_are_cut_off():
    picture = Image.new("RGB", (60, 60), GREY)
    draw_discs(picture, [[0, 0], [59, 59]])
    whole = one_disc(1)
    assert np.array_equal(np.asarray(picture)[: RADIUS + 1, : RADIUS + 1], whole[RADIUS:, RADIUS:])


def test_own_rows_draw_after_the_resize_and_released_rows_before(media):
    smaller = [SIZE[0] * 3 // 4, SIZE[1] * 3 // 4]
    own = build_puzzle(make_row(resize=smaller), media)
    assert own.media[0].size == tuple(smaller)
    for number, point in enumerate(own.pieces, 1):
        y, x = rescaled(point, SIZE, tuple(smaller))
        assert np.array_equal(square(own.media[0], y, x), one_disc(number))

    theirs = build_puzzle(released_row(resize=smaller), media)
    source = Image.new("RGB", SIZE, GREY)
    draw_discs(source, theirs.pieces)
    assert theirs.media[0].tobytes() == source.resize(smaller, Image.Resampling.BICUBIC).tobytes()
    asked = build_puzzle(make_row(resize=smaller, draw="before_resize"), media)
    assert (np.asarray(asked.media[0]) != GREY).any(axis=-1).sum() < (np.asarray(own.media[0]) != GREY).any(-1).sum()


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 300), st.integers(1, 300), st.data())
def test_a_rescaled_point_covers_its_pixel(width, height, new_width, new_height, data):
    y, x = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    new_y, new_x = rescaled([y, x], (width, height), (new_width, new_height))
    assert 0 <= new_y < new_height
    assert 0 <= new_x < new_width
    assert abs((new_y + 0.5) * height / new_height - (y + 0.5)) <= height / new_height / 2 + 1e-9
    assert abs((new_x + 0.5) * width / new_width - (x + 0.5)) <= width / new_width / 2 + 1e-9
    assert rescaled([y, x], (width, height), (width, height)) == [y, x]


# ---------------------------------------------------------------------------------------------------------------- rows


def test_released_rows_build_as_they_are(media):
    row = released_row()
    puzzle = build_puzzle(row, media, index=7)
    assert (puzzle.task, puzzle.answer_format) == ("depth", "boxed")
    assert [puzzle.pieces[number - 1] for number in puzzle.answer] == POINTS
    for number, (y, x) in enumerate(puzzle.pieces, 1):
        assert np.array_equal(square(puzzle.media[0], y, x), one_disc(number))
    assert plan(row, index=8).id != puzzle.id
    nested = released_row(resize=[[200, 150]], points=[[float(y), float(x)] for y, x in POINTS])
    assert build_puzzle(nested, media).media[0].size == (200, 150)


def changed(**images):
    return {"images": [{**make_row()["images"][0], **images}]}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"images": []}, "images is "),
        ({"images": [{"path": "a.png", "jigsaw_config": [3, 3]}]}, r"images\[0\].points is None"),
        *(
            (changed(points=points), r"images\[0\].points is .*; it must be a list of 2 to 99 \[y, x\] pixels")
            for points in (
                [],
                [[1, 2]],
                [[1, 2], [3]],
                [[1, 2], [3, 4, 5]],
                [[1, 2], [-3, 4]],
                [[1, 2], [float("nan"), 4]],
                [[1, 2], [float("inf"), 4]],
                [["1", "2"], ["3", "4"]],
                [[1, 2], None],
                "1 2 3",
                7,
                {"a": 1},
                [[n, n] for n in range(100)],
            )
        ),
        (changed(points=[[1, 2], [3, 4], [1, 2]]), r"images\[0\].points is .*a point twice"),
        (changed(points=POINTS[:2]), r"extra_info.depths is .*; it must be 2 depths"),
        (changed(resize_size=[0.5, 2]), r"images\[0\].resize_size is "),
        (changed(path=None), r"images\[0\].path is "),
        *(
            ({"extra_info": {"id": "a", "answer_format": "plain", "depths": depths}}, "extra_info.depths is ")
            for depths in (
                [1, 2, 3, 5, 4, 6],
                [1, 2, 2, 3, 4, 5],
                [6, 5, 4, 3, 2, 1],
                [0, 1, 2, 3, 4, 5],
                [1, 2, 3, 4, 5],
                [1, 2, 3, 4, 5, float("nan")],
                [1, 2, 3, 4, 5, None],
                "123456",
                1.5,
            )
        ),
        ({"extra_info": {"id": "a", "answer_format": "plain", "draw": "later"}}, "extra_info.draw is 'later'"),
        ({"prompt": [{"role": "user", "content": "<image>" * 6}]}, "one <image> mark"),
        ({"prompt": [{"role": "user", "content": "<video>"}]}, "one <image> mark"),
    ],
)
def test_a_row_that_is_no_depth_puzzle_is_one_short_line(change, named):
    with pytest.raises(RowError, match=rf"^row [0-9a-f]+: .*{named}") as caught:
        plan({**make_row(), **change})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("resize", [None, [200, 150], [800, 601]])
def test_sizes_are_those_of_the_pictures(media, resize):
    puzzle = build_puzzle(make_row(resize=resize), media)
    assert media_sizes(plan(make_row(resize=resize)).messages, media) == [(*puzzle.media[0].size, 1)]


@pytest.mark.parametrize("point", [[300, 10], [10, 400]])
def test_a_point_outside_the_picture_is_named(media, point):
    with pytest.raises(MediaError, match=r"^a\.png: point \[\d+, \d+\] \(\[y, x\]\) lies outside its 400×300 pixels"):
        build_puzzle(make_row([*POINTS[:-1], point]), media)


# -------------------------------------------------------------------------------------------------------------- points


def flat_scene(size, seed, cells):
    """A depth map of cells of one depth each, with holes and single wrong pixels."""
    rng = np.random.default_rng(seed)
    rows = np.repeat(rng.uniform(0.0, 11.0, (cells, cells)), -(-size[1] // cells), axis=0)[: size[1]]
    values = np.repeat(rows, -(-size[0] // cells), axis=1)[:, : size[0]] + rng.normal(0, 0.01, (size[1], size[0]))
    values[rng.random(values.shape) < 0.001] = rng.uniform(0, 10)
    values[rng.random(values.shape) < 0.001] = 0
    return values.round(3).clip(0).astype(np.float32)


def test_the_limits_are_those_of_the_paper():
    assert (MIN_PIXELS, MIN_METRES, NEAREST, FARTHEST, RADIUS) == (40, 0.2, 0.1, 10, 15)


def test_a_point_is_flat_as_far_as_half_its_disc():
    """Columns of one depth each, 17 pixels wide: 8 to each side are flat round their middle alone."""
    x = np.arange(340)
    values = np.broadcast_to(1 + 0.3 * (x // 17), (200, 340)).astype(np.float32)
    pixels = register((340, 200), (340, 200), None)
    for key in range(8):
        points, _ = choose_points(values, pixels, (340, 200), count=4, shrink=1, key=[key])
        assert {column % 17 for _, column in points} == {8}


@given(st.integers(0, 10**6), st.integers(2, 6), st.integers(3, 8), st.sampled_from([0.3, 0.5, 1.0]))
@settings(deadline=None, max_examples=40)
def test_points_are_apart_inside_and_their_order_is_sure(seed, count, cells, shrink):
    size = (648, 484)
    values = flat_scene((324, 242), seed, cells)
    pixels = register(size, (324, 242), None)
    try:
        points, depths = choose_points(values, pixels, size, count=count, shrink=shrink, key=[seed])
    except MediaError as error:
        text = str(error)
    else:
        assert (points, depths) == choose_points(values, pixels, size, count=count, shrink=shrink, key=[seed])
        assert len(points) == len(depths) == count
        assert all(far - near > MIN_METRES for near, far in pairwise(depths))
        margin = (RADIUS + 1) / shrink
        for (y, x), (other_y, other_x) in combinations(points, 2):
            apart = np.hypot(y - other_y, x - other_x)
            assert apart >= MIN_PIXELS
            assert apart * shrink > 2 * RADIUS + 1
        rounds = []
        for (y, x), metres in zip(points, depths, strict=True):
            assert margin <= y < size[1] - margin
            assert margin <= x < size[0] - margin
            around = values[y // 2 - 4 : y // 2 + 5, x // 2 - 4 : x // 2 + 5]
            assert NEAREST <= metres <= FARTHEST
            assert around.min() >= NEAREST
            rounds.append(around)
        # Whatever pixel round a point is the true one, the order is the same.
        assert all(near.max() < far.min() for near, far in pairwise(rounds))
        text = "too few"
    assert "too few" in text


def test_another_key_draws_other_points():
    values = flat_scene((324, 242), 0, 5)
    pixels = register((648, 484), (324, 242), None)
    drawn = {str(choose_points(values, pixels, (648, 484), count=3, shrink=1, key=[0, n])) for n in range(5)}
    assert len(drawn) == 5


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (np.zeros((242, 324), np.float32), "too few flat places with readings"),
        (np.full((242, 324), 11, np.float32), "too few flat places with readings"),
        (np.full((242, 324), 2, np.float32), "too few points that are apart in the picture and in depth"),
        (np.where(np.arange(324) % 7 == 0, 0, 2).astype(np.float32) * np.ones((242, 1), np.float32), "too few flat"),
        (np.random.default_rng(0).uniform(0.1, 10, (242, 324)).astype(np.float32), "too few flat places"),
        (np.linspace(1, 9, 324, dtype=np.float32) * np.ones((242, 1), np.float32), "too few flat places"),
    ],
)
def test_a_map_without_points_is_refused_with_a_reason(values, why):
    pixels = register((648, 484), (324, 242), None)
    with pytest.raises(MediaError, match=why):
        choose_points(values, pixels, (648, 484), count=6, shrink=1, key=[0])


def test_a_picture_too_small_for_discs_is_refused():
    values = np.ones((32, 32), np.float32)
    with pytest.raises(MediaError, match="too small for a disc"):
        choose_points(values, register((32, 32), (32, 32), None), (32, 32), count=2, shrink=1, key=[0])


@given(st.integers(0, 10**6), st.integers(0, 3), st.integers(0, 3))
@settings(deadline=None, max_examples=40)
def test_flat_depths_is_what_a_loop_finds(seed, reach_y, reach_x):
    values = flat_scene((30, 20), seed, 3)
    rng = np.random.default_rng(seed)
    centres = np.stack((rng.integers(-3, 23, 50), rng.integers(-3, 33, 50)), axis=1)
    found, flat = flat_depths(values, centres, (reach_y, reach_x))
    for (y, x), metres, is_flat in zip(centres, found, flat, strict=True):
        inside = reach_y <= y < 20 - reach_y and reach_x <= x < 30 - reach_x
        around = values[max(0, y - reach_y) : y + reach_y + 1, max(0, x - reach_x) : x + reach_x + 1].astype(float)
        expected = inside and around.min() >= NEAREST and around.max() <= FARTHEST and np.ptp(around) <= MIN_METRES / 2
        assert is_flat == expected
        if expected:
            assert metres == pytest.approx(np.median(around), abs=1e-4)


def test_one_picture_shows_all_points():
    task = TASKS["depth"]
    said = task.read(make_row())
    assert (task.media_type, task.pieces(said), task.media_count(said), task.grid(said)) == ("image", 6, 1, None)
