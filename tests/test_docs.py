"""README and docs tell the truth: their examples run, print what is shown, and name what exists.

A fenced block marked ``run`` (after its language) is run, page after page in one folder; a block marked ``output``
holds what the block before it prints.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from jigsaw.cli import app
from jigsaw.mixture import read_sources
from jigsaw.verl_plugin.launch import CONFIGS, compose_config, recipes

REPOSITORY = Path(__file__).parents[1]
FIRST = ("README.md", "docs/data.md")
"""Whose examples those of the other pages build on."""
OTHERS = ("CONTRIBUTING.md", "CHANGELOG.md", "docs/*.md", "eval/*.md")
PAGES = list(
    dict.fromkeys(
        [*FIRST, *(str(path.relative_to(REPOSITORY)) for glob in OTHERS for path in sorted(REPOSITORY.glob(glob)))]
    )
)
_FENCE = re.compile(r"^```(\w*)[ ]*(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_OVERRIDE = re.compile(r"""(?<![\w./-])(\+?[a-z]\w*(?:\.\w+)*=(?:'[^']*'|[^\s`'"]+))""")


@dataclass
class Block:
    """A fenced block and the output that is shown for it."""

    language: str
    text: str
    output: str | None = None


def page(name: str) -> str:
    """The text of a page without its comments."""
    return re.sub("<!--.*?-->", "", (REPOSITORY / name).read_text(encoding="utf-8"), flags=re.DOTALL)


def runnable() -> Iterator[Block]:
    blocks: list[Block] = []
    for language, mark, text in _FENCE.findall("\n".join(map(page, PAGES))):
        if mark == "run":
            blocks.append(Block(language, text))
        elif mark == "output":
            blocks[-1].output = text
    yield from blocks


def lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip("\n").splitlines()]


@pytest.mark.e2e
def test_the_examples_run_and_print_what_is_shown(tmp_path: Path, tiny_model: Path) -> None:
    blocks = list(runnable())
    (tmp_path / "merged").symlink_to(tiny_model)  # for a checkpoint that was merged
    assert sum(block.language == "python" for block in blocks) >= 2
    assert sum("jigsaw " in block.text for block in blocks if block.language == "bash") >= 2
    here = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{here}:{os.environ['PATH']}", "COLUMNS": "80", "PYTHONIOENCODING": "utf-8"}
    runners = {"bash": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}
    for block in blocks:
        ended = subprocess.run(
            [*runners[block.language], block.text],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )
        assert ended.returncode == 0, f"{block.text}\n{ended.stderr}"
        if block.output is not None:
            assert lines(ended.stdout) == lines(block.output), block.text
    assert (tmp_path / "puzzles.html").is_file()
    assert (tmp_path / "whole.png").is_file()


def test_the_readme_is_short() -> None:
    assert len((REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


@pytest.mark.e2e
def test_the_pages_are_a_site_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", "docs", "-d", tmp_path / "trees", "."]
    built = subprocess.run([*command, tmp_path / "site"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "site/docs/training.html").is_file()


def test_the_example_of_a_reward_runs() -> None:
    ended = subprocess.run(
        [sys.executable, REPOSITORY / "examples/reward.py"], capture_output=True, text=True, check=True
    )
    assert ended.stdout.splitlines() == ["2, 1, 3: 1.200, right: 1", "2, 3, 1: 0.256, right: 0"]


def test_every_command_that_is_named_exists() -> None:
    named = set(re.findall(r"(?:^|`)jigsaw ([a-z-]+)", "\n".join(map(page, PAGES)), re.MULTILINE))
    known = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    known |= {group.name for group in app.registered_groups}
    assert known <= named, "the pages leave a command out"
    assert named <= known


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", page(name))
    for target in targets:
        path, _, heading = target.partition("#")
        if path.startswith("https://"):
            assert re.match(r"https://(github\.com|huggingface\.co|arxiv\.org)/", path), path
            continue
        linked = ((REPOSITORY / name).parent / path).resolve() if path else REPOSITORY / name
        assert linked.exists(), path
        if heading:
            headings = re.findall("^#+ (.*)$", page(str(linked.relative_to(REPOSITORY))), re.MULTILINE)
            assert heading in {found.lower().replace(" ", "-") for found in headings}, target


@pytest.mark.parametrize("name", PAGES)
def test_files_that_are_named_exist(name: str) -> None:
    folders = "jigsaw|configs|train_scripts|tests|eval|benchmarks|assets|docs|examples"
    paths = re.findall(rf"(?<![\w/.-])((?:{folders})/[\w./-]*\w)", page(name))
    missing = [path for path in paths if not (REPOSITORY / path).exists()]
    assert missing == []


def test_every_script_and_machine_is_named_by_its_name() -> None:
    everything = "\n".join(map(page, PAGES))
    named = set(re.findall(r"bash (train_scripts/\w+\.sh|tests/\w+\.sh)", everything))
    assert {"train_scripts/quickstart.sh", "train_scripts/image.sh", "tests/run.sh"} <= named
    assert all((REPOSITORY / script).is_file() for script in named)
    for machine in re.findall(r"`(gpu\w*\.yaml|cpu\.yaml)`", everything):
        assert (REPOSITORY / "configs/machine" / machine).is_file()


@cache
def composed(recipe: str, *overrides: str) -> DictConfig:
    return compose_config(CONFIGS, recipe, *overrides)


def test_the_overrides_that_are_shown_fit_the_recipe() -> None:
    shown = "".join(map(page, ("README.md", "docs/training.md", "docs/cluster.md")))
    found = [given.replace("'", "") for given in _OVERRIDE.findall(shown) if "." in given.split("=")[0]]
    overrides = [given for given in found if "…" not in given]
    assert len(overrides) >= 10
    config = composed("image", *overrides)
    assert config.trainer.nnodes == 2
    assert config.actor_rollout_ref.rollout.name == "vllm"


@pytest.mark.parametrize("recipe", [recipe for recipe in recipes() if recipe != "quickstart"])
def test_each_recipe_has_a_script_and_is_told(recipe: str) -> None:
    script = (REPOSITORY / f"train_scripts/{recipe}.sh").read_text(encoding="utf-8")
    assert script.endswith(f'launch.sh" {recipe} "$@"\n')
    assert f"(../configs/{recipe}.yaml)" in page("docs/training.md")


def test_the_mixture_trains_on_what_its_comment_prepares() -> None:
    comment = (REPOSITORY / "configs/mixture.yaml").read_text(encoding="utf-8")
    data: Any = OmegaConf.to_container(composed("mixture").data, resolve=True)
    training, held_out = (read_sources(data[key], None, data["epochs"]) for key in ("mixture", "val_files"))
    assert data["train_files"] is None
    prepared = re.findall(
        r"jigsaw prepare (\w+) --media-root (\S+) .*?--out (\S+)(?: .*--extract-frames (\S+))?", comment
    )
    assert len(prepared) == 3
    for sources, file in ((training, "train.parquet"), (held_out, "val.parquet")):
        assert [(source.name, source.media_root, source.files) for source in sources] == [
            (task, frames or media_root, (f"{out}/{file}",)) for task, media_root, out, frames in prepared
        ]
    assert [float(source.weight) for source in training] == [2, 1, 1]
