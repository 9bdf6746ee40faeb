"""What a training run looked like: its metrics file read back, and the picture of its curves."""

import json
import os
from collections.abc import Iterable
from math import isfinite
from operator import index
from pathlib import Path
from statistics import fmean

from jigsaw.files import atomic_write

Metrics = dict[str, float]
BENCHMARK = "val-benchmark/"
"""Of the figures of benchmarks during training: ``val-benchmark/MMVP/pair_acc``."""
VALID = "reward/valid_permutation"
"""Share of a step's sampled replies that name every piece once."""


def read_start(file: Path) -> dict[int, Metrics]:
    """What one start logged, by step: the numbers of a file of verl's file logger.

    Args:
        file: JSON lines, ``{"step", "data"}`` each; lines that are not complete, as the last of a run that goes on or
            was killed, are left out, and so are values that are no finite number.
    """
    steps: dict[int, Metrics] = {}
    for line in file.read_bytes().splitlines(keepends=True):
        if not line.endswith(b"\n"):
            continue
        try:
            record = json.loads(line)
            step, data = index(record["step"]), dict(record["data"])
        except (ValueError, TypeError, LookupError):  # a disk that was full in between
            continue
        numbers = {name: value for name, value in data.items() if isinstance(value, int | float) and isfinite(value)}
        steps.setdefault(step, {}).update(numbers)
    return dict(sorted(steps.items()))


def record_of(metrics: Path) -> Path:
    """Where the config and the versions of the start that logs to a file of metrics are recorded."""
    return metrics.with_suffix(".start.json")


def first_trained(steps: dict[int, Metrics]) -> int | None:
    """The first step that a start trained, None where there is none; what it tested beforehand does not count."""
    trained = (step for step, values in steps.items() if any(not name.startswith("val-") for name in values))
    return next(trained, None)


def joined(starts: Iterable[dict[int, Metrics]]) -> dict[int, Metrics]:
    """One curve of several starts, in their order: from where one goes on, what those before it did is left out."""
    steps: dict[int, Metrics] = {}
    for start in starts:
        begin = first_trained(start)
        steps = {step: values for step, values in steps.items() if begin is None or step < begin}
        for step, values in start.items():
            steps[step] = {**steps.get(step, {}), **values}
    return dict(sorted(steps.items()))


def read_metrics(files: Iterable[Path]) -> dict[int, Metrics]:
    """Metrics by step of a run, see :func:`read_start` and :func:`joined`; files that are not there are left out."""
    return joined(read_start(file) for file in files if file.is_file())


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
