"""TVBench: what happens in a film, and when; ten kinds of questions."""

from collections.abc import Iterator
from pathlib import Path

from jigsaw.evaluation.questions import Question, documents, fields, film_question, letters, options, place, read_rows


def questions(folder: Path) -> Iterator[Question]:
    """The converted file where it lies there, else the official ones, one a kind. Films are shown whole."""
    if (converted := folder / "all_data.json").is_file():
        for number, (where, row) in enumerate(read_rows(converted)):
            video, text, answer, kind = fields(row, where, "video", "question", "answer", "task")
            yield film_question(str(number), folder / "video" / video, text, answer, letters=letters(4), category=kind)
        return
    for file in sorted((folder / "json").glob("*.json")):
        for number, (where, row) in enumerate(read_rows(file)):
            video, text, candidates, answer = fields(row, where, "video", "question", "candidates", "answer")
            yield film_question(
                f"{file.stem}/{number}",
                folder / "video" / file.stem / video,
                text + options(candidates),
                place(candidates, answer, where),
                letters=letters(len(candidates)),
                category=file.stem,
            )


docs = documents("TVBench", questions)
