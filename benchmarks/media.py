"""What a prompt costs between the dataset and the trainer: verl's plain path beside ours, for 1, 4 and 16 responses.

    python benchmarks/media.py [--json FILE] [--repeats N]

A puzzle of each task runs through verl's real agent-loop worker and TransferQueue, on the plain path through its reward
worker too, with a given reply where vLLM's would be, and is read twice as a rank reads it in a step (log-probabilities,
update). Per prompt:

* ``cpu_s``: CPU seconds of these processes and of the reading, the median over the repeats;
* ``bytes``: media on their way to the server, and all that goes into the queue and comes out of it;
* ``peak_mib``: how much these processes grow above what they hold between two prompts, the largest repeat;
* ``builds``, ``processor_runs``, ``pixel_copies``: how often the media are cut, the processor is run, and features with
  pixels are laid down for the trainer.

The picture: 640×480 in 3×3 tiles. The film: 72 s of 720×480 at 30 frames a second in 6 clips of 12 frames, 252×392 each
as the model sees them. Depth: 6 points on the picture.
"""

import json
import logging
import os
import re
import tempfile
from itertools import product
from pathlib import Path
from statistics import median
from typing import Annotated, Any

os.environ |= {"VERL_USE_EXTERNAL_MODULES": "jigsaw.verl_plugin.install", "RAY_USAGE_STATS_ENABLED": "0"}

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import typer
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from transformers import AutoProcessor

from jigsaw.toy.model import build_processor, build_tiny_model
from jigsaw.toy.rows import write_puzzles
from jigsaw.verl_plugin.dataset import JigsawDataset
from jigsaw.verl_plugin.testing import Rollout, Stack, compose_config, read, stack

TASKS = ("image", "video", "depth")
RESPONSES = (1, 4, 16)
PATHS = {"plain": "single_turn_agent", "ours": "jigsaw"}
READINGS = 2
QWEN_MAX_PIXELS = 16384 * 28 * 28

Figures = dict[str, float]


def processes() -> list[psutil.Process]:
    """This one and those of all actors and readers."""
    mine = psutil.Process()
    words = re.compile(r"^ray::|jigsaw\.reader")
    return [mine, *(child for child in mine.children(recursive=True) if words.search(" ".join(child.cmdline())))]


def cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def memory_kib(process: psutil.Process, line: str) -> int:
    """A line of the kernel's account of a process: ``VmRSS``, or ``VmHWM``, its peak."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split(f"{line}:")[1].split()[0])


def roll_out(run: Rollout, item: dict[str, Any], n: int) -> Figures:
    """One prompt from the dataset's item to the trainer's tensors."""
    watched = processes()
    for process in watched:
        Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # its peak begins anew
    held, spent = [memory_kib(process, "VmRSS") for process in watched], [cpu_seconds(process) for process in watched]
    meta = run.run([item], n=n)
    for _ in range(READINGS):
        read(meta)
    counts = run.take_counts()
    return {
        "cpu_s": sum(cpu_seconds(process) for process in watched) - sum(spent),
        "bytes": counts["bytes"],
        "peak_mib": sum(max(0, memory_kib(p, "VmHWM") - h) for p, h in zip(watched, held, strict=True)) / 1024,
        **{name: counts[name] for name in ("builds", "processor_runs", "pixel_copies")},
    }


def measure(services: Stack, config: DictConfig, item: dict[str, Any], repeats: int) -> dict[str, Figures]:
    """The figures of one task on one path, by the number of responses."""
    results = {}
    with services.rollout(config) as run:
        roll_out(run, item, 1)  # imports, caches
        for n in RESPONSES:
            rounds = [roll_out(run, item, n) for _ in range(repeats)]
            results[str(n)] = {
                name: (max if name == "peak_mib" else median)(figures[name] for figures in rounds) for name in rounds[0]
            }
    return results


def table(results: dict[str, dict[str, dict[str, Figures]]]) -> Table:
    names = ("cpu_s", "bytes", "peak_mib", "builds", "processor_runs", "pixel_copies")
    heads = ("CPU s", "MB moved", "peak MiB", "builds", "processor runs", "pixel copies")
    scales = {"bytes": 1e-6}
    columns = Table("task", "responses", *heads, title="Per prompt: plain → ours (times less)")
    for task, by_n in results.items():
        for n, figures in by_n.items():
            pairs = [[figures[path][name] * scales.get(name, 1) for path in PATHS] for name in names]
            cells = [f"{a:,.5g} → {b:,.4g} ({a / b:.3g}×)" if b else f"{a:,.3g} → 0" for a, b in pairs]
            columns.add_row(task, n, *cells)
        few, many = RESPONSES[-2:]
        more = {
            path: {
                name: (by_n[str(many)][path][name] - by_n[str(few)][path][name]) / (many - few) * scales.get(name, 1)
                for name in names
            }
            for path in PATHS
        }
        columns.add_row(task, "each further", *(f"{more['plain'][n]:,.3g} → {more['ours'][n]:,.3g}" for n in names))
        columns.add_section()
    return columns


def main(
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="How often each is measured.")] = 3,
) -> None:
    """Measure what a prompt costs on its way to the trainer, on verl's plain path and on ours."""
    console, progress = Console(), Console(stderr=True, highlight=False)
    if not console.is_terminal:
        console.width = 170
    logging.disable(logging.WARNING)  # TransferQueue's, of the number of its threads
    results: dict[str, dict[str, dict[str, Figures]]] = {task: {str(n): {} for n in RESPONSES} for task in TASKS}
    ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        rows = write_puzzles(
            root / "media", picture=(640, 480), grid=(3, 3), film=(720, 480), fps=30, seconds=72, clips=6
        )
        model = build_tiny_model(root / "model")
        # The tiny model's processor shows tiny pictures; here they have Qwen2.5-VL's sizes.
        build_processor(AutoProcessor.from_pretrained(model).tokenizer, max_pixels=QWEN_MAX_PIXELS).save_pretrained(
            model
        )
        processor = AutoProcessor.from_pretrained(model)
        reply = processor.tokenizer("<think>Look.</think><answer>1, 2</answer>")["input_ids"]
        for task, row in rows.items():
            pq.write_table(pa.Table.from_pylist([row]), root / f"{task}.parquet")

        def configure(task: str, agent_loop: str) -> DictConfig:
            return compose_config(
                Path(__file__).parents[1] / "configs",
                "quickstart",
                f"data.train_files={root / task}.parquet",
                f"data.val_files={root}/val.parquet",
                f"data.media_root={root / 'media'}",
                "data.train_batch_size=1",
                "data.max_prompt_length=16384",
                "actor_rollout_ref.rollout.max_model_len=17000",
                f"actor_rollout_ref.rollout.agent.default_agent_loop={agent_loop}",
                f"reward.num_workers={int(agent_loop == PATHS['plain'])}",
                f"actor_rollout_ref.model.path={model}",
                "trainer.total_training_steps=1",
                f"trainer.default_local_dir={root}",
            )

        with stack(configure("image", "jigsaw"), reply) as services:
            for task, (path, agent_loop) in product(TASKS, PATHS.items()):
                progress.print(f"{task}, {path} …")
                config = configure(task, agent_loop)
                dataset = JigsawDataset(config.data.train_files, processor.tokenizer, config.data, processor)
                for n, figures in measure(services, config, dataset[0], repeats).items():
                    results[task][n][path] = figures
    ray.shutdown()
    console.print(table(results))
    if json_file is not None:
        json_file.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
