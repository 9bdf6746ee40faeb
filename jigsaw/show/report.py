"""The report: a training run as one self-contained HTML page, also while it goes on."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from jigsaw.errors import JigsawError
from jigsaw.evaluation.table import SUITES, of_suite
from jigsaw.reward import OPTIONS
from jigsaw.show.curves import GREEN, GREY, RED, Line, Panel, draw
from jigsaw.show.gallery import check_place, render, write_page
from jigsaw.show.run import REWARD, Run, chance, floor, read_run, seconds, tasks
from jigsaw.show.samples import Rows, Sample, samples
from jigsaw.show.training import VALID

Figures = dict[str, Any]
PAGE = "report.html"
_ENDS = 10
"""Steps whose mean stands for the beginning and for the end of a curve, at most; a tenth of a short run's."""
_PHASES = {
    "gen": "replies (vLLM)",
    "reward": "reward",
    "old_log_prob": "log-probabilities",
    "ref": "reference model",
    "adv": "advantages",
    "update_actor": "update",
    "update_weights": "weights to vLLM",
    "save_checkpoint": "checkpoint",
    "testing": "held-out test",
    "other": "other",
}
"""Phases as the page calls them, by verl's names; the page calls others as verl does."""
_COLOURS = ("#2a7fb0", "#d1495b", "#5f9e4f", "#e0a030", "#7d6bb3", "#4aa7a0", "#b0693a", "#c06c9e", "#8b9199")
_MEMORY = {
    "max_memory_allocated_gb": "GPU, allocated by torch",
    "max_memory_reserved_gb": "GPU, reserved by torch",
    "cpu_memory_used_gb": "host memory in use",
}
"""Ends of verl's names of metrics of memory, in words."""
_LEAST = 1e-9
"""What stands for less on a logarithmic axis."""
_SHOWN_FAILURES = 5
_OF_A_START = ("resume_mode", "resume_from_path", "VERL_FILE_LOGGER_PATH", "val_before_train")
"""Ends of the names of settings that differ between the starts of one run."""


@dataclass(frozen=True)
class Phase:
    """What a phase took.

    Attributes:
        name: in words.
        each: mean seconds, of the steps that had it.
        steps: how many had it.
        share: of all time, 0 to 1.
        colour: of its part of the bar.
    """

    name: str
    each: float
    steps: int
    share: float
    colour: str


def write_report(folder: Path, out: Path | None = None, *, now: float) -> tuple[Path, Figures]:
    """Write the page of a run.

    Args:
        folder: ``outputs/RECIPE_jigsaw``, or that of its checkpoints.
        out: the page, written as a whole or not at all; ``report.html`` in the folder where it is not given.
        now: seconds since 1970.

    Returns:
        The page's place and its figures, see :func:`figures`.

    Raises:
        JigsawError: if the folder is none of a run, no step is written yet, or another file than a page is in the
            page's place.
    """
    run = read_run(folder)
    out = out or folder / PAGE
    check_place(out)
    rows, options = _rows(run), _reward_options(run)
    floors = {} if options is None else floor(run, options, {} if isinstance(rows, str) else rows.kinds())
    replies = samples(_rollouts(run), run.last, rows, options or {})
    found = figures(run, floors, now=now)
    write_page(_page(run, floors, found, replies), out)
    return out, {"page": str(out), **found, "samples": len(replies)}


def _rows(run: Run) -> Rows | str:
    """What a run trains on, or why it is not known."""
    if not run.record:
        return "the config of this start was not recorded, so its rows are not known"
    try:
        return Rows(run.record["config"], Path(run.record["folder"]))
    except JigsawError as error:
        return str(error)


def _reward_options(run: Run) -> dict[str, Any] | None:
    """What a run's config says of our reward; None where the reward is another."""
    if run.setting("reward.custom_reward_function.path") not in (None, REWARD):
        return None
    given = run.setting("reward.custom_reward_function.reward_kwargs") or {}
    return {name: value for name, value in given.items() if name in OPTIONS}


def _rollouts(run: Run) -> Path:
    """Where the replies lie: where the config says, or where that folder was moved to with the run."""
    said = run.setting("trainer.rollout_data_dir")
    if said and (recorded := Path(run.record["folder"], said)).is_dir():
        return recorded
    return run.checkpoints / "rollouts"


