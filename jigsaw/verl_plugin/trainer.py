"""verl's synchronous trainer, which warns, keeps some replies and ends in order; and that of the packed engine."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import transfer_queue as tq
from omegaconf import DictConfig
from transformers import AutoConfig
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils.debug import marked_timer
from verl.utils.seqlen_balancing import log_seqlen_unbalance

from jigsaw.flops import group_flops
from jigsaw.packing.packs import share_rows
from jigsaw.shapes import Shapes
from jigsaw.verl_plugin.agent_loop import ANSWER
from jigsaw.verl_plugin.agreement import PREFIX, agreement_metrics
from jigsaw.verl_plugin.benchmarks import MARK, REPLY
from jigsaw.verl_plugin.checkpoint import is_whole, loading, saving
from jigsaw.verl_plugin.packed import needs_log_probs
from jigsaw.verl_plugin.sampler import in_order
from jigsaw.verl_plugin.stop import Stopped, is_asked
from jigsaw.verl_plugin.watch import Limits, Watch

_OF_ROW = ("id", "task", "epoch")
"""What a kept reply says of its row, by which its puzzle can be made again."""


class JigsawTrainer(PPOTrainerSync):  # type: ignore[misc]
    """verl's trainer, which warns of what it sees, keeps the replies of some prompts of some steps, and ends if asked.

    A checkpoint counts once its step's metrics are written.
    """

    def __init__(self, config: DictConfig) -> None:
        self._watch = Watch(Limits.of(config.trainer.warnings))
        super().__init__(config)

    def on_init_end(self) -> None:
        """Weights are loaded; nothing is trained yet."""
        super().on_init_end()
        self._end_if_asked(self.global_steps)

    def on_step_begin(self) -> None:
        """The step before is saved, if it was its turn, and its metrics are written."""
        self.checkpoint_callback.mark()
        self._end_if_asked(self.global_steps - 1)
        super().on_step_begin()

    def fit(self, agent_loop_manager: Any) -> None:
        """Train to the end.

        Raises:
            Stopped: if it was asked to end before.
        """
        super().fit(agent_loop_manager)
        self.checkpoint_callback.mark()

    def _save_checkpoint(self) -> None:
        with saving(Path(self.config.trainer.default_local_dir) / f"global_step_{self.global_steps}"):
            super()._save_checkpoint()

    def _load_checkpoint(self) -> None:
        trainer = self.config.trainer
        with loading(Path(trainer.resume_from_path or trainer.default_local_dir)):
            super()._load_checkpoint()

    def _end_if_asked(self, step: int) -> None:
        """Save what was trained up to a step and end, where that was asked for."""
        trainer = self.config.trainer
        folder = Path(trainer.default_local_dir)
        if not is_asked(folder):
            return
        if step > 0 and trainer.save_freq > 0 and not is_whole(folder, step):
            self.global_steps = step
            self._save_checkpoint()
            self.checkpoint_callback.mark()
        self._shutdown_dump_executor()
        saved = f"it is saved as global_step_{step}" if is_whole(folder, step) else "it is not saved"
        raise Stopped(f"stopped by SIGTERM after step {step} of {self.total_training_steps}; {saved}")

    def _val_metrics_update(
        self,
        data_sources: list[str],
        sample_uids: list[str],
        reward_extra_infos_dict: dict[str, list[Any]],
        sample_turns: list[int],
        expected_acc_counts: dict[tuple[str, str], int] | None = None,
    ) -> dict[str, float]:
        """verl's own of the held-out puzzles, and the figures of benchmarks."""
        # None of them where no question was asked, or answered.
        nothing = [None] * len(data_sources)
        said = {name: reward_extra_infos_dict.pop(name, nothing) for name in (MARK, REPLY)}
        replies: dict[int, str] = {}
        for place, reply in zip(said[MARK], said[REPLY], strict=True):
            if place is not None:
                replies.setdefault(place, reply)
        kept = [number for number, place in enumerate(said[MARK]) if place is None]
        puzzles = super()._val_metrics_update(
            [data_sources[number] for number in kept],
            [sample_uids[number] for number in kept],
            {name: [values[number] for number in kept] for name, values in reward_extra_infos_dict.items()},
            [sample_turns[number] for number in kept],
            {key: count for key, count in (expected_acc_counts or {}).items() if not key[0].startswith(f"{MARK}/")},
        )
        return {**puzzles, **self.val_dataset.benchmarks.figures(replies)}

    def _compute_metrics(self, batch: Any, metrics: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        super()._compute_metrics(batch, metrics, *args, **kwargs)
        for line in self._watch.see(metrics):
            print(f"warning: step {self.global_steps}: {line}", flush=True)

    def _log_rollout_data(self, batch: Any, timing_raw: dict[str, Any], rollout_data_dir: str) -> None:
        """Write the replies to the first prompts of the first step and of each ``trainer.rollout_freq``-th.

        verl writes all of every step, gigabytes of a long run, without a word on which row a reply is to.
        """
        trainer = self.config.trainer
        if self.global_steps > 1 and self.global_steps % trainer.rollout_freq:
            return
        with marked_timer("dump_rollout_generations", timing_raw):
            keys = in_order([key for key, tag in zip(batch.keys, batch.tags, strict=True) if not tag.get("is_padding")])
            prompts = list(dict.fromkeys(key.split("_")[0] for key in keys))[: trainer.rollout_prompts]
            keys = [key for key in keys if key.split("_")[0] in prompts]
            fields = ["prompts", "responses", "rm_scores", "reward_model", "extra_info", "extra_fields", "data_source"]
            data = tq.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=fields)
            self._dump_generations(
                inputs=self._texts(data["prompts"]),
                outputs=self._texts(data["responses"]),
                gts=[truth["ground_truth"] for truth in data["reward_model"]],
                scores=[float(scores.sum()) for scores in data["rm_scores"].unbind()],
                reward_extra_infos_dict={
                    "uid": keys,
                    "data_source": list(data["data_source"]),
                    **_columns([{name: row.get(name) for name in _OF_ROW} for row in data["extra_info"]]),
                    **_columns(
                        [{ANSWER: said.get(ANSWER), **said["reward_extra_info"]} for said in data["extra_fields"]]
                    ),
                },
                dump_path=rollout_data_dir,
            )

    def _texts(self, tokens: Any) -> list[str]:
        return [self.tokenizer.decode(ids, skip_special_tokens=True) for ids in tokens.unbind()]


def _columns(rows: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Values by name, None where a row has none; verl has a name for the score."""
    names = dict.fromkeys(name for row in rows for name in row if name != "score")
    return {name: [row.get(name) for row in rows] for name in names}


class PackedTrainer(JigsawTrainer):
    """The responses of a prompt go to one rank, and one update a step takes one forward pass."""

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
