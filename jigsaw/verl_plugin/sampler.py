"""verl's replay buffer, with failed groups left out, counted and limited, and without its two-second pause."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from numbers import Real
from statistics import fmean
from typing import Any

import transfer_queue as tq
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

from jigsaw.errors import JigsawError
from jigsaw.verl_plugin.agent_loop import ANSWER, JigsawAgentLoopManager
from jigsaw.verl_plugin.difficulty import Schedule
from jigsaw.verl_plugin.features import clear_unused
from jigsaw.verl_plugin.watch import SAME_ANSWER

# The share of failed prompts is taken of at least so many, so that one bad file never ends a short run.
_SMALLEST_BASE = 100
Score = tuple[str, str, dict[str, Any], str | None]
"""Of a response: its prompt's uid, its task, what the reward says of it, and its answer."""
_WHERE = "failed_prompts.jsonl beside the checkpoints says which and why"


class JigsawReplayBuffer(ReplayBuffer):  # type: ignore[misc]
    """Samples whole groups only.

    A prompt whose media cannot be read gives no response; verl pads the step. A prompt of which only some responses
    failed would enter the step as a smaller group; here it is left out too. ``sampler_kwargs``:

    * ``max_failed_share``: the run stops when more than this share of its prompts failed (one is always allowed), and
      where all of a step or of a validation batch did;
    * ``filter_groups``, ``train_batch_size``: with ``filter_groups.enable`` prompts whose responses all have one value
      of ``filter_groups.metric`` teach nothing; they are replaced by others, as DAPO does ("dynamic sampling");
    * ``difficulty``, ``checkpoints``: the schedule, and the folder that holds what it goes by (difficulty.py);
    * ``poll_interval``: seconds between two looks at the queue. verl 0.9.1 waits 2.0 s, which is most of a step of
      a small model.
    """

    def __init__(self, *, sampler_kwargs: Any, **kwargs: Any) -> None:
        filtered = sampler_kwargs.filter_groups
        super().__init__(
            sampler_kwargs=sampler_kwargs,
            poll_interval=sampler_kwargs.poll_interval,
            # verl tells these to its own sampler alone.
            filter_groups_metric=filtered.metric if filtered.enable else None,
            max_inflight_gen_batches=filtered.max_inflight_gen_batches,
            train_batch_size=sampler_kwargs.train_batch_size,
            gen_batch_size=1,
            **kwargs,
        )
        self._schedule = Schedule(sampler_kwargs.checkpoints, sampler_kwargs.difficulty)
        self._max_failed_share = float(sampler_kwargs.max_failed_share)
        self._seen = 0
        self._failed = 0
        self._cleared: list[Score] = []
        """With a schedule: of the prompts of this step that it is not trained on."""

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[Any, dict[str, Any]]:
        """verl's sample, with the reward's metrics and the count of failed prompts among its own.

        Added for training batches: ``reward/exact`` and so on, the mean over the batch of each metric that
        :func:`jigsaw.reward.compute_score` returns (verl 0.9.1 averages them in validation alone); the same for the
        rows of each task, ``reward/video/exact``, and how many prompts of it the batch has, ``training/prompts/video``;
        ``reward/video/same_answer``, the share of the task's replies whose answer is the most common one;
        ``training/failed_prompts`` (this step) and ``training/failed_prompts_total``.

        Raises:
            JigsawError: if too many prompts failed so far, or all of this batch.
        """
        before = self._failed
        if partition_id == "train":
            clear_unused()
            self._cleared.clear()
        batch, metrics = super().sample(global_steps, partition_id, batch_size)
        if partition_id == "train":
            self._seen += batch_size
            failed = self._failed - before
            scores = _scores(partition_id, batch.keys)
            levels = self._schedule.levels(global_steps)
            if levels:
                of_all = _reward_metrics([*scores, *self._cleared])
                self._schedule.record(global_steps, {task: of_all.get(f"reward/{task}/exact") for task in levels})
            metrics.update(
                _reward_metrics(scores), **{f"training/difficulty/{task}": level for task, level in levels.items()}
            )
            metrics["training/failed_prompts"] = failed
            metrics["training/failed_prompts_total"] = self._failed
            if self._failed > max(1, self._max_failed_share * max(self._seen, _SMALLEST_BASE)):
                raise JigsawError(
                    f"{self._failed} of {self._seen} prompts failed, more than max_failed_share="
                    f"{self._max_failed_share}; {_WHERE}"
                )
        return batch, metrics

    def _select_prompt_uids(self, partition_id: str, sampleable_keys: set[str], batch_size: int) -> Any:
        oldest_first, *snapshots = super()._select_prompt_uids(partition_id, sampleable_keys, len(sampleable_keys))
        failed = self.failure_keys[partition_id]
        # Dynamic sampling may have more than a step needs; failed groups are then the first to go.
        selected = sorted(oldest_first, key=failed.__contains__)[:batch_size]
        if failed.issuperset(selected):  # verl goes on, and fails on the empty batch
            raise JigsawError(f"all {len(selected)} prompts of a batch failed; {_WHERE}")
        return selected, *snapshots

    def _wait_for_next_poll(self, partition_id: str, last_debug_time: float) -> float:
        def unfinished() -> set[str]:
            self._sync_metadata_from_transfer_queue()  # a worker may have finished them just before it died
            return set(self.pending_keys[partition_id] | self.running_keys[partition_id])

        if (manager := JigsawAgentLoopManager.running) is not None:
            manager.give_again(partition_id, unfinished)
        return float(super()._wait_for_next_poll(partition_id, last_debug_time))

    def _clear_groups(self, partition_id: str, uids: set[str]) -> None:
        if partition_id == "train":
            self._seen += len(uids)
            self._failed += len(uids & self.failure_keys[partition_id])
            # Dynamic sampling leaves out what is always right. A schedule that did not count it would never rise.
            if self.sampler_kwargs.difficulty:
                keys = [key for key in self.partitions[partition_id] if key.split("_")[0] in uids]
                self._cleared += _scores(partition_id, keys)
        super()._clear_groups(partition_id, uids)

    def _materialize_batch(
        self, partition_id: str, selected_prompt_uids: list[str], partition_snapshot: dict[str, dict[str, Any]]
    ) -> Any:
        failed = {uid for uid in selected_prompt_uids if uid in self.failure_keys[partition_id]}
        if partition_id == "train":
            self._failed += len(failed)
        partial = [key for key in partition_snapshot if key.split("_")[0] in failed]
        if partial:
            tq.kv_clear(partition_id=partition_id, keys=partial)
        whole = {key: partition_snapshot[key] for key in in_order(partition_snapshot.keys() - partial)}
        return super()._materialize_batch(partition_id, selected_prompt_uids, whole)


