"""The page of puzzles: what stands on it, and what happens to rows that cannot be built."""

import json
import re
from base64 import b64decode
from html.parser import HTMLParser
from io import BytesIO
from math import factorial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from typer import Typer
from typer.testing import CliRunner

from jigsaw.cli.show import show
from jigsaw.errors import JigsawError
from jigsaw.media.video import Clip
from jigsaw.show.gallery import Card, Prose, image_figure, make_card, render_page, video_figure, write_gallery
from jigsaw.show.training import heldout_exact
from jigsaw.tasks import build_puzzle
from jigsaw.toy.rows import depth_row, image_row, released, video_row
from jigsaw.toy.scenes import render_scene
from jigsaw.toy.videos import write_video

app = Typer()
app.command()(show)


def row(path: str, name: str, grid: tuple[int, int] = (2, 1), wording: str = "") -> dict[str, object]:
    made = image_row(path, grid, id=name, split="val")
    made["prompt"][0]["content"] += wording
    return made


@pytest.fixture
def media(tmp_path: Path) -> Path:
    folder = tmp_path / "media"
    folder.mkdir()
    for index in range(3):
        render_scene(0, index, 48).save(folder / f"{index}.png")
    return folder


def table(folder: Path, rows: list[dict[str, object]]) -> Path:
    path = folder / "val.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


