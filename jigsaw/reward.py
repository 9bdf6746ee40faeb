r"""The reward: a reply and the true answer in, a score and its metrics out. Standard library only; verl's signature.

Score = accuracy + format + penalties. A malformed reply scores 0 in all.

* accuracy: 1 for the exact permutation; γ · shape for another permutation; 0 for anything else (paper, section 3.2).
* format: ``format_score`` if the reply keeps to its format; ``plain`` has none to reward.
* penalties: for repeated lines (profile ``released``) and for length (option ``length_reward``); never positive.

=============  ===========================================  ====================================================
\              profile ``paper``                            profile ``released``
=============  ===========================================  ====================================================
reading        strict                                       lenient, see :mod:`jigsaw.response`
γ · shape      for every K                                  for K > 4 only
repetition     not penalised                                −0.5
=============  ===========================================  ====================================================
"""

import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from inspect import Parameter, signature
from math import inf, nan
from operator import index
from typing import Any, Literal, get_args

from jigsaw.permutation import footrule, is_answer, kendall_tau, largest_footrule, order_of, position_agreement
from jigsaw.response import parse
from jigsaw.rows import ANSWER_FORMATS, AnswerFormat

Profile = Literal["paper", "released"]
PROFILES: tuple[Profile, ...] = get_args(Profile)
Shape = Literal["position", "kendall", "footrule", "adjacency"]
SHAPES: tuple[Shape, ...] = get_args(Shape)

GAMMA = 0.2  # paper, section 3.2
FORMAT_SCORE = 0.2  # paper, section 3.2

REPETITION_PENALTY = 0.5
_REPEATED_WORDS = 7
_PARTIAL_ABOVE = 4  # the released code gives partial credit for more pieces than this

