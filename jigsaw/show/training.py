"""What a training run looked like: its metrics file read back, and the picture of its curves."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean

from jigsaw.files import atomic_write

Metrics = dict[str, float]
VALID = "reward/valid_permutation"
"""Share of a step's sampled replies that name every piece once."""


def read_metrics(files: Iterable[Path]) -> dict[int, Metrics]:
    """Metrics by step from files of verl's file logger; a later file overrides an earlier one, step by step.

    Args:
        files: JSON-lines files, ``{"step", "data"}`` a line; a last line that is not complete yet is left out.
    """
    steps: dict[int, Metrics] = {}
    for file in files:
        if not file.is_file():
            continue
        for line in file.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n"):
                record = json.loads(line)
                steps.setdefault(record["step"], {}).update(record["data"])
    return dict(sorted(steps.items()))


def heldout_exact(metrics: Metrics) -> float | None:
    """Exact accuracy of a validation that ran at this step, None where none did.

    Of several data sources it is their mean, each weighing the same: the metrics do not say how many rows each has.
    """
    of_sources = [value for name, value in metrics.items() if name.startswith("val-core/") and "/acc/mean@" in name]
    return fmean(of_sources) if of_sources else None


def plot_training(steps: dict[int, Metrics], path: Path, *, chance: float, title: str) -> None:
    """Draw reward, exact accuracy and valid permutations, entropy and response length against the step.

    Args:
        steps: see :func:`read_metrics`.
        path: PNG to write, by rename.
        chance: exact accuracy of a blind guess, drawn as a line.
        title: above the picture.
    """
    os.environ.setdefault("MPLBACKEND", "Agg")
    from matplotlib import pyplot as plt

    trained = {step: values for step, values in steps.items() if "critic/score/mean" in values}
    validated = {step: exact for step, values in steps.items() if (exact := heldout_exact(values)) is not None}
    figure, axes = plt.subplots(2, 2, figsize=(9, 6), sharex=True, layout="constrained")
    panels = (
        ("critic/score/mean", "reward (mean of a step)"),
        ("reward/exact", "exact accuracy, valid permutations"),
        ("actor/entropy", "entropy (nats a token)"),
        ("response_length/mean", "response length (tokens)"),
    )
    for axis, (name, label) in zip(axes.flat, panels, strict=True):
        points = {step: values[name] for step, values in trained.items() if name in values}
        axis.plot(points.keys(), points.values(), color="#2a6f97", linewidth=1.5, label="exact, training, sampled")
        axis.set_title(label, fontsize=10, loc="left")
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    exact = axes.flat[1]
    exact.plot(
        validated.keys(), validated.values(), "o-", color="#d1495b", markersize=4, label="exact, held out, greedy"
    )
    valid = {step: values[VALID] for step, values in trained.items() if VALID in values}
    exact.plot(valid.keys(), valid.values(), color="#8ab17d", linewidth=1.5, label="valid, training, sampled")
    exact.axhline(chance, color="grey", linestyle="--", linewidth=1, label=f"chance {chance:.3g}")
    exact.set_ylim(0, 1.02)
    exact.legend(fontsize=8, loc="best", frameon=False)
    for axis in axes[1]:
        axis.set_xlabel("GRPO step")
    figure.suptitle(title, fontsize=11)
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=130)
    plt.close(figure)
