"""What the quickstart learns: every task and harder grids by seed, controls that must not learn, and what it hangs on.

    source train_scripts/env_cpu.sh
    .venv/bin/python benchmarks/learning.py [CASE]... [--seed N]... [--controls] [--changes] [--screen] [--json FILE]

A run of a case is a ``jigsaw quickstart`` with a seed, one at a time; its logs, metrics and checkpoints stay in the
output folder. ``--controls`` trains on from each run's warm-started model with a reward that says nothing, one that
pays for the form alone, and pictures that are grey or whose pixels are shuffled; and by ``learning_loop.py``, in one
process, with a vision tower that is frozen, and with prompts without pictures. ``--screen`` tries other settings of
GRPO and shorter and longer supervised starts, in one process, too; ``--changes`` some of the former on the stack, from
each run's warm-started model. Hours are said before it starts. Stopped and started again it resumes; runs whose
figures, with the same options, are in FILE are not run again, so they may be made in parts, or on several machines.
"""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import compress, product
from pathlib import Path
from typing import Annotated

import typer
from curves import beside
from learning_figures import CASE, CHANGE, CONTROL, START, VARIANT, Result, draw_all, tables
from rich.console import Console
from rich.progress import Progress
from run import machine

from jigsaw.errors import JigsawError, OptionError
from jigsaw.files import alone, atomic_write
from jigsaw.processes import told_in_one_line, undisturbed
from jigsaw.show.training import Metrics, read_metrics
from jigsaw.toy.controls import write_grey, write_shuffled
from jigsaw.toy.quickstart import Quickstart, finished
from jigsaw.toy.verdict import mean_scores
from jigsaw.verl_plugin.checkpoint import override
from jigsaw.verl_plugin.launch import OUTPUTS


@dataclass(frozen=True)
class Case:
    """What is run with each seed.

    Attributes:
        options: of ``jigsaw quickstart``, or of ``learning_loop.py``.
        minutes: about what a run takes.
    """

    options: tuple[str, ...]
    minutes: float


CASES = {
    "2x1 tiles": Case(("--grid", "2x1"), 8),
    "1x2 tiles": Case(("--grid", "1x2"), 8),
    "2x2 tiles": Case(("--grid", "2x2"), 12),
    "3x3 tiles": Case(("--grid", "3x3", "--steps", "60"), 30),
    "2 clips": Case(("--task", "video"), 12),
    "3 clips": Case(("--task", "video", "--clips", "3"), 18),
    "2 points": Case(("--task", "depth"), 10),
    "3 points": Case(("--task", "depth", "--points", "3"), 15),
    "mixture": Case(("--task", "mixture"), 20),
}
"""Quickstarts."""
CHANGES = {
    "2x2, one process": Case((), 3),
    "advantage not divided": Case(("by_std=false",), 3),
    "rare answers weigh more": Case(("weigh=rare",), 3),
    "prompts with spread weigh more": Case(("weigh=spread",), 3),
    "8 replies": Case(("n=8",), 3),
    "32 replies": Case(("n=32",), 3),
    "no KL loss": Case(("kl_coef=0",), 3),
    "8 replies, no KL loss": Case(("n=8", "kl_coef=0"), 3),
    "entropy 0.01": Case(("entropy_coeff=0.01",), 3),
    "adjacency": Case(("shape=adjacency",), 3),
    "kendall": Case(("shape=kendall",), 3),
    "2x1 first": Case(("begin_with=2x1",), 3),
    "2x1, then 1x2 first": Case(("begin_with=2x1,1x2",), 3),
}
"""2×2 by ``learning_loop.py`` with one setting changed; the first is what the others are compared with."""
STARTS = {
    "200 steps": Case(("grid=2x1", "steps=150"), 4),
    "no supervised start": Case(("grid=2x1", "recall=0", "warm_steps=0", "steps=120"), 4),
    "60 steps": Case(("grid=2x1", "warm_steps=60", "steps=170"), 4),
    "250 steps": Case(("grid=2x1", "warm_steps=250", "steps=150"), 4),
    "1000 steps": Case(("grid=2x1", "warm_steps=1000", "steps=30"), 4),
}
"""2×1 by ``learning_loop.py`` from other supervised starts, and as many steps of GRPO as make them about as long;
200 are the quickstart's."""
Told = Callable[[Quickstart], list[str]]
"""What a training is told besides, given the quickstart that it trains on from."""


def of_reward(name: str) -> Told:
    """Another function of jigsaw/toy/controls.py than the reward."""
    told = [f"reward.custom_reward_function.{key}" for key in ("path", "name")]
    return lambda run: [f"{told[0]}=pkg://jigsaw.toy.controls", f"{told[1]}={name}"]


