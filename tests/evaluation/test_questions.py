"""The film benchmarks of letters: what is asked of each layout of their data, and how a reply is scored."""

import importlib.util
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from jigsaw.errors import JigsawError
from jigsaw.evaluation.questions import Question, documents, messages, read_rows, score, score_carefully

D = "\nAnswer with the option letter directly."
DG = "\nAnswer with the option's letter from the given choices directly."

# benchmark -> folder, then of each layout: its files, and the questions: prompt, film, answer, category
CASES: dict[str, tuple[str, dict[str, tuple[dict[str, Any], list[tuple[str, str, str, str]]]]]] = {
    "vj_tvbench": (
        "TVBench",
        {
            "converted": (
                {
                    "all_data.json": [
                        {"video": "count/a.mp4", "question": "How?\nA. x\nB. y", "answer": "B", "task": "count"}
                    ]
                },
                [(f"<video>\nHow?\nA. x\nB. y{D}", "video/count/a.mp4", "B", "count")],
            ),
            "official": (
                {
                    "json/order.json": [
                        {"video": "b.mp4", "question": "First?", "candidates": ["x", "y"], "answer": "x"}
                    ],
                    "json/count.json": [
                        {"video": "a.mp4", "question": "How?", "candidates": ["x", "y"], "answer": "y"}
                    ],
                },
                [
                    (f"<video>\nHow?\nA. x\nB. y{D}", "video/count/a.mp4", "B", "count"),
                    (f"<video>\nFirst?\nA. x\nB. y{D}", "video/order/b.mp4", "A", "order"),
                ],
            ),
        },
    ),
    "vj_tomato": (
        "TOMATO",
        {
            "converted": (
                {
                    "all_data.json": [
                        {"video": "v/a.mp4", "question": "Watch <video> now.", "answer": "C", "type": "shape"}
                    ]
                },
                [("Watch <video> now.", "v/a.mp4", "C", "shape")],
            ),
            "official": (
                {
                    "data/count.json": {
                        "7": {
                            "question": "How?",
                            "options": ["1", "2", "3"],
                            "answer": 2,
                            "key": "k",
                            "demonstration_type": "human",
                            "motion_type": "m",
                        }
                    }
                },
                [(f"<video>\nHow?\nA. 1\nB. 2\nC. 3{D}", "videos/human/k.mp4", "C", "count")],
            ),
        },
    ),
    "vj_favor_bench": (
        "FAVOR",
        {
            "official": (
                {
                    "question_perspective.json": [
                        {
                            "video_name": "x.mp4",
                            "question": "Then?",
                            "options": list("pqrst"),
                            "correct_answer": "t",
                            "task_type": "AS",
                        }
                    ]
                },
                [(f"<video>\nThen?\nA. p\nB. q\nC. r\nD. s\nE. t{D}", "videos/x.mp4", "E", "AS")],
            )
        },
    ),
    "vj_tuna_bench": (
        "TUNA",
        {
            "converted": (
                {
                    "TUNA-MCQ.json": [
                        {"video": "x", "question": "Where?", "candidates": ["p", "q"], "answer": "A", "task": "scene"}
                    ]
                },
                [(f"<video>\nWhere?\nA. p\nB. q{D}", "video/x.mp4", "A", "scene")],
            )
        },
    ),
    "vj_lvbench": (
        "LVBench",
        {
            "converted": (
                {
                    "all_data.json": [
                        {"video": "k.mp4", "question": "Who?\n(A) p", "answer": "A", "question_type": ["er", "ki"]}
                    ]
                },
                [(f"<video>\nWho?\n(A) p{D}", "all_videos/k.mp4", "A", "er, ki")],
            ),
            "official": (
                {
                    "video_info.meta.jsonl": [
                        {
                            "key": "k",
                            "qa": [
                                {"uid": "1", "question": "Who?\n(A) p", "answer": "A", "question_type": ["er"]},
                                {"uid": "2", "question": "When?\n(A) p", "answer": "D", "question_type": ["tg", "ki"]},
                            ],
                        }
                    ]
                },
                [
                    (f"<video>\nWho?\n(A) p{D}", "all_videos/k.mp4", "A", "er"),
                    (f"<video>\nWhen?\n(A) p{D}", "all_videos/k.mp4", "D", "tg, ki"),
                ],
            ),
        },
    ),
    "vj_motionbench": (
        "MotionBench",
        {
            "converted": (
                {
                    "motionbench_val.json": [
                        {
                            "video": f"MotionBench/self-collected/{name}.mp4",
                            "question": "How?",
                            "answer": "B",
                            "question_type": "MR",
                        }
                        for name in ("a", "CWBOtkJ7M6uDG75t")
                    ]
                },
                [(f"<video>\nHow?{DG}", "MotionBench/self-collected/a.mp4", "B", "MR")],
            ),
            "official": (
                {
                    "video_info.meta.jsonl": [
                        {
                            "video_path": f"{name}.mp4",
                            "question_type": "MR",
                            "qa": [
                                {"uid": f"{name}1", "question": "How?", "answer": "B"},
                                {"uid": f"{name}2", "question": "Secret?", "answer": "NA"},
                            ],
                        }
                        for name in ("a", "YV3ezdj2HwiA2Zwb")
                    ],
                    "MotionBench/self-collected/a.mp4": None,
                },
                [(f"<video>\nHow?{DG}", "MotionBench/self-collected/a.mp4", "B", "MR")],
            ),
        },
    ),
    "vj_aotbench": (
        "AoTBench",
        {
            "converted": (
                {
                    "valid_data.json": [
                        {"video_name": "videos/x.mp4", "question": "Which?", "ans": "A", "question_type": "QA"}
                    ]
                },
                [("<video>\nWhich?", "videos/x.mp4", "A", "QA")],
            )
        },
    ),
}
LAYOUTS = [(task, layout) for task, (_, layouts) in CASES.items() for layout in layouts]


