"""SugarCrepe++: two captions that say the same of a picture, and one in their words that says something else."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from jigsaw.evaluation.questions import (
    YES_OR_NO,
    Document,
    Question,
    Verdict,
    documents,
    fields,
    in_coco,
    picture_question,
    read_rows,
    score,
    score_carefully,
    share_of_groups,
)

FILES = ("replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")
CAPTION = "Does the caption describe the image correctly? Caption: "


def questions(folder: Path) -> Iterator[Question]:
    """The converted file, whose questions say how to answer, where it lies there, else the official ones."""
    coco = folder.parent / "coco"
    if (converted := folder / "all_data.json").is_file():
        for where, row in read_rows(converted):
            name, kind, category, picture, prompt, answer = fields(
                row, where, "id", "q_type", "category", "image", "question", "answer"
            )
            yield Question(
                id=f"{name} {kind}",
                prompt=prompt,
                media=(in_coco(coco, picture),),
                answer=answer,
                reader="W",
                category=category,
                group=str(name),
                cluster=picture,
            )
        return
    for file in FILES:
        for where, row in read_rows(folder / f"{file}.json"):
            name, picture, *captions = fields(row, where, "id", "filename", "caption", "caption2", "negative_caption")
            for number, (caption, answer) in enumerate(zip(captions, ("Yes", "Yes", "No"), strict=True)):
                question = picture_question(
                    f"{file}/{name}/{number}",
                    [in_coco(coco, picture)],
                    CAPTION + caption + YES_OR_NO,
                    answer,
                    reader="W",
                    category=file,
                )
                yield replace(question, group=f"{file}/{name}", cluster=picture)


def score_groups(doc: Document, replies: Sequence[str]) -> dict[str, float | Verdict]:
    """``group_acc``: all three captions of a group."""
    return _verdicts(doc, score(doc, replies))


def score_groups_carefully(doc: Document, replies: Sequence[str]) -> dict[str, float | Verdict]:
    """The same by a careful reader."""
    return _verdicts(doc, score_carefully(doc, replies))


def _verdicts(doc: Document, found: Mapping[str, float]) -> dict[str, float | Verdict]:
    return {"group_acc": (doc["group"], found["acc"]), "unreadable": found["unreadable"]}


docs = documents("SugarCrepe_pp", questions)
groups = share_of_groups(3)
