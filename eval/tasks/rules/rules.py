"""Benchmarks that lmms-eval has a judge score, scored by rules: without a key, and the same every time.

The questions are those of the data sets on the hub, not always in lmms-eval's words; a reply is read as a careful
reader does. These are other figures than a judge's: of words that differ from the answer's no rule knows whether they
mean the same, and they are wrong.
"""

import re
from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from jigsaw.evaluation.questions import letters, options
from jigsaw.evaluation.replies import careful_letter, said

Row = Mapping[str, Any]
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:[eE][+-]?\d+)?|-?\.\d+")
_OF_PROSE = re.compile(r"[\s$\\{}.,;:!'\"*]+")
_FRACTION = re.compile(r"\\d?frac\{([^{}]+)\}\{([^{}]+)\}")
_POWER = re.compile(r"\^\{?-?\d+\}?")
_PICTURE = re.compile(r"<image_\d+>")


def tempcompass(row: Row, replies: Sequence[str]) -> dict[str, float]:
    """TempCompass, multiple choice; the answer is an option, after its letter."""
    return _verdict(careful_letter(replies[0], "ABCD"), str(row["answer"])[:1])


def mathvista(row: Row, replies: Sequence[str]) -> dict[str, float]:
    """MathVista: an option, a whole number, a number of so many decimals, or words."""
    if row["question_type"] == "multi_choice":
        return _option(replies[0], list(row["choices"]), str(row["answer"]))
    if row["answer_type"] in ("integer", "float"):
        places = int(row["precision"] or 0) if row["answer_type"] == "float" else 0
        number = last_number(replies[0])
        return _verdict(None if number is None else round(number, places), round(float(row["answer"]), places))
    return words(replies[0], str(row["answer"]))


def mathverse(row: Row, replies: Sequence[str]) -> dict[str, float]:
    """MathVerse: a letter, a number, or words."""
    if row["question_type"] == "multi-choice":
        return _verdict(careful_letter(replies[0], "ABCDE"), str(row["answer"]).strip().upper())
    return words(replies[0], str(row["answer"]))


def emma(row: Row, replies: Sequence[str]) -> dict[str, float]:
    """EMMA: a letter, a number, or words."""
    if row["options"]:
        return _verdict(careful_letter(replies[0], letters(len(row["options"]))), str(row["answer"]).strip().upper())
    return words(replies[0], str(row["answer"]))


def _option(reply: str, choices: Sequence[str], answer: str) -> dict[str, float]:
    """A letter, or one option word for word."""
    if answer not in choices:
        return words(reply, answer)
    letter = careful_letter(reply, letters(len(choices)))
    if letter is None:
        plain = _plain(said(reply) or "")
        same = [place for place, choice in enumerate(choices) if _plain(choice) == plain]
        letter = ascii_uppercase[same[0]] if len(same) == 1 else None
    return _verdict(letter, ascii_uppercase[choices.index(answer)])


def words(reply: str, answer: str) -> dict[str, float]:
    """Whether a reply ends in the answer: in that number where the answer is one, else in the same words."""
    try:
        wanted = float(answer.replace(",", ""))
    except ValueError:
        read, wanted_words = _plain(said(reply) or ""), _plain(answer)
        ends = read.endswith(wanted_words) and not read.removesuffix(wanted_words)[-1:].isalnum()
        return _verdict((wanted_words if ends else read) or None, wanted_words)
    return _verdict(last_number(reply), wanted)


def last_number(reply: str) -> float | None:
    """The last number of what a reply says.

    >>> last_number("It is 3 cm, so 1,200.5 in all.")
    1200.5
    """
    found = _NUMBER.findall(_POWER.sub("", said(reply) or ""))
    return float(found[-1].replace(",", "")) if found else None


def _plain(text: str) -> str:
    """Without mark-up, and without the space between a number and its unit."""
    plain = _OF_PROSE.sub(" ", _FRACTION.sub(r"\1/\2", text)).strip().casefold()
    return re.sub(r"(?<=\d) (?=[a-z°%])", "", plain)


def _verdict(read: object, answer: object) -> dict[str, float]:
    return {"acc": float(read is not None and read == answer), "unreadable": float(read is None)}


def mathvista_text(row: Row) -> str:
    """MathVista's own query, which says what form the answer must have."""
    return str(row["query"])


def mathverse_text(row: Row) -> str:
    """MathVerse's own query, which asks for an answer without steps."""
    return str(row["query_wo"])


def emma_text(row: Row) -> str:
    """EMMA's question, in words of ours around it."""
    ask = "the letter of the right option" if row["options"] else "a single number, word or formula"
    parts = [
        row["context"],
        row["question"] + options(row["options"]),
        f"Think first; then answer with {ask} in \\boxed{{}}.",
    ]
    return "\n".join(part for part in parts if part)


def mathvista_picture(row: Row) -> list[Any]:
    """The picture of a row, if it has one."""
    return _pictures(row["decoded_image"])


def mathverse_picture(row: Row) -> list[Any]:
    """The same; some questions are text alone."""
    return _pictures(row["image"])


def emma_pictures(row: Row) -> list[Any]:
    """Those that its text names, ``<image_1>`` first."""
    names = dict.fromkeys(name.strip("<>") for name in sorted(_PICTURE.findall(emma_text(row))))
    return _pictures(*(row[name] for name in names))


def _pictures(*pictures: Any) -> list[Any]:
    return [picture.convert("RGB") for picture in pictures if hasattr(picture, "convert")]
