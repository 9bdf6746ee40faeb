"""``python -m jigsaw.verl_plugin.grpo``: verl's ``main_ppo`` with the trainer of trainer.py, the same arguments."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
import ray
from omegaconf import DictConfig
from verl.trainer.main_ppo import TaskRunnerV1, run_ppo
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.utils.config import validate_config
from verl.utils.device import auto_set_device

from jigsaw.errors import JigsawError, print_error
from jigsaw.verl_plugin import patches
from jigsaw.verl_plugin.packed import is_packed
from jigsaw.verl_plugin.record import record_start
from jigsaw.verl_plugin.stop import STOPPED, Stopped, end_with_the_supervisor, forget, stop_by_sigterm

# Ray has made an actor's handle of verl's class; this is the class itself.
_TaskRunner = TaskRunnerV1.__ray_metadata__.modified_class


@ray.remote
class JigsawTaskRunner(_TaskRunner):  # type: ignore[valid-type, misc]
    """verl's, with our trainer."""

    def run(self, config: DictConfig) -> None:
        """Train to the end."""
        # Where it trains, not where it is started: what this imports takes seconds.
        from jigsaw.verl_plugin.trainer import JigsawTrainer, PackedTrainer

        patches.sync_training_is_by(PackedTrainer if is_packed(config) else JigsawTrainer)
        super().run(config)


@dataclass
class _Runners:
    """The runner's class as verl's ``run_ppo`` uses it, with a call once Ray is there: it takes SIGTERM for itself."""

    runner: Any
    before: Callable[[], None]

    def options(self, **options: Any) -> "_Runners":
        return _Runners(self.runner.options(**options), self.before)

    def remote(self) -> Any:
        self.before()
        return self.runner.remote()


@hydra.main(config_path="pkg://verl.trainer.config", config_name="ppo_trainer", version_base=None)
def main(config: DictConfig) -> None:
    """Check verl's config as verl does and train; an error of ours is one line, see :func:`print_error`."""
    end_with_the_supervisor()
    auto_set_device(config)
    validate_config(config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))
    folder = Path(config.trainer.default_local_dir)
    try:
        record_start(config)
        run_ppo(config, task_runner_class=_Runners(JigsawTaskRunner, lambda: stop_by_sigterm(folder)))
    except JigsawError as error:
        told: Any = error
        while isinstance(told, ray.exceptions.RayTaskError):  # ours too, by its class, but as a traceback
            told = told.cause
        print_error(told)
        sys.exit(STOPPED if isinstance(error, Stopped) else 1)
    finally:
        forget(folder)


if __name__ == "__main__":
    main()
