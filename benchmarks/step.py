"""A training step of Qwen2.5-VL-7B: verl as it comes, verl without padding, and every prompt trained once.

    python benchmarks/step.py [--json FILE] [--plot FILE.png] [--tasks image,video,depth,mixture] [--small]

A step is 8 prompts × 16 replies of 447 tokens on average; the mixture's prompts are 4 of image, 2 of video and 2 of
depth. No card is needed. It takes about 35 minutes on two quiet cores and 6 GiB.

* ``plain``: verl 0.9.1 as the recipes start it without our engine. A pass for old log-probabilities, then the update,
  both in micro-batches of 4 replies, as verl deals them to 8 GPUs, padded to their longest; logits of every token.
* ``unpadded``: verl without padding (``use_remove_padding``): the same two passes, logits of every token.
* ``ours``: one pass. A prompt and its pictures pass through the model once for its 16 replies; logits where a token of
  a reply is predicted.

``flops`` are FLOP a step at the true 7B shapes (jigsaw/flops.py). ``tokens`` (padding too), ``tower_runs`` (in prompts)
and ``head_positions`` are those of one forward pass, of which there are ``passes``. Of one group, the one whose length
is nearest to the mean:

* ``peak_gib_7b``: GiB of live activations of an update at the true 7B shapes, on fake tensors, bfloat16, with gradient
  checkpointing: the largest of its micro-batches of 4, or the group as one pack. Weights, gradients and inputs are not
  counted, nor is plain's mask. The entropy is worked out, as the recipes log it; the table has the peaks without it
  too. The mixture's is that of its largest group.
* ``cpu_s``: CPU seconds of all its passes, float32, one thread, the least of two runs, or of one where it is long, on a
  random model of 40 M weights: a quarter of the width, 2 of 28 layers, 2 of the tower's 32 blocks, 2,720 of 152,064
  words. Both ways have causal flash kernels and the tower's windows in one call. The mixture's is the mean of its
  groups. Plain has none: its mask is too slow here.
"""

import json
import os
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import gpu
import torch
import typer
from live import Meter
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import pad
from transformers import Qwen2_5_VLConfig
from transformers.utils import logging
from verl.utils.seqlen_balancing import calculate_workload, get_seqlen_balanced_partitions

from jigsaw.flops import Flop, Group, Work, apart, forward, packed, padded, unpadded, update
from jigsaw.packing.layout import Layout
from jigsaw.shapes import Shapes

METHODS = ("plain", "unpadded", "ours")
TASKS = ("image", "video", "depth", "mixture")
MIXTURE = ("image", "video", "image", "depth") * 2
MICRO_BATCH = 4  # replies
GPUS = 8
MALLOC = "MALLOC_MMAP_THRESHOLD_"
"""Of glibc: not set, it moves with what was freed, and the number of page faults with it."""

CPU_TEXT = {"hidden_size": 896, "intermediate_size": 4736, "num_hidden_layers": 2, "num_attention_heads": 7,
            "num_key_value_heads": 1, "vocab_size": 2720, "tie_word_embeddings": False}  # fmt: skip
CPU_TOWER = {"depth": 2, "hidden_size": 320, "intermediate_size": 855, "num_heads": 4, "window_size": 112,
             "fullatt_block_indexes": []}  # fmt: skip

BARS: tuple[tuple[str, str, dict[str, float]], ...] = (
    ("flops", "plain", {"image": 3.8, "video": 10, "depth": 6.4}),
    ("flops", "unpadded", {"image": 3, "video": 9, "depth": 5.5}),
    ("cpu_s", "unpadded", {"image": 2.6, "video": 7, "depth": 5}),
    ("peak_gib_7b", "plain", {"image": 3, "video": 6}),
)
"""How many times less ours must take, of what, than which."""
MOST_VIDEO_GIB = 8

ENOUGH = 400  # CPU seconds of a task, after which they are not taken once more

