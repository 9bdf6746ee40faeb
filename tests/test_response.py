"""Reading replies: what is well-formed, what is an answer, and that no text can break or slow the reader."""

import re
import sys
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jigsaw.response import Parsed, parse, reply_of
from jigsaw.rows import ANSWER_FORMATS

WRAP = {
    "answer_tag": "<think>{think}</think><answer>{answer}</answer>",
    "boxed": "<think>{think}</think>\\boxed{{{answer}}}",
    "plain": "{answer}",
}

answers = st.integers(1, 12).flatmap(lambda k: st.permutations(range(1, k + 1)))
blanks = st.text(" \t\n\r", max_size=3)
thoughts = st.text(max_size=60).filter(lambda text: "think>" not in text and "answer>" not in text and "\\" not in text)
formats = st.sampled_from(ANSWER_FORMATS)


def reply(answer_format: str, answer: str, think: str = "Sky above, grass below.") -> str:
    return WRAP[answer_format].format(think=think, answer=answer)


@given(answers, formats, thoughts, st.lists(blanks, min_size=30, max_size=30))
def test_a_good_reply_is_read_back(answer, answer_format, think, spaces):
    fill = iter(spaces)
    content = ",".join(next(fill) + str(number) + next(fill) for number in answer)
    text = next(fill) + reply(answer_format, content, think).replace("</think>", "</think>" + next(fill)) + next(fill)
    assert parse(text, len(answer), answer_format) == Parsed(tuple(answer), True, None)
    lenient = parse(text.lstrip(), len(answer), answer_format, strict=False)
    assert lenient.answer == tuple(answer)
    assert lenient.well_formed


GOOD = {name: reply(name, "2, 3, 1") for name in ANSWER_FORMATS}

MALFORMED = {
    "answer_tag": [
        "",
        "2, 3, 1",
        "<answer>2, 3, 1</answer>",
        "<think>a</think>2, 3, 1",
        "<think>a<answer>2, 3, 1</answer>",
        "<think>a</think><answer>2, 3, 1",
        "<think>a</think><answer>2, 3, 1</answer>.",
        "So: <think>a</think><answer>2, 3, 1</answer>",
        "<think>a</think>So: <answer>2, 3, 1</answer>",
        "<think>a</think></think><answer>2, 3, 1</answer>",
        "<think><think>a</think></think><answer>2, 3, 1</answer>",
        "<think>a</think><think>b</think><answer>2, 3, 1</answer>",
        "<think>a</think><answer>1, 2, 3</answer><answer>2, 3, 1</answer>",
        "<think>a</think><answer><answer>2, 3, 1</answer></answer>",
        "<think>I shall write <answer>1, 2, 3</answer></think><answer>2, 3, 1</answer>",
        "<think>a <answer> b</think><answer>2, 3, 1</answer>",
        "<answer>2, 3, 1</answer><think>a</think>",
        "</think><think><answer>2, 3, 1</answer>",
        "<Think>a</Think><answer>2, 3, 1</answer>",
        "<think>a</think>\\boxed{2, 3, 1}",
        "\0<think>a</think><answer>2, 3, 1</answer>",
    ],
    "boxed": [
        "",
        "2, 3, 1",
        "\\boxed{2, 3, 1}",
        "<think>a\\boxed{2, 3, 1}",
        "<think>a</think>\\boxed{2, 3, 1",
        "<think>a</think>\\boxed{2, {3, 1}",
        "<think>a</think>\\boxed{2, 3, 1}.",
        "<think>a</think>$\\boxed{2, 3, 1}$",
        "<think>a</think>So: \\boxed{2, 3, 1}",
        "So: <think>a</think>\\boxed{2, 3, 1}",
        "<think>a</think>\\boxed{2, 3, 1}\\boxed{2, 3, 1}",
        "<think>a</think>\\boxed{\\boxed{2, 3, 1}}",
        "<think>a</think>\\boxed{2, 3, 1}}",
        "<think>a</think>\\boxed{2}{3, 1}",
        "<think>or \\boxed{1, 2, 3}?</think>\\boxed{2, 3, 1}",
        "<think>a</think></think>\\boxed{2, 3, 1}",
        "<think><think>a</think>\\boxed{2, 3, 1}",
        "\\boxed{2, 3, 1}<think>a</think>",
        "<think>a</think>\\boxed 2, 3, 1",
        "<think>a</think><answer>2, 3, 1</answer>",
    ],
    "plain": [
        "",
        " \n",
        "The answer is 2, 3, 1",
        "2, 3, 1.",
        "[2, 3, 1]",
        "<answer>2, 3, 1</answer>",
        "2; 3; 1",
        "٢, 3, 1",
    ],
}

