"""OVDEval: all things of one kind in a picture, boxed; eight kinds of kinds."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from jigsaw.errors import JigsawError
from jigsaw.evaluation.boxes import (
    Asked,
    Box,
    all_boxes,
    all_boxes_carefully,
    mapped,
    mapped_as_released,
    matches,
    matches_as_released,
    nms_ap,
    read_truth,
)
from jigsaw.evaluation.questions import Document, Question, documents, fields, read_rows

SUBSETS = ("celebrity", "color", "landmark", "logo", "material", "negation", "position", "relationship")
ASK = "<image>Detect all instances of the following target: {}. Output the detected bbox coordinates in JSON format."
log = logging.getLogger("jigsaw.evaluation.questions")
NOTHING: Box = (0.0, 0.0, 0.0, 0.0)
"""What the paper's script reads in a reply without a box."""


@dataclass(frozen=True, kw_only=True)
class Target(Question):
    """A question about one category in one picture.

    Attributes:
        annotations: file of its subset's truth.
        order: see :class:`jigsaw.evaluation.boxes.Asked`.
        image: its id there.
        target: its category's id there.
        size: (width, height) of the picture as its row says, in pixels.
    """

    annotations: str
    order: int
    image: int
    target: int
    size: tuple[int, int]


def questions(folder: Path) -> Iterator[Target]:
    """The converted file where it lies there, else the official ones. The truth is in the official ones for both."""
    rows = list(_converted(folder) if (folder / "all_data.json").is_file() else _official(folder))
    if absent := [subset for subset in SUBSETS if subset not in {row[0] for row in rows}]:
        log.warning("OVDEval: nms_ap is the mean without %s, which are not there", ", ".join(absent))
    for subset in {row[0] for row in rows}:
        if not (file := _annotations(folder, subset)).is_file():
            raise FileNotFoundError(f"{file}: no such file; it holds the true boxes")
    order = list(range(len(rows)))
    if (folder / "all_data.json").is_file():
        shuffled = list(order)
        Random(42).shuffle(shuffled)  # the paper's script asks in this order
        for place, number in enumerate(shuffled):
            order[number] = place
    for number, (subset, picture, category) in enumerate(rows):
        yield _target(folder, subset, picture, category, order[number])


def _target(folder: Path, subset: str, picture: dict[str, Any], category: dict[str, Any], order: int) -> Target:
    return Target(
        id=f"{subset}/{picture['id']}/{category['id']}",
        prompt=ASK.format(category["name"]),
        media=(str(folder / "images" / subset / picture["file_name"]),),
        answer="",
        reader="boxes",
        category=subset,
        annotations=str(_annotations(folder, subset)),
        order=order,
        image=picture["id"],
        target=category["id"],
        size=(picture["width"], picture["height"]),
    )


def _annotations(folder: Path, subset: str) -> Path:
    return folder / "annotations" / f"{subset}.json"


def _converted(folder: Path) -> Iterator[tuple[Any, ...]]:
    for where, row in read_rows(folder / "all_data.json"):
        yield tuple(fields(row, where, "task", "image_info", "category_info"))


def _official(folder: Path) -> Iterator[tuple[Any, ...]]:
    for subset in SUBSETS:
        if not (file := _annotations(folder, subset)).is_file():
            continue
        truth = read_truth(file)
        categories = {category["name"]: category for category in truth["categories"]}
        for picture in truth["images"]:
            asked, not_there = fields(picture, f"{file}, image {picture.get('id')}", "text", "neg_text")
            for name in (*_names(asked), *_names(not_there)):
                if name not in categories:
                    raise JigsawError(f"{file}, image {picture['id']}: asks for {name!r:.60}, which is no category")
                yield subset, picture, categories[name]


def _names(text: str | Sequence[str]) -> list[str]:
    return [text] if isinstance(text, str) else list(text)


def score(doc: Document, replies: Sequence[str]) -> dict[str, Any]:
    """What :func:`ap` counts: boxes as the paper's script reads and maps them, an empty one where there is none."""
    boxes = all_boxes(replies[0])
    return _found(doc, [mapped_as_released(box, tuple(doc["size"])) for box in boxes or [NOTHING]], not boxes)


def score_carefully(doc: Document, replies: Sequence[str]) -> dict[str, Any]:
    """What :func:`ap_fixed` counts: boxes in pixels of the file."""
    boxes = all_boxes_carefully(replies[0])
    return _found(doc, [mapped(box, tuple(doc["size"])) for box in boxes], not boxes)


def _found(doc: Document, boxes: Sequence[Box], is_empty: bool) -> dict[str, Any]:
    asked = Asked(doc["category"], doc["annotations"], doc["order"], doc["image"], doc["target"], tuple(boxes))
    return {"nms_ap": asked, f"nms_ap_{doc['category']}": asked, "unreadable": float(is_empty)}


def ap(asked: Iterable[Asked]) -> float:
    """As the paper's script does."""
    return nms_ap(asked, matches_as_released)


def ap_fixed(asked: Iterable[Asked]) -> float:
    """With matches within a category, the best one kept, and none lost for the id of its annotation."""
    return nms_ap(asked, matches, first_id=1)


docs = documents("OVDEval", questions)
