"""Memory and time of a checkpoint's way to a Hugging Face folder, beside verl's own merger.

    python benchmarks/export.py [--json FILE]

A random Qwen2.5-VL of 0.7 billion weights, saved by two ranks as FSDP does, 2.6 GiB of float32. ``copies`` is the most
memory that the process took for itself, less what it takes with a tiny model, in copies of the bfloat16 weights that it
writes; files that are mapped are not counted, the system takes them back. ``ours`` also compares what it wrote.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import AutoConfig, AutoModelForImageTextToText

from jigsaw.toy.model import build_tiny_model
from jigsaw.toy.warm_start import CUE_WORDS

RANKS = 2
LARGE = {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 16, "num_attention_heads": 12}
OURS = (
    "import sys; from pathlib import Path; from jigsaw.verl_plugin.export import export_checkpoint;"
    "export_checkpoint(Path(sys.argv[1]), Path(sys.argv[2]))"
)
LOOK_S = 0.01


def save(checkpoint: Path, model: Path) -> int:
    """A checkpoint of a model's folder, by all ranks; the number of its weights."""
    actor = checkpoint / "actor"
    shutil.copytree(model, actor / "huggingface", ignore=shutil.ignore_patterns("*.safetensors"))
    (actor / "fsdp_config.json").write_text(json.dumps({"FSDP_version": 2, "world_size": RANKS}))
    weights = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(model)).state_dict()
    for rank in range(RANKS):
        distributed.init_process_group("fake", store=FakeStore(), rank=rank, world_size=RANKS)
        mesh = init_device_mesh("cpu", (RANKS,), mesh_dim_names=("fsdp",))
        state = {
            name: DTensor.from_local(
                [*weight.chunk(RANKS), weight[:0]][rank].clone(),
                mesh,
                [Shard(0)],
                run_check=False,
                shape=weight.shape,
                stride=weight.stride(),
            )
            for name, weight in weights.items()
        }
        torch.save(state, actor / f"model_world_size_{RANKS}_rank_{rank}.pt")
        distributed.destroy_process_group()
    (checkpoint / "WHOLE").touch()
    return sum(weight.numel() for weight in weights.values())


def run(way: str, checkpoint: Path, out: Path) -> tuple[float, int]:
    """Seconds, and the most bytes that a process took for itself."""
    command = {
        "ours": [sys.executable, "-c", OURS, str(checkpoint), str(out)],
        "verl": [
            *(sys.executable, "-m", "verl.model_merger", "merge", "--backend=fsdp"),
            f"--local_dir={checkpoint / 'actor'}",
            f"--target_dir={out}",
        ],
    }[way]
    begun, most = time.monotonic(), 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status")
        lines = status.read_text().splitlines() if status.exists() else []
        most = max([most, *(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon:"))])
        time.sleep(LOOK_S)
    assert process.returncode == 0, command
    return time.monotonic() - begun, most


def main(json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None) -> None:
    """Export by ours and by verl's own merger."""
    with tempfile.TemporaryDirectory(prefix="jigsaw-export-") as folder:
        tiny, large = Path(folder, "tiny"), Path(folder, "large")
        build_tiny_model(tiny, words=CUE_WORDS)
        shutil.copytree(tiny, large, ignore=shutil.ignore_patterns("*.safetensors"))
        config = json.loads((large / "config.json").read_text())
        text = config["text_config"] | LARGE | {"num_key_value_heads": 2}
        text.pop("layer_types", None)
        heads = text["hidden_size"] // text["num_attention_heads"] // 2
        text["rope_parameters"] |= {"mrope_section": [heads // 4, 3 * heads // 8, heads - heads // 4 - 3 * heads // 8]}
        config["text_config"] = text
        config["vision_config"]["out_hidden_size"] = LARGE["hidden_size"]
        (large / "config.json").write_text(json.dumps(config))
        weights = {
            name: save(Path(folder, f"{name}_run/global_step_1"), Path(folder, name)) for name in ("tiny", "large")
        }
        figures = {}
        for way in ("ours", "verl"):
            sizes = {}
            for name in weights:
                seconds, sizes[name] = run(
                    way, Path(folder, f"{name}_run/global_step_1"), Path(folder, f"{way}_{name}")
                )
            copies = (sizes["large"] - sizes["tiny"]) / (2 * weights["large"])
            figures[way] = {"copies": round(copies, 2), "seconds": round(seconds, 1)}
    table = Table(
        "", "copies of the weights", "seconds", title=f"{weights['large'] / 1e9:.2f} billion weights, {RANKS} ranks"
    )
    for way, found in figures.items():
        table.add_row(way, f"{found['copies']:.2f}", f"{found['seconds']:.1f}")
    Console().print(table)
    if json_file is not None:
        json_file.write_text(json.dumps({"weights": weights["large"], "ranks": RANKS, **figures}, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
