"""The page about a run: what it tells of runs of all sorts, and that all on it is text."""

import json
import re
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from math import nan
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jigsaw.errors import JigsawError
from jigsaw.show import curves, report
from jigsaw.show.report import write_report
from jigsaw.show.run import read_run
from jigsaw.show.training import record_of
from jigsaw.tasks import plan
from jigsaw.toy.rows import write_puzzles

CONFIG: dict[str, Any] = {
    "data": {
        "train_files": None,
        "mixture": [{"name": name, "files": f"{name}.parquet"} for name in ("image", "depth")],
        "media_root": "media",
        "epochs": 2,
        "difficulty": None,
        "max_response_length": 64,
    },
    "reward": {"custom_reward_function": {"path": "pkg://jigsaw.reward", "reward_kwargs": {}}},
    "actor_rollout_ref": {"model": {"path": "Qwen/<b>Qwen</b>"}},
    "trainer": {"total_training_steps": 12, "rollout_data_dir": None},
}
VERSIONS = {"visual-jigsaw": "0.1.0", "verl": "0.9.1"}


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots without lines; to draw those of a page takes half a second."""
    monkeypatch.setattr(report, "draw", lambda panel, resumed: "<svg></svg>")


def trained(step: int, *, entropy: float = 0.5) -> dict[str, float]:
    """A step's metrics: two tasks of 4 and of 6 pieces."""
    exact = step / 20
    values: dict[str, float] = {
        "critic/score/mean": 0.2 + exact,
        "reward/exact": exact,
        "reward/valid_permutation": 1.0,
        "actor/entropy": entropy,
        "actor/grad_norm": nan if step == 3 else 1.0,
        "response_length/mean": 20.0,
        "response_length/max": 64.0 if step % 2 else 40.0,
        "response_length/clip_ratio": 0.25,
        "training/rollout_probs_diff_max": 1e-5,
        "timing_s/gen": 3.0,
        "timing_s/update_actor": 1.0,
        "timing_s/step": 4.5,
        "actor/perf/max_memory_allocated_gb": 10.0 + step,
    }
    for task, count, prompts in (("image", 4, 6), ("depth", 6, 2)):
        values |= {
            f"training/prompts/{task}": prompts,
            f"reward/{task}/exact": exact,
            f"reward/{task}/position_accuracy": exact,
            f"reward/{task}/chance_corrected": (exact - 1 / count) / (1 - 1 / count),
        }
    return values


def log(file: Path, steps: Mapping[int, Mapping[str, float]], half: str = "", **record: Any) -> None:
    """A start's file of metrics, as verl writes it, and its record if there is one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"step": step, "data": values}).replace("NaN", "null") for step, values in steps.items()]
    file.write_text("".join(f"{line}\n" for line in lines) + half)
    if record:
        record_of(file).write_text(json.dumps(record))


def replies(file: Path, said: Sequence[tuple[str, float]], truth: Sequence[int], half: str = "", **more: Any) -> None:
    """Replies to one prompt, as verl writes them."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        {"input": "user\nWhat?", "output": text, "gts": list(truth), "score": score, "step": 1, "uid": f"p_{number}_0"}
        | more
        for number, (text, score) in enumerate(said)
    ]
    with file.open("a") as out:
        out.write("".join(json.dumps(line) + "\n" for line in lines) + half)


@pytest.fixture
def rows(tmp_path: Path) -> dict[str, Any]:
    """The rows that the run trains on, by task, and their media."""
    made = write_puzzles(tmp_path / "media", picture=(120, 80), grid=(2, 2), film=(56, 56), seconds=1)
    for task in ("image", "depth"):
        pq.write_table(pa.Table.from_pylist([made[task]]), tmp_path / f"{task}.parquet")
    return made


@pytest.fixture
def run(tmp_path: Path, rows: dict[str, Any]) -> Path:
    """A run of two starts, the first of which was killed while it wrote its ninth step."""
    folder = tmp_path / "outputs/mixture_jigsaw"
    checkpoints = folder / "checkpoints"
    made = {"folder": str(tmp_path), "recipe": "mixture", "versions": VERSIONS, "config": CONFIG}
    before = {0: {"val-core/visual_jigsaw_image/acc/mean@1": 0.0}}
    log(
        checkpoints / "metrics/20260102T030405.jsonl",
        {**before, **{step: trained(step) for step in range(1, 9)}},
        half='{"step": 9, "da',
        **made,
        started="2026-01-02T03:04:06+00:00",
        changed={"data.seed": [1, 0], "trainer.resume_mode": ["disable", "auto"]},
    )
    held_out = {10: {**trained(10, entropy=0.25), "val-core/visual_jigsaw_image/acc/mean@1": 0.5}}
    log(
        checkpoints / "metrics/20260102T040506.jsonl",
        {step: trained(step, entropy=0.25) for step in range(6, 10)} | held_out,
        **made,
        started="2026-01-02T04:05:07+00:00",
        changed={
            "data.seed": [2, 0],
            "data.limit": [{"image": 9}, None],
            "trainer.resume_mode": ["resume_path", "auto"],
        },
    )
    for part in ("actor", "WHOLE"):
        (checkpoints / "global_step_5" / part).mkdir(parents=True)
    return folder


