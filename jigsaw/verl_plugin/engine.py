"""verl's FSDP engine, training each prompt once for all of its responses (jigsaw/packing).

A micro-batch is a pack: whole prompts, each followed in attention by its responses, without padding. What verl's losses
read of it is what they read of verl's own engine, so that they stay verl's. Chosen by
``actor_rollout_ref.model.external_lib``; verl takes it where ``VERL_ENGINE_VENDOR`` is ``packed`` (configs/base.yaml).
"""

from collections.abc import Callable
from contextlib import nullcontext
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_id, get_device_name
from verl.utils.metric import Metric
from verl.utils.model import extract_multi_modal_inputs
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead
from verl.workers.engine.utils import detach_tree, postprocess_batch_func

from jigsaw.errors import JigsawError
from jigsaw.packing.layout import Layout
from jigsaw.packing.model import take_packs
from jigsaw.packing.packs import plan_packs
from jigsaw.verl_plugin.agreement import FURTHEST, agreement_sums

MEDIA = ("pixel_values", "image_grid_thw", "pixel_values_videos", "video_grid_thw")


@EngineRegistry.register(
    model_type="language_model", backend=["fsdp", "fsdp2"], device=["cuda", "cpu"], vendor="packed"
)
class PackedEngine(FSDPEngineWithLMHead):  # type: ignore[misc]
    """Log-probabilities, entropies and gradients of verl's engine, from packs."""

    def _build_module(self) -> Any:
        return take_packs(super()._build_module())

    def forward_backward_batch(
        self, data: TensorDict, loss_function: Callable[..., Any] | None, forward_only: bool = False
    ) -> Any:
        """verl's own over packs; every rank makes the same number of them.

        Raises:
            JigsawError: if a response and its prompt have more tokens than ``max_token_len_per_gpu``.
        """
        group = self.get_data_parallel_group()
        tokens = data["loss_mask"].sum().to(get_device_id())
        dist.all_reduce(tokens, group=group)
        tu.assign_non_tensor(data, batch_num_tokens=tokens.item(), dp_size=self.get_data_parallel_size())
        tu.assign_non_tensor(data, use_dynamic_bsz=True)  # rows come back in another order
        keeps_output = tu.get_non_tensor_data(data=data, key="return_model_output", default=False)
        packs = self._packs(data, group)
        outputs = []
        for number, rows in enumerate(packs):
            last = number == len(packs) - 1
            sync = nullcontext() if forward_only else self._gradient_sync_context(is_last_micro_batch=last)
            with torch.no_grad() if forward_only else nullcontext(), sync:
                pack = tu.index_select_tensor_dict(data, rows)
                loss, output = self.forward_step(pack, loss_function, forward_only)
                if not forward_only:
                    (loss if self.scaler is None else self.scaler.scale(loss)).backward()
                    if not keeps_output:
                        output.pop("model_output")
            outputs.append(output)
        return postprocess_batch_func(output_lst=outputs, indices=packs, data=data)

    def _packs(self, data: TensorDict, group: Any) -> list[list[int]]:
        """The rows of each pack, as many packs as on the rank that needs most: verl deals every rank as many rows."""
        prompts, responses = (data[name].offsets().diff().tolist() for name in ("prompts", "responses"))
        budget = int(data["max_token_len_per_gpu"])
        names = [str(name) for name in data["uid"]]

        def plan(least: int) -> list[list[int]]:
            try:
                return plan_packs(prompts, responses, names, budget, least)
            except ValueError as error:
                raise JigsawError(
                    f"{error}; raise actor_rollout_ref.actor.ppo_max_token_len_per_gpu, or lower "
                    "data.max_response_length"
                ) from error

        packs = plan(1)
        most = torch.tensor(len(packs), device=get_device_id())
        dist.all_reduce(most, op=dist.ReduceOp.MAX, group=group)
        return packs if len(packs) == int(most) else plan(int(most))

    def forward_step(
        self, micro_batch: TensorDict, loss_function: Callable[..., Any] | None, forward_only: bool
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """One pack, its rows in the order of their groups."""
        autocast = (
            nullcontext()
            if self._autocast_dtype == torch.float32
            else torch.autocast(device_type=get_device_name(), dtype=self._autocast_dtype)
        )
        inputs = pack_inputs(micro_batch)
        micro_batch = micro_batch.to(get_device_id())
        with autocast:
            chosen, entropy = self.module(**inputs)
            model_output = {"log_probs": unpacked(chosen, micro_batch)}
            if tu.get_non_tensor_data(data=micro_batch, key="calculate_entropy", default=False):
                model_output["entropy"] = unpacked(entropy, micro_batch)
            if loss_function is None:
                loss, metrics = chosen.new_ones(()), {}
            else:
                compared = self._as_its_own_policy(micro_batch, chosen)
                loss, metrics = loss_function(
                    model_output=model_output, data=micro_batch, dp_group=self.get_data_parallel_group()
                )
                metrics.update(compared)
        return loss, {"model_output": detach_tree(model_output), "loss": loss.detach().item(), "metrics": metrics}

    def _as_its_own_policy(self, rows: TensorDict, chosen: torch.Tensor) -> dict[str, Metric]:
        """Give rows without ``old_log_probs``, of the policy that is trained, what this pass says; the ratio is then 1.

        Args:
            rows: a pack.
            chosen: the log-probabilities of its response tokens.

        Returns:
            Where the rollout tells its own, what agreement.py needs, all ranks' sums after verl's mean over them.
        """
        if "old_log_probs" in rows:
            return {}
        chosen = chosen.detach()
        lengths = rows["responses"].offsets().diff().tolist()
        rows["old_log_probs"] = torch.nested.as_nested_tensor(list(torch.split(chosen, lengths)), layout=torch.jagged)
        if "rollout_log_probs" not in rows:
            return {}
        learned = rows["response_mask"].values().bool()
        sums = agreement_sums(chosen[learned], rows["rollout_log_probs"].values()[learned])
        ranks = self.get_data_parallel_size()
        return {
            name: Metric("max", value) if name == FURTHEST else Metric("sum", value * ranks)
            for name, value in sums.items()
        }


def pack_inputs(rows: TensorDict) -> dict[str, Any]:
    """What the model takes of rows that lie group by group: a prompt and its media of the first row of each."""
    device = get_device_id()
    lengths = rows["prompts"].offsets().diff().tolist()
    ids, positions = rows["input_ids"].unbind(), _positions(rows)
    names = [str(name) for name in rows["uid"]]
    first = [row for row, name in enumerate(names) if row == 0 or names[row - 1] != name]
    groups = [range(begin, end) for begin, end in zip(first, [*first[1:], len(names)], strict=True)]
    pack = Layout(
        tuple(lengths[row] for row in first),
        tuple(tuple(len(ids[row]) - lengths[row] for row in group) for group in groups),
        torch.device(device),
    )

    def join(values: list[torch.Tensor]) -> torch.Tensor:
        prompts = [values[row][..., : lengths[row]] for row in first]
        return pack.join(prompts, [[values[row][..., lengths[row] :] for row in group] for group in groups])

    features = list(rows.get("multi_modal_inputs", []))
    media = extract_multi_modal_inputs([features[row] for row in first]) if features else {}
    return {
        "pack": pack,
        "input_ids": join(list(ids))[None].to(device),
        "position_ids": join(positions)[-3:, None].to(device),
        "temperature": float(rows["temperature"]),
        **{name: media[name] if name.endswith("thw") else media[name].to(device) for name in MEDIA if name in media},
    }


def _positions(rows: TensorDict) -> list[torch.Tensor]:
    """Each row's position ids (rows, tokens), without the copies that unbinding a ragged tensor of three axes makes."""
    ids = rows["position_ids"]
    values, offsets = ids.values(), rows["input_ids"].offsets().tolist()
    if values.dim() == 1:  # of text alone: one row for all three
        values = values.expand(3, -1)
    return [values[:, begin:end] for begin, end in pairwise(offsets)]


def unpacked(values: torch.Tensor, rows: TensorDict) -> torch.Tensor:
    """Values of response tokens where verl looks for them: one place before each token, 0 elsewhere."""
    offsets = rows["input_ids"].offsets()
    prompts, responses = (rows[name].offsets().diff() for name in ("prompts", "responses"))
    begin = (offsets[:-1] + prompts - 1).repeat_interleave(responses)
    within = torch.arange(len(values), device=values.device) - (responses.cumsum(0) - responses).repeat_interleave(
        responses
    )
    whole = values.new_zeros(int(offsets[-1])).index_copy(0, begin + within, values)
    return torch.nested.nested_tensor_from_jagged(whole, offsets)
