"""Video-TT, its questions of options: short films that are hard to understand."""

from collections.abc import Iterator
from pathlib import Path

from jigsaw.evaluation.questions import Question, documents, film_question, letters, omitted, parquet_rows


def questions(folder: Path) -> Iterator[Question]:
    """The official file, which the paper used as it is, without the questions whose film is not there."""
    films = folder / "Benchmark-AllVideos-HQ-encoded"
    file = folder / "test-00000-of-00001.parquet"
    rows = list(enumerate(parquet_rows(file, "video_id", "question", "answer", "capability")))
    kept = [(number, row) for number, row in rows if (films / f"{row[0]}.mp4").is_file()]
    omitted("video-tt", len(rows) - len(kept), len(kept), "their films are not there")
    for number, (video, text, answer, kind) in kept:
        yield film_question(str(number), films / f"{video}.mp4", text, answer, letters=letters(5), category=kind)


docs = documents("video-tt", questions)
