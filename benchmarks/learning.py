"""What the quickstart learns: every task and harder grids by seed, and controls that must not learn.

    source train_scripts/env_cpu.sh
    .venv/bin/python benchmarks/learning.py [CASE]... [--seed N]... [--controls] [--json FILE] [--picture FILE.png]

A run is ``jigsaw quickstart`` of a case and a seed, one at a time; its logs, metrics and checkpoints stay in the output
folder. ``--controls`` trains on from each run's warm-started model with a reward that says nothing, one that pays for
the form alone, and pictures that are grey or whose pixels are shuffled; and by ``learning_loop.py``, in one process,
with a vision tower that is frozen, and with prompts without pictures. Hours are said before it starts. Stopped and
started again it resumes; runs whose figures are in FILE are not run again, so they may be made in parts, or on several
machines.
"""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated, Any

import typer
from curves import beside, curve_of
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from run import machine
from scipy.stats import t

from jigsaw.errors import JigsawError, OptionError
from jigsaw.files import alone, atomic_write, write_json
from jigsaw.processes import told_in_one_line
from jigsaw.show.training import read_metrics
from jigsaw.toy.controls import write_grey, write_shuffled
from jigsaw.toy.quickstart import Quickstart
from jigsaw.toy.settings import STEPS, Settings
from jigsaw.toy.verdict import mean_scores
from jigsaw.verl_plugin.checkpoint import override
from jigsaw.verl_plugin.launch import OUTPUTS

Result = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A quickstart.

    Attributes:
        options: of ``jigsaw quickstart``.
        minutes: about what a run takes.
    """

    options: tuple[str, ...]
    minutes: float


CASES = {
    "2x1 tiles": Case(("--grid", "2x1"), 8),
    "1x2 tiles": Case(("--grid", "1x2"), 8),
    "2x2 tiles": Case(("--grid", "2x2"), 12),
    "2 clips": Case(("--task", "video"), 12),
    "3 clips": Case(("--task", "video", "--clips", "3"), 18),
    "2 points": Case(("--task", "depth"), 10),
    "3 points": Case(("--task", "depth", "--points", "3"), 15),
}
Control = Callable[[Quickstart], list[str]]
"""What a control's training is told besides."""


def of_reward(name: str) -> Control:
    """Another function of jigsaw/toy/controls.py than the reward."""
    told = [f"reward.custom_reward_function.{key}" for key in ("path", "name")]
    return lambda run: [f"{told[0]}=pkg://jigsaw.toy.controls", f"{told[1]}={name}"]


def of_pictures(write: Callable[[Path, Path], None]) -> Control:
    """The same rows, of pictures that a function of jigsaw/toy/controls.py has written of the run's."""

    def told(run: Quickstart) -> list[str]:
        (part,) = run.parts
        changed = run.out / part.media_root.name
        write(part.media_root, changed)
        return [override("data.media_root", changed)]

    return told


CONTROLS: dict[str, Control] = {
    "random reward": of_reward("random_score"),
    "reward for the form": of_reward("format_score"),
    "shuffled pixels": of_pictures(write_shuffled),
    "grey pictures": of_pictures(write_grey),
}
IN_THE_LOOP = {"frozen tower": "frozen=true", "text alone": "blind=true"}
"""Controls in one process, by what ``learning_loop.py`` is told: the trainer has no option for either."""
CONTROLLED = "2x1 tiles"
"""The case that has controls: pictures, and the shortest."""


def folder_of(out: Path, case: str, seed: int) -> Path:
    return out / case.replace(" ", "_") / f"seed_{seed}"


def quickstart(out: Path, case: str, seed: int) -> Result:
    """A case's run with a seed, and its figures."""
    folder = folder_of(out, case, seed)
    command = [str(Path(sys.executable).with_name("jigsaw")), "quickstart", *CASES[case].options]
    done = subprocess.run([*command, "--seed", str(seed), "--out", str(folder)], check=False)
    if done.returncode:
        raise JigsawError(
            f"{case}, seed {seed}: the quickstart ended with {done.returncode}; see {folder / 'verl.log'}"
        )
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    names = (
        "chance",
        "exact_before_sampled",
        "exact_after",
        "exact_after_sampled",
        "exact_se",
        "exact_greyed",
        "heldout_puzzles",
        "grpo_steps",
    )
    curve = curve_of(read_metrics(sorted((folder / "metrics").glob("*.jsonl"))))
    minutes = (summary["seconds_total"] - summary["seconds_install"]) / 60
    figures = {name: summary[name] for name in names}
    return figures | {"minutes": round(minutes, 1), "peak_gib": summary["peak_gib"], "curve": curve}


