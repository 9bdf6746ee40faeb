"""``jigsaw train RECIPE --dry-run`` of every recipe: all checks, verl's own too, and nothing is started."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf
from typer.testing import CliRunner, Result

from jigsaw import doctor, machine
from jigsaw.cli import app
from jigsaw.toy.rows import depth_row, image_row, video_row
from jigsaw.verl_plugin import launch
from jigsaw.verl_plugin.preflight import LOGGERS

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

POINTS = [[10 * n, 12 * n] for n in range(1, 7)]
ROWS: dict[str, Callable[[str], dict[str, Any]]] = {
    "image": lambda name: image_row("a.png", id=name, grid=(3, 3)),
    "video": lambda name: video_row("a.mp4", id=name),
    "depth": lambda name: depth_row("a.png", POINTS, id=name),
}
MEDIA = {"image": "COCO/train2017", "video": "LLaVA-Video-178K", "depth": "data/depth/frames"}
"""As configs/mixture.yaml names them."""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Rows of all tasks, media folders and a model's files, on a machine of eight GPUs."""
    for task, row in ROWS.items():
        (tmp_path / MEDIA[task]).mkdir(parents=True)
        (tmp_path / MEDIA[task] / ("a.mp4" if task == "video" else "a.png")).touch()
        (tmp_path / "data" / task).mkdir(parents=True, exist_ok=True)
        for split, count in (("train", 256), ("val", 8)):
            rows = [row(f"{task} {split} {number}") for number in range(count)]
            pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"data/{task}/{split}.parquet")
    (tmp_path / "model").mkdir()
    shapes = OmegaConf.to_container(launch.models()["qwen2_5_vl_7b"].config)
    (tmp_path / "model/config.json").write_text(json.dumps(shapes))
    (tmp_path / "model/model.safetensors").write_bytes(b"weights")
    monkeypatch.chdir(tmp_path)
    for name in ("VERL_PLATFORM", "RAY_ADDRESS", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(doctor, "check_gpu_software", list)
    monkeypatch.setattr(machine, "gpus", lambda: 8)
    monkeypatch.setattr(machine, "gpu_memory", lambda: 80 * 2**30)
    monkeypatch.setattr(machine, "memory", lambda: 2**40)
    monkeypatch.setattr(machine, "cores", lambda: 64)
    monkeypatch.setattr(machine, "last_cluster", lambda: "")
    monkeypatch.setattr(machine, "cluster", lambda address: "A")
    monkeypatch.setattr(
        machine, "nodes_of", lambda address: [machine.Node({"GPU": 8, "CPU": 64}, {"GPU": 8, "CPU": 64})] * 2
    )
    monkeypatch.setattr(machine, "installed", {"vllm": "0.24.0"}.get)
    monkeypatch.setattr("jigsaw.verl_plugin.preflight._check_disk", lambda config: iter(()))
    return tmp_path


def dry_run(recipe: str, *given: str) -> Result:
    task = recipe.split("_")[0]
    data = [] if task == "mixture" else ["--data", f"data/{task}", "--media-root", MEDIA[task]]
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["train", recipe, "--model", "model", *data, *given])


@pytest.mark.parametrize("recipe", [recipe for recipe in launch.recipes() if recipe not in ("quickstart", "smoke")])
def test_a_recipe_passes_and_starts_nothing(place: Path, monkeypatch: pytest.MonkeyPatch, recipe: str) -> None:
    if recipe != "image_32b":
        monkeypatch.setattr(machine, "cluster", lambda address: "")
    few = "data.train_batch_size=128"
    given = ["trainer.total_training_steps=8", few, *(["data.epochs=40"] * (recipe != "mixture"))]
    replies = 8 if "lora" in recipe else 16
    before = sorted(place.rglob("*"))
    ended = dry_run(recipe, "--dry-run", "--json", *given)
    assert ended.exit_code == 0, ended.output
    takes = json.loads(ended.stdout)
    assert takes["rows"]["train"] == 256 * (3 if recipe == "mixture" else 1)
    assert (takes["prompts_a_step"], takes["responses_a_prompt"], takes["steps"]) == (128, replies, 8)
    assert max(takes["memory"].values()) == takes["memory"]["room"] > takes["memory"]["update"]
    assert takes["command"][1:3] == ["-m", "jigsaw.verl_plugin.grpo"]
    assert few in takes["command"]
    assert sorted(place.rglob("*")) == before


def test_the_loggers_that_are_known_are_verls() -> None:
    from verl.utils.tracking import Tracking

    assert set(LOGGERS) == set(Tracking.supported_backend)


def test_it_is_asked_for_by_the_environment_too(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRY_RUN", "1")
    monkeypatch.setattr(os, "execve", lambda *_: pytest.fail("it was started"))
    ended = dry_run("image", "trainer.total_training_steps=8", "data.epochs=40", "trainer.save_freq=4")
    assert ended.exit_code == 0, ended.output
    for shown in (
        "256 to train on, 8 held out",
        "256 prompts × 16 responses on 8 GPUs",
        "rollout 61.",
        " of 72",
        "anew",
        "-m jigsaw.verl_plugin.grpo",
        "nothing is known to stop this run",
    ):
        assert shown in ended.stdout


def test_what_verl_refuses_is_one_line(place: Path) -> None:
    given = ["trainer.total_training_steps=8", "data.epochs=40", "actor_rollout_ref.actor.loss_agg_mode=median"]
    ended = dry_run("image", "--dry-run", *given)
    assert ended.exit_code == 1
    assert str(ended.exception).startswith("verl: ")
    assert "median" in str(ended.exception)
