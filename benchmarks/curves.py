"""How a change bears on learning: the quickstart's training with it and without, from one warm-started model.

    source train_scripts/env_cpu.sh
    .venv/bin/python benchmarks/curves.py STUDY [--only VARIANT]... [--json FILE] [--picture FILE.png]

``ranks``: one rank and two, which must learn as one. ``stability``: what is said to keep GRPO from going astray, each
alone, on 2×2; with two optimizer steps a GRPO step, for with one no clipping sets in. All runs of a seed train on the
same puzzles, one run at a time (10 GiB, on two ranks 14). Stopped and started again it resumes: runs that are done or
have solved their task are kept, the one that was cut off starts from its last complete checkpoint. Runs whose figures
are in FILE are not run again either, so what takes hours may be measured in parts, or on several machines.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from math import factorial, prod
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from run import machine

from jigsaw.errors import JigsawError
from jigsaw.files import alone, atomic_write, write_json
from jigsaw.prepare.images import parse_grid
from jigsaw.processes import kill_leftovers, told_in_one_line
from jigsaw.show.training import Metrics, heldout_exact
from jigsaw.toy.clock import Clock
from jigsaw.toy.quickstart import Quickstart, schedule
from jigsaw.toy.settings import Settings
from jigsaw.verl_plugin.launch import OUTPUTS

SEQUENCES = 128
"""Responses a step (configs/quickstart.yaml); the ranks share them, in one micro-batch each."""
PLAIN = (
    "actor_rollout_ref.rollout.n=8",
    f"actor_rollout_ref.rollout.max_num_seqs={SEQUENCES}",
    "actor_rollout_ref.actor.use_kl_loss=false",
    "actor_rollout_ref.actor.optim.lr=3e-4",
)
"""configs/quickstart.yaml, in place of what the quickstart says for pieces with names."""
WARM_STEPS = 400
"""Supervised steps on puzzles, the same for all of a study."""
SOLVED = 0.9
COLOURS = ("#2a6f97", "#d1495b", "#66a182", "#edae49", "#6c4f8b")

Result = dict[str, Any]


@dataclass(frozen=True)
class Study:
    """Variants of one training.

    Attributes:
        grid, begin_with: as the quickstart takes them; what the warm start shows.
        seeds, steps: unless others are asked for.
        base: overrides of configs/quickstart.yaml, of all variants.
        variants: further overrides by name.
    """

    grid: str
    begin_with: str | None
    seeds: int
    steps: int
    base: tuple[str, ...]
    variants: dict[str, tuple[str, ...]]


def of_ranks(ranks: int) -> tuple[str, ...]:
    return (
        f"trainer.n_gpus_per_node={ranks}",
        f"actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu={SEQUENCES // ranks}",
        f"actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu={SEQUENCES // ranks}",
    )


STUDIES = {
    "ranks": Study(
        "2x1", None, seeds=3, steps=45, base=PLAIN, variants={"1 rank": of_ranks(1), "2 ranks": of_ranks(2)}
    ),
    "stability": Study(
        "2x2",
        "2x1",
        seeds=1,
        steps=100,
        base=(
            *PLAIN,
            "actor_rollout_ref.actor.ppo_mini_batch_size=8",
            f"actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu={SEQUENCES // 2}",
        ),
        variants={
            "plain": (),
            "difficulty": schedule([[2, 1], [2, 2]]),
            "dynamic sampling": ("algorithm.filter_groups.enable=true",),
            "asymmetric clipping": ("actor_rollout_ref.actor.clip_ratio_high=0.28",),
            "length reward": (
                "+reward.custom_reward_function.reward_kwargs.length_reward={min_words: 2, max_words: 9, penalty: 0.1}",
            ),
        },
    ),
}


def prepare(out: Path, study: Study, seed: int, steps: int, progress: Progress) -> Quickstart:
    """A seed's pictures, rows and warm-started model."""
    settings = Settings(study.grid, study.begin_with, None, WARM_STEPS, seed)
    prepared = Quickstart(out / f"seed_{seed}", settings, steps)
    prepared.out.mkdir(parents=True, exist_ok=True)
    for stage in (
        lambda: prepared.media(progress),
        prepared.tiny_model,
        lambda: prepared.warm_start(progress),
    ):
        progress.console.print(f"  {stage()}")
    return prepared


def curve_of(metrics: dict[int, Metrics]) -> dict[int, float]:
    """Held-out exact accuracy by step."""
    return {step: exact for step, values in metrics.items() if (exact := heldout_exact(values)) is not None}


def solved(metrics: dict[int, Metrics]) -> int | None:
    """The first step after which the task was solved; None if it has not been."""
    return next((step for step, exact in curve_of(metrics).items() if exact >= SOLVED), None)


def beside(prepared: Quickstart, name: str) -> tuple[Quickstart, Clock]:
    """A run of a folder of its own from a quickstart's rows and warm-started model, and its clock."""
    run = Quickstart(prepared.out / name.replace(" ", "_"), prepared.settings, prepared.steps)
    run.parts, run.warm_model = prepared.parts, prepared.warm_model
    run.out.mkdir(exist_ok=True)
    kill_leftovers(run.out)
    clock = Clock(run.out / "timing.json", seconds_install=0.0)
    clock.watch_memory()
    return run, clock


