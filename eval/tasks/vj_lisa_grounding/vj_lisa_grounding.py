"""LISA-Grounding: the box of what a riddle about a picture asks for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from jigsaw.evaluation.boxes import Box, first_box, first_box_carefully, is_hit
from jigsaw.evaluation.questions import Document, Question, documents, fields, read_rows

ASK = " Please provide the bounding box coordinate in JSON format."


@dataclass(frozen=True, kw_only=True)
class Riddle(Question):
    """A question whose answer is a box.

    Attributes:
        box: left, top, right and bottom in pixels of the file.
    """

    box: tuple[float, ...]


def questions(folder: Path) -> Iterator[Riddle]:
    """The official file, which the paper used as it is."""
    for number, (where, row) in enumerate(read_rows(folder / "lisa_test.json")):
        picture, text, box = fields(row, where, "image", "problem", "solution")
        yield Riddle(
            id=str(number),
            prompt=f"<image>{text}{ASK}",
            media=(str(_found(folder, picture)),),
            answer=str(list(box)),
            reader="boxes",
            box=tuple(map(float, box)),
        )


def _found(folder: Path, picture: str) -> Path:
    """The picture's place: its path begins with the folder ``test``, or is within it."""
    within = folder / "test" / picture
    return within if within.is_file() else folder / picture


def score(doc: Document, replies: Sequence[str]) -> dict[str, float]:
    """``acc_iou50``: the first box overlaps the right one by more than half; ``unreadable``: there is none."""
    return _scored(doc, first_box(replies[0]))


def score_carefully(doc: Document, replies: Sequence[str]) -> dict[str, float]:
    """The same of what is said after a thought."""
    return _scored(doc, first_box_carefully(replies[0]))


def _scored(doc: Document, box: Box | None) -> dict[str, float]:
    with Image.open(doc["media"][0]) as picture:
        size = picture.size
    return {"acc_iou50": float(is_hit(box, size, doc["box"])), "unreadable": float(box is None)}


docs = documents("lisa_grounding", questions)
