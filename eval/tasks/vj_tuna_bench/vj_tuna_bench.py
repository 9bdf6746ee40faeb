"""TUNA-Bench: camera, scene, action and attribute in short films."""

from collections.abc import Iterator
from pathlib import Path

from jigsaw.evaluation.questions import Question, documents, fields, film_question, letters, options, read_rows


def questions(folder: Path) -> Iterator[Question]:
    """The converted file."""
    for number, (where, row) in enumerate(read_rows(folder / "TUNA-MCQ.json")):
        video, text, candidates, answer, kind = fields(row, where, "video", "question", "candidates", "answer", "task")
        yield film_question(
            str(number),
            folder / "video" / f"{video}.mp4",
            text + options(candidates[:5]),
            answer,
            letters=letters(len(candidates[:5])),
            category=kind,
        )


docs = documents("TUNA", questions)
