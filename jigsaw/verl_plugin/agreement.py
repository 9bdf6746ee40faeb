"""How far the probabilities of rollout and trainer are apart: verl's own metrics, from sums over packs and ranks.

verl works them out of a whole batch's log-probabilities (utils/debug/metrics.py), which an update does not return.
"""

from collections.abc import Mapping
from math import nan, sqrt

from torch import Tensor

PREFIX = "agreement/"
FURTHEST = f"{PREFIX}max"
"""The one that is a maximum; the others are sums."""


def agreement_sums(trained: Tensor, rollout: Tensor) -> dict[str, float]:
    """What :func:`agreement_metrics` needs of some tokens, in float64.

    Args:
        trained: the trainer's log-probabilities of response tokens, ``(tokens,)``.
        rollout: the rollout's, of the same tokens.
    """
    ours, theirs = trained.double().exp(), rollout.double().exp()
    apart = (ours - theirs).abs()
    sums = {
        "count": apart.new_tensor(len(apart)),
        "apart": apart.sum(),
        "apart²": (apart**2).sum(),
        "ours": ours.sum(),
        "theirs": theirs.sum(),
        "ours²": (ours**2).sum(),
        "theirs²": (theirs**2).sum(),
        "product": (ours * theirs).sum(),
        "max": apart.max() if len(apart) else apart.new_zeros(()),
    }
    return {f"{PREFIX}{name}": float(value) for name, value in sums.items()}


def agreement_metrics(sums: Mapping[str, float]) -> dict[str, float]:
    """verl's ``training/rollout_probs_diff_*`` and ``training/rollout_actor_probs_pearson_corr``.

    Args:
        sums: of :func:`agreement_sums`, added up; empty where the rollout tells no probabilities.
    """
    if not sums:
        return {}
    total = {name.removeprefix(PREFIX): value for name, value in sums.items()}
    count = total["count"]
    metrics = {"valid": float(count > 0), "max": nan, "mean": nan, "std": nan}
    correlation = nan
    if count:
        mean = total["apart"] / count
        metrics |= {"max": total["max"], "mean": mean}
        if count > 1:
            metrics["std"] = sqrt(max(0.0, total["apart²"] - count * mean**2) / (count - 1))
        spread = (total["ours²"] - total["ours"] ** 2 / count) * (total["theirs²"] - total["theirs"] ** 2 / count)
        if spread > 0:
            correlation = (total["product"] - total["ours"] * total["theirs"] / count) / sqrt(spread)
    return {
        **{f"training/rollout_probs_diff_{name}": value for name, value in metrics.items()},
        "training/rollout_actor_probs_pearson_corr": correlation,
    }
