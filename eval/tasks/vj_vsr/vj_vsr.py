"""VSR: does a caption say rightly how two things stand to each other in a picture of COCO's?"""

from collections.abc import Iterator
from pathlib import Path

from jigsaw.evaluation.questions import YES_OR_NO, Question, documents, fields, in_coco, picture_question, read_rows

CAPTION = "Decide whether the caption correctly describes the image. Caption: "


def questions(folder: Path) -> Iterator[Question]:
    """The official file of the random split, which the paper used as it is."""
    for number, (where, row) in enumerate(read_rows(folder / "test.jsonl")):
        image, caption, label, relation = fields(row, where, "image", "caption", "label", "relation")
        picture = in_coco(folder.parent / "coco", image)
        yield picture_question(
            str(number),
            [picture],
            CAPTION + caption + YES_OR_NO,
            ("No", "Yes")[label],
            reader="W",
            category=relation,
        )


docs = documents("vsr", questions)
