"""The supervised baseline on the CPU: `jigsaw sft`, and `jigsaw merge` of its checkpoint."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from transformers import AutoModelForImageTextToText, AutoProcessor

from jigsaw.errors import JigsawError
from jigsaw.prepare.images import ImageOptions
from jigsaw.prepare.pipeline import prepare_rows
from jigsaw.rows import read_rows
from jigsaw.show.training import read_metrics
from jigsaw.tasks import plan
from jigsaw.toy.rows import video_row
from jigsaw.toy.scenes import write_scenes
from jigsaw.verl_plugin.cpu.environment import ENVIRONMENT
from jigsaw.verl_plugin.sft import AnswerDataset

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
FP32 = "++engine.mixed_precision={param_dtype:fp32,reduce_dtype:fp32,buffer_dtype:fp32}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures and their rows."""
    place = tmp_path_factory.mktemp("sft")
    write_scenes(place / "scenes", 24, seed=3)
    options = ImageOptions(grid=(2, 1), val=8)
    prepare_rows(place / "scenes", place / "data", options, progress=lambda done, total: None)
    return place


def dataset(place: Path, model: Path, file: str, **changes: Any) -> AnswerDataset:
    given = {
        "train_files": str(place / "data/train.parquet"),
        "media_root": str(place / "scenes"),
        "epochs": 3,
        "seed": 5,
    }
    config = OmegaConf.create({**given, **changes})
    return AnswerDataset(str(place / "data" / file), None, config, AutoProcessor.from_pretrained(model))


def test_what_is_learnt_is_the_right_answer_of_each_epochs_puzzle(place: Path, tiny_model: Path) -> None:
    trained, held_out = (dataset(place, tiny_model, file) for file in ("train.parquet", "val.parquet"))
    assert (len(trained), len(held_out)) == (3 * 16, 8)
    tokenizer = AutoProcessor.from_pretrained(tiny_model).tokenizer
    row = read_rows(place / "data/train.parquet")[2]
    for epoch in range(3):
        item = trained[16 * epoch + 2]
        learnt = tokenizer.decode(item["input_ids"][item["loss_mask"].bool()])
        answer = ", ".join(map(str, plan(row, 5, epoch).answer))
        assert learnt.replace(" ", "") == f"<think></think><answer>{answer}</answer>{tokenizer.eos_token}".replace(
            " ", ""
        )


def test_rows_of_videos_are_refused(place: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jigsaw.verl_plugin.sft.read_rows", lambda file: [video_row("a.mp4", id="a")])
    with pytest.raises(JigsawError, match="row 0 has no pictures; the supervised baseline takes no others"):
        dataset(place, tiny_model, "train.parquet")


@pytest.mark.slow("training")
def test_it_trains_resumes_and_merges(place: Path, tiny_model: Path) -> None:
    def jigsaw(*arguments: str) -> str:
        command = [sys.executable, "-c", "from jigsaw.cli import main; main()", *arguments]
        ended = subprocess.run(command, env={**os.environ, **ENVIRONMENT}, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
        return ended.stdout

    inputs = ["--model", str(tiny_model), "--data", str(place / "data"), "--media-root", str(place / "scenes")]
    small = ["data.train_batch_size=8", "data.num_workers=0", "optim.lr=0.001", "trainer.save_freq=2", FP32]
    cpu = ["trainer.device=cpu", "trainer.n_gpus_per_node=1", "engine.use_torch_compile=false"]
    for steps in (4, 6):
        ends = [f"trainer.total_training_steps={steps}", "trainer.test_freq=2"]
        jigsaw("sft", "image_sft", *inputs, "--output", str(place / "run"), *small, *cpu, *ends)
    starts = [read_metrics([file]) for file in sorted((place / "run/checkpoints/metrics").glob("*.jsonl"))]
    assert [min(start) for start in starts] == [1, 5]
    losses = [values["train/loss"] for start in starts for values in start.values() if "train/loss" in values]
    assert losses[-1] < 0.8 * losses[0]  # 6.5 to 4.6
    jigsaw("merge", str(place / "run/checkpoints/global_step_6"), str(place / "merged"))
    model = AutoModelForImageTextToText.from_pretrained(place / "merged")
    assert all(torch.isfinite(weight).all() for weight in model.parameters())
