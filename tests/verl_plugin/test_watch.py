"""What a run is warned of."""

from typing import Any

import pytest
from omegaconf import OmegaConf

from jigsaw.errors import JigsawError
from jigsaw.verl_plugin.watch import Limits, Watch

LIMITS = {
    "window": 3,
    "floor": 0.02,
    "entropy_below": 0.02,
    "entropy_above": 3,
    "same_answer": 0.8,
    "at_limit": 0.2,
}
WELL = {
    "reward/image/chance_corrected": 0.4,
    "reward/chance_corrected": 0.0,  # of all tasks; each is watched by itself
    "reward/image/same_answer": 0.5,
    "actor/entropy": 0.3,
    "response_length/clip_ratio": 0.0,
}


def watch(**changes: Any) -> Watch:
    return Watch(Limits.of(OmegaConf.create({**LIMITS, **changes})))


def seen(watched: Watch, *steps: dict[str, float]) -> list[list[str]]:
    return [watched.see({**WELL, **step}) for step in steps]


def test_a_run_that_goes_well_is_left_alone() -> None:
    assert seen(watch(), *[{}] * 10) == [[]] * 10


@pytest.mark.parametrize(
    ("values", "line"),
    [
        (
            {"reward/image/chance_corrected": 0.01},
            "image: 0.010 of the way from a guess to the right order",
        ),
        ({"reward/image/same_answer": 0.9}, "image: 90% of the replies over 3 steps have one answer"),
        ({"actor/entropy": 0.01}, "entropy 0.0100 nats a token over 3 steps: replies hardly differ"),
        ({"response_length/clip_ratio": 0.25}, "25% of the replies over 3 steps are cut off"),
    ],
)
def test_each_trouble_is_one_line_once_there_is_a_window_of_it(values: dict[str, float], line: str) -> None:
    *before, now, after = seen(watch(), *[values] * 4)
    assert before == [[], []]
    assert len(now) == 1
    assert line in now[0]
    assert after == []


def test_an_entropy_that_grows_is_measured_by_the_first_window() -> None:
    *before, last = seen(watch(), *[{}] * 3, *[{"actor/entropy": 1.2}] * 3)
    assert before == [[]] * 5
    assert "entropy 1.20 nats a token over 3 steps, 4.0 times that of the first" in last[0]


def test_what_was_right_in_between_is_said_again() -> None:
    bad = {"response_length/clip_ratio": 0.5}
    lines = seen(watch(), *[bad] * 3, *[{}] * 3, *[bad] * 3)
    assert [index for index, found in enumerate(lines) if found] == [2, 7]  # two bad of three make a third


def test_each_task_has_its_own_floor() -> None:
    steps = [{"reward/video/chance_corrected": -0.01}] * 3
    (line,) = seen(watch(), *steps)[-1]
    assert line.startswith("video: -0.010")


@pytest.mark.parametrize("name", [name for name in LIMITS if name != "window"])
def test_each_warning_can_be_switched_off(name: str) -> None:
    bad = {
        "reward/image/chance_corrected": 0.0,
        "reward/image/same_answer": 1.0,
        "actor/entropy": 0.001,
        "response_length/clip_ratio": 1.0,
    }
    said = len(seen(watch(), *[bad] * 3)[-1])
    assert said == 4
    assert len(seen(watch(**{name: None}), *[bad] * 3)[-1]) == (said if name == "entropy_above" else said - 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flor": 0.1}, "trainer.warnings has flor or lacks it; it has window, floor"),
        ({"window": None}, "trainer.warnings.window is None; it must be a number above 0"),
        ({"window": 2.5}, "trainer.warnings.window is 2.5; it must be a whole number of steps"),
        ({"at_limit": "often"}, "trainer.warnings.at_limit is often; it must be a number above 0"),
        ({"same_answer": True}, "trainer.warnings.same_answer is True"),
    ],
)
def test_limits_that_make_no_sense_are_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(JigsawError, match=message):
        watch(**changes)
