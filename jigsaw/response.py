r"""A model's reply: text in, an answer or the reason why there is none out. Standard library only.

=============  ==================================================  ============================================
format         strict                                              lenient, as the released code reads
=============  ==================================================  ============================================
`answer_tag`   ``<think>…</think><answer>…</answer>``              the same with any text after either block; the
                                                                   last ``<answer>`` counts
`boxed`        ``<think>…</think>\boxed{…}``                       the same with any text after either block; the
                                                                   last ``\boxed{`` counts
`plain`        the whole reply is the answer                       the same; no reply is malformed
=============  ==================================================  ============================================

All reading is linear in the length of the reply, whatever stands in it.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jigsaw.permutation import is_answer
from jigsaw.rows import AnswerFormat

_THINK_TAG = re.compile("</?think>")
_TAG = re.compile("</?(?:think|answer)>")
_BRACE = re.compile("[{}]")
_BOX = "\\boxed{"
# Possessive (`*+`, `++`): what was taken is never given back, so a failing match costs one pass.
_ANSWER_LIST = re.compile(r"\s*+[0-9]++\s*+(?:,\s*+[0-9]++\s*+)*+", re.ASCII)
_LIST_CHARACTERS = re.compile(r"[0-9,\s]+", re.ASCII)
# Python's own default limit for int(); kept here because the limit can be lifted and int() is quadratic.
_MOST_DIGITS = 4300
_SHOWN = 40


@dataclass(frozen=True, slots=True)
class Parsed:
    """What was read from a reply.

    Attributes:
        answer: 1-based permutation of 1..k, or None if the reply holds no such answer.
        well_formed: whether the reply keeps to the format; a reply can do so and yet hold no permutation.
        reason: why there is no answer, in one line; None if there is one.
    """

    answer: tuple[int, ...] | None
    well_formed: bool
    reason: str | None


def parse(text: str, k: int, answer_format: AnswerFormat, strict: bool = True) -> Parsed:
    r"""Read the answer from a model's reply. Raises on no text.

    Strict: exactly one thinking block, first; exactly one answer after it; white space alone may stand outside the
    two; no tag of the format inside the thinking; the answer is ASCII digits, commas and blanks.

    Lenient: the whole reply matches ``<think>.*</think>.*\boxed{.*}.*`` (a dot stands for line ends too, no blank in
    front), the last box counts, and numbers are whatever ``int`` takes. ``answer_tag`` is read in the same way.
    ``plain`` has no format that could be broken: every reply is well-formed.

    In both only a true permutation of 1..k is an answer.

    Args:
        text: the decoded reply, any string.
        k: number of pieces, at least 1.
        answer_format: ``answer_tag``, ``boxed`` or ``plain``.
        strict: whether to read strictly.

    Raises:
        ValueError: if ``k`` is below 1 or ``answer_format`` is unknown.

    >>> parse("<think>The sky is tile 2.</think><answer>2, 1</answer>", 2, "answer_tag")
    Parsed(answer=(2, 1), well_formed=True, reason=None)
    >>> parse("<think>Hm.</think><answer>2, 2</answer>", 2, "answer_tag")
    Parsed(answer=None, well_formed=True, reason="'2, 2' is not a permutation of 1 to 2")
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if answer_format not in _FINDERS:
        raise ValueError(f"answer_format is {answer_format!r}; it must be one of {', '.join(_FINDERS)}")
    find_strict, find_lenient = _FINDERS[answer_format]
    found = find_strict(text) if strict else find_lenient(text)
    return found if isinstance(found, Parsed) else _read(found, k, strict)


def _malformed(reason: str) -> Parsed:
    return Parsed(None, False, reason)


def _no_answer(reason: str) -> Parsed:
    return Parsed(None, True, reason)


def _shown(content: str) -> str:
    """The content quoted for a message, cut where it is long."""
    return repr(content if len(content) <= _SHOWN else content[:_SHOWN] + "…")


def _read(content: str, k: int, strict: bool) -> Parsed:
    """Turn the comma-separated content of an answer into a permutation of 1..k."""
    if strict and not _ANSWER_LIST.fullmatch(content):
        return _no_answer(f"{_shown(content)} is not a list of numbers separated by commas")
    count = content.count(",") + 1
    if count != k:
        return _no_answer(f"{k} numbers are expected, found {count}")
    parts = content.split(",")
    if len(content) > _MOST_DIGITS and max(len(part.strip()) for part in parts) > _MOST_DIGITS:
        return _no_answer(f"a number has more than {_MOST_DIGITS} characters")
    try:
        answer = tuple(map(int, parts))
    except ValueError:
        return _no_answer(f"{_shown(content)} is not a list of numbers separated by commas")
    if not is_answer(answer, k):
        return _no_answer(f"{_shown(content)} is not a permutation of 1 to {k}")
    return Parsed(answer, True, None)


