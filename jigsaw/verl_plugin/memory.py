"""What a composed config says about memory: verl's options as :class:`jigsaw.memory.Setup`, and back."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from jigsaw.errors import JigsawError, Problems
from jigsaw.memory import Setup
from jigsaw.shapes import Shapes
from jigsaw.verl_plugin.launch import models
from jigsaw.verl_plugin.packed import PACKED_ENGINE, is_packed, needs_log_probs
from jigsaw.verl_plugin.plans import given, whole

_ACTOR, _ROLLOUT, _MODEL = (f"actor_rollout_ref.{name}" for name in ("actor", "rollout", "model"))
_FSDP = f"{_ACTOR}.fsdp_config"
NO_TOWER = ".*visual.*"
"""``exclude_modules`` of an adapter on the language model alone."""
OPTIONS = {
    "packed": f"{_MODEL}.external_lib",
    "budget": f"{_ACTOR}.ppo_max_token_len_per_gpu",
    "log_prob_budget": f"{_ROLLOUT}.log_prob_max_token_len_per_gpu",
    "micro_batch": f"{_ACTOR}.ppo_micro_batch_size_per_gpu",
    "log_prob_micro_batch": f"{_ROLLOUT}.log_prob_micro_batch_size_per_gpu",
    "prompt": "data.max_prompt_length",
    "response": "data.max_response_length",
    "prompts": "data.train_batch_size",
    "nodes": "trainer.nnodes",
    "gpus_per_node": "trainer.n_gpus_per_node",
    "share": f"{_ROLLOUT}.gpu_memory_utilization",
    "tensor_parallel": f"{_ROLLOUT}.tensor_model_parallel_size",
    "bucket": f"{_ROLLOUT}.checkpoint_engine.update_weights_bucket_megabytes",
    "offload_moments": f"{_FSDP}.optimizer_offload",
    "offload_weights": f"{_FSDP}.param_offload",
    "offload_all": f"{_FSDP}.offload_policy",
    "keep_gradients": f"{_FSDP}.use_no_sync_for_gradient_accumulation",
    "checkpoints": "trainer.max_actor_ckpt_to_keep",
}
"""The option that each value of a setup is."""


def setup_of(config: DictConfig, gpu_memory: float) -> Setup:
    """The settings that decide on memory.

    Args:
        config: verl's, composed.
        gpu_memory: of a card, in the GB by which it is called.

    Raises:
        JigsawError: for a model or a setting that the plan does not know, a line each.
    """
    if found := list(_unknown(config)):
        raise Problems(found)

    def number(name: str) -> int:
        return whole(OPTIONS[name], OmegaConf.select(config, OPTIONS[name]), least=1)

    def flag(name: str) -> bool:
        return bool(OmegaConf.select(config, OPTIONS[name]))

    role = config.actor_rollout_ref
    packed = is_packed(config)
    shapes = shapes_of(given(role.model, "path") or "")
    return Setup(
        shapes=shapes,
        nodes=number("nodes"),
        gpus_per_node=number("gpus_per_node"),
        gpu_memory=gpu_memory,
        sharing=role.actor.fsdp_config.fsdp_size,
        packed=packed,
        budget=number("budget"),
        log_prob_budget=number("log_prob_budget"),
        micro_batch=0 if packed else number("micro_batch"),
        log_prob_micro_batch=0 if packed else number("log_prob_micro_batch"),
        prompt=number("prompt"),
        response=number("response"),
        prompts=number("prompts"),
        log_probs=not packed or needs_log_probs(config),
        reference=bool(role.actor.use_kl_loss or config.algorithm.use_kl_in_reward),
        entropy=bool(role.actor.calculate_entropy or role.actor.entropy_coeff),
        share=float(role.rollout.gpu_memory_utilization),
        tensor_parallel=number("tensor_parallel"),
        bucket=number("bucket"),
        offload_moments=flag("offload_moments"),
        offload_weights=flag("offload_weights"),
        offload_all=flag("offload_all"),
        keep_gradients=flag("keep_gradients"),
        checkpoints=None if config.trainer.max_actor_ckpt_to_keep is None else number("checkpoints"),
        adapter=_adapter(role.model, shapes),
    )


def _adapter(model: DictConfig, shapes: Shapes) -> int:
    """Weights of the adapter that is trained, 0 without one."""
    rank = whole(f"{_MODEL}.lora_rank", model.lora_rank)
    if not rank:
        return 0
    return shapes.text.adapter(rank) + (0 if model.exclude_modules == NO_TOWER else shapes.tower.adapter(rank))


def _unknown(config: DictConfig) -> Iterator[str]:
    """A line for each setting that the plan does not know."""
    model, actor, rollout = (config.actor_rollout_ref[name] for name in ("model", "actor", "rollout"))
    if config.trainer.device != "cuda":
        yield f"trainer.device is {config.trainer.device}: a plan is made for GPUs"
    for option, value, known in (
        (f"{_ACTOR}.strategy", actor.strategy, "fsdp2"),
        (f"{_ACTOR}.ulysses_sequence_parallel_size", actor.ulysses_sequence_parallel_size, 1),
        (f"{_ACTOR}.use_dynamic_bsz", actor.use_dynamic_bsz, False),
        (f"{_MODEL}.enable_gradient_checkpointing", model.enable_gradient_checkpointing, True),
        (f"{_ROLLOUT}.free_cache_engine", rollout.free_cache_engine, True),
    ):
        if value != known:
            yield f"{option} is {value}: a plan can be made with {str(known).lower()} alone"
    if model.lora_rank:
        if model.target_modules != "all-linear" or model.exclude_modules not in (None, NO_TOWER):
            yield (
                f"{_MODEL}.target_modules is {model.target_modules}, exclude_modules {model.exclude_modules}: a plan "
                f"can be made with all-linear, and with null or {NO_TOWER}"
            )
        if not model.lora.merge:
            yield f"{_MODEL}.lora.merge is false: a plan can be made with true alone"


def shapes_of(path: str) -> Shapes:
    """Shapes of a model: of a folder in Hugging Face's format, or of one that ``configs/models`` knows by its name.

    Raises:
        JigsawError: for any other, with those that are known.
    """
    where, folder = f"{_MODEL}.path is {path}", Path(path)
    if folder.is_dir():
        file = folder / "config.json"
        if not file.is_file():
            raise JigsawError(f"{where}, which holds no config.json; give a folder in Hugging Face's format")
        try:
            return Shapes.of(json.loads(file.read_text(encoding="utf-8")))
        except JigsawError as error:
            raise JigsawError(f"{where}: {error}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise JigsawError(f"{file}: cannot be read ({error!r:.100}); download the model again") from error
    known: dict[str, Any] = {model.name: model.config for model in models().values()}
    if path not in known:
        raise JigsawError(
            f"{where}: no folder, and its shapes are not known; give a folder or one of {', '.join(known)}"
        )
    return Shapes.of(known[path])


def overrides(before: Setup, after: Setup) -> list[str]:
    """The overrides that turn one setup into another."""
    found = []
    for name, option in OPTIONS.items():
        value = getattr(after, name)
        if value == getattr(before, name):
            continue
        if name == "packed":
            value = PACKED_ENGINE if value else "null"
        found.append(f"{option}={str(value).lower() if isinstance(value, bool) else value}")
    return found
