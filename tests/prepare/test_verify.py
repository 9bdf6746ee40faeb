"""``jigsaw verify``: bad rows of every kind are found and named, good ones are not."""

import json
import re
from collections.abc import Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from jigsaw.cli import app
from jigsaw.errors import JigsawError
from jigsaw.prepare import verify
from jigsaw.prepare.images import ImageOptions, image_row
from jigsaw.prepare.scenes import DepthOptions, depth_row
from jigsaw.prepare.verify import BadRow, Report, check_row, verify_rows
from jigsaw.prepare.videos import VideoOptions, video_row
from jigsaw.tokens import MAX_PROMPT_LENGTH
from jigsaw.toy import rows as by_hand
from jigsaw.toy.rgbd import render_views, write_scene
from jigsaw.toy.videos import write_video

pytestmark = pytest.mark.usefixtures("one_reader")

SHORT = VideoOptions(clips=2, max_pixels=28 * 28 * 4, max_frames=4)


def picture_row(path: str, index: int = 0, **extra: Any) -> dict[str, Any]:
    row = image_row({"path": path, "width": 96, "height": 90}, index, "train", ImageOptions())
    row["extra_info"] |= extra
    return row


def film_row(path: str, frames: list[list[int]] | None = None) -> dict[str, Any]:
    record = {"path": path, "width": 64, "height": 48, "duration": 3.0, "fps": 10.0, "frames": frames}
    return video_row(record, 0, "train", SHORT)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def check(path: Path, root: Path, **options: Any) -> Report:
    return verify_rows(path, root, workers=2, progress=lambda done, total: None, **options)


def reasons(report: Report) -> dict[str, str]:
    return {row.id.partition("#")[0]: row.reason for row in report.bad}


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("media")
    noise = Image.effect_noise((96, 90), 90).convert("RGB")
    noise.save(root / "good.jpg")
    noise.save(root / "cut.jpg")
    (root / "cut.jpg").write_bytes((root / "cut.jpg").read_bytes()[:-2000])
    Image.new("RGB", (2, 2)).save(root / "small.png")
    (root / "text.jpg").write_text("no picture")
    film = write_video(root / "film.mp4", seconds=3, fps=10)
    (root / "half.mp4").write_bytes(film.read_bytes()[:-3000])
    write_video(root / "three.mp4", seconds=0.3, fps=10)
    return root


def test_good_pictures_and_each_kind_of_bad_ones(media, tmp_path):
    rows = [picture_row(path) for path in ("good.jpg", "cut.jpg", "small.png", "text.jpg", "none.jpg", "../out.jpg")]
    data = write(tmp_path / "rows.parquet", rows)
    report = check(data, media)
    assert (report.rows, report.tasks) == (6, {"image": 6})
    assert [row.index for row in report.bad] == [2, 3, 4, 5]
    found = reasons(report)
    assert found["small.png"].startswith("2×2 pixels cannot be cut into 3 rows")
    assert found["text.jpg"].startswith("is not a picture")
    assert found["none.jpg"].startswith("no such file below the media root")
    assert found["../out.jpg"].startswith("leaves the media root")
    assert [row.index for row in check(data, media, decode=True).bad] == [1, 2, 3, 4, 5]
    assert reasons(check(data, media, decode=True))["cut.jpg"].startswith("cannot be decoded")


@pytest.mark.seconds
def test_videos_and_their_frames(media, tmp_path):
    (media / "frames").mkdir(exist_ok=True)
    for index in (1, 2, 3, 4):
        Image.new("RGB", (56, 56)).save(media / f"frames/{index:06d}.jpg")
    rows = [film_row("film.mp4"), film_row("half.mp4"), film_row("three.mp4"), film_row("good.jpg")]
    rows += [film_row("frames", [[1, 2], [3, 4]]), film_row("frames", [[1, 2], [3, 5]])]
    rows[5]["extra_info"]["id"] = "missing frame"
    data = write(tmp_path / "rows.parquet", rows)
    found = reasons(check(data, media))
    assert found.keys() == {"half.mp4", "good.jpg", "missing frame", "three.mp4"}
    assert found["missing frame"].startswith("no such file")
    assert found["missing frame"].endswith("(frames/000005.jpg)")
    assert "too few for 2 clips" in found["three.mp4"]
    assert reasons(check(data, media, decode=True)) == found


