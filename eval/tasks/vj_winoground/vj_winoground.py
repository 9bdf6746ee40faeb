"""Winoground: two captions of the same words and two pictures, to be told apart both ways."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jigsaw.evaluation.questions import (
    LETTER,
    Document,
    Question,
    Verdict,
    documents,
    fields,
    options,
    picture_question,
    read_rows,
    score,
    score_carefully,
    share_of_groups,
)

ASKED = ("text", "image")
"""What is chosen: one of two captions for a picture, or one of two pictures for a caption."""


def questions(folder: Path) -> Iterator[Question]:
    """The converted file, whose questions say how to answer, where it lies there, else the official one."""
    if (converted := folder / "all_data.json").is_file():
        for where, row in read_rows(converted):
            name, kind, pictures, prompt, answer = fields(
                row, where, "idx", "question_type", "image_name", "question", "GT"
            )
            kind = ASKED[kind == "image"]
            yield Question(
                id=f"{name} {kind}",
                prompt=prompt,
                media=tuple(str(folder / picture) for picture in pictures),
                answer=answer,
                reader="W",
                letters="AB",
                category=kind,
                group=name.split("_")[0],
            )
        return
    for where, row in read_rows(folder / "data" / "examples.jsonl"):
        yield from _official(folder / "data" / "images", row, where)


def _official(folder: Path, row: Mapping[str, Any], where: str) -> Iterator[Question]:
    """The four questions of a row."""
    name, *captions, first, second = fields(row, where, "id", "caption_0", "caption_1", "image_0", "image_1")
    pictures = [str(folder / f"{picture}.png") for picture in (first, second)]
    which_caption = "Which caption describes the image?" + options(captions) + LETTER
    for place, (answer, sign) in enumerate(zip("AB", ("pos", "neg"), strict=True)):
        which_image = (
            f"Which image does the caption describe? Caption: {captions[place]}"
            + options(["The first image.", "The second image."])
            + LETTER
        )
        for kind, shown, text in ((ASKED[0], [pictures[place]], which_caption), (ASKED[1], pictures, which_image)):
            question = picture_question(
                f"{name}_{sign} {kind}", shown, text, answer, reader="W", letters="AB", category=kind
            )
            yield replace(question, group=str(name))


def score_groups(doc: Document, replies: Sequence[str]) -> dict[str, float | Verdict]:
    """``text_score``: both captions of a group; ``image_score``: both pictures; ``group_score``: all four."""
    return _verdicts(doc, score(doc, replies))


def score_groups_carefully(doc: Document, replies: Sequence[str]) -> dict[str, float | Verdict]:
    """The same by a careful reader."""
    return _verdicts(doc, score_carefully(doc, replies))


def _verdicts(doc: Document, found: Mapping[str, float]) -> dict[str, float | Verdict]:
    verdict = (doc["group"], found["acc"])
    return {f"{doc['category']}_score": verdict, "group_score": verdict, "unreadable": found["unreadable"]}


docs = documents("winoground", questions)
pairs = share_of_groups(2)
groups = share_of_groups(4)
