"""Boxes that a model writes in its reply: found, brought to the size of the picture, and scored.

Qwen2.5-VL writes pixels of the picture as it is shown, :func:`shown_size`.
"""

import contextlib
import io
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jigsaw.errors import JigsawError
from jigsaw.evaluation.replies import cleaned, said
from jigsaw.media.video import Bounds

Box = tuple[float, float, float, float]
"""Left, top, right and bottom, in pixels."""
Size = tuple[int, int]
"""(width, height) in pixels."""

SHOWN = Bounds(factor=28, min_pixels=56 * 56, max_pixels=12_845_056)
"""Sizes at which Qwen2.5-VL sees a picture that is alone in its prompt."""

_TAGGED = re.compile("<answer>(.*?)</answer>", re.DOTALL)
_MATCH = 0.5  # least overlap at which a box is the one that is meant


def _four(number: str) -> re.Pattern[str]:
    return re.compile(r"\[\s*" + r"\s*,\s*".join([f"({number})"] * 4) + r"\s*\]")


_WHOLE = _four(r"-?\d+")
_DECIMAL = _four(r"-?\d*\.?\d+")


def first_box(reply: str) -> Box | None:
    """The first four numbers in brackets of a reply, of its first ``<answer>`` where it has one; None without any."""
    text = cleaned(reply)
    tagged = _TAGGED.search(text)
    return _found(_DECIMAL, tagged[1] if tagged else text)


def first_box_carefully(reply: str) -> Box | None:
    """The same of what a reply says once it has thought; None in mid-thought."""
    text = said(reply)
    return None if text is None else _found(_DECIMAL, text)


def _found(pattern: re.Pattern[str], text: str) -> Box | None:
    found = pattern.search(text)
    return _box(found) if found else None


def _box(found: re.Match[str]) -> Box:
    left, top, right, bottom = map(float, found.groups())
    return left, top, right, bottom


def all_boxes(reply: str) -> list[Box]:
    """All four whole numbers in brackets of a reply."""
    return [_box(found) for found in _WHOLE.finditer(cleaned(reply))]


def all_boxes_carefully(reply: str) -> list[Box]:
    """All four numbers in brackets of what a reply says once it has thought; none in mid-thought."""
    return [_box(found) for found in _DECIMAL.finditer(said(reply) or "")]


def shown_size(size: Size) -> Size:
    """The size at which a picture is shown."""
    height, width = SHOWN.size(size[1], size[0])
    return width, height


def original(box: Box, size: Size) -> Box:
    """A box of a picture as shown, in pixels of its file; ``size`` is the file's."""
    shown = shown_size(size)
    across, down = size[0] / shown[0], size[1] / shown[1]
    return box[0] * across, box[1] * down, box[2] * across, box[3] * down


def overlap(one: Box, other: Box) -> float:
    """Intersection over union of two boxes; 0 where both are empty."""
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(across, 0) * max(down, 0)
    union = _area(one) + _area(other) - shared
    return shared / union if union else 0.0


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def is_hit(box: Box | None, size: Size, wanted: Sequence[float]) -> bool:
    """Whether a box that a reply names is the wanted one: an overlap above one half.

    Args:
        box: in pixels of the picture as shown.
        size: of the picture's file.
        wanted: left, top, right and bottom in pixels of the file.
    """
    return box is not None and overlap(original(box, size), tuple(wanted)) > _MATCH  # type: ignore[arg-type]


@dataclass(frozen=True)
class Asked:
    """What was found for one category in one picture.

    Attributes:
        subset: of the benchmark.
        annotations: file of its truth, in COCO's format.
        order: at equal scores the boxes of what comes later win.
        image: its id in that file.
        category: its id in that file.
        boxes: in pixels of the picture's file.
    """

    subset: str
    annotations: str
    order: int
    image: int
    category: int
    boxes: tuple[Box, ...]


def mapped_as_released(box: Box, size: Size) -> Box:
    """A box as the paper's script maps it: the wrong way, to whole pixels, inside the picture."""
    shown = shown_size(size)
    across, down = shown[0] / size[0], shown[1] / size[1]
    moved = (box[0] * across, box[1] * down, box[2] * across, box[3] * down)
    left, top, right, bottom = (
        float(int(min(side - 1, max(value, 0)))) for value, side in zip(moved, size * 2, strict=True)
    )
    return left, top, right, bottom


def mapped(box: Box, size: Size) -> Box:
    """A box in pixels of the picture's file, clipped to the picture."""
    left, top, right, bottom = (
        min(float(side), max(value, 0.0)) for value, side in zip(original(box, size), size * 2, strict=True)
    )
    return left, top, right, bottom


