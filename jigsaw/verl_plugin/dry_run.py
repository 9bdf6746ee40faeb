"""``jigsaw train RECIPE --dry-run``: verl's own validation, and what the start would take; nothing is started."""

import sys
from contextlib import redirect_stdout
from typing import Any
from warnings import catch_warnings, filterwarnings

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from jigsaw import machine, memory
from jigsaw.errors import JigsawError
from jigsaw.rows import read_table
from jigsaw.verl_plugin.benchmarks import Benchmarks
from jigsaw.verl_plugin.launch import Start
from jigsaw.verl_plugin.memory import setup_of
from jigsaw.verl_plugin.plans import heldout_sources, training_sources

_CARD = 80.0
"""GB of a GPU, where there is none to ask."""


def verls_problems(config: DictConfig) -> list[str]:
    """What verl's own validation says of a config, as its trainer makes it; verl and torch are loaded for it."""
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    try:
        with redirect_stdout(sys.stderr), catch_warnings():
            filterwarnings("ignore", "Disabled critic")  # GRPO has none
            validate_config(config, need_reference_policy(config), need_critic(config))
    except (AssertionError, ValueError, TypeError, HydraException, OmegaConfBaseException) as error:
        return [f"verl: {' '.join(str(error).split())}"]
    return []


def what_it_takes(start: Start) -> dict[str, Any]:
    """A start's figures, as its table shows them; ``memory`` are GiB of a GPU by phase, or why there is no plan."""
    config, trainer = start.config, start.config.trainer
    benchmarks = Benchmarks(config.eval)
    return {
        "model": config.actor_rollout_ref.model.path,
        "rows": {"train": _rows(training_sources(config.data)), "held_out": _rows(heldout_sources(config.data))},
        "prompts_a_step": config.data.train_batch_size,
        "responses_a_prompt": config.actor_rollout_ref.rollout.n,
        "steps": trainer.total_training_steps,
        "saves_every": trainer.save_freq,
        "tests_every": trainer.test_freq,
        "benchmarks": {"questions": benchmarks.questions, "absent": benchmarks.absent},
        "machines": trainer.nnodes,
        "gpus_a_machine": trainer.n_gpus_per_node,
        "memory": _memory(config),
        "checkpoints": str(trainer.default_local_dir),
        "resumes_from": OmegaConf.select(config, "trainer.resume_from_path"),
        "metrics": str(start.metrics),
        "loggers": [trainer.logger] if isinstance(trainer.logger, str) else list(trainer.logger),
        "command": start.command,
    }


def _rows(sources: Any) -> int:
    return sum(read_table(file).num_rows for source in sources for file in source.files)


def _memory(config: DictConfig) -> dict[str, float] | str:
    """GiB of a GPU by phase, and its room; or why there is no plan."""
    card = machine.gpu_memory()
    try:
        setup = setup_of(config, card / memory.SHOWN / memory.GIB if card else _CARD)
    except JigsawError as error:  # on the CPU, or of settings that no plan is made for
        return str(error)
    found = {phase.name: round(phase.size / memory.GIB, 1) for phase in memory.phases(setup)}
    return {**found, "room": round(setup.room / memory.GIB, 1)}