def of_pictures(write: Callable[[Path, Path], None]) -> Told:
    """The same rows, of pictures that a function of jigsaw/toy/controls.py has written of the run's."""

    def told(run: Quickstart) -> list[str]:
        (part,) = run.parts
        changed = run.out / part.media_root.name
        write(part.media_root, changed)
        return [override("data.media_root", changed)]

    return told


CONTROLS: dict[str, Told] = {
    "random reward": of_reward("random_score"),
    "reward for the form": of_reward("format_score"),
    "shuffled pixels": of_pictures(write_shuffled),
    "grey pictures": of_pictures(write_grey),
}
IN_THE_LOOP = {"frozen tower": "frozen=true", "text alone": "blind=true"}
"""Controls by ``learning_loop.py``: the trainer has no option for either."""
ON_THE_STACK: dict[str, Told] = {
    "advantage not divided": lambda run: ["algorithm.norm_adv_by_std_in_grpo=false"],
    "8 replies": lambda run: ["actor_rollout_ref.rollout.n=8"],
}
"""Changes that are tried on the stack, too."""


def folder_of(out: Path, case: str, seed: int) -> Path:
    return out / case.replace(" ", "_") / f"seed_{seed}"


def log_of(metrics: dict[int, Metrics], task: str) -> Result:
    """A run's curves on held-out puzzles of a task, by step, and what its training steps said, in turn."""
    scored = f"reward/{task}/"
    columns = {
        **{name: f"{scored}{name}" for name in ("score", "exact", "valid_permutation")},
        "entropy": "actor/entropy",
    }
    trained = [values for _, values in sorted(metrics.items()) if f"{scored}score" in values]
    tested = {  # a data source's name has its task's in it
        short: {
            str(step): value
            for step, values in sorted(metrics.items())
            for metric, value in values.items()
            if re.fullmatch(rf"val-\w+/\w*{task}\w*/{name}/mean@1", metric)
        }
        for short, name in (("curve", "acc"), ("in_place", "position_accuracy"))
    }
    return {
        **tested,
        "steps": {name: [round(values[column], 4) for values in trained] for name, column in columns.items()},
    }


def ended(command: Sequence[str]) -> int:
    """The exit status of a command, which is let end in its own way when this one is stopped."""
    running = subprocess.Popen(command)
    try:
        return running.wait()
    except KeyboardInterrupt:
        with undisturbed():
            running.send_signal(signal.SIGINT)
            running.wait()
        raise


def quickstart(name: str, seed: int, out: Path) -> Iterator[Result]:
    """A case's run with a seed, and its figures, by task."""
    folder = folder_of(out, name, seed)
    command = [str(Path(sys.executable).with_name("jigsaw")), "quickstart", *CASES[name].options]
    if status := ended([*command, "--seed", str(seed), "--out", str(folder)]):
        raise JigsawError(f"{name}, seed {seed}: the quickstart ended with {status}; see {folder / 'verl.log'}")
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    names = (
        "chance",
        "exact_before_sampled",
        "exact_after",
        "exact_after_sampled",
        "exact_se",
        "exact_greyed",
        "exact_greyed_sampled",
        "heldout_puzzles",
    )
    metrics = read_metrics(sorted((folder / "metrics").glob("*.jsonl")))
    minutes = (summary["seconds_total"] - summary["seconds_install"]) / 60
    for task, figures in summary["tasks"].items():
        yield {
            **({"part": figures["pieces"]} if len(summary["tasks"]) > 1 else {}),
            **{each: figures[each] for each in names},
            "grpo_steps": summary["grpo_steps"],
            "minutes": round(minutes, 1),
            "peak_gib": summary["peak_gib"],
            **log_of(metrics, task),
        }


def trained_on(case: str, name: str, told: Told, seed: int, out: Path) -> Iterator[Result]:
    """Another training from the warm-started model of the case's run, and its figures on that run's puzzles.

    With other pictures the curve is of puzzles of those, ``exact_after`` of the run's own. Where nothing tells orders
    apart, what is greedy is one order of the names and right on all puzzles or on none, so what is sampled counts.
    """
    folder = folder_of(out, case, seed)
    run, clock = beside(finished(folder, f"move {folder} away"), name)
    with Progress(transient=True) as progress:
        run.grpo(progress, clock, *told(run))
    clock.stop()
    run.merge()
    (part,) = run.parts
    measured = (*run.measure_both(run.trained_model), run.measure(run.trained_model, grey=True))
    after, sampled, greyed = (mean_scores(scores[part.task])["exact"] for scores in measured)
    yield {
        "chance": part.chance,
        "exact_after": after,
        "exact_after_sampled": sampled,
        "exact_greyed": greyed,
        "grpo_steps": run.steps,
        "minutes": round(clock.seconds / 60, 1),
        "peak_gib": round(clock.peak_gib, 2),
        **log_of(run.metrics(), part.task),
    }


