"""RGB-D scenes in every layout give the frames that were written; damaged ones are one line, whatever the damage."""

import io
import os
import struct
import tracemalloc
import warnings
import zlib
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from jigsaw.errors import MediaError
from jigsaw.media.camera import Intrinsics, read_matrix, register
from jigsaw.media.rgbd import CutOffError, SensScene, open_scene, read_depth
from jigsaw.toy.rgbd import LOST, intrinsics, render_views, sens_bytes, write_scene

COLOUR, DEPTH = (82, 60), (40, 30)
FRAMES = 4
NAME_BYTES = 3  # of the sensor in the rendered files
HEADER = 4 + 8 + NAME_BYTES + 4 * 64 + struct.calcsize("<iiIIIIfQ")
HEAD = 96
"""Bytes before the pixels of every frame."""


@pytest.fixture(scope="module")
def views():
    return render_views(0, 0, FRAMES, colour_size=COLOUR, depth_size=DEPTH)


@pytest.fixture(scope="module")
def sens(views) -> bytes:
    return sens_bytes(views, [view.pose for view in views])


def same_frame(frame, view):
    assert frame.size == view.colour.size
    assert np.allclose(frame.depth, view.depth, atol=0.00051)
    assert frame.depth.dtype == np.float32


def refused(path: Path, *words: str, index: int | None = None) -> None:
    with pytest.raises(MediaError) as caught, open_scene(path) as scene:
        scene.frame(index or 0)
    message = str(caught.value)
    assert message.startswith(f"{path}")
    assert "\n" not in message
    for word in words:
        assert word in message


def changed(sens: bytes, offset: int, layout: str, *values) -> bytes:
    part = struct.pack(layout, *values)
    return sens[:offset] + part + sens[offset + len(part) :]


# --------------------------------------------------------------------------------------------------------------- .sens


@pytest.mark.parametrize("depth_compression", [0, 1])
@pytest.mark.parametrize("colour_compression", [0, 1, 2])
def test_a_sens_file_gives_what_was_written(views, tmp_path, colour_compression, depth_compression):
    path = write_scene(
        tmp_path / "scene0000_00",
        views,
        "sens",
        colour_compression=colour_compression,
        depth_compression=depth_compression,
    )
    with open_scene(path) as scene:
        assert len(scene) == FRAMES
        for camera, size in zip(scene.cameras, (COLOUR, DEPTH), strict=True):
            assert astuple(camera) == pytest.approx(astuple(intrinsics(size)), rel=1e-6)
        for index, view in enumerate(views):
            frame = scene.frame(index)
            same_frame(frame, view)
            assert np.allclose(frame.pose, view.pose, atol=1e-6)
            picture = Image.open(io.BytesIO(frame.encoded()))
            assert picture.format == ("JPEG" if colour_compression == 2 else "PNG")
            assert scene.name(index) == f"{index:06d}" + (".jpg" if colour_compression == 2 else ".png")
            if colour_compression < 2:
                assert picture.convert("RGB").tobytes() == view.colour.tobytes()


def test_frames_that_are_not_wanted_are_not_read(sens, tmp_path):
    path = tmp_path / "a.sens"
    path.write_bytes(sens)

    class Counting(io.FileIO):
        total = 0

        def read(self, size=-1):
            data = super().read(size)
            self.total += len(data)
            return data

    with Counting(path) as file:
        scene = SensScene(file, path)
        assert file.total == HEADER
        frame = scene.frame(2)
        pixels = len(frame.encoded())
        skipped_or_read = file.total - HEADER - 3 * HEAD - pixels
        # What is left is the depth map of this one frame, compressed.
        assert 0 < skipped_or_read < 2 * DEPTH[0] * DEPTH[1]
        before = file.total
        same = scene.frame(2)
        assert file.total - before == HEAD + pixels + skipped_or_read
        assert np.array_equal(same.depth, frame.depth)


def test_frames_come_in_any_order(sens, views, tmp_path):
    (tmp_path / "a.sens").write_bytes(sens)
    with open_scene(tmp_path / "a.sens") as scene:
        for index in (3, 0, 2, 1):
            same_frame(scene.frame(index), views[index])


