"""TOMATO: rotation, direction, speed, counts, shapes and trends in films."""

from collections.abc import Iterator
from pathlib import Path
from string import ascii_uppercase

from jigsaw.evaluation.questions import Question, documents, fields, film_question, letters, options, read_rows


def questions(folder: Path) -> Iterator[Question]:
    """The converted file, whose questions hold the mark of the film and the whole prompt, else the official ones."""
    if (converted := folder / "all_data.json").is_file():
        for number, (where, row) in enumerate(read_rows(converted)):
            video, prompt, answer, kind = fields(row, where, "video", "question", "answer", "type")
            yield Question(
                id=str(number),
                prompt=prompt,
                media=(str(folder / video),),
                answer=answer,
                reader="L+",
                letters=letters(7),
                category=kind,
            )
        return
    for file in sorted((folder / "data").glob("*.json")):
        for name, row in _official(file):
            text, choices, answer, kind, key = fields(
                row, f"{file}, {name}", "question", "options", "answer", "demonstration_type", "key"
            )
            yield film_question(
                f"{file.stem}/{name}",
                folder / "videos" / kind / f"{key}.mp4",
                text + options(choices),
                ascii_uppercase[answer],
                letters=letters(len(choices)),
                category=file.stem,
            )


def _official(file: Path) -> Iterator[tuple[str, dict[str, object]]]:
    """Rows by name: the file holds an object of them, or a list."""
    for number, (_, row) in enumerate(read_rows(file)):
        if all(isinstance(value, dict) for value in row.values()):
            yield from row.items()
        else:
            yield str(number), dict(row)


docs = documents("TOMATO", questions)
