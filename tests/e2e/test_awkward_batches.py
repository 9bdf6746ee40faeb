"""Batches at the edges of what verl expects: one sequence, one length, nothing to learn from, more ranks than work."""

from collections.abc import Callable
from math import isfinite
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput

from jigsaw.prepare.images import ImageOptions
from jigsaw.prepare.pipeline import prepare_rows
from jigsaw.processes import processes_of
from jigsaw.show.training import Metrics, heldout_exact
from jigsaw.toy.scenes import write_scenes

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

# --- verl's workers alone, on one rank and on two -----------------------------------------------------------------


@pytest.mark.parametrize("batch", ["equal lengths", "padding alone in a micro-batch", "a response of no token"])
def test_an_awkward_batch_is_learned_from_on_one_rank_as_on_two(ranks: Any, batch: str) -> None:
    ranks.assert_equal(batch)
    assert ranks.distance("start", batch) > 1e-4


def test_verl_fails_the_group_of_a_response_of_no_token() -> None:
    """So the worker's batches above are the strictest form: from a rollout such a response never gets there."""
    output = AgentLoopOutput(prompt_ids=[1], response_ids=[], response_mask=[], reward_score=0.0, metrics={})
    with pytest.raises(IndexError):
        output.as_dict()


def test_a_response_of_no_token_teaches_nothing(ranks: Any) -> None:
    assert ranks.distance("a response of no token", "another response of no token") <= ranks.FLOAT


def test_no_token_to_learn_from_leaves_the_weights_alone(ranks: Any) -> None:
    assert ranks.distance("start", "no token to learn from") == 0


# --- whole steps --------------------------------------------------------------------------------------------------


def _trained(folder: Path, make_run: Callable[..., Any], steps: int, *overrides: str, broken: bool = False) -> Any:
    """The metrics of steps on six pictures, the first of which may be broken; replies of a token, packs of a prompt."""
    write_scenes(folder / "scenes", 8, seed=3)
    prepare_rows(
        folder / "scenes", folder / "data", ImageOptions(grid=(2, 1), val=2), progress=lambda done, total: None
    )
    if broken:
        row = pq.read_table(folder / "data/train.parquet").slice(0, 1).to_pylist()[0]
        picture = folder / "scenes" / row["images"][0]["path"]
        picture.write_bytes(picture.read_bytes()[:500])
    run = make_run(folder, folder / "scenes")
    trained = run.train(
        steps,
        "data.max_response_length=1",
        "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=160",
        "trainer.save_freq=-1",
        *overrides,
        some_reward=True,
    )
    assert processes_of(folder) == []
    return trained


@pytest.fixture(scope="module")
def of_one(tmp_path_factory: pytest.TempPathFactory, make_run: Callable[..., Any]) -> dict[int, Metrics]:
    """Two steps of one prompt with one response each; validation with three."""
    return _trained(
        tmp_path_factory.mktemp("of_one"),
        make_run,
        2,
        "data.train_batch_size=1",
        "actor_rollout_ref.rollout.n=1",
        "actor_rollout_ref.rollout.val_kwargs.n=3",
        "actor_rollout_ref.rollout.val_kwargs.temperature=1",
        "actor_rollout_ref.rollout.val_kwargs.do_sample=true",
    )


@pytest.mark.slow("training")
def test_a_step_of_one_response_learns(of_one: dict[int, Metrics]) -> None:
    assert sorted(of_one) == [1, 2]
    for values in of_one.values():
        assert values["actor/grad_norm"] > 0
        # There is no group to compare with, so the advantage is the score itself.
        assert values["critic/advantages/mean"] == pytest.approx(values["critic/score/mean"], rel=1e-5)


@pytest.mark.slow("training")
def test_validation_with_several_responses_reports_their_mean(of_one: dict[int, Metrics]) -> None:
    exact = heldout_exact(of_one[2])
    assert exact is not None
    assert 0 < exact < 1
    assert exact == of_one[2]["val-core/visual_jigsaw_image/acc/mean@3"]


@pytest.fixture(scope="module")
def of_two_ranks(tmp_path_factory: pytest.TempPathFactory, make_run: Callable[..., Any]) -> dict[int, Metrics]:
    """Two steps of three prompts of two responses, on two ranks; a prompt fails."""
    return _trained(
        tmp_path_factory.mktemp("of_two_ranks"),
        make_run,
        2,
        "trainer.n_gpus_per_node=2",
        "data.train_batch_size=3",
        "actor_rollout_ref.rollout.n=2",
        "trainer.test_freq=-1",
        broken=True,
    )


@pytest.mark.slow("training")
def test_a_failed_group_leaves_ranks_without_work_that_still_step(of_two_ranks: dict[int, Metrics]) -> None:
    assert sorted(values["training/failed_prompts"] for values in of_two_ranks.values()) == [0, 1]
    for values in of_two_ranks.values():
        assert isfinite(values["actor/grad_norm"])
        assert values["actor/grad_norm"] > 0
        assert values["training/rollout_probs_diff_max"] < 1e-3


@pytest.mark.slow("training")
def test_replies_of_one_length_train_on_two_ranks(of_two_ranks: dict[int, Metrics]) -> None:
    (whole,) = (values for values in of_two_ranks.values() if values["training/failed_prompts"] == 0)
    assert whole["response_length/min"] == whole["response_length/max"] == 1
    assert whole["global_seqlen/min"] == whole["global_seqlen/max"]
