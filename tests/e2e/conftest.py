"""A small GRPO run on the CPU, with verl, Ray and vLLM."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from jigsaw.show.training import Metrics, read_metrics
from jigsaw.toy.launch import train_with_verl
from jigsaw.verl_plugin.checkpoint import resume_overrides


@dataclass
class Run:
    """A small run's places, and a way to train it on."""

    folder: Path
    media_root: Path
    model: Path

    def train(self, steps: int, *overrides: str, some_reward: bool = False) -> dict[int, Metrics]:
        """Train up to ``steps``; the metrics of the steps of this call.

        A model with random weights earns nothing by our reward, so its steps have no gradient; by ``some_reward`` (see
        some_reward.py) they have.
        """
        if some_reward:
            overrides += (f"reward.custom_reward_function.path={Path(__file__).with_name('some_reward.py')}",)
        metrics = self.folder / f"metrics-{steps}.jsonl"
        train_with_verl(
            [
                "--config-dir=configs",
                "--config-name=quickstart",
                f"hydra.run.dir={self.folder / 'hydra'}",
                f"data.train_files={self.folder / 'data/train.parquet'}",
                f"data.val_files={self.folder / 'data/val.parquet'}",
                f"data.media_root={self.media_root}",
                "data.train_batch_size=8",
                "actor_rollout_ref.rollout.n=4",
                "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=32",
                "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=32",
                f"actor_rollout_ref.model.path={self.model}",
                f"trainer.total_training_steps={steps}",
                f"trainer.default_local_dir={self.folder / 'checkpoints'}",
                "trainer.val_before_train=false",
                "trainer.test_freq=2",
                "trainer.save_freq=1",
                *resume_overrides(self.folder / "checkpoints"),
                *overrides,
            ],
            run=self.folder,
            log=self.folder / "verl.log",
            metrics=metrics,
            on_step=lambda step, values: None,
        )
        return read_metrics([metrics])


@pytest.fixture(scope="session")
def make_run(tiny_model: Path) -> Callable[..., Run]:
    """A run in a folder, whose ``data`` holds the rows, of media below another; of the tiny model unless given one."""
    return lambda folder, media_root, model=tiny_model: Run(folder, media_root, model)


@pytest.fixture(scope="session")
def sharp_model(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """The tiny model with weights that make it care where its tokens stand, and sure of what it says.

    Freshly drawn, it attends to all tokens alike: whatever the rollout got wrong about positions would not show.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(tiny_model)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                weight *= 20
            elif name.endswith("language_model.norm.weight"):
                weight *= 10
        # verl's rollout never samples these, so its probabilities are of all other tokens; the trainer's are of all.
        model.get_input_embeddings().weight[[model.config.image_token_id, model.config.video_token_id]] = 0
    folder = tmp_path_factory.mktemp("model") / "sharp"
    model.save_pretrained(folder)
    AutoProcessor.from_pretrained(tiny_model).save_pretrained(folder)
    return folder
