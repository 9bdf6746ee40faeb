"""All-Angles Bench: one scene in several pictures, from all sides."""

from collections.abc import Iterator
from pathlib import Path

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
    """The official file, which the paper used as it is."""
    for number, (where, row) in enumerate(read_rows(folder / "data.json")):
        pictures, text, *texts, answer, kind = fields(
            row, where, "image_path", "question", "A", "B", "C", "answer", "category"
        )
        yield picture_question(
            str(number),
            [str(folder / picture) for picture in pictures],
            text + options(texts) + LETTER,
            answer,
            reader="L+",
            letters=letters(len(texts)),
            category=kind,
            cluster=str(Path(pictures[0]).parent),  # a scene
        )


docs = documents("All-Angles-Bench", questions)
