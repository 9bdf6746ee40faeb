"""GRPO on video rows, really: at every rate of frames, trainer and rollout see the same."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jigsaw.mixture import shuffled
from jigsaw.processes import processes_of
from jigsaw.show.training import Metrics
from jigsaw.tasks import build_puzzle
from jigsaw.toy.rows import video_row
from jigsaw.toy.videos import write_video

pytestmark = [pytest.mark.e2e, pytest.mark.slow("training"), pytest.mark.timeout(1500)]

RATES = (0.5, 1, 2, 4)
BATCH = 4
FRAMES = 4


def _row(index: int, rate: float, split: str) -> dict[str, Any]:
    sizes = {"min_pixels": 28 * 28, "max_pixels": 56 * 84, "clip_order": [0, 1]}
    frames = {"fps": float(rate), "fps_min_frames": FRAMES, "fps_max_frames": FRAMES}
    return video_row(f"{split}-{index}.mp4", id=f"{split}-{index}", split=split, struct=frames | sizes)


@pytest.fixture(scope="module", params=["released", "true"])
def steps(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, make_run: Any, sharp_model: Path
) -> Iterator[dict[float, Metrics]]:
    """The metrics of four steps, all of whose videos are sampled at one rate."""
    folder = tmp_path_factory.mktemp(f"video-{request.param}")
    media_root = folder / "videos"
    rate_of = {row: RATES[place // BATCH] for place, row in enumerate(shuffled(len(RATES) * BATCH, 0, "", 0))}
    rows = {
        "train": [_row(index, rate_of[index], "train") for index in sorted(rate_of)],
        "val": [_row(index, 1, "val") for index in range(BATCH)],
    }
    (folder / "data").mkdir()
    for split, of_split in rows.items():
        pq.write_table(pa.Table.from_pylist(of_split), folder / "data" / f"{split}.parquet")
        for index, row in enumerate(of_split):
            video = row["videos"][0]
            # Two clips whose trimmed length holds so many frames at the rate.
            seconds = 2 * FRAMES / video["fps"] / 0.9
            write_video(media_root / video["path"], seconds=seconds, fps=16, size=(84, 56), seed=index)
    for row in rows["train"]:
        assert build_puzzle(row, media_root).pieces[0].fps == pytest.approx(row["videos"][0]["fps"], rel=0.15)

    run = make_run(folder, media_root, sharp_model)
    trained = run.train(
        len(RATES),
        f"data.train_batch_size={BATCH}",
        f"data.time_embedding={request.param}",
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=16",
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=16",
        "data.max_prompt_length=1024",
        "actor_rollout_ref.rollout.max_model_len=1152",
        "trainer.test_freq=-1",
        "trainer.save_freq=-1",
        some_reward=True,
    )
    assert not (folder / "checkpoints/failed_prompts.jsonl").exists()
    yield {rate: trained[step] for step, rate in enumerate(RATES, start=1)}
    assert processes_of(folder) == []


@pytest.mark.parametrize("rate", RATES)
def test_rollout_and_actor_see_the_same_at_every_rate(steps: dict[float, Metrics], rate: float) -> None:
    assert steps[rate]["training/failed_prompts"] == 0
    assert steps[rate]["training/rollout_probs_diff_max"] <= 1e-3
    assert steps[rate]["actor/grad_norm"] > 0
