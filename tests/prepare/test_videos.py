"""``jigsaw prepare video``: the rows, the rejects, extracted frames, and the same bytes whatever happens on the way."""

import hashlib
import json
import os
import posixpath
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import jigsaw
from jigsaw.cli import app
from jigsaw.errors import JigsawError
from jigsaw.files import alone
from jigsaw.prepare import videos
from jigsaw.prepare.pipeline import prepare_rows
from jigsaw.prepare.videos import SHARD_SIZE, VideoOptions, _entries, list_videos, video_schema
from jigsaw.rows import chat, read_rows, read_table
from jigsaw.tasks import media_sizes
from jigsaw.tasks.video import clip_indices
from jigsaw.tokens import media_tokens, text_tokens
from jigsaw.toy.videos import write_video

pytestmark = pytest.mark.usefixtures("one_reader")

OUTPUTS = {"train.parquet", "val.parquet", "rejected.jsonl", "manifest.json"}
SHORT = {"clips": 2, "min_seconds": 2, "max_pixels": 28 * 28 * 4, "max_frames": 4}
"""Options for short, small videos."""


def prepare(media: Path, out: Path, workers: int = 1, **options):
    given = VideoOptions(**{**SHORT, **options})
    return prepare_rows(media, out, given, workers=workers, progress=lambda done, total: None)


def rejected(out: Path) -> dict[str, str]:
    return {entry["path"]: entry["reason"] for entry in map(json.loads, (out / "rejected.jsonl").open())}