def put(folder: Path, files: dict[str, Any]) -> None:
    """Write a benchmark's files; None is a film."""
    for name, value in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = "\n".join(map(json.dumps, value)) if "jsonl" in name else json.dumps(value)
        path.write_text("" if value is None else lines)


def test_captions_are_asked_of_the_picture_where_it_lies(repository: Path, tmp_path: Path) -> None:
    rows = [
        {"image": name, "caption": f"A cat, {name}.", "label": label, "relation": "under"}
        for name, label in (("v.jpg", 1), ("t.jpg", 0), ("gone.jpg", 0))
    ]
    put(tmp_path, {"vsr/test.jsonl": rows, "coco/val2017/v.jpg": None, "coco/train2017/t.jpg": None})
    found = asked(repository, "vj_vsr", tmp_path / "vsr")
    assert found[0].prompt == (
        "<image>\nDecide whether the caption correctly describes the image. Caption: A cat, v.jpg."
        "\nAnswer Yes or No directly."
    )
    places = [str(Path(one.media[0]).relative_to(tmp_path / "coco")) for one in found]
    assert places == ["val2017/v.jpg", "train2017/t.jpg", "train2017/gone.jpg"]
    assert [(one.answer, one.reader, one.letters) for one in found] == [("Yes", "W", ""), *[("No", "W", "")] * 2]


def test_several_pictures_stand_before_their_question(repository: Path, tmp_path: Path) -> None:
    row = {"image_path": ["s/1.jpg", "s/2.jpg"], "question": "How many?", "A": "1", "B": "2", "C": "3"}
    put(tmp_path, {"data.json": [{**row, "answer": "C", "category": "counting"}]})
    (found,) = asked(repository, "vj_all_angles", tmp_path)
    assert found.prompt == f"<image>\n<image>\nHow many?\nA. 1\nB. 2\nC. 3{D}"
    assert found.media == (str(tmp_path / "s/1.jpg"), str(tmp_path / "s/2.jpg"))
    assert (found.answer, found.reader, found.letters) == ("C", "L+", "ABC")


