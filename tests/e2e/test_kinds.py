"""Rows of every kind in one GRPO run on two nodes: a mixture of released rows as they are and own depth rows."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jigsaw.processes import processes_of
from jigsaw.show.training import Metrics
from jigsaw.toy.rows import depth_row, image_row, released, video_row
from jigsaw.toy.scenes import write_scenes
from jigsaw.toy.videos import write_video

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]

EACH = 4


def _points(seed: int, k: int = 6, side: int = 112) -> list[list[int]]:
    """Pixels [y, x] of points that lie apart."""
    rng = np.random.default_rng(seed)
    cells = rng.permutation(9)[:k]
    return [[int(side * (0.5 + cell // 3) / 3), int(side * (0.5 + cell % 3) / 3)] for cell in cells]


def _rows() -> dict[str, list[dict[str, Any]]]:
    scene = "scene-{:05d}.png".format
    frames = {"fps": 2.0, "fps_min_frames": 4, "fps_max_frames": 4, "min_pixels": 28 * 28, "max_pixels": 56 * 84}
    return {
        "image": [released(image_row(scene(n), struct={"resize_size": [[112, 112]]})) for n in range(EACH)],
        "depth": [released(depth_row(scene(n), _points(n), struct={"resize_size": [112, 112]})) for n in range(EACH)],
        "video": [released(video_row(f"{n}.mp4", struct=frames)) for n in range(EACH)],
        "own": [depth_row(scene(n), _points(n), id=f"own-{n}", struct={"resize_size": [-1, -1]}) for n in range(EACH)],
    }


@pytest.fixture(scope="module")
def cluster(started_ray: Any) -> Iterator[str]:
    """The address of a Ray of two nodes with a rank each, as on two machines."""
    resources = ("--num-cpus=16", "--num-gpus=1", "--object-store-memory=300000000")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_AUTH_MODE", "disabled")  # it asks for a token where an earlier Ray has left one
        with started_ray(*resources, nodes=2) as address:
            yield address


@pytest.fixture(scope="module")
def steps(
    tmp_path_factory: pytest.TempPathFactory, make_run: Any, sharp_model: Path, cluster: str
) -> dict[int, Metrics]:
    """One step over all rows, half of them depth rows; no micro batch of four sequences holds all kinds."""
    folder = tmp_path_factory.mktemp("kinds")
    pictures, videos, data = (folder / name for name in ("pictures", "videos", "data"))
    write_scenes(pictures, 2 * EACH, seed=5)
    for n in range(EACH):
        write_video(videos / f"{n}.mp4", seconds=6, fps=8, size=(84, 56), seed=n)
    data.mkdir()
    for name, rows in _rows().items():
        pq.write_table(pa.Table.from_pylist(rows), data / f"{name}.parquet")
        pq.write_table(pa.Table.from_pylist(rows[:2]), data / f"{name}-val.parquet")

    def source(name: str, *files: str, media_root: Path, weight: int = 1) -> str:
        listed = ",".join(str(data / f"{file}.parquet") for file in files)
        return f"{{name:{name},files:[{listed}],media_root:{media_root},weight:{weight},epochs:1}}"

    training = [
        source("image", "image", media_root=pictures),
        source("video", "video", media_root=videos),
        source("depth", "depth", "own", media_root=pictures, weight=2),
    ]
    held_out = [
        source("video", "video-val", media_root=videos),
        source("depth", "own-val", media_root=pictures),
    ]
    run = make_run(folder, pictures, sharp_model)
    trained: dict[int, Metrics] = run.train(
        1,
        f"data.mixture=[{','.join(training)}]",
        "data.train_files=null",
        f"data.val_files=[{','.join(held_out)}]",
        "data.media_root='???'",
        f"data.train_batch_size={4 * EACH}",
        "data.max_prompt_length=1024",
        "actor_rollout_ref.rollout.max_model_len=1152",
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=4",
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=4",
        "trainer.nnodes=2",
        f"ray_kwargs.ray_init.address={cluster}",
        *(f"ray_kwargs.ray_init.{name}=null" for name in ("num_cpus", "num_gpus", "object_store_memory")),
        "trainer.test_freq=1",
        some_reward=True,
    )
    assert not (folder / "checkpoints/failed_prompts.jsonl").exists()
    assert processes_of(folder) == []
    return trained


def test_all_kinds_train_together(steps: dict[int, Metrics]) -> None:
    assert steps[1]["training/failed_prompts"] == 0
    assert steps[1]["actor/grad_norm"] > 0


def test_rollout_and_actor_see_the_same_of_all_kinds(steps: dict[int, Metrics]) -> None:
    assert steps[1]["training/rollout_probs_diff_max"] <= 1e-3


def test_each_source_has_its_share_and_each_task_its_metrics(steps: dict[int, Metrics]) -> None:
    prompts = {task: steps[1][f"training/prompts/{task}"] for task in ("image", "video", "depth")}
    assert prompts == {"image": EACH, "video": EACH, "depth": 2 * EACH}
    means = {task: steps[1][f"reward/{task}/score"] for task in prompts}
    assert len(set(means.values())) == 3
    mean = sum(means[task] * prompts[task] for task in prompts) / sum(prompts.values())
    assert steps[1]["reward/score"] == pytest.approx(mean)
    assert steps[1]["critic/score/mean"] == pytest.approx(mean)


def test_validation_tells_the_tasks_apart(steps: dict[int, Metrics]) -> None:
    found = {name.split("/")[1] for name in steps[1] if name.startswith("val-core/") and "/acc/" in name}
    assert found == {"visual_jigsaw_video", "visual_depth_jigsaw"}