class Links(HTMLParser):
    """All addresses on a page, and its tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]


def picture(address: str) -> Image.Image:
    return Image.open(BytesIO(b64decode(address.partition("base64,")[2])))


def test_the_page_holds_the_puzzle_as_the_model_sees_it(tmp_path, media):
    data = table(tmp_path, [row("0.png", "first", (2, 2))])
    total, cards = write_gallery(data, media, tmp_path / "page.html", seed=5, epoch=2)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    puzzle = build_puzzle(pq.read_table(data).to_pylist()[0], media, seed=5, epoch=2)
    shown = [picture(address) for address in Links(page).addresses]

    assert total == len(cards) == 1
    assert [image.tobytes() for image in shown[:4]] == [piece.tobytes() for piece in puzzle.pieces]
    assert shown[4].tobytes() == puzzle.reassemble().tobytes() == Image.open(media / "0.png").tobytes()
    assert ", ".join(map(str, puzzle.answer)) in page
    for text in ("val.parquet", "1 row,", "first", "image, 2 × 2 tiles, chance 1 in 24", "seed 5, epoch 2"):
        assert text in page
    assert re.findall(r"<b>image (\d)</b>", page) == ["1", "2", "3", "4"]


def test_the_page_refers_to_nothing_outside_it(tmp_path, media):
    write_gallery(table(tmp_path, [row("0.png", "a")]), media, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    links = Links(page)
    assert links.addresses
    assert all(address.startswith("data:image/") for address in links.addresses)
    assert not {"script", "link", "iframe"} & set(links.tags)
    assert "url(" not in page
    assert "@import" not in page


def test_what_rows_say_is_text_and_never_markup(tmp_path, media):
    rows = [row("0.png", "<b>id</b>", wording=" <script>alert(1)</script>"), row("<i>.png", "b")]
    write_gallery(table(tmp_path, rows), media, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert not {"script", "i"} & set(Links(page).tags)
    assert "&lt;script&gt;" in page
    assert "&lt;answer&gt;" in page
    assert "&lt;b&gt;id&lt;/b&gt;" in page


def test_large_pictures_are_scaled_for_the_page_and_keep_their_size_in_words():
    figure = image_figure(Image.new("RGB", (3000, 1500), "teal"))
    assert figure.size == (3000, 1500)
    assert figure.source.startswith("data:image/jpeg;base64,")
    assert picture(figure.source).size == (960, 480)


def clip(first: int, frames: int = 8) -> Clip:
    """Frames of one colour each, lighter from frame to frame."""
    light = torch.arange(frames, dtype=torch.uint8) * 20 + 40
    pixels = light[:, None, None, None].expand(frames, 3, 28, 56).contiguous()
    return Clip(pixels, tuple(range(first, first + 10 * frames, 10)), 0.75)


def test_a_clip_plays_and_has_a_strip_of_all_its_frames():
    figure = video_figure(clip(100))
    moving, strip = picture(figure.source), picture(figure.strip.source)
    assert (moving.format, moving.n_frames, moving.size, moving.info["loop"]) == ("WEBP", 8, (56, 28), 0)
    assert figure.size == (56, 28)
    assert figure.strip.grid == (2, 4)
    assert strip.size == figure.strip.size == (4 * 56, 2 * 28)
    middles = np.asarray(strip.convert("L")).astype(int)[14::28, 28::56]
    assert np.abs(middles.ravel() - (40 + 20 * np.arange(8))).max() <= 2
    for index in range(8):
        moving.seek(index)
        assert abs(moving.convert("L").getpixel((28, 14)) - 40 - 20 * index) <= 2


def test_large_clips_are_scaled_for_the_page_and_keep_their_size_in_words():
    frames = torch.zeros(2, 3, 252, 448, dtype=torch.uint8)
    figure = video_figure(Clip(frames, (0, 1), 2.0))
    assert figure.size == (448, 252)
    assert picture(figure.source).size == (320, 180)
    assert picture(figure.strip.source).size == (224, 63)


def test_clips_are_put_back_with_the_numbers_of_their_frames():
    figures = tuple(video_figure(clip(first, frames=2)) for first in (500, 0, 900))
    prompt = tuple(part for place in (1, 2, 3) for part in (Prose(f"Clip {place}: "), Prose("", place)))
    card = Card(index=0, id="film", task="video", cut="3 clips", prompt=prompt, figures=figures, answer=(2, 1, 3))
    page = render_page([card], title="val.parquet", rows=1, seed=0, epoch=0)
    assert "video, 3 clips, chance 1 in 6" in page
    assert "56 × 28 · 2 frames" in page
    assert re.findall(r"<b>(video \d)</b>", page) == ["video 1", "video 2", "video 3"]
    assert re.findall(r"<li><span>(\d+)</span></li>", page) == ["0", "10", "500", "510", "900", "910"]
    assert re.findall(r"frames (\d+ to \d+), 0.75 a second", page) == ["0 to 10", "500 to 510", "900 to 910"]
    links = Links(page)
    assert all(address.startswith("data:image/") for address in links.addresses)
    assert [address for address in links.addresses if address.startswith("data:image/webp")] == [
        figure.source for figure in figures
    ]


@pytest.mark.seconds
@pytest.mark.parametrize(("grid", "cut"), [(None, "3 clips"), ([2, 1], "3 clips of 2 tiles")])
def test_clips_of_a_file_are_put_back_in_time(tmp_path, grid, cut):
    write_video(tmp_path / "film.mp4", seconds=6, fps=10)
    pieces = 6 if grid else 3
    card = make_card(video_row("film.mp4", 3, grid), 0, tmp_path)
    assert card.headline == f"video, {cut}, chance 1 in {factorial(pieces):,}"
    starts = [card.figures[place - 1].strip.indices[0] for place in card.answer]
    assert starts == sorted(starts)
    assert len(set(starts)) == 3


def room_row(depths: list[float] | None = None) -> dict[str, object]:
    return depth_row("room.png", [[20, 30], [60, 90], [20, 90]], depths=depths)


def test_points_are_listed_nearest_first_with_their_depths(tmp_path):
    Image.new("RGB", (120, 80), "teal").save(tmp_path / "room.png")
    row = room_row([1.25, 2.0, 5.0])
    card, puzzle = make_card(row, 0, tmp_path), build_puzzle(row, tmp_path)
    assert [(point.x, point.y, point.depth) for point in card.points] == [(30, 20, 1.25), (90, 60, 2.0), (90, 20, 5.0)]
    for point in card.points:
        assert puzzle.pieces[point.number - 1] == [point.y, point.x]
    assert picture(card.figures[0].source).tobytes() == puzzle.media[0].tobytes()

    page = render_page([card], title="val.parquet", rows=1, seed=0, epoch=0)
    assert "depth, 3 points, chance 1 in 6" in page
    assert re.findall(r'class="disc">(\d)<', page) == [str(number) for number in puzzle.answer]
    assert re.findall(r"<td>([\d.]+ m)<", page) == ["1.25 m", "2.00 m", "5.00 m"]


def test_released_points_have_no_depths_to_show(tmp_path):
    Image.new("RGB", (120, 80), "teal").save(tmp_path / "room.png")
    page = render_page([make_card(released(room_row()), 0, tmp_path)], title="val.parquet", rows=1, seed=0, epoch=0)
    assert len(re.findall('class="disc"', page)) == 3
    assert "Depth</th>" not in page


def test_a_row_that_cannot_be_built_shows_why(media):
    card = make_card(row("gone.png", "lost"), 7, media)
    assert (card.index, card.id) == (7, "lost")
    assert "gone.png: no such file" in card.error
    assert card.figures == ()


@pytest.mark.parametrize(
    "change", [{"extra_info": "a"}, {"extra_info": 1.5}, {"images": [None]}, {"images": ["a.png"]}]
)
def test_a_hostile_row_shows_why(tmp_path, media, change):
    data = table(tmp_path, [{**row("0.png", "a"), **change}])
    _, (card,) = write_gallery(data, media, tmp_path / "page.html")
    (name,) = change
    assert f"{name} is " in card.error
    assert card.id == ("0" if name == "extra_info" else "a")


def test_a_row_that_cannot_be_read_shows_why(tmp_path, media):
    days = pa.array([1, 2**31 - 1, 1], pa.int32()).cast(pa.date32())  # the second is after the year 9999
    rows = pa.Table.from_pylist([row("0.png", "a"), row("0.png", "b"), row("0.png", "c")])
    pq.write_table(rows.append_column("when", days), tmp_path / "val.parquet")
    _, cards = write_gallery(tmp_path / "val.parquet", media, tmp_path / "page.html")
    assert [card.id for card in cards] == ["a", "1", "c"]
    assert cards[1].error.startswith("column when holds a value that cannot be read")


@pytest.mark.parametrize(("side", "orders"), [(5, f"{factorial(25):,}"), (50, "2500!")])
def test_many_pieces_have_their_chance_as_a_factorial(side, orders):
    card = Card(index=0, id="a", task="image", cut=f"{side} × {side} tiles", answer=tuple(range(side**2)))
    assert card.headline == f"image, {side} × {side} tiles, chance 1 in {orders}"


def test_many_tiles_are_numbered_within_the_cells_of_a_picture_of_any_size(tmp_path, media):
    card = make_card(row("0.png", "a", (10, 12)), 0, media)
    page = render_page([card], title="val.parquet", rows=1, seed=0, epoch=0)
    # What the style sheet needs to keep a number within its cell: the picture's shape, and how it is divided.
    assert "--width: 48; --height: 48; --rows: 10; --columns: 12" in page
    assert re.findall(r"<li><span>(\d+)</span></li>", page) == [str(number) for number in card.answer]
    assert 'class="many"' in page
    assert "each up to 4 × 5" in page
    assert 'class="many"' not in render_page(
        [make_card(row("0.png", "a"), 0, media)], title="", rows=1, seed=0, epoch=0
    )


def test_the_command_shows_the_first_rows(tmp_path, media):
    data = table(tmp_path, [row(f"{index}.png", f"row-{index}") for index in range(3)])
    out = tmp_path / "new" / "page.html"
    result = CliRunner().invoke(
        app, [str(data), "--media-root", str(media), "--out", str(out), "--limit", "2", "--json"]
    )
    assert result.exit_code == 0
    expected = {"out": str(out), "rows": 3, "shown": 2, "kinds": ["image, 2 × 1 tiles, chance 1 in 2"], "failed": []}
    assert json.loads(result.stdout) == expected
    assert "row-1" in out.read_text(encoding="utf-8")
    assert "row-2" not in out.read_text(encoding="utf-8")
    assert [path.name for path in out.parent.iterdir()] == ["page.html"]


def test_the_command_writes_the_page_and_fails_when_a_row_fails(tmp_path, media):
    data = table(tmp_path, [row("0.png", "good"), row("../0.png", "bad")])
    out = tmp_path / "page.html"
    result = CliRunner().invoke(app, [str(data), "--media-root", str(media), "--out", str(out), "--json"])
    assert isinstance(result.exception, JigsawError)
    assert str(result.exception) == f"1 of 2 rows could not be built; {out} shows why"
    (failed,) = json.loads(result.stdout)["failed"]
    assert (failed["index"], failed["id"]) == (1, "bad")
    assert "leaves the media root" in failed["error"]
    assert failed["error"] in out.read_text(encoding="utf-8").replace("&#39;", "'")


@pytest.mark.parametrize(("wrong", "words"), [("data", "no such file"), ("media", "no such folder")])
def test_a_missing_input_is_one_line_and_no_page(tmp_path, media, wrong, words):
    data = table(tmp_path, [row("0.png", "a")])
    inputs = {"data": (tmp_path / "no.parquet", media), "media": (data, tmp_path / "none")}[wrong]
    with pytest.raises(JigsawError, match=words):
        write_gallery(*inputs, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_a_page_that_cannot_be_written_leaves_nothing_behind(tmp_path, media):
    (tmp_path / "page.html").mkdir()
    with pytest.raises(JigsawError, match=r"page\.html: cannot be written \(Is a directory\)"):
        write_gallery(table(tmp_path, [row("0.png", "a")]), media, tmp_path / "page.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["media", "page.html", "val.parquet"]


def test_no_data_source_is_left_out_of_the_held_out_accuracy():
    one = {"val-core/visual_jigsaw_image/acc/mean@1": 0.5, "val-core/visual_jigsaw_image/acc/best@1": 0.9}
    three = {**one, "val-core/visual_jigsaw_video/acc/mean@1": 0.25, "val-core/visual_depth_jigsaw/acc/mean@1": 0.0}
    assert heldout_exact({**one, "critic/score/mean": 1.0}) == 0.5
    assert heldout_exact(three) == 0.25
    assert heldout_exact({"critic/score/mean": 1.0, "val-aux/visual_jigsaw_image/score/mean@1": 1.0}) is None


def test_a_page_replaces_pages_alone(media, tmp_path):
    data = table(tmp_path, [row("0.png", "a")])
    before = data.read_bytes()
    for out in (data, media / "0.png"):
        with pytest.raises(JigsawError, match="is there and no HTML page; choose another file"):
            write_gallery(data, media, out)
    assert data.read_bytes() == before
    for _ in range(2):
        write_gallery(data, media, tmp_path / "page.html")
