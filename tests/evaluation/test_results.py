"""Evaluated models side by side: what is told of made folders whose truth is known."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from jigsaw.cli import main
from jigsaw.errors import JigsawError
from jigsaw.evaluation.results import chance, lines_of, media_keys, read_folder, units_of, warnings_of
from jigsaw.toy.rows import image_row


def folder_of(
    path: Path, right: list[bool], *, task: str = "vj_vsr", reply: str = "B", letters: str = "AB", metric: str = "acc"
) -> Path:
    """An evaluation of one task, a question a picture."""
    path.mkdir()
    rows = [
        {
            "task": task,
            "frames": None,
            "id": str(number),
            "group": "",
            "cluster": f"coco/{number:012d}.jpg",
            "media": [f"coco/{number:012d}.jpg"],
            "letters": letters,
            "pieces": None,
            "prompt": "<image>\nWhich?",
            "target": "AB"[number % 2],
            "reply": reply,
            "values": {metric: float(is_right), "unreadable": 0.0},
        }
        for number, is_right in enumerate(right)
    ]
    figure = {
        "benchmark": "VSR",
        "task": task,
        "protocol": "paper",
        "metric": metric,
        "value": sum(right) / len(right),
        "n": len(right),
        "unreadable": 0.0,
        "chance": 0.5,
        "frames": None,
        "weights": "w",
    }
    results = {"model": str(path), "versions": {"torch": "2.11.0"}, "figures": [figure]}
    (path / "results.json").write_text(json.dumps(results))
    (path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A base that is right in half of 80 questions, and a model that is right in 60 of them."""
    base = [number % 2 == 0 for number in range(80)]
    return folder_of(tmp_path / "base", base), folder_of(
        tmp_path / "trained", [r or n < 40 for n, r in enumerate(base)]
    )


def test_a_gain_is_told_with_its_interval(pair: tuple[Path, Path]) -> None:
    (line,) = lines_of([read_folder(path) for path in pair], paper=True)
    first, other = line.scores
    assert first is not None
    assert other is not None
    assert (first.value, other.value) == (0.5, 0.75)
    assert first.error == pytest.approx(0.0563, abs=1e-3)
    found = line.comparisons[1]
    assert found is not None
    assert found.difference == 0.25
    assert 0.15 < found.low < 0.25 < found.high < 0.36
    assert line.verdict(1) == "gain"
    assert line.verdict(0) == ""
    assert line.paper["Qwen2.5-VL-7B"] == 77.68


def test_few_questions_show_nothing(tmp_path: Path) -> None:
    base = folder_of(tmp_path / "base", [True, False, True, False])
    other = folder_of(tmp_path / "other", [True, True, True, False])
    (line,) = lines_of([read_folder(base), read_folder(other)])
    assert line.verdict(1) == "within noise"


def test_questions_about_trained_media_are_told_apart(pair: tuple[Path, Path], tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [image_row(f"train2017/{number:012d}.jpg") for number in range(20)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    (line,) = lines_of([read_folder(path) for path in pair], trained_on=tmp_path / "rows.parquet")
    other = line.scores[1]
    assert other is not None
    assert other.seen == (1.0, 20)
    assert other.unseen == (pytest.approx(40 / 60), 60)


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("coco/train2017/000000123456.jpg", "000000123456"),
        ("scans/scene0123_00/color/5.jpg", "scene0123_00"),
        ("films/abc.mp4", "abc"),
    ],
)
def test_media_are_known_again(path: str, key: str) -> None:
    assert media_keys([{"images": [{"image": path}], "prompt": [{"content": "Put it.\ntogether.jpg"}]}]) == {key}


def test_a_group_counts_once_and_only_whole() -> None:
    rows = [
        {"id": str(number), "group": group, "cluster": group, "values": {"pair_acc": value, "acc": value}}
        for number, (group, value) in enumerate([("a", 1.0), ("a", 1.0), ("b", 1.0), ("b", 0.0), ("c", 1.0)])
    ]
    assert {name: unit.value for name, unit in units_of(rows, "pair_acc").items()} == {"a": 1, "b": 0, "c": 0}
    assert len(units_of(rows, "acc")) == 5