@given(data=st.data())
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_cut_off_anywhere_gives_the_frames_before(sens, views, tmp_path, data):
    length = data.draw(st.integers(0, len(sens) - 1))
    path = tmp_path / "a.sens"
    path.write_bytes(sens[:length])
    if length < HEADER:
        refused(path, "ends within its header")
        return
    if length < FRAMES * HEAD:
        refused(path, "more frames than its bytes can hold")
        return
    end = HEADER
    with open_scene(path) as scene:
        for index, view in enumerate(views):
            colour, depth = struct.unpack_from("<2Q", sens, end + 80)
            end += HEAD + colour + depth
            if end <= length:
                same_frame(scene.frame(index), view)
            else:
                with pytest.raises(
                    CutOffError, match=rf"cut off or damaged; download it again \(frame \d of {FRAMES}\)"
                ):
                    scene.frame(index)


@given(data=st.data())
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_damage_is_one_line_at_worst(sens, tmp_path, data):
    place = data.draw(st.integers(0, HEADER + HEAD + 40))
    noise = data.draw(st.binary(min_size=1, max_size=16))
    path = tmp_path / "a.sens"
    path.write_bytes(sens[:place] + noise + sens[place + len(noise) :])
    errors = []
    try:
        with warnings.catch_warnings(action="error", category=RuntimeWarning), open_scene(path) as scene:
            for index in range(min(len(scene), FRAMES)):
                try:
                    assert np.isfinite(scene.frame(index).depth).all()
                except MediaError as error:
                    errors.append(str(error))
    except MediaError as error:
        errors.append(str(error))
    assert all(error.startswith(f"{path}: ") and "\n" not in error for error in errors)


SIZES = HEADER - struct.calcsize("<iiIIIIfQ")


@pytest.mark.parametrize(
    ("offset", "layout", "values", "word"),
    [
        (0, "<I", (3,), "version 4"),
        (4, "<Q", (2**63,), "version 4"),
        (SIZES, "<i", (7,), "compression"),
        (SIZES + 4, "<i", (2,), "occi"),
        (SIZES + 4, "<i", (-1,), "compression"),
        (SIZES + 8, "<2I", (2**32 - 1, 2**32 - 1), "sizes"),
        (SIZES + 16, "<2I", (0, 30), "sizes"),
        (SIZES + 24, "<f", (0.0,), "unit"),
        (SIZES + 24, "<f", (float("nan"),), "unit"),
        (SIZES + 24, "<f", (float("inf"),), "unit"),
        (SIZES + 24, "<f", (1e-36,), "unit"),  # the longest reading would be more metres than a float holds
        (SIZES + 28, "<Q", (2**63,), "more frames"),
        (4 + 8 + NAME_BYTES + 64 + 12, "<f", (0.05,), "different places"),
        (HEADER + 80, "<Q", (2**62,), "cut off or damaged"),
        (HEADER + 88, "<Q", (2**62,), "cut off or damaged"),
        (SIZES + 8, "<2I", (41, 60), "size that the header names"),
        (SIZES + 16, "<2I", (39, 30), "size that the header names"),
        (SIZES + 16, "<2I", (41, 30), "size that the header names"),
    ],
)
def test_a_header_that_makes_no_sense_is_named(sens, tmp_path, offset, layout, values, word):
    path = tmp_path / "a.sens"
    path.write_bytes(changed(sens, offset, layout, *values))
    refused(path, word)


@pytest.mark.parametrize("units", [2e-34, 1e-20, 0.5, 999.0, 5000.0, 1e30, 3e38])
def test_any_unit_that_makes_sense_gives_metres(views, tmp_path, units):
    """Also where single readings are more, or less, than what a picture can show."""
    sens = sens_bytes(views[:1], [views[0].pose], depth_compression=0)
    values = np.resize(np.array([0, 1, 1000, 65535], "<u2"), DEPTH[::-1])
    path = tmp_path / "a.sens"
    path.write_bytes(changed(sens[: -2 * values.size - 264], SIZES + 24, "<f", units) + values.tobytes())
    with warnings.catch_warnings(action="error"), open_scene(path) as scene:
        depth = scene.frame(0).depth
    unit = struct.unpack("<f", struct.pack("<f", units))[0]
    assert depth == pytest.approx(values.astype(np.float64) / unit, rel=1e-6, abs=1e-44)


def test_a_frame_that_names_too_many_bytes_is_not_read(sens, tmp_path):
    """A file is gigabytes long, so the end of the file alone is no limit."""
    path = tmp_path / "a.sens"
    path.write_bytes(changed(sens, HEADER + 80, "<Q", 1 << 30))
    os.truncate(path, 1 << 31)  # sparse
    tracemalloc.start()
    refused(path, "cut off or damaged")
    assert tracemalloc.get_traced_memory()[1] < 10 << 20
    tracemalloc.stop()


