"""Tasks scored by rules in a judge's place: what is read in a reply, and what is asked."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image


@pytest.fixture(scope="module")
def rules(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("rules", repository / "eval/tasks/rules/rules.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def vista(kind: str, answer: str, *, precision: float = 1.0, choices: tuple[str, ...] = ()) -> dict[str, Any]:
    question = "multi_choice" if choices else "free_form"
    said = {"question_type": question, "answer_type": kind, "choices": list(choices), "answer": answer}
    return {**said, "precision": precision, "query": "Q"}


OPTIONS = ("yellow", "red", "blue")


@pytest.mark.parametrize(
    ("task", "row", "reply", "acc", "unreadable"),
    [
        ("tempcompass", {"answer": "B. falls"}, "The best option is B. falls", 1, 0),
        ("tempcompass", {"answer": "B. falls"}, "A", 0, 0),
        ("tempcompass", {"answer": "B. falls"}, "It falls.", 0, 1),
        ("mathvista", vista("text", "red", choices=OPTIONS), "<think>A?</think>The answer is (B).", 1, 0),
        ("mathvista", vista("text", "red", choices=OPTIONS), "Red.", 1, 0),
        ("mathvista", vista("text", "red", choices=OPTIONS), "no idea", 0, 1),
        ("mathvista", vista("integer", "1200"), "So it is 1,200 cm.", 1, 0),
        ("mathvista", vista("integer", "12"), "12.4", 1, 0),
        ("mathvista", vista("float", "1.2"), r"\boxed{1.23}", 1, 0),
        ("mathvista", vista("float", "1.23", precision=2.0), "1.2", 0, 0),
        ("mathvista", vista("float", "1.2"), "a lot", 0, 1),
        ("mathvista", vista("list", "[1, 2]"), "[1, 2]", 1, 0),
        ("mathverse", {"question_type": "multi-choice", "answer": "C"}, "C", 1, 0),
        ("mathverse", {"question_type": "free-form", "answer": "2.5"}, "x = 2.50", 1, 0),
        ("mathverse", {"question_type": "free-form", "answer": r"2\sqrt{3}"}, r"\boxed{2\sqrt{3}}", 1, 0),
        ("mathverse", {"question_type": "free-form", "answer": "7"}, "<think>7", 0, 1),
        ("mathverse", {"question_type": "free-form", "answer": "5cm"}, "The answer is 5 cm.", 1, 0),
        ("mathverse", {"question_type": "free-form", "answer": "5"}, "The answer is 5 cm^2.", 1, 0),
        ("mathverse", {"question_type": "free-form", "answer": "1/2"}, r"\boxed{\frac{1}{2}}", 1, 0),
        ("mathverse", {"question_type": "free-form", "answer": "rent"}, "It is parent", 0, 0),
        ("mathvista", vista("text", "grey", choices=OPTIONS), "grey", 1, 0),
        ("emma", {"options": ["a", "b"], "answer": "B"}, "<think>A</think> B", 1, 0),
        ("emma", {"options": ["a", "b"], "answer": "B"}, "C", 0, 1),
        ("emma", {"options": [], "answer": "H2O"}, r"It is \boxed{H2O}", 1, 0),
    ],
)
def test_replies(rules: ModuleType, task: str, row: dict[str, Any], reply: str, acc: int, unreadable: int) -> None:
    assert getattr(rules, task)(row, [reply]) == {"acc": acc, "unreadable": unreadable}


def test_what_is_asked_of_emma(rules: ModuleType) -> None:
    pictures = {f"image_{number}": Image.new("RGBA", (number, 1)) for number in range(1, 4)}
    row = {"context": "", "question": "Is <image_2> like <image_1>?", "options": ["yes", "no"], **pictures}
    text = rules.emma_text(row)
    assert text.splitlines()[:3] == ["Is <image_2> like <image_1>?", "A. yes", "B. no"]
    assert [picture.size[0] for picture in rules.emma_pictures(row)] == [1, 2]
    assert rules.mathverse_picture({"image": ""}) == []
