"""Boxes in replies: read, brought to the picture's size, and scored; average precision against pycocotools."""

import contextlib
import io
import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from jigsaw.errors import JigsawError
from jigsaw.evaluation.boxes import (
    Asked,
    all_boxes,
    all_boxes_carefully,
    coco_ap,
    first_box,
    first_box_carefully,
    is_hit,
    mapped,
    mapped_as_released,
    matches,
    matches_as_released,
    nms_ap,
    original,
    overlap,
    read_truth,
    shown_size,
)


@pytest.mark.parametrize(
    ("reply", "first", "every"),
    [
        ('```json\n[{"bbox_2d": [1, 2, 30, 40], "label": "x"}]\n```', (1, 2, 30, 40), [(1, 2, 30, 40)]),
        ("[1,2,3,4] and [5, 6, 7, 8]", (1, 2, 3, 4), [(1, 2, 3, 4), (5, 6, 7, 8)]),
        ("[[1,2,3,4],[5,6,7,8]]", (1, 2, 3, 4), [(1, 2, 3, 4), (5, 6, 7, 8)]),
        ("[0.5, .25, 3.0, 4]", (0.5, 0.25, 3, 4), []),
        ("[-1, 2, 3, 4]", (-1, 2, 3, 4), [(-1, 2, 3, 4)]),
        ("(1, 2, 3, 4)", None, []),
        ("[1, 2, 3]", None, []),
        ("[1, 2, 3, 4, 5]", None, []),
        ("", None, []),
        ("There is none.", None, []),
        ("\\boxed{[1, 2, 3, 4]}", (1, 2, 3, 4), [(1, 2, 3, 4)]),
        ("<think>[9, 9, 9, 9]</think>[1, 2, 3, 4]", (1, 2, 3, 4), [(1, 2, 3, 4)]),
    ],
)
def test_boxes_are_found(reply: str, first: Any, every: list[Any]) -> None:
    assert first_box(reply) == first
    assert first_box_carefully(reply) == first
    assert all_boxes(reply) == every


def test_the_careful_reader_waits_for_the_end_of_a_thought_and_reads_decimals() -> None:
    assert first_box("<think>[1, 2, 3, 4]") == (1, 2, 3, 4)
    assert first_box_carefully("<think>[1, 2, 3, 4]") is None
    assert all_boxes_carefully("<think>[1, 2, 3, 4]") == []
    assert all_boxes_carefully("[0.5, 2, 3, 4.25]") == [(0.5, 2, 3, 4.25)]
    assert first_box("[9, 9, 9, 9] <answer>[1, 2, 3, 4]</answer>") == (1, 2, 3, 4)


def test_a_box_comes_back_to_the_size_of_its_picture() -> None:
    assert shown_size((640, 480)) == (644, 476)
    assert original((322, 119, 644, 476), (640, 480)) == pytest.approx((320, 120, 640, 480))
    assert mapped((-5, 0, 700, 476), (640, 480)) == pytest.approx((0, 0, 640, 480))
    assert mapped_as_released((322, 119, 644, 476), (640, 480)) == (324, 118, 639, 472)


def test_numbers_without_end_lie_at_the_edge() -> None:
    (box,) = all_boxes("[1, 2, 3, " + "9" * 400 + "]")
    assert mapped_as_released(box, (280, 140)) == (1, 2, 3, 139)
    assert mapped(box, (280, 140)) == (1, 2, 3, 140)


@pytest.mark.parametrize(("size", "share"), [((500, 375), 0.60), ((640, 427), 0.73), ((640, 480), 0.82)])
def test_the_released_mapping_spoils_a_perfect_box(size: tuple[int, int], share: float) -> None:
    """A box from .6 to .8 of both sides, as the model sees it."""
    across, down = shown_size(size)
    shown = (0.6 * across, 0.6 * down, 0.8 * across, 0.8 * down)
    true = (0.6 * size[0], 0.6 * size[1], 0.8 * size[0], 0.8 * size[1])
    assert overlap(mapped(shown, size), true) == pytest.approx(1)
    assert overlap(mapped_as_released(shown, size), true) == pytest.approx(share, abs=0.01)


def test_overlap_is_worked_by_hand() -> None:
    assert overlap((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(50 / 150)
    assert overlap((0, 0, 10, 10), (10, 0, 20, 10)) == 0
    assert overlap((0, 0, 0, 0), (0, 0, 0, 0)) == 0
    assert is_hit((0, 0, 10, 10), (280, 280), [0, 0, 10, 19.9])
    assert not is_hit((0, 0, 10, 10), (280, 280), [0, 0, 10, 20])
    assert not is_hit(None, (280, 280), [0, 0, 10, 20])


def truth_of(folder: Path, boxes: list[tuple[int, int, list[float]]], *, first_id: int = 1) -> str:
    """A file of true boxes: image, category, [left, top, width, height]."""
    file = folder / "truth.json"
    annotations = [
        {"id": first_id + place, "image_id": image, "category_id": category, "bbox": box}
        for place, (image, category, box) in enumerate(boxes)
    ]
    images = [{"id": image} for image in range(4)]
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1}, {"id": 2}]}))
    return str(file)


def asked(file: str, order: int, image: int, category: int, *boxes: tuple[float, float, float, float]) -> Asked:
    return Asked("color", file, order, image, category, boxes)