def hashes(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    """3 s, 10 frames a second."""
    return write_video(tmp_path_factory.mktemp("film") / "film.mp4", seconds=3, fps=10)


@pytest.fixture(scope="module")
def media(film, tmp_path_factory) -> Path:
    """Two shards and some of videos; every fifth is too short."""
    root = tmp_path_factory.mktemp("videos")
    short = write_video(root.parent / "short.mp4", seconds=1, fps=10)
    for index in range(2 * SHARD_SIZE + 3):
        target = root / f"part {index % 2}" / f"{index:03d}.mp4"
        target.parent.mkdir(exist_ok=True)
        # A box of its own behind the film, which readers pass over, so that no two files are the same.
        box = b"%d" % index
        source = short if index % 5 == 4 else film
        target.write_bytes(source.read_bytes() + (8 + len(box)).to_bytes(4, "big") + b"free" + box)
    return root


@pytest.fixture(scope="module")
def undisturbed(media, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    prepare(media, out / "out", val=3, extract_frames=out / "frames")
    return out


# ------------------------------------------------------------------------------------------------------- what is made


@pytest.mark.seconds
def test_rows_build_puzzles(media, tmp_path):
    out = tmp_path / "out"
    summary = prepare(media, out, val=3)
    train, val = read_rows(out / "train.parquet"), read_rows(out / "val.parquet")
    assert (summary.found, summary.train, summary.val) == (43, len(train), len(val)) == (43, 32, 3)
    assert summary.rejected == {"is shorter than 2 s": 8}
    assert len({row["extra_info"]["id"] for row in train + val}) == 35
    row = val[0]
    assert row["data_source"] == "visual_jigsaw_video"
    assert row["videos"][0] == {
        "path": row["extra_info"]["id"].removesuffix("#2"),
        "jigsaw_clip_num": 2,
        "clip_order": [0, 1],
        "spatial_jigsaw_grid_config": None,
        "fps": 2.0,
        "fps_min_frames": 4,
        "fps_max_frames": 4,
        "min_pixels": 3136,
        "max_pixels": 3136,
        "frames": None,
        "source_fps": None,
    }
    info = row["extra_info"]
    assert (info["trim"], info["width"], info["height"], info["source_fps"]) == (0.05, 64, 48, 10.0)
    assert info["duration"] == pytest.approx(3)
    puzzle = jigsaw.build_puzzle(row, media)
    indices = clip_indices(30, 10, clips=2, trim=0.05, fps=2, min_frames=4, max_frames=4)
    assert [piece.indices for piece in puzzle.pieces] == [indices[place] for place in puzzle.order]
    assert read_table(out / "train.parquet").schema.remove_metadata() == video_schema()


def test_the_defaults_are_the_papers():
    options = VideoOptions()
    assert (options.clips, options.min_seconds, options.trim) == (6, 24, 0.05)
    assert (options.fps, options.max_frames, options.max_pixels) == (2, 12, 128 * 28 * 28)


def test_clips_and_tiles(film, tmp_path):
    prepare(film.parent, tmp_path, clips=3, grid=(1, 2), max_pixels=28 * 28 * 16, answer_format="boxed")
    (row,) = read_rows(tmp_path / "train.parquet")
    assert row["extra_info"]["id"] == "film.mp4#3x1x2"
    assert row["videos"][0]["spatial_jigsaw_grid_config"] == [1, 2]
    assert row["videos"][0]["clip_order"] == list(range(6))
    assert row["prompt"][0]["content"].count("<video>") == 6
    assert "\\boxed" in row["prompt"][0]["content"]
    assert len({piece.frames.shape for piece in jigsaw.build_puzzle(row, film.parent).pieces}) == 1


def test_a_grid_that_frames_are_too_small_for(film, tmp_path):
    with pytest.raises(JigsawError, match="1: cannot be cut"):
        prepare(film.parent, tmp_path, grid=(3, 3))
    assert not (tmp_path / "train.parquet").exists()


def test_rows_of_extracted_frames_need_no_video(media, undisturbed):
    rows = read_rows(undisturbed / "out/train.parquet")
    row = rows[0]
    spec = row["videos"][0]
    assert spec["source_fps"] == 10.0
    names = {f"{index:06d}.jpg" for clip in spec["frames"] for index in clip}
    assert {path.name for path in (undisturbed / "frames" / spec["path"]).glob("*.*")} - {".source.json"} == names
    plain = {**row, "videos": [{**spec, "frames": None, "source_fps": None}]}
    from_frames, from_video = jigsaw.build_puzzle(row, undisturbed / "frames"), jigsaw.build_puzzle(plain, media)
    for extracted, decoded in zip(from_frames.pieces, from_video.pieces, strict=True):
        assert (extracted.indices, extracted.fps) == (decoded.indices, decoded.fps)
        difference = np.asarray(extracted.frames, float) - np.asarray(decoded.frames, float)
        assert 10 * np.log10(255**2 / np.mean(difference**2)) >= 38
    folders = {path.parent.relative_to(undisturbed / "frames").as_posix() for path in undisturbed.rglob("*.jpg")}
    assert folders == {row["videos"][0]["path"] for row in [*rows, *read_rows(undisturbed / "out/val.parquet")]}


def test_frames_stay_where_they_were_extracted(film, tmp_path):
    prepare(film.parent, tmp_path / "out", extract_frames=tmp_path / "frames")
    assert prepare(film.parent, tmp_path / "out", extract_frames=tmp_path / "frames").up_to_date
    with pytest.raises(JigsawError, match=r"has its frames in .*frames; extract them there, or choose"):
        prepare(film.parent, tmp_path / "out", extract_frames=tmp_path / "elsewhere")
    with pytest.raises(JigsawError, match="is the folder of the videos"):
        prepare(film.parent, tmp_path / "out2", extract_frames=film.parent)


def test_rows_of_other_clips_share_a_folder_of_frames(film, tmp_path):
    for clips in (2, 3):
        prepare(film.parent, tmp_path / str(clips), clips=clips, extract_frames=tmp_path / "frames")
    for clips in (2, 3):
        (row,) = read_rows(tmp_path / str(clips) / "train.parquet")
        assert len(jigsaw.build_puzzle(row, tmp_path / "frames").pieces) == clips
    with pytest.raises(JigsawError, match=r"film.mp4: has frames of max_pixels 3136, not 4000; choose another"):
        prepare(film.parent, tmp_path / "out", max_pixels=4000, extract_frames=tmp_path / "frames")


@pytest.mark.seconds
def test_frames_that_do_not_fit_the_prompt_are_shown_smaller(media, tmp_path):
    """Each video as large as fits; its extracted frames lie in a folder of their own."""
    roomy = {"max_pixels": 100_352, "limit": 3, "max_frames": 12, "fps": 10}
    free = prepare(media, tmp_path / "free", extract_frames=tmp_path / "frames", **roomy)
    assert free.smaller == 0
    assert free.tokens["media_most"] == 2 * (2 + 6 * 14 * 10)
    tight = free.tokens["media_most"] + free.tokens["text_at_most"] - 1
    for more in ({}, {"extract_frames": tmp_path / "frames"}, {"grid": (1, 2)}):
        out = tmp_path / f"out{len(more)}{list(more)}"
        summary = prepare(media, out, **roomy, max_prompt_length=tight, **more)
        rows = read_rows(out / "train.parquet")
        assert summary.smaller == summary.kept == len(rows) > 0
        root = tmp_path / "frames" if "extract_frames" in more else media
        for row in rows:
            struct = row["videos"][0]
            assert struct["min_pixels"] == struct["max_pixels"] < 100_352
            sizes = media_sizes(jigsaw.plan(row).messages, root)
            assert media_tokens(sizes) == summary.tokens["media_most"]
            assert 0.8 * tight < media_tokens(sizes) + text_tokens(chat(row)) <= tight
            puzzle = jigsaw.build_puzzle(row, root)
            assert [tuple(piece.frames.shape) for piece in puzzle.pieces] == [(n, 3, h, w) for w, h, n in sizes]
    for row in read_rows(tmp_path / "free/train.parquet"):  # their frames were not replaced
        puzzle = jigsaw.build_puzzle(row, tmp_path / "frames")
        assert {piece.frames.shape[2:] for piece in puzzle.pieces} == {(280, 392)}


# ----------------------------------------------------------------------------------------------------------- bad input


def write_others(root: Path, film: Path) -> None:
    """A video of every bad kind, and some odd ones that are good, all named for it."""
    data = film.read_bytes()
    (root / "good 图片 ü 🧩").mkdir(parents=True)
    shutil.copy(film, root / "good 图片 ü 🧩" / ("n" * 250 + ".mp4"))
    write_video(root / "good other.mkv", seconds=3, fps=10, seed=1)
    write_video(root / "good web.mov", seconds=3, fps=12, size=(48, 64))
    (root / "good wrong name.avi").write_bytes(write_video(root / "good a.mp4", seconds=4, fps=10).read_bytes())
    (root / "good a.mp4").unlink()
    (root / "bad empty.mp4").touch()
    (root / "bad text.mp4").write_text("no video at all\n" * 99)
    (root / "bad cut.mp4").write_bytes(data[: len(data) // 2])
    (root / "bad twin.mp4").write_bytes(data)
    write_video(root / "bad short.mp4", seconds=1.5, fps=10)
    write_video(root / "good stream.ts", seconds=5, fps=10)
    (root / "bad dead.mp4").symlink_to("nowhere.mp4")
    os.mkfifo(root / "bad pipe.mp4")
    with av.open(str(root / "bad sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())


def test_bad_videos_cost_one_reject_each(film, tmp_path):
    write_others(tmp_path / "m", film)
    summary = prepare(tmp_path / "m", tmp_path / "out", extract_frames=tmp_path / "frames")
    refused = rejected(tmp_path / "out")
    names = {path.name for path in (tmp_path / "m").iterdir() if path.name.startswith("bad")}
    assert set(refused) == names - {"bad twin.mp4"} | {"good 图片 ü 🧩/" + "n" * 250 + ".mp4"}
    assert refused["bad dead.mp4"].startswith("no such file")
    assert refused["bad short.mp4"] == "is shorter than 2 s (1.5 s)"
    assert refused["bad sound.mp4"].startswith("holds no video")
    assert refused["good 图片 ü 🧩/" + "n" * 250 + ".mp4"] == "has the same content as another one (bad twin.mp4)"
    assert str(tmp_path) not in "".join(refused.values())
    assert summary.train == 5
    for row in read_rows(tmp_path / "out/train.parquet"):
        jigsaw.build_puzzle(row, tmp_path / "frames")
    for verify in (False, True):
        prepare(tmp_path / "m", tmp_path / f"verified {verify}", verify=verify)
        assert rejected(tmp_path / f"verified {verify}") == refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clips": 1}, "clips 1"),
        ({"grid": (1, 1)}, "grid 1x1"),
        ({"min_seconds": -1}, "min_seconds -1"),
        ({"min_seconds": float("nan")}, "min_seconds nan"),
        ({"trim": 0.5}, "trim 0.5"),
        ({"fps": 0}, "fps 0"),
        ({"max_frames": 1}, "max_frames 1"),
        ({"max_pixels": 783}, "max_pixels 783"),
        ({"val": 1}, "val 1: leaves nothing"),
        ({"limit": 0}, "limit 0"),
        ({"workers": 0}, "workers 0"),
    ],
)
def test_bad_options_make_nothing(film, tmp_path, options, message):
    with pytest.raises(JigsawError, match=message):
        prepare(film.parent, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


# ----------------------------------------------------------------------------------------------- LLaVA-Video-178K tree


@pytest.fixture
def tree(film, tmp_path) -> Path:
    """One folder of the data set: three videos that its lists name, one of them not unpacked, and another."""
    root = tmp_path / "LLaVA-Video-178K"
    folder = root / "0_30_s_academic_v0_1"
    for name in ("academic_source/a/1.mp4", "academic_source/a/2.mp4", "academic_source/other.mp4"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(film.read_bytes() + b"\0\0\0\x0cfree" + name[-8:-4].encode())
    record = {"conversations": [{"from": "human", "value": '<image>\nWhat? ["]}'}], "data_source": "x"}
    names = ["academic_source/a/1.mp4", "academic_source/a/2.mp4", "academic_source/b/3.mp4"]
    for kind, order in (("cap_processed", [0, 1]), ("oe_v0_1_qa_processed", [1, 0, 0]), ("mc_v0_1_qa_processed", [2])):
        entries = [{"id": f"{kind}{place}", "video": names[place], **record} for place in order]
        (folder / f"0_30_s_academic_{kind}.json").write_text(json.dumps(entries, indent=4))
    return root


def test_a_tree_gives_the_videos_that_its_lists_name(tree, tmp_path):
    folder = "0_30_s_academic_v0_1/academic_source"
    assert list_videos(tree) == [f"{folder}/a/1.mp4", f"{folder}/a/2.mp4", f"{folder}/b/3.mp4"]
    summary = prepare(tree, tmp_path / "out")
    assert (summary.found, summary.train) == (3, 2)
    assert rejected(tmp_path / "out").keys() == {f"{folder}/b/3.mp4"}
    row = read_rows(tmp_path / "out/train.parquet")[0]
    jigsaw.build_puzzle(row, tree)


@pytest.mark.parametrize(
    "text", ["", "{}", "[", '[{"video": "a.mp4"}', '[{"video": 3}]', "[1]", '[{"video": "a', "[}", "\xff"]
)
def test_a_list_that_is_none(tree, text):
    (tree / "0_30_s_academic_v0_1/x_mc_y.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(JigsawError, match=r"x_mc_y\.json: is no list of LLaVA-Video-178K.*fetch it again"):
        list_videos(tree)


def test_folders_without_videos(tmp_path):
    with pytest.raises(JigsawError, match="no such folder"):
        list_videos(tmp_path / "none")
    (tmp_path / "notes.json").write_text("{}")
    with pytest.raises(JigsawError, match="holds no videos"):
        list_videos(tmp_path)
    (tmp_path / "a_cap_b.json").write_text("[]")
    with pytest.raises(JigsawError, match="holds no videos"):
        list_videos(tmp_path)


@given(
    st.lists(st.dictionaries(st.text(max_size=3), st.text() | st.integers() | st.lists(st.none())), max_size=4),
    st.integers(1, 40),
    st.sampled_from([None, 2]),
)
def test_a_list_is_read_in_pieces_as_whole(tmp_path_factory, entries, size, indent):
    path = tmp_path_factory.getbasetemp() / "list.json"
    path.write_text(json.dumps(entries, indent=indent), encoding="utf-8")
    whole, videos._CHUNK = videos._CHUNK, size
    try:
        assert list(_entries(path)) == entries
    finally:
        videos._CHUNK = whole


def everything(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_a_record_that_names_no_video_of_the_tree_costs_itself(film, tmp_path):
    """Also one that climbs out of the folder and comes back: its frames would be written elsewhere."""
    media = tmp_path / "a/media"
    media.mkdir(parents=True)
    for name in ("good.mp4", "back\\slash.mp4"):
        (media / name).write_bytes(film.read_bytes() + b"\0\0\0\x0cfree" + name[:4].encode())
    (tmp_path / "a/outside.mp4").write_bytes(film.read_bytes())
    bad = {
        "../media/good.mp4": "leaves the media root",
        "x/../../media/good.mp4": "leaves the media root",
        "../outside.mp4": "leaves the media root",
        f"{media}/good.mp4": "absolute paths are not allowed",
        f"//{media}/good.mp4": "absolute paths are not allowed",
        "b\0c.mp4": "is no path of this system",
        "\ud800": "its name is not valid UTF-8",
        "\udc80.mp4": "its name is not valid UTF-8",
        "": "no such file",
        "..": "leaves the media root",
        "n" * 5000: "no such file",
        "new\nline.mp4": "no such file",
    }
    records = [{"video": name} for name in ["good.mp4", "back\\slash.mp4", *bad]]
    (media / "a_cap_b.json").write_text(json.dumps(records))
    before = everything(tmp_path)
    summary = prepare(media, tmp_path / "out", extract_frames=tmp_path / "b/frames")
    assert summary.train == 2
    refused = rejected(tmp_path / "out")
    assert len(refused) == len({posixpath.normpath(name) for name in bad})
    for name, reason in bad.items():
        assert refused[posixpath.normpath(name)].startswith(reason)
    new = {path for path in everything(tmp_path) - before if path.split("/")[0] != "out"}
    assert new - {"b", "b/frames"} == {f"b/frames/{path}" for path in everything(tmp_path / "b/frames")}
    assert not [path for path in everything(tmp_path / "b/frames") if path.startswith(".draft")]


def test_a_list_that_is_nested_without_end_is_one_line(tree):
    (tree / "0_30_s_academic_v0_1/x_mc_y.json").write_text('[{"video": ' + "[" * 100_000)
    with pytest.raises(JigsawError, match=r"x_mc_y\.json: is no list of LLaVA-Video-178K.*fetch it again"):
        list_videos(tree)


# ----------------------------------------------------------------------------------------------- the folder of frames


def test_the_frames_of_another_data_set_are_not_replaced(film, tmp_path):
    for number, name in enumerate(["same.mp4", "same.mp4", "other.mp4"]):
        (tmp_path / str(number)).mkdir()
        write_video(tmp_path / str(number) / name, seconds=3, fps=10, seed=number)
    frames = tmp_path / "frames"
    prepare(tmp_path / "0", tmp_path / "out0", extract_frames=frames)
    before = hashes(frames)
    with pytest.raises(
        JigsawError, match=r"has frames of another same\.mp4, of other size .*; choose another folder for frames"
    ):
        prepare(tmp_path / "1", tmp_path / "out1", extract_frames=frames)
    assert hashes(frames) == before
    prepare(tmp_path / "2", tmp_path / "out2", extract_frames=frames)
    assert hashes(frames).items() > before.items()
    moved = (tmp_path / "0").rename(tmp_path / "moved")
    prepare(moved, tmp_path / "out3", clips=3, extract_frames=frames)
    for out in ("out0", "out2", "out3"):
        (row,) = read_rows(tmp_path / out / "train.parquet")
        jigsaw.build_puzzle(row, frames)
    os.utime(moved / "same.mp4", ns=(0, 0))  # replaced by another, for all that is known
    with pytest.raises(JigsawError, match=r"has frames of another same\.mp4"):
        prepare(moved, tmp_path / "out4", extract_frames=frames)


def test_a_second_run_in_the_folder_of_frames_stops(film, tmp_path):
    (tmp_path / "frames").mkdir()
    with (
        alone(tmp_path / "frames/.frames.lock", ""),
        pytest.raises(JigsawError, match="another run extracts frames there; wait for it or choose"),
    ):
        prepare(film.parent, tmp_path / "out", extract_frames=tmp_path / "frames")


@pytest.mark.parametrize("note", ["", "[]", "{"])
def test_a_damaged_note_is_one_line(film, tmp_path, note):
    (tmp_path / "frames/film.mp4").mkdir(parents=True)
    (tmp_path / "frames/film.mp4/.source.json").write_text(note)
    with pytest.raises(JigsawError, match=r"film\.mp4.*; choose another folder for frames"):
        prepare(film.parent, tmp_path / "out", extract_frames=tmp_path / "frames")


def test_frames_do_not_leave_their_folder_by_a_link(film, tmp_path):
    for folder in ("frames", "elsewhere"):
        (tmp_path / folder).mkdir()
    (tmp_path / "frames/film.mp4").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(JigsawError, match=r"film\.mp4: leads out of the folder for frames, .*; remove the link"):
        prepare(film.parent, tmp_path / "out", extract_frames=tmp_path / "frames")
    assert not list((tmp_path / "elsewhere").iterdir())


# ------------------------------------------------------------------------------------------------------ the same bytes


@pytest.mark.e2e
@pytest.mark.usefixtures("shared_ray")
def test_bytes_do_not_depend_on_workers(media, undisturbed, tmp_path):
    prepare(media, tmp_path / "out", workers=3, val=3, extract_frames=tmp_path / "frames")
    assert hashes(tmp_path) == hashes(undisturbed)


@pytest.mark.e2e
def test_a_run_that_is_killed_goes_on(media, undisturbed, tmp_path):
    script = (
        "import os, signal, sys; from jigsaw.cli import main; replace = os.replace\n"
        "def stepping(source, target):\n"
        "    replace(source, target)\n"
        "    if 'shard-' in str(target): os.kill(os.getpid(), signal.SIGKILL)\n"
        "os.replace = stepping\n"
        "main()"
    )
    options = ["--clips", "2", "--min-seconds", "2", "--max-pixels", "3136", "--max-frames", "4", "--val", "3"]
    places = ["--media-root", media, "--out", tmp_path / "out", "--extract-frames", tmp_path / "frames"]
    command = [sys.executable, "-c", script, "prepare", "video", *map(str, places), *options, "--workers", "2"]
    killed = subprocess.run(command, capture_output=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [path.suffix for path in (tmp_path / "out/.work").iterdir()] == [".jsonl"]
    prepare(media, tmp_path / "out", val=3, extract_frames=tmp_path / "frames")
    assert hashes(tmp_path) == hashes(undisturbed)


@pytest.mark.seconds
def test_frames_that_cannot_be_written_are_one_line(film, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(JigsawError, match=r"extract_frames .*file: cannot be used \(File exists\); choose another"):
        prepare(film.parent, tmp_path / "out", extract_frames=tmp_path / "file")
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames/film.mp4").touch()
    with pytest.raises(JigsawError, match=r"film.mp4: cannot be used \(Not a directory\); choose another"):
        prepare(film.parent, tmp_path / "out", extract_frames=tmp_path / "frames")
    (tmp_path / "frames/film.mp4").unlink()
    assert prepare(film.parent, tmp_path / "out", extract_frames=tmp_path / "frames").train == 1


# --------------------------------------------------------------------------------------------------------- the command


def test_the_command(film, tmp_path):
    more = ["--min-seconds", "2", "--clips", "2", "--grid", "1x2"]
    arguments = ["prepare", "video", "--media-root", str(film.parent), "--out", str(tmp_path / "out"), *more]
    table = CliRunner().invoke(app, arguments)
    assert table.exit_code == 0, table.output
    assert "videos found" in table.stdout
    summary = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert (summary["up_to_date"], summary["train"]) == (True, 1)