def in_the_loop(options: Sequence[str], name: str, seed: int, out: Path) -> Iterator[Result]:
    """The figures of a run in one process; supervised starts are shared where they are the same."""
    told = [*options, f"seed={seed}"]
    folder = out / "loop"
    if status := ended([sys.executable, str(Path(__file__).with_name("learning_loop.py")), str(folder), *told]):
        raise JigsawError(f"{name}, seed {seed}: the loop ended with {status}; see above")
    log = folder / "runs" / f"{' '.join(sorted(told))}.jsonl"
    settings, before, *steps, after = (json.loads(line) for line in log.read_text(encoding="utf-8").splitlines())
    curve = {str(each["step"]): each["held_out"]["exact"] for each in steps if "held_out" in each}
    warm = before["warm_start_seconds"]
    yield {
        "chance": settings["chance"],
        "exact_before_sampled": before["sampled"]["exact"],
        "exact_after": curve[str(settings["steps"])],
        "exact_after_sampled": after["after_sampled"]["exact"],
        "exact_greyed": after["grey"]["exact"],
        "named_before_sampled": before["sampled"]["named"],
        "named_after_sampled": after["after_sampled"]["named"],
        "grpo_steps": settings["steps"],
        "minutes": round((warm + sum(each["seconds"] for each in steps)) / 60, 1),
        "peak_gib": round(after["peak_gib"], 2),
        "curve": {"0": before["before"]["exact"], **curve},
        "steps": {
            name: [round(each[name], 4) for each in steps]
            for name in ("score", "exact", "valid_permutation", "entropy", "seconds")
        },
        "warm_start_seconds": round(warm, 1),
    }


@dataclass(frozen=True)
class Run:
    """What is run with a seed.

    Attributes:
        kind: says which table it goes to.
        options: of the quickstart or of the loop; figures that were made with others are not its.
        minutes: about what it takes.
        make: its figures, given the output folder.
        case: the quickstart that it trains on from, if it does.
    """

    kind: str
    name: str
    seed: int
    options: Sequence[str]
    minutes: float
    make: Callable[[Path], Iterator[Result]]
    case: str | None = None


def runs_of(
    cases: Sequence[str], seeds: Sequence[int], *, controls: bool, changes: bool, screen: bool
) -> Iterator[Run]:
    """All runs of these, a case before what trains on from it."""
    for name, seed in product(cases, seeds):
        of_case = CASES[name]
        yield Run(CASE, name, seed, of_case.options, of_case.minutes, partial(quickstart, name, seed))
    single = [case for case in cases if case != "mixture"]  # the controls of its parts are its own
    trainings = {CONTROL: CONTROLS} if controls else {}
    trainings |= {VARIANT: ON_THE_STACK} if changes else {}
    for (kind, told), case, seed in product(trainings.items(), single, seeds):
        of_case = CASES[case]
        for name, training in told.items():
            make = partial(trained_on, case, name, training, seed)
            yield Run(kind, f"{case}, {name}", seed, of_case.options, of_case.minutes / 2, make, case)
    for case, seed in product(single, seeds) if controls else ():
        given = CASES[case].options
        of_loop = [f"{option[2:]}={value}" for option, value in zip(given[::2], given[1::2], strict=True)]
        for name, option in IN_THE_LOOP.items():
            options = [*of_loop, option]
            make = partial(in_the_loop, options, name, seed)
            yield Run(CONTROL, f"{case}, {name}", seed, options, CASES[case].minutes / 4, make)
    for kind, chosen in ({CHANGE: CHANGES, START: STARTS} if screen else {}).items():
        for (name, each), seed in product(chosen.items(), seeds):
            yield Run(kind, name, seed, each.options, each.minutes, partial(in_the_loop, each.options, name, seed))


def check_ready(runs: Sequence[Run], out: Path) -> None:
    """See that what trains on from another run finds it.

    Raises:
        JigsawError: if that run is neither in the output folder nor about to be made.
    """
    coming = {(run.name, run.seed) for run in runs}
    for run in runs:
        if run.case is None or (run.case, run.seed) in coming:
            continue
        folder = folder_of(out, run.case, run.seed)
        if not (folder / "summary.json").is_file():
            raise JigsawError(
                f"{folder}: no finished run, from which {run.name} would train, though the figures of {run.case} are "
                "there; give the --out that it was made in, or another --json to make it again"
            )


