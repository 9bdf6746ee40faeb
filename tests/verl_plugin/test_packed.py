"""When the packed engine's trainer leaves verl's log-prob pass out."""

import pytest
from omegaconf import OmegaConf

from jigsaw.verl_plugin.packed import needs_log_probs


def config(**changes: object) -> object:
    defaults = {
        "data.train_batch_size": 8,
        "algorithm.use_kl_in_reward": False,
        "algorithm.rollout_correction": {"rollout_is": None, "rollout_rs": None, "bypass_mode": False},
        "actor_rollout_ref.actor.ppo_epochs": 1,
        "actor_rollout_ref.actor.ppo_mini_batch_size": 8,
        "actor_rollout_ref.actor.use_kl_loss": False,
    }
    built = OmegaConf.create()
    for name, value in {**defaults, **changes}.items():
        OmegaConf.update(built, name, value)
    return built


def test_one_update_on_the_policys_own_words_needs_no_pass_before_it() -> None:
    assert not needs_log_probs(config())
    assert not needs_log_probs(config(**{"algorithm.rollout_correction": None}))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("actor_rollout_ref.actor.ppo_epochs", 2),
        ("actor_rollout_ref.actor.ppo_mini_batch_size", 4),
        ("actor_rollout_ref.actor.use_kl_loss", True),
        ("algorithm.use_kl_in_reward", True),
        ("algorithm.rollout_correction", {"rollout_is": "token"}),
        ("algorithm.rollout_correction", {"rollout_rs": "seq_mean_k3"}),
        ("algorithm.rollout_correction", {"bypass_mode": True}),
    ],
)
def test_whatever_reads_the_policy_before_the_update_keeps_the_pass(option: str, value: object) -> None:
    assert needs_log_probs(config(**{option: value}))
