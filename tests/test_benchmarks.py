"""The figures that benchmarks/curves.py keeps; the runs themselves take hours."""

import json
import signal
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from PIL import Image
from typer import Typer
from typer.testing import CliRunner


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


@pytest.fixture
def curves(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Result]:
    """The command, given figures of earlier starts."""
    monkeypatch.syspath_prepend(repository / "benchmarks")
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # what it does on Ctrl-C is not what the tests do
    app = Typer()
    app.command()(import_module("curves").main)

    def run(figures: str) -> Result:
        (tmp_path / "figures.json").write_text(figures)
        places = {"--json": "figures.json", "--picture": "curves.png", "--out": "out"}
        given = [word for option, name in places.items() for word in (option, str(tmp_path / name))]
        return CliRunner().invoke(app, ["stability", "--only", "plain", "--only", "difficulty", *given])

    return run


def test_figures_that_are_there_are_shown_and_kept_as_they_are(curves: Callable[[str], Result], tmp_path: Path) -> None:
    figures = {"study": "stability", "results": [result("plain", steps=500), result("difficulty")]}
    ran = curves(json.dumps(figures))
    assert (ran.exit_code, ran.stderr) == (0, "")
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
def test_a_file_of_other_figures_is_left_as_it_is(
    curves: Callable[[str], Result], tmp_path: Path, figures: str
) -> None:
    ran = curves(figures)
    assert ran.exit_code == 1
    assert "figures.json: holds no figures of this study; move it away, or give another --json" in ran.stderr
    assert len(ran.stderr.splitlines()) == 1
    assert (tmp_path / "figures.json").read_text() == figures