def read_results(path: Path | None) -> list[Result]:
    """The figures of earlier starts; none where there is no such file.

    Raises:
        JigsawError: if it holds anything else.
    """
    if path is None or not path.exists():
        return []
    try:
        results: list[Result] = json.loads(path.read_text(encoding="utf-8"))["results"]
        needed = {"kind", "name", "seed", "options", "exact_after", "exact_greyed", "chance", "minutes", "peak_gib"}
        learned = {"10": "curve", "exact": "steps"}
        known = all(
            needed <= each.keys() and all(what in each[where] for what, where in learned.items()) for each in results
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        known = False
    if not known:
        raise JigsawError(f"{path}: holds no figures of this benchmark; move it away, or give another --json")
    return results


def write_results(path: Path, results: Sequence[Result]) -> None:
    """Keep figures in a JSON file, a result a line."""
    lines = ",\n".join(map(json.dumps, results))
    with atomic_write(path) as file:
        file.write(f'{{"results": [\n{lines}\n]}}\n'.encode())


def made(run: Run, out: Path, results: Sequence[Result], path: Path | None) -> list[Result]:
    """Run; all figures, with the new ones in place of any of the same name and seed, which go to the file, too."""
    known = {"kind": run.kind, "name": run.name, "seed": run.seed, "options": list(run.options)}
    new = [{**known, **figures, "machine": machine()} for figures in run.make(out)]
    before = read_results(path) if path else results  # another start may have added some
    others = [(each["name"], each["seed"]) != (run.name, run.seed) for each in before]
    place = others.index(False) if False in others else len(before)  # tables compare with the first of a kind
    results = [*before[:place], *new, *compress(before[place:], others[place:])]
    if path:
        write_results(path, results)
    return results


def main(
    cases: Annotated[
        list[str] | None, typer.Argument(help=", ".join(CASES) + "; all if none is given, none with --screen alone.")
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="May be given again.", min=0, show_default="0 to 4")] = None,
    controls: Annotated[bool, typer.Option("--controls", help="And controls of each, but of a mixture.")] = False,
    changes: Annotated[
        bool, typer.Option("--changes", help=f"And of each, but of a mixture: {', '.join(ON_THE_STACK)}.")
    ] = False,
    screen: Annotated[
        bool, typer.Option("--screen", help="And other settings and supervised starts, in one process.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Output folder.", show_default="outputs/learning")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Keep the figures here; runs that are in it are not run again.")
    ] = None,
    pictures: Annotated[Path | None, typer.Option(help="Draw the curves into this folder, as PNG.")] = None,
) -> None:
    """Train the tiny model on each case with each seed and tell what it has learned.

    Example: python benchmarks/learning.py "2x2 tiles" --seed 0 --seed 1 --json learning.json
    """
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 150)
    folder = (out or OUTPUTS / "learning").resolve()
    chosen = list(dict.fromkeys(cases or ())) or ([] if screen and not controls and not changes else list(CASES))
    seeds = seed if seed is not None else list(range(5))
    with told_in_one_line(lambda: console.print("stopped; started again with the same arguments it goes on")):
        for name in chosen:
            if name not in CASES:
                raise JigsawError(f"{name}: is no case; these are there: {', '.join(CASES)}")
        if len(set(seeds)) < len(seeds):
            raise OptionError(
                "seed", max(seeds, key=seeds.count), "is given twice; the same run again says nothing new"
            )
        for place in filter(None, (folder, pictures)):
            place.mkdir(parents=True, exist_ok=True)
        busy = f"{folder}: another start works in this folder; wait for it, or choose another --out"
        with alone(folder / ".lock", busy):
            results = read_results(json_file)
            options = {(each["name"], each["seed"]): each["options"] for each in results}
            asked = runs_of(chosen, seeds, controls=controls, changes=changes, screen=screen)
            runs = [run for run in asked if options.get((run.name, run.seed)) != list(run.options)]
            check_ready(runs, folder)
            hours = sum(run.minutes for run in runs) / 60
            console.print(f"{len(runs)} runs to make, about {hours:.1f} hours on 2 cores; {len(options)} are there")
            if again := [f"{run.name}, seed {run.seed}" for run in runs if (run.name, run.seed) in options]:
                console.print(f"made with other options before, and again now: {'; '.join(again)}")
            if json_file is not None and runs:
                write_results(json_file, results)  # what cannot be written should fail now
            for run in runs:
                console.rule(f"{run.name}, seed {run.seed}")
                results = made(run, folder, results, json_file)
    for shown in tables(results):
        console.print(shown)
    if pictures is not None:
        draw_all(results, pictures)


if __name__ == "__main__":
    typer.run(main)