_LENGTH_KEYS = ("min_words", "max_words", "penalty")


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    *,
    profile: Profile | None = None,
    answer_format: AnswerFormat | None = None,
    gamma: float | None = None,
    format_score: float | None = None,
    shape: Shape | None = None,
    length_reward: Mapping[str, float] | None = None,
    tasks: Mapping[str, Mapping[str, Any]] | None = None,
    reward_router_address: object = None,
    reward_model_tokenizer: object = None,
    **unknown: object,
) -> dict[str, float]:
    """Score one reply. Raises on no reply, only on a bad configuration or a bad row.

    Args:
        data_source: the row's; of plain replies it decides the profile that is not given.
        solution_str: the decoded reply, any string.
        ground_truth: the 1-based answer: a list, tuple or array of integers, or a string (``"[2, 1]"``, ``"2, 1"``).
        extra_info: what the puzzle says of itself, :attr:`jigsaw.puzzle.Plan.extra_info`; read are ``answer_format``,
            for the shape ``adjacency`` also ``grid``, and with ``tasks`` also ``task``. A released row's own
            ``extra_info`` says none of these.
        profile: ``paper`` or ``released``. Not given: boxed → released, answer_tag → paper, plain → released where
            ``data_source`` contains ``nothink``, else paper.
        answer_format: ``answer_tag``, ``boxed`` or ``plain``. Not given: ``extra_info["answer_format"]``, without which
            there is no score: the format is never guessed.
        gamma: weight of the partial credit, 0 ≤ γ < 1; 0.2 if not given.
        format_score: reward for the format, 0 or more; 0.2 if not given. Plain replies earn none.
        shape: what the partial credit measures, each from 0 to 1; ``position`` if not given.
            ``position``: share of places that agree. ``kendall``: (1 + tau) / 2. ``footrule``: 1 − distance / largest
            distance. ``adjacency``: share of the grid's neighbour pairs kept, see :func:`adjacency`; needs
            ``extra_info["grid"]`` = [rows, columns] ([1, K] for pieces in a line) and has no fallback.
        length_reward: ``{"min_words", "max_words", "penalty"}``. Takes off up to ``penalty`` from a well-formed reply
            below ``min_words`` or above ``max_words`` (white-space separated words of the whole reply; English has
            about 1.3 tokens a word). The loss grows linearly and is whole at 0 and at 2 · ``max_words``. It must be
            below 1 − γ (released: 0.5 − γ), so that a wrong answer never beats a right one; below ``format_score``
            a well-formed reply also never falls below a malformed one.
        tasks: options for the rows of one task, in place of those above: ``{"video": {"profile": "released"}}``.
        reward_router_address: verl hands it over with a reward model; not used.
        reward_model_tokenizer: the same.
        unknown: what no option is called; raises.

    Returns:
        Plain floats: ``score``; its parts ``accuracy_reward`` and ``format_reward``; and, all 0 for a reply without a
        valid answer (save the last one), ``exact`` and ``acc`` (the same, under the name that verl's validation looks
        for), ``position_accuracy`` (share of places that agree), ``valid_permutation``, ``kendall_tau`` and
        ``chance_corrected`` = (position_accuracy − 1/K) / (1 − 1/K). With K = 1 nothing can be above chance: 0.

    Raises:
        ValueError: if nothing says the answer format, an option is unknown or out of range, ``data_source`` is no text,
            ``extra_info`` no mapping, or the true answer no permutation of 1..K; if the grid that ``adjacency`` needs
            is missing or has not K cells, or no task is named where there are options by task.

    >>> reply = "<think>Sky: 2.</think><answer>2, 1</answer>"
    >>> compute_score("visual_jigsaw_image", reply, [2, 1], {"answer_format": "answer_tag"})["score"]
    1.2
    """
    _check_names(unknown)
    if tasks is not None:
        common = {
            "profile": profile,
            "answer_format": answer_format,
            "gamma": gamma,
            "format_score": format_score,
            "shape": shape,
            "length_reward": length_reward,
        }
        options = common | _options_of_task(tasks, extra_info)
        return compute_score(data_source, solution_str, ground_truth, extra_info, **options)
    answer_format, profile = reading(data_source, extra_info, answer_format=answer_format, profile=profile)
    gamma = _number("gamma", GAMMA if gamma is None else gamma)
    if gamma >= 1:
        raise ValueError(f"gamma is {gamma}; it must be below 1, or a wrong answer could earn as much as a right one")
    format_score = _number("format_score", FORMAT_SCORE if format_score is None else format_score)
    if shape is None:
        shape = "position"
    elif shape not in SHAPES:
        raise ValueError(f"shape is {shape!r}; it must be one of {', '.join(SHAPES)}")
    if length_reward is not None:
        # What lies between a right answer that takes every other penalty and the best wrong one.
        room = 1.0 - gamma - (REPETITION_PENALTY if profile == "released" else 0.0)
        _check_length_reward(length_reward, round(room, 9))
    truth = _truth(ground_truth)
    k = len(truth)
    grid = _grid(extra_info, k) if shape == "adjacency" else None

    parsed = parse(solution_str, k, answer_format, strict=profile == "paper")
    exact = position = tau = accuracy = format_reward = penalties = 0.0
    if parsed.answer == truth:
        exact = position = tau = accuracy = 1.0
    elif parsed.answer is not None:
        position = position_agreement(parsed.answer, truth)
        tau = kendall_tau(parsed.answer, truth)
        if profile == "paper" or k > _PARTIAL_ABOVE:
            accuracy = gamma * _closeness(shape, parsed.answer, truth, position, tau, grid)
    if parsed.well_formed:
        format_reward = 0.0 if answer_format == "plain" else format_score
        if profile == "released" and repeats_lines(solution_str):
            penalties -= REPETITION_PENALTY
        if length_reward is not None:
            penalties -= _length_penalty(solution_str, length_reward)
    return {
        "score": accuracy + format_reward + penalties,
        "accuracy_reward": accuracy,
        "format_reward": format_reward,
        "exact": exact,
        "acc": exact,
        "position_accuracy": position,
        "valid_permutation": 0.0 if parsed.answer is None else 1.0,
        "kendall_tau": tau,
        "chance_corrected": 0.0 if k == 1 else (position - 1 / k) / (1 - 1 / k),
    }


OPTIONS = [name for name, given in signature(compute_score).parameters.items() if given.kind is Parameter.KEYWORD_ONLY]
"""What :func:`compute_score` takes by name."""


