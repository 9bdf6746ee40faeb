"""HR-Bench 8K: small things in pictures of eight thousand pixels a side."""

from collections.abc import Iterator
from pathlib import Path

from jigsaw.evaluation.questions import (
    LETTER,
    Question,
    documents,
    held,
    letters,
    options,
    parquet_rows,
    picture_question,
)

LETTERS = "ABCD"


def questions(folder: Path) -> Iterator[Question]:
    """The official file, which the paper used as it is."""
    file = folder / "hr_bench_8k.parquet"
    for number, (text, *texts, answer, kind) in enumerate(
        parquet_rows(file, "question", *LETTERS, "answer", "category")
    ):
        texts = [given for given in texts if given]
        yield picture_question(
            str(number),
            [held(file, "image", number)],
            text + options(texts) + LETTER,
            answer,
            letters=letters(len(texts)),
            category=kind,
        )


docs = documents("HR-Bench", questions)
