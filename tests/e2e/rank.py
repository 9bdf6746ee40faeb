"""One data-parallel rank of verl's actor, real but for Ray: ``rank.py MODEL FOLDER RANK RANKS``.

Rank 0 leaves ``FOLDER/RANKS.safetensors`` (the whole weights after each update) and ``RANKS.json`` (its metrics).
"""

import datetime
import json
import os
import sys
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from safetensors.torch import save_file
from tensordict import TensorDict
from transformers import AutoProcessor
from verl import DataProto
from verl.trainer.ppo.padding_utils import construct_minimal_padding_template
from verl.trainer.ppo.v1.utils import compute_advantage_for_multi_trajectories
from verl.utils import tensordict_utils as tu
from verl.utils.metric import reduce_metrics
from verl.workers.engine_workers import ActorRolloutRefWorker
from verl.workers.utils.padding import response_to_nested

from jigsaw.verl_plugin.agent_loop import positions_of_the_rollout

KINDS = {"image": ("image", "text"), "video": ("video", "text"), "both": ("image", "video"), "text": ("text", "text")}
"""What the two sequences of a micro-batch hold."""
MEDIUM = {
    "image": "<|vision_start|><|image_pad|><|vision_end|>",
    "video": "<|vision_start|><|video_pad|><|vision_end|>",
    "text": "",
}
KINDS_OF_GROUPS = ("image", "image", "text", "image") * 3 + ("padding",) * 4
LENGTHS = (14, 9, 12, 17, 13, 16, 18, 8, 1, 3, 1, 4, 1, 1, 1, 1)
"""Tokens of the responses. The first of two ranks has twelve times as many to learn from as the second."""
Keep = Callable[[str, "Rank"], None]


