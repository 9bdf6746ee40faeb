"""LVBench: long films, of an hour and more."""

from collections.abc import Iterator
from pathlib import Path

from jigsaw.evaluation.questions import Question, documents, fields, film_question, letters, read_rows


def questions(folder: Path) -> Iterator[Question]:
    """The converted file where it lies there, else the official one; the questions of both hold their options."""
    films = folder / "all_videos"
    if (converted := folder / "all_data.json").is_file():
        for number, (where, row) in enumerate(read_rows(converted)):
            video, text, answer, kinds = fields(row, where, "video", "question", "answer", "question_type")
            yield film_question(str(number), films / video, text, answer, letters=letters(4), category=", ".join(kinds))
        return
    for where, row in read_rows(folder / "video_info.meta.jsonl"):
        key, asked = fields(row, where, "key", "qa")
        for question in asked:
            name, text, answer, kinds = fields(question, where, "uid", "question", "answer", "question_type")
            yield film_question(
                str(name), films / f"{key}.mp4", text, answer, letters=letters(4), category=", ".join(kinds)
            )


docs = documents("LVBench", questions)