Choose = Callable[[Mapping[str, Any], Sequence[Mapping[str, Any]]], list[int]]
"""Of a true box and the predictions in its picture: places of those that match it, the one that stays last."""


def matches_as_released(truth: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]]) -> list[int]:
    """All that overlap it, whatever their category; the last stays."""
    box = _corners(truth["bbox"])
    return [place for place, one in enumerate(predictions) if overlap(box, _corners(one["bbox"])) > _MATCH]


def matches(truth: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]]) -> list[int]:
    """Those of its category that overlap it; that stays which overlaps it most, of equal ones the last."""
    box = _corners(truth["bbox"])
    found = [
        (overlap(box, _corners(one["bbox"])), place)
        for place, one in enumerate(predictions)
        if one["category_id"] == truth["category_id"]
    ]
    return [place for share, place in sorted(found) if share > _MATCH]


def nms_ap(asked: Iterable[Asked], choose: Choose, *, first_id: int | None = None) -> float:
    """Mean over the subsets of COCO's mAP@[.5:.95] after NMS by the truth, in whatever order the rows come.

    All scores are 1. Pictures that were not asked about do not count. Of the predictions that match a true box one
    stays, the others go unless they stay for another.

    Args:
        asked: of all subsets.
        choose: which match, and which stays.
        first_id: annotations are counted anew from it; None leaves the file's ids. pycocotools loses a match with id 0.
    """
    subsets: dict[str, list[Asked]] = defaultdict(list)
    for one in asked:
        subsets[one.subset].append(one)
    found = [_subset_ap(sorted(ones, key=lambda one: one.order), choose, first_id) for ones in subsets.values()]
    return sum(found) / len(found)


def _subset_ap(asked: Sequence[Asked], choose: Choose, first_id: int | None) -> float:
    truth = _of_images(read_truth(Path(asked[0].annotations), first_id), {one.image for one in asked})
    predictions: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for one in asked:
        for left, top, right, bottom in one.boxes:
            box = [left, top, right - left, bottom - top]
            predictions[one.image].append({"image_id": one.image, "category_id": one.category, "bbox": box, "score": 1})
    boxes: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for annotation in truth["annotations"]:
        boxes[annotation["image_id"]].append(annotation)
    stay = [one for image, found in predictions.items() for one in _suppressed(boxes[image], found, choose)]
    return coco_ap(truth, stay)


def _of_images(truth: Mapping[str, Any], ids: set[int]) -> dict[str, Any]:
    """The truth of those pictures alone that were asked about."""
    images = [image for image in truth["images"] if image["id"] in ids]
    annotations = [annotation for annotation in truth["annotations"] if annotation["image_id"] in ids]
    return {**truth, "images": images, "annotations": annotations}


def _suppressed(
    truth: Sequence[Mapping[str, Any]], predictions: Sequence[dict[str, Any]], choose: Choose
) -> list[dict[str, Any]]:
    stay: set[int] = set()
    go: set[int] = set()
    for annotation in truth:
        if places := choose(annotation, predictions):
            stay.add(places[-1])
            go.update(places[:-1])
    return [one for place, one in enumerate(predictions) if place not in go - stay]


def _corners(box: Sequence[float]) -> Box:
    left, top, width, height = box
    return left, top, left + width, top + height


def read_truth(file: Path, first_id: int | None = None) -> dict[str, Any]:
    """A file in COCO's format, with what pycocotools asks for and the file may lack.

    Raises:
        JigsawError: if it is damaged or no such file.
        FileNotFoundError: if it is not there.
    """
    try:
        truth: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        for place, annotation in enumerate(truth["annotations"]):
            annotation.setdefault("iscrowd", 0)
            annotation.setdefault("area", annotation["bbox"][2] * annotation["bbox"][3])
            if first_id is not None:
                annotation["id"] = first_id + place
        for name in ("images", "categories"):
            list(truth[name])
    except (ValueError, KeyError, TypeError) as error:
        raise JigsawError(f"{file}: cannot be read as annotations in COCO's format ({error!r})") from error
    return truth


def coco_ap(truth: Mapping[str, Any], predictions: list[dict[str, Any]]) -> float:
    """pycocotools' AP@[.50:.95] of boxes."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    if not predictions:
        return 0.0
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its tables
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(predictions), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return max(float(evaluation.stats[0]), 0.0)  # it says -1 where there is no true box