def test_depth_rows_that_prepare_makes_are_good(tmp_path):
    for room in range(2):
        write_scene(tmp_path / f"rooms/{room}", render_views(0, room, 2), "exported")
    out = tmp_path / "out"
    arguments = ["prepare", "depth", "--media-root", str(tmp_path / "rooms"), "--out", str(out), "--workers", "1"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    report = check(out / "train.parquet", tmp_path / "rooms", decode=True)
    assert (report.rows, report.tasks, report.bad) == (4, {"depth": 4}, [])


def test_rows_that_are_no_puzzle_rows(media, tmp_path):
    rows = [picture_row("good.jpg", id=str(index)) for index in range(4)]
    rows[1]["data_source"] = "gsm8k"
    rows[2]["prompt"][0]["content"] = "no marks"
    rows[3]["images"][0]["jigsaw_config"] = [1, 1]
    report = check(write(tmp_path / "rows.parquet", rows), media)
    found = reasons(report)
    assert found.keys() == {"1", "2", "3"}
    assert found["1"].startswith("data_source 'gsm8k' names no task")
    assert "marks" in found["2"]
    assert "jigsaw_config" in found["3"]
    assert report.tasks == {"image": 1}


def with_dates(path: Path, rows: list[dict[str, Any]], bad: int) -> Path:
    """A file of rows with dates beside them, one of which is after the year 9999."""
    days = [2**31 - 1 if place == bad else 1 for place in range(len(rows))]
    table = pa.Table.from_pylist(rows).append_column("when", pa.array(days, pa.int32()).cast(pa.date32()))
    pq.write_table(table, path)
    return path


def test_a_row_that_cannot_be_read_is_bad_and_the_others_are_not(media, tmp_path):
    rows = [picture_row("good.jpg", id=f"id{place}") for place in range(4)]
    report = check(with_dates(tmp_path / "rows.parquet", rows, 2), media)
    assert report.reasons == {"column when holds a value that cannot be read": 1}
    assert [(row.index, row.id) for row in report.bad] == [(2, "2")]
    assert report.tasks == {"image": 3}


def test_paths_that_no_file_can_have(media, tmp_path):
    rows = [picture_row(path) for path in ("good.jpg", "a\0b.jpg", "n" * 5000, "new\nline.jpg")]
    for place, row in enumerate(rows):
        row["extra_info"]["id"] = str(place)
    for decode in (False, True):
        found = reasons(check(write(tmp_path / "rows.parquet", rows), media, decode=decode))
        assert found.keys() == {"1", "2", "3"}
        assert found["1"].startswith("is no path of this system")
        assert found["1"].endswith(r"('a\x00b.jpg')")
        assert found["2"].startswith("no such file")
        assert found["3"].startswith("no such file")


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where each value stands in a row, the row itself left out."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*at, key)
        yield from places(inner, (*at, key))


DEPTH = {"path": "good.jpg", "scene": "s", "width": 96, "height": 90, "resize": [-1, -1]}
DEPTH |= {"points": [[20, 20], [40, 80]], "depths": [1.0, 2.0]}
WRONG = [None, True, "", "\ud800", "a\0b", "../good.jpg", "/etc/passwd", "a" * 5000, "<image>", b"\xff", [], {}, [None]]
WRONG += [[[]], {"path": None}, ["x"], [1, 1], [2**31, 2**31], 0, -1, 3, 65535, 10**30, 10**400, -(10**400)]
WRONG += [float("nan"), float("inf"), 1e308, 1e-308]
SIZES = ("min_pixels", "max_pixels")


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("kind", "decode"), [("image", False), ("image", True), ("video", False), ("frames", True), ("depth", True)]
)
def test_whatever_stands_in_a_row_is_one_reason_at_most(media, kind, decode):
    """Each value of a good row, in turn, is replaced by everything that it is not, and left out."""
    (media / "frames").mkdir(exist_ok=True)
    for index in (1, 2, 3, 4):
        Image.new("RGB", (56, 56)).save(media / f"frames/{index:06d}.jpg")
    good = {
        "image": lambda: image_row({"path": "good.jpg", "width": 96, "height": 90}, 0, "t", ImageOptions(grid=(1, 2))),
        "video": lambda: film_row("film.mp4"),
        "frames": lambda: film_row("frames", [[1, 2], [3, 4]]),
        "depth": lambda: depth_row(deepcopy(DEPTH), 0, "train", DepthOptions(points=2)),
    }[kind]
    check = partial(check_row, media_root=media, decode=decode, max_prompt_length=MAX_PROMPT_LENGTH)
    assert "reason" not in check((0, good()))[0]
    bad = 0
    for *way, last in places(good()):
        for wrong in [*WRONG, "left out"]:
            row = good()
            holder: Any = row
            for key in way:
                holder = holder[key]
            if wrong == "left out":
                del holder[last]
            elif not (last in SIZES and isinstance(wrong, int) and wrong > 2**20):
                holder[last] = wrong
            (record,) = check((0, row))
            bad += "reason" in record
            assert "\n" not in record.get("reason", "")
            assert str(media) not in record.get("reason", "").replace(f"root {media}", "")
    assert bad > 200