def control(out: Path, case: str, seed: int, name: str) -> Result:
    """A control's training from the warm-started model of the case's run, and its figures on that run's puzzles.

    With other pictures the curve is of puzzles of those, ``exact_after`` of the run's own. Where nothing tells orders
    apart, what is greedy is one order of the names and right on all puzzles or on none, so what is sampled counts.
    """
    folder = folder_of(out, case, seed)
    if not (folder / "summary.json").is_file():
        raise JigsawError(
            f"{folder}: no finished run, from which {name} would train; run {case} with seed {seed} there"
        )
    settings = Settings(**json.loads((folder / "settings.json").read_text(encoding="utf-8")))
    steps = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["grpo_steps"]
    run, clock = beside(Quickstart(folder, settings, steps), name)
    with Progress(transient=True) as progress:
        run.grpo(progress, clock, *CONTROLS[name](run))
    run.merge()
    (part,) = run.parts
    measured = (*run.measure_both(run.trained_model), run.measure(run.trained_model, grey=True))
    after, sampled, greyed = (mean_scores(scores[part.task])["exact"] for scores in measured)
    return {
        "chance": part.chance,
        "exact_after": after,
        "exact_after_sampled": sampled,
        "exact_greyed": greyed,
        "grpo_steps": steps,
        "minutes": round(clock.seconds / 60, 1),
        "peak_gib": round(clock.peak_gib, 2),
        "curve": curve_of(run.metrics()),
    }


def control_in_the_loop(out: Path, seed: int, name: str) -> Result:
    """The figures of a control of :data:`CONTROLLED` in one process; its supervised start is its own."""
    told = [IN_THE_LOOP[name], "grid=2x1", f"seed={seed}", f"steps={STEPS}"]
    folder, begin = out / "loop", time.monotonic()
    running = subprocess.Popen([sys.executable, str(Path(__file__).with_name("learning_loop.py")), str(folder), *told])
    _, status, used = os.wait4(running.pid, 0)
    running.returncode = os.waitstatus_to_exitcode(status)
    if running.returncode:
        raise JigsawError(f"{name}, seed {seed}: the loop ended with {running.returncode}; see above")
    log = folder / "runs" / f"{' '.join(sorted(told))}.jsonl"
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    curve = {str(line["step"]): line["held_out"]["exact"] for line in lines if "held_out" in line}
    (sampled,) = (line["sampled"]["exact"] for line in lines if "sampled" in line)
    return {
        "chance": 0.5,
        "exact_before_sampled": sampled,
        "exact_after": curve[str(STEPS)],
        "exact_after_sampled": lines[-1]["after_sampled"]["exact"],
        "exact_greyed": lines[-1]["grey"]["exact"],
        "grpo_steps": STEPS,
        "minutes": round((time.monotonic() - begin) / 60, 1),
        "peak_gib": round(used.ru_maxrss / 2**20, 2),
        "curve": curve,
    }


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of a mean over seeds, by Student's t; None of one value."""
    if len(values) < 2:
        return None
    low, high = t.interval(0.95, len(values) - 1, fmean(values), stdev(values) / math.sqrt(len(values)))
    return float(low), float(high)


def table(results: Sequence[Result]) -> Table:
    """A line a case or control: its seeds together."""
    columns = ("", "seeds", "chance", "before, drawn", "after", "95 %", "worst", "drawn", "greyed", "minutes", "GiB")
    shown = Table(*columns, title="exact accuracy on held-out puzzles, means over seeds; drawn: at temperature 1")
    for name in dict.fromkeys(each["name"] for each in results):
        of_name = [each for each in results if each["name"] == name]

        def mean(what: str, each: list[Result] = of_name) -> str:
            found = [one[what] for one in each if what in one]
            return f"{fmean(found):.3f}" if found else ""

        after = [each["exact_after"] for each in of_name]
        bounds = interval(after)
        minutes, peak = ([each[what] for each in of_name] for what in ("minutes", "peak_gib"))
        shown.add_row(
            name,
            str(len(of_name)),
            mean("chance"),
            mean("exact_before_sampled"),
            mean("exact_after"),
            f"{max(0, bounds[0]):.3f} to {min(1, bounds[1]):.3f}" if bounds else "",
            f"{min(after):.3f}",
            mean("exact_after_sampled"),
            mean("exact_greyed"),
            f"{min(minutes):.0f} to {max(minutes):.0f}",
            f"{max(peak):.1f}",
        )
    return shown


