"""One data-parallel rank of verl's actor, real but for Ray: ``rank.py TIED_MODEL UNTIED_MODEL FOLDER RANK RANKS``.

Rank 0 leaves ``FOLDER/RANKS.safetensors`` (the whole weights and gradients after each update) and ``RANKS.json`` (its
metrics).
"""

import datetime
import json
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch.distributed.tensor import distribute_tensor
from transformers import AutoProcessor
from verl import DataProto
from verl.experimental.agent_loop.agent_loop import AgentLoopWorker
from verl.trainer.ppo.padding_utils import construct_minimal_padding_template
from verl.trainer.ppo.v1.utils import compute_advantage_for_multi_trajectories
from verl.utils import tensordict_utils as tu
from verl.utils.debug.metrics import calculate_debug_metrics
from verl.utils.metric import reduce_metrics
from verl.workers.engine_workers import ActorRolloutRefWorker
from verl.workers.utils.padding import response_from_nested

from jigsaw.verl_plugin.agreement import PREFIX, agreement_metrics
from jigsaw.verl_plugin.packed import PACKED_ENGINE
from jigsaw.verl_plugin.patches import positions_of_the_rollout
from jigsaw.verl_plugin.testing import compose_config

Row = dict[str, Any]
MICRO_BATCH = 2
PACK = 132
"""Tokens of a pack of the packed engine: enough for a padding row of verl's."""
LOG_PROBS = ("old_log_probs", "ref_log_prob", "rollout_log_probs")
PAIRS = {
    "image": ("image", "text"),
    "video": ("video", "text"),
    "both": ("image", "video"),
    "text": ("text", "padding"),
}
"""The two sequences of a micro-batch that holds images, videos, both or neither."""
GROUPS = tuple(zip(("image", "image", "text", "image") * 3, (14, 9, 12, 17, 13, 16, 18, 8, 1, 3, 1, 4), strict=True))
"""Three groups of four: kind and tokens of the response. The first of two ranks has almost all of the tokens."""
PADDING = (("padding", 1),) * 4
SIXTEEN = [("image", length) for length in (5, 1, 9, 0, 3, 3, 7, 2, 4, 6, 8, 1, 2, 5, 3, 4)]
TEMPERATURE = 1.0
AWKWARD = {
    "equal lengths": [("image", 5)] * 4,
    "padding alone in a micro-batch": [("image", 6), ("image", 3), *PADDING[:2]],
    "a response of no token": [("image", 6), ("image", 0), ("image", 2), ("image", 4)],
    "another response of no token": [("image", 6), ("text", 0), ("image", 2), ("image", 4)],
    "no token to learn from": [("image", 0), ("image", 0), *PADDING[:2]],
    "a group over the budget": [("image", 60), ("image", 50), ("image", 0), ("image", 70)],
}
Keep = Callable[[str, "Rank"], None]


