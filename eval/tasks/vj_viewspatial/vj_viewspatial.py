"""ViewSpatial-Bench: directions as the camera sees them, and as a person in the scene does."""

from collections.abc import Iterator
from pathlib import Path

from jigsaw.evaluation.questions import LETTER, Question, documents, fields, letters, picture_question, read_rows


def questions(folder: Path) -> Iterator[Question]:
    """The official file, which the paper used as it is; its paths begin with the folder's name."""
    for number, (where, row) in enumerate(read_rows(folder / "ViewSpatial-Bench.json")):
        pictures, text, choices, answer, kind = fields(
            row, where, "image_path", "question", "choices", "answer", "question_type"
        )
        yield picture_question(
            str(number),
            [str(folder.parent / picture) for picture in pictures],
            f"{text}\n{choices}{LETTER}",
            answer[:1],
            letters=letters(len(choices.splitlines())),
            category=kind,
            cluster=str(Path(pictures[0]).parent),  # a scene
        )


docs = documents("ViewSpatial-Bench", questions)
