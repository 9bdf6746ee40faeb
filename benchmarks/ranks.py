"""Do two ranks learn as one? The quickstart's training on one rank and on two, for several seeds.

    source train_scripts/env_cpu.sh
    .venv/bin/python benchmarks/ranks.py [--seeds 3] [--steps 60] [--out DIR] [--json FILE] [--picture FILE.png]

The runs of a seed begin with one warm-started model and train on the same puzzles, one run at a time (about 11 GiB).
A run has solved its task at the first step after which it answers 0.9 of the held-out puzzles exactly. Stopped and
started again it goes on: whole runs are kept, the one that was cut off resumes from its last whole checkpoint.
"""

import os
import signal
import sys
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from run import machine

from jigsaw.errors import JigsawError, print_error
from jigsaw.files import atomic_write
from jigsaw.show.training import heldout_exact
from jigsaw.toy.launch import Clock, kill_leftovers, write_json
from jigsaw.toy.quickstart import REPOSITORY, Quickstart, Settings, warm_start_steps_of

GRID = (2, 1)
SOLVED = 0.9
SEQUENCES = 128
"""Responses a step (configs/quickstart.yaml); the ranks share them, in one micro-batch each."""
RANKS = (1, 2)
COLOURS = {1: "#2a6f97", 2: "#d1495b"}

Result = dict[str, Any]


def prepare(out: Path, seed: int, steps: int, progress: Progress) -> Quickstart:
    """A seed's pictures, rows and warm-started model."""
    settings = Settings("x".join(map(str, GRID)), None, warm_start_steps_of(GRID), seed)
    prepared = Quickstart(out / f"seed_{seed}", settings, steps)
    prepared.out.mkdir(parents=True, exist_ok=True)
    for stage in (prepared.pictures, prepared.tiny_model, lambda: prepared.warm_start(progress)):
        progress.console.print(f"  {stage()}")
    return prepared


def train(prepared: Quickstart, ranks: int, every: int, progress: Progress) -> Result:
    """A run from the warm-started model to its last step."""
    run = Quickstart(prepared.out / f"ranks_{ranks}", prepared.settings, prepared.steps)
    run.media_root, run.warm_model = prepared.media_root, prepared.warm_model
    run.train_rows, run.heldout_rows = prepared.train_rows, prepared.heldout_rows
    run.out.mkdir(exist_ok=True)
    kill_leftovers(run.out)
    clock = Clock(run.out / "timing.json", seconds_install=0.0)
    clock.watch_memory()
    run.grpo(
        progress,
        clock,
        f"trainer.n_gpus_per_node={ranks}",
        f"actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu={SEQUENCES // ranks}",
        f"actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu={SEQUENCES // ranks}",
        f"trainer.test_freq={every}",
        f"trainer.save_freq={every}",
    )
    metrics = run.metrics()
    curve = {step: exact for step, values in metrics.items() if (exact := heldout_exact(values)) is not None}
    return {
        "seed": run.settings.seed,
        "ranks": ranks,
        "solved": next((step for step, exact in curve.items() if exact >= SOLVED), None),
        "heldout_exact": curve,
        "step_s": median(values["timing_s/step"] for values in metrics.values() if "timing_s/step" in values),
        "peak_gib": clock.peak_gib,
    }


def table(results: list[Result], steps: int) -> Table:
    columns = Table("ranks", "seed", f"solved ({SOLVED} exact)", "at the end", "a step", "memory", title="Ranks")
    for result in sorted(results, key=lambda result: (result["ranks"], result["seed"])):
        columns.add_row(
            str(result["ranks"]),
            str(result["seed"]),
            f"step {result['solved']}" if result["solved"] is not None else f"not in {steps} steps",
            f"{list(result['heldout_exact'].values())[-1]:.3f}",
            f"{result['step_s']:.1f} s",
            f"{result['peak_gib']:.1f} GiB",
        )
    return columns


def draw(results: list[Result], path: Path) -> None:
    """One curve a run, one colour a number of ranks."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    for result in results:
        ranks, curve = result["ranks"], result["heldout_exact"]
        axis.plot(curve.keys(), curve.values(), "o-", color=COLOURS[ranks], markersize=3, linewidth=1.5, alpha=0.8)
    for ranks, colour in COLOURS.items():
        axis.plot([], [], color=colour, label=f"{ranks} rank{'s' * (ranks > 1)}")
    axis.axhline(SOLVED, color="black", linestyle=":", linewidth=1, label="solved")
    axis.axhline(0.5, color="grey", linestyle="--", linewidth=1, label="chance")
    axis.set_ylim(0, 1.02)
    axis.set_xlabel("GRPO step")
    axis.set_title("held-out exact accuracy, greedy, a curve a seed", fontsize=10, loc="left")
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8, loc="lower right", frameon=False)
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=130)
    plt.close(figure)


def main(
    seeds: Annotated[int, typer.Option(min=1, help="Runs on each number of ranks.")] = 3,
    steps: Annotated[int, typer.Option(min=1, help="GRPO steps a run; more than before go on from there.")] = 60,
    every: Annotated[int, typer.Option(min=1, help="Steps between two held-out tests and checkpoints.")] = 5,
    out: Annotated[
        Path, typer.Option(help="Output folder.", show_default="outputs/ranks in the repository")
    ] = REPOSITORY / "outputs/ranks",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw the curves here, as PNG.")] = None,
) -> None:
    """Train on one rank and on two and tell when each run has solved its task."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    console = Console(highlight=False, soft_wrap=True)
    results: list[Result] = []
    try:
        with Progress(console=console, transient=True) as progress:
            for seed in range(seeds):
                progress.console.print(f"seed {seed}: pictures, model, warm start")
                prepared = prepare(out.resolve(), seed, steps, progress)
                for ranks in RANKS:
                    progress.console.print(f"seed {seed}: {ranks} rank(s)")
                    results.append(train(prepared, ranks, every, progress))
                    if json_file is not None:
                        record = {"machine": machine(), "steps": steps, "solved_at": SOLVED, "results": results}
                        write_json(json_file, record)
                    if picture is not None:
                        draw(results, picture)
    except (JigsawError, OSError) as error:
        print_error(error)
        sys.exit(1)
    except KeyboardInterrupt:
        console.print("stopped; started again with the same arguments it goes on")
        sys.exit(130)
    console.print(table(results, steps))
    console.print(", ".join(f"{key} {value}" for key, value in machine().items()))


if __name__ == "__main__":
    typer.run(main)
