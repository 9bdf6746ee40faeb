"""How replies are read: by the paper's four readers, and by a careful one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jigsaw.evaluation.replies import READERS, boxed, careful_letter, careful_yes, cleaned

REPLIES = [
    # reply, L, L+, first character, the careful reader's of A to D
    ("B", "B", "B", "B", "B"),
    ("b", "B", "B", "B", "B"),
    ("B.", "B", "B", "B", "B"),
    ('"B"', "B", "B", "B", "B"),
    ("'B'", "B", "B", "B", "B"),
    ("B)", "B", "B", "B", "B"),
    ("(B)", "B", "B", "(", "B"),
    ("(b)", "B", "B", "(", "B"),
    ("[B]", "B", "B", "[", "B"),
    ("**B**", "B", "B", "*", "B"),
    ("B:", "B", "B", "B", "B"),
    ("B,", "B", "B", "B", "B"),
    (" B ", "B", "B", "B", "B"),
    ("B\nThe dog is on the left.", "B", "B", "B", "B"),
    ("B. The dog is on the left.", "B", "B", "B", "B"),
    ("B. a dog", "B", "B", "B", "B"),
    ("B - the dog", "B", "B", "B", "B"),
    ("(B) the dog", "B", "B", "(", "B"),
    ("b) the dog", "B", "B", "B", "B"),
    ("b. the dog is on the left", "B", "B", "B", "B"),
    ("The option letter is b", "T", "T", "T", "B"),
    ("I choose d", "I", "I", "I", "D"),
    ("Option B", "O", "O", "O", "B"),
    ("option B.", "O", "O", "O", "B"),
    ("Option (B)", "O", "O", "O", "B"),
    ("The answer is B", "T", "T", "T", "B"),
    ("The answer is B.", "T", "T", "T", "B"),
    ("The answer is (B).", "T", "T", "T", "B"),
    ("The answer is: B", "T", "T", "T", "B"),
    ("The answer is **B**.", "T", "T", "T", "B"),
    ("The correct answer is B. the dog", "T", "T", "T", "B"),
    ("The correct option is (B) the dog.", "T", "T", "T", "B"),
    ("Answer: B", "A", "A", "A", "B"),
    ("Answer: B.", "A", "A", "A", "B"),
    ("answer: b", "A", "A", "A", "B"),
    ("ANSWER: B", "A", "A", "A", "B"),
    ("Final answer: B", "F", "F", "F", "B"),
    ("My choice is B because the dog is closer.", "M", "M", "M", "B"),
    ("I choose B.", "I", "I", "I", "B"),
    ("I would pick B, the dog.", "I", "I", "I", "B"),
    ("It is B", "I", "I", "I", "B"),
    ("It's B.", "I", "I", "I", "B"),
    ("So the answer must be B.", "S", "S", "S", "B"),
    ("Therefore, B.", "T", "T", "T", "B"),
    ("Hence (B).", "H", "H", "H", "B"),
    ("B is correct.", "B", "B", "B", "B"),
    ("B is the right one.", "B", "B", "B", "B"),
    ("Between them, B fits best.", "B", "B", "B", "B"),
    ("Looking at the image, the dog is closer, so B.", "L", "L", "L", "B"),
    ("<think>A</think>B", "B", "B", "B", "B"),
    ("<think>A or B?</think>B", "B", "B", "B", "B"),
    ("<think>The dog is nearer.</think>\nB", "B", "B", "B", "B"),
    ("<think>The dog is nearer.</think><answer>B</answer>", "A", "B", "<", "B"),
    ("<think>The dog is nearer.</think> <answer>(B)</answer>", "A", "B", "<", "B"),
    ("<think>The dog is nearer.</think> <answer> B. the dog </answer>", "A", "B", "<", "B"),
    ("<think>The dog is nearer.</think>\\boxed{B}", "B", "B", "B", "B"),
    ("<think>The dog is nearer.</think> \\boxed{\\text{B}}", "T", "T", "\\", "B"),
    ("<think>The dog is nearer.</think>The answer is B", "T", "T", "T", "B"),
    ("<think>The dog is nearer.</think>", "", "", "", None),
    ("<think>The dog is nearer. B", "T", "T", "<", None),
    ("<think>B</think>", "", "", "", None),
    ("<answer>B</answer>", "A", "B", "<", "B"),
    ("<answer>B", "A", "B", "<", "B"),
    ("<answer>(B) the dog</answer>", "A", "B", "<", "B"),
    ("<answer>The answer is B</answer>", "A", "T", "<", "B"),
    ("<answer></answer>", "A", "", "<", None),
    ("<answer>A</answer> or <answer>B</answer>", "A", "B", "<", "B"),
    ("Let me see. <answer>B</answer> That is it.", "L", "B", "L", "B"),
    ("<answer><think>A</think>B</answer>", "B", "B", "B", "B"),
    ("\\boxed{B}", "B", "B", "B", "B"),
    ("\\boxed{(B)}", "B", "B", "(", "B"),
    ("\\boxed{B. the dog}", "B", "B", "B", "B"),
    ("\\boxed{\\textbf{B}}", "T", "T", "\\", "B"),
    ("$\\boxed{B}$", "B", "B", "B", "B"),
    ("The answer is $\\boxed{B}$.", "B", "B", "B", "B"),
    ("\\boxed{A} no, \\boxed{B}", "B", "B", "B", "B"),
    ("\\boxed{B", "B", "B", "\\", "B"),
    ("\\boxed{}", "", "", "", None),
    ("boxed{B}", "B", "B", "B", "B"),
    ("A", "A", "A", "A", "A"),
    ("A.", "A", "A", "A", "A"),
    ("(A) a cat", "A", "A", "(", "A"),
    ("A cat is on the left.", "A", "A", "A", None),
    ("A cat, so the answer is C.", "A", "A", "A", "C"),
    ("A dog and a cat: (B)", "A", "A", "A", "B"),
    ("The answer is A because it is near.", "T", "T", "T", "A"),
    ("Option A shows a dog.", "O", "O", "O", "A"),
    ("I think A is right", "I", "I", "I", "A"),
    ("A and B", "A", "A", "A", None),
    ("A or B", "A", "A", "A", None),
    ("Either A or B.", "E", "E", "E", None),
    ("(A) and (C)", "A", "A", "(", None),
    ("A, B", "A", "A", "A", None),
    ("Not A, but B", "N", "N", "N", None),
    ("Both are the same.", "B", "B", "B", None),
    ("Yes", "Y", "Y", "Y", None),
    ("Yes.", "Y", "Y", "Y", None),
    ("yes, it does.", "Y", "Y", "Y", None),
    ("No", "N", "N", "N", None),
    ("No, it does not.", "N", "N", "N", None),
    ("I cannot tell.", "I", "I", "I", None),
    ("I don't know.", "I", "I", "I", None),
    ("The dog.", "T", "T", "T", None),
    ("the left one", "T", "T", "T", None),
    ("None of the above", "N", "N", "N", None),
    ("E", "E", "E", "E", None),
    ("E.", "E", "E", "E", None),
    ("Answer is D", "A", "A", "A", "D"),
    ("D, clearly.", "D", "D", "D", "D"),
    ("d)", "D", "D", "D", "D"),
    ("C: the chair", "C", "C", "C", "C"),
    ("Chair", "C", "C", "C", None),
    ("C (the chair)", "C", "C", "C", "C"),
    ("2", "", "", "2", None),
    ("2. B", "B", "B", "2", "B"),
    ("1", "", "", "1", None),
    ("3.5", "", "", "3", None),
    ("?", "", "", "?", None),
    (".", "", "", "", None),
    ("…", "", "", "…", None),
    ("选项B", "B", "B", "选", "B"),
    ("答案是B。", "B", "B", "答", "B"),
    ("B！", "B", "B", "B", "B"),
    ("Ｂ", "", "", "Ｂ", None),
    ("Vitamin-A is not an option; D", "V", "V", "V", "D"),
    ("Plan B is what the man says, so C", "P", "P", "P", None),
    ("X-ray", "X", "X", "X", None),
    ("a", "A", "A", "A", "A"),
    ("a.", "A", "A", "A", "A"),
    ("The answer is a", "T", "T", "T", "A"),
    ("(d) none", "D", "D", "(", "D"),
    ("`B`", "B", "B", "`", "B"),
    ('{"answer": "B"}', "A", "A", "{", "B"),
    ("<b>B</b>", "B", "B", "<", "B"),
    ("> B", "B", "B", ">", "B"),
    ("#B", "B", "B", "#", "B"),
    ("", "", "", "", None),
    (" ", "", "", "", None),
    ("\n\n", "", "", "", None),
    ('"', "", "", "", None),
    ("''", "", "", "", None),
]


@pytest.mark.parametrize(("reply", "letter", "of_answer", "character", "careful"), REPLIES)
def test_each_reader_reads_its_letter(
    reply: str, letter: str, of_answer: str, character: str, careful: str | None
) -> None:
    read = {name: reader(reply) for name, reader in READERS.items()}
    assert (read["L"], read["L+"], read["first character"]) == (letter, of_answer, character)
    assert read["W"] == cleaned(reply).upper()
    assert careful_letter(reply, "ABCD") == careful


def test_there_are_a_hundred_replies_and_no_two_alike() -> None:
    assert len({reply for reply, *_ in REPLIES}) == len(REPLIES) >= 100


@pytest.mark.parametrize(
    ("reply", "whole", "careful"),
    [
        ("Yes", "YES", True),
        ("yes.", "YES", True),
        ('"No."', "NO", False),
        ("'No'", "NO", False),
        ("Yes, it does.", "YES, IT DOES", True),
        ("No, the caption is wrong.", "NO, THE CAPTION IS WRONG", False),
        ("The answer is yes", "THE ANSWER IS YES", True),
        ("<think>Yes?</think>No", "NO", False),
        ("<think>Yes?</think><answer>No</answer>", "<ANSWER>NO</ANSWER>", False),
        ("<think>It is there.</think> \\boxed{Yes}", "YES", True),
        ("<think>Yes, it", "<THINK>YES, IT", None),
        ("Yes and no.", "YES AND NO", None),
        ("I know nothing.", "I KNOW NOTHING", None),
        ("", "", None),
    ],
)
def test_yes_and_no(reply: str, whole: str, careful: bool | None) -> None:
    assert READERS["W"](reply) == whole
    assert careful_yes(reply) is careful


def test_a_letter_that_is_no_option_is_no_answer() -> None:
    assert careful_letter("C", "AB") is None
    assert careful_letter("C. the chair, not B", "AB") == "B"


def test_boxes_are_balanced() -> None:
    assert boxed(r"\boxed{a{b}c} and \boxed{ {d} }") == "{d}"
    assert boxed(r"\boxed{a{b}") is None
    assert boxed("no box") is None


@given(st.text(), st.text(alphabet="ABCDab\\\"'. {}<>/answerthink\n"))
def test_no_reply_breaks_a_reader(any_text: str, tags: str) -> None:
    for reply in (any_text, tags, f"<think>{tags}</think><answer>{any_text}</answer>"):
        for reader in READERS.values():
            reader(reply)
        assert careful_letter(reply, "ABCD") in (None, *"ABCD")
        assert careful_yes(reply) in (None, True, False)