def test_a_depth_map_that_grows_without_end_is_refused(views, tmp_path):
    good = sens_bytes(views[:1], [views[0].pose])
    colour, _ = struct.unpack_from("<2Q", good, HEADER + 80)
    bomb = zlib.compress(bytes(50 << 20))[: 4 * DEPTH[0] * DEPTH[1]]
    head = changed(good, HEADER + 88, "<Q", len(bomb))[: HEADER + HEAD + colour]
    path = tmp_path / "a.sens"
    path.write_bytes(head + bomb)
    tracemalloc.start()
    refused(path, "size that the header names")
    assert tracemalloc.get_traced_memory()[1] < 5 << 20
    tracemalloc.stop()
    path.write_bytes(head[: HEADER + HEAD + colour] + bytes(len(bomb)))
    refused(path, "depth map is damaged")


@pytest.mark.parametrize("layout", ["sens", "exported"])
@pytest.mark.parametrize("lost", [LOST, np.full((4, 4), np.nan)])
def test_lost_tracking_costs_its_frame_alone(views, tmp_path, layout, lost):
    poses = [view.pose for view in views]
    poses[1] = lost
    with open_scene(write_scene(tmp_path / "scene", views, layout, poses=poses)) as scene:
        same_frame(scene.frame(0), views[0])
        with pytest.raises(MediaError, match="tracking was lost"):
            scene.frame(1)
        same_frame(scene.frame(2), views[2])


# ------------------------------------------------------------------------------------------------------------- folders


@pytest.mark.parametrize("layout", ["exported", "25k", "folder"])
def test_a_folder_gives_what_was_written(views, tmp_path, layout):
    path = write_scene(tmp_path / "scène", views, layout)
    with open_scene(path) as scene:
        assert len(scene) == FRAMES
        if layout == "folder":
            assert scene.cameras is None
        else:
            assert [camera.fx for camera in scene.cameras] == pytest.approx([0.9 * COLOUR[0], 0.9 * DEPTH[0]])
        for index, view in enumerate(views):
            frame = scene.frame(index)
            same_frame(frame, view)
            assert frame.encoded() == (path / scene.name(index)).read_bytes()
            assert (frame.pose is None) == (layout == "folder")


def test_frames_are_pairs_in_the_order_of_their_numbers(views, tmp_path):
    path = write_scene(tmp_path / "scene", views * 3, "exported")
    (path / "depth" / "5.png").unlink()
    (path / "color" / "7.jpg").unlink()
    (path / "color" / "notes.txt").touch()
    with open_scene(path) as scene:
        assert [scene.name(index) for index in range(len(scene))] == [
            f"color/{number}.jpg" for number in range(12) if number not in (5, 7)
        ]


def test_files_of_a_folder_that_cannot_be_used_are_named(views, tmp_path):
    path = write_scene(tmp_path / "scene", views, "exported")
    Image.new("L", DEPTH).save(path / "depth" / "0.png")
    refused(path, "depth/0.png: is no depth map")
    (path / "depth" / "0.png").write_bytes(b"\x89PNG")
    refused(path, "depth/0.png: is not a picture")
    (path / "pose" / "0.txt").write_text("1 2 three")
    refused(path, "pose/0.txt: holds no 3×3 or 4×4 matrix")
    exif = Image.Exif()
    exif[274] = 3
    views[1].colour.save(path / "color" / "1.jpg", exif=exif)
    refused(path, "color/1.jpg: is stored turned", index=1)
    (path / "intrinsic" / "intrinsic_depth.txt").write_bytes(b"\xff\xfe")
    refused(path, "intrinsic/intrinsic_depth.txt: holds no 3×3")


