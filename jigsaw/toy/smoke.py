"""The smoke test of a machine: two real steps on rendered scenes, and what they say of it."""

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jigsaw import machine
from jigsaw.errors import JigsawError, Problems
from jigsaw.prepare.images import ImageOptions
from jigsaw.prepare.pipeline import prepare_rows
from jigsaw.show.training import Metrics, read_metrics
from jigsaw.toy.scenes import write_scenes
from jigsaw.verl_plugin import launch, preflight
from jigsaw.verl_plugin.checkpoint import last_whole
from jigsaw.verl_plugin.child import train_with_verl

STEPS = 2
APART = 0.05
"""Mean difference of a token's probability in rollout and trainer above which they do not see the same, in bfloat16."""
_SCENES, _HELD_OUT, _PROMPTS = 72, 8, 16
_OURS = ".smoke"
"""A file in a smoke test's folder, which may then be removed."""


@dataclass(frozen=True)
class Finding:
    """A line of the table.

    Attributes:
        what: was looked at.
        found: its value, with its unit.
        wrong: what is wrong with it, and what to do; None if nothing is.
    """

    what: str
    found: str
    wrong: str | None = None


def smoke(out: Path, inputs: launch.Inputs, given: Sequence[str]) -> list[Finding]:
    """Train two steps in a folder, which is made anew.

    Args:
        out: the folder; what is in it of an earlier smoke test goes.
        inputs: the model, if not the recipe's.
        given: Hydra overrides, which win.

    Raises:
        JigsawError: if something is known to stop the run, or does stop it.
    """
    if out.exists() and not (out / _OURS).is_file() and any(out.iterdir()):
        raise JigsawError(f"{out}: is no folder of a smoke test; choose another, or remove it")
    inputs = launch.Inputs(inputs.model, str(out / "data"), str(out / "scenes"), str(out))
    # A batch that GPUs of any number share evenly.
    gpus = machine.gpus()
    here = [f"trainer.n_gpus_per_node={gpus}", f"data.train_batch_size={-(-_PROMPTS // gpus) * gpus}"] if gpus else []
    start = launch.plan_start("smoke", [*inputs.overrides(), *here, *given])
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / _OURS).touch()
    write_scenes(out / "scenes", _SCENES, seed=0)
    options = ImageOptions(grid=(2, 2), val=_HELD_OUT)
    prepare_rows(out / "scenes", out / "data", options, progress=lambda done, total: None)
    launch.leave_cpu(start.config)
    if found := preflight.problems(start.config):
        raise Problems(found)
    start.make_ready()
    train_with_verl(
        start.command[3:],  # behind the interpreter, -m and the trainer
        run=out,
        log=out / "verl.log",
        metrics=start.metrics,
        on_step=lambda step, values: None,
    )
    return findings(read_metrics([start.metrics]), last_whole(out / "checkpoints"))


def findings(metrics: Mapping[int, Metrics], checkpoint: Path | None) -> list[Finding]:
    """What two steps say.

    Args:
        metrics: of verl's logger, by step.
        checkpoint: that was saved, if one was.
    """
    steps = sorted(step for step, values in metrics.items() if "actor/grad_norm" in values)
    if steps != [*range(1, STEPS + 1)]:
        return [Finding("steps", f"{len(steps)} of {STEPS}", "see verl.log")]
    first, last = metrics[steps[0]], metrics[steps[-1]]
    phases = {
        "rollout": "timing_s/gen",
        "update": "timing_s/update_actor",
        "weights to vLLM": "timing_s/update_weights",
        "checkpoint": "timing_s/save_checkpoint",
    }
    seconds = ", ".join(f"{what} {last[name]:.1f}" for what, name in phases.items() if name in last)
    norm, apart = last["actor/grad_norm"], last["training/rollout_probs_diff_mean"]
    memory = last["actor/perf/max_memory_reserved_gb"]
    failed = int(last["training/failed_prompts_total"])
    cut = last["response_length/clip_ratio"]
    return [
        Finding("steps", f"{first['timing_s/step']:.1f} s, then {last['timing_s/step']:.1f} s"),
        Finding("of the last, seconds", seconds),
        Finding("tokens a second and GPU", f"{last['perf/throughput']:,.0f}"),
        Finding("memory of the trainer, most", f"{memory:.1f} GiB of a GPU"),
        Finding(
            "gradient norm",
            f"{norm:.3g}",
            None if math.isfinite(norm) else "no number: the model or its precision is off",
        ),
        Finding(
            "rollout and trainer, apart by",
            f"{apart:.4f} in a token's probability",
            None if apart <= APART else f"above {APART}: they do not see the same; other versions, or another model?",
        ),
        Finding(
            "replies",
            f"{last['response_length/mean']:.0f} tokens, {last['reward/format_reward']:.2f} for their form, "
            f"{cut:.0%} cut off",
        ),
        Finding(
            "prompts that failed",
            str(failed),
            "failed_prompts.jsonl beside the checkpoints says why" if failed else None,
        ),
        Finding(
            "checkpoint",
            str(checkpoint) if checkpoint else "none",
            None if checkpoint else "none is complete; see verl.log",
        ),
    ]
