"""The video jigsaw: which frames a clip shows, what rows may say, and that pieces, order and answer agree."""

import json
import shutil
from math import inf, nan
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from jigsaw import build_puzzle, cut, plan
from jigsaw.errors import MediaError, RowError
from jigsaw.media import video as media
from jigsaw.media.video import FRAME_NAME, Bounds, extract_frames, probe
from jigsaw.permutation import answer_of
from jigsaw.puzzle import CutOptions, media_specs
from jigsaw.tasks import media_sizes
from jigsaw.tasks.video import clip_indices
from jigsaw.toy.rows import released, video_row
from jigsaw.toy.videos import write_video

SMALL = {"min_pixels": 1, "max_pixels": 56 * 84}
CLIPS, SECONDS, FPS, SIZE = 4, 8, 10, (84, 56)


def make_row(path="film.mp4", clips=CLIPS, grid=None, *, id="a", answer_format="answer_tag", trim=0.05, **struct):
    struct = {"fps": 2.0, **SMALL, **struct}
    return video_row(path, clips, grid, id=id, answer_format=answer_format, trim=trim, struct=struct)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with one film of 80 frames."""
    folder = tmp_path_factory.mktemp("media")
    write_video(folder / "film.mp4", seconds=SECONDS, fps=FPS, size=SIZE)
    return folder


def rules(**changes):
    return {"clips": 6, "trim": 0.05, "fps": 2, "min_frames": 4, "max_frames": 12, **changes}


def test_released_ranges_by_hand():
    # 1003 frames, 4 clips: 1003 mod 40 = 3 are dropped; clips of 250, 25 trimmed at each end leave 200.
    found = clip_indices(1003, 25, **rules(clips=4, trim=None, max_frames=16))
    assert [(clip[0], clip[-1]) for clip in found] == [(28, 227), (278, 477), (528, 727), (778, 977)]
    assert {len(clip) for clip in found} == {16}  # 8 s at 2 fps
    # 59 frames at 10 fps, 2 clips: 19 are dropped, clips of 20, 16 left, 1.6 s: 3.2 frames, so the fewest.
    assert clip_indices(59, 10, **rules(clips=2, trim=None)) == [(21, 26, 31, 36), (41, 46, 51, 56)]
    # A single clip (with tiles) loses no frames at its start.
    assert clip_indices(59, 10, **rules(clips=1, trim=None))[0][::7] == (5, 53)


def test_own_ranges_by_hand():
    # 72 s at 30 fps, 6 clips of 360 frames, 18 trimmed at each end: 324 frames, 10.8 s, so the most.
    found = clip_indices(2160, 30, **rules())
    assert [(clip[0], clip[-1]) for clip in found] == [(18 + 360 * k, 341 + 360 * k) for k in range(6)]
    assert found[0] == (18, 47, 77, 106, 135, 165, 194, 224, 253, 282, 312, 341)
    # 2165: the five that do not divide are dropped from the start.
    assert [clip[0] for clip in clip_indices(2165, 30, **rules())] == [23 + 360 * k for k in range(6)]


@given(st.integers(1, 150), st.integers(2, 12), st.sampled_from([None, 0.0, 0.05, 0.3]))
def test_a_video_has_enough_frames_or_is_refused(frames, clips, trim):
    enough = frames >= (10 if trim is None else 5) * clips
    try:
        found = clip_indices(frames, 10, **rules(clips=clips, trim=trim))
    except ValueError:
        assert not enough
    else:
        assert min(map(len, found)) >= 2
        assert found[-1][-1] < frames


SAMPLINGS = {
    "frames": st.integers(1, 30_000),
    "video_fps": st.sampled_from([5.0, 10.3, 15.0, 24.0, 25.0, 30000 / 1001, 30.0, 60.0]),
    "clips": st.integers(1, 12),
    "fps": st.sampled_from([0.5, 1.0, 2.0, 4.0]),
    "min_frames": st.integers(1, 8),
    "max_frames": st.integers(2, 40),
}


@given(trim=st.sampled_from([None, 0.0, 0.05, 0.1, 0.25, 0.49]), **SAMPLINGS)
def test_frames_of_clips(trim, frames, video_fps, clips, fps, min_frames, max_frames):
    assume(frames >= 200 * clips)
    found = clip_indices(
        frames, video_fps, clips=clips, trim=trim, fps=fps, min_frames=min_frames, max_frames=max_frames
    )
    length = (frames - (frames % (10 * clips if trim is None and clips > 1 else clips))) // clips
    start = frames - clips * length
    trimmed = int((0.1 if trim is None else trim) * length + 1e-6)
    assert len(found) == clips
    assert len({len(clip) for clip in found}) == 1
    count = len(found[0])
    assert count % 2 == 0
    assert 2 <= count <= max_frames
    kept = length - 2 * trimmed
    assert count >= min(min_frames, max_frames - 1, kept - 1)
    assert count <= max(kept / video_fps * fps, min_frames + 1)
    for number, clip in enumerate(found):
        assert list(clip) == sorted(set(clip))
        assert clip[0] == start + number * length + trimmed
        assert clip[-1] == start + (number + 1) * length - trimmed - 1
        gaps = np.diff(clip)
        assert gaps.max() - gaps.min() <= 1
    assert found[-1][-1] < frames


@given(**SAMPLINGS)
def test_sampling_is_that_of_torch(frames, video_fps, clips, fps, min_frames, max_frames):
    """What qwen-vl-utils and the released code do within a clip: round(linspace)."""
    assume(frames >= 20 * clips)
    for clip in clip_indices(
        frames, video_fps, clips=clips, trim=None, fps=fps, min_frames=min_frames, max_frames=max_frames
    ):
        offsets = torch.linspace(0, clip[-1] - clip[0], len(clip)).round().long() + clip[0]
        assert clip == tuple(offsets.tolist())


def test_a_plan_is_text_and_needs_no_file():
    planned = plan(make_row("nowhere/at/all.mp4"), seed=3)
    assert json.loads(json.dumps(planned.messages)) == planned.messages
    assert planned.answer == answer_of(planned.order)
    specs = media_specs(planned.messages)
    assert [spec["clip"] for spec in specs] == list(planned.order)
    texts = [item["text"] for item in planned.messages[0]["content"] if item["type"] == "text"]
    assert "<video>" not in "".join(texts)
    assert texts[0].endswith("Clip 1: ")
    assert planned.grid is None


@pytest.mark.parametrize("answer_format", ["answer_tag", "boxed", "plain"])
@pytest.mark.parametrize("grid", [None, [2, 3], [1, 2]])
def test_the_prompt_asks_for_as_many_numbers_as_there_are_pieces(grid, answer_format):
    k = CLIPS * (grid[0] * grid[1] if grid else 1)
    planned = plan(make_row(grid=grid, answer_format=answer_format))
    text = planned.messages[0]["content"][-1]["text"]
    assert len(planned.order) == k
    assert f"{k} numbers" in text
    assert ", ".join(str(number) for number in range(k, 0, -1)) in text


def test_the_order_follows_from_seed_id_and_epoch():
    base = plan(make_row(clips=8)).order
    assert plan(make_row("other.mp4", clips=8)).order == base
    others = [
        plan(make_row(clips=8), seed=1),
        plan(make_row(clips=8), epoch=1),
        plan(make_row(clips=8, id="b")),
    ]
    assert len({base, *(other.order for other in others)}) == 4


def test_pieces_put_back_by_the_answer_are_in_time(root):
    for epoch in range(3):
        puzzle = build_puzzle(make_row(), root, epoch=epoch)
        by_time = [puzzle.pieces[place - 1] for place in puzzle.answer]
        expected = clip_indices(SECONDS * FPS, FPS, **rules(clips=CLIPS))
        assert [clip.indices for clip in by_time] == expected
        assert puzzle.media == puzzle.pieces
        for clip in puzzle.pieces:
            assert clip.frames.dtype == torch.uint8
            assert clip.frames.shape == (len(clip.indices), 3, 56, 84)
            assert clip.fps == pytest.approx(4 / 1.8)  # 20 frames less one at each end
        videos = [item["video"] for item in puzzle.messages[0]["content"] if item["type"] == "video"]
        assert all(a is b for a, b in zip(videos, puzzle.media, strict=True))


def test_the_same_seed_gives_the_same_puzzle(root):
    puzzle, again = build_puzzle(make_row(), root, seed=5), cut(plan(make_row(), seed=5), root)
    assert puzzle.order == again.order
    assert all(torch.equal(a.frames, b.frames) for a, b in zip(puzzle.pieces, again.pieces, strict=True))


def test_a_released_row_goes_by_its_own_trim(root):
    row = {**released(make_row(clip_order=[2, 0, 1, 3])), "extra_info": {"id": "a"}}
    puzzle = build_puzzle(row, root)
    by_time = [puzzle.pieces[place - 1] for place in puzzle.answer]
    assert [clip.indices for clip in by_time] == clip_indices(80, 10, **rules(clips=4, trim=None, min_frames=2))
    # The number of clips may follow from the order alone; its values play no part.
    assert plan({**row, "videos": [{**row["videos"][0], "jigsaw_clip_num": None}]}).order == puzzle.order


@pytest.mark.parametrize(("trim", "most"), [(0.05, 12), (None, 16)])
def test_what_a_row_leaves_out(trim, most):
    row = make_row(trim=trim, fps=None, min_pixels=None, max_pixels=None)
    spec = media_specs(plan(row).messages)[0]
    assert (spec["fps"], spec["max_frames"], spec["min_pixels"], spec["max_pixels"]) == (2, most, 100_352, 100_352)
    assert spec["min_frames"] == (4 if trim else 2)


def test_sides_are_multiples_of_the_models_factor(root):
    for factor in (14, 28, 32):
        (height, width), *others = {
            tuple(clip.frames.shape[2:])
            for clip in build_puzzle(make_row(max_pixels=9000), root, options=CutOptions(factor=factor)).pieces
        }
        assert not others
        assert height % factor == width % factor == 0
        assert height * width <= 9000


def test_a_film_is_read_once_however_many_pieces_show_it(root, monkeypatch):
    opened = []
    frames = media._frames
    monkeypatch.setattr(media, "_frames", lambda path, *args: opened.append(path) or frames(path, *args))
    build_puzzle(make_row(grid=[2, 3]), root)
    assert len(opened) == 1


@pytest.mark.parametrize("grid", [[2, 3], [1, 2], [2, 1]])
def test_tiles_put_back_give_the_clips(root, grid):
    rows, columns = grid
    clips = build_puzzle(make_row(), root)
    whole = [clips.pieces[place - 1] for place in clips.answer]
    puzzle = build_puzzle(make_row(grid=grid), root)
    pieces = [puzzle.pieces[place - 1] for place in puzzle.answer]
    assert len(pieces) == CLIPS * rows * columns
    assert len({piece.frames.shape for piece in pieces}) == 1
    height, width = pieces[0].frames.shape[2:]
    assert height % 28 == width % 28 == 0
    for number, clip in enumerate(whole):
        tiles = pieces[number * rows * columns : (number + 1) * rows * columns]
        assert {tile.indices for tile in tiles} == {clip.indices}
        lines = [torch.cat([tile.frames for tile in tiles[r * columns : (r + 1) * columns]], 3) for r in range(rows)]
        picture = torch.cat(lines, 2)
        # What does not divide is left out at the edges, half on each side.
        y, x = ((a - b) // 2 for a, b in zip(clip.frames.shape[2:], picture.shape[2:], strict=True))
        assert torch.equal(picture, clip.frames[:, :, y : y + picture.shape[2], x : x + picture.shape[3]])
    # A piece does not carry its clip along when it travels.
    assert all(piece.frames.untyped_storage().nbytes() == piece.frames.numel() for piece in pieces)


def test_a_grid_too_fine_for_the_pixels_is_named(root):
    with pytest.raises(MediaError, match=r"film\.mp4: frames of 84×56 pixels cannot be cut into 3 rows and 1 columns"):
        build_puzzle(make_row(grid=[3, 1]), root)


@pytest.fixture(scope="module")
def extracted(root):
    """The struct of a row whose frames lie in a folder."""
    info = probe(root / "film.mp4")
    wanted = clip_indices(info.frames, info.fps, **rules(clips=CLIPS))
    extract_frames(root / "film.mp4", wanted, info, root / "frames" / "film", bounds=Bounds(28, 1, SMALL["max_pixels"]))
    return {"path": "frames/film", "frames": [list(clip) for clip in wanted], "source_fps": info.fps}


@pytest.mark.parametrize("grid", [None, [1, 3]])
def test_extracted_frames_stand_in_for_the_film(root, extracted, grid, tmp_path):
    expected = build_puzzle(make_row(grid=grid), root)
    (tmp_path / "frames").symlink_to(root / "frames" / "film")  # the frames alone, no film
    with pytest.raises(MediaError, match="leaves the media root"):
        build_puzzle(make_row(**{**extracted, "path": "frames"}), tmp_path)
    puzzle = build_puzzle(make_row(grid=grid, **extracted), root)
    assert puzzle.order == expected.order
    for ours, theirs in zip(puzzle.pieces, expected.pieces, strict=True):
        assert (ours.indices, ours.fps) == (theirs.indices, theirs.fps)
        assert ours.frames.shape == theirs.frames.shape
        error = (ours.frames.double() - theirs.frames.double()).square().mean()
        assert 10 * torch.log10(255**2 / error) > 38


@pytest.mark.parametrize("grid", [None, [1, 3], [2, 1]])
def test_sizes_are_those_of_the_pieces(root, extracted, grid):
    for struct in ({}, extracted, {"max_pixels": 9000}, {"fps": 1.0, "fps_min_frames": 2}):
        puzzle = build_puzzle(make_row(grid=grid, **struct), root)
        shapes = [piece.frames.shape for piece in puzzle.pieces]
        sizes = media_sizes(plan(make_row(grid=grid, **struct)).messages, root)
        assert sizes == [(width, height, frames) for frames, _, height, width in shapes]


def test_extracted_frames_of_two_sizes_are_named_by_their_headers(root, extracted, tmp_path):
    shutil.copytree(root / "frames", tmp_path / "frames")
    last = tmp_path / "frames/film" / FRAME_NAME.format(extracted["frames"][-1][-1])
    Image.new("RGB", (28, 28)).save(last)
    with pytest.raises(MediaError, match=rf"{last.name}: is of another size than the frames before it"):
        media_sizes(plan(make_row(**extracted)).messages, tmp_path)


@pytest.mark.parametrize("limits", [{"min_pixels": 2 * 10**9, "max_pixels": 2 * 10**9}, {"min_pixels": 10**8}])
def test_a_row_that_asks_for_more_memory_than_a_puzzle_may_take_is_named(root, extracted, limits):
    """Before a frame is decoded; such a row took the machine with it, or died of an error of torch's."""
    limits = {"max_pixels": 2 * 10**9, **limits}
    with pytest.raises(MediaError, match=r"film\.mp4: its frames take too much memory \(\d+ of .*; lower its"):
        build_puzzle(make_row(**limits), root)
    build_puzzle(make_row(**extracted, **limits), root)  # frames of the right sides are shown as they are


