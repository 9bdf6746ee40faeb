"""CVBench: questions that need two to four films."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from jigsaw.evaluation.questions import LETTER, YES_OR_NO, Question, documents, fields, letters, read_rows

MOST_FILMS = 4
"""Each film is shown in a quarter of the frames, however many there are."""


def questions(folder: Path) -> Iterator[Question]:
    """The converted file, whose questions say how to answer, where it lies there, else the official one."""
    if (converted := folder / "all_data.json").is_file():
        for number, (where, row) in enumerate(read_rows(converted)):
            films, text, answer, kind = fields(row, where, "videos", "question", "answer", "category")
            yield _question(str(number), folder, films, text, answer, kind)
        return
    for number, (where, row) in enumerate(read_rows(folder / "CVBench.json")):
        *films, text, choices, answer, kind = fields(
            row,
            where,
            *(f"video_{film}" for film in range(1, MOST_FILMS + 1)),
            *("question", "options", "answer"),
            "task_type",
        )
        ask = YES_OR_NO if _says(answer) in ("yes", "no") else LETTER
        text += "".join(f"\n{choice}" for choice in choices) + ask
        yield _question(str(number), folder, [film for film in films if film], text, answer, kind)


def _question(name: str, folder: Path, films: Sequence[str], text: str, answer: str, kind: str) -> Question:
    is_yes_or_no = _says(answer) in ("yes", "no")
    return Question(
        id=name,
        prompt="<video>\n" * len(films) + text,
        media=tuple(str(folder / "videos" / film) for film in films),
        answer=_says(answer) if is_yes_or_no else answer,
        reader="L+",
        letters="" if is_yes_or_no else letters(4),
        category=kind,
        share=MOST_FILMS,
    )


def _says(answer: str) -> str:
    return answer.strip(" .").lower()


docs = documents("CVBench", questions)