# The format is kept to, and yet this is no permutation of 1..3.
NO_PERMUTATION = [
    "2, 3",
    "2, 3, 1, 1",
    "1, 2, 3, 3",
    "1, 1, 2",
    "0, 1, 2",
    "2, 3, 4",
    "2 3 1",
    "2,, 3, 1",
    ",2, 3, 1",
    "2, 3, 1,",
    ",",
    "1" * 5000,
    "2, 3, " + "0" * 5000 + "1",
    "2, 3, " + "9" * 4000,
]
# As the last, for formats with tags: inside them any text keeps to the format.
NO_PERMUTATION_IN_TAGS = [
    "",
    " ",
    "-1, 2, 3",
    "+2, 3, 1",
    "2.0, 3, 1",
    "٢, 3, 1",
    "1_0, 2, 3",
    "{2, 3, 1}",
    "a",
    "2;3;1",
    "2,\u00a03, 1",
]


@pytest.mark.parametrize(("answer_format", "text"), [(name, text) for name in MALFORMED for text in MALFORMED[name]])
def test_strict_malformed(answer_format, text):
    parsed = parse(text, 3, answer_format)
    assert parsed.answer is None
    assert not parsed.well_formed
    assert parsed.reason
    assert len(parsed.reason) < 200
    assert "\n" not in parsed.reason


@pytest.mark.parametrize(
    ("answer_format", "content"),
    [(name, content) for name in ANSWER_FORMATS for content in NO_PERMUTATION]
    + [(name, content) for name in ("answer_tag", "boxed") for content in NO_PERMUTATION_IN_TAGS],
)
def test_strict_right_format_around_no_permutation(answer_format, content):
    parsed = parse(reply(answer_format, content), 3, answer_format)
    assert parsed.answer is None
    assert parsed.well_formed
    assert parsed.reason
    assert len(parsed.reason) < 200


@given(formats, st.integers(0, 60), st.sampled_from(["<", ">", "/", "{", "}", "\\", "x", "<think>", "</answer>"]))
def test_one_strange_piece_of_text_outside_the_thinking_is_never_read_as_the_answer(answer_format, place, strange):
    text = GOOD[answer_format]
    start = text.find("</think>") + len("</think>") if answer_format != "plain" else 0
    place = start + place % (len(text) - start + 1)
    assert parse(text[:place] + strange + text[place:], 3, answer_format).answer is None


LENIENT = [
    # (format, text, well-formed, answer)
    ("boxed", "<think>a</think>\\boxed{2, 3, 1}", True, (2, 3, 1)),
    ("boxed", "<think>a</think> So: $\\boxed{2, 3, 1}$.", True, (2, 3, 1)),
    ("boxed", "<think>a\n\\boxed{1, 2, 3}</think>\\boxed{1, 3, 2} no, \\boxed{2, 3, 1}", True, (2, 3, 1)),
    ("boxed", "<think></think>\\boxed{2,3,1}", True, (2, 3, 1)),
    ("boxed", "<think><think></think></think>\\boxed{2,3,1}", True, (2, 3, 1)),
    ("boxed", "<think></think>\\boxed{+2, \u00a03, 0_1}", True, (2, 3, 1)),
    ("boxed", "<think></think>\\boxed{٢, 3, 1}", True, (2, 3, 1)),
    ("boxed", "<think></think>\\boxed{2, 3, 1, 1}", True, None),
    ("boxed", "<think></think>\\boxed{{2, 3, 1}}", True, None),
    ("boxed", "<think></think>\\boxed{}", True, None),
    ("boxed", "<think></think>\\boxed{2, 3, 1} \\boxed{2, 3, 1", True, None),  # the last box counts, and it is open
    ("boxed", "<think></think>\\boxed{2, {3, 1}", True, None),
    ("boxed", "<think></think>\\boxed{2, 3, 1", False, None),
    ("boxed", " <think></think>\\boxed{2, 3, 1}", False, None),
    ("boxed", "<think>\\boxed{2, 3, 1}</think>", False, None),
    ("boxed", "<think>\\boxed{2, 3, 1}", False, None),
    ("boxed", "<think>}</think>\\boxed{2, 3, 1", False, None),
    ("boxed", "\\boxed{2, 3, 1}", False, None),
    ("boxed", "", False, None),
    ("answer_tag", "<think>a</think> So <answer>1, 2, 3</answer> or <answer>2, 3, 1</answer>.", True, (2, 3, 1)),
    ("answer_tag", "<think>a</think><answer>2, 3, 1</answer><answer>", True, None),
    ("answer_tag", "<think>a<answer>2, 3, 1</answer>", False, None),
    ("plain", "2, 3, 1", True, (2, 3, 1)),
    ("plain", " +2,3 , 1\n", True, (2, 3, 1)),
    ("plain", "2 3 1", True, None),
    ("plain", "I do not know.", True, None),
    ("plain", "", True, None),
]


@pytest.mark.parametrize(("answer_format", "text", "well_formed", "answer"), LENIENT)
def test_lenient(answer_format, text, well_formed, answer):
    parsed = parse(text, 3, answer_format, strict=False)
    assert (parsed.well_formed, parsed.answer) == (well_formed, answer)
    assert (parsed.reason is None) == (answer is not None)