def reading(
    data_source: str,
    extra_info: Mapping[str, Any] | None = None,
    *,
    answer_format: AnswerFormat | None = None,
    profile: Profile | None = None,
) -> tuple[AnswerFormat, Profile]:
    """The format in which replies to a puzzle are read, and the profile that scores them; see :func:`compute_score`.

    Raises:
        ValueError: if nothing says the format, a given format or profile is unknown, ``data_source`` is no text, or
            ``extra_info`` no mapping.
    """
    if not isinstance(data_source, str):
        raise ValueError(f"data_source is {data_source!r:.60}; it must be the row's, a text")
    if extra_info is not None and not isinstance(extra_info, Mapping):
        raise ValueError(f"extra_info is {extra_info!r:.60}; it must be a mapping, or None")
    if profile is not None and profile not in PROFILES:
        raise ValueError(f"profile is {profile!r}; it must be one of {', '.join(PROFILES)}")
    if answer_format is None and extra_info is not None:
        answer_format = extra_info.get("answer_format")
    if answer_format is None:
        raise ValueError(
            "extra_info has no answer_format, so nothing says how to read the reply; pass the puzzle's extra_info "
            "(jigsaw.plan(row).extra_info) instead of the row's, or the option answer_format"
        )
    if answer_format not in ANSWER_FORMATS:
        raise ValueError(f"answer_format is {answer_format!r:.60}; it must be one of {', '.join(ANSWER_FORMATS)}")
    if profile is None:
        released = answer_format == "boxed" or (answer_format == "plain" and "nothink" in data_source)
        profile = "released" if released else "paper"
    return answer_format, profile


def check_options(options: Mapping[str, Any], known_tasks: Collection[str]) -> None:
    """Raise unless :func:`compute_score` takes these options.

    Raises:
        ValueError: if an option, of all rows or of one task, is unknown or out of range, or a task is unknown.
    """
    _check_names(options)
    tasks = options.get("tasks")
    if tasks is None:
        tasks = {}
    if not isinstance(tasks, Mapping):
        raise ValueError(f"tasks is {tasks!r:.60}; it must be a mapping from a task to its options")
    if unknown := set(tasks) - set(known_tasks):
        raise ValueError(f"tasks.{min(map(str, unknown))}: no such task; known are {', '.join(known_tasks)}")
    for task in ("", *tasks):
        try:
            said = {"task": task, "answer_format": "answer_tag", "grid": [1, 2]}
            compute_score("", "", [1, 2], said, **options)
        except ValueError as error:
            raise ValueError(f"tasks.{task}: {error}" if task else str(error)) from error


def adjacency(answer: Sequence[int], truth: Sequence[int], grid: tuple[int, int]) -> float:
    """Share of the neighbour pairs of the picture put together by ``answer`` that are neighbours in the source too.

    A pair of cells side by side counts if its two pieces stand side by side in the source, in the same order; a pair
    of cells one above the other likewise.

    Args:
        answer: 1-based permutation of 1..K.
        truth: the true answer, a 1-based permutation of 1..K.
        grid: (rows, columns) with K cells, two or more.

    >>> adjacency((3, 4, 1, 2), (1, 2, 3, 4), (2, 2))  # rows swapped: both pairs side by side are kept
    0.5
    """
    rows, columns = grid
    order = order_of(truth)
    piece_at = [order[place - 1] for place in answer]
    kept = 0
    for cell, piece in enumerate(piece_at):
        if (cell + 1) % columns:
            kept += (piece + 1) % columns != 0 and piece_at[cell + 1] == piece + 1
        if cell + columns < len(piece_at):
            kept += piece_at[cell + columns] == piece + columns
    return kept / (rows * (columns - 1) + columns * (rows - 1))


def repeats_lines(text: str) -> bool:
    """Whether a line of seven words or more stands four times or more in a row.

    Blank lines are skipped and break no run; case and blanks at the ends of a line make no difference.
    """
    lines = [line for raw in text.lower().splitlines() if (line := raw.strip())]
    return len(lines) >= 4 and any(
        a == b == c == d and len(a.split()) >= _REPEATED_WORDS
        for a, b, c, d in zip(lines, lines[1:], lines[2:], lines[3:], strict=False)
    )


