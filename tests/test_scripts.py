"""The scripts that a user starts with, before anything is installed."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from jigsaw.cli import app


@pytest.fixture
def bare(repository: Path, tmp_path: Path) -> Path:
    """A clone's scripts with nothing installed, and no Python to be found."""
    shutil.copytree(repository / "train_scripts", tmp_path / "clone/train_scripts")
    return tmp_path / "clone"


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", *command], capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"})


def test_the_quickstarts_help_installs_nothing_and_names_every_option(bare: Path) -> None:
    shown = run(bare / "train_scripts/quickstart.sh", "--steps", "3", "--help")
    assert shown.returncode == 0
    assert sorted(path.name for path in bare.iterdir()) == ["train_scripts"]
    options = {name for param in get_command(app).commands["quickstart"].params for name in param.opts}
    assert set(re.findall(r"^  (--[a-z-]+)", shown.stdout, re.MULTILINE)) == options | {"--help"}


def test_a_usage_error_of_the_quickstart_names_its_command() -> None:
    shown = CliRunner().invoke(app, ["quickstart", "--nope"], prog_name="jigsaw")
    assert shown.exit_code == 2
    assert "Usage: jigsaw quickstart" in shown.output


def test_a_recipe_without_an_installation_says_what_to_do(bare: Path) -> None:
    ended = run(bare / "train_scripts/image.sh", "data.seed=1")
    assert ended.returncode == 1
    assert ended.stderr == "launch.sh: nothing is installed yet; run bash train_scripts/setup.sh gpu first\n"


@pytest.mark.parametrize(("recipe", "command"), [("video", "train video"), ("smoke", "smoke")])
def test_a_recipe_takes_its_inputs_from_the_environment(bare: Path, recipe: str, command: str) -> None:
    (bare / ".venv/bin").mkdir(parents=True)
    (bare / ".venv/bin/jigsaw").write_text('#!/bin/sh\nfor argument; do echo "$argument"; done\n')
    (bare / ".venv/bin/jigsaw").chmod(0o755)
    given = {"MODEL": "my model", "DATA": "data/video", "MEDIA_ROOT": "media", "OUTPUT": "out"}
    ended = subprocess.run(
        ["bash", bare / f"train_scripts/{recipe}.sh", "data.seed=1"],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", **given},
        check=True,
    )
    task, *recipe_of_train = command.split()
    of_train = ["--data", "data/video", "--media-root", "media"] * bool(recipe_of_train)
    options = ["--model", "my model", *of_train, "--output", "out"]
    assert ended.stdout.splitlines() == [task, *options, *recipe_of_train, "data.seed=1"]
    plain = run(bare / f"train_scripts/{recipe}.sh", "data.seed=1")
    assert plain.stdout.splitlines() == [*command.split(), "data.seed=1"]


@pytest.mark.parametrize(("machine", "needs"), [("cpu", 12), ("gpu", 16)])
def test_a_disk_that_a_set_does_not_fit_on_is_refused(bare: Path, tmp_path: Path, machine: str, needs: int) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, code in (("df", "printf 'Avail\\n11G\\n'"), ("python3.11", "exit 0")):
        (tools / name).write_text(f"#!/bin/sh\n{code}\n")
        (tools / name).chmod(0o755)
    (bare / "pyproject.toml").touch()
    ended = subprocess.run(
        ["bash", bare / "train_scripts/setup.sh", machine],
        capture_output=True,
        text=True,
        env={"PATH": f"{tools}:/usr/bin:/bin"},
    )
    assert ended.returncode == 1
    assert f"only 11 GiB are free here, {needs} are needed" in ended.stderr
    assert not (bare / ".venv").exists()


def test_the_script_of_slurm_says_how_it_is_submitted(bare: Path) -> None:
    ended = run(bare / "train_scripts/cluster/slurm.sh", "image")
    assert ended.returncode == 1
    assert ended.stderr == "slurm.sh: submit it: sbatch --nodes=2 train_scripts/cluster/slurm.sh RECIPE …\n"