def draw(results: Sequence[Result], path: Path) -> None:
    """A plot a case or control, a curve a seed, chance dashed."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    from matplotlib import pyplot as plt

    names = list(dict.fromkeys(each["name"] for each in results))
    columns = min(3, len(names))
    rows = math.ceil(len(names) / columns)
    size = (3.2 * columns + 0.4, 2.5 * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, sharey=True, squeeze=False, layout="constrained")
    for name, axis in zip(names, axes.flat, strict=False):
        of_name = [each for each in results if each["name"] == name]
        for each in of_name:
            steps, exact = zip(*sorted((int(step), value) for step, value in each["curve"].items()), strict=True)
            axis.plot(steps, exact, "o-", color="#2a6f97", markersize=2.5, linewidth=1.4, alpha=0.75)
        axis.axhline(of_name[0]["chance"], color="grey", linestyle="--", linewidth=1)
        axis.set_title(f"{name}, {len(of_name)} seeds" if len(of_name) > 1 else name, fontsize=10, loc="left")
        axis.set_ylim(0, 1.02)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    figure.supxlabel("GRPO step", fontsize=9)
    figure.supylabel("exact, held-out puzzles", fontsize=9)
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=130)
    plt.close(figure)


def read_results(path: Path | None) -> list[Result]:
    """The figures of earlier starts; none where there is no such file.

    Raises:
        JigsawError: if it holds anything else.
    """
    if path is None or not path.is_file():
        return []
    try:
        results: list[Result] = json.loads(path.read_text(encoding="utf-8"))["results"]
        needed = ("name", "seed", "exact_after", "exact_greyed", "chance", "minutes", "peak_gib", "curve", "machine")
        known = all(name in each for each in results for name in needed)
    except (ValueError, TypeError, KeyError):
        known = False
    if not known:
        raise JigsawError(f"{path}: holds no figures of this benchmark; move it away, or give another --json")
    return results


def missing(
    cases: Sequence[str], seeds: Sequence[int], controls: bool, results: list[Result]
) -> list[tuple[str, str, int]]:
    """(case, control or "", seed) of the runs that have no figures yet; a case before its controls."""
    done = {(each["name"], each["seed"]) for each in results}
    runs = [(case, "", seed) for case in cases for seed in seeds]
    if controls:
        runs += [(CONTROLLED, name, seed) for name in (*CONTROLS, *IN_THE_LOOP) for seed in seeds]
    return [run for run in runs if (run[1] or run[0], run[2]) not in done]


def main(
    cases: Annotated[list[str] | None, typer.Argument(help=", ".join(CASES) + "; all if none is given.")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="May be given again.", show_default="0 to 4")] = None,
    controls: Annotated[bool, typer.Option("--controls", help=f"And controls, of {CONTROLLED}.")] = False,
    out: Annotated[Path | None, typer.Option(help="Output folder.", show_default="outputs/learning")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Keep the figures here; runs that are in it are not run again.")
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw the curves here, as PNG.")] = None,
) -> None:
    """Train the tiny model on each case with each seed and tell what it has learned.

    Example: python benchmarks/learning.py "2x2 tiles" --seed 0 --seed 1 --json learning.json
    """
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 140)
    folder = (out or OUTPUTS / "learning").resolve()
    chosen, seeds = cases or list(CASES), seed if seed is not None else list(range(5))
    with told_in_one_line(lambda: console.print("stopped; started again with the same arguments it goes on")):
        for name in chosen:
            if name not in CASES:
                raise OptionError("case", name, f"is none; these are there: {', '.join(CASES)}")
        if len(set(seeds)) < len(seeds):
            raise OptionError(
                "seed", max(seeds, key=seeds.count), "is given twice; the same run again says nothing new"
            )
        folder.mkdir(parents=True, exist_ok=True)
        busy = f"{folder}: another start works in this folder; wait for it, or choose another --out"
        with alone(folder / ".lock", busy):
            results = read_results(json_file)
            runs = missing(chosen, seeds, controls, results)
            hours = sum(CASES[case].minutes / (2 if name else 1) for case, name, _ in runs) / 60
            console.print(f"{len(runs)} runs to make, about {hours:.1f} hours on 2 cores; {len(results)} are there")
            for case, name, number in runs:
                console.rule(f"{name or case}, seed {number}")
                if name in IN_THE_LOOP:
                    figures = control_in_the_loop(folder, number, name)
                else:
                    figures = control(folder, case, number, name) if name else quickstart(folder, case, number)
                results.append({"name": name or case, "seed": number, **figures, "machine": machine()})
                if json_file is not None:
                    write_json(json_file, {"results": results})
        if results and picture is not None:
            draw(results, picture)
    if results:
        console.print(table(results))


if __name__ == "__main__":
    typer.run(main)
