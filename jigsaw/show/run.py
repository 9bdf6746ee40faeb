"""A training run as its folder tells it: what its starts logged, what they were made of, what it came to."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from itertools import permutations
from math import factorial, prod
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from jigsaw.errors import JigsawError
from jigsaw.evaluation.table import read_table
from jigsaw.permutation import draw
from jigsaw.response import reply_of
from jigsaw.reward import compute_score
from jigsaw.show.training import BENCHMARK, Metrics, first_trained, heldout_exact, joined, read_start, record_of

State = Literal["ended", "going", "quiet"]
REWARD = "pkg://jigsaw.reward"
_FOLDER, _CHECKPOINTS = "metrics", "checkpoints"
_STAMP = "%Y%m%dT%H%M%S"
_QUIET = 900.0
"""Seconds without a new step after which a run is quiet; or five times its longest step, if that is more."""
_ALL_OF, _DRAWN = 6, 500
"""Pieces whose orders are all gone through; how many stand for those of more."""
_LARGEST = 100
"""Pieces from which on no float holds the number of their orders; the chance is 0 then in all digits."""
_SUPERVISED = "train/loss"
"""A metric of verl's supervised trainer alone."""
_BESIDES = ("testing",)
"""Phases that verl's time of a step leaves out."""


@dataclass(frozen=True)
class Start:
    """One start of a run.

    Attributes:
        file: of its metrics.
        steps: what it logged, by step.
        record: what it was made of, see jigsaw/verl_plugin/record.py; empty where it was not recorded.
        written: when it last wrote a step, seconds since 1970.
    """

    file: Path
    steps: dict[int, Metrics]
    record: Mapping[str, Any]
    written: float

    @property
    def started(self) -> datetime | None:
        """When it was started; None where nothing tells."""
        try:
            if "started" in self.record:
                return datetime.fromisoformat(self.record["started"])
            return datetime.strptime(self.file.stem, _STAMP).replace(tzinfo=UTC)
        except (TypeError, ValueError):
            return None

    @property
    def first(self) -> int | None:
        """The first step that it trained."""
        return first_trained(self.steps)


@dataclass(frozen=True)
class Run:
    """A run.

    Attributes:
        folder: as it was given.
        checkpoints: the folder of its checkpoints.
        starts: those that logged a step, the first one first.
    """

    folder: Path
    checkpoints: Path
    starts: tuple[Start, ...]

    @cached_property
    def steps(self) -> dict[int, Metrics]:
        """The metrics of all starts as one curve."""
        return joined(start.steps for start in self.starts)

    @cached_property
    def trained(self) -> dict[int, Metrics]:
        """Those of the steps that were trained."""
        return {step: values for step, values in self.steps.items() if "critic/score/mean" in values}

    @property
    def last(self) -> int:
        """The last step that was done; 0 before the first."""
        return max(self.trained, default=0)

    @property
    def resumed(self) -> list[int]:
        """The first steps of all starts but the first."""
        return [first for start in self.starts[1:] if (first := start.first) is not None]

    @property
    def record(self) -> Mapping[str, Any]:
        """What the newest start was made of."""
        return self.starts[-1].record

    def setting(self, name: str) -> Any:
        """A value of the recorded config by its dotted name, None where there is none."""
        node: Any = self.record.get("config")
        for part in name.split("."):
            node = node.get(part) if isinstance(node, Mapping) else None
        return node

    def curve(self, name: str) -> dict[int, float]:
        """A metric by step."""
        return {step: values[name] for step, values in self.trained.items() if name in values}

    @cached_property
    def heldout(self) -> dict[int, float]:
        """Exact accuracy on the held-out rows, where it was measured."""
        found = {step: heldout_exact(values) for step, values in self.steps.items()}
        return {step: exact for step, exact in found.items() if exact is not None}

    @cached_property
    def benchmarks(self) -> dict[str, tuple[str, dict[int, float]]]:
        """By the names of the benchmarks that were asked: its metric in the paper, and that by step."""
        found = {}
        for benchmark in read_table().benchmarks:
            metric = next(iter(benchmark.metric))
            name = f"{BENCHMARK}{benchmark.name}/{metric}"
            if points := {step: values[name] for step, values in self.steps.items() if name in values}:
                found[benchmark.name] = metric, points
        return found

    def state(self, now: float) -> State:
        """Whether all steps are done, the last one was written not long ago, or neither."""
        if self.last and self.last >= (self.setting("trainer.total_training_steps") or float("inf")):
            return "ended"
        longest = max((sum(seconds(values).values()) for values in self.trained.values()), default=0.0)
        return "going" if now - self.starts[-1].written <= max(_QUIET, 5 * longest) else "quiet"

    @property
    def whole_checkpoints(self) -> list[int]:
        """Steps of the checkpoints that a run can resume from (jigsaw/verl_plugin/checkpoint.py)."""
        marked = [marker.parent for marker in self.checkpoints.glob("global_step_*/WHOLE")]
        steps = {folder: folder.name.removeprefix("global_step_") for folder in marked}  # one may be set aside
        return sorted(int(step) for folder, step in steps.items() if step.isdecimal() and (folder / "actor").is_dir())

    @property
    def clock(self) -> Mapping[str, Any]:
        """Seconds and memory at most of a whole quickstart, all its processes; empty for other runs (toy/clock.py)."""
        told = _read_object(self.folder / "timing.json")
        return told if {"seconds", "peak_gib"} <= told.keys() else {}

    @property
    def failures(self) -> list[dict[str, Any]]:
        """The prompts that were left out, ``{id, epoch, reason}`` each, the last ones last."""
        file = self.checkpoints / "failed_prompts.jsonl"
        lines = file.read_bytes().splitlines() if file.is_file() else []
        found = [_object(line) for line in lines]
        return [failure for failure in found if failure]