def figures(run: Run, floors: Mapping[int, float], *, now: float) -> Figures:
    """What ``jigsaw report --json`` prints; what is not known is None."""
    phases, total = time_of(run)
    started = run.starts[0].started
    return {
        "run": str(run.folder),
        "recipe": run.record.get("recipe"),
        "model": run.setting("actor_rollout_ref.model.path"),
        "state": run.state(now),
        "steps": {"done": run.last, "planned": run.setting("trainer.total_training_steps")},
        "started": started and started.isoformat(timespec="seconds"),
        "written": datetime.fromtimestamp(run.starts[-1].written, UTC).isoformat(timespec="seconds"),
        "starts": len(run.starts),
        "whole_checkpoints": run.whole_checkpoints,
        "failed_prompts": len(run.failures),
        "reward": {**_ends(run.curve("critic/score/mean")), "floor": _last(floors)},
        "exact": {**_ends(run.curve("reward/exact")), "chance": _last(chance(run))},
        "held_out_exact": {"first": _first(run.heldout), "last": _last(run.heldout)},
        "benchmarks": {
            name: {"metric": metric, "first": _first(points), "last": _last(points)}
            for name, (metric, points) in run.benchmarks.items()
        },
        "valid_permutation": _ends(run.curve(VALID)),
        "entropy": _ends(run.curve("actor/entropy")),
        "response_length": _ends(run.curve("response_length/mean")),
        "grad_norm": _ends(run.curve("actor/grad_norm")),
        "rollout_probs_diff_max": max(run.curve("training/rollout_probs_diff_max").values(), default=None),
        "seconds": {"total": total, "step": _mean(run, "timing_s/step")},
        "phases": {phase.name: {"seconds": phase.each, "steps": phase.steps, "share": phase.share} for phase in phases},
        "tokens_per_second": _mean(run, "perf/throughput"),
        "largest_gb": memory_of(run),
        "whole_quickstart": run.clock or None,
        "versions": run.record.get("versions"),
    }


def _first(points: Mapping[int, float]) -> float | None:
    return next(iter(points.values()), None)


def _last(points: Mapping[int, float]) -> float | None:
    return list(points.values())[-1] if points else None


