"""What is written down of a start."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from jigsaw.show.training import record_of
from jigsaw.verl_plugin.launch import TRAINER, plan_start
from jigsaw.verl_plugin.record import changed, versions, without_secrets

PROGRAM = """
import hydra
from jigsaw.verl_plugin.record import record_start
hydra.main(config_path="pkg://verl.trainer.config", config_name="ppo_trainer", version_base=None)(record_start)()
"""
"""verl's trainer, but for the training."""


@pytest.mark.seconds
def test_a_start_is_recorded_beside_its_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a recipe of one's own; of one of ours it is in e2e/test_training.py."""
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("defaults: [image, _self_]\n")
    start = plan_start("mine.yaml", ["data.seed=3", "trainer.default_local_dir='a run, 1'", "data.media_root=media"])
    arguments = start.command[start.command.index(TRAINER) + 1 :]
    subprocess.run([sys.executable, "-c", PROGRAM, *arguments, "hydra.run.dir=hydra"], check=True)
    record = json.loads(record_of(start.metrics).read_text())
    assert (record["recipe"], record["folder"]) == ("mine", str(tmp_path))
    assert record["versions"]["verl"] == version("verl")
    assert record["changed"]["data.seed"] == [3, 0]
    assert record["changed"]["data.media_root"] == ["media", "???"]
    assert record["changed"]["trainer.total_training_steps"] == [1000, None]
    assert "actor_rollout_ref.rollout.n" not in record["changed"]
    assert record["config"]["actor_rollout_ref"]["actor"]["ppo_mini_batch_size"] == 256
    assert not start.metrics.exists()


def test_what_differs_is_told_by_name_as_it_is_written() -> None:
    base = OmegaConf.create({"a": {"b": 1, "c": "${a.b}", "d": {}}, "e": [1], "gone": 1})
    config = OmegaConf.create({"a": {"b": 2, "c": "${a.b}", "d": {"f": 3, "g": None}}, "e": [1, 2]})
    assert changed(config, base) == {"a.b": [2, 1], "a.d.f": [3, None], "e": [[1, 2], [1]]}


def test_secrets_of_the_environment_are_not_told() -> None:
    variables = {"WANDB_API_KEY": "x", "HF_TOKEN": "x", "PATH_OF_IT": "y"}
    config = {"ray_init": {"runtime_env": {"env_vars": variables}}, "max_token_len": 3, "pad_token_id": 0}
    told = without_secrets(config)
    assert told["ray_init"]["runtime_env"]["env_vars"] == {
        "WANDB_API_KEY": "(not recorded)",
        "HF_TOKEN": "(not recorded)",
        "PATH_OF_IT": "y",
    }
    assert (told["max_token_len"], told["pad_token_id"]) == (3, 0)
    made = changed(OmegaConf.create({"run": {"env_vars": {"MY_SECRET": "x"}}}), OmegaConf.create({}))
    assert made == {"run.env_vars.MY_SECRET": ["(not recorded)", None]}


def test_the_versions_are_those_that_are_installed() -> None:
    found = versions()
    assert {"visual-jigsaw", "verl", "torch", "transformers", "ray", "python"} <= found.keys()
    assert sum(name.startswith("vllm") for name in found) == 1
