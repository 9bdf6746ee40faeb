"""MotionBench, the part whose answers are public: fine motion in short films."""

from collections.abc import Iterator
from pathlib import Path

from jigsaw.evaluation.questions import (
    LETTER_OF_CHOICES,
    Question,
    documents,
    fields,
    film_question,
    letters,
    omitted,
    read_rows,
)

LEFT_OUT = ("CWBOtkJ7M6uDG75t", "wzOKuIKLubEaqmxy", "D1ZhP7icVsaR4dY3", "YV3ezdj2HwiA2Zwb")
"""Films that the paper left out."""


def questions(folder: Path) -> Iterator[Question]:
    """The converted file where it lies there, else the official one without the answers that are kept secret, "NA"."""
    rows = list(_rows(folder))
    kept = [row for row in rows if row[1].stem not in LEFT_OUT and row[3] != "NA"]
    omitted("MotionBench", len(rows) - len(kept), len(kept), "four films, and answers that are not public")
    for name, film, text, answer, kind in kept:
        yield film_question(name, film, text, answer, letters=letters(4), category=kind, ask=LETTER_OF_CHOICES)


def _rows(folder: Path) -> Iterator[tuple[str, Path, str, str, str]]:
    """Of each question its id, film, text, answer and kind."""
    if (converted := folder / "motionbench_val.json").is_file():
        for number, (where, row) in enumerate(read_rows(converted)):
            video, text, answer, kind = fields(row, where, "video", "question", "answer", "question_type")
            yield str(number), folder / video, text, answer, kind
        return
    for where, row in read_rows(folder / "video_info.meta.jsonl"):
        video, kind, asked = fields(row, where, "video_path", "question_type", "qa")
        for question in asked:
            name, text, answer = fields(question, where, "uid", "question", "answer")
            yield str(name), _found(folder, video), text, answer, kind


def _found(folder: Path, video: str) -> Path:
    """The film's place: it lies in one of two folders, in a folder of their own or not; in the first, if in none."""
    parts = ("public-dataset", "self-collected")
    places = [root / part / video for root in (folder / "MotionBench", folder) for part in parts]
    return next((place for place in places if place.is_file()), places[0])


docs = documents("MotionBench", questions)