def test_a_perfect_reply_has_an_average_precision_of_one(tmp_path: Path) -> None:
    file = truth_of(tmp_path, [(1, 1, [10, 10, 20, 20]), (2, 1, [0, 0, 5, 5])])
    rows = [asked(file, 0, 1, 1, (10, 10, 30, 30)), asked(file, 1, 2, 1, (0, 0, 5, 5)), asked(file, 2, 2, 2)]
    assert nms_ap(rows, matches) == pytest.approx(1)
    assert nms_ap(rows, matches_as_released) == pytest.approx(1)


def test_nothing_found_is_no_precision(tmp_path: Path) -> None:
    file = truth_of(tmp_path, [(1, 1, [10, 10, 20, 20])])
    assert nms_ap([asked(file, 0, 1, 1)], matches) == 0


def test_pycocotools_loses_the_match_of_annotation_0(tmp_path: Path) -> None:
    file = truth_of(tmp_path, [(1, 1, [10, 10, 20, 20])], first_id=0)
    rows = [asked(file, 0, 1, 1, (10, 10, 30, 30))]
    assert nms_ap(rows, matches_as_released) == 0
    assert nms_ap(rows, matches, first_id=1) == pytest.approx(1)


def test_the_released_suppression_works_across_categories_and_the_last_row_wins(tmp_path: Path) -> None:
    file = truth_of(tmp_path, [(1, 1, [10, 10, 20, 20])])
    right, other = (10.0, 10.0, 30.0, 30.0), (11.0, 10.0, 31.0, 30.0)
    last = [asked(file, 1, 1, 1, right), asked(file, 0, 1, 2, other)]
    first = [asked(file, 0, 1, 1, right), asked(file, 1, 1, 2, other)]
    assert nms_ap(last, matches_as_released) == pytest.approx(1)
    assert nms_ap(first, matches_as_released) == 0
    assert nms_ap(first, matches) == nms_ap(last, matches) == pytest.approx(1)


def test_of_one_row_the_later_box_wins_and_the_careful_scorer_keeps_the_best(tmp_path: Path) -> None:
    file = truth_of(tmp_path, [(1, 1, [0, 0, 100, 100])])
    rows = [asked(file, 0, 1, 1, (0, 0, 100, 100), (0, 0, 100, 60))]
    # An overlap of 0.6 counts at three of the ten thresholds: .50, .55, .60.
    assert nms_ap(rows, matches_as_released) == pytest.approx(0.3)
    assert nms_ap(rows, matches) == pytest.approx(1)


def test_subsets_weigh_the_same(tmp_path: Path) -> None:
    file = truth_of(tmp_path, [(1, 1, [10, 10, 20, 20]), (2, 1, [0, 0, 5, 5])])
    good = asked(file, 0, 1, 1, (10, 10, 30, 30))
    both = [good, asked(file, 1, 2, 1, (0, 0, 5, 5)), Asked("logo", file, 2, 1, 1, ())]
    assert nms_ap(both, matches) == pytest.approx(0.5)


boxes = st.tuples(*[st.integers(0, 40)] * 2, *[st.integers(1, 30)] * 2).map(list)


@given(
    truth=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 2), boxes), min_size=1, max_size=8),
    found=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 2), st.lists(boxes, max_size=3)), max_size=8),
    seed=st.integers(0, 99),
)
def test_rows_in_any_order_give_what_pycocotools_gives(
    tmp_path_factory: pytest.TempPathFactory, truth: Any, found: Any, seed: int
) -> None:
    """Without a box that overlaps any other by half, suppression does nothing."""
    file = truth_of(tmp_path_factory.mktemp("truth"), truth)
    rows = [
        asked(file, place, image, category, *((x, y, x + w, y + h) for x, y, w, h in ones))
        for place, (image, category, ones) in enumerate(found)
    ]
    if not rows:
        return
    for choose in (matches, matches_as_released):
        mixed = Random(seed).sample(rows, len(rows))
        assert nms_ap(mixed, choose) == nms_ap(rows, choose)
    plain = [
        {"image_id": image, "category_id": category, "bbox": box, "score": 1}
        for image, category, ones in found
        for box in ones
    ]
    nothing = nms_ap(rows, lambda annotation, predictions: [])
    asked_about = sorted({image for image, _, _ in found})
    assert nothing == pytest.approx(max(by_pycocotools(file, plain, asked_about), 0) if plain else 0)


def by_pycocotools(file: str, predictions: list[dict[str, Any]], images: list[int]) -> float:
    """As its own example has it, from the file, of some pictures."""
    with contextlib.redirect_stdout(io.StringIO()):
        content = json.loads(Path(file).read_text())
        for one in content["annotations"]:
            one |= {"iscrowd": 0, "area": one["bbox"][2] * one["bbox"][3]}
        Path(file).write_text(json.dumps(content))
        truth = COCO(file)
        found = COCOeval(truth, truth.loadRes(predictions), "bbox")
        found.params.imgIds = images
        found.evaluate()
        found.accumulate()
        found.summarize()
    return float(found.stats[0])


def test_a_file_that_is_no_truth_is_named(tmp_path: Path) -> None:
    file = tmp_path / "color.json"
    for content in ("{", "[]", '{"images": []}', '{"annotations": [{"id": 1}], "images": [], "categories": []}'):
        file.write_text(content)
        with pytest.raises(JigsawError, match=r"color\.json: cannot be read as annotations"):
            read_truth(file)
    assert coco_ap({}, []) == 0


def test_a_subset_without_true_boxes_counts_nothing(tmp_path: Path) -> None:
    file = truth_of(tmp_path, [])
    assert nms_ap([asked(file, 0, 1, 1, (0, 0, 5, 5))], matches) == 0