def _options_of_task(tasks: Mapping[str, Any], extra_info: Mapping[str, Any] | None) -> dict[str, Any]:
    task = extra_info.get("task") if isinstance(extra_info, Mapping) else None
    if not isinstance(task, str):
        raise ValueError("options by task need extra_info['task']; write it or leave the option tasks out")
    options = tasks.get(task, {}) if isinstance(tasks, Mapping) else tasks
    if not isinstance(options, Mapping) or "tasks" in options:
        raise ValueError(f"{options!r:.60} must be a mapping from option to value, without tasks")
    _check_names(options)
    return dict(options)


def _check_names(options: Mapping[Any, Any]) -> None:
    if unknown := sorted(str(name) for name in options if name not in OPTIONS):
        raise ValueError(f"unknown reward option {', '.join(unknown)}")


def _closeness(
    shape: Shape,
    answer: Sequence[int],
    truth: Sequence[int],
    position: float,
    tau: float,
    grid: tuple[int, int] | None,
) -> float:
    """How close an inexact permutation is by ``shape``, 0 to 1; ``grid`` is given for ``adjacency`` alone."""
    if grid is not None:
        return adjacency(answer, truth, grid)
    if shape == "kendall":
        return (1.0 + tau) / 2.0
    if shape == "footrule":
        return 1.0 - footrule(answer, truth) / largest_footrule(len(truth))
    return position


def _number(name: str, value: object) -> float:
    number = nan
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        with suppress(OverflowError):  # a whole number may be larger than any float
            number = float(value)
    if not 0 <= number < inf:
        raise ValueError(f"{name} is {value!r:.60}; it must be a number, 0 or more")
    return number


def _check_length_reward(length_reward: object, room: float) -> None:
    if not isinstance(length_reward, Mapping) or set(length_reward) != set(_LENGTH_KEYS):
        raise ValueError(f"length_reward is {length_reward!r}; it must be a mapping with {', '.join(_LENGTH_KEYS)}")
    values = {name: _number(f"length_reward.{name}", length_reward[name]) for name in _LENGTH_KEYS}
    if values["min_words"] >= values["max_words"]:
        raise ValueError(f"length_reward.min_words must be below max_words, got {length_reward!r}")
    if values["penalty"] >= room:
        raise ValueError(
            f"length_reward.penalty is {values['penalty']}; it must be below {room:.4g}, or a wrong answer could beat "
            "a right one"
        )


def _length_penalty(text: str, length_reward: Mapping[str, float]) -> float:
    """What a reply loses for its length, 0 to ``penalty``."""
    words = len(text.split())
    shortest, longest = length_reward["min_words"], length_reward["max_words"]
    too_short = 1.0 - words / shortest if words < shortest else 0.0
    too_long = min(words / longest - 1.0, 1.0)
    return length_reward["penalty"] * max(too_short, too_long, 0.0)


def _truth(ground_truth: Any) -> tuple[int, ...]:
    """The true answer as a tuple, from all that a row, parquet or verl may hand over."""
    values = ground_truth
    try:
        if isinstance(values, str):
            values = json.loads(values if values.lstrip().startswith("[") else f"[{values}]")
        elif hasattr(values, "tolist"):  # an array, without importing NumPy
            values = values.tolist()
        if not isinstance(values, (list, tuple)) or any(isinstance(value, bool) for value in values):
            raise TypeError  # what else can be gone through, a set or bytes, has no such order
        truth = tuple(map(index, values))
    except (TypeError, ValueError, RecursionError) as error:  # the last for text that nests without end
        raise ValueError(f"ground_truth {ground_truth!r:.80} is not a list of integers") from error
    if not truth or not is_answer(truth, len(truth)):
        raise ValueError(f"ground_truth {ground_truth!r:.80} is not a permutation of 1..K")
    return truth


def _grid(extra_info: Mapping[str, Any] | None, k: int) -> tuple[int, int]:
    given = None if extra_info is None else extra_info.get("grid")
    if given is None:
        raise ValueError(
            "shape 'adjacency' needs extra_info['grid'] = [rows, columns]; write it or choose another shape"
        )
    try:
        sides = tuple(map(index, given))
    except TypeError:
        sides = ()
    if len(sides) != 2 or min(sides) < 1 or sides[0] * sides[1] != k or k < 2:
        raise ValueError(f"extra_info['grid'] is {given!r:.60}; it must be [rows, columns] with {k} cells, two or more")
    return sides[0], sides[1]
