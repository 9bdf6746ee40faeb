"""MMVP: pairs of pictures that CLIP takes for one, a question of two options each."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from jigsaw.errors import JigsawError
from jigsaw.evaluation.questions import (
    LETTER_IN_PARENTHESES,
    Document,
    Question,
    Verdict,
    documents,
    fields,
    picture_question,
    score,
    score_carefully,
    share_of_groups,
)

SWAPPED = ("99", "100", "279", "280")
"""Indices whose answers are labelled the wrong way round."""


def questions(folder: Path) -> Iterator[Question]:
    """The official file, which the paper used as it is; indices 1 and 2, 3 and 4 and so on are pairs."""
    file = folder / "Questions.csv"
    pictures = folder / "images" if (folder / "images").is_dir() else folder / "MMVP Images"
    with file.open(newline="", encoding="utf-8-sig") as lines:
        for number, row in enumerate(csv.DictReader(lines)):
            where = f"{file}, row {number}"
            index, text, choices, answer = fields(row, where, "Index", "Question", "Options", "Correct Answer")
            if answer not in ("(a)", "(b)"):
                raise JigsawError(f"{where}: its answer is {answer!r:.60}, neither (a) nor (b)")
            question = picture_question(
                index,
                [str(pictures / f"{index}.jpg")],
                f"{text}\nOptions: {choices}{LETTER_IN_PARENTHESES}",
                answer[1],
                letters="AB",
            )
            yield replace(question, group=str((int(index) - 1) // 2))


def score_pairs(doc: Document, replies: Sequence[str]) -> dict[str, float | Verdict]:
    """``acc``, and ``pair_acc``: both questions of a pair."""
    found = score(doc, replies)
    return {**found, "pair_acc": (doc["group"], found["acc"])}


def score_pairs_carefully(doc: Document, replies: Sequence[str]) -> dict[str, float | Verdict]:
    """The same by a careful reader, with the labels that are :data:`SWAPPED` put right."""
    if doc["id"] in SWAPPED:
        doc = {**doc, "answer": "ab"["ab".index(doc["answer"]) - 1]}
    found = score_carefully(doc, replies)
    return {**found, "pair_acc": (doc["group"], found["acc"])}


docs = documents("MMVP", questions)
pairs = share_of_groups(2)
