"""``jigsaw prepare depth``: rows from every layout, the rejects, and the same bytes whatever happens."""

import hashlib
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

import jigsaw
from jigsaw.cli import app
from jigsaw.errors import JigsawError
from jigsaw.files import alone
from jigsaw.media.rgbd import scene_files
from jigsaw.prepare.pipeline import prepare_rows, stamp_of
from jigsaw.prepare.scenes import (
    DepthOptions,
    depth_row,
    depth_schema,
    list_scenes,
    look_at_scene,
    sampled_frames,
    shown_size,
)
from jigsaw.rows import chat, read_rows, read_table
from jigsaw.tasks import media_sizes
from jigsaw.tasks.depth import rescaled
from jigsaw.tokens import media_tokens, text_tokens
from jigsaw.toy.rgbd import COLOUR_SIZE, LOST, render_views, sens_bytes, write_scene

pytestmark = pytest.mark.usefixtures("one_reader")

RAW, EXPORT = "scans/scene0000_00/scene0000_00", "scans/scene0000_01"
SUBSET, LAB = "scannet_frames_25k/scene0001_00", "lab/désk 图"
SCENES = [LAB, SUBSET, f"{RAW}.sens", EXPORT]
VIEWS = 2


def prepare(media: Path, out: Path, workers: int = 2, **options):
    return prepare_rows(media, out, DepthOptions(**options), workers=workers, progress=lambda done, total: None)


def look(media: Path, scene: str = "scene", **options):
    return look_at_scene(scene, media_root=media, options=DepthOptions(**options), frames=None)


def reasons(records) -> list[str | None]:
    return [record.get("reason") for record in records]