def _ends(points: Mapping[int, float]) -> dict[str, float | None]:
    """The means of the first and of the last steps."""
    values = list(points.values())
    count = min(_ENDS, max(1, len(values) // 10))
    return {"first": fmean(values[:count]), "last": fmean(values[-count:])} if values else {"first": None, "last": None}


def _mean(run: Run, name: str) -> float | None:
    values = run.curve(name).values()
    return fmean(values) if values else None


def time_of(run: Run) -> tuple[list[Phase], float]:
    """A run's phases, the longest first, and the seconds of all of them."""
    found: dict[str, list[float]] = {}
    for values in run.steps.values():
        for name, taken in seconds(values).items():
            if taken > 0:
                found.setdefault(name, []).append(taken)
    total = sum(map(sum, found.values()))
    longest = sorted(found, key=lambda name: (name == "other", -sum(found[name])))
    colours = [*_COLOURS, *[GREY] * len(longest)]
    return [
        Phase(_PHASES.get(name, name), fmean(found[name]), len(found[name]), sum(found[name]) / total, colour)
        for name, colour in zip(longest, colours, strict=False)
    ], total


def memory_of(run: Run) -> dict[str, float]:
    """The largest value of each metric of memory, GB, in words."""
    largest: dict[str, float] = {}
    for values in run.steps.values():
        for name, value in values.items():
            if said := _MEMORY.get(name.rpartition("/")[2]):
                largest[said] = max(value, largest.get(said, value))
    return largest


def panels(run: Run, floors: Mapping[int, float]) -> list[Panel]:
    """The plots of a run, those of which something was logged."""
    return [panel for panel in (*_of_learning(run, floors), *_of_health(run), *_of_length(run)) if panel.drawn]


def _of_learning(run: Run, floors: Mapping[int, float]) -> list[Panel]:
    by_task, levels, alike = (
        [
            Line(task, run.curve(name.format(task)), colour)
            for task, colour in zip(tasks(run), _COLOURS * len(tasks(run)), strict=False)
        ]
        for name in ("reward/{}/exact", "training/difficulty/{}", "reward/{}/same_answer")
    )
    return [
        Panel(
            "Reward",
            "Mean of a step. It begins at or below the floor, what blind guesses in the right format earn, and rises "
            "from it. A reward that stays there has taught the format alone.",
            [Line("reward", run.curve("critic/score/mean")), Line("blind floor", floors, GREY, "dashes")],
        ),
        Panel(
            "Exact and valid answers",
            "Shares of the replies. Exact answers rise from chance, the held-out ones with those in training. Soon all "
            "replies are valid: they name each piece once.",
            [
                Line("exact, training", run.curve("reward/exact")),
                Line("exact, held out", run.heldout, RED, "dots"),
                Line("valid", run.curve(VALID), GREEN),
                Line("chance", chance(run), GREY, "dashes"),
            ],
            bounds=(0, 1.03),
        ),
        Panel(
            "Exact answers by task",
            "Shares of the replies to each task's prompts. Each rises from a chance of its own.",
            by_task if len(by_task) > 1 else [],
            bounds=(0, 1.03),
        ),
        Panel(
            "Benchmarks",
            f"Means of each suite's figures, of the first {run.setting('eval.limit')} questions a benchmark, replies "
            "read carefully. Few questions move by chance: a trend counts, a step does not.",
            _of_benchmarks(run),
        ),
        Panel("Level of difficulty", "Rises by one whenever a level is solved.", levels),
        Panel(
            "Replies with the most common answer",
            "Share of the replies to a task's prompts. As low as for guesses; near 1, it answers without looking.",
            alike if len(alike) > 1 else [replace(line, label="") for line in alike],
            bounds=(0, 1.03),
        ),
    ]


def _of_benchmarks(run: Run) -> list[Line]:
    """The mean of each suite's benchmarks, at the steps at which all of them were asked."""
    lines = []
    asked = run.setting("eval.suite")
    for suite, colour in zip([asked] if asked in SUITES else SUITES, _COLOURS, strict=False):
        curves = [run.benchmarks[one.name][1] for one in of_suite(suite) if one.name in run.benchmarks]
        steps = sorted(set(curves[0]).intersection(*curves)) if curves else []
        lines.append(Line(suite, {step: fmean(curve[step] for curve in curves) for step in steps}, colour, "dots"))
    return lines


def _of_health(run: Run) -> list[Panel]:
    difference = run.curve("training/rollout_probs_diff_max")
    return [
        Panel(
            "Entropy, nats a token",
            "Falls slowly while the reward rises. Near 0 all replies to a prompt are alike, nothing more is learned; "
            "where it shoots up, they fall apart.",
            [Line("", run.curve("actor/entropy"))],
            bounds=(0, None),
        ),
        Panel(
            "Norm of the gradient",
            "Of one size throughout. A single spike is clipped; a lasting rise often comes before a collapse.",
            [Line("", run.curve("actor/grad_norm"))],
            bounds=(0, None),
        ),
        Panel(
            "Rollout and trainer apart, at most",
            "The largest difference of a token's probability (rollout_probs_diff_max). Near 0 and without a trend: "
            "both see the same weights, pictures and positions.",
            [Line("", {step: max(value, _LEAST) for step, value in difference.items()})],
            log=True,
        ),
    ]


def _of_length(run: Run) -> list[Panel]:
    limit = run.setting("data.max_response_length")
    longest, ratio = run.curve("response_length/max"), run.curve("response_length/clip_ratio")
    # verl counts the replies that are as long as the step's longest, which says something at the limit alone.
    cut = {step: share * (longest.get(step, 0) >= limit) for step, share in ratio.items()} if limit else {}
    return [
        Panel(
            "Response length, tokens",
            "Moves to what the task needs. Where it grows to the limit, replies ramble; where it shrinks to a few "
            "words, they no longer reason.",
            [
                Line("mean", run.curve("response_length/mean")),
                Line("longest", longest, GREY, "thin"),
                Line("limit", dict.fromkeys(longest, limit) if limit else {}, RED, "dashes"),
            ],
            bounds=(0, None),
        ),
        Panel(
            "Replies at the limit",
            "Share of the replies that are as long as they may be. Near 0: what is cut off has no answer and earns "
            "nothing.",
            [Line("", cut)],
            bounds=(0, 1.03),
        ),
    ]


def _page(run: Run, floors: Mapping[int, float], found: Figures, replies: list[Sample]) -> str:
    from markupsafe import Markup

    phases, _ = time_of(run)
    drawn = [(panel, Markup(draw(panel, run.resumed))) for panel in panels(run, floors)]
    failures = run.failures[-_SHOWN_FAILURES:]
    return render(
        "report.html.j2",
        found=found,
        run=run,
        starts=_starts(run),
        panels=drawn,
        samples=replies,
        rollouts=str(_rollouts(run)),
        phases=phases,
        changed=[(name, *map(_plain, pair)) for name, pair in (run.record.get("changed") or {}).items()],
        config=json.dumps(run.record.get("config"), indent=2, ensure_ascii=False) if run.record else None,
        failures=failures,
        summary=summary(found),
    )


def _starts(run: Run) -> list[dict[str, Any]]:
    """The starts of a run in words: when, from and to which step, and what differs from the start before."""
    said = []
    for number, start in enumerate(run.starts):
        before = run.starts[number - 1].record.get("changed") if number else None
        here = start.record.get("changed")
        differs: list[str] = []
        if before is not None and here is not None:
            names = [name for name in sorted({*before, *here}) if not name.endswith(_OF_A_START)]
            pairs = [(name, before.get(name, [None])[0], here.get(name, [None])[0]) for name in names]
            differs = [f"{name}: {_plain(was)} → {_plain(now)}" for name, was, now in pairs if was != now]
        trained = [step for step in start.steps if start.first is not None and step >= start.first]
        said.append({"started": start.started, "trained": trained, "differs": differs})
    return said


def _plain(value: Any) -> str:
    """A value of a config in words."""
    return value if isinstance(value, str) else "–" if value is None else json.dumps(value, ensure_ascii=False)


def summary(found: Figures) -> list[tuple[str, str]]:
    """The figures that matter as a table's rows; those that are not known are left out."""

    def change(name: str, against: str = "") -> str | None:
        first, last = found[name]["first"], found[name]["last"]
        if last is None:
            return None
        known = found[name].get(against) if against else None
        return f"{first:.3g} → {last:.3g}" + (f"  ({against} {known:.3g})" if known is not None else "")

    done, planned = found["steps"]["done"], found["steps"]["planned"]
    step, difference = found["seconds"]["step"], found["rollout_probs_diff_max"]
    clock = found["whole_quickstart"]
    rows = {
        "steps": f"{done:,} of {planned:,}" if planned else f"{done:,}",
        "state": _STATES[found["state"]].format(written=found["written"].replace("T", " ").replace("+00:00", " UTC")),
        "reward": change("reward", "floor"),
        "exact, training": change("exact", "chance"),
        "exact, held out": change("held_out_exact"),
        "benchmarks, mean": _mean_of_benchmarks(found["benchmarks"]),
        "valid answers": change("valid_permutation"),
        "entropy": change("entropy"),
        "response length": change("response_length"),
        "rollout against trainer": None if difference is None else f"{difference:.2g} apart at most",
        "seconds a step": None if step is None else f"{step:.1f}",
        "whole quickstart": None if clock is None else f"{clock['seconds'] / 60:.0f} min, {clock['peak_gib']:.1f} GiB",
        "failed prompts": f"{found['failed_prompts']:,}" if found["failed_prompts"] else None,
    }
    return [(name, value) for name, value in rows.items() if value is not None]


def _mean_of_benchmarks(benchmarks: Mapping[str, Mapping[str, Any]]) -> str | None:
    if not benchmarks:
        return None
    first, last = (fmean(one[name] for one in benchmarks.values()) for name in ("first", "last"))
    return f"{first:.3g} → {last:.3g}  ({len(benchmarks)} of them)"


_STATES = {
    "ended": "ended, all steps are done",
    "going": "going on, last written {written}",
    "quiet": "quiet since {written}",
}
