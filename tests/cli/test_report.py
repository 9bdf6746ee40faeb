"""``jigsaw report``: what it prints, and where the page goes."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from jigsaw.cli import app
from jigsaw.errors import JigsawError


def run(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "120"}).invoke(app, ["report", *arguments], catch_exceptions=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run of two steps."""
    metrics = tmp_path / "checkpoints/metrics"
    metrics.mkdir(parents=True)
    lines = [{"step": step, "data": {"critic/score/mean": step / 4, "timing_s/step": 2.0}} for step in (1, 2)]
    (metrics / "20260102T030405.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return tmp_path


def test_the_figures_are_printed_and_the_page_is_named(folder: Path) -> None:
    ended = run(str(folder))
    assert ended.exit_code == 0
    for shown in ("0.25 → 0.5", "going on, last written", "seconds a step", f"{folder}/report.html: the report"):
        assert shown in ended.stdout
    assert "entropy" not in ended.stdout
    assert (folder / "report.html").is_file()


def test_json_holds_all_figures(folder: Path) -> None:
    out = folder / "new/page.html"
    found = json.loads(run(str(folder / "checkpoints"), "--out", str(out), "--json").stdout)
    assert found["page"] == str(out)
    assert out.is_file()
    assert found["reward"] == {"first": 0.25, "last": 0.5, "floor": None}
    assert found["steps"] == {"done": 2, "planned": None}
    assert found["started"] == "2026-01-02T03:04:05+00:00"


def test_a_folder_of_no_run_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(JigsawError, match="is no folder of a run"):
        run(str(tmp_path))


def test_help_has_an_example() -> None:
    assert "jigsaw report outputs/image_jigsaw" in run("--help").stdout
