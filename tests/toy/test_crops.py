"""Small crops of large pictures: where they lie, what is written, and that the split stays by picture."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from jigsaw.errors import JigsawError
from jigsaw.prepare.frames import Frames
from jigsaw.prepare.pipeline import prepare_rows
from jigsaw.rows import read_rows
from jigsaw.tasks import build_puzzle
from jigsaw.toy.crops import SIDE, SPAN, CropOptions, crop_box, write_crops

pytestmark = pytest.mark.usefixtures("one_reader")

SIDES = st.integers(2, 5000)


@given(SIDES, SIDES, st.sampled_from([(2, 1), (1, 2), (2, 2), (1, 3)]), st.text(max_size=5))
def test_a_crop_lies_in_the_picture_and_spans_what_tells_the_place(
    width: int, height: int, grid: tuple[int, int], key: str
) -> None:
    left, top, right, bottom = crop_box((width, height), grid, key)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    across = grid[1] > grid[0]
    span, side = (right - left, width) if across else (bottom - top, height)
    assert SPAN[0] * side - 1 <= span <= SPAN[1] * side
    assert (bottom - top if across else right - left) == min(span, height if across else width)


def test_crops_depend_on_their_key_alone_and_differ() -> None:
    boxes = [crop_box((4000, 3000), (2, 1), f"0/a.jpg/{number}") for number in range(20)]
    assert boxes == [crop_box((4000, 3000), (2, 1), f"0/a.jpg/{number}") for number in range(20)]
    assert len(set(boxes)) == 20


def _picture(path: Path, size: tuple[int, int], shade: int) -> None:
    picture = Image.new("RGB", size, (shade, 200, 250))
    picture.paste((20, 90, shade), (0, size[1] // 2, *size))
    path.parent.mkdir(exist_ok=True)
    picture.save(path)


def test_a_crop_is_small_and_upright(tmp_path: Path) -> None:
    _picture(tmp_path / "large.png", (3000, 2000), 7)
    options = CropOptions(folder=tmp_path / "crops", grid=(2, 1), crops=5)
    records = write_crops("large.png", pictures=tmp_path, crops=Frames(tmp_path / "crops", str), options=options)
    assert [record["path"] for record in records] == [f"large.png/{number:03d}.jpg" for number in range(5)]
    for record in records:
        crop = Image.open(tmp_path / "crops" / record["path"])
        assert crop.size == (SIDE, SIDE) == (record["width"], record["height"])
        top, bottom = (crop.crop((0, y, SIDE, y + 8)).resize((1, 1)).getpixel((0, 0)) for y in (0, SIDE - 8))
        assert isinstance(top, tuple)
        assert isinstance(bottom, tuple)
        assert top[1] > 180
        assert bottom[1] < 110


def _prepare(folder: Path, **options: int) -> tuple[Path, Path]:
    crops, out = folder / "crops", folder / "data"
    given = CropOptions(folder=crops, grid=(2, 1), min_side=56, **options)
    prepare_rows(folder / "pictures", out, given, progress=lambda done, total: None)
    return crops, out


def test_held_out_puzzles_are_of_held_out_pictures(tmp_path: Path) -> None:
    for number in range(10):
        _picture(tmp_path / f"pictures/{number}.png", (300 + number, 200), number)
    crops, out = _prepare(tmp_path, val=3, crops=4)
    rows = {split: read_rows(out / f"{split}.parquet") for split in ("train", "val")}
    pictures = {split: {Path(row["images"][0]["path"]).parent for row in rows[split]} for split in rows}
    assert {split: len(of_split) for split, of_split in rows.items()} == {"train": 28, "val": 12}
    assert len(pictures["train"]) == 7
    assert pictures["train"].isdisjoint(pictures["val"])
    assert [tile.size for tile in build_puzzle(rows["val"][0], crops).pieces] == [(SIDE, SIDE // 2)] * 2
    assert len({row["extra_info"]["id"] for split in rows for row in rows[split]}) == 40


def test_what_cannot_be_used_is_said(tmp_path: Path) -> None:
    for number in range(4):
        _picture(tmp_path / f"pictures/{number}.png", (300, 200), number)
    _picture(tmp_path / "pictures/small.png", (300, 40), 0)
    whole = (tmp_path / "pictures/0.png").read_bytes()
    (tmp_path / "pictures/cut.png").write_bytes(whole[: len(whole) // 2])
    _, out = _prepare(tmp_path, val=1, crops=2)
    rejected = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    assert {one["path"]: one["reason"].partition(" (")[0] for one in rejected} == {
        "cut.png": "cannot be decoded",
        "small.png": "a side is shorter than 56 pixels",
    }
    assert len(read_rows(out / "train.parquet")) == 6


def test_no_crop_is_refused() -> None:
    with pytest.raises(JigsawError, match="crops is 0"):
        CropOptions(folder=Path(), crops=0).validate()
