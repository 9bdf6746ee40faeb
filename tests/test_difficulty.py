"""A difficulty schedule is a function of what was measured; a row at a level is the row that prepare would write."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jigsaw.difficulty import Difficulty, at_level, read_difficulties
from jigsaw.errors import JigsawError, RowError
from jigsaw.prepare.images import ImageOptions, image_row
from jigsaw.prepare.videos import VideoOptions, video_row
from jigsaw.rows import ANSWER_FORMATS
from jigsaw.tasks import TASKS, plan

LEVELS = ((2, 1), (2, 2), (3, 3))
accuracies = st.lists(st.sampled_from([0.0, 0.5, 0.75, 1.0]), max_size=60)
windows = st.integers(1, 8)


def _levels(measured: list[float], window: int) -> list[int]:
    """The level of each step of a run."""
    difficulty = Difficulty(LEVELS, raise_at=0.75, window=window)
    return [difficulty.level(measured[:step]) for step in range(len(measured) + 1)]


@given(accuracies, windows)
def test_a_run_begins_with_the_first_level_and_climbs_one_at_a_time(measured: list[float], window: int) -> None:
    levels = _levels(measured, window)
    assert levels[0] == 0
    assert all(after - before in (0, 1) for before, after in pairwise(levels))
    assert max(levels) < len(LEVELS)


@given(accuracies, windows)
def test_a_level_begins_once_its_window_was_good_enough_at_the_level_before(measured: list[float], window: int) -> None:
    levels = _levels(measured, window)
    for step in range(1, len(levels)):
        of_window = measured[step - window : step] if step >= window else []
        at_one_level = len(of_window) == window and len(set(levels[step - window : step])) == 1
        good = at_one_level and sum(of_window) / window >= 0.75
        climbs = levels[step] > levels[step - 1]
        assert climbs == (good and levels[step - 1] < len(LEVELS) - 1)


def test_a_worked_example() -> None:
    measured = [0.5, 0.8, 0.9, 0.2, 0.9, 0.9, 0.9]
    assert [Difficulty(LEVELS, 0.85, 2).level(measured[:n]) for n in range(8)] == [0, 0, 0, 1, 1, 1, 2, 2]


# --- rows -------------------------------------------------------------------------------------------------------


def _row(row: dict[str, Any]) -> dict[str, Any]:
    """A prepared row under an id without the cut, by which orders are drawn."""
    row["extra_info"]["id"] = "a"
    return row


def _image_row(grid: tuple[int, int], answer_format: Any = "answer_tag") -> dict[str, Any]:
    options = ImageOptions(grid=grid, answer_format=answer_format)
    return _row(image_row({"path": "a.png", "width": 90, "height": 90}, 0, "train", options))


def _video_row(clips: int, grid: tuple[int, int] | None = None, **record: Any) -> dict[str, Any]:
    seen = {"path": "a.mp4", "width": 90, "height": 90, "duration": 60.0, "fps": 30.0, **record}
    return _row(video_row(seen, 0, "train", VideoOptions(clips=clips, grid=grid, answer_format="boxed")))


@pytest.mark.parametrize("answer_format", ANSWER_FORMATS)
@pytest.mark.parametrize("level", LEVELS)
def test_a_picture_at_a_level_is_the_row_of_that_grid(level: tuple[int, int], answer_format: Any) -> None:
    changed = at_level(_image_row((3, 3), answer_format), "image", level)
    assert plan(changed, seed=3, epoch=2) == plan(_image_row(level, answer_format), seed=3, epoch=2)


@pytest.mark.parametrize("grid", [None, (1, 2)])
@pytest.mark.parametrize("level", [2, 4, 6])
def test_a_film_at_a_level_is_the_row_of_so_many_clips(level: int, grid: tuple[int, int] | None) -> None:
    assert plan(at_level(_video_row(6, grid), "video", level)) == plan(_video_row(level, grid))


def test_extracted_frames_are_of_their_own_clips_alone() -> None:
    row = _video_row(2, frames=[[0, 1], [2, 3]])
    with pytest.raises(RowError, match="needs the videos; make the rows without extracting frames"):
        at_level(row, "video", 4)


def test_the_row_itself_stays_as_it_is() -> None:
    row = _image_row((3, 3))
    at_level(row, "image", (2, 1))
    assert row == _image_row((3, 3))


def test_a_row_with_a_prompt_of_its_own_is_refused() -> None:
    row = _image_row((2, 2))
    row["prompt"][0]["content"] += " Thanks."
    with pytest.raises(RowError, match="changes the prompt; make the rows with jigsaw prepare"):
        at_level(row, "image", (2, 1))


# --- config -----------------------------------------------------------------------------------------------------


def test_a_schedule_is_read_from_the_config() -> None:
    config = {
        "image": {"levels": [[2, 1], [2, 2]], "raise_at": 0.8, "window": 10},
        "video": {"levels": [2, 6], "raise_at": 1, "window": 1},
    }
    assert read_difficulties(config) == {
        "image": Difficulty(((2, 1), (2, 2)), 0.8, 10),
        "video": Difficulty((2, 6), 1.0, 1),
    }
    assert read_difficulties(None) == {}


GOOD = {"levels": [[2, 1], [2, 2]], "raise_at": 0.8, "window": 10}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"depth": GOOD}, "data.difficulty.depth names no task with levels"),
        ({"image": {"levels": [[2, 1], [2, 2]]}}, "it must be like {levels:"),
        ({"image": {**GOOD, "levels": [[2, 2]]}}, "levels holds 1; it must hold two or more"),
        ({"image": {**GOOD, "levels": [[2, 2], [1, 1]]}}, "a grid of two tiles or more"),
        ({"image": {**GOOD, "levels": [[True, 2], [2, 2]]}}, "a grid of two tiles or more"),
        ({"image": {**GOOD, "levels": [[2, 2], [1, 2]]}}, "each must have more pieces than the one before"),
        ({"image": {**GOOD, "levels": [[2, 2], [4, 1]]}}, "each must have more pieces than the one before"),
        ({"image": {**GOOD, "levels": [2, 4]}}, "a grid of two tiles or more"),
        ({"video": {**GOOD, "levels": [1, 2]}}, "a number of clips, 2 or more"),
        ({"video": {**GOOD, "levels": [6, 2]}}, "each must have more pieces than the one before"),
        ({"video": {**GOOD, "levels": [[2, 1], [2, 2]]}}, "a number of clips, 2 or more"),
        ({"image": {**GOOD, "raise_at": 1.5}}, "raise_at is a share above 0, at most 1"),
        ({"image": {**GOOD, "raise_at": True}}, "raise_at is a share above 0, at most 1"),
        ({"image": {**GOOD, "window": 0}}, "window a number of steps"),
        ({"image": {**GOOD, "window": True}}, "window a number of steps"),
        ({"image": None}, "it must be like {levels:"),
        ({"image": {**GOOD, "levels": 5}}, "it must be like {levels:"),
        ({"image": {**GOOD, "raise_at": "high"}}, "raise_at is a share above 0, at most 1"),
        (["image"], "it must be null or hold a schedule by task"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(config: Any, message: str) -> None:
    with pytest.raises(JigsawError, match=message.replace("{", r"\{")):
        read_difficulties(config)


def test_a_task_without_levels_says_so() -> None:
    with pytest.raises(RowError, match="a row of the task depth cannot be made easier"):
        TASKS["depth"].at_level({}, 2)
