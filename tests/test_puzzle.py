"""From a row to a puzzle: plans need no file, tilings lose no pixel, and every process gets the same puzzle."""

import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jigsaw import build_puzzle, cut, plan
from jigsaw.errors import MediaError, RowError
from jigsaw.media.image import tile_boxes
from jigsaw.permutation import answer_of
from jigsaw.puzzle import media_specs
from jigsaw.tasks import image, media_sizes, plan_again
from jigsaw.toy.rows import image_row


def make_row(path="a.png", grid=(3, 3), *, resize=None, crop=None, **said):
    return image_row(path, grid, struct={"resize_size": resize, "crop_size": crop}, **said)


def noise(width, height, seed=0):
    """A picture in which no two tiles are alike."""
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def same(a, b):
    return a.size == b.size and a.mode == b.mode and a.tobytes() == b.tobytes()


grids = st.tuples(st.integers(1, 5), st.integers(1, 5)).filter(lambda grid: grid[0] * grid[1] > 1)


@given(grids, st.integers(5, 70), st.integers(5, 70), st.integers(0, 50))
@settings(deadline=None)
def test_tiles_put_back_give_the_source(grid, width, height, epoch):
    rows, columns = grid
    source = noise(width, height)
    with tempfile.TemporaryDirectory() as folder:
        source.save(Path(folder, "a.png"))
        puzzle = build_puzzle(make_row(grid=grid), folder, epoch=epoch)
    assert same(puzzle.reassemble(), source)
    assert len(puzzle.pieces) == rows * columns
    # The order says which tile of the source is shown at each place.
    boxes = tile_boxes((width, height), rows, columns)
    assert all(same(puzzle.pieces[j], source.crop(boxes[piece])) for j, piece in enumerate(puzzle.order))
    assert {piece.mode for piece in puzzle.pieces} == {"RGB"}
    for sides, whole, parts in (
        ({piece.width for piece in puzzle.pieces}, width, columns),
        ({piece.height for piece in puzzle.pieces}, height, rows),
    ):
        assert max(sides) - min(sides) <= 1
        assert min(sides) == whole // parts


@given(grids, st.integers(5, 40), st.integers(5, 40), st.integers(0, 15), st.integers(0, 15))
@settings(deadline=None)
def test_resize_and_crop_come_before_the_cut(grid, width, height, wider, higher):
    source = noise(31, 23)
    resize, crop = [width + wider, height + higher], [width, height]
    left, top = wider // 2, higher // 2
    expected = source.resize(resize, Image.Resampling.BICUBIC).crop((left, top, left + width, top + height))
    with tempfile.TemporaryDirectory() as folder:
        source.save(Path(folder, "a.png"))
        puzzle = build_puzzle(make_row(grid=grid, resize=resize, crop=crop), folder)
        assert same(puzzle.reassemble(), expected)
        sizes = media_sizes(plan(make_row(grid=grid, resize=resize, crop=crop)).messages, folder)
        assert sizes == [(*tile.size, 1) for tile in puzzle.media]
        # The released rows nest the sizes, and write [-1, -1] for none.
        nested = make_row(path=["a.png"], grid=grid, resize=[resize], crop=[crop])
        assert same(build_puzzle(nested, folder).reassemble(), expected)
        untouched = make_row(path=["a.png"], grid=grid, resize=[[-1, -1]], crop=[-1, -1])
        assert same(build_puzzle(untouched, folder).reassemble(), source)


@given(st.integers(1, 500), st.integers(1, 500), st.integers(1, 20), st.integers(1, 20))
def test_tile_boxes_cover_every_pixel_once(width, height, rows, columns):
    width, height = max(width, columns), max(height, rows)
    boxes = tile_boxes((width, height), rows, columns)
    covered = np.zeros((height, width), dtype=int)
    for left, top, right, bottom in boxes:
        covered[top:bottom, left:right] += 1
    assert (covered == 1).all()
    assert len(boxes) == rows * columns
    assert boxes == sorted(boxes, key=lambda box: (box[1], box[0]))  # raster order


