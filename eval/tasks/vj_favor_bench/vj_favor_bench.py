"""FAVOR-Bench: what moves in a film, in which order, and how the camera does."""

from collections.abc import Iterator
from pathlib import Path

from jigsaw.evaluation.questions import Question, documents, fields, film_question, letters, options, place, read_rows


def questions(folder: Path) -> Iterator[Question]:
    """The official file, which the paper used as it is."""
    for number, (where, row) in enumerate(read_rows(folder / "question_perspective.json")):
        video, text, choices, answer, kind = fields(
            row, where, "video_name", "question", "options", "correct_answer", "task_type"
        )
        yield film_question(
            str(number),
            folder / "videos" / video,
            text + options(choices[:5]),
            place(choices[:5], answer, where),
            letters=letters(len(choices[:5])),
            category=kind,
        )


docs = documents("FAVOR", questions)
