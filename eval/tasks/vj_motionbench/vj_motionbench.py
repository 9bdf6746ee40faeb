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
    read_rows,
)

LEFT_OUT = ("CWBOtkJ7M6uDG75t", "wzOKuIKLubEaqmxy", "D1ZhP7icVsaR4dY3", "YV3ezdj2HwiA2Zwb")
"""Films that the paper left out."""


def questions(folder: Path) -> Iterator[Question]:
    """The converted file where it lies there, else the official one without the answers that are kept secret, "NA"."""
    if (converted := folder / "motionbench_val.json").is_file():
        for number, (where, row) in enumerate(read_rows(converted)):
            video, text, answer, kind = fields(row, where, "video", "question", "answer", "question_type")
            if Path(video).stem not in LEFT_OUT:
                yield _question(str(number), folder / video, text, answer, kind)
        return
    for where, row in read_rows(folder / "video_info.meta.jsonl"):
        video, kind, asked = fields(row, where, "video_path", "question_type", "qa")
        if Path(video).stem in LEFT_OUT:
            continue
        for question in asked:
            name, text, answer = fields(question, where, "uid", "question", "answer")
            if answer != "NA":
                yield _question(str(name), _found(folder / "MotionBench", video), text, answer, kind)


def _found(folder: Path, video: str) -> Path:
    """The film's place: it lies in one of two folders; in the first, if in none."""
    places = [folder / part / video for part in ("public-dataset", "self-collected")]
    return next((place for place in places if place.is_file()), places[0])


def _question(name: str, film: Path, text: str, answer: str, kind: str) -> Question:
    return film_question(name, film, text, answer, letters=letters(4), category=kind, ask=LETTER_OF_CHOICES)


docs = documents("MotionBench", questions)
