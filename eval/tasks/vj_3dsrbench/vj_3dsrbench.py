"""3DSRBench: height, place, direction and several things at once in pictures of COCO's."""

from collections.abc import Iterator
from pathlib import Path

from jigsaw.evaluation.questions import Question, documents, fields, letters, picture_question, read_rows


def questions(folder: Path) -> Iterator[Question]:
    """The converted file, whose questions say how to answer."""
    for number, (where, row) in enumerate(read_rows(folder / "all_data.json")):
        picture, text, answer, kind = fields(row, where, "image", "question", "answer", "category")
        yield picture_question(
            str(number), [str(folder.parent / "coco" / picture)], text, answer, letters=letters(4), category=kind
        )


docs = documents("3DSRBench", questions)
