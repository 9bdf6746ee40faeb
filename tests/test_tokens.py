"""How many tokens a prompt takes, and pictures that are made to fit. Against transformers: tests/e2e/test_tokens.py."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jigsaw import cut, plan
from jigsaw.media.image import largest_size, scaled_size
from jigsaw.prepare.images import ImageOptions, check_picture, image_row, tile_tokens
from jigsaw.rows import chat
from jigsaw.tasks import media_sizes
from jigsaw.tokens import Vision, media_tokens, text_tokens

sides = st.integers(1, 6000)


@pytest.mark.parametrize(
    ("medium", "tokens"),
    [
        ((640, 480, 1), 23 * 17),
        ((213, 160, 1), 8 * 6),
        ((42, 42, 1), 2 * 2),  # 1.5 is rounded to the even 2, and so is 2.5
        ((70, 70, 1), 2 * 2),
        ((1, 1, 1), 2 * 2),  # scaled up to the fewest pixels
        ((13, 2600, 1), 1 * 29),  # rounded to no pixels at all, which the processor scales "up"
        ((6000, 6000, 1), 128 * 128),  # scaled down to the most pixels
        ((7001, 4003, 1), 169 * 96),
        ((392, 252, 12), 6 * 14 * 9),
    ],
)
def test_tokens_by_hand(medium, tokens):
    assert Vision().tokens(medium) == tokens
    assert media_tokens([medium, medium]) == 2 * (tokens + 2)


def test_another_models_token_is_a_matter_of_arguments():
    assert Vision(factor=32, min_pixels=65536, max_pixels=16777216).tokens((640, 480, 1)) == 20 * 15


@pytest.mark.parametrize("medium", [(201, 1, 1), (1, 201, 1), (0, 5, 1), (0, 0, 1)])
def test_shapes_that_the_processor_refuses(medium):
    with pytest.raises(ValueError, match="too narrow"):
        Vision().tokens(medium)


def test_text_is_bounded_by_its_bytes():
    bare = text_tokens([{"role": "user", "content": ""}])
    assert text_tokens([{"role": "user", "content": "Tile 1: <image>\n<video>é"}]) == bare + 8 + 1 + 2
    assert text_tokens([{"role": "user", "content": "\u0958"}]) == bare + 6  # normalized as Qwen's tokenizer does
    assert text_tokens([{"role": "system", "content": ""}, {"role": "user", "content": ""}]) == bare + 6 + 4


@given(sides, sides, st.integers(1, 10**6))
def test_the_largest_size_that_fits(width, height, pixels):
    def fits(size):
        return size[0] * size[1] <= pixels

    size = largest_size((width, height), fits)
    if size is None:
        assert not fits(scaled_size((width, height), 1))
    elif not fits((width, height)):
        assert fits(size)
        assert not fits(scaled_size((width, height), max(size) + 1))
        assert abs(min(size) - min(width, height) * max(size) / max(width, height)) <= 1  # of its shape
    else:
        assert size == (width, height)


@given(
    st.tuples(st.integers(84, 6000), st.integers(84, 6000)),
    st.tuples(st.integers(1, 6), st.integers(2, 6)),
    st.integers(2500, 20000),
    st.none() | st.integers(10**5),
)
@settings(deadline=None)
def test_every_picture_is_made_to_fit_its_prompt(picture, grid, most, max_pixels):
    options = ImageOptions(grid=grid, max_prompt_length=most, max_pixels=max_pixels)
    size = largest_size(picture, options.fits)
    if size is None:  # for its shape alone
        assert max(picture[0] / grid[1] / picture[1] * grid[0], picture[1] / grid[0] / picture[0] * grid[1]) > 100
    else:
        assert tile_tokens(size, grid) + options.text_tokens <= most
        assert max_pixels is None or size[0] * size[1] <= max_pixels


def test_pictures_of_the_paper_are_not_touched(tmp_path):
    Image.new("RGB", (640, 480)).save(tmp_path / "a.jpg")
    (record,) = check_picture("a.jpg", media_root=tmp_path, options=ImageOptions())
    assert (record["resize"], record["smaller"], record["tokens"]) == ([-1, -1], False, 9 * (48 + 2))


@pytest.mark.parametrize("options", [{}, {"grid": (5, 7)}, {"max_pixels": 300_000}, {"max_prompt_length": 1500}])
def test_a_photograph_of_12_megapixels_is_cut_to_fit(tmp_path, options):
    Image.new("RGB", (4032, 3024), (90, 140, 190)).save(tmp_path / "a.jpg")
    given = ImageOptions(**options)
    (record,) = check_picture("a.jpg", media_root=tmp_path, options=given)
    row = image_row({"path": "a.jpg", **record}, 0, "train", given)
    planned = plan(row)
    sizes = media_sizes(planned.messages, tmp_path)
    assert media_tokens(sizes) == record["tokens"]
    assert media_tokens(sizes) + text_tokens(chat(row)) <= given.max_prompt_length
    puzzle = cut(planned, tmp_path)
    assert [(*tile.size, 1) for tile in puzzle.media] == sizes
    assert puzzle.reassemble().size == tuple(record["resize"])
    assert record["resize"][0] / record["resize"][1] == pytest.approx(4 / 3, abs=2e-3)
    if not options:  # and no smaller than it must be
        assert record["tokens"] + given.text_tokens > 0.97 * given.max_prompt_length


def test_a_picture_of_a_shape_that_no_model_takes_is_rejected(tmp_path):
    Image.new("RGB", (8900, 87)).save(tmp_path / "a.png")
    (record,) = check_picture("a.png", media_root=tmp_path, options=ImageOptions(grid=(3, 1)))
    assert record["reason"].startswith("cannot be cut (8900×29 pixels are too narrow")


def test_sizes_are_read_off_headers_alone(tmp_path: Path):
    Image.effect_noise((300, 200), 90).save(tmp_path / "a.jpg")
    whole = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(whole[: len(whole) // 2])
    row = image_row({"path": "a.jpg", "width": 300, "height": 200}, 0, "train", ImageOptions())
    assert sorted(media_sizes(plan(row).messages, tmp_path)) == [(100, 66, 1)] * 3 + [(100, 67, 1)] * 6
