"""Dynamic sampling and a difficulty schedule in a real run that is stopped and resumed."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jigsaw.errors import JigsawError
from jigsaw.prepare.images import ImageOptions
from jigsaw.prepare.pipeline import prepare_rows
from jigsaw.processes import processes_of
from jigsaw.show.training import Metrics
from jigsaw.toy.scenes import write_scenes
from jigsaw.verl_plugin.difficulty import Schedule

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

DIFFICULTY = {"image": {"levels": [[2, 1], [2, 2]], "raise_at": 0.9, "window": 1}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stability")


@pytest.fixture(scope="module")
def steps(folder: Path, make_run: Callable[..., Any]) -> Iterator[dict[int, Metrics]]:
    """Two steps and, resumed, a third, by a reward that calls everything solved and lets every other prompt teach."""
    write_scenes(folder / "scenes", 24, seed=3)
    prepare_rows(
        folder / "scenes",
        folder / "data",
        ImageOptions(grid=(2, 2), min_side=28, val=4),
        progress=lambda done, total: None,
    )
    run = make_run(folder, folder / "scenes")
    trained: dict[int, Metrics] = {}
    for until in (2, 3):
        trained |= run.train(
            until,
            f"reward.custom_reward_function.path={Path(__file__).with_name('uneven_reward.py')}",
            "algorithm.filter_groups.enable=true",
            "actor_rollout_ref.actor.clip_ratio_high=0.28",
            f"data.difficulty={json.dumps(DIFFICULTY).replace(chr(34), '')}",
            "data.train_batch_size=4",
            "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=16",
            "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=16",
            "trainer.test_freq=2",
            "trainer.save_freq=2",
        )
    yield trained
    assert processes_of(folder) == []


@pytest.mark.slow("training")
def test_prompts_that_teach_nothing_are_replaced(steps: dict[int, Metrics]) -> None:
    assert sorted(steps) == [1, 2, 3]
    assert all(values["reward/teaches"] == 1 for values in steps.values())
    assert all(values["training/prompts/image"] == 4 for values in steps.values())
    assert sum(values.get("training/filter_groups/evicted_samples", 0) for values in steps.values()) > 0


@pytest.mark.slow("training")
def test_the_level_rises_with_the_accuracy_and_stays_over_a_resume(steps: dict[int, Metrics]) -> None:
    assert [steps[step]["training/difficulty/image"] for step in (1, 2, 3)] == [0, 1, 1]
    lengths = [steps[step]["prompt_length/mean"] for step in (1, 2, 3)]
    assert lengths[0] < lengths[1] == lengths[2]  # two tiles, then four


@pytest.mark.slow("training")
def test_rollout_and_actor_see_the_same_at_every_level(steps: dict[int, Metrics]) -> None:
    assert max(values["training/rollout_probs_diff_max"] for values in steps.values()) <= 1e-3


@pytest.mark.slow("training")
def test_what_a_level_follows_from_lies_beside_the_checkpoints(folder: Path, steps: dict[int, Metrics]) -> None:
    lines = (folder / "checkpoints/difficulty.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"step": step, "image": 1.0} for step in (1, 2, 3)]


def test_steps_that_are_trained_again_count_once(tmp_path: Path) -> None:
    progress = Schedule(tmp_path, {"image": {**DIFFICULTY["image"], "window": 2}})
    for step, exact in ((1, 1.0), (2, 0.0), (3, 1.0), (2, 1.0)):  # cut off after step 3, resumed from step 1
        progress.record(step, {"image": exact, "depth": 0.0})
    assert [progress.levels(step)["image"] for step in (1, 2, 3)] == [0, 0, 1]
    steps = [json.loads(line)["step"] for line in (tmp_path / "difficulty.jsonl").read_text().splitlines()]
    assert steps == [1, 2]  # step 3 was measured at another level than it will be


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (None, "does not hold each of the steps 1 to 2 once"),
        ('{"step": 2}\n', "does not hold each"),
        ('{"step": 1}\n{"step": 1}\n', "does not hold each"),
        ('{"step": 1}\n{"st', "JSONDecodeError"),
        ('{"step": 1}\n[]\n', "TypeError"),
    ],
)
def test_a_lost_or_broken_record_is_one_line(tmp_path: Path, lines: str | None, said: str) -> None:
    if lines is not None:
        (tmp_path / "difficulty.jsonl").write_text(lines)
    with pytest.raises(JigsawError, match=rf"difficulty\.jsonl: {said}.*; put the file back, or begin a new run$"):
        Schedule(tmp_path, DIFFICULTY).levels(3)


def test_without_a_schedule_nothing_is_written(tmp_path: Path) -> None:
    Schedule(tmp_path / "run", None).record(1, {"image": 1.0})
    assert not (tmp_path / "run").exists()