def test_an_id_that_comes_again(media, tmp_path, monkeypatch):
    monkeypatch.setattr(verify, "PART", 2)  # the three are not looked at together
    names = ["a", "b", "c", "a", "d", "a"]
    report = check(write(tmp_path / "rows.parquet", [picture_row("good.jpg", id=name) for name in names]), media)
    said = "its id is that of another row (0)"
    assert report.bad == [BadRow(3, "a", said), BadRow(5, "a", said)]
    assert report.reasons == {"its id is that of another row": 2}


def test_rows_without_ids_are_told_apart_by_their_places(media, tmp_path):
    rows = [picture_row("good.jpg", id=None) for _ in range(3)]
    assert not check(write(tmp_path / "rows.parquet", rows), media).bad


@pytest.mark.seconds
def test_a_row_that_its_reader_does_not_survive_is_bad(media, tmp_path, monkeypatch):
    monkeypatch.setattr(verify, "DECODE_LIMIT", 0.05)  # seconds, in which no picture grows to 89 megapixels
    rows = [picture_row("good.jpg", id="a"), picture_row("good.jpg")]
    for row in rows:
        row["images"][0]["resize_size"] = [9000, 9900]
    data = write(tmp_path / "rows.parquet", rows)
    report = check(data, media, decode=True, max_prompt_length=10**6)
    said = "the reader took longer than 0.05 s"
    assert report.bad == [BadRow(0, "a", said), BadRow(1, "good.jpg#3x3", said)]


def released(path: str, **struct: Any) -> dict[str, Any]:
    return by_hand.released(by_hand.image_row(path, struct=struct))


