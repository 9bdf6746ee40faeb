"""Sums over packs give verl's metrics of the whole batch."""

from math import isnan

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from verl import DataProto
from verl.utils.debug.metrics import calculate_debug_metrics

from jigsaw.verl_plugin.agreement import FURTHEST, agreement_metrics, agreement_sums

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def joined(parts: list[dict[str, float]]) -> dict[str, float]:
    return {name: (max if name == FURTHEST else sum)(part[name] for part in parts) for name in parts[0]}


@given(st.integers(0, 2**32), st.integers(2, 40), st.integers(1, 4), st.sampled_from([1e-5, 1e-2, 1.0]))
def test_they_are_verls(seed: int, tokens: int, packs: int, spread: float) -> None:
    rng = torch.Generator().manual_seed(seed)
    trained = -torch.rand(tokens, generator=rng) * 5
    rollout = trained + spread * torch.randn(tokens, generator=rng)
    batch = {"responses": torch.ones(1, tokens).long(), "response_mask": torch.ones(1, tokens)}
    verls = calculate_debug_metrics(
        DataProto.from_dict({**batch, "old_log_probs": trained[None], "rollout_log_probs": rollout[None]})
    )
    parts = zip(trained.chunk(packs), rollout.chunk(packs), strict=True)
    ours = agreement_metrics(joined([agreement_sums(*part) for part in parts]))
    assert ours == pytest.approx(verls, rel=1e-3, abs=1e-7)


def test_of_no_token_it_is_said_that_nothing_is_known() -> None:
    nothing = torch.zeros(0)
    metrics = agreement_metrics(agreement_sums(nothing, nothing))
    assert metrics.pop("training/rollout_probs_diff_valid") == 0
    assert all(map(isnan, metrics.values()))
    assert agreement_metrics({}) == {}
