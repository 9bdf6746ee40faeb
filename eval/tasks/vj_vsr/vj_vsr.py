"""VSR: does a caption say rightly how two things stand to each other in a picture of COCO's?"""

from collections.abc import Iterator
from pathlib import Path

from jigsaw.evaluation.questions import Question, documents, fields, read_rows

CAPTION = "Decide whether the caption correctly describes the image. Caption: "
YES_OR_NO = "\nAnswer Yes or No directly."


def questions(folder: Path) -> Iterator[Question]:
    """The official file of the random split, which the paper used as it is."""
    for number, (where, row) in enumerate(read_rows(folder / "test.jsonl")):
        image, caption, label, relation = fields(row, where, "image", "caption", "label", "relation")
        coco = folder.parent / "coco"
        places = [coco / part / image for part in ("val2017", "train2017")]
        yield Question(
            id=str(number),
            prompt=f"<image>\n{CAPTION}{caption}{YES_OR_NO}",
            media=(str(next((place for place in places if place.is_file()), places[1])),),
            answer=("No", "Yes")[label],
            reader="W",
            category=relation,
        )


docs = documents("vsr", questions)