def read_run(folder: Path) -> Run:
    """A run by its folder, ``outputs/RECIPE_jigsaw`` or that of its checkpoints.

    Raises:
        JigsawError: if it is none, or no step is written yet.
    """
    looked = [folder / _FOLDER, folder / _CHECKPOINTS / _FOLDER]
    if not any(metrics.is_dir() for metrics in looked):
        sought = " nor ".join(f"{metrics}/*.jsonl" for metrics in looked)
        raise JigsawError(f"{folder}: is no folder of a run; there is neither {sought}")
    files = sorted(file for metrics in looked for file in metrics.glob("*.jsonl"))
    starts = [
        Start(file, steps, _read_record(record_of(file)), file.stat().st_mtime)
        for file in files
        if (steps := read_start(file))
    ]
    if not starts:
        where = next(metrics for metrics in looked if metrics.is_dir())
        raise JigsawError(f"{where}: no step is written yet, verl takes minutes to its first; try again later")
    if any(_SUPERVISED in values for start in starts for values in start.steps.values()):
        raise JigsawError(
            f"{folder}: is a run of the supervised baseline, not of GRPO; its losses are in {files[-1]}, and a "
            "checkpoint of it is exported by its own folder, global_step_N"
        )
    below = folder / _CHECKPOINTS
    return Run(folder, below if below.is_dir() else folder, tuple(starts))


def _read_record(file: Path) -> Mapping[str, Any]:
    """What a start was made of; empty where it was not recorded, or not as record.py does."""
    found = _read_object(file)
    return found if isinstance(found.get("config"), dict) and isinstance(found.get("folder"), str) else {}


def _read_object(file: Path) -> Mapping[str, Any]:
    return _object(file.read_bytes()) if file.is_file() else {}


