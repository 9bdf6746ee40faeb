"""SAT-Real: what moved, how far, and what one would see from elsewhere, in real pictures."""

from collections.abc import Iterator
from pathlib import Path

from jigsaw.evaluation.questions import (
    LETTER_IN_PARENTHESES,
    Question,
    documents,
    held,
    parquet_rows,
    picture_question,
    pictures_held,
    place,
)


def questions(folder: Path) -> Iterator[Question]:
    """The official file, which the paper used as it is."""
    file = folder / "SAT_test.parquet"
    rows = parquet_rows(file, "question", "answers", "correct_answer")
    counts = pictures_held(file, "image_bytes")
    for number, ((text, answers, answer), count) in enumerate(zip(rows, counts, strict=True)):
        yield picture_question(
            str(number),
            [held(file, "image_bytes", number, place) for place in range(count)],
            f"{text}\nOptions:\n(A) {answers[0]}\n(B) {answers[1]}{LETTER_IN_PARENTHESES}",
            place(answers, answer, f"{file}, row {number}"),
            letters="AB",
        )


docs = documents("sat", questions)