def asked(repository: Path, task: str, folder: Path) -> list[Question]:
    """The questions of a task."""
    spec = importlib.util.spec_from_file_location(task, repository / f"eval/tasks/{task}/{task}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return list(module.questions(folder))


@pytest.mark.parametrize(("task", "layout"), LAYOUTS)
def test_what_is_asked(repository: Path, tmp_path: Path, task: str, layout: str) -> None:
    files, expected = CASES[task][1][layout]
    put(tmp_path, files)
    found = asked(repository, task, tmp_path)
    assert [
        (one.prompt, str(Path(one.media[0]).relative_to(tmp_path)), one.answer, one.category) for one in found
    ] == expected
    assert len({one.id for one in found}) == len(found)
    assert {one.reader for one in found} == {"L+"}


@pytest.mark.parametrize("task", [task for task, (_, layouts) in CASES.items() if len(layouts) == 2])
def test_the_converted_file_comes_first(repository: Path, tmp_path: Path, task: str) -> None:
    layouts = CASES[task][1]
    for files, _ in layouts.values():
        put(tmp_path, files)
    assert [one.prompt for one in asked(repository, task, tmp_path)] == [said[0] for said in layouts["converted"][1]]


@pytest.mark.parametrize(("task", "layout"), LAYOUTS)
def test_a_file_with_other_fields_is_named(repository: Path, tmp_path: Path, task: str, layout: str) -> None:
    files, _ = CASES[task][1][layout]
    name = next(iter(files))
    put(tmp_path, {**files, name: [{"unknown": 1}]})
    with pytest.raises(JigsawError, match=rf"{name}.*: has no field \w+, but unknown; is it another file"):
        asked(repository, task, tmp_path)
    (tmp_path / name).write_text("{")
    with pytest.raises(JigsawError, match=rf"{name}: cannot be read as JSON"):
        asked(repository, task, tmp_path)


@pytest.mark.parametrize(
    ("reply", "paper", "careful", "unread"),
    [
        ("B", 1, 1, 0),
        ("The answer is B", 0, 1, 0),
        ("But no", 1, 0, 0),
        ("<think>A</think><answer>B</answer>", 1, 1, 0),
        ("<think>B", 0, 0, 0),
        ("A", 0, 0, 0),
        ("", 0, 0, 1),
        ("42", 0, 0, 1),
    ],
)
def test_a_reply_is_scored_as_the_paper_did_and_as_a_careful_reader_would(
    reply: str, paper: float, careful: float, unread: float
) -> None:
    doc = {"answer": "b", "reader": "L+", "letters": "AB"}
    assert score(doc, [reply]) == {"acc": paper, "unreadable": unread}
    assert score_carefully(doc, [reply])["acc"] == careful


def test_yes_and_no_are_scored_whole() -> None:
    doc = {"answer": "Yes", "reader": "W", "letters": ""}
    assert score(doc, ["yes."]) == {"acc": 1, "unreadable": 0}
    assert score(doc, ["Yes, it does."])["acc"] == 0
    assert score_carefully(doc, ["Yes, it does."]) == {"acc": 1, "unreadable": 0}
    assert score_carefully(doc, ["Who knows?"]) == {"acc": 0, "unreadable": 1}


def test_media_stand_where_their_marks_do_and_must_be_there(tmp_path: Path) -> None:
    films = [tmp_path / name for name in ("a.mp4", "b.mp4")]
    doc = {"prompt": "<video>\n<video>\nWhich?", "media": list(map(str, films))}
    films[0].touch()
    with pytest.raises(FileNotFoundError, match=r"b\.mp4: no such file"):
        messages(doc)
    films[1].touch()
    (message,) = messages(doc)
    assert message["content"] == [
        {"type": "video", "url": str(films[0])},
        {"type": "text", "text": "\n"},
        {"type": "video", "url": str(films[1])},
        {"type": "text", "text": "\nWhich?"},
    ]


def test_where_the_data_are_must_be_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing: Callable[[Path], list[Question]] = lambda folder: []  # noqa: E731
    docs = documents("TVBench", nothing)
    monkeypatch.delenv("VJ_DATA", raising=False)
    with pytest.raises(JigsawError, match=r"^VJ_DATA is not set"):
        docs(None)  # type: ignore[arg-type]
    monkeypatch.setenv("VJ_DATA", str(tmp_path))
    with pytest.raises(JigsawError, match="TVBench: no such folder; VJ_DATA must hold one"):
        docs(None)  # type: ignore[arg-type]
    (tmp_path / "TVBench").mkdir()
    with pytest.raises(JigsawError, match="TVBench: holds no questions"):
        docs(None)  # type: ignore[arg-type]


def test_a_line_of_json_may_hold_other_line_ends(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"a": "x\u2028y\x85z"}\n\n{"a": "b"}\n', encoding="utf-8")
    assert [row["a"] for _, row in read_rows(tmp_path / "rows.jsonl")] == ["x\u2028y\x85z", "b"]
    (tmp_path / "rows.jsonl").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(JigsawError, match=r"rows\.jsonl: cannot be read as JSON"):
        list(read_rows(tmp_path / "rows.jsonl"))


def test_data_of_another_kind_are_named(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"image": "v.jpg", "caption": "A cat.", "label": "1", "relation": "under"}
    put(tmp_path, {"vsr/test.jsonl": [row]})
    monkeypatch.setenv("VJ_DATA", str(tmp_path))
    with pytest.raises(JigsawError, match=r"vsr: its data are others than expected \(TypeError: "):
        documents("vsr", lambda folder: asked(repository, "vj_vsr", folder))(None)  # type: ignore[arg-type]


def test_yes_and_no_of_films_are_read_with_and_without_a_full_stop(repository: Path, tmp_path: Path) -> None:
    films = {f"video_{number}": f"{number}.mp4" if number < 3 else None for number in range(1, 5)}
    rows = [
        {"id": number, "task_type": "t", **films, "question": "Same?", "options": ["Yes.", "No."], "answer": answer}
        for number, answer in enumerate(("Yes.", "Yes", "No."))
    ]
    put(tmp_path, {"CVBench.json": rows})
    found = asked(repository, "vj_cvbench", tmp_path)
    assert found[0].prompt == "<video>\n<video>\nSame?\nYes.\nNo.\nAnswer Yes or No directly."
    assert [score_carefully(asdict(one), ["Yes, both."])["acc"] for one in found] == [1, 1, 0]
    assert [score(asdict(one), ["Yes"])["acc"] for one in found] == [0, 0, 0]  # as in the paper: one letter is read


def test_pairs_are_pairs_by_their_indices(repository: Path, tmp_path: Path) -> None:
    lines = [f"{index},Which?,(a) x (b) y,(a)" for index in (4, 1, 3, 2)]
    (tmp_path / "Questions.csv").write_text("\n".join(["Index,Question,Options,Correct Answer", *lines]))
    assert {one.id: one.group for one in asked(repository, "vj_mmvp", tmp_path)} == {
        "1": "0",
        "2": "0",
        "3": "1",
        "4": "1",
    }


def test_rows_that_are_none_are_named(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text("[3]")
    with pytest.raises(JigsawError, match=r"rows\.json, row 0: is 3 where an object is expected"):
        list(read_rows(tmp_path / "rows.json"))


@pytest.mark.parametrize("place", ["MotionBench/public-dataset", "MotionBench/self-collected", "self-collected"])
def test_films_of_motionbench_are_found_where_they_lie(repository: Path, tmp_path: Path, place: str) -> None:
    row = {"video_path": "a.mp4", "question_type": "MR", "qa": [{"uid": "1", "question": "How?", "answer": "B"}]}
    put(tmp_path, {"video_info.meta.jsonl": [row], f"{place}/a.mp4": None})
    (found,) = asked(repository, "vj_motionbench", tmp_path)
    assert found.media == (str(tmp_path / place / "a.mp4"),)


@pytest.mark.parametrize("name", ["test/a.jpg", "a.jpg"])
def test_pictures_of_lisa_are_found_where_they_lie(repository: Path, tmp_path: Path, name: str) -> None:
    put(tmp_path, {"lisa_test.json": [{"image": name, "problem": "What?", "solution": [1, 2, 3, 4]}]})
    put(tmp_path, {"test/a.jpg": None})
    (found,) = asked(repository, "vj_lisa_grounding", tmp_path)
    assert found.media == (str(tmp_path / "test/a.jpg"),)
    assert found.prompt == "<image>What? Please provide the bounding box coordinate in JSON format."
