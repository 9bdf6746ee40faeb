"""``jigsaw plan``: what it shows of a recipe, and what it refuses in one line."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from jigsaw.cli import app
from jigsaw.errors import OptionError, Problems
from jigsaw.verl_plugin.launch import recipes

PROMPTS = {"image": 700, "video": 4500, "depth": 1800, "mixture": 1925, "image_2x2": 500, "video_4_clips": 3000}
"""Tokens of a prompt, on average, of the recipe's data."""
PACKED = "actor_rollout_ref.model.external_lib=jigsaw.verl_plugin.engine"


def run(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "160"}).invoke(app, ["plan", *arguments], catch_exceptions=False)


def test_a_recipe_that_fits_is_shown_by_phases_and_parts() -> None:
    ended = run("image", PACKED)
    assert ended.exit_code == 0, ended.stdout
    for shown in (
        "each of 8 GPUs of 80 GB",
        "rollout",
        "8,292,166,656 weights × 4 bytes / 8 GPUs",
        "kept of the vision tower",
        "weight sync",
        "checkpoint",
        "/dev/shm",
        "fits, with 10% of a card to spare",
        "packs may have up to 56,320 tokens",
    ):
        assert shown in ended.stdout
    assert "log-probs" not in ended.stdout


GPU_RECIPES = [recipe for recipe in recipes() if recipe not in ("quickstart", "smoke")]


@pytest.mark.seconds
@pytest.mark.parametrize("recipe", GPU_RECIPES)
def test_each_recipe_fits_its_cards_and_the_table_says_how(recipe: str, repository: Path) -> None:
    card, prompt = ("24" if recipe == "image_lora_3b" else "80"), PROMPTS.get(recipe, PROMPTS["image"])
    ended = run(recipe, "--json", "--gpu-memory", card, "--prompt-tokens", str(prompt))
    found: Any = json.loads(ended.stdout)
    assert (ended.exit_code, found["fits"], found["lacks"], found["advice"]) == (0, True, [], [])
    assert max(phase["gib"] for phase in found["phases"].values()) <= found["room_gib"]
    gib, seconds = (lambda name: round(found["phases"][name]["gib"])), found["assumed_seconds"]["step"]
    host = max(found["machine"][when]["gib"] for when in ("host memory", "host memory, at the start"))
    row = f"{gib('rollout')}, {gib('update')} | {host:.0f} | {prompt:,} | {seconds:.0f} |"
    (line,) = re.findall(rf"^\| \[`{recipe}`\].*", (repository / "docs/training.md").read_text(encoding="utf-8"), re.M)
    assert line.endswith(row)
    assert found["max_tokens_per_gpu"]["set"] <= found["max_tokens_per_gpu"]["largest"]
    for phase in (*found["phases"].values(), *found["machine"].values()):
        assert sum(part["gib"] for part in phase["parts"]) == pytest.approx(phase["gib"], abs=0.05)
        assert all(part["what"] and part["how"] for part in phase["parts"])


@pytest.mark.parametrize(
    ("model", "gpus", "fits"),
    [("qwen3_vl_8b", 8, True), ("qwen2_5_vl_32b", 8, False)],
)
def test_a_model_of_another_size_is_planned_by_its_name(model: str, gpus: int, fits: bool) -> None:
    found: Any = json.loads(run("image", f"model={model}", "--gpus", str(gpus), "--json").stdout)
    assert (found["fits"], bool(found["advice"])) == (fits, not fits)


def test_what_does_not_fit_ends_with_what_to_do() -> None:
    ended = run("image", PACKED, "--gpus", "2")
    assert ended.exit_code == 1
    assert "does not fit: rollout takes 95.7 GiB of the 71.1 that are 90% of a card" in ended.stdout
    assert "fits with: actor_rollout_ref.actor.fsdp_config.offload_policy=true\n" in ended.stdout
    assert "or: trainer.n_gpus_per_node=4 actor_rollout_ref.rollout.gpu_memory_utilization=0.55\n" in ended.stdout


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--gpus", "6"], "256 × actor_rollout_ref.rollout.n=16 responses do not divide by 6 GPUs; change one of them"),
        ([PACKED, "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=9000"], "is below 10240 tokens, which a prompt"),
        (["actor_rollout_ref.rollout.gpu_memory_utilization=1.5"], "is 1.5; it must be above 0, and 1 at most"),
    ],
)
def test_what_would_not_start_is_not_planned(given: list[str], said: str) -> None:
    with pytest.raises(Problems) as raised:
        run("image", *given)
    assert said in str(raised.value)


@pytest.mark.seconds
def test_what_is_advised_fits() -> None:
    plain = ["video", "actor_rollout_ref.model.external_lib=null", "--gpus", "4", "--json"]
    ended = run(*plain)
    found: Any = json.loads(ended.stdout)
    assert (ended.exit_code, found["fits"], found["max_tokens_per_gpu"]) == (1, False, None)
    assert found["phases"]["log-probs"]["gib"] > 160
    ((engine, share),) = found["advice"]
    assert engine == PACKED
    assert json.loads(run(*plain, engine, share).stdout)["fits"]


@pytest.mark.parametrize(
    ("option", "value", "why"),
    [
        ("--gpus", "0", "must be 1 or more"),
        ("--gpu-memory", "0", "must be a number of GB above 0"),
        ("--gpu-memory", "nan", "must be a number of GB above 0"),
        ("--gpu-memory", "inf", "must be a number of GB above 0"),
        ("--gpu-memory", "4", "too small for this model, whatever the settings; vLLM needs 6.9 GiB with its weights "),
    ],
)
def test_an_option_that_makes_no_sense_is_one_line(option: str, value: str, why: str) -> None:
    with pytest.raises(OptionError) as raised:
        run("image", option, value)
    assert raised.value.said_of(option).startswith(f"{option} {value}: {why}")
    assert len(str(raised.value).splitlines()) == 1


def test_help_has_an_example() -> None:
    assert "jigsaw plan video" in run("--help").stdout