def test_a_plan_is_text_and_needs_no_file():
    planned = plan(make_row("nowhere/at/all.jpg", resize=[90, 60], crop=[60, 60]), seed=3)
    assert json.loads(json.dumps(planned.messages)) == planned.messages
    assert planned.answer == answer_of(planned.order)
    specs = media_specs(planned.messages)
    assert [spec["tile"] for spec in specs] == list(planned.order)
    assert {spec["path"] for spec in specs} == {"nowhere/at/all.jpg"}
    texts = [item["text"] for item in planned.messages[0]["content"] if item["type"] == "text"]
    assert "<image>" not in "".join(texts)
    assert texts[0].endswith("Tile 1: ")
    assert planned.grid == (3, 3)


def test_build_puzzle_is_plan_then_cut(tmp_path):
    noise(30, 30).save(tmp_path / "a.png")
    row = make_row()
    puzzle, planned = build_puzzle(row, tmp_path, seed=5, epoch=2), plan(row, seed=5, epoch=2)
    again = cut(planned, tmp_path)
    assert (puzzle.order, puzzle.answer, puzzle.id, puzzle.task) == (planned.order, planned.answer, "a", "image")
    assert all(same(a, b) for a, b in zip(puzzle.pieces, again.pieces, strict=True))
    shown = [item["image"] for item in puzzle.messages[0]["content"] if item["type"] == "image"]
    assert all(a is b for a, b in zip(shown, puzzle.media, strict=True))
    assert len(shown) == 9


def test_cut_reads_the_picture_once(tmp_path, monkeypatch):
    noise(30, 30).save(tmp_path / "a.png")
    opened = []

    def counting(path):
        opened.append(path)
        return Image.open(path).convert("RGB")

    monkeypatch.setattr(image, "open_rgb", counting)
    puzzle = build_puzzle(make_row(), tmp_path)
    assert len(opened) == 1
    assert same(puzzle.reassemble(), noise(30, 30))


def test_the_order_follows_from_seed_split_id_and_epoch():
    base = plan(make_row(grid=(4, 4))).order
    assert plan(make_row("other.png", grid=(4, 4))).order == base  # where the file lies plays no part
    others = [
        plan(make_row(grid=(4, 4)), seed=1),
        plan(make_row(grid=(4, 4)), epoch=1),
        plan(make_row(grid=(4, 4), id="b")),
        plan(make_row(grid=(4, 4), split="val")),
    ]
    assert len({base, *(other.order for other in others)}) == 5


def test_a_row_without_an_id_gets_one_from_its_place():
    row = make_row(grid=(4, 4), id=None)
    assert plan(row, index=0).id != plan(row, index=1).id
    assert plan(row, index=0).id == plan(dict(row), index=0).id
    assert plan(row, index=0).order != plan(row, index=1).order


def orders(epoch):
    return [plan(make_row(id=f"é{number}"), seed=11, epoch=epoch).order for number in range(20)]


@pytest.mark.seconds
def test_worker_processes_plan_alike():
    expected = [orders(epoch) for epoch in range(4)]
    for workers in (1, 2, 4):
        with ProcessPoolExecutor(workers, mp_context=get_context("fork")) as pool:
            assert list(pool.map(orders, range(4))) == expected


@pytest.mark.seconds
def test_every_process_builds_the_same_puzzles(repository, tmp_path):
    noise(47, 38).save(tmp_path / "a.png")
    printed = {
        subprocess.run(
            [sys.executable, repository / "tests/digest.py", tmp_path, seed],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "99")
    }
    assert len(printed) == 1
    assert len(printed.pop().strip()) == 64


def test_a_picture_smaller_than_its_grid_or_crop_is_named(tmp_path):
    noise(2, 9).save(tmp_path / "a.png")
    with pytest.raises(MediaError, match=r"a\.png: 2×9 pixels cannot be cut"):
        build_puzzle(make_row(), tmp_path)
    with pytest.raises(MediaError, match=r"a\.png: 2×9 pixels are fewer than its crop"):
        build_puzzle(make_row(grid=(2, 1), crop=[3, 3]), tmp_path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"data_source": "geometry"}, "data_source 'geometry'"),
        ({"images": []}, "exactly one entry"),
        ({"images": [{"path": "", "jigsaw_config": [2, 2]}]}, "path"),
        ({"images": [{"path": "a.png", "jigsaw_config": [1, 1]}]}, "jigsaw_config"),
        ({"images": [{"path": "a.png", "jigsaw_config": [3]}]}, "jigsaw_config"),
        ({"images": [{"path": "a.png", "jigsaw_config": [2, 2]}]}, "4 <image> marks"),
        ({"prompt": [{"role": "user", "content": "no marks"}]}, "9 <image> marks"),
        ({"prompt": [{"role": "user", "content": "<video>" * 9}]}, "9 <image> marks"),
        ({"extra_info": {"id": "a", "answer_format": "latex"}}, "'latex'"),
    ],
)
def test_a_row_that_is_no_puzzle_is_named(change, named):
    with pytest.raises(RowError, match=named) as caught:
        plan({**make_row(), **change})
    assert str(caught.value).startswith("row ")
    assert "\n" not in str(caught.value)