def train(prepared: Quickstart, name: str, overrides: Sequence[str], every: int, progress: Progress) -> Result:
    """A run from the warm-started model to its last step; one that came so far, or solved its task, before is kept."""
    run, clock = beside(prepared, name)
    before = run.metrics()
    if solved(before) is None and max(before, default=0) < run.steps:
        run.grpo(progress, clock, f"eval.every={every}", f"trainer.save_freq={every}", *overrides)
    clock.stop()
    metrics = {step: values for step, values in run.metrics().items() if step <= run.steps}
    return {
        "variant": name,
        "seed": run.settings.seed,
        "steps": run.steps,
        "machine": machine(),
        "solved": solved(metrics),
        "heldout_exact": curve_of(metrics),
        "step_s": median(values["timing_s/step"] for values in metrics.values() if "timing_s/step" in values),
        "peak_gib": clock.peak_gib,
    }


def read_results(path: Path, study: str) -> dict[tuple[str, int], Result]:
    """The figures of earlier starts by variant and seed; none where there is no such file.

    Raises:
        JigsawError: if it holds anything else.
    """
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        results = {(each["variant"], each["seed"]): each for each in record["results"]}
        for each in results.values():
            each["heldout_exact"] = {int(step): exact for step, exact in each["heldout_exact"].items()}
        known = record["study"] == study and {name for name, _ in results} <= set(STUDIES[study].variants)
    except (ValueError, TypeError, KeyError, AttributeError):
        known = False
    if not known:
        raise JigsawError(f"{path}: holds no figures of this study; move it away, or give another --json")
    return results


def is_whole(result: Result | None, steps: int) -> bool:
    """Whether a run was trained so far that it need not go on."""
    return result is not None and (result["solved"] is not None or result["steps"] >= steps)


def in_order(results: dict[tuple[str, int], Result], study: Study) -> list[Result]:
    """By variant, as the study names them, and seed."""
    return [results[name, seed] for name in study.variants for seed in sorted(s for n, s in results if n == name)]


def table(study: str, results: list[Result]) -> Table:
    columns = Table("variant", "seed", f"{SOLVED} exact", "best", "at the end", "a step", "memory", title=study)
    for result in results:
        exact = list(result["heldout_exact"].values())
        columns.add_row(
            result["variant"],
            str(result["seed"]),
            f"step {result['solved']}" if result["solved"] is not None else f"not in {result['steps']} steps",
            f"{max(exact):.3f}",
            f"{exact[-1]:.3f}",
            f"{result['step_s']:.1f} s",
            f"{result['peak_gib']:.1f} GiB",
        )
    return columns


def draw(results: list[Result], chance: float, path: Path) -> None:
    """One curve a run, one colour a variant."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    from matplotlib import pyplot as plt

    colours = dict(zip(dict.fromkeys(result["variant"] for result in results), COLOURS, strict=False))
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    for result in results:
        curve = result["heldout_exact"]
        colour = colours[result["variant"]]
        axis.plot(curve.keys(), curve.values(), "o-", color=colour, markersize=3, linewidth=1.5, alpha=0.8)
    for variant, colour in colours.items():
        axis.plot([], [], color=colour, label=variant)
    axis.axhline(chance, color="grey", linestyle="--", linewidth=1, label=f"chance {chance:.3g}")
    highest = max(chance, *(max(result["heldout_exact"].values()) for result in results))
    axis.set_ylim(0, min(1.02, 1.5 * highest))
    axis.set_xlabel("GRPO step")
    axis.set_title("held-out exact accuracy, greedy, a curve a seed", fontsize=10, loc="left")
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8, loc="best", frameon=False)
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=130)
    plt.close(figure)


def main(
    study: Annotated[str, typer.Argument(help=" or ".join(STUDIES))],
    only: Annotated[list[str] | None, typer.Option(help="Run this variant alone; may be given again.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Runs of each variant.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="GRPO steps; with more, unsolved runs go on.")] = None,
    every: Annotated[int, typer.Option(min=1, help="Steps between two held-out tests and checkpoints.")] = 5,
    out: Annotated[
        Path | None, typer.Option(help="Output folder.", show_default="outputs/STUDY in the repository")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Keep the figures here; runs that are in it are not run again.")
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw the curves here, as PNG.")] = None,
) -> None:
    """Train variants of one run and tell how each has learned."""
    if study not in STUDIES or set(only or ()) - set(STUDIES[study].variants):
        known = "; ".join(f"{name}: {', '.join(each.variants)}" for name, each in STUDIES.items())
        raise typer.BadParameter(f"there is no such study or variant; these are there: {known}")
    asked = STUDIES[study]
    seeds, steps = seeds or asked.seeds, steps or asked.steps
    folder = (out or OUTPUTS / study).resolve()
    console = Console(highlight=False, soft_wrap=True)
    again = "stopped; started again with the same arguments it goes on"
    busy = f"{folder}: another start works in this folder; wait for it, or choose another --out"
    with told_in_one_line(lambda: console.print(again)):
        folder.mkdir(parents=True, exist_ok=True)
        with alone(folder / ".lock", busy), Progress(console=console, transient=True) as progress:
            results = {} if json_file is None else read_results(json_file, study)
            for seed in range(seeds):
                missing = [name for name in only or asked.variants if not is_whole(results.get((name, seed)), steps)]
                if not missing:
                    continue
                progress.console.print(f"seed {seed}: pictures, model, warm start")
                prepared = prepare(folder, asked, seed, steps, progress)
                for name in missing:
                    progress.console.print(f"seed {seed}: {name}")
                    results[name, seed] = train(prepared, name, asked.base + asked.variants[name], every, progress)
                    if json_file is not None:
                        write_json(json_file, {"study": study, "results": in_order(results, asked)})
        figures = in_order(results, asked)
        if picture is not None:
            draw(figures, 1 / factorial(prod(parse_grid(asked.grid))), picture)
    console.print(table(study, figures))
    for each in {json.dumps(result["machine"]): result["machine"] for result in figures}.values():
        console.print(", ".join(f"{key} {value}" for key, value in each.items()))


if __name__ == "__main__":
    typer.run(main)
