"""Replies scored anew, without a model, and figures that are no means: their errors and differences."""

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest

from jigsaw.cli import main
from jigsaw.errors import JigsawError
from jigsaw.evaluation.rescore import PARTS, left_out_of, rescored
from jigsaw.evaluation.results import lines_of, read_folder
from jigsaw.evaluation.tasks import read_task
from jigsaw.toy.benchmarks import write_benchmarks

pytestmark = [pytest.mark.seconds, pytest.mark.timeout(120)]
ROWS = 30


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("benchmarks")
    write_benchmarks(root, tasks=["vj_mmvp", "vj_ovdeval"], rows=ROWS)
    return root


@pytest.fixture(autouse=True)
def there(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VJ_DATA", str(data))


Reply = Callable[[Mapping[str, Any]], str]


def evaluated(path: Path, name: str, reply: Reply) -> Path:
    """A folder as ``jigsaw eval`` leaves it, all scored as nothing by a task that has changed since."""
    task = read_task(name)
    path.mkdir()
    rows = []
    for doc in task.documents():
        values = dict.fromkeys(task.score(doc, [""]), 0.0)
        kept = {key: doc[key] for key in ("id", "group", "media", "letters", "prompt")}
        kept |= {"cluster": doc["group"] or doc["media"][0], "pieces": None, "target": doc["answer"]}
        rows.append({"task": name, "frames": None, **kept, "reply": reply(doc), "values": values})
    (path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    figures = [
        {
            **{"benchmark": "B", "task": name, "protocol": "fixed", "metric": metric, "value": 0.0, "frames": None},
            **{"n": len(rows), "unreadable": 1.0, "chance": None, "weights": "w", "without": None},
        }
        for metric in task.metrics
        if metric in {metric for row in rows for metric in row["values"]} - {"unreadable"}
    ]
    (path / "results.json").write_text(json.dumps({"model": str(path), "versions": {}, "figures": figures}))
    return path


def letter(share: float) -> Reply:
    """Right in a share of the questions, the same ones each time."""
    return lambda doc: doc["answer"] if Random(doc["id"]).random() < share else "neither"


def box(share: float) -> Reply:
    """The first true box of a share of the pictures."""

    def reply(doc: Mapping[str, Any]) -> str:
        truth = json.loads(Path(doc["annotations"]).read_text())["annotations"]
        mine = [one["bbox"] for one in truth if (one["image_id"], one["category_id"]) == (doc["image"], doc["target"])]
        if not mine or Random(Path(doc["media"][0]).name).random() >= share:
            return "[0, 0, 1, 1]"
        left, top, width, height = mine[0]
        return json.dumps([left, top, left + width, top + height])

    return reply


def test_replies_are_scored_as_the_task_is_now(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = evaluated(tmp_path / "model", "vj_mmvp_fixed", letter(0.8))
    before = read_folder(folder)
    assert {figure["value"] for figure in before.figures.values()} == {0.0}
    now, notes = rescored(before)
    assert notes == []
    docs = list(read_task("vj_mmvp_fixed").documents())
    task = read_task("vj_mmvp_fixed")
    figures = task.figures(task.scores((doc, letter(0.8)(doc)) for doc in docs))
    found = {key[1]: figure["value"] for key, figure in now.figures.items()}
    assert found == {metric: figures[metric] for metric in ("acc", "pair_acc")}
    assert 0 < figures["pair_acc"] < figures["acc"] < 1
    assert {figure["unreadable"] for figure in now.figures.values()} == {figures["unreadable"]}
    monkeypatch.setattr("sys.argv", ["jigsaw", "results", str(folder), "--rescore", "--json"])
    with suppress(SystemExit):
        main()
    told = json.loads(capsys.readouterr().out)["figures"]
    assert {line["metric"]: line["scores"][0]["value"] for line in told} == found


def test_replies_to_other_words_are_not_scored(tmp_path: Path) -> None:
    folder = evaluated(tmp_path / "model", "vj_mmvp", letter(1))
    lines = (folder / "questions.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    (folder / "questions.jsonl").write_text(json.dumps({**first, "prompt": "<image>Well?"}) + "\n")
    with pytest.raises(JigsawError, match=r"vj_mmvp, question 1, is asked in other words now; start its evaluation"):
        rescored(read_folder(folder))
    (folder / "questions.jsonl").write_text(json.dumps({**first, "id": "1000"}) + "\n")
    with pytest.raises(JigsawError, match=r"question 1000, is no question of the benchmark's any more"):
        rescored(read_folder(folder))


def test_average_precision_has_an_error_and_a_difference_an_interval(tmp_path: Path) -> None:
    shares = {"half": 0.5, "same": 0.5, "all": 1.0}
    folders = [
        rescored(read_folder(evaluated(tmp_path / name, "vj_ovdeval_fixed", box(share))))[0]
        for name, share in shares.items()
    ]
    line = next(line for line in lines_of(folders) if line.metric == "nms_ap")
    half, same, whole = line.scores
    assert half is not None
    assert whole is not None
    assert half == same
    assert half.error is not None
    assert 0.01 < half.error < 0.3
    assert line.comparisons[1] is None  # nothing differs, so nothing is known of chance
    found = line.comparisons[2]
    assert found is not None
    assert found.difference == pytest.approx(whole.value - half.value)
    assert found.low < found.difference < found.high
    assert found.clusters == PARTS
    assert line.verdict(2) == "gain"


def test_a_mean_needs_no_parts(tmp_path: Path) -> None:
    rows = read_folder(evaluated(tmp_path / "model", "vj_mmvp", letter(1))).questions["vj_mmvp", None]
    assert left_out_of("vj_mmvp", rows, {"acc": 0.0}) == {}
    assert left_out_of("mmmu_val", rows, {"mmmu_acc": 0.5}) == {}


def test_parts_are_the_same_wherever_the_data_lie(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(path: Path) -> object:
        folder, _ = rescored(read_folder(evaluated(path, "vj_ovdeval_fixed", box(0.5))))
        return folder.figures["vj_ovdeval_fixed", "nms_ap", None]["without"]

    here = without(tmp_path / "here")
    assert here is not None
    shutil.copytree(data, tmp_path / "elsewhere")
    monkeypatch.setenv("VJ_DATA", str(tmp_path / "elsewhere"))
    assert without(tmp_path / "there") == here


def test_answers_that_have_changed_and_tasks_that_stay_are_told(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = evaluated(tmp_path / "model", "vj_mmvp_fixed", letter(1))
    lines = [json.loads(line) for line in (folder / "questions.jsonl").read_text().splitlines()]
    lines[0]["target"] = "neither"
    (folder / "questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    results = json.loads((folder / "results.json").read_text())
    results["figures"].append({**results["figures"][0], "task": "mathverse_rules"})
    (folder / "results.json").write_text(json.dumps(results))
    now, notes = rescored(read_folder(folder))
    assert [note.partition(", ")[2] for note in notes] == [
        "vj_mmvp_fixed: 1 of its right answers are others now",
        "mathverse_rules: is shown as it was scored",
    ]
    assert now.questions["vj_mmvp_fixed", None][0]["target"] != "neither"


@pytest.mark.parametrize(
    ("file", "changed"),
    [
        ("questions.jsonl", {"cluster": None}),
        ("questions.jsonl", {"reply": 1}),
        ("results.json", {"without": "abc"}),
        ("results.json", {"without": ["a"]}),
        ("results.json", {"unreadable": "x"}),
    ],
)
def test_damaged_results_are_one_line(tmp_path: Path, file: str, changed: dict[str, Any]) -> None:
    folder = evaluated(tmp_path / "model", "vj_mmvp", letter(1))
    place = folder / file
    if file == "results.json":
        results = json.loads(place.read_text())
        results["figures"][0] |= changed
        place.write_text(json.dumps(results))
    else:
        first = json.loads(place.read_text().splitlines()[0]) | changed
        first = {name: value for name, value in first.items() if value is not None or name in ("frames", "pieces")}
        place.write_text(json.dumps(first) + "\n")
    with pytest.raises(JigsawError, match=r"model"):
        read_folder(folder)