PICTURE = {"path": "a.png", "jigsaw_config": [3, 3], "resize_size": None, "crop_size": None}
HUGE = 2**31


@pytest.mark.timeout(20)  # a draw of so many pieces would not end
@pytest.mark.parametrize(
    ("change", "named"),
    [
        *(({"images": images}, "images is ") for images in ([None], ["a.png"], PICTURE, 3, "a", [PICTURE] * 2)),
        *(
            ({"images": [{**PICTURE, "jigsaw_config": grid}]}, r"images\[0\].jigsaw_config is ")
            for grid in (None, [None, 2], ["2", "2"], 4, "33", [float("nan"), 2], [2.5, 2.5], [0, 9], [-3, -3], {})
        ),
        *(({"images": [{**PICTURE, "jigsaw_config": [n, n]}]}, f"must hold {n * n} <image>") for n in (1000, HUGE)),
        *(
            ({"images": [{**PICTURE, name: size}]}, rf"images\[0\].{name} is ")
            for name in ("resize_size", "crop_size")
            for size in ([None, None], 100, [float("inf"), 1], [2.5, 2], "12", [], [1, 2, 3], [2**40, 2], [HUGE, HUGE])
        ),
        *(
            ({"images": [{**PICTURE, "path": path}]}, r"images\[0\].path is ")
            for path in (["a.png", "b.png"], [None], None, 3, [])
        ),
        *(({"extra_info": given}, "extra_info is ") for given in ("id", ["a"], float("nan"), "", [], 0)),
        ({"data_source": "x" * 9999}, "data_source 'xxx"),
        ({"extra_info": {"answer_format": ["x"] * 9999}}, "extra_info.answer_format is "),
    ],
)
def test_a_hostile_row_is_one_short_line(change, named):
    with pytest.raises(RowError, match=rf"^row [0-9a-f]+: .*{named}") as caught:
        plan({**make_row(), **change}, index=7)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_row_whose_id_cannot_be_read_is_named_by_its_place():
    with pytest.raises(RowError, match=r"^row 7: extra_info is 'a'; it must be a struct"):
        plan({**make_row(), "extra_info": "a"}, index=7)


def test_whole_numbers_of_any_type_will_do():
    whole = np.array([3, 3], dtype=np.int32)
    row = {**make_row(), "images": [{**PICTURE, "jigsaw_config": list(whole), "resize_size": [list(whole)]}]}
    planned = plan(row)
    assert planned == plan(make_row(resize=[3, 3]))
    assert json.loads(json.dumps(planned.messages)) == planned.messages


@pytest.mark.parametrize(
    "prompt",
    [None, "a text", ["a text"], [{"role": "user"}], [{"role": "user", "content": None}], [{"role": 1, "content": ""}]],
)
def test_a_prompt_that_is_no_chat_is_a_row_error(prompt: object) -> None:
    with pytest.raises(RowError, match=r"row a: its prompt must be a list of \{role, content\}"):
        plan({**make_row(), "prompt": prompt})


@pytest.mark.parametrize("id", ["a", None])
def test_a_puzzle_is_planned_again_by_its_answer_alone(id):
    row = make_row(id=id)
    once = plan(row, seed=3, epoch=5, index=7)
    assert plan_again(row, list(once.answer), index=7) == once
    assert plan(row, index=7) != once


@pytest.mark.parametrize("answer", [[2, 1], [1] * 9, [], list(range(9))])
def test_an_answer_that_a_puzzle_cannot_have_is_refused(answer):
    with pytest.raises(RowError, match="row a: its puzzle has 9 pieces, and no answer"):
        plan_again(make_row(), answer)