def hashes(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def rooms():
    return [render_views(0, room, VIEWS) for room in range(3)]


@pytest.fixture(scope="module")
def media(rooms, tmp_path_factory) -> Path:
    """A scene in every layout; the first two are scans of one room."""
    root = tmp_path_factory.mktemp("scenes")
    write_scene(root / RAW.rpartition("/")[0], rooms[0], "sens")
    write_scene(root / EXPORT, rooms[0][::-1], "exported")
    write_scene(root / SUBSET, rooms[1], "25k")
    write_scene(root / LAB, rooms[2], "folder")
    return root


@pytest.fixture(scope="module")
def undisturbed(media, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    prepare(media, out / "out", val=1, extract_frames=out / "frames")
    return out


def all_rows(out: Path):
    return [*read_rows(out / "train.parquet"), *read_rows(out / "val.parquet")]


# ------------------------------------------------------------------------------------------------------- what is made


def test_rows_build_puzzles_from_every_layout(undisturbed):
    rows = all_rows(undisturbed / "out")
    assert {row["extra_info"]["scene"] for row in rows} == set(SCENES)
    assert len({row["extra_info"]["id"] for row in rows}) == len(rows) == VIEWS * len(SCENES)
    assert (undisturbed / "out/rejected.jsonl").read_bytes() == b""
    for row in rows:
        puzzle = jigsaw.build_puzzle(row, undisturbed / "frames")
        points, info = row["images"][0]["points"], row["extra_info"]
        assert (puzzle.task, puzzle.media[0].size) == ("depth", COLOUR_SIZE)
        assert [puzzle.pieces[number - 1] for number in puzzle.answer] == points
        assert len(points) == len(info["depths"]) == 6
        assert (info["width"], info["height"]) == COLOUR_SIZE
        assert info["draw"] == "after_resize"
        assert row["images"][0]["resize_size"] == [-1, -1]
        assert row["prompt"][0]["content"].count("<image>") == 1
    schema = read_table(undisturbed / "out/train.parquet").schema.remove_metadata()
    assert schema == read_table(undisturbed / "out/val.parquet").schema.remove_metadata() == depth_schema()


@pytest.mark.parametrize(("scene", "room", "picture"), [(RAW, 0, "000000.jpg"), (LAB, 2, "rgb/0.jpg")])
def test_depths_are_those_of_the_scene_at_the_pixels_shown(undisturbed, scene, room, picture):
    """Against a depth map that was rendered at the picture's own pixels."""
    (truth,) = render_views(0, room, 1, colour_size=(8, 6), depth_size=COLOUR_SIZE)
    (row,) = [row for row in all_rows(undisturbed / "out") if row["images"][0]["path"] == f"{scene}/{picture}"]
    for (y, x), metres in zip(row["images"][0]["points"], row["extra_info"]["depths"], strict=True):
        assert truth.depth[y, x] == pytest.approx(metres, abs=0.05)


def test_pictures_are_extracted_byte_for_byte(media, undisturbed):
    frames = undisturbed / "frames"
    paths = {row["images"][0]["path"] for row in all_rows(undisturbed / "out")}
    assert hashes(frames).keys() == paths
    sens = (media / f"{RAW}.sens").read_bytes()
    for path in paths:
        data = (frames / path).read_bytes()
        assert data in sens if path.startswith(RAW) else data == (media / path).read_bytes()


def test_scans_of_one_room_go_into_one_split(media, tmp_path):
    splits = set()
    for seed in (0, 6, 7):
        summary = prepare(media, tmp_path / str(seed), val=1, seed=seed, extract_frames=tmp_path / f"f{seed}")
        train, val = (
            {row["extra_info"]["scene"] for row in read_rows(tmp_path / str(seed) / f"{split}.parquet")}
            for split in ("train", "val")
        )
        assert val in ({f"{RAW}.sens", EXPORT}, {SUBSET}, {LAB})
        assert train | val == set(SCENES)
        assert summary.val == VIEWS * len(val)
        splits.add(frozenset(val))
    assert len(splits) == 3


def test_paths_are_below_the_media_root_without_extraction(media, tmp_path):
    with pytest.raises(JigsawError, match=rf"extract_frames: .*holds \.sens files \({RAW}\.sens\); name a folder"):
        prepare(media, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    summary = prepare(media / "scannet_frames_25k", tmp_path / "out")
    assert summary.train == VIEWS
    for row in read_rows(tmp_path / "out/train.parquet"):
        jigsaw.build_puzzle(row, media / "scannet_frames_25k")


def test_large_pictures_are_shown_smaller_with_discs_apart(media):
    records = look(media, LAB, max_side=324, points=3)
    assert reasons(records) == [None, None]
    for record in records:
        assert record["resize"] == [324, 242]
        shown = np.array([rescaled(point, COLOUR_SIZE, (324, 242)) for point in record["points"]])
        assert (shown >= 15).all()
        assert (shown < np.array([242, 324]) - 15).all()
        gaps = np.hypot(*(shown[:, None] - shown[None]).transpose(2, 0, 1))
        assert gaps[~np.eye(3, dtype=bool)].min() >= 31


def test_pictures_that_do_not_fit_their_prompt_are_shown_smaller_still(media):
    """The points are chosen for the size that is shown, so discs stay whole and apart."""
    for record in look(media, LAB, points=3, max_prompt_length=700):
        assert record["smaller"]
        assert record["resize"][0] / record["resize"][1] == pytest.approx(COLOUR_SIZE[0] / COLOUR_SIZE[1], rel=0.01)
        row = depth_row(record, 0, "train", DepthOptions(points=3))
        (size,) = media_sizes(jigsaw.plan(row).messages, media)
        assert media_tokens([size]) == record["tokens"]
        assert record["tokens"] + text_tokens(chat(row)) <= 700
        shown = np.array([rescaled(point, COLOUR_SIZE, record["resize"]) for point in record["points"]])
        assert (shown >= 15).all()
        assert (shown < np.array(record["resize"][::-1]) - 15).all()
        gaps = np.hypot(*(shown[:, None] - shown[None]).transpose(2, 0, 1))
        assert gaps[~np.eye(3, dtype=bool)].min() >= 31
    assert (
        reasons(look(media, LAB, max_prompt_length=520))
        == ["it has too few points that are apart in the picture and in depth (4 of 6)"] * VIEWS
    )


def test_points_and_format(media, tmp_path):
    prepare(media / "lab", tmp_path, points=3, answer_format="boxed", samples_per_scene=1)
    (row,) = read_rows(tmp_path / "train.parquet")
    assert row["extra_info"]["id"].endswith("#3")
    assert len(row["images"][0]["points"]) == 3
    assert "\\boxed" in row["prompt"][0]["content"]


def test_the_defaults_are_the_papers():
    options = DepthOptions()
    assert (options.points, options.samples_per_scene) == (6, 200)
    assert shown_size((1296, 968), options.max_side) == (1296, 968)  # ScanNet's pictures are not touched


@given(st.integers(1, 10**6), st.integers(1, 500), st.integers(0, 9))
def test_sampled_frames_are_spread_evenly(count, samples, seed):
    frames = sampled_frames(count, samples, [seed, "scene"])
    assert len(frames) == min(count, samples)
    assert frames[0] >= 0
    assert frames[-1] < count
    steps = set(np.diff(frames).tolist())
    assert all(step >= 1 for step in steps)
    if count > samples:
        assert steps <= {count // samples, count // samples + 1}
    assert frames == sampled_frames(count, samples, [seed, "scene"])


@given(st.integers(1, 10**4), st.integers(1, 10**4), st.integers(60, 3000))
def test_shown_sizes_keep_their_shape(width, height, most):
    shown = shown_size((width, height), most)
    assert max(shown) <= max(most, 1)
    if max(width, height) <= most:
        assert shown == (width, height)
    else:
        assert max(shown) == most
        assert abs(shown[0] - width * most / max(width, height)) <= 1


# --------------------------------------------------------------------------------------------------------- the sources


def test_a_sens_file_beside_its_export_is_left_out(rooms, tmp_path):
    folder = tmp_path / "scans/scene0000_00"
    write_scene(folder, rooms[0][:1], "sens")
    write_scene(tmp_path / "only", rooms[0][:1], "sens")
    assert list_scenes(tmp_path) == ["only/only.sens", "scans/scene0000_00/scene0000_00.sens"]
    write_scene(folder, rooms[0][:1], "exported")
    assert list_scenes(tmp_path) == ["only/only.sens", "scans/scene0000_00"]
    assert list_scenes(folder) == ["."]
    (record,) = look(folder, ".")
    assert record["path"] == "color/0.jpg"


def test_folders_that_are_no_scenes(tmp_path):
    with pytest.raises(JigsawError, match="no such folder; give the folder that holds the scenes"):
        list_scenes(tmp_path / "none")
    (tmp_path / "a/color").mkdir(parents=True)
    (tmp_path / "b/depth").mkdir(parents=True)
    with pytest.raises(JigsawError, match=r"holds no scenes; they are \.sens files, or folders"):
        list_scenes(tmp_path)


def test_links_that_lead_outside_are_rejected(rooms, tmp_path):
    write_scene(tmp_path / "elsewhere/scene", rooms[0][:1], "exported")
    write_scene(tmp_path / "elsewhere/raw", rooms[0][:1], "sens")
    write_scene(tmp_path / "m/good", rooms[0][:1], "exported")
    (tmp_path / "m/linked").symlink_to(tmp_path / "elsewhere/scene")
    (tmp_path / "m/raw.sens").symlink_to(tmp_path / "elsewhere/raw/raw.sens")
    (tmp_path / "m/half/depth").mkdir(parents=True)
    (tmp_path / "m/half/color").symlink_to(tmp_path / "elsewhere/scene/color")
    (tmp_path / "m/half/depth/0.png").write_bytes((tmp_path / "m/good/depth/0.png").read_bytes())
    assert list_scenes(tmp_path / "m") == ["good", "half", "linked", "raw.sens"]
    for scene in ("half", "linked", "raw.sens"):
        (record,) = look(tmp_path / "m", scene)
        assert record["reason"].startswith("leaves the media root;")
        assert str(tmp_path) not in record["reason"]


def test_the_same_file_twice_is_taken_once(rooms, tmp_path):
    for name in ("scene0003_00", "scene0004_00"):
        write_scene(tmp_path / "m" / name, rooms[0], "sens")
    write_scene(tmp_path / "m" / "scene0005_00", rooms[1], "sens")
    summary = prepare(tmp_path / "m", tmp_path / "out", extract_frames=tmp_path / "frames")
    assert summary.rejected == {"has the same content as another one": 1}
    assert summary.train == 2 * VIEWS


def test_folders_with_the_same_files_are_taken_once(rooms, tmp_path):
    first = write_scene(tmp_path / "m/a", rooms[0], "exported")
    shutil.copytree(first, tmp_path / "m/b")
    (tmp_path / "m/b/color/.DS_Store").touch()  # plays no part
    nearly = Path(shutil.copytree(first, tmp_path / "m/c"))
    (nearly / "pose/1.txt").write_text((nearly / "pose/1.txt").read_text().replace("0", "1", 1))  # of the same size
    summary = prepare(tmp_path / "m", tmp_path / "out")
    assert summary.rejected == {"has the same content as another one": 1}
    assert json.loads((tmp_path / "out/rejected.jsonl").read_text()) == {
        "path": "b",
        "reason": "has the same content as another one (a)",
    }
    assert {row["extra_info"]["scene"] for row in read_rows(tmp_path / "out/train.parquet")} == {"a", "c"}


def test_a_folder_named_like_a_sens_file_is_a_scene(rooms, tmp_path):
    write_scene(tmp_path / "m/odd.sens", rooms[0], "folder")
    prepare(tmp_path / "m", tmp_path / "out", extract_frames=tmp_path / "frames")
    for row in read_rows(tmp_path / "out/train.parquet"):
        jigsaw.build_puzzle(row, tmp_path / "m")
        jigsaw.build_puzzle(row, tmp_path / "frames")


# ------------------------------------------------------------------------------------------- scenes changed in place

DECISIVE = {
    "exported": ["color/1.jpg", "depth/0.png", "pose/1.txt", "intrinsic/intrinsic_color.txt"],
    "25k": ["color/000001.jpg", "depth/000000.png", "pose/000001.txt", "intrinsics_depth.txt"],
    "folder": ["rgb/1.jpg", "depth/0.png"],
}


def stamp(media: Path) -> list:
    return stamp_of("scene", media, scene_files)


def in_place(path: Path, change) -> None:
    """Change a file and give it, and the folders that it is in, their old times."""
    places = [path, *list(path.parents)[:3]]
    times = [(place, (place.stat().st_atime_ns, place.stat().st_mtime_ns)) for place in places]
    change(path)
    for place, ns in times:
        if place.exists():
            os.utime(place, ns=ns)


@pytest.mark.parametrize("layout", DECISIVE)
def test_every_file_that_decides_the_rows_is_looked_at(rooms, tmp_path, layout):
    """A file in its place with another time, or another size, is a changed scene; its folders do not tell."""
    scene = write_scene(tmp_path / "scene", rooms[0], layout)
    assert stamp(tmp_path) == stamp(tmp_path)
    for name in DECISIVE[layout]:
        before = stamp(tmp_path)
        time = (scene / name).stat().st_mtime_ns
        os.utime(scene / name, ns=(time, time + 1))
        changed = stamp(tmp_path)
        assert changed != before
        in_place(scene / name, lambda path: path.write_bytes(path.read_bytes() + b"0"))
        assert stamp(tmp_path) != changed


def test_files_that_come_and_go_are_noticed_and_others_play_no_part(rooms, tmp_path):
    scene = write_scene(tmp_path / "scene", rooms[0], "exported")
    whole = stamp(tmp_path)
    for name in ("color/notes.txt", "depth/7.png", "label/0.png", "notes.txt"):
        (scene / name).parent.mkdir(exist_ok=True)
        (scene / name).touch()
        assert stamp(tmp_path) == whole
    for name in DECISIVE["exported"]:
        in_place(scene / name, lambda path: path.rename(tmp_path / "aside"))
        assert stamp(tmp_path) != whole
        (tmp_path / "aside").rename(scene / name)
    assert stamp(tmp_path) == whole
    (scene / "color/7.jpg").symlink_to("nowhere.jpg")  # depth/7.png is there
    assert stamp(tmp_path) != whole


def test_a_scene_that_was_changed_in_place_is_not_up_to_date(rooms, tmp_path):
    scene = write_scene(tmp_path / "m/deep/scene", rooms[0], "exported")
    prepare(tmp_path / "m", tmp_path / "out")
    assert prepare(tmp_path / "m", tmp_path / "out").up_to_date
    in_place(scene / "depth/1.png", lambda path: path.write_bytes((scene / "depth/0.png").read_bytes() + b"0"))
    with pytest.raises(JigsawError, match="was finished from other files than the media root holds now"):
        prepare(tmp_path / "m", tmp_path / "out")


# ----------------------------------------------------------------------------------------------- the folder of frames


@pytest.mark.parametrize("layout", ["sens", "exported"])
def test_the_frames_of_another_data_set_are_not_replaced(rooms, tmp_path, layout):
    """Two data sets whose scenes have the same names, and a third with a name of its own."""
    for number, name in enumerate(["same", "same", "other"]):
        write_scene(tmp_path / str(number) / name, rooms[number], layout)
    frames = tmp_path / "frames"
    prepare(tmp_path / "0", tmp_path / "out0", extract_frames=frames)
    before = hashes(frames)
    with pytest.raises(
        JigsawError, match=r"has frames of another same\S*, of other size .*; choose another folder for frames"
    ):
        prepare(tmp_path / "1", tmp_path / "out1", extract_frames=frames)
    assert hashes(frames) == before
    prepare(tmp_path / "2", tmp_path / "out2", extract_frames=frames)
    assert hashes(frames).items() > before.items()
    prepare((tmp_path / "0").rename(tmp_path / "moved"), tmp_path / "out3", points=3, extract_frames=frames)
    for row in [*read_rows(tmp_path / "out0/train.parquet"), *read_rows(tmp_path / "out2/train.parquet")]:
        jigsaw.build_puzzle(row, frames)


def test_two_scenes_of_one_place_are_one_line(rooms, tmp_path):
    for number, name in enumerate(["x.sens", "x/.sens"]):
        (tmp_path / "m" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "m" / name).write_bytes(sens_bytes(rooms[number], [view.pose for view in rooms[number]]))
    with pytest.raises(JigsawError, match=r"x.sens and x/.sens: .* one folder \(x\); rename one"):
        prepare(tmp_path / "m", tmp_path / "out", extract_frames=tmp_path / "frames")


def test_files_of_the_user_are_no_frames(rooms, tmp_path):
    write_scene(tmp_path / "m/scene", rooms[0], "exported")
    mine = tmp_path / "frames/scene/color/0.jpg"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    with pytest.raises(JigsawError, match="scene/color: holds files that are no frames of this command"):
        prepare(tmp_path / "m", tmp_path / "out", extract_frames=tmp_path / "frames")
    assert mine.read_bytes() == b"mine"


def test_a_second_run_in_the_folder_of_frames_stops_and_removes_nothing(media, undisturbed, tmp_path):
    frames = tmp_path / "frames"
    half = frames / RAW / ".000000.jpg.1.tmp"  # of the run that is at work
    half.parent.mkdir(parents=True)
    half.touch()
    with (
        alone(frames / ".frames.lock", ""),
        pytest.raises(JigsawError, match="another run extracts frames there"),
    ):
        prepare(media, tmp_path / "out", val=1, extract_frames=frames)
    assert half.exists()
    prepare(media, tmp_path / "out", val=1, extract_frames=frames)
    assert hashes(tmp_path) == hashes(undisturbed)


@pytest.mark.parametrize("link", ["scene", "scene/color"])
def test_frames_do_not_leave_their_folder_by_a_link(rooms, tmp_path, link):
    write_scene(tmp_path / "m/scene", rooms[0], "exported")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "frames" / link).parent.mkdir(parents=True)
    (tmp_path / "frames" / link).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(JigsawError, match=r"scene/color: leads out of the folder for frames, .*; remove the link"):
        prepare(tmp_path / "m", tmp_path / "out", extract_frames=tmp_path / "frames")
    assert not list((tmp_path / "elsewhere").iterdir())


# ----------------------------------------------------------------------------------------------------------- bad input


def test_bad_frames_cost_themselves_alone(rooms, tmp_path):
    views = rooms[0] * 5
    poses = [view.pose for view in views]
    poses[1] = LOST
    folder = write_scene(tmp_path / "scene", views, "exported", poses=poses)
    depth = folder / "depth"
    holes = np.asarray(Image.open(depth / "2.png")).copy()
    holes[::5] = 0
    Image.fromarray(holes).save(depth / "2.png")
    Image.fromarray(np.zeros_like(holes)).save(depth / "3.png")
    Image.fromarray(holes.T.copy()).save(depth / "4.png")
    Image.new("L", (320, 240)).save(depth / "5.png")
    (depth / "6.png").write_bytes((depth / "7.png").read_bytes()[:200])
    (folder / "color/8.jpg").write_bytes(b"")
    (folder / "pose/9.txt").write_text("")
    records = look(tmp_path)
    assert [record["path"] for record in records] == [f"scene/color/{number}.jpg" for number in range(10)]
    for reason, start in zip(
        reasons(records),
        [
            None,
            "color: tracking was lost",
            "its depth map has too few flat places with readings",
            "its depth map has too few flat places with readings (0 of",
            "the intrinsics are not those of a depth map of its size (240×320)",
            "depth: is no depth map",
            "depth: cannot be decoded",
            None,
            "color: is not a picture",
            "pose: holds no 3×3 or 4×4 matrix",
        ],
        strict=True,
    ):
        assert (reason is None) == (start is None)
        assert (reason or "").startswith(start or "")
        assert str(tmp_path) not in (reason or "")


def test_a_sens_file_that_is_cut_off_gives_what_is_whole(rooms, tmp_path):
    whole = sens_bytes(rooms[0], [view.pose for view in rooms[0]])
    (tmp_path / "a.sens").write_bytes(whole[:-1000])
    records = look(tmp_path, "a.sens")
    assert records[0]["path"] == "a/000000.jpg"
    assert records[1:] == [{"reason": "is cut off or damaged; download it again (frame 1 of 2)"}]
    (tmp_path / "a.sens").write_bytes(whole[:200])
    assert look(tmp_path, "a.sens") == [{"reason": "ends within its header; download it again"}]
    (tmp_path / "a.sens").write_bytes(b"")
    assert look(tmp_path, "a.sens") == [{"reason": "ends within its header; download it again"}]


def test_scenes_without_frames_or_cameras(rooms, tmp_path):
    empty = bytearray(sens_bytes(rooms[0][:1], [rooms[0][0].pose]))
    header = 4 + 8 + 3 + 256 + struct.calcsize("<iiIIIIf")
    empty[header : header + 8] = bytes(8)
    (tmp_path / "a.sens").write_bytes(empty)
    assert look(tmp_path, "a.sens")[0]["reason"].startswith("holds no frames")
    folder = write_scene(tmp_path / "scene", rooms[0], "25k")
    (folder / "intrinsics_color.txt").write_text("none")
    assert look(tmp_path) == [
        {"reason": "intrinsics_color.txt: holds no 3×3 or 4×4 matrix of numbers; export it again"}
    ]
    (folder / "intrinsics_color.txt").unlink()
    assert reasons(look(tmp_path)) == [None, None]  # then the fields of view must be the same, and they are


def test_intrinsics_of_another_resolution_are_named(rooms, tmp_path):
    """Pictures that were scaled down without their intrinsics: a frequent mistake, and silently wrong."""
    folder = write_scene(tmp_path / "scene", rooms[0][:1], "exported")
    Image.open(folder / "color/0.jpg").resize((324, 242)).save(folder / "color/0.jpg")
    (reason,) = reasons(look(tmp_path))
    assert reason == "the intrinsics are not those of a picture of its size (324×242)"


def test_long_and_foreign_names(rooms, tmp_path):
    long = "n" * 200
    root = tmp_path / "m"
    folder = write_scene(root / f"日本 ü {long}", rooms[0][:1], "folder")
    os.rename(folder / "rgb/0.jpg", folder / f"rgb/{long}.jpg")
    os.rename(folder / "depth/0.png", folder / f"depth/{long}.png")
    prepare(root, tmp_path / "out", extract_frames=tmp_path / "frames")
    (row,) = read_rows(tmp_path / "out/train.parquet")
    jigsaw.build_puzzle(row, tmp_path / "frames")
    os.rename(folder, os.fsencode(root) + b"/\xff")
    (record,) = look(root, os.fsdecode(b"\xff"))
    assert record["reason"].startswith("its name is not valid UTF-8")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points": 1}, "points 1: must be 2 to 99"),
        ({"points": 100}, "points 100"),
        ({"samples_per_scene": 0}, "samples_per_scene 0"),
        ({"max_side": 59}, "max_side 59"),
        ({"val": -1}, "val -1"),
        ({"max_prompt_length": 500}, "max_prompt_length 500: too few tokens for 1 media"),
        ({"val": 4}, "val 4: leaves nothing"),
        ({"limit": 0}, "limit 0"),
        ({"workers": 0}, "workers 0"),
        ({"answer_format": "latex"}, "answer_format latex"),
    ],
)
def test_bad_options_make_nothing(media, tmp_path, options, message):
    with pytest.raises(JigsawError, match=message):
        prepare(media, tmp_path / "out", **{"extract_frames": tmp_path / "frames", **options})
    assert not (tmp_path / "out").exists()


def test_frames_never_go_among_the_scenes(media, tmp_path):
    with pytest.raises(JigsawError, match="is the folder of the scenes; choose another"):
        prepare(media, tmp_path / "out", extract_frames=media)


def test_frames_that_cannot_be_written_are_one_line(media, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(JigsawError, match=r"extract_frames .*file: cannot be used \(File exists\); choose another"):
        prepare(media, tmp_path / "out", extract_frames=tmp_path / "file")


def test_nothing_fit_is_one_line(rooms, tmp_path):
    folder = write_scene(tmp_path / "m/scene", rooms[0], "folder")
    for path in (folder / "depth").iterdir():
        Image.fromarray(np.zeros((240, 320), np.uint16)).save(path)
    with pytest.raises(JigsawError, match=r"0 of 1 scenes are fit.*too few flat places with readings") as caught:
        prepare(tmp_path / "m", tmp_path / "out")
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------------ the same bytes


@pytest.mark.e2e
@pytest.mark.usefixtures("shared_ray")
@pytest.mark.parametrize("workers", [1, 3])
def test_bytes_do_not_depend_on_workers(media, undisturbed, tmp_path, workers):
    prepare(media, tmp_path / "out", workers=workers, val=1, extract_frames=tmp_path / "frames")
    assert hashes(tmp_path) == hashes(undisturbed)


@pytest.mark.e2e
@pytest.mark.usefixtures("shared_ray")
def test_readers_that_are_killed_and_half_written_frames(media, undisturbed, tmp_path, children_named):
    half = tmp_path / "frames" / RAW / ".000000.jpg.1.tmp"
    half.parent.mkdir(parents=True)
    half.write_bytes(b"half")
    killed = []

    def kill(done: int, total: int) -> None:
        assert half.exists()  # it may be that of a killed run's worker, whose own draft would be as much in the way
        if done and not killed:
            for process in children_named("jigsaw.reader"):
                process.kill()
                killed.append(process.pid)

    options = DepthOptions(val=1, extract_frames=tmp_path / "frames")
    prepare_rows(media, tmp_path / "out", options, workers=2, progress=kill)
    assert killed
    assert hashes(tmp_path) == hashes(undisturbed)
    assert not half.exists()


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
    places = ["--media-root", media, "--out", tmp_path / "out", "--extract-frames", tmp_path / "frames"]
    command = [sys.executable, "-c", script, "prepare", "depth", *map(str, places), "--val", "1", "--workers", "2"]
    for shards in (1, 2):
        killed = subprocess.run(command, capture_output=True, timeout=120)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert len(list((tmp_path / "out/.work").glob("shard-*"))) == shards
    prepare(media, tmp_path / "out", val=1, extract_frames=tmp_path / "frames")
    assert hashes(tmp_path) == hashes(undisturbed)


# --------------------------------------------------------------------------------------------------------- the command


def test_the_command(media, tmp_path):
    arguments = ["prepare", "depth", "--media-root", str(media), "--out", str(tmp_path / "out"), "--points", "4"]
    refused = CliRunner().invoke(app, arguments)
    assert isinstance(refused.exception, JigsawError)
    arguments += ["--extract-frames", str(tmp_path / "frames"), "--samples-per-scene", "1"]
    table = CliRunner().invoke(app, arguments)
    assert table.exit_code == 0, table.output
    assert "scenes found" in table.stdout
    summary = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert (summary["up_to_date"], summary["train"], summary["found"]) == (True, len(SCENES), len(SCENES))