def test_depth_is_metres_and_holes_are_zero(tmp_path):
    values = np.array([[0, 1, 1000], [2500, 65535, 10]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert read_depth(tmp_path / "a.png") == pytest.approx(values / 1000)


# ------------------------------------------------------------------------------------------------------------- cameras

fractions = st.floats(0.45, 0.55)


@given(
    st.integers(200, 2000),
    st.floats(0.5, 2),
    st.floats(0.6, 1.5),
    st.tuples(fractions, fractions),
    st.tuples(fractions, fractions),
    st.floats(0.2, 1.2),
    st.floats(0.8, 1.25),
    st.lists(st.tuples(st.floats(-0.3, 0.3), st.floats(-0.3, 0.3), st.floats(0.1, 10)), min_size=1, max_size=20),
)
def test_what_both_cameras_see_is_found(width, aspect, focal, centre, depth_centre, scale, zoom, seen):
    """Points of the scene lie where the map says, in cameras at one place with resolutions and lenses of their own."""
    height = round(width * aspect)
    depth_size = round(width * scale), round(height * scale)
    colour = Intrinsics(focal * width, focal * width, centre[0] * width, centre[1] * height)
    depth_focal = focal * zoom * depth_size[0]
    depth = Intrinsics(depth_focal, depth_focal, depth_centre[0] * depth_size[0], depth_centre[1] * depth_size[1])
    pixels = register((width, height), depth_size, (colour, depth))
    for x, y, z in seen:
        place = np.array([y / z * colour.fy + colour.cy, x / z * colour.fx + colour.cx])
        expected = np.array([y / z * depth.fy + depth.cy, x / z * depth.fx + depth.cx])
        whole = np.rint(place).astype(int)
        assert (np.abs(pixels(whole[None])[0] - expected) <= 0.5 + 0.5 * max(pixels.scale) + 1e-6).all()


@given(st.integers(1, 8), st.integers(20, 200), st.integers(20, 200), st.data())
def test_without_intrinsics_the_frames_cover_each_other(factor, width, height, data):
    pixels = register((width * factor, height * factor), (width, height), None)
    y, x = data.draw(st.integers(0, height * factor - 1)), data.draw(st.integers(0, width * factor - 1))
    assert (np.abs(pixels(np.array([y, x])) - np.array([y // factor, x // factor])) <= (factor % 2 == 0)).all()
    same = register((width, height), (width, height), None)
    assert same(np.array([height - 1, 0])).tolist() == [height - 1, 0]


@pytest.mark.parametrize(
    ("colour_size", "depth_size", "cameras", "word"),
    [
        ((1296, 968), (480, 640), None, "differ in aspect"),
        ((640, 480), (320, 180), None, "differ in aspect"),
        ((640, 480), (320, 236), None, "differ in aspect"),  # by 1.7 %: something was cut off
        ((640, 480), (320, 244), None, "differ in aspect"),
        # The picture was scaled down, its intrinsics were not.
        ((640, 480), (640, 480), ((1296, 968), (640, 480)), "not those of a picture"),
        ((1296, 968), (320, 240), ((1296, 968), (640, 480)), "not those of a depth map"),
    ],
)
def test_only_maps_that_cannot_belong_are_refused(colour_size, depth_size, cameras, word):
    given_cameras = cameras and (intrinsics(cameras[0]), intrinsics(cameras[1]))
    with pytest.raises(MediaError, match=word):
        register(colour_size, depth_size, given_cameras)


def test_scannet_belongs_together():
    register((1296, 968), (640, 480), (intrinsics((1296, 968)), intrinsics((640, 480))))
    register((1296, 968), (640, 480), None)
    wide = Intrinsics(250, 250, 320, 240)  # the map sees more than the picture
    register((1296, 968), (640, 480), (intrinsics((1296, 968)), wide))
    with pytest.raises(MediaError, match="less than half"):
        register((1296, 968), (640, 480), (Intrinsics(400, 400, 648, 484), intrinsics((640, 480))))
    nan = Intrinsics(float("nan"), 1, 1, 1)
    with pytest.raises(MediaError, match="not those of a picture"):
        register((1296, 968), (640, 480), (nan, intrinsics((640, 480))))


@pytest.mark.parametrize("text", ["", "1 2 3", "a " * 16, "1 " * 15, "1 " * 17, "\0"])
def test_text_that_is_no_matrix_is_named(tmp_path, text):
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(MediaError, match="holds no 3×3 or 4×4 matrix") as caught:
        read_matrix(tmp_path / "a.txt")
    assert str(tmp_path / "a.txt") in str(caught.value)
    with pytest.raises(MediaError, match="cannot be read"):
        read_matrix(tmp_path / "none.txt")


def test_matrices_may_hold_infinities(tmp_path):
    (tmp_path / "a.txt").write_text("-inf " * 8 + "nan " * 8)
    assert not np.isfinite(read_matrix(tmp_path / "a.txt")).any()
