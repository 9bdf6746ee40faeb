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
            _found(folder / "videos", video),
            text + options(choices[:5]),
            place(choices[:5], answer, where),
            letters=letters(len(choices[:5])),
            category=kind,
        )


def _found(folder: Path, video: str) -> Path:
    """The film's place: the paper's script looks in the folder, its guide shows a folder within."""
    inner = folder / "FAVOR-Bench" / video
    return inner if inner.is_file() else folder / video


docs = documents("FAVOR", questions)