def test_memory_that_torch_does_not_get_is_no_fault_of_the_file(root):
    film = root / "film.mp4"
    with pytest.raises(MemoryError):
        media.read_clips(film, [[0, 1]], media.probe(film), bounds=Bounds(28, 10**13, 10**13))


def test_an_extracted_frame_that_is_gone_is_named(root, extracted, tmp_path):
    first = FRAME_NAME.format(extracted["frames"][0][0])
    (tmp_path / "frames").mkdir()
    with pytest.raises(MediaError, match=rf"frames/film/\d+\.jpg: no such file below the media root {tmp_path}"):
        build_puzzle(make_row(**extracted), tmp_path)
    assert Path(root, "frames/film", first).is_file()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        *(({"videos": videos}, "videos is ") for videos in ([], [None], ["a.mp4"], {"path": "a.mp4"}, 3)),
        *(({"path": path}, r"videos\[0\].path is ") for path in (None, "", 3, ["a.mp4", "b.mp4"])),
        *(({"jigsaw_clip_num": n}, r"videos\[0\].jigsaw_clip_num is ") for n in (None, 0, 1, -6, 2.5, "6", [])),
        *(({"jigsaw_clip_num": n}, rf"must hold {n} <video> marks") for n in (5, 2**40)),
        ({"clip_order": [1, 2, 3]}, r"videos\[0\].clip_order has 3 entries; 4 clips of 1 tiles make 4"),
        ({"clip_order": 4}, r"videos\[0\].clip_order is 4"),
        *(
            ({"spatial_jigsaw_grid_config": grid}, r"videos\[0\].spatial_jigsaw_grid_config is ")
            for grid in ([2], [0, 2], "22", 4, [None, 2], [-1, -2])
        ),
        *(({"fps": fps}, r"videos\[0\].fps is ") for fps in (0, -1, nan, inf, "2", [])),
        *(({"fps_max_frames": most}, r"videos\[0\].fps_max_frames is ") for most in (1, 0, 2.5, "12", nan)),
        *(({"fps_min_frames": least}, r"videos\[0\].fps_min_frames is ") for least in (0, "4", [4])),
        *(({name: 0}, rf"videos\[0\].{name} is ") for name in ("min_pixels", "max_pixels")),
        ({"min_pixels": 101, "max_pixels": 100}, r"videos\[0\].min_pixels is 101, above max_pixels, 100"),
        *(
            ({"frames": frames}, r"videos\[0\].frames is ")
            for frames in (
                *([], [[1, 2]] * 3, [[1, 2], [3, 4], [5, 6], [7]], [[0], [1], [2], [3]], [[], [], [], []], "abcd"),
                *([None] * 4, [[1, 2], [3, 4], [5, 6], [6, 7]], [[-1, 2], [3, 4], [5, 6], [7, 8]], [[1.5, 2]] * 4, 9),
            )
        ),
        ({"frames": [[0, 1], [2, 3], [4, 5], [6, 7]]}, r"videos\[0\].source_fps is None"),
        *(({"trim": trim}, "extra_info.trim is ") for trim in (0.5, -0.1, "0.05", nan, True)),
        ({"data_source": "geometry"}, "data_source 'geometry'"),
        ({"prompt": [{"role": "user", "content": "<image>" * CLIPS}]}, "4 <video> marks"),
    ],
)
def test_a_hostile_row_is_one_short_line(change, named):
    row = make_row(**{key: value for key, value in change.items() if key not in ("videos", "data_source", "prompt")})
    row |= {key: value for key, value in change.items() if key in ("videos", "data_source", "prompt")}
    if "jigsaw_clip_num" in change:
        row["videos"][0]["jigsaw_clip_num"] = change["jigsaw_clip_num"]
    with pytest.raises(RowError, match=rf"^row a: .*{named}") as caught:
        plan(row)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_video_too_short_for_its_clips_is_named(tmp_path):
    write_video(tmp_path / "short.mp4", seconds=0.5, fps=10)
    with pytest.raises(MediaError, match=r"short\.mp4: 5 frames are too few for 4 clips"):
        build_puzzle(make_row("short.mp4"), tmp_path)


@pytest.mark.parametrize("content", [b"", b"no film " * 999])
def test_a_file_that_is_no_video_is_named(tmp_path, content):
    (tmp_path / "film.mp4").write_bytes(content)
    with pytest.raises(MediaError, match=r"film\.mp4: cannot be read as a video") as caught:
        build_puzzle(make_row(), tmp_path)
    assert "\n" not in str(caught.value)
