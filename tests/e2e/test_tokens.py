"""Tokens that are worked out from sizes are those of Qwen2.5-VL's processor, sizes of frames those of qwen-vl-utils."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from qwen_vl_utils.vision_process import smart_resize
from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

from jigsaw import cut, plan
from jigsaw.media.image import tile_boxes
from jigsaw.media.video import Bounds
from jigsaw.prepare.images import ImageOptions, check_picture, image_row, tile_tokens
from jigsaw.prepare.scenes import DepthOptions, depth_row
from jigsaw.prepare.videos import VideoOptions, check_video, video_row
from jigsaw.prompts import render
from jigsaw.rows import ANSWER_FORMATS, chat
from jigsaw.tasks import media_sizes
from jigsaw.tokens import AROUND, Vision, media_tokens, text_tokens
from jigsaw.toy.model import PATCH, build_tokenizer
from jigsaw.toy.videos import write_video

pytestmark = pytest.mark.e2e

QWEN2_5 = {"shortest_edge": 3136, "longest_edge": 12845056}  # min_pixels and max_pixels of its preprocessor_config.json
QWEN3 = {"shortest_edge": 65536, "longest_edge": 16777216}
SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
"""What Qwen2.5-VL's chat template begins with where the prompt brings no system message."""
CHAT = (
    SYSTEM.replace("\n", "{{ '\\n' }}")
    + "{% for message in messages %}<|im_start|>{{ message.role + '\\n' }}{% for item in message.content %}"
    "{% if item.type == 'text' %}{{ item.text }}"
    "{% else %}<|vision_start|><|{{ item.type }}_pad|><|vision_end|>{% endif %}"
    "{% endfor %}<|im_end|>{{ '\\n' }}{% endfor %}<|im_start|>assistant{{ '\\n' }}"
)


@pytest.fixture(scope="module")
def processor():
    """Qwen2.5-VL's, with its sizes and its chat, and the tokenizer that makes the most of a text: a token a byte."""
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(patch_size=PATCH["qwen2_5_vl"], size=dict(QWEN2_5)),
        tokenizer=build_tokenizer([], vocabulary=0),
        video_processor=Qwen2VLVideoProcessor(patch_size=PATCH["qwen2_5_vl"], size=dict(QWEN2_5)),
        chat_template=CHAT,
    )


def number_of_tokens(processor, puzzle) -> tuple[int, int]:
    """Tokens of a puzzle's prompt: those of its media, and the others."""
    text = processor.apply_chat_template(puzzle.messages, tokenize=False)
    assert SYSTEM in text
    media = {"images": [item for item in puzzle.media if isinstance(item, Image.Image)] or None}
    if media["images"] is None:
        media = {"videos": [clip.frames for clip in puzzle.media], "do_sample_frames": False}
    (tokens,) = processor(text=[text], **media)["input_ids"]
    marks = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    known = {processor.tokenizer.convert_tokens_to_ids(mark) for mark in marks}
    of_media = sum(token in known for token in tokens)
    return of_media, len(tokens) - of_media


def check(processor, row, root) -> None:
    planned = plan(row)
    media, text = number_of_tokens(processor, cut(planned, root))
    assert media_tokens(media_sizes(planned.messages, root)) == media
    # The answer's markup is a token each in the tokenizer at hand, where it could be one a byte.
    assert text <= text_tokens(chat(row)) <= text + 64


