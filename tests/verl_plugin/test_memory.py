"""What a config says about memory (jigsaw/verl_plugin/memory.py), and the models whose shapes are known."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from jigsaw import memory
from jigsaw.errors import JigsawError
from jigsaw.verl_plugin.launch import CONFIGS, compose_config
from jigsaw.verl_plugin.memory import overrides, setup_of, shapes_of
from jigsaw.verl_plugin.packed import PACKED_ENGINE

ROLE = "actor_rollout_ref"
FSDP = f"{ROLE}.actor.fsdp_config"
MODELS = sorted((CONFIGS / "models").glob("*.yaml"))


@pytest.fixture(scope="module")
def _image() -> DictConfig:
    return compose_config(CONFIGS, "image", f"{ROLE}.model.external_lib={PACKED_ENGINE}")


@pytest.fixture
def image(_image: DictConfig) -> DictConfig:
    """The image recipe, packed; to compose it takes a second."""
    return _image.copy()


def test_a_recipe_is_read_as_it_stands(image: DictConfig) -> None:
    setup = setup_of(image, 80.0)
    assert (setup.nodes, setup.gpus_per_node, setup.gpus, setup.shards, setup.gpu_memory) == (1, 8, 8, 8, 80.0)
    assert (setup.prompt, setup.response, setup.prompts, setup.longest) == (8192, 2048, 256, 10240)
    assert (setup.packed, setup.entropy, setup.log_probs, setup.reference) == (True, True, False, False)
    assert (setup.share, setup.tensor_parallel, setup.bucket, setup.checkpoints) == (0.6, 1, 2048, 3)
    assert not any((setup.offload_moments, setup.offload_weights, setup.offload_all, setup.keep_gradients))
    assert setup.log_prob_budget == setup.budget
    assert setup.shapes == shapes_of("Qwen/Qwen2.5-VL-7B-Instruct")


@pytest.mark.parametrize(
    ("option", "value", "name", "read"),
    [
        ("trainer.nnodes", 2, "gpus", 16),
        (f"{FSDP}.fsdp_size", 4, "shards", 4),
        (f"{ROLE}.actor.ppo_max_token_len_per_gpu", 20000, "log_prob_budget", 20000),
        (f"{FSDP}.optimizer_offload", True, "offload_moments", True),
        (f"{FSDP}.param_offload", True, "offload_weights", True),
        (f"{FSDP}.offload_policy", True, "offload_all", True),
        (f"{FSDP}.use_no_sync_for_gradient_accumulation", True, "keep_gradients", True),
        (f"{ROLE}.actor.calculate_entropy", False, "entropy", False),
        (f"{ROLE}.actor.use_kl_loss", True, "reference", True),
        (f"{ROLE}.model.external_lib", None, "packed", False),
        ("trainer.max_actor_ckpt_to_keep", None, "checkpoints", None),
    ],
)
def test_options_of_verl_are_heard(image: DictConfig, option: str, value: Any, name: str, read: Any) -> None:
    OmegaConf.update(image, option, value)
    assert getattr(setup_of(image, 80.0), name) == read


@pytest.mark.parametrize(
    ("option", "value"),
    [
        (f"{ROLE}.actor.ppo_epochs", 2),
        (f"{ROLE}.actor.ppo_mini_batch_size", 64),
        (f"{ROLE}.actor.use_kl_loss", True),
        ("algorithm.use_kl_in_reward", True),
        ("algorithm.rollout_correction.rollout_is", "token"),
    ],
)
def test_log_probs_are_needed_where_they_say_more_than_the_update(image: DictConfig, option: str, value: Any) -> None:
    assert not setup_of(image, 80.0).log_probs
    OmegaConf.update(image, option, value)
    assert setup_of(image, 80.0).log_probs


def test_verls_own_engine_always_computes_them_first(image: DictConfig) -> None:
    image.actor_rollout_ref.model.external_lib = None
    setup = setup_of(image, 80.0)
    assert (setup.log_probs, setup.micro_batch, setup.log_prob_micro_batch) == (True, 4, 8)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        (f"{ROLE}.model.lora_rank", 8, "lora.merge is false: a plan can be made with true alone"),
        (f"{ROLE}.actor.strategy", "fsdp", "strategy is fsdp: a plan can be made with fsdp2 alone"),
        (f"{ROLE}.actor.use_dynamic_bsz", True, "use_dynamic_bsz is True: a plan can be made with false alone"),
        (f"{ROLE}.rollout.free_cache_engine", False, "free_cache_engine is False: a plan can be made with true alone"),
        ("trainer.device", "cpu", "trainer.device is cpu: a plan is made for GPUs"),
        ("data.train_batch_size", 0, "data.train_batch_size is 0; it must be a whole number, 1 or more"),
        (f"{ROLE}.model.path", "nope", "model.path is nope: no folder, and its shapes are not known; give a folder"),
    ],
)
def test_what_cannot_be_planned_is_one_line(image: DictConfig, option: str, value: Any, said: str) -> None:
    OmegaConf.update(image, option, value)
    with pytest.raises(JigsawError) as raised:
        setup_of(image, 80.0)
    assert said in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_an_adapter_is_planned_with_the_tower_or_without(image: DictConfig) -> None:
    adapter = {"lora_rank": 64, "target_modules": "all-linear", "exclude_modules": None, "lora.merge": True}
    for name, value in adapter.items():
        OmegaConf.update(image, f"{ROLE}.model.{name}", value)
    shapes = setup_of(image, 80.0).shapes
    assert setup_of(image, 80.0).adapter == shapes.text.adapter(64) + shapes.tower.adapter(64)
    image.actor_rollout_ref.model.exclude_modules = ".*visual.*"
    assert setup_of(image, 80.0).adapter == shapes.text.adapter(64) == 161_480_704
    image.actor_rollout_ref.model.target_modules = ["q_proj"]
    with pytest.raises(JigsawError, match=r"target_modules is .'q_proj'.*: a plan can be made with all-linear"):
        setup_of(image, 80.0)


def test_a_change_is_told_as_overrides(image: DictConfig) -> None:
    setup = setup_of(image, 80.0)
    other = replace(setup, packed=False, share=0.55, offload_all=True, nodes=2)
    assert overrides(setup, other) == [
        "actor_rollout_ref.model.external_lib=null",
        "trainer.nnodes=2",
        "actor_rollout_ref.rollout.gpu_memory_utilization=0.55",
        "actor_rollout_ref.actor.fsdp_config.offload_policy=true",
    ]
    assert overrides(setup, setup) == []
    assert overrides(other, setup)[0] == f"actor_rollout_ref.model.external_lib={PACKED_ENGINE}"


@pytest.mark.parametrize("file", MODELS, ids=lambda file: file.stem)
def test_a_known_model_has_the_weights_of_its_shapes(file: Path) -> None:
    model: Any = OmegaConf.to_container(OmegaConf.load(file))
    config = model["config"]
    text = {name: value for name, value in config.items() if name not in ("model_type", "vision_config")}
    newer = config["model_type"] == "qwen3_vl"
    built = (Qwen3VLConfig if newer else Qwen2_5_VLConfig)(
        text_config=config.get("text_config", text),
        vision_config=config["vision_config"],
        tie_word_embeddings=config["tie_word_embeddings"],
    )
    with torch.device("meta"):
        made = (Qwen3VLForConditionalGeneration if newer else Qwen2_5_VLForConditionalGeneration)(built)
    made.tie_weights()
    assert shapes_of(model["name"]).parameters == sum(weight.numel() for weight in made.parameters())


def test_a_model_is_known_by_its_folder_too(tmp_path: Path) -> None:
    model: Any = OmegaConf.to_container(OmegaConf.load(MODELS[0]))
    (tmp_path / "config.json").write_text(json.dumps(model["config"]))
    assert shapes_of(str(tmp_path)) == shapes_of(model["name"])
    (tmp_path / "config.json").write_text(json.dumps({**model["config"], "model_type": "llama"}))
    with pytest.raises(JigsawError, match=f"path is {tmp_path}: the model is a llama; known are"):
        shapes_of(str(tmp_path))
    for broken in ("{", "[]", '{"model_type": "qwen2_5_vl"}'):
        (tmp_path / "config.json").write_text(broken)
        with pytest.raises(JigsawError, match=r"config\.json: cannot be read \(.*\); download the model again"):
            shapes_of(str(tmp_path))
    (tmp_path / "config.json").unlink()
    with pytest.raises(JigsawError, match=r"holds no config\.json; give a folder in Hugging Face's format"):
        shapes_of(str(tmp_path))


def test_the_table_of_the_pages_is_what_is_planned(image: DictConfig, repository: Path) -> None:
    page = (repository / "docs/training.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+B), (\d+) × (\d+) GB \| (.*?) \| (.*) \|$", page, re.MULTILINE)
    assert len(rows) == 8
    for size, gpus, card, settings, figures in rows:
        image.actor_rollout_ref.model.path = f"Qwen/Qwen2.5-VL-{size}-Instruct"
        image.trainer.n_gpus_per_node = int(gpus)
        share, budget = re.findall(r"share ([\d.]+), packs of ([\d,]+)", settings)[0]
        tokens = int(budget.replace(",", ""))
        setup = replace(
            setup_of(image, float(card)), share=float(share), budget=tokens, offload_all="offloaded" in settings
        )
        found = {phase.name: phase.size / memory.GIB for phase in (*memory.phases(setup), *memory.machine(setup))}
        host = max(size for name, size in found.items() if name.startswith("host memory"))
        planned = [f"{found[name]:.0f}" for name in ("rollout", "update", "weight sync")]
        assert figures.split(" | ") == [*planned, f"{memory.largest_budget(setup):,}", f"{host:.0f}"]
        assert memory.lacks(setup) == []