def _object(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def pieces(run: Run, task: str) -> dict[int, int]:
    """How many pieces the puzzles of a task had, by step, as the metrics tell.

    The chance-corrected accuracy is (a − 1/K) / (1 − 1/K) of the accuracy a: that gives K, unless all were right or the
    puzzles of a step were of several sizes.
    """
    corrected = run.curve(f"reward/{task}/chance_corrected")
    found, known = {}, 0
    for step, accuracy in run.curve(f"reward/{task}/position_accuracy").items():
        chance = (accuracy - corrected[step]) / (1 - corrected[step]) if corrected.get(step, 1) != 1 else 0.0
        if chance > 0:
            known = round(1 / chance) if abs(1 / chance - round(1 / chance)) < 0.02 * (1 / chance) else 0
        if known:
            found[step] = known
    return found


def tasks(run: Run) -> list[str]:
    """The tasks of the prompts that were trained on."""
    names = {name for values in run.trained.values() for name in values if name.startswith("training/prompts/")}
    return sorted(name.removeprefix("training/prompts/") for name in names)


def mixed(run: Run) -> dict[int, dict[tuple[str, int], float]]:
    """What a step's prompts were of, by step: their share by task and number of pieces; steps where it is not known
    of all tasks are left out."""
    counts = {task: pieces(run, task) for task in tasks(run)}
    prompts = {task: run.curve(f"training/prompts/{task}") for task in counts}
    found = {}
    for step in run.trained:
        here = {task: prompts[task][step] for task in counts if prompts[task].get(step)}
        if here and all(step in counts[task] for task in here):
            total = sum(here.values())
            found[step] = {(task, counts[task][step]): number / total for task, number in here.items()}
    return found


def chance(run: Run) -> dict[int, float]:
    """Exact accuracy of a blind guess by step: 1 / K!, of a mixture the mean over its prompts."""
    return {
        step: sum(share / factorial(min(count, _LARGEST)) for (_, count), share in kinds.items())
        for step, kinds in mixed(run).items()
    }


def floor(run: Run, options: Mapping[str, Any], said: Mapping[str, tuple[str, Mapping[str, Any]]]) -> dict[int, float]:
    """The mean reward of blind guesses in the right format, by step.

    Args:
        run: the run.
        options: of the reward.
        said: the data source of a task, and what its puzzles say of themselves; of others it is what
            ``jigsaw prepare`` writes.
    """
    scores: dict[tuple[str, int], float] = {}

    def score(task: str, count: int) -> float:
        if (task, count) not in scores:
            source, extra_info = said.get(task, ("", {"answer_format": "answer_tag"}))
            scores[task, count] = blind_score(count, source, {**extra_info, "task": task}, options)
        return scores[task, count]

    return {step: sum(share * score(*kind) for kind, share in kinds.items()) for step, kinds in mixed(run).items()}


def blind_score(count: int, source: str, extra_info: Mapping[str, Any], options: Mapping[str, Any]) -> float:
    """The mean reward of blind guesses of puzzles of ``count`` pieces, in the right format.

    Args:
        count: number of pieces.
        source: the rows' ``data_source``.
        extra_info: what the puzzles say of themselves, task and answer format at least.
        options: of the reward; what it takes off for length is left out, as nobody knows how long a guess is.
    """
    chosen = {
        **options,
        **(options.get("tasks") or {}).get(extra_info["task"], {}),
        "length_reward": None,
        "tasks": None,
    }
    form = chosen.get("answer_format") or extra_info["answer_format"]
    grid = extra_info.get("grid")
    said = {**extra_info, "grid": grid if grid and prod(grid) == count else [1, count]}
    truth = tuple(range(1, count + 1))
    guesses: Iterable[tuple[int, ...]] = permutations(truth)
    if count > _ALL_OF:
        # All rotations of an order together agree with the truth in as many places as all orders do on average.
        drawn = [draw(count, seed=0, split="", sample_id=str(each), epoch=0) for each in range(-(-_DRAWN // count))]
        guesses = (tuple((piece + by) % count + 1 for piece in order) for order in drawn for by in range(count))
    replies = (reply_of(guess, form) for guess in guesses)
    return fmean(compute_score(source, reply, truth, said, **chosen)["score"] for reply in replies)


def seconds(values: Metrics) -> dict[str, float]:
    """What a step's phases took, by verl's names; ``other`` is what its step took besides."""
    phases = {
        name: value
        for key, value in values.items()
        if (name := key.removeprefix("timing_s/")) != key and "/" not in name and name != "step"
    }
    within = sum(value for name, value in phases.items() if name not in _BESIDES)
    return {**phases, "other": max(0.0, values.get("timing_s/step", 0.0) - within)}
