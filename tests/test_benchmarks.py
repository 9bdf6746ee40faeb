"""The figures that benchmarks/curves.py keeps; the runs themselves take hours."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image


def result(variant: str, steps: int = 100) -> dict[str, Any]:
    return {
        "variant": variant,
        "seed": 0,
        "steps": steps,
        "machine": {"cpu": "a CPU"},
        "solved": None,
        "heldout_exact": {"0": 0.03125, "5": 0.125},
        "step_s": 8.0,
        "peak_gib": 10.0,
    }


def curves(repository: Path, folder: Path, figures: str) -> subprocess.CompletedProcess[str]:
    (folder / "figures.json").write_text(figures)
    arguments = ["--only", "plain", "--only", "difficulty", "--json", folder / "figures.json"]
    command = [sys.executable, repository / "benchmarks/curves.py", "stability", *arguments]
    return subprocess.run(
        [*command, "--picture", folder / "curves.png", "--out", folder / "out"], capture_output=True, text=True
    )


def test_figures_that_are_there_are_shown_and_kept_as_they_are(repository: Path, tmp_path: Path) -> None:
    figures = {"study": "stability", "results": [result("plain", steps=500), result("difficulty")]}
    ran = curves(repository, tmp_path, json.dumps(figures))
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "0.125" in ran.stdout
    assert ran.stdout.endswith("cpu a CPU\n")
    assert json.loads((tmp_path / "figures.json").read_text()) == figures
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width > 800
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]


@pytest.mark.parametrize(
    "figures",
    ["[", "[]", '{"study": "ranks", "results": []}', '{"study": "stability", "results": [{"variant": "plain"}]}'],
)
def test_a_file_of_other_figures_is_left_as_it_is(repository: Path, tmp_path: Path, figures: str) -> None:
    ran = curves(repository, tmp_path, figures)
    assert ran.returncode == 1
    assert "figures.json: holds no figures of this study; move it away, or give another --json" in ran.stderr
    assert len(ran.stderr.splitlines()) == 1
    assert (tmp_path / "figures.json").read_text() == figures
