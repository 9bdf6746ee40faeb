"""AoTBench: does a film run forwards or backwards, and what tells it."""

from collections.abc import Iterator
from pathlib import Path

from jigsaw.evaluation.questions import Question, documents, fields, film_question, letters, read_rows


def questions(folder: Path) -> Iterator[Question]:
    """The converted file, whose questions say how to answer."""
    for number, (where, row) in enumerate(read_rows(folder / "valid_data.json")):
        video, text, answer, kind = fields(row, where, "video_name", "question", "ans", "question_type")
        yield film_question(str(number), folder / video, text, answer, letters=letters(4), category=kind, ask="")


docs = documents("AoTBench", questions)
