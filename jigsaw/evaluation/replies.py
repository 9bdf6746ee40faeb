r"""What a benchmark's scorer reads in a reply. Standard library only.

The paper's scripts read in four ways (:data:`READERS`); a benchmark names its own. All of them first strip white space,
then quotation marks and full stops, then apostrophes from both ends, take what follows the last ``</think>``, and of
that the content of the last ``\boxed{}`` if there is one. They find a letter where a person would find none: "The
answer is B" is T to two of them. :func:`careful_letter` and :func:`careful_yes` read as a person does.
"""

import re
from collections.abc import Callable, Collection

_LETTER = re.compile("[A-Za-z]")
_BOX = "\\boxed{"
_BRACE = re.compile("[{}]")
_WORD = re.compile("[a-z]+")

# A letter that stands for an option: by itself, no part of a word, of "I've" or of "vitamin-A".
_ALONE = re.compile(r"(?<![A-Za-z0-9_'’-])([A-Z])(?![A-Za-z0-9_'’-])")
_ENCLOSED = re.compile(r"\(([A-Za-z])\)")
_NAMED_LAST = re.compile(
    r"\b(?:answer|option|choice|letter|choose|select|pick)(?:\s+is)?\s*:?\s*([A-Za-z])[\s.]*$", re.IGNORECASE
)
_FIRST = re.compile(r"\s*([a-z])[.):]\s")  # "b) the dog", in lower case
# "A dog" has an article; "A or B" and "A is right" have none, nor has what is announced: "option A shows".
_ARTICLE = re.compile(r"A\s+(?!(?:and|or|nor|but|is|was|because|since|as)\b)[a-z]")
_ANNOUNCED = re.compile(r"(?:\b(?:is|be|answer|option|choice|choose|select|pick|letter)|[:=(*\"'])\s*$", re.IGNORECASE)


def cleaned(reply: str, *, tagged: bool = False) -> str:
    """A reply as the paper's scripts clean it.

    Args:
        reply: as the model wrote it.
        tagged: whether what stands between the last ``<answer>`` and the ``</answer>`` after it is taken first, as the
            scripts of the films do.
    """
    text = reply.strip().strip('".').strip("'")
    if tagged:
        text = text.rpartition("<answer>")[2].partition("</answer>")[0].strip()
    text = text.rpartition("</think>")[2].strip()
    box = boxed(text)
    return text if box is None else box


def boxed(text: str) -> str | None:
    r"""The content of the last ``\boxed{}``, its braces balanced; None where there is none, or it is not closed."""
    start = text.rfind(_BOX)
    if start < 0:
        return None
    start += len(_BOX)
    depth = 1
    for brace in _BRACE.finditer(text, start):
        depth += 1 if brace.group() == "{" else -1
        if not depth:
            return text[start : brace.start()].strip()
    return None


def first_letter(reply: str) -> str:
    """L: the first letter of the cleaned reply, whatever word it begins; upper case, empty where there is none."""
    found = _LETTER.search(cleaned(reply))
    return found.group().upper() if found else ""


def first_letter_of_answer(reply: str) -> str:
    """L+: the same of what stands in ``<answer>``, where the reply has one."""
    found = _LETTER.search(cleaned(reply, tagged=True))
    return found.group().upper() if found else ""


def whole(reply: str) -> str:
    """W: the cleaned reply, upper case; it must equal what is right."""
    return cleaned(reply).upper()


def first_character(reply: str) -> str:
    """The first character of the cleaned reply, upper case, letter or not; empty where there is none."""
    return cleaned(reply)[:1].upper()


READERS: dict[str, Callable[[str], str]] = {
    "L": first_letter,
    "L+": first_letter_of_answer,
    "W": whole,
    "first character": first_character,
}
"""The paper's readers by their names in the table of benchmarks. What is right is compared in upper case."""


def careful_letter(reply: str, letters: Collection[str]) -> str | None:
    """The one option that a reply names; None if it names none or several, or its thought is not closed.

    Args:
        reply: as the model wrote it.
        letters: of the options, upper case.

    >>> careful_letter("The answer is B.", "ABCD")
    'B'
    >>> careful_letter("A dog, so (C)", "ABCD")
    'C'
    """
    text = said(reply)
    if text is None:
        return None
    bare = text.strip("\"'.,:;()[]* \n\t").upper()
    if bare in set(letters):
        return bare
    named = {found[1].upper() for lower in (_ENCLOSED, _NAMED_LAST) for found in lower.finditer(text)}
    if first := _FIRST.match(text):
        named.add(first[1].upper())
    for found in _ALONE.finditer(text):
        is_article = _ARTICLE.match(text, found.start()) and not _ANNOUNCED.search(text, 0, found.start())
        if not is_article:
            named.add(found[1])
    named &= set(letters)
    return named.pop() if len(named) == 1 else None


def careful_yes(reply: str) -> bool | None:
    """Whether a reply says yes, or no; None if it says neither or both, or its thought is not closed.

    >>> careful_yes("Yes, it does.")
    True
    """
    text = said(reply)
    if text is None:
        return None
    words = {word for word in _WORD.findall(text.lower()) if word in ("yes", "no")}
    return words == {"yes"} if len(words) == 1 else None


def said(reply: str) -> str | None:
    """What a reply says once it has thought, of that the last answer that is marked as one; None in mid-thought."""
    text = reply.rpartition("</think>")[2]
    if "<think>" in text:
        return None
    if "<answer>" in text:
        text = text.rpartition("<answer>")[2].partition("</answer>")[0]
    box = boxed(text)
    return text if box is None else box