class Sequences:
    """Sequences with their advantages, as verl's agent loop and trainer make them."""

    def __init__(self, model: str) -> None:
        self._processor = AutoProcessor.from_pretrained(model)
        positions_of_the_rollout(self._processor)

    def __call__(self, kinds: Sequence[tuple[str, int]], *, seed: int, n: int = 4) -> list[Row]:
        """Rows of some kinds and response lengths, a pure function of the arguments.

        n neighbours are a group, in which those of a kind answer one prompt.
        """
        rows = [
            self._row(kind, length, 1000 * seed + number, 1000 * seed + number // n)
            for number, (kind, length) in enumerate(kinds)
        ]
        mask = torch.nn.utils.rnn.pad_sequence([row["response_mask"] for row in rows], batch_first=True)
        rewards = torch.zeros(mask.shape)
        drawn = torch.rand(len(rows), generator=torch.Generator().manual_seed(seed))
        for row, of_row, reward in zip(rows, rewards, drawn, strict=True):
            if length := len(row["responses"]):
                of_row[length - 1] = reward
        uids = ["padding" if kind == "padding" else str(number // n) for number, (kind, _) in enumerate(kinds)]
        scored = compute_advantage_for_multi_trajectories(
            DataProto.from_dict(
                {"token_level_rewards": rewards, "response_mask": mask},
                non_tensors={"uid": np.array(uids, dtype=object)},
            ),
            batch_keys=[f"{uid}_{number}_0" for number, uid in enumerate(uids)],
            adv_estimator="grpo",
        )
        return [
            {**row, "uid": f"{uid} {kind}", "advantages": advantages[: len(row["responses"])]}
            for row, uid, (kind, _), advantages in zip(rows, uids, kinds, scored.batch["advantages"], strict=True)
        ]

    def _row(self, kind: str, length: int, seed: int, seed_of_prompt: int) -> Row:
        prompt, features = self._prompt(kind, torch.Generator().manual_seed(seed_of_prompt))
        rng = torch.Generator().manual_seed(seed)
        tokens = len(self._processor.tokenizer)
        response = torch.randint(tokens // 2, tokens, (length,), generator=rng)  # words, none of the special tokens
        ids = torch.cat([prompt, response])
        places = AgentLoopWorker._compute_position_ids(
            SimpleNamespace(processor=self._processor), ids.unsqueeze(0), torch.ones(1, len(ids)).long(), features
        )

        def odds() -> torch.Tensor:
            """As far from the model's own probabilities, about 1 / tokens each, as to clip some of the ratios."""
            return torch.randn(length, generator=rng) * 0.3 - np.log(tokens)

        row = {
            "prompts": prompt,
            "responses": response,
            "input_ids": ids,
            "position_ids": places[0],
            "response_mask": torch.ones_like(response),
            "loss_mask": torch.ones_like(response),
            "multi_modal_inputs": features,
            **{name: odds() for name in LOG_PROBS},
        }
        if kind != "padding":
            return row
        padding, _ = construct_minimal_padding_template(row, {}, self._processor.tokenizer.eos_token_id)
        return {**{name: padding[name] for name in row}, **{name: torch.zeros(1) for name in LOG_PROBS}}

    def _prompt(self, kind: str, rng: torch.Generator) -> tuple[torch.Tensor, Row]:
        """Token ids (L,) and features of a prompt with an image, a video or neither; padding is made from an image."""

        def noise(*size: int) -> torch.Tensor:
            return torch.randint(256, size, dtype=torch.uint8, generator=rng)

        medium = {"padding": "image"}.get(kind, kind)
        mark = "" if medium == "text" else f"<|vision_start|><|{medium}_pad|><|vision_end|>"
        shown: Row = {}
        if medium == "image":
            shown = {"images": [noise(3, 56, 84)]}
        elif medium == "video":
            metadata = {"fps": 2.0, "total_num_frames": 4, "frames_indices": [0, 1, 2, 3]}
            shown = {"videos": [noise(4, 3, 56, 56)], "video_metadata": [metadata], "do_sample_frames": False}
        features = dict(self._processor(text=[f"Look. {mark} Go."], **shown, return_tensors="pt"))
        del features["attention_mask"]
        return features.pop("input_ids")[0], features


class Rank:
    """verl's actor worker with the quickstart's config, on this rank's share of each batch."""

    def __init__(self, model: str, *overrides: str) -> None:
        self._packed = os.environ.get("VERL_ENGINE_VENDOR") == "packed"
        config = compose_config(
            Path(__file__).parents[2] / "configs",
            "quickstart",
            f"actor_rollout_ref.model.path={model}",
            f"actor_rollout_ref.model.external_lib={PACKED_ENGINE if self._packed else 'null'}",
            f"actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu={MICRO_BATCH}",
            f"actor_rollout_ref.actor.ppo_max_token_len_per_gpu={PACK}",
            f"actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu={MICRO_BATCH}",
            f"actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu={PACK}",
            *(f"actor_rollout_ref.{override}" for override in overrides),
        )
        self.metrics: dict[str, float] = {}
        self._worker = ActorRolloutRefWorker(config.actor_rollout_ref, role="actor")
        self._worker.init_model()
        self._engine = self._worker.actor.engine
        self._tower_calls = self._passes = 0
        modules = {name.rpartition(".")[2]: module for name, module in self._engine.module.named_modules()}
        modules["visual"].register_forward_pre_hook(self._count)
        modules["lm_head"].register_forward_pre_hook(self._count_pass)
        self.gradients: dict[str, torch.Tensor] = {}
        """The last update's, clipped, whole and by name."""
        self._engine.optimizer.register_step_pre_hook(self._keep_gradients)
        self._schedule = self._engine.lr_scheduler.state_dict()
        self._rates = [group["lr"] for group in self._engine.optimizer.param_groups]
        self._start = [weight.detach().clone() for weight in self._engine.module.parameters()]

    def _count(self, *_: Any) -> None:
        self._tower_calls += 1

    def _count_pass(self, *_: Any) -> None:
        self._passes += 1

    def _keep_gradients(self, *_: Any) -> None:
        named = self._engine.module.named_parameters()
        self.gradients = {name: weight.grad.full_tensor().clone() for name, weight in named if weight.grad is not None}

    def restart(self) -> None:
        """Go back to the first weights and the first learning rate, with a new optimizer."""
        with torch.no_grad():
            for weight, start in zip(self._engine.module.parameters(), self._start, strict=True):
                weight.copy_(start)
        self._engine.optimizer.state.clear()
        self._engine.lr_scheduler.load_state_dict(self._schedule)
        for group, rate in zip(self._engine.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate

    def draw(self, part: str) -> None:
        """Give the weights with that in their names other values, the same on any number of ranks."""
        rng = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, weight in self._engine.module.named_parameters():
                if part in name:
                    drawn = 0.02 * torch.randn(weight.shape, generator=rng)
                    weight.copy_(distribute_tensor(drawn, weight.device_mesh, weight.placements))

    def update(self, rows: Sequence[Row], *, nominal: int | None = None, updates: int = 1) -> None:
        """As the trainer asks for it; nominal rows make a batch, if not so many as there are."""
        part = self._share(rows)
        tu.assign_non_tensor(
            part,
            calculate_entropy=True,
            global_batch_size=(nominal or len(rows)) // updates,
            mini_batch_size=len(rows) // updates,
            epochs=1,
            seed=0,
            dataloader_kwargs={"shuffle": False},
            temperature=TEMPERATURE,
        )
        self._tower_calls = self._passes = 0
        metrics = reduce_metrics(tu.get(self._worker.update_actor(part), "metrics"))
        self.metrics = {name: float(value) for name, value in metrics.items()}
        passes = self._passes if self._packed else len(part) // MICRO_BATCH
        self.metrics["tower_calls"] = self._tower_calls / passes

    def update_on_its_own_words(self, rows: Sequence[Row]) -> None:
        """An update on responses of the very policy, before which verl asks for their log-probabilities."""
        rows = [{name: value for name, value in row.items() if name != "old_log_probs"} for row in rows]
        if self._packed:
            self.update(rows)
            sums = {name: value for name, value in self.metrics.items() if name.startswith(PREFIX)}
            self.metrics.update(agreement_metrics(sums))
            return
        log_probs, _ = self.log_probs(rows)
        self.update([{**row, "old_log_probs": of_row} for row, of_row in zip(rows, log_probs, strict=True)])
        columns = {name: [row[name] for row in rows] for name in ("responses", "response_mask", "rollout_log_probs")}
        padded = {
            name: torch.nn.utils.rnn.pad_sequence(values, batch_first=True)
            for name, values in {**columns, "old_log_probs": log_probs}.items()
        }
        self.metrics.update(calculate_debug_metrics(DataProto.from_dict(padded)))

    def log_probs(self, rows: Sequence[Row]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Of each row's response tokens, the log-probabilities and the entropies; of all ranks' rows."""
        part = self._share(rows)
        tu.assign_non_tensor(part, calculate_entropy=True, compute_loss=False, temperature=TEMPERATURE)
        output = self._worker.compute_log_prob(part)
        of_ranks: list[Any] = [None] * self._worker.world_size
        found = [list(response_from_nested(output[name], part["response_mask"])) for name in ("log_probs", "entropy")]
        torch.distributed.all_gather_object(of_ranks, found)
        log_probs, entropy = ([values for of_rank in of_ranks for values in of_rank[which]] for which in (0, 1))
        return log_probs, entropy

    def _share(self, rows: Sequence[Row]) -> Any:
        """This rank's rows, each column packed as TransferQueue packs it."""
        share = len(rows) // self._worker.world_size
        rows = rows[self._worker.rank * share :][:share]
        columns: dict[str, Any] = {name: [row[name] for row in rows] for name in rows[0]}
        for name, values in columns.items():
            if name not in ("multi_modal_inputs", "uid"):
                columns[name] = torch.nested.as_nested_tensor(values, layout=torch.jagged)
        return tu.get_tensordict(columns)

    def weights(self) -> dict[str, torch.Tensor]:
        """The whole weights by name; all ranks must ask."""
        return {name: weight.clone() for name, weight in self._engine.get_per_tensor_param()[0]}


def updates(model: str, sequences: Sequences, keep: Keep) -> None:
    """Two updates in a row, for two ways of averaging the loss; then the first once more, without its padding."""
    for mode, checkpointing in (("token-mean", "false"), ("seq-mean-token-mean", "true")):
        options = [f"loss_agg_mode={mode}", "optim.clip_grad=0.1"]
        options += ["optim.lr_scheduler_type=cosine", "optim.total_training_steps=4"]
        overrides = [*(f"actor.{option}" for option in options), f"model.enable_gradient_checkpointing={checkpointing}"]
        rank = Rank(model, *overrides)
        keep(f"{mode}-0", rank)
        for number in (1, 2):
            rank.update(sequences([*GROUPS, *PADDING], seed=number))
            keep(f"{mode}-{number}", rank)
        rank.restart()
        rank.update(sequences(GROUPS, seed=1), nominal=len(GROUPS + PADDING))
        keep(f"{mode}-unpadded", rank)


def single_updates(model: str, sequences: Sequences, keep: Keep) -> None:
    """Updates from one start: each pair of micro-batches, of which two ranks have one each, and awkward batches."""
    rank = Rank(model)
    keep("start", rank)
    batches = {
        f"{first}-{second}": list(zip(PAIRS[first] + PAIRS[second], (3, 8, 5, 2), strict=True))
        for first, second in product(PAIRS, repeat=2)
    }
    for name, kinds in {**batches, **AWKWARD}.items():
        rank.restart()
        rank.update(sequences(kinds, seed=0))
        keep(name, rank)
    rank.restart()
    rank.update(sequences(SIXTEEN, seed=3, n=16))
    keep("a group of sixteen", rank)
    rank.restart()
    rank.update_on_its_own_words(sequences([*GROUPS, *PADDING], seed=1))
    keep("its own words", rank)
    rank.restart()
    rank.update(sequences(GROUPS, seed=1))
    keep("float32", rank)
    rank.restart()
    log_probs, entropy = rank.log_probs(sequences([*GROUPS, *PADDING], seed=1))
    rank.gradients = {"log_probs": torch.cat(log_probs), "entropy": torch.cat(entropy)}
    keep("log-probabilities", rank)
    # Adam would move a weight whose gradient is all rounding as far as any other, and with it the second gradient.
    rank = Rank(model, "actor.optim.optimizer=SGD", "actor.optim.lr=0.1")
    rank.update(sequences([*GROUPS, *PADDING], seed=1), updates=2)
    keep("two updates a step", rank)
    rank = Rank(model, "actor.use_kl_loss=true", "actor.kl_loss_coef=0.1")
    rank.update(sequences([*GROUPS, *PADDING], seed=1))
    keep("kl", rank)
    rank = Rank(model, "actor.fsdp_config.mixed_precision.param_dtype=bf16")
    rank.update(sequences(GROUPS, seed=1))
    keep("bfloat16", rank)
    torch.manual_seed(0)  # adapters are drawn
    rank = Rank(model, "model.lora_rank=4", "model.lora_alpha=8", "model.target_modules=all-linear")
    rank.draw("lora_B")
    rank.update(sequences([*GROUPS, *PADDING], seed=1))
    keep("lora", rank)


def main() -> None:
    tied, untied, folder, rank, ranks = *sys.argv[1:3], Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
    # What Ray tells verl's workers. verl takes the process group that is there; this one's timeout ends a deadlock.
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(ranks), MASTER_ADDR="localhost", MASTER_PORT="0")
    store, timeout = f"file://{folder / f'{ranks}.store'}", datetime.timedelta(seconds=60)
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=ranks, timeout=timeout)
    weights: dict[str, torch.Tensor] = {}
    metrics: dict[str, dict[str, float]] = defaultdict(dict)

    def keep(name: str, after: Rank) -> None:
        weights.update({f"{name}/{key}": value.contiguous() for key, value in after.weights().items()})
        weights.update({f"{name} gradients/{key}": value.contiguous() for key, value in after.gradients.items()})
        metrics[name] = after.metrics

    sequences = Sequences(tied)
    updates(untied, sequences, keep)
    single_updates(tied, sequences, keep)
    if rank == 0:
        save_file(weights, folder / f"{ranks}.safetensors")
        (folder / f"{ranks}.json").write_text(json.dumps(metrics))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
