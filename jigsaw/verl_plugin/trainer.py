"""verl's synchronous trainer for the packed engine: groups stay whole, and no pass says what the update says anyway."""

from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig
from transformers import AutoConfig
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils.seqlen_balancing import log_seqlen_unbalance

from jigsaw.flops import group_flops
from jigsaw.packing.packs import share_rows
from jigsaw.shapes import Shapes
from jigsaw.verl_plugin.agreement import PREFIX, agreement_metrics
from jigsaw.verl_plugin.packed import needs_log_probs


class PackedTrainer(PPOTrainerSync):  # type: ignore[misc]
    """verl's trainer; the responses of a prompt go to one rank, and one update a step takes one forward pass."""

    def __init__(self, config: DictConfig) -> None:
        self._one_pass = not needs_log_probs(config)
        if self._one_pass:
            # Its metrics are all that is left of it, and they read the log-probabilities that are not there.
            config.algorithm.rollout_correction = None
        self._shapes = Shapes.of(AutoConfig.from_pretrained(config.actor_rollout_ref.model.path).to_dict())
        super().__init__(config)

    def _balance_batch(
        self, batch: Any, metrics: dict[str, Any], logging_prefix: str = "global_seqlen", **_: Any
    ) -> Any:
        batch = super()._balance_batch(batch, metrics, logging_prefix)  # padded to the ranks, and in verl's order
        tags = batch.tags

        def work(rows: Sequence[int]) -> float:
            return group_flops(self._shapes, tags[rows[0]]["prompt_len"], [tags[row]["response_len"] for row in rows])

        ranks = max(self.actor_rollout_wg._dispatch_info["actor"]) + 1
        shares = share_rows([key.split("_")[0] for key in batch.keys], ranks, work)
        metrics.update(log_seqlen_unbalance([tag["seq_len"] for tag in tags], shares, prefix=logging_prefix))
        batch.reorder([row for share in shares for row in share])
        return batch

    def _compute_old_log_prob(self, batch: Any, metrics: dict[str, Any]) -> Any:
        return batch if self._one_pass else super()._compute_old_log_prob(batch, metrics)

    def _update_actor(self, batch: Any, metrics: dict[str, Any]) -> Any:
        batch = super()._update_actor(batch, metrics)
        # verl counts a prompt's tokens for each of its responses; they were not worked on so often.
        metrics.pop("perf/mfu/actor")
        if self._one_pass:
            if "actor/entropy_loss" in metrics:
                metrics["actor/entropy"] = metrics["actor/entropy_loss"]
            sums = {name: metrics.pop(name) for name in [*metrics] if name.startswith(f"actor/{PREFIX}")}
            metrics.update(agreement_metrics({name.removeprefix("actor/"): value for name, value in sums.items()}))
        return batch
