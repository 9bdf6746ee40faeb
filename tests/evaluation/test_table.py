"""The table of benchmarks: what it holds, the paper's figures, and the pages that are made of it."""

import csv
from collections import Counter
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import yaml

from jigsaw.errors import JigsawError
from jigsaw.evaluation.replies import READERS
from jigsaw.evaluation.table import (
    EVAL,
    MEAN,
    Benchmark,
    Fixtures,
    markdown_table,
    pages,
    paper_values,
    read_table,
    render_readme,
    write_pages,
)

MISSING_IN_LMMS_EVAL = [
    "vj_lisa_grounding",
    "vj_ovdeval",
    "vj_vsr",
    "vj_da2k",
    "vj_winoground",
    "vj_sugarcrepe_pp",
    "vj_aotbench",
    "vj_favor_bench",
    "vj_tuna_bench",
    "vj_cvbench",
    "vj_all_angles",
]
SCORED_OTHERWISE = [
    "vj_mmvp",
    "vj_hrbench8k",
    "vj_omnispatial",
    "vj_tomato",
    "vj_tvbench",
    "vj_motionbench",
    "vj_lvbench",
    "vj_videott",
    "vj_sat",
    "vj_3dsrbench",
    "vj_viewspatial",
]
TABLE = read_table()
BASE = "Qwen2.5-VL-7B"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the two files and of the page."""
    for name in ("benchmarks.yaml", "paper.csv", "eval.md"):
        (tmp_path / name).write_bytes((EVAL / name).read_bytes())
    return tmp_path


def test_the_paper_has_36_benchmarks() -> None:
    suites = Counter(suite for benchmark in TABLE.benchmarks for suite in benchmark.suites)
    assert len(TABLE.benchmarks) == 36
    assert suites == {"image": 13, "video": 13, "3d": 8, "reasoning": 5}
    assert len({benchmark.name for benchmark in TABLE.benchmarks}) == 36


def test_our_tasks_are_those_of_the_interface() -> None:
    ours = [benchmark.task for benchmark in TABLE.benchmarks if not benchmark.built_in]
    assert sorted(ours) == sorted([*MISSING_IN_LMMS_EVAL, *SCORED_OTHERWISE])
    assert {path.name for path in (EVAL / "tasks").glob("vj_*")} == {*ours, "vj_jigsaw"}


def test_the_readers_are_those_of_the_scorer() -> None:
    assert set(TABLE.readers) == {*READERS, "boxes"}


def test_the_keys_have_one_order() -> None:
    order = [field.name for field in fields(Benchmark)]
    for entry in yaml.safe_load((EVAL / "benchmarks.yaml").read_text(encoding="utf-8"))["benchmarks"]:
        assert list(entry) == [key for key in order if key in entry], entry["name"]


def test_sources_are_links() -> None:
    for benchmark in TABLE.benchmarks:
        assert benchmark.source
        assert all(link.startswith(("https://huggingface.co/", "https://github.com/")) for link in benchmark.source)


@pytest.mark.parametrize(
    ("benchmark", "table", "model", "frames", "value"),
    [
        ("MMVP", 1, BASE, None, 54.66),
        ("MMVP", 1, "Image Jigsaw", None, 60.66),
        ("OVD-Eval", 1, "VL-Cogito", None, 35.78),
        ("LISA-Grounding", 1, "Image Jigsaw (SFT)", None, 66.59),
        ("MME-RealWorld-Lite", 1, "ThinkLite-VL", None, 46.17),
        ("SugarCrepe++", 1, "LLaVA-Critic-R1", None, 61.93),
        ("Winoground", 1, "Image Jigsaw", None, 39.00),
        ("AoTBench", 2, "Video Jigsaw", 64, 57.64),
        ("Vinoground", 2, "Video-R1", 16, 9.40),
        ("TOMATO", 2, BASE, 32, 26.34),
        ("LVBench", 2, "Video-R1", 32, 38.61),
        ("CVBench", 2, "Video Jigsaw", 64, 54.50),
        ("VSI-Bench", 3, BASE, None, 37.74),
        ("DA-2K", 3, "3D Jigsaw (depth ordering)", None, 71.56),
        ("SAT-Real", 5, "3D Jigsaw (view-motion matching)", None, 64.67),
        ("SPARBench", 5, "3D Jigsaw (BEV-pose matching)", None, 34.31),
        ("MathVision", 4, "ThinkLite-VL + Image Jigsaw", None, 35.20),
        ("EMMA", 4, "ThinkLite-VL", None, 26.75),
    ],
)
def test_the_figures_are_the_papers(benchmark: str, table: int, model: str, frames: int | None, value: float) -> None:
    found = [
        figure.value
        for figure in paper_values(benchmark)
        if (figure.table, figure.model, figure.frames) == (table, model, frames)
    ]
    assert found == [value]


def test_each_row_of_a_table_is_whole() -> None:
    rows = Counter((v.table, v.model, v.frames) for v in TABLE.values if v.benchmark != MEAN)
    columns = {1: 13, 2: 13, 3: 8, 4: 5, 5: 8}
    assert all(count == columns[table] for (table, _, _), count in rows.items())
    assert Counter(table for table, _, _ in rows) == {1: 6, 2: 9, 3: 2, 4: 2, 5: 2}
    assert {v.benchmark for v in TABLE.values} == {MEAN, *(b.name for b in TABLE.benchmarks)}
    assert all(0 <= value.value <= 100 for value in TABLE.values)


def test_the_means_are_those_of_their_rows() -> None:
    means = paper_values(MEAN)
    assert len(means) == 5
    for given in means:
        row = (given.table, given.model, given.frames)
        values = [v.value for v in TABLE.values if (v.table, v.model, v.frames) == row and v.benchmark != MEAN]
        assert mean(values) == pytest.approx(given.value, abs=0.005)


def test_an_unknown_benchmark_has_no_figures() -> None:
    with pytest.raises(JigsawError, match="MMVB: no benchmark of the paper"):
        paper_values("MMVB")


def test_the_pages_are_what_the_table_makes() -> None:
    made = pages()
    assert len(made) == 23
    for path, text in made.items():
        assert path.read_text(encoding="utf-8") == text, f"{path}: run python -m jigsaw.evaluation.table"


def test_pages_are_written_where_they_are_asked_for(folder: Path) -> None:
    written = write_pages(folder)
    assert folder / "tasks/vj_mmvp/README.md" in written
    assert all(path.read_text(encoding="utf-8") == text for path, text in pages(folder).items())


def test_a_page_says_what_is_mended_on_the_fixtures() -> None:
    benchmark = replace(TABLE.benchmarks[0], on_fixtures=Fixtures(paper=0.25, fixed=0.5))
    assert "small, score 0.25 by `pair_acc` in the paper's way, 0.5 here.\n\n" in render_readme(benchmark, TABLE)
    assert "Right answers at length" not in render_readme(replace(benchmark, on_fixtures=None), TABLE)


def test_columns_stand_below_each_other() -> None:
    assert markdown_table(["a", "long"], [["wide", "b"]]) == "| a    | long |\n| ---- | ---- |\n| wide | b    |"


Change = Callable[[dict[str, Any]], Any]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda entry: entry.update(colour="red"), "benchmark MMVP: has the unknown key colour"),
        (lambda entry: entry.pop("licence"), "benchmark MMVP: lacks the key licence"),
        (lambda entry: entry.update(licence=""), "benchmark MMVP, licence: is '' where str is expected"),
        (lambda entry: entry.update(gated=True), "gated: is True where yes or no or unknown is expected"),
        (lambda entry: entry.update(suites=["sound"]), "suites: is 'sound' where image or video or 3d"),
        (lambda entry: entry["size"].update(rows="many"), "size, rows: is 'many' where unknown is expected"),
        (lambda entry: entry["size"].pop("known"), "size: lacks the key known"),
        (lambda entry: entry.update(metric={}), "metric: is {} where"),
        (lambda entry: entry.update(built_in=True), "a task is built in, or its name begins with vj_"),
        (lambda entry: entry.update(reader="M"), "needs folder, files and a reader of L, L\\+, W"),
        (lambda entry: entry.pop("files"), "needs folder, files and a reader"),
        (lambda entry: entry.update(name="V*"), "its name or its task comes twice"),
        (lambda entry: entry.update(on_fixtures={"paper": "low", "fixed": 1}), "paper: is 'low' where float"),
    ],
)
def test_a_bad_table_is_refused(folder: Path, change: Change, why: str) -> None:
    file = folder / "benchmarks.yaml"
    found = yaml.safe_load(file.read_text(encoding="utf-8"))
    change(found["benchmarks"][0])
    file.write_text(yaml.safe_dump(found, sort_keys=False), encoding="utf-8")
    with pytest.raises(JigsawError, match=why) as caught:
        read_table(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: [", "cannot be read as YAML"),
        ("- a", "must have the keys readers and benchmarks"),
        ("readers: []\nbenchmarks: []", "readers must be keys and values"),
        ("readers: {}\nbenchmarks: [MMVP]", "benchmark 0: is 'MMVP' where keys and values are expected"),
    ],
)
def test_another_file_is_refused(folder: Path, text: str, why: str) -> None:
    (folder / "benchmarks.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(JigsawError, match=why) as caught:
        read_table(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (f"1,{BASE},MMVP,,pair_acc,54.66", "line 244: comes twice"),
        (f"1,{BASE},MMVP,,f1,54.66", "benchmarks.yaml has no f1 of MMVP"),
        (f"1,{BASE},MMVB,,acc,54.66", "benchmarks.yaml has no acc of MMVB"),
        ("1,GPT,MMVP,,pair_acc,100.1", "100.1 is not between 0 and 100"),
        ("1,GPT,MMVP,,pair_acc,nan", "nan is not between 0 and 100"),
        ("1,GPT,MMVP,,pair_acc,high", "table, frames and value must be numbers"),
        ("1,GPT,MMVP", "table, frames and value must be numbers"),
    ],
)
def test_a_bad_figure_is_refused(folder: Path, row: str, why: str) -> None:
    with (folder / "paper.csv").open("a", encoding="utf-8") as file:
        file.write(row + "\n")
    with pytest.raises(JigsawError, match=why):
        read_table(folder)


def test_other_columns_are_refused(folder: Path) -> None:
    with (folder / "paper.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerow(["benchmark", "value"])
    with pytest.raises(JigsawError, match="must have the columns table, model"):
        read_table(folder)


def test_a_folder_without_the_table_and_a_page_without_a_place_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(JigsawError, match="give the folder eval of a clone"):
        read_table(tmp_path / "nowhere")
    (folder / "eval.md").write_text("# Evaluation\n", encoding="utf-8")
    with pytest.raises(JigsawError, match="has no place for the table"):
        pages(folder)
