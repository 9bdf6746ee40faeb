"""The tables and pictures of benchmarks/learning.py."""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, chain
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rich.table import Table
from scipy.stats import t

from jigsaw.files import atomic_write

Result = dict[str, Any]
"""The figures of a run, or of one task of it."""
CASE, CONTROL, VARIANT, CHANGE, START = "case", "control", "variant", "change", "start"
"""Kinds of runs."""


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of a mean over seeds, by Student's t; None of one value, no width of values that are alike."""
    if len(values) < 2:
        return None
    if max(values) == min(values):
        return values[0], values[0]
    low, high = t.interval(0.95, len(values) - 1, fmean(values), stdev(values) / math.sqrt(len(values)))
    return float(low), float(high)


def label(result: Result) -> str:
    """Of a table or a plot that a result goes to, with those of other seeds."""
    return f"{result['name']}: {result['part']}" if "part" in result else str(result["name"])


def by_label(results: Sequence[Result]) -> dict[str, list[Result]]:
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(label(result), []).append(result)
    return found


def on_the_way(result: Result, beside: Result) -> float:
    """Mean exact accuracy over the tests that two runs have, but those before a first step: high if learned soon."""
    return fmean(exact for step, exact in result["curve"].items() if step != "0" and step in beside["curve"])


def in_training(result: Result, beside: Result) -> float | None:
    """Mean exact accuracy of all that a run sampled in the steps that both have: it tells runs apart that learn all.

    None where one of both begins with an easier grid: it has sampled other puzzles, too.
    """
    if any(option.startswith("begin_with=") for each in (result, beside) for option in each["options"]):
        return None
    steps = min(len(each["steps"]["exact"]) for each in (result, beside))
    return fmean(result["steps"]["exact"][:steps])


Measure = Callable[[Result, Result], float | None]
"""Of a run that is compared with another; None where that says nothing."""


def difference(results: Sequence[Result], others: Sequence[Result], measure: Measure) -> str:
    """By how much results differ from others of the same seeds: the mean and its interval.

    Args:
        results: of one setting.
        others: of another; seeds that only one of both has do not count.
        measure: :func:`on_the_way` or :func:`in_training`.
    """
    known = {each["seed"]: each for each in others}
    pairs = [(each, known[each["seed"]]) for each in results if each["seed"] in known]
    measured = [(measure(one, other), measure(other, one)) for one, other in pairs]
    found = [ours - theirs for ours, theirs in measured if ours is not None and theirs is not None]
    bounds = interval(found)
    return f"{fmean(found):+.3f}" + (f" ({bounds[0]:+.3f} to {bounds[1]:+.3f})" if bounds else "") if found else ""


def mean(results: Sequence[Result], what: str) -> str:
    """Of a figure over seeds, as text; empty where there is none."""
    found = [each[what] for each in results if what in each]
    return f"{fmean(found):.3f}" if found else ""


def table(results: Sequence[Result]) -> Table:
    """A line a case or control: its seeds together."""
    accuracies = ("chance", "before, sampled", "after", "95 %", "worst", "sampled", "greyed")
    title = "exact accuracy on held-out puzzles, means over seeds; sampled: at temperature 1"
    shown = Table("", "seeds", *accuracies, "minutes", "GiB", title=title)
    for name, of_name in by_label(results).items():
        after, minutes, peak = ([each[what] for each in of_name] for what in ("exact_after", "minutes", "peak_gib"))
        bounds = interval(after)
        shown.add_row(
            name,
            str(len(of_name)),
            mean(of_name, "chance"),
            mean(of_name, "exact_before_sampled"),
            mean(of_name, "exact_after"),
            f"{max(0, bounds[0]):.3f} to {min(1, bounds[1]):.3f}" if bounds else "",
            f"{min(after):.3f}",
            mean(of_name, "exact_after_sampled"),
            mean(of_name, "exact_greyed"),
            f"{min(minutes):.0f} to {max(minutes):.0f}",
            f"{max(peak):.1f}",
        )
    return shown


def table_of_changes(results: Sequence[Result], title: str) -> Table:
    """A line a name: how it compares with the first one on the same seeds."""
    columns = ("seeds", "names right", "after", "exact after 10 steps", "at the end", "sampled")
    compared = {"mean of its tests": on_the_way, "sampled in training": in_training}
    shown = Table("", *columns, *compared, title=f"{title}; in the last columns beside the first line")
    named = by_label(results)
    first, *_ = named.values()
    for name, of_name in named.items():
        figures = ("named_before_sampled", "named_after_sampled", "after_10", "exact_after", "exact_after_sampled")
        with_curve = [{**each, "after_10": each["curve"]["10"]} for each in of_name]
        if of_name is first:
            beside = [f"{fmean(measure(each, each) or 0 for each in first):.3f}" for measure in compared.values()]
        else:
            beside = [difference(of_name, first, measure) for measure in compared.values()]
        shown.add_row(name, str(len(of_name)), *(mean(with_curve, what) for what in figures), *beside)
    return shown


def by_case(results: Sequence[Result], kind: str) -> dict[str, list[Result]]:
    """Of each case from which runs of a kind train on: its own results, then those of these runs."""
    trained_on = [each for each in results if each["kind"] == kind]
    cases = dict.fromkeys(each["name"].partition(", ")[0] for each in trained_on)
    return {
        case: [
            *(each for each in results if each["kind"] == CASE and each["name"] == case),
            *(each for each in trained_on if each["name"].startswith(f"{case}, ")),
        ]
        for case in cases
    }