FRAGMENTS = ["<think>", "</think>", "\\boxed{", "}", "{", "<answer>", "</answer>", "1, 2", "2,1", " ", "\n", "x"]
SKELETONS = [
    ["<think>", "x", "</think>", "\n", "\\boxed{", "2,1", "}"],
    ["<think>", "x", "</think>", "\n", "<answer>", "2,1", "</answer>"],
    ["2,1"],
]


@st.composite
def edited_replies(draw):
    """A good reply with up to three fragments put in, swapped in or left out."""
    parts = list(draw(st.sampled_from(SKELETONS)))
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(parts)))
        parts[start : start + draw(st.integers(0, 1))] = draw(st.lists(st.sampled_from(FRAGMENTS), max_size=2))
    return "".join(parts)


@given(edited_replies())
def test_lenient_format_is_the_released_pattern(text):
    boxed = re.fullmatch(r"<think>.*</think>.*\\boxed{.*}.*", text, re.DOTALL)
    assert parse(text, 2, "boxed", strict=False).well_formed == bool(boxed)
    tags = re.fullmatch(r"<think>.*</think>.*<answer>.*</answer>.*", text, re.DOTALL)
    assert parse(text, 2, "answer_tag", strict=False).well_formed == bool(tags)


@given(edited_replies())
def test_what_strict_accepts_lenient_reads_alike(text):
    for answer_format in ANSWER_FORMATS:
        strict = parse(text, 2, answer_format)
        lenient = parse(text.strip(), 2, answer_format, strict=False)
        if strict.well_formed:
            assert lenient.well_formed
            assert lenient.answer == strict.answer
        if not strict.well_formed:
            assert strict.answer is None


@given(st.text(), formats, st.booleans(), st.integers(1, 10))
def test_any_text_is_read(text, answer_format, strict, k):
    parsed = parse(text, k, answer_format, strict)
    assert (parsed.answer is None) == (parsed.reason is not None)
    assert parsed.answer is None or (parsed.well_formed and sorted(parsed.answer) == list(range(1, k + 1)))


LONG = 300_000
HUGE = {
    "open thinking tags": "<think>" * (LONG // 7),
    "closing thinking tags": "<think>" + "</think>" * (LONG // 8),
    "whole thinking blocks": "<think></think>" * (LONG // 15),
    "ends and boxes": "<think>" + "</think>\\boxed{" * (LONG // 15),
    "boxes": "<think></think>" + "\\boxed{" * (LONG // 7) + "}",
    "answer tags": "<think></think>" + "<answer>" * (LONG // 8),
    "answers": "<think></think>" + "<answer></answer>" * (LONG // 17),
    "open braces": "<think></think>\\boxed{" + "{" * LONG,
    "closing braces": "<think></think>\\boxed{" + "}" * LONG,
    "box of commas": "<think></think>\\boxed{" + "," * LONG + "}",
    "box of numbers": "<think></think>\\boxed{" + "1," * (LONG // 2) + "x}",
    "box of one number": "<think></think>\\boxed{" + "1" * LONG + "}",
    "box of blanks": "<think></think>\\boxed{1" + " " * LONG + "x}",
    "number": "1" * LONG,
    "numbers": "1 ," * (LONG // 3) + "x",
    "blanks": " " * LONG,
    "angles": "<" * LONG,
    "surrogates": "<think>" + "\ud800" * LONG,
    "zeros": "\0" * LONG,
}


@pytest.mark.parametrize("name", HUGE)
def test_a_huge_reply_takes_no_time(name):
    start = time.process_time()
    for answer_format in ANSWER_FORMATS:
        for strict in (True, False):
            assert parse(HUGE[name], 3, answer_format, strict).answer is None
    # Linear reading takes a fifth of a second or less for all six; quadratic reading would take many minutes.
    assert time.process_time() - start < 1.5


def test_huge_numbers_stay_cheap_where_pythons_limit_was_lifted():
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        start = time.process_time()
        assert parse(reply("boxed", "1, " + "9" * 1_000_000), 2, "boxed").answer is None
        assert time.process_time() - start < 1
    finally:
        sys.set_int_max_str_digits(before)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="k must be at least 1"):
        parse("1", 0, "plain")
    with pytest.raises(ValueError, match="'latex'"):
        parse("1", 1, "latex")


def test_the_reason_says_what_is_wrong():
    assert "after </answer>" in parse(GOOD["answer_tag"] + "!", 3, "answer_tag").reason
    assert "inside the thinking" in parse("<think>\\boxed{1}</think>\\boxed{1}", 1, "boxed").reason
    assert "4 numbers are expected, found 3" in parse(GOOD["plain"], 4, "plain").reason
    assert "not a permutation of 1 to 3" in parse("1, 1, 2", 3, "plain").reason


@given(st.permutations(range(1, 8)), st.sampled_from(ANSWER_FORMATS), st.booleans())
def test_a_reply_that_is_made_of_an_answer_is_read_as_it(answer: list[int], answer_format: Any, strict: bool) -> None:
    assert parse(reply_of(answer, answer_format), 7, answer_format, strict) == Parsed(tuple(answer), True, None)
