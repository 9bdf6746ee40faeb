"""What the metrics of a run tell of its puzzles, and what blind guesses earn."""

from pathlib import Path
from typing import Any

import pytest

from jigsaw.show.run import Run, Start, blind_score, chance, floor, pieces, seconds


def step(**tasks: tuple[int, int, float]) -> dict[str, float]:
    """A step's metrics by (pieces, prompts, share of pieces in place) of each task."""
    values = {"critic/score/mean": 0.0}
    for task, (count, prompts, accuracy) in tasks.items():
        corrected = (accuracy - 1 / count) / (1 - 1 / count)
        values |= {f"training/prompts/{task}": prompts, f"reward/{task}/position_accuracy": accuracy}
        values |= {f"reward/{task}/chance_corrected": corrected}
    return values


def run_of(*steps: dict[str, float]) -> Run:
    metrics = dict(enumerate(steps, start=1))
    return Run(Path(), Path(), (Start(Path("a.jsonl"), metrics, {}, 0.0),))


def test_the_number_of_pieces_follows_from_two_accuracies() -> None:
    run = run_of(step(image=(2, 8, 0.5)), step(image=(2, 8, 1.0)), step(image=(9, 8, 0.13)), step(image=(9, 8, 0.0)))
    assert pieces(run, "image") == {1: 2, 2: 2, 3: 9, 4: 9}
    assert pieces(run, "video") == {}
    assert chance(run) == pytest.approx({1: 1 / 2, 2: 1 / 2, 3: 1 / 362880, 4: 1 / 362880})


def test_of_puzzles_of_several_sizes_nothing_is_told() -> None:
    mixed = {**step(image=(2, 8, 0.5)), "reward/image/chance_corrected": 0.2}
    assert pieces(run_of(mixed), "image") == {}
    assert chance(run_of(mixed)) == {}


def test_a_mixture_is_guessed_by_its_shares() -> None:
    run = run_of(step(image=(2, 6, 0.5), depth=(3, 2, 0.4)), step(image=(2, 0, 0.0), depth=(3, 8, 0.4)))
    assert chance(run) == pytest.approx({1: 0.75 / 2 + 0.25 / 6, 2: 1 / 6})
    plain = {"answer_format": "plain"}
    assert floor(run, {}, {"depth": ("visual_depth_jigsaw", plain)})[2] == pytest.approx(1 / 6 + 0.2 * (1 / 3 - 1 / 6))


@pytest.mark.parametrize(
    ("count", "answer_format", "options", "score"),
    [
        (2, "answer_tag", {}, 0.7),
        (9, "answer_tag", {}, 0.2 + 0.2 / 9),
        (4, "boxed", {}, 0.2 + 1 / 24),  # the released profile has no partial credit for so few
        (4, "plain", {"gamma": 0}, 1 / 24),
        (3, "answer_tag", {"tasks": {"image": {"format_score": 0.5, "gamma": 0}}}, 0.5 + 1 / 6),
        (3, "plain", {"answer_format": "answer_tag", "gamma": 0.0}, 0.2 + 1 / 6),
        (2, "answer_tag", {"length_reward": {"min_words": 9, "max_words": 99, "penalty": 0.1}}, 0.7),
    ],
)
def test_what_blind_guesses_earn(count: int, answer_format: str, options: Any, score: float) -> None:
    said = {"task": "image", "answer_format": answer_format}
    assert blind_score(count, "visual_jigsaw_image", said, options) == pytest.approx(score, abs=1e-5)


def test_the_floor_is_the_mean_over_all_orders_by_any_shape() -> None:
    said = {"task": "image", "answer_format": "answer_tag", "grid": [2, 2]}
    for shape in ("kendall", "footrule", "adjacency"):
        known = blind_score(4, "", said, {"shape": shape, "gamma": 0.9})
        assert 0.2 + 1 / 24 < known < 0.2 + 1 / 24 + 0.9
    assert blind_score(6, "", said, {"shape": "adjacency"}) > 0.2  # of another grid than the first row's


def test_seconds_are_those_of_the_phases_and_what_is_left_of_the_step() -> None:
    values = {"timing_s/gen": 2.0, "timing_s/step": 5.0, "timing_s/testing": 9.0, "timing_s/agent_loop/tool/max": 7.0}
    assert seconds({**values, "perf/time_per_step": 5.0}) == {"gen": 2.0, "testing": 9.0, "other": 3.0}
    assert seconds({"timing_s/gen": 2.0, "timing_s/step": 1.9})["other"] == 0.0