Figures = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """What is measured: prompts, the replies to each, and the models for arithmetic and memory, and for CPU seconds."""

    tasks: dict[str, gpu.Task]
    replies: list[list[int]]
    true: Qwen2_5_VLConfig
    cpu: Qwen2_5_VLConfig

    @classmethod
    def of(cls, small: bool) -> "Size":
        if small:
            config = gpu.build_config(gpu.MODELS["small"], gpu.SMALL_TOWER)
            return cls(gpu.SMALL_TASKS, (gpu.draw_replies()[:, :5] // 40).tolist(), config, config)
        true = gpu.build_config(gpu.MODELS["7B"], gpu.TOWER)
        return cls(gpu.TASKS, gpu.draw_replies().tolist(), true, gpu.build_config(CPU_TEXT, CPU_TOWER))

    def group(self, kind: str, replies: Sequence[int]) -> Group:
        task = self.tasks[kind]
        return Group(task.prompt, tuple(replies), tuple(task.grids))

    def step(self, task: str) -> list[Group]:
        kinds = MIXTURE if task == "mixture" else (task,) * len(self.replies)
        return [self.group(kind, replies) for kind, replies in zip(kinds, self.replies, strict=True)]

    @property
    def usual(self) -> list[int]:
        """The replies whose length is nearest to the mean."""
        mean = fmean(map(sum, self.replies))
        return min(self.replies, key=lambda replies: abs(sum(replies) - mean))


def fours(rows: Sequence[Any]) -> list[Sequence[Any]]:
    """In micro-batches."""
    return [rows[at : at + MICRO_BATCH] for at in range(0, len(rows), MICRO_BATCH)]


# -------------------------------------------------------------------------------------------------------- arithmetic


def deal(groups: Iterable[Group]) -> list[Sequence[Group]]:
    """Micro-batches as verl makes them: to every GPU as many rows and about equal work, then four after four."""
    rows = apart(groups)
    lengths = torch.tensor([row.prompt + sum(row.responses) for row in rows])
    ranks = get_seqlen_balanced_partitions(calculate_workload(lengths), GPUS, equal_size=True)
    return [batch for rank in ranks for batch in fours([rows[i] for i in rank])]


def count(shapes: Shapes, groups: Sequence[Group]) -> dict[str, Figures]:
    """What follows from the shapes."""
    works = {"plain": padded(deal(groups)), "unpadded": unpadded(groups), "ours": packed(groups)}
    return {
        method: {
            "flops": step_flops(shapes, work, once=method == "ours").total,
            "tokens": work.tokens,
            "tower_runs": work.tower_runs,
            "head_positions": work.positions,
            "passes": 1 if method == "ours" else 2,
            "cpu_s": None,
            "peak_gib_7b": None,
        }
        for method, work in works.items()
    }


def one_pass(shapes: Shapes, groups: Sequence[Group]) -> Flop:
    """Of an update without padding and without a pass before it, each prompt with each of its replies."""
    return update(shapes, unpadded(groups), head_again=False)


def step_flops(shapes: Shapes, work: Work, once: bool) -> Flop:
    """Of an update, and of a pass for old log-probabilities unless it is ours, with its head in chunks."""
    step = update(shapes, work, head_again=once)
    return step if once else step + forward(shapes, work)


# ------------------------------------------------------------------------------------------------------------ memory


def peaks(meter: Meter, group: Group, entropy: bool) -> dict[str, float]:
    """GiB of an update."""
    micro_batches = fours(apart([group]))
    rows = {
        "plain": max(micro_batches, key=lambda rows: padded([rows]).tokens),
        "unpadded": max(micro_batches, key=lambda rows: unpadded(rows).tokens),
    }
    found = {method: meter.apart(four, method == "plain", entropy) for method, four in rows.items()}
    found["ours"] = meter.packed(group, entropy)
    return {method: size / gpu.GIB for method, size in found.items()}


# ------------------------------------------------------------------------------------------------------- CPU seconds


class Clocked:
    """One group on a random model that takes packs, by either way."""

    def __init__(self, size: Size, model: Any, task: gpu.Task) -> None:
        self.model = model
        self.batch = gpu.Batch(Namespace(device=torch.device("cpu")), size.cpu, task, size.usual)

    def ours(self) -> None:
        self.batch.packed(self.model, [list(range(len(self.batch.replies)))])

    def unpadded(self) -> None:
        micro_batches = fours(range(len(self.batch.replies)))
        with torch.no_grad():  # old log-probabilities; verl computes the entropy here, whatever is set
            for rows in micro_batches:
                logits, labels = self._logits(rows)
                _log_probs(logits, labels), _entropy(logits)
        for rows in micro_batches:
            chosen = _log_probs(*self._logits(rows))
            (-(self._weights(rows) * chosen).sum() / self.batch.tokens).backward()

    def _logits(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Of every token, as verl has them, and the tokens that they predict; causal attention, no padding."""
        batch, n = self.batch, len(rows)
        whole = [torch.cat([batch.prompt, batch.responses[row]]) for row in rows]
        first = batch.positions(self.model)
        positions = [
            torch.cat([first, first[:, -1:] + torch.arange(1, len(batch.responses[row]) + 1)], 1) for row in rows
        ]
        layout = Layout(tuple(map(len, whole)), ((),) * n, torch.device("cpu"))
        media = dict(zip(batch.names, (batch.pixels.repeat(n, 1), batch.grid.repeat(n, 1)), strict=True))
        ids = torch.cat(whole)
        hidden = self.model.hidden_states(layout, ids[None], torch.cat(positions, 1)[:, None], **media)
        return self.model.lm_head(hidden), ids.roll(-1)

    def _weights(self, rows: Sequence[int]) -> Tensor:
        """Of each token's log-probability, as advantages are: 0 where no response is predicted."""
        before = len(self.batch.prompt) - 1
        parts = [pad(self.batch.advantages[row].expand(len(self.batch.responses[row])), (before, 1)) for row in rows]
        return torch.cat(parts)


def _log_probs(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.gather(1, labels[:, None])[:, 0] - logits.logsumexp(-1)


def _entropy(logits: Tensor) -> Tensor:
    return logits.logsumexp(-1) - (logits.softmax(-1) * logits).sum(-1)


def cpu_seconds(work: Callable[[], None]) -> float:
    """Of this process, user and system."""
    start = time.process_time()
    work()
    return time.process_time() - start


# ------------------------------------------------------------------------------------------------------------ growth

MEANS = (200, 440, 800)
MOST_REPLIES = 32
REPLIES = range(1, MOST_REPLIES + 1)


def growth(shapes: Shapes, task: gpu.Task) -> dict[int, list[tuple[float, float]]]:
    """PFLOP of a step of 8 prompts for 1, 2, … replies each, by their mean length.

    Ours, and a rival that makes one pass too, without padding, but lets a prompt through the model
    with each of its replies.
    """
    found: dict[int, list[tuple[float, float]]] = {}
    for mean in MEANS:
        drawn = gpu.draw_replies(n=MOST_REPLIES, mean=mean).tolist()
        steps = [[Group(task.prompt, tuple(all_of[:n]), tuple(task.grids)) for all_of in drawn] for n in REPLIES]
        found[mean] = [
            (step_flops(shapes, packed(step), once=True).total / 1e15, one_pass(shapes, step).total / 1e15)
            for step in steps
        ]
    return found


def draw(curves: dict[str, dict[int, list[tuple[float, float]]]], path: Path) -> None:
    """Cost against replies, one panel a task, and below it how many times more the one-pass rival takes."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        2, len(curves), figsize=(3.6 * len(curves), 6), sharex=True, layout="constrained", squeeze=False
    )
    for column, (task, by_mean) in enumerate(curves.items()):
        cost, ratio = axes[0][column], axes[1][column]
        for colour, (mean, points) in zip(("#8ab17d", "#2a6f97", "#d1495b"), by_mean.items(), strict=True):
            ours, rival = zip(*points, strict=True)
            cost.plot(REPLIES, ours, color=colour, linewidth=1.5)
            cost.plot(REPLIES, rival, "--", color=colour, linewidth=1.5)
            ratio.plot(REPLIES, [b / a for a, b in points], color=colour, label=f"{mean} tokens")
        cost.set_title(task, fontsize=10, loc="left")
        ratio.set_xlabel("replies a prompt")
        for axis in (cost, ratio):
            axis.grid(alpha=0.25)
            axis.spines[["top", "right"]].set_visible(False)
            axis.set_ylim(bottom=0)
    for style, name in (("-", "ours"), ("--", "one pass, no padding")):
        axes[0][0].plot([], [], style, color="black", linewidth=1.5, label=name)
    axes[0][0].legend(fontsize=8, frameon=False)
    axes[0][0].set_ylabel("PFLOP a step of 8 prompts")
    axes[1][0].set_ylabel("one pass, no padding ÷ ours")
    axes[1][0].legend(title="mean reply", fontsize=8, title_fontsize=8, frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


# ------------------------------------------------------------------------------------------------------------ the run


def table(
    results: dict[str, dict[str, Figures]],
    bare: dict[str, dict[str, float]],
    taken: dict[str, dict[str, list[float]]],
) -> Table:
    columns = Table(
        "task", "", "PFLOP", "tokens", "tower runs", "head positions", "passes", "CPU s (most)", "peak GiB, 7B",
        "without entropy",
    )  # fmt: skip
    for task, by_method in results.items():
        for method, figures in by_method.items():
            counts = [f"{figures[name]:,}" for name in ("tokens", "tower_runs", "head_positions", "passes")]
            seconds = "" if figures["cpu_s"] is None else f"{figures['cpu_s']:.1f}"
            if seconds and task in taken:
                seconds += f" ({max(taken[task][method]):.1f})"
            columns.add_row(
                task, method, f"{figures['flops'] / 1e15:.2f}", *counts, seconds, f"{figures['peak_gib_7b']:.2f}",
                f"{bare[task][method]:.2f}" if task in bare else "",
            )  # fmt: skip
        columns.add_section()
    return columns


def growth_table(shapes: Shapes, tasks: dict[str, gpu.Task]) -> Table:
    """Cost by the number of replies, and how many times as much the one-pass rival's is."""
    shown = (1, 4, 8, 16, 32)
    columns = Table(
        "task", "mean reply", *(f"n = {n}" for n in shown), title="PFLOP of ours (× for the one-pass rival)"
    )
    for name, task in tasks.items():
        for mean, points in growth(shapes, task).items():
            pairs = (points[n - 1] for n in shown)
            columns.add_row(name, str(mean), *(f"{ours:.2f} ({rival / ours:.1f}×)" for ours, rival in pairs))
        columns.add_section()
    return columns


def bars(results: dict[str, dict[str, Figures]]) -> Table:
    """What ours must reach, and does."""
    columns = Table("task", "times less", "than", "found", "bar", "")
    for name, other, limits in BARS:
        for task, limit in limits.items():
            if task in results and results[task]["ours"][name] is not None:
                found = results[task][other][name] / results[task]["ours"][name]
                columns.add_row(task, name, other, f"{found:.2f}", f"≥ {limit:g}", verdict(found >= limit))
    peak = results.get("video", {}).get("ours", {}).get("peak_gib_7b")
    if peak is not None:
        columns.add_row(
            "video", "peak_gib_7b", "", f"{peak:.2f}", f"≤ {MOST_VIDEO_GIB}", verdict(peak <= MOST_VIDEO_GIB)
        )
    return columns


def verdict(met: bool) -> str:
    return "[green]met[/]" if met else "[bold red]missed[/]"


def main(
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the cost against the replies to a prompt here, as PNG.")
    ] = None,
    tasks: Annotated[str, typer.Option(help="Which ones, with commas between.")] = ",".join(TASKS),
    repeats: Annotated[int, typer.Option(min=1, help="How often CPU seconds are taken.")] = 2,
    small: Annotated[bool, typer.Option("--small", help="Tiny shapes: shows that everything runs.")] = False,
) -> None:
    """A training step: verl as it comes, verl without padding, and every prompt trained once."""
    chosen = tasks.split(",")
    if unknown := set(chosen) - set(TASKS):
        raise typer.BadParameter(
            f"no task {', '.join(sorted(unknown))}: there are {', '.join(TASKS)}", param_hint="--tasks"
        )
    if MALLOC not in os.environ:
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, MALLOC: str(32 * 2**20)})
    console, progress = Console(), Console(stderr=True, highlight=False)
    if not console.is_terminal:
        console.width = 150
    torch.set_num_threads(1)
    logging.set_verbosity_error()  # of token ids that a cut vocabulary has not
    size = Size.of(small)
    shapes = Shapes.of(size.true.to_dict())
    results = {task: count(shapes, size.step(task)) for task in chosen}
    kinds = [kind for kind in size.tasks if {kind, "mixture"} & set(chosen)]

    meter, logged, bare = Meter(size.true), {}, {}
    for kind in kinds:
        progress.print(f"{kind}: live activations …")
        group = size.group(kind, size.usual)
        logged[kind], bare[kind] = peaks(meter, group, entropy=True), peaks(meter, group, entropy=False)
    model = gpu.build_model(Namespace(device=torch.device("cpu")), size.cpu, torch.float32)
    taken: dict[str, dict[str, list[float]]] = {}
    for kind in kinds:
        clocked = Clocked(size, model, size.tasks[kind])
        if not taken:
            clocked.ours()  # what runs for the first time only
        taken[kind] = {"unpadded": [], "ours": []}
        for number in range(repeats):
            if sum(map(sum, taken[kind].values())) > ENOUGH:
                break
            for method, values in taken[kind].items():
                progress.print(f"{kind}, {method}: CPU seconds, {number + 1} of {repeats} …")
                values.append(cpu_seconds(getattr(clocked, method)))

    for task, by_method in results.items():
        members = MIXTURE if task == "mixture" else (task,)
        for method, figures in by_method.items():
            figures["peak_gib_7b"] = max(logged[kind][method] for kind in members)
            if method != "plain":
                figures["cpu_s"] = fmean(min(taken[kind][method]) for kind in members)
    console.print(table(results, bare, taken), growth_table(shapes, size.tasks))
    if not small:
        console.print(bars(results))
    if json_file is not None:
        json_file.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    if plot is not None:
        draw({name: growth(shapes, task) for name, task in size.tasks.items()}, plot)


if __name__ == "__main__":
    typer.run(main)
