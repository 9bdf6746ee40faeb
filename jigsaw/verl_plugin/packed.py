"""When a run is trained by packs, and what such a run leaves out; verl is not imported."""

from omegaconf import DictConfig

PACKED_ENGINE = "jigsaw.verl_plugin.engine"
"""The value of ``actor_rollout_ref.model.external_lib`` that chooses the packed engine."""


def is_packed(config: DictConfig) -> bool:
    """Whether the packed engine trains, not verl's own."""
    return bool(config.actor_rollout_ref.model.external_lib == PACKED_ENGINE)


def needs_log_probs(config: DictConfig) -> bool:
    """Whether the log-probabilities before an update say more than the update's own forward pass.

    One update a step is made by the very policy that is updated: the ratio is 1, whatever its gradient.
    """
    actor, algorithm = config.actor_rollout_ref.actor, config.algorithm
    correction = algorithm.rollout_correction or {}
    return bool(
        actor.ppo_epochs != 1
        or actor.ppo_mini_batch_size != config.data.train_batch_size
        or actor.use_kl_loss
        or algorithm.use_kl_in_reward
        or any(correction.get(option) for option in ("rollout_is", "rollout_rs", "bypass_mode"))
    )
