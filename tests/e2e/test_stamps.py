"""Videos of Qwen3-VL, the time of each frame as text: trainer and rollout have the same tokens at the same places."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoProcessor
from vllm.config import ModelConfig
from vllm.model_executor.models.qwen3_vl import Qwen3VLForConditionalGeneration
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.processing.context import TimingContext
from vllm.multimodal.processing.inputs import ProcessorInputs

from jigsaw.media.video import Clip
from jigsaw.toy.model import build_tiny_model
from jigsaw.verl_plugin.dataset import _video_metadata
from jigsaw.verl_plugin.patches import positions_of_the_rollout
from jigsaw.verl_plugin.plans import TIME_EMBEDDINGS
from jigsaw.verl_plugin.positions import with_stamps

pytestmark = pytest.mark.e2e

VIDEO, IMAGE = (f"<|vision_start|><|{kind}_pad|><|vision_end|>" for kind in ("video", "image"))
TEXT = f"Clip 1: {VIDEO}\nA picture: {IMAGE} Clip 2: {VIDEO}\nGo."
JOINED = "Clip 1: <0.2 seconds>"
"""What the tokenizer makes fewer tokens of as a whole than in two parts."""


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model") / "qwen3", family="qwen3_vl", words=(JOINED,))


def _videos(rate: float, mode: str) -> list[tuple[torch.Tensor, dict[str, Any]]]:
    """Two clips of a rate, of 12 and of 7 frames, as the dataset hands them to verl."""
    generator = torch.Generator().manual_seed(0)
    clips = [
        Clip(torch.randint(256, (frames, 3, *size), dtype=torch.uint8, generator=generator), tuple(range(frames)), rate)
        for frames, size in ((12, (64, 96)), (7, (32, 32)))
    ]
    return [(clip.frames, _video_metadata(clip, mode)) for clip in clips]


@pytest.fixture(scope="module")
def rollout(qwen3: Path) -> Any:
    """vLLM's own multimodal processor for it."""
    return MULTIMODAL_REGISTRY.create_processor(ModelConfig(model=str(qwen3), dtype="float32"))


@pytest.mark.parametrize("mode", TIME_EMBEDDINGS)
@pytest.mark.parametrize("rate", [0.3, 1.0, 29.97 / 15, 7.0])
def test_trainer_and_rollout_have_the_same_tokens_at_the_same_places(
    qwen3: Path, rollout: Any, rate: float, mode: str
) -> None:
    processor = AutoProcessor.from_pretrained(qwen3)
    positions_of_the_rollout(processor)
    videos, picture = _videos(rate, mode), Image.new("RGB", (96, 64), "red")
    features = dict(
        processor(
            text=[TEXT],
            images=[picture],
            videos=[frames for frames, _ in videos],
            video_metadata=[metadata for _, metadata in videos],
            do_sample_frames=False,
            return_tensors="pt",
        )
    )
    marked = processor.tokenizer(TEXT)["input_ids"]
    ours = with_stamps(marked, features, [metadata for _, metadata in videos], processor)
    if mode == "released":
        assert ours != features["input_ids"][0].tolist()  # transformers joins the first stamp with the text before it
        assert processor.decode(ours) == processor.decode(features["input_ids"][0])

    given = rollout.apply(
        ProcessorInputs(marked, rollout.info.parse_mm_data({"video": videos, "image": [picture]})),
        TimingContext(enabled=False),
    )
    assert given["prompt_token_ids"] == ours

    ids = torch.tensor([ours])
    grids = {name: features[name] for name in ("image_grid_thw", "video_grid_thw")}
    places, _ = processor.get_rope_index(
        input_ids=ids, attention_mask=torch.ones_like(ids), **grids, **processor.get_rope_index_kwargs(features)
    )
    shown = [
        SimpleNamespace(modality=kind, mm_position=place, data=item)
        for kind in ("video", "image")
        for place, item in zip(given["mm_placeholders"][kind], given["mm_kwargs"][kind], strict=True)
    ]
    theirs, _ = Qwen3VLForConditionalGeneration._get_mrope_input_positions(
        ours, shown, AutoConfig.from_pretrained(qwen3)
    )
    assert torch.equal(places[:, 0], theirs)
