"""A task more is one file, one template and one line of the table."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

OUTSIDE = Path(__file__).parent / "outside"
LINE = "(ImageTask(), VideoTask(), DepthTask())"


@pytest.fixture
def package(repository: Path, tmp_path: Path) -> Path:
    """A copy of the package with the task of outside/strips.py; the folder above it."""
    copy = tmp_path / "with_strips/jigsaw"
    shutil.copytree(repository / "jigsaw", copy, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(repository / "configs", copy.with_name("configs"))
    shutil.copy(OUTSIDE / "strips.py", copy / "tasks")
    shutil.copy(OUTSIDE / "strips.j2", copy / "prompts")
    table = copy / "tasks/__init__.py"
    text = table.read_text(encoding="utf-8")
    assert LINE in text
    line = LINE.replace("DepthTask()", "DepthTask(), StripsTask()")
    text = text.replace("import DepthTask\n", "import DepthTask\nfrom jigsaw.tasks.strips import StripsTask\n")
    table.write_text(text.replace(LINE, line), encoding="utf-8")
    return copy.parent


def whole_way(package: Path, *arguments: Path) -> None:
    ended = subprocess.run(
        [sys.executable, OUTSIDE / "whole_way.py", *arguments],
        cwd=package,
        env={**os.environ, "PYTHONPATH": str(package)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert ended.stdout.endswith("the whole way\n")


@pytest.mark.e2e
def test_a_task_from_outside_goes_the_whole_way(package: Path, scenes: Path, tiny_model: Path) -> None:
    """Planned, cut, scored, shown, verified, with levels, and in verl's dataset."""
    whole_way(package, scenes, tiny_model)
