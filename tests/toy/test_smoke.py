"""What the smoke test of a machine finds in the metrics of its two steps."""

import math
from pathlib import Path

import pytest

from jigsaw.errors import JigsawError
from jigsaw.show.training import Metrics
from jigsaw.toy.smoke import findings, smoke
from jigsaw.verl_plugin.launch import Inputs

STEP: Metrics = {
    "actor/grad_norm": 0.5,
    "actor/perf/max_memory_reserved_gb": 31.0,
    "perf/throughput": 1234.0,
    "response_length/clip_ratio": 0.25,
    "response_length/mean": 300.0,
    "reward/format_reward": 0.1,
    "timing_s/gen": 20.0,
    "timing_s/step": 30.0,
    "timing_s/update_actor": 8.0,
    "timing_s/update_weights": 1.0,
    "training/failed_prompts_total": 0.0,
    "training/rollout_probs_diff_mean": 0.01,
}


def wrong(**changes: float) -> list[str]:
    last = {**STEP, **{name.replace("__", "/"): value for name, value in changes.items()}}
    return [found.what for found in findings({1: STEP, 2: last}, Path("global_step_2")) if found.wrong]


def test_two_good_steps_are_good() -> None:
    assert wrong() == []
    shown = {found.what: found.found for found in findings({0: {}, 1: STEP, 2: STEP}, Path("global_step_2"))}
    assert shown["of the last, seconds"] == "rollout 20.0, update 8.0, weights to vLLM 1.0"
    assert shown["replies"] == "300 tokens, 0.10 for their form, 25% cut off"


def test_each_trouble_is_named() -> None:
    assert wrong(actor__grad_norm=math.nan) == ["gradient norm"]
    assert wrong(training__rollout_probs_diff_mean=0.2) == ["rollout and trainer, apart by"]
    assert wrong(training__failed_prompts_total=1) == ["prompts that failed"]
    (lost,) = [found for found in findings({1: STEP, 2: STEP}, None) if found.wrong]
    assert lost.what == "checkpoint"
    (cut_off,) = findings({1: STEP}, None)
    assert cut_off.found == "1 of 2"


def test_a_folder_of_ones_own_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "scenes").mkdir()
    with pytest.raises(JigsawError, match="is no folder of a smoke test"):
        smoke(tmp_path, Inputs(), [])
    assert (tmp_path / "scenes").is_dir()