def in_order(keys: Iterable[str]) -> list[str]:
    """Replies in the order of the data, not in that in which they came: sums of floats depend on it."""
    manager = JigsawAgentLoopManager.running
    places = {uid: place for place, uid in enumerate(manager.uids)} if manager else {}

    def place(key: str) -> tuple[int, list[int]]:
        uid, *numbers = key.split("_")
        return places.get(uid, len(places)), [int(number) for number in numbers]

    return sorted(keys, key=place)


def _scores(partition_id: str, keys: list[str]) -> list[Score]:
    if not keys:
        return []
    fields = ["extra_fields", "extra_info"]
    data = tq.kv_batch_get(keys=keys, partition_id=partition_id, select_fields=fields)
    return [
        (key.split("_")[0], extra_info["task"], extra_fields["reward_extra_info"], extra_fields.get(ANSWER))
        for key, extra_fields, extra_info in zip(keys, *(list(data[name]) for name in fields), strict=True)
    ]


def _reward_metrics(scores: list[Score]) -> dict[str, float]:
    groups: dict[str, list[dict[str, Any]]] = {}
    prompts: dict[str, set[str]] = {}
    answers: dict[str, list[str | None]] = {}
    for uid, task, score, answer in scores:
        for group in ("reward", f"reward/{task}"):
            groups.setdefault(group, []).append(score)
        prompts.setdefault(task, set()).add(uid)
        answers.setdefault(task, []).append(answer)
    return {
        **{f"training/prompts/{task}": float(len(uids)) for task, uids in prompts.items()},
        **{f"reward/{task}/{SAME_ANSWER}": _share_of_one(given) for task, given in answers.items()},
        **{
            f"{group}/{name}": fmean(values)
            for group, members in groups.items()
            for name in dict.fromkeys(chain.from_iterable(members))
            # A custom reward may say text, or less of one reply than of another.
            if (values := [score[name] for score in members if isinstance(score.get(name), Real)])
        },
    }


def _share_of_one(answers: Sequence[str | None]) -> float:
    """The share of replies that have the answer that most of them have."""
    counts = Counter(answer for answer in answers if answer is not None)
    return max(counts.values(), default=0) / len(answers)