def test_chance_is_worked_by_hand() -> None:
    rows = [
        {"id": str(number), "group": group, "letters": letters, "pieces": None, "values": {"pair_acc": 0.0, "acc": 0.0}}
        for number, (group, letters) in enumerate([("a", "AB"), ("a", "ABCD"), ("b", "AB")])
    ]
    assert chance(rows, "acc") == pytest.approx((1 / 2 + 1 / 4 + 1 / 2) / 3)
    assert chance(rows, "pair_acc") == pytest.approx((1 / 8 + 0) / 2)  # of the second pair one was not asked
    assert chance([{**row, "letters": ""} for row in rows], "acc") == 0.5
    assert chance([{**row, "letters": None} for row in rows], "acc") is None
    assert chance(rows, "other") is None
    puzzles = [{"id": "p", "group": "", "letters": None, "pieces": 3, "values": {"exact": 1.0, "kendall": 1.0}}]
    assert chance(puzzles, "exact") == pytest.approx(1 / 6)
    assert chance(puzzles, "kendall") is None


def test_one_letter_in_all_replies_is_told(tmp_path: Path) -> None:
    same = read_folder(folder_of(tmp_path / "same", [True, False] * 10))
    assert warnings_of(same) == [f"{tmp_path / 'same'}, vj_vsr: one letter, B, in 100% of the replies"]
    assert warnings_of(read_folder(folder_of(tmp_path / "yes", [True, False] * 10, letters=""))) == []


def test_other_questions_are_not_compared(tmp_path: Path) -> None:
    base, other = folder_of(tmp_path / "base", [True] * 9), folder_of(tmp_path / "other", [True] * 8)
    with pytest.raises(JigsawError, match="8: was asked of one of the models alone"):
        lines_of([read_folder(base), read_folder(other)])


def test_a_figure_that_is_no_mean_has_no_error(tmp_path: Path) -> None:
    path = folder_of(tmp_path / "base", [True, False], metric="nms_ap")
    results = json.loads((path / "results.json").read_text())
    results["figures"][0]["value"] = 0.31
    (path / "results.json").write_text(json.dumps(results))
    (line,) = lines_of([read_folder(path)])
    assert line.scores[0] is not None
    assert line.scores[0].error is None


@pytest.mark.seconds
def test_it_is_written_in_every_form(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (64, 48), "red").save(tmp_path / "000000000000.jpg")
    for folder in pair:
        text = (folder / "questions.jsonl").read_text()
        (folder / "questions.jsonl").write_text(text.replace("coco/000000000000", f"{tmp_path}/000000000000"))
    for kind in ("md", "json", "png", "html"):
        command(monkeypatch, "results", *map(str, pair), "--against=paper", f"--out={tmp_path / 'r'}.{kind}")
    assert "+25.0 [+1" in (tmp_path / "r.md").read_text()
    assert json.loads((tmp_path / "r.json").read_text())["figures"][0]["verdicts"] == ["", "gain"]
    with Image.open(tmp_path / "r.png") as chart:
        assert chart.width > 1000
    page = (tmp_path / "r.html").read_text()
    assert page.count("data:image/jpeg") == 2  # the one picture that is there, of each model
    assert "http:" not in page
    assert "https:" not in page
    capsys.readouterr()
    command(monkeypatch, "results", str(pair[0]), "--json")
    assert json.loads(capsys.readouterr().out)["models"][0]["versions"] == {"torch": "2.11.0"}


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["jigsaw", *words])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{nothing}"], "holds no results.json; jigsaw eval MODEL --out"),
        (["{base}", "--out=r.pdf"], "--out r.pdf: must end in .md, .json, .png, .html"),
        (["{broken}"], "broken/questions.jsonl, line 1: is no JSON"),
    ],
)
def test_what_is_wrong_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    places: dict[str, Any] = {name: tmp_path / name for name in ("nothing", "base", "broken")}
    folder_of(places["base"], [True, False])
    folder_of(places["broken"], [True, False])
    (places["broken"] / "questions.jsonl").write_text("{")
    assert command(monkeypatch, "results", *(word.format(**places) for word in words)) == 1
    assert said in " ".join(capsys.readouterr().err.split())