def test_rows_whose_prompt_does_not_fit(media, tmp_path):
    """By headers alone: of the large picture there is nothing else."""
    Image.new("RGB", (3400, 2300)).save(tmp_path / "large.jpg")
    (tmp_path / "large.jpg").write_bytes((tmp_path / "large.jpg").read_bytes()[:2000])
    Image.new("RGB", (8900, 40)).save(tmp_path / "narrow.png")
    data = write(
        tmp_path / "rows.parquet",
        [
            released("large.jpg"),
            released("large.jpg", resize_size=[1700, 1150]),
            released("large.jpg", crop_size=[1700, 1150]),
            released("narrow.png"),
        ],
    )
    report = check(data, tmp_path)
    assert [row.index for row in report.bad] == [0, 3]
    assert report.bad[0].reason == (
        "takes more tokens than a prompt may have (10,012 of its media and up to 132 of its text, over 8,192); make "
        "its media smaller by resize_size, or raise data.max_prompt_length"
    )
    assert report.bad[1].reason.startswith("cannot be shown to the model (4450×20 pixels are too narrow")
    assert report.reasons["takes more tokens than a prompt may have"] == 1
    assert report.most_tokens == 10_144
    assert [row.index for row in check(data, tmp_path, max_prompt_length=10_144).bad] == [3]
    assert [row.index for row in check(data, tmp_path, max_prompt_length=10_143).bad] == [0, 3]
    assert [row.index for row in check(data, tmp_path, max_prompt_length=2000).bad] == [0, 1, 2, 3]
    command = ["verify", str(data), "--media-root", str(tmp_path), "--max-prompt-length", "10144"]
    result = CliRunner().invoke(app, command)
    assert re.search(r"tokens of the largest prompt, at most +│ +10,144 │", result.stdout)
    assert "1 of 4 rows are bad" in str(result.exception)


@pytest.mark.seconds
@pytest.mark.parametrize("decode", [False, True])
def test_a_row_that_asks_for_more_memory_than_there_is_costs_itself_alone(media, tmp_path, decode):
    """``min_pixels = max_pixels = 2e9``, as who wants no limit writes it."""
    rows = [film_row("film.mp4"), film_row("film.mp4"), film_row("film.mp4")]
    for index, row in enumerate(rows):
        row["extra_info"]["id"] = str(index)
    rows[1]["videos"][0] |= {"min_pixels": 2 * 10**9, "max_pixels": 2 * 10**9}
    report = check(write(tmp_path / "rows.parquet", rows), media, decode=decode)
    assert [(row.index, row.reason.partition(" (")[0]) for row in report.bad] == [
        (1, "its frames take too much memory")
    ]


def test_a_file_of_no_rows_and_a_folder_that_is_none(media, tmp_path):
    with pytest.raises(JigsawError, match="no such file"):
        check(tmp_path / "none.parquet", media)
    data = write(tmp_path / "rows.parquet", [picture_row("good.jpg")])
    with pytest.raises(JigsawError, match="no such folder"):
        check(data, tmp_path / "none")
    pq.write_table(pq.read_table(data).slice(0, 0), data)
    with pytest.raises(JigsawError, match="holds no rows"):
        check(data, media)


def test_the_command(media, tmp_path):
    good = write(tmp_path / "good.parquet", [picture_row("good.jpg")])
    result = CliRunner().invoke(app, ["verify", str(good), "--media-root", str(media), "--decode"])
    assert result.exit_code == 0, result.output
    assert "good" in result.stdout
    bad = write(tmp_path / "bad.parquet", [picture_row("good.jpg"), picture_row("none.jpg")])
    result = CliRunner().invoke(app, ["verify", str(bad), "--media-root", str(media)])
    assert isinstance(result.exception, JigsawError)
    assert "1 of 2 rows are bad" in str(result.exception)
    assert "none.jpg" in result.stdout
    result = CliRunner().invoke(app, ["verify", str(bad), "--media-root", str(media), "--json"])
    said = json.loads(result.stdout)
    assert (said["rows"], [row["index"] for row in said["bad"]]) == (2, [1])


def test_the_table_stays_short_where_every_row_is_bad_in_its_own_way(media, tmp_path):
    rows = [picture_row("good.jpg", index) for index in range(30)]
    for index, row in enumerate(rows):
        row["images"][0]["jigsaw_config"] = [0, index]
    bad = write(tmp_path / "bad.parquet", rows)
    result = CliRunner().invoke(app, ["verify", str(bad), "--media-root", str(media)])
    assert result.stdout.count("bad: images[0]") == 10
    assert re.search(r"bad: other reasons +│ +20 │", result.stdout)