class Page(HTMLParser):
    """What stands on a page: its text, its tags, and all that they refer to."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.source = file.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "srcset")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_two_starts_are_one_run_from_where_the_second_went_on(run: Path) -> None:
    out, found = write_report(run, now=0)
    assert out == run / "report.html"
    assert (found["steps"], found["starts"], found["state"]) == ({"done": 10, "planned": 12}, 2, "going")
    assert (found["started"], found["recipe"]) == ("2026-01-02T03:04:06+00:00", "mixture")
    assert found["exact"] == {"first": 0.05, "last": 0.5, "chance": pytest.approx(6 / 8 / 24 + 2 / 8 / 720)}
    assert found["entropy"] == {"first": 0.5, "last": 0.25}
    assert found["held_out_exact"] == {"first": 0.0, "last": 0.5}
    assert found["whole_checkpoints"] == [5]
    assert found["largest_gb"] == {"GPU, allocated by torch": 20.0}
    page = Page(out)
    assert "Step 10 of 12" in page.text
    for start in (
        "2026-01-02 03:04 UTC1 to 8",
        '2026-01-02 04:05 UTC6 to 10data.limit: – → {"image": 9}; data.seed: 1 → 2',
    ):
        assert start in page.text
    assert "resume_mode:" not in page.text


def test_the_blind_floor_is_that_of_the_puzzles(run: Path) -> None:
    _, found = write_report(run, now=0)
    floors = [0.2 + 1 / orders + 0.2 * (1 / count - 1 / orders) for count, orders in ((4, 24), (6, 720))]
    assert found["reward"]["floor"] == pytest.approx(6 / 8 * floors[0] + 2 / 8 * floors[1])


def test_a_reward_of_ones_own_has_no_floor_here(run: Path) -> None:
    record = record_of(run / "checkpoints/metrics/20260102T040506.jsonl")
    record.write_text(record.read_text().replace("pkg://jigsaw.reward", "mine.py"))
    _, found = write_report(run, now=0)
    assert found["reward"]["floor"] is None
    assert found["exact"]["chance"] is not None


def test_time_is_told_by_phase(run: Path) -> None:
    _, found = write_report(run, now=0)
    assert found["seconds"] == {"total": 45.0, "step": 4.5}
    assert found["phases"] == {
        "replies (vLLM)": {"seconds": 3.0, "steps": 10, "share": pytest.approx(30 / 45)},
        "update": {"seconds": 1.0, "steps": 10, "share": pytest.approx(10 / 45)},
        "other": {"seconds": 0.5, "steps": 10, "share": pytest.approx(5 / 45)},
    }


@pytest.mark.parametrize(("seconds", "steps", "state"), [(60, 10, "going"), (3600, 10, "quiet"), (10**9, 12, "ended")])
def test_a_run_is_going_on_while_it_writes(run: Path, seconds: float, steps: int, state: str) -> None:
    last = run / "checkpoints/metrics/20260102T040506.jsonl"
    with last.open("a") as file:
        file.writelines(json.dumps({"step": step, "data": trained(step)}) + "\n" for step in range(11, steps + 1))
    assert write_report(run, now=last.stat().st_mtime + seconds)[1]["state"] == state


@pytest.mark.seconds
def test_the_page_needs_nothing_but_itself(run: Path, rows: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "draw", curves.draw)
    replies(
        run / "checkpoints/rollouts/4.jsonl",
        [("<think></think><answer>1, 2, 3, 4</answer>", 0.2)],
        (1, 2, 4, 3),
        id="image",
    )
    page = Page(write_report(run, now=0)[0])
    assert page.addresses
    assert all(address.startswith(("data:image/", "#")) for address in page.addresses)
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert "@import" not in page.source
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)", page.source))
    assert page.tags.count("svg") == 8  # no lasting level of difficulty
    assert "default-src 'none'" in page.source


def test_a_reply_is_shown_with_what_the_model_put_together(run: Path, rows: dict[str, Any]) -> None:
    puzzle = plan(rows["image"], seed=7, epoch=1)
    wrong = (*puzzle.answer[2:], *puzzle.answer[:2])
    said = [*[(f"<think>a</think><answer>{', '.join(map(str, wrong))}</answer>", 0.2)] * 2, ("I do not know", 0.0)]
    right = f"<think>b</think><answer>{', '.join(map(str, puzzle.answer))}</answer>"
    more = {"id": "image", "data_source": rows["image"]["data_source"]}
    replies(run / "checkpoints/rollouts/4.jsonl", [*said, (right, 1.2)], puzzle.answer, half='{"input": "x', **more)
    replies(run / "checkpoints/rollouts/11.jsonl", [("of a start that was given up", 0.0)], puzzle.answer, **more)
    out, found = write_report(run, now=0)
    page = Page(out)
    assert found["samples"] == 1
    assert "image · image, 2 × 2 tiles, chance 1 in 24 · 4 replies, mean reward 0.400" in page.text
    for of in ("2 of 4 replies, reward 0.200", "1 of 4 replies, reward 0.000", "1 of 4 replies, reward 1.200"):
        assert of in page.text
    assert "given up" not in page.text
    # Shown, put back by the right answer, and by the two answers that there are.
    pictures = re.findall(r'<img src="(data:[^"]*)"', page.source)
    assert len(pictures) == 4 + 1 + 2
    assert pictures[4] in pictures[5:]
    assert len(set(pictures[4:])) == 2
    cells = re.findall(r'<li><span( class="off")?>(\d)</span></li>', page.source)
    assert [int(number) for _, number in cells[4:8]] == list(wrong)
    assert all(off for off, _ in cells[4:8])
    assert not any(off for off, _ in cells[:4] + cells[8:])


def test_points_are_listed_as_the_model_orders_them(run: Path, rows: dict[str, Any]) -> None:
    puzzle = plan(rows["depth"], seed=3)
    said = (puzzle.answer[1], puzzle.answer[0], *puzzle.answer[2:])
    text = f"<think></think><answer>{', '.join(map(str, said))}</answer>"
    replies(run / "checkpoints/rollouts/4.jsonl", [(text, 0.3)], puzzle.answer, id="depth")
    discs = re.findall(r'class="disc( off)?">(\d)<', Page(write_report(run, now=0)[0]).source)
    assert [int(number) for _, number in discs] == [*puzzle.answer, *said]
    assert [bool(off) for off, _ in discs] == [False] * 6 + [True, True] + [False] * 4


def test_what_runs_say_is_text_and_never_markup(run: Path) -> None:
    replies(
        run / "checkpoints/rollouts/4.jsonl", [("<script>alert(1)</script><i>Hm</i>", 0.0)], (2, 1, 3, 4), id="image"
    )
    lost = {"id": "<i>a</i>", "epoch": 0, "reason": "<b>broken</b>"}
    (run / "checkpoints/failed_prompts.jsonl").write_text(json.dumps(lost) + '\n{"id": "b", "ep')
    out, found = write_report(run, now=0)
    page = Page(out)
    assert found["failed_prompts"] == 1
    assert not {"script", "i"} & set(page.tags)
    for text in ("<script>alert(1)</script><i>Hm</i>", "<i>a</i>", "<b>broken</b>", "Qwen/<b>Qwen</b>"):
        assert text in page.text


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"id": "gone"}, "no row gone; the rows were changed since"),
        ({}, "the replies do not say which row they are to"),
        ({"id": "depth"}, "its puzzle has 6 pieces, and no answer 2, 1, 3, 4"),
    ],
)
def test_replies_to_puzzles_that_cannot_be_made_again_are_shown_alone(
    run: Path, change: dict[str, Any], why: str
) -> None:
    replies(run / "checkpoints/rollouts/4.jsonl", [("Left is 2.", 0.0), ("Left is 2.", 0.1)], (2, 1, 3, 4), **change)
    page = Page(write_report(run, now=0)[0])
    assert re.search(rf"No pieces to show: .*{re.escape(why)}", page.text)
    assert "Left is 2." in page.text
    assert "2 of 2 replies, reward 0.050" in page.text


def test_a_run_whose_folder_was_moved_is_read_where_it_lies(run: Path, tmp_path: Path) -> None:
    replies(run / "checkpoints/rollouts/4.jsonl", [("Hm", 0.0)], (2, 1, 3, 4), id="image")
    for file in ("image.parquet", "depth.parquet"):
        (tmp_path / file).unlink()
    moved = run.rename(tmp_path / "elsewhere")
    out, found = write_report(moved / "checkpoints", tmp_path / "page.html", now=0)
    assert found["samples"] == 1
    assert "image.parquet: no such file" in Page(out).text


def test_a_start_without_a_record_or_replies_has_curves(tmp_path: Path) -> None:
    log(tmp_path / "metrics/from_step_00000.jsonl", {step: trained(step) for step in range(1, 4)})
    (tmp_path / "timing.json").write_text('{"seconds": 845.0, "peak_gib": 9.58}')
    out, found = write_report(tmp_path, now=0)
    assert (found["model"], found["versions"], found["started"]) == (None, None, None)
    assert found["steps"] == {"done": 3, "planned": None}
    page = Page(out)
    assert "14 min, 9.6 GiB" in page.text
    assert "This start recorded neither." in page.text
    assert "None are kept here" in page.text
    assert page.tags.count("svg") == 7  # nothing says what the longest reply may be


def test_a_run_that_has_tested_and_not_trained_yet_has_a_page(tmp_path: Path) -> None:
    log(tmp_path / "metrics/20260102T030405.jsonl", {0: {"val-core/a/acc/mean@1": 0.5, "timing_s/testing": 3.0}})
    out, found = write_report(tmp_path, now=0)
    assert (found["steps"]["done"], found["state"], found["reward"]["last"]) == (0, "going", None)
    assert found["held_out_exact"] == {"first": 0.5, "last": 0.5}
    assert Page(out).tags.count("svg") == 1


def test_benchmarks_are_told_by_the_papers_metric_and_drawn_by_suite(tmp_path: Path) -> None:
    def tested(pairs: float, films: float) -> dict[str, float]:
        of_mmvp = {"val-benchmark/MMVP/acc": 0.9, "val-benchmark/MMVP/pair_acc": pairs}
        return {**of_mmvp, "val-benchmark/VSR/acc": 0.5, "val-benchmark/TVBench/acc": films, "timing_s/testing": 3.0}

    log(tmp_path / "metrics/20260102T030405.jsonl", {0: tested(0.2, 0.1), 10: {**trained(10), **tested(0.4, 0.3)}})
    page, found = write_report(tmp_path, now=0.0)
    assert found["benchmarks"] == {
        "MMVP": {"metric": "pair_acc", "first": 0.2, "last": 0.4},
        "VSR": {"metric": "acc", "first": 0.5, "last": 0.5},
        "TVBench": {"metric": "acc", "first": 0.1, "last": 0.3},
    }
    assert found["held_out_exact"] == {"first": None, "last": None}
    assert "<td>MMVP</td><td>pair_acc</td>" in page.read_text()
    panel = next(panel for panel in report.panels(read_run(tmp_path), {}) if panel.title == "Benchmarks")
    assert {line.label: line.points for line in panel.drawn} == {
        "image": {0: pytest.approx(0.35), 10: pytest.approx(0.45)},
        "video": {0: 0.1, 10: 0.3},
    }


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ([], "run: is no folder of a run; there is neither run/metrics/*.jsonl nor run/checkpoints/metrics/*.jsonl"),
        (["checkpoints/metrics/"], "run/checkpoints/metrics: no step is written yet"),
        (["metrics/20260102T030405.jsonl"], "run/metrics: no step is written yet"),
    ],
)
def test_a_run_of_nothing_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in made:
        log(Path("run") / (name if name.endswith("jsonl") else f"{name}x"), {}, half='{"step": 1, "da')
        if not name.endswith("jsonl"):
            Path("run", f"{name}x").unlink()
    with pytest.raises(JigsawError) as raised:
        write_report(Path("run"), now=0)
    assert str(raised.value).startswith(said)
    assert "\n" not in str(raised.value)
    assert not Path("run/report.html").exists()


def test_a_supervised_run_is_told_to_be_one(tmp_path: Path) -> None:
    log(tmp_path / "metrics/20260102T030405.jsonl", {1: {"train/loss": 2.5}})
    with pytest.raises(
        JigsawError, match=r"is a run of the supervised baseline, not of GRPO; its losses are in .*jsonl"
    ):
        write_report(tmp_path, now=0)


@pytest.mark.parametrize("record", ["{}", "[1]", '{"config": {}}', "{"])
def test_a_record_that_is_none_is_left_out(tmp_path: Path, record: str) -> None:
    metrics = tmp_path / "metrics/20260102T030405.jsonl"
    log(metrics, {step: trained(step) for step in range(1, 4)})
    record_of(metrics).write_text(record)
    out, found = write_report(tmp_path, now=0)
    assert (found["recipe"], found["versions"]) == (None, None)
    assert "This start recorded neither." in Page(out).text


def test_a_page_replaces_pages_alone(run: Path) -> None:
    metrics = run / "checkpoints/metrics/20260102T040506.jsonl"
    before = metrics.read_bytes()
    with pytest.raises(JigsawError, match="is there and no HTML page"):
        write_report(run, metrics, now=0)
    assert metrics.read_bytes() == before