def tables(results: Sequence[Result]) -> Iterator[Table]:
    """What ran on the stack, changes on the stack by case, changes in one process, supervised starts; what there is."""
    if ours := [each for each in results if each["kind"] in (CASE, CONTROL)]:
        yield table(ours)
    for case, ours in by_case(results, VARIANT).items():
        yield table_of_changes(ours, f"changed settings of GRPO, {case}")
    titles = {CHANGE: "changed settings of GRPO, 2x2", START: "other supervised starts, 2x1"}
    for kind, title in titles.items():
        if ours := [each for each in results if each["kind"] == kind]:
            yield table_of_changes(ours, f"{title}, one process")


def draw(results: Sequence[Result], path: Path) -> None:
    """A plot a name, a curve a seed: greedy on held-out puzzles, and faint what training sampled; chance dashed."""
    named = by_label(results)
    figure, axes = panels(len(named))
    for (name, of_name), axis in zip(named.items(), axes, strict=True):
        for each in of_name:
            steps, exact = zip(*sorted((int(step), value) for step, value in each["curve"].items()), strict=True)
            axis.plot(steps, exact, "o-", color="#2a6f97", markersize=2.5, linewidth=1.4, alpha=0.75)
            sampled = each.get("steps", {}).get("exact", [])
            axis.plot(range(1, len(sampled) + 1), sampled, color="#e07a5f", linewidth=0.8, alpha=0.6)
        axis.axhline(of_name[0]["chance"], color="grey", linestyle="--", linewidth=1)
        axis.set_title(f"{name}, {len(of_name)} seeds" if len(of_name) > 1 else name, fontsize=9, loc="left")
    figure.supxlabel("GRPO step\nblue: greedy, held out · red: sampled in training", fontsize=9)
    figure.supylabel("exact", fontsize=9)
    save(figure, path)


def draw_controls(results: Sequence[Result], path: Path) -> None:
    """A plot a case: what each of its controls sampled in training, and black the case itself; chance dashed.

    What was sampled alone: where nothing tells orders apart, a greedy reply is right on all puzzles or on none, by
    luck.
    """
    cases: dict[str, list[Result]] = {}
    for each in results:
        cases.setdefault(each["name"].partition(", ")[0], []).append(each)
    figure, axes = panels(len(cases))
    curves: dict[str, Any] = {}
    for (case, of_case), axis in zip(cases.items(), axes, strict=True):
        seeds = {each["seed"] for each in of_case if each["kind"] == CONTROL}
        for each in of_case:
            if each["seed"] not in seeds:
                continue
            control = each["name"].removeprefix(case).removeprefix(", ")
            color = curves[control].get_color() if control in curves else f"C{len(curves)}" if control else "black"
            exact = each["steps"]["exact"]
            (curve,) = axis.plot(range(1, len(exact) + 1), exact, color=color, linewidth=1, alpha=0.75)
            curves.setdefault(control, curve)
        axis.axhline(of_case[0]["chance"], color="grey", linestyle="--", linewidth=1)
        axis.set_title(f"{case}, {len(seeds)} seeds" if len(seeds) > 1 else case, fontsize=9, loc="left")
    names = [control or "the case itself" for control in curves]
    figure.supxlabel("GRPO step", fontsize=9)
    figure.supylabel("exact, sampled in training", fontsize=9)
    figure.legend(curves.values(), names, loc="outside upper center", ncols=4, fontsize=8, frameon=False)
    save(figure, path)


def panels(number: int) -> tuple[Any, list[Any]]:
    """A figure, and the axes of so many plots of accuracies."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    from matplotlib import pyplot as plt

    columns = min(4 if number > 6 else 3, number)
    rows = math.ceil(number / columns)
    size = (2.8 * columns + 0.4, 2.3 * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, sharey=True, squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.set_ylim(0, 1.02)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes.flat[number:]:
        axis.set_visible(False)
    return figure, list(axes.flat[:number])


def draw_by_time(results: Sequence[Result], path: Path) -> None:
    """Supervised starts of several lengths: exact accuracy against the minutes of both kinds of training."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    for place, (name, of_name) in enumerate(by_label(results).items()):
        for number, each in enumerate(of_name):
            spent = list(accumulate(each["steps"]["seconds"], initial=each["warm_start_seconds"]))
            steps, exact = zip(*sorted((int(step), value) for step, value in each["curve"].items()), strict=True)
            minutes = [spent[step] / 60 for step in steps]
            told = {"label": name} if number == 0 else {}
            axis.plot(minutes, exact, "o-", color=f"C{place}", markersize=2.5, linewidth=1.3, alpha=0.75, **told)
    axis.axhline(results[0]["chance"], color="grey", linestyle="--", linewidth=1)
    axis.set(
        xlabel="minutes, supervised and GRPO", ylabel="exact, greedy, held-out puzzles", ylim=(0, 1.02), xlim=(0, None)
    )
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8, frameon=False)
    save(figure, path)


def save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot as plt

    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=130)
    plt.close(figure)


def draw_all(results: Sequence[Result], folder: Path) -> None:
    """A picture of each kind of run that there is."""
    cases, changes, starts = ([each for each in results if each["kind"] == kind] for kind in (CASE, CHANGE, START))
    controls, variants = (list(chain.from_iterable(by_case(results, kind).values())) for kind in (CONTROL, VARIANT))
    drawn: list[tuple[str, Callable[[Sequence[Result], Path], None], Sequence[Result]]] = [
        ("cases", draw, cases),
        ("controls", draw_controls, controls),
        ("variants", draw, variants),
        ("changes", draw, changes),
        ("starts", draw_by_time, starts),
    ]
    for name, of_kind, shown in drawn:
        if shown:
            of_kind(shown, folder / f"{name}.png")