class Sequences:
    """Batches with their advantages, as verl's trainer hands them to its workers; a pure function of the arguments."""

    def __init__(self, model: str) -> None:
        self._processor = AutoProcessor.from_pretrained(model)
        positions_of_the_rollout(self._processor)

    def _prompt(self, kind: str, rng: torch.Generator) -> tuple[torch.Tensor, dict[str, Any]]:
        """Token ids (L,) and features of a prompt with an image, a video or neither."""

        def noise(*size: int) -> torch.Tensor:
            return torch.randint(256, size, dtype=torch.uint8, generator=rng)

        shown: dict[str, Any] = {}
        if kind == "image":
            shown = {"images": [noise(3, 56, 84)]}
        elif kind == "video":
            metadata = {"fps": 2.0, "total_num_frames": 4, "frames_indices": [0, 1, 2, 3]}
            shown = {"videos": [noise(4, 3, 56, 56)], "video_metadata": [metadata], "do_sample_frames": False}
        features = dict(self._processor(text=[f"Look. {MEDIUM[kind]} Go."], **shown, return_tensors="pt"))
        del features["attention_mask"]
        return features.pop("input_ids")[0], features

    def _sequence(self, kind: str, length: int, rng: torch.Generator) -> dict[str, Any]:
        if kind == "padding":
            row = self._sequence("image", length, rng)
            padding, _ = construct_minimal_padding_template(row, {}, self._processor.tokenizer.eos_token_id)
            return {name: padding[name] for name in row}
        prompt, features = self._prompt(kind, rng)
        tokens = len(self._processor.tokenizer)
        response = torch.randint(tokens // 2, tokens, (length,), generator=rng)  # words, none of the special tokens
        ids = torch.cat([prompt, response])
        places = torch.arange(len(ids)).expand(4, -1)
        if kind != "text":
            vision, _ = self._processor.get_rope_index(
                input_ids=ids.unsqueeze(0),
                attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                **{name: value for name, value in features.items() if name.endswith("grid_thw")},
                **self._processor.get_rope_index_kwargs(features),
            )
            places = torch.cat([places[:1], vision[:, 0]])
        mask = torch.ones_like(response)
        # As far from the model's own probabilities, about 1 / tokens each, as to clip some of the ratios.
        old = torch.randn(length, generator=rng) * 0.3 - np.log(tokens)
        return {
            "prompts": prompt,
            "responses": response,
            "input_ids": ids,
            "position_ids": places,
            "response_mask": mask,
            "loss_mask": mask,
            "old_log_probs": old,
            "multi_modal_inputs": features,
        }

    def batch(self, kinds: Sequence[str], lengths: Sequence[int], *, seed: int) -> TensorDict:
        """Sequences of some kinds and response lengths; four neighbours are a group."""
        rng = torch.Generator().manual_seed(seed)
        rows = [self._sequence(kind, length, rng) for kind, length in zip(kinds, lengths, strict=True)]
        columns: dict[str, Any] = {name: [row[name] for row in rows] for name in rows[0]}
        for name, values in columns.items():
            if name != "multi_modal_inputs":
                columns[name] = tu.nested_tensor_from_tensor_list(values, ragged_idx=values[0].dim())
        mask = columns["response_mask"]
        rewards = torch.zeros(mask.to_padded_tensor(0).shape)
        rewards[torch.arange(len(rows)), mask.offsets().diff() - 1] = torch.rand(len(rows), generator=rng)
        groups = [str(number // 4) for number in range(len(rows))]
        scored = compute_advantage_for_multi_trajectories(
            DataProto.from_dict(
                {"token_level_rewards": rewards, "response_mask": mask.to_padded_tensor(0)},
                non_tensors={"uid": np.array(groups, dtype=object)},
            ),
            batch_keys=[f"{uid}_{number}_0" for number, uid in enumerate(groups)],
            adv_estimator="grpo",
        )
        columns["advantages"] = response_to_nested(scored.batch["advantages"], mask)
        return tu.get_tensordict(columns)


class Rank:
    """verl's actor worker with the quickstart's config, on this rank's part of each batch."""

    def __init__(self, model: str, *overrides: str) -> None:
        with initialize_config_dir(str(Path(__file__).parents[2] / "configs"), version_base=None):
            config = compose(
                "quickstart",
                [
                    "hydra.searchpath=[pkg://verl.trainer.config]",
                    f"actor_rollout_ref.model.path={model}",
                    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=2",
                    *(f"actor_rollout_ref.actor.{override}" for override in overrides),
                ],
            )
        self.metrics: dict[str, float] = {}
        self._worker = ActorRolloutRefWorker(config.actor_rollout_ref, role="actor")
        self._worker.init_model()
        self._engine = self._worker.actor.engine
        self._tower_calls = 0
        self._engine.module.model.visual.register_forward_pre_hook(self._count)
        self._start = [weight.detach().clone() for weight in self._engine.module.parameters()]

    def _count(self, *_: Any) -> None:
        self._tower_calls += 1

    def restart(self) -> None:
        """Go back to the first weights, with a new optimizer."""
        with torch.no_grad():
            for weight, start in zip(self._engine.module.parameters(), self._start, strict=True):
                weight.copy_(start)
        self._engine.optimizer.state.clear()

    def update(self, batch: TensorDict) -> None:
        """One update, as the trainer asks for it."""
        part = tu.chunk_tensordict(batch, self._worker.world_size)[self._worker.rank]
        tu.assign_non_tensor(
            part,
            calculate_entropy=True,
            global_batch_size=len(batch),
            mini_batch_size=len(batch),
            epochs=1,
            seed=0,
            dataloader_kwargs={"shuffle": False},
            temperature=1.0,
        )
        self._tower_calls = 0
        metrics = reduce_metrics(tu.get(self._worker.update_actor(part), "metrics"))
        self.metrics = {name: float(value) for name, value in metrics.items()}
        self.metrics["tower_calls"] = self._tower_calls / (len(part) // 2)  # a micro-batch

    def weights(self) -> dict[str, torch.Tensor]:
        """The whole weights by name; all ranks must ask."""
        return {name: weight.clone() for name, weight in self._engine.get_per_tensor_param()[0]}


def modalities(model: str, keep: Keep) -> None:
    """An update from the same start for each pair of micro-batches, which two ranks have one each of."""
    rank, sequences = Rank(model), Sequences(model)
    for pair in product(KINDS, repeat=2):
        kinds = [kind for name in pair for kind in KINDS[name]]
        rank.restart()
        rank.update(sequences.batch(kinds, (3, 8, 5, 2), seed=0))
        keep("-".join(pair), rank)


def updates(model: str, keep: Keep) -> None:
    """Two updates in a row, for two ways of averaging the loss."""
    sequences = Sequences(model)
    for mode in ("token-mean", "seq-mean-token-mean"):
        schedule = ("optim.lr_scheduler_type=cosine", "optim.total_training_steps=4")
        rank = Rank(model, f"loss_agg_mode={mode}", "optim.clip_grad=0.1", *schedule)
        keep(f"{mode}-0", rank)
        for number in (1, 2):
            rank.update(sequences.batch(KINDS_OF_GROUPS, LENGTHS, seed=number))
            keep(f"{mode}-{number}", rank)


def main() -> None:
    model, folder, rank, ranks = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    # What Ray tells verl's workers. verl takes the process group that is there; this one's timeout ends a deadlock.
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(ranks), MASTER_ADDR="localhost", MASTER_PORT="0")
    store, timeout = f"file://{folder / f'{ranks}.store'}", datetime.timedelta(seconds=60)
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=ranks, timeout=timeout)
    weights: dict[str, torch.Tensor] = {}
    metrics: dict[str, dict[str, float]] = {}

    def keep(name: str, after: Rank) -> None:
        weights.update({f"{name}/{key}": value.contiguous() for key, value in after.weights().items()})
        metrics[name] = after.metrics

    updates(model, keep)
    modalities(model, keep)
    if rank == 0:
        save_file(weights, folder / f"{ranks}.safetensors")
        (folder / f"{ranks}.json").write_text(json.dumps(metrics))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
