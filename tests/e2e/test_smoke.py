"""`jigsaw smoke` on the CPU, with a tiny model: two real steps, and what they say."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jigsaw.processes import processes_of
from jigsaw.verl_plugin.cpu.environment import ENVIRONMENT

pytestmark = [pytest.mark.e2e, pytest.mark.slow("training"), pytest.mark.timeout(900)]

SMALL = [
    "machine=cpu",
    "data.max_prompt_length=512",
    "data.max_response_length=16",
    "actor_rollout_ref.rollout.max_num_batched_tokens=4096",
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=128",
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=128",
]


def test_two_steps_say_that_this_machine_trains(tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "smoke"
    command = [sys.executable, "-c", "from jigsaw.cli import main; main()", "smoke", "--json"]
    ended = subprocess.run(
        [*command, "--model", str(tiny_model), "--output", str(out), *SMALL],
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr[-3000:]
    found = {line["what"]: line for line in json.loads(ended.stdout)}
    assert not any(line["wrong"] for line in found.values())
    assert found["checkpoint"]["found"].endswith("global_step_2")
    assert found["prompts that failed"]["found"] == "0"
    assert [file.name for file in sorted((out / "checkpoints/rollouts").iterdir())] == ["1.jsonl", "2.jsonl"]
    assert processes_of(out) == []