@pytest.mark.parametrize(("size", "factor"), [(QWEN2_5, 28), (QWEN3, 32)])
@given(st.integers(1, 9000), st.integers(1, 9000))
@settings(max_examples=1000, deadline=None)
def test_tokens_of_any_size(size, factor, width, height):
    image_processor = Qwen2VLImageProcessor(patch_size=factor // 2, size=dict(size))
    vision = Vision(factor=factor, min_pixels=size["shortest_edge"], max_pixels=size["longest_edge"])
    try:
        patches = image_processor.get_number_of_image_patches(height, width, {})
    except ValueError:
        with pytest.raises(ValueError, match="too narrow"):
            vision.tokens((width, height, 1))
    else:
        assert vision.tokens((width, height, 1)) == patches // 4


SIDES = st.integers(1, 50) | st.integers(1, 3000)


@example(1, 200, 28, 1, 9)
@example(1, 201, 28, 1, 9)
@given(SIDES, SIDES, st.sampled_from([14, 28, 32]), st.integers(1, 400), st.integers(0, 400))
@settings(deadline=None)
def test_sizes_of_frames(height, width, factor, least, more):
    limits = 1000 * least, 1000 * (least + more)
    try:
        expected = smart_resize(height, width, factor, *limits)
    except ValueError:
        expected = (0, 0)
    if 0 in expected:
        with pytest.raises(ValueError, match=r"too narrow|cannot be scaled"):
            Bounds(factor, *limits).size(height, width)
    else:
        assert Bounds(factor, *limits).size(height, width) == expected


@given(st.tuples(st.integers(84, 5000), st.integers(84, 5000)), st.tuples(st.integers(1, 5), st.integers(2, 5)))
@settings(deadline=None)
def test_tokens_of_tiles(size, grid):
    image_processor = Qwen2VLImageProcessor(patch_size=PATCH["qwen2_5_vl"], size=dict(QWEN2_5))
    boxes = [(bottom - top, right - left) for left, top, right, bottom in tile_boxes(size, *grid)]
    if all(max(box) <= 200 * min(box) for box in boxes):
        expected = sum(AROUND + image_processor.get_number_of_image_patches(*box, {}) // 4 for box in boxes)
        assert tile_tokens(size, grid) == expected


@pytest.mark.parametrize("answer_format", ANSWER_FORMATS)
def test_prompts_of_pictures(processor, answer_format, tmp_path):
    for number, size in enumerate([(640, 480), (97, 300), (84, 84), (1023, 211)]):
        path = f"{number}.png"
        Image.new("RGB", size, (number, 90, 160)).save(tmp_path / path)
        options = ImageOptions(grid=(3, 2), answer_format=answer_format)
        (record,) = check_picture(path, media_root=tmp_path, options=options)
        check(processor, image_row({**record, "path": path}, 0, "train", options), tmp_path)
        points = {"path": path, "points": [[20, 20], [60, 60]], "depths": [1.0, 2.0], "scene": "a", "resize": [-1, -1]}
        options = DepthOptions(points=2, answer_format=answer_format)
        check(processor, depth_row({**record, **points}, 0, "train", options), tmp_path)


def test_a_photograph_of_12_megapixels_fits_its_prompt(processor, tmp_path):
    Image.new("RGB", (4032, 3024), (90, 140, 190)).save(tmp_path / "a.jpg")
    options = ImageOptions()
    (record,) = check_picture("a.jpg", media_root=tmp_path, options=options)
    row = image_row({**record, "path": "a.jpg"}, 0, "train", options)
    media, text = number_of_tokens(processor, cut(plan(row), tmp_path))
    assert media == record["tokens"]
    assert 8000 < media + text <= 8192


@pytest.mark.parametrize("grid", [None, (2, 2)])
def test_prompts_of_videos(processor, grid, tmp_path):
    write_video(tmp_path / "film.mp4", seconds=4, fps=10, size=(96, 72))
    for most in (8192, 900 if grid is None else 1150):
        options = VideoOptions(clips=2, grid=grid, min_seconds=1, max_prompt_length=most, answer_format="boxed")
        (record,) = check_video("film.mp4", media_root=tmp_path, options=options, frames=None)
        row = video_row({**record, "path": "film.mp4"}, 0, "train", options)
        assert record["smaller"] == (most < 8192)
        assert record["tokens"] + options.text_tokens <= most
        check(processor, row, tmp_path)


def test_words_in_other_scripts(processor):
    for text in (
        "Ordne die Stücke: äöü",
        "वीडियो क़ \u0958",
        "按顺序排列 🧩",
        render("image", "plain", rows=1, columns=2),
    ):
        told = text_tokens([{"role": "user", "content": text}])
        bare = text_tokens([{"role": "user", "content": ""}])
        assert len(processor.tokenizer(text.replace("<image>", ""))["input_ids"]) <= told - bare