def reply_of(answer: Sequence[int], answer_format: AnswerFormat, thought: str = "") -> str:
    r"""A well-formed reply with an answer, the shortest one unless something is thought; "plain" has no room for it.

    >>> reply_of((2, 1), "answer_tag")
    '<think></think><answer>2, 1</answer>'
    """
    numbers = ", ".join(map(str, answer))
    forms = {"answer_tag": f"<answer>{numbers}</answer>", "boxed": f"{_BOX}{numbers}}}"}
    return numbers if answer_format == "plain" else f"<think>{thought}</think>{forms[answer_format]}"


def _tags_differ(tags: list[str], expected: str) -> Parsed:
    found = " ".join(tags[:6]) + (" …" if len(tags) > 6 else "")
    return _malformed(f"expected {expected}, found {found or 'no tags'}")


def _strict_answer_tag(text: str) -> str | Parsed:
    tags = list(_TAG.finditer(text))
    names = [tag.group() for tag in tags]
    if names != ["<think>", "</think>", "<answer>", "</answer>"]:
        return _tags_differ(names, "<think>…</think><answer>…</answer>")
    think, think_end, answer, answer_end = tags
    if text[: think.start()].strip():
        return _malformed("text stands before <think>")
    if text[think_end.end() : answer.start()].strip():
        return _malformed("text stands between </think> and <answer>")
    if text[answer_end.end() :].strip():
        return _malformed("text stands after </answer>")
    return text[answer.end() : answer_end.start()]


def _strict_boxed(text: str) -> str | Parsed:
    tags = list(_THINK_TAG.finditer(text))
    names = [tag.group() for tag in tags]
    if names != ["<think>", "</think>"]:
        return _tags_differ(names, "<think>…</think>\\boxed{…}")
    think, think_end = tags
    if text[: think.start()].strip():
        return _malformed("text stands before <think>")
    if text.find(_BOX, 0, think_end.start()) >= 0:
        return _malformed("\\boxed{ stands inside the thinking block")
    answer = text[think_end.end() :].strip()
    if not answer.startswith(_BOX):
        return _malformed("\\boxed{…} must follow </think> directly")
    if answer.count(_BOX) > 1:
        return _malformed("more than one \\boxed{ follows </think>")
    end = _closing_brace(answer, len(_BOX))
    if end is None:
        return _malformed("\\boxed{ is never closed")
    if end != len(answer) - 1:
        return _malformed("text stands after \\boxed{…}")
    return answer[len(_BOX) : end]


def _strict_plain(text: str) -> str | Parsed:
    content = text.strip()
    if not _LIST_CHARACTERS.fullmatch(content):
        return _malformed("the reply is not digits, commas and blanks alone")
    return content


def _lenient_boxed(text: str) -> str | Parsed:
    if not _in_order(text, _BOX, "}"):
        return _malformed("the reply does not match <think>…</think>…\\boxed{…}…")
    start = text.rfind(_BOX) + len(_BOX)
    end = _closing_brace(text, start)
    if end is None:
        return _no_answer("the last \\boxed{ is never closed")
    return text[start:end]


def _lenient_answer_tag(text: str) -> str | Parsed:
    if not _in_order(text, "<answer>", "</answer>"):
        return _malformed("the reply does not match <think>…</think>…<answer>…</answer>…")
    start = text.rfind("<answer>") + len("<answer>")
    end = text.find("</answer>", start)
    if end < 0:
        return _no_answer("the last <answer> is never closed")
    return text[start:end]


def _lenient_plain(text: str) -> str | Parsed:
    return text


def _in_order(text: str, opening: str, closing: str) -> bool:
    """Whether ``text`` is ``<think>``, and then somewhere ``</think>``, ``opening`` and ``closing``, in this order.

    Says what the pattern ``<think>.*</think>.*opening.*closing.*`` would say, in linear time: the last closing, the
    last opening before it and the last ``</think>`` before that leave the most room for what must stand in front.
    """
    end = text.rfind(closing)
    start = text.rfind(opening, 0, max(end, 0))
    return text.startswith("<think>") and text.rfind("</think>", 0, max(start, 0)) >= 0


def _closing_brace(text: str, start: int) -> int | None:
    """Index of the brace that closes the one just before ``start``; None if it is never closed."""
    depth = 1
    for brace in _BRACE.finditer(text, start):
        depth += 1 if brace.group() == "{" else -1
        if depth == 0:
            return brace.start()
    return None


_Finder = Callable[[str], str | Parsed]
_FINDERS: dict[AnswerFormat, tuple[_Finder, _Finder]] = {
    "answer_tag": (_strict_answer_tag, _lenient_answer_tag),
    "boxed": (_strict_boxed, _lenient_boxed),
    "plain": (_strict_plain, _lenient_plain),
}
