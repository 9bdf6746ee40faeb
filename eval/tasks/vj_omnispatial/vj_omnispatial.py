"""OmniSpatial: how things stand, move and look from elsewhere, in pictures of many kinds."""

from collections.abc import Iterator
from pathlib import Path
from string import ascii_uppercase

from jigsaw.evaluation.questions import (
    LETTER,
    Question,
    documents,
    fields,
    letters,
    options,
    picture_question,
    read_rows,
)


def questions(folder: Path) -> Iterator[Question]:
    """The converted file, whose questions say how to answer, where it lies there, else the official one."""
    if (converted := folder / "all_eval_data.json").is_file():
        for number, (where, row) in enumerate(read_rows(converted)):
            picture, text, answer, kind = fields(row, where, "image", "question", "answer", "task_type")
            yield _question(str(number), folder / picture, text, str(answer), 4, kind)
        return
    file = folder / "OmniSpatial_1.5K" / "data.json"
    for number, (where, row) in enumerate(read_rows(file)):
        name, text, choices, answer, kind = fields(row, where, "id", "question", "options", "answer", "task_type")
        picture = file.parent / kind / f"{name.split('_')[0]}.png"
        text += options(choices) + LETTER
        yield _question(str(number), picture, text, ascii_uppercase[answer], len(choices), kind)


def _question(name: str, picture: Path, text: str, answer: str, count: int, kind: str) -> Question:
    return picture_question(
        name, [str(picture)], text, answer, reader="first character", letters=letters(count), category=kind
    )


docs = documents("OmniSpatial", questions)
