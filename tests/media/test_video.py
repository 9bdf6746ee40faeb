"""Videos of every kind give the frames that a player shows, or one line that names the file."""

import struct
from fractions import Fraction
from itertools import combinations

import av
import numpy as np
import pytest
import torch
from PIL import Image

from jigsaw.errors import JigsawError, MediaError
from jigsaw.media import video as media
from jigsaw.media.video import FRAME_NAME, Bounds, extract_frames, probe, read_clips, read_extracted
from jigsaw.toy.videos import Film, write_video, write_videos

FRAMES, SIZE, FPS = 60, (64, 48), 10
AS_IS = Bounds(factor=1, min_pixels=1, max_pixels=10**6)
TIMELESS = "avi without times"
WANTED = ((1, 8, 15, 22), (29, 36, 43, 59))


def encode(path, frames=None, codec="libx264", pix_fmt="yuv420p", times=None, shift=0, **options):
    """Encode RGB frames; ``times`` are theirs in ms, ``shift`` frames at the start are hidden by an edit list."""
    if frames is None:
        film = Film(FRAMES, SIZE)
        frames = [film[index] for index in range(FRAMES)]
    with av.open(str(path), "w", options={"avoid_negative_ts": "disabled"} if shift else {}) as container:
        stream = container.add_stream(codec, rate=FPS, options={"threads": "1", **options})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pix_fmt
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)

        def write(packets):
            for packet in packets:
                hidden = round(shift / FPS / packet.time_base)
                packet.pts, packet.dts = packet.pts - hidden, packet.dts - hidden
                container.mux(packet)

        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[index], Fraction(1, 1000)
            write(stream.encode(frame))
        write(stream.encode())
    return path


def turned(source, path, how):
    """A copy of an MP4 that asks to be shown turned clockwise by degrees, or mirrored, as phones write it."""
    data = bytearray(source.read_bytes())
    matrix = data.index(b"tkhd") + 44
    entries = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0), "mirrored": (-1, 0, 0, 1)}[how]
    a, b, c, d = (entry << 16 for entry in entries)
    data[matrix : matrix + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def fast_start(source, path):
    """A copy with its header in front, so that it opens wherever it is cut off."""
    options = {"movflags": "faststart"} if path.suffix == ".mp4" else {}
    with av.open(str(source)) as given, av.open(str(path), "w", options=options) as container:
        stream = container.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)
    return path


def all_frames(path):
    """Every frame in order, read one after the other: (T, H, W, C)."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def channels_last(clip):
    return clip.frames.permute(0, 2, 3, 1).numpy()


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """A file of each kind, by name."""
    folder = tmp_path_factory.mktemp("films")
    odd = Film(FRAMES, (65, 47))
    odd_frames = [odd[index] for index in range(FRAMES)]
    times = np.random.default_rng(0).integers(20, 180, FRAMES).cumsum().tolist()
    longer = [Film(72, SIZE)[index] for index in range(72)]
    bframes = {"bf": "3", "g": "12"}
    found = {
        "h264": encode(folder / "h264.mp4", **bframes),
        "open": encode(folder / "open.mp4", **{"x264opts": "open-gop=1:keyint=12:bframes=3"}),
        "hevc": encode(folder / "hevc.mp4", codec="libx265", **{"x265-params": "keyint=12:log-level=none"}),
        "mpeg4": encode(folder / "mpeg4.mp4", codec="mpeg4", bf="2"),
        "avi": encode(folder / "old.avi", codec="mpeg4"),
        TIMELESS: encode(folder / "h264.avi", bf="3"),
        "webm": encode(folder / "vp8.webm", codec="libvpx", deadline="realtime"),
        "matroska": encode(folder / "h264.mkv", **bframes),
        "transport stream": encode(folder / "h264.ts", **bframes),
        "odd": encode(folder / "odd.mp4", odd_frames, pix_fmt="yuv444p"),
        "odd 4:2:0": encode(folder / "odd420.mp4", odd_frames, codec="mpeg4"),
        "uneven": encode(folder / "uneven.mp4", times=times),
        "uneven matroska": encode(folder / "uneven.mkv", times=times),
        "edited": encode(folder / "edited.mp4", longer, shift=12, **bframes),
        "edited between": encode(folder / "between.mp4", longer[:65], shift=5, **bframes),
        "ünïcode " + "x" * 60: encode(folder / f"ünïcode {'x' * 60}.mp4"),
    }
    for degrees in (90, 180, 270):
        found[f"turned {degrees}"] = turned(found["h264"], folder / f"turned{degrees}.mp4", degrees)
    return found


KINDS = [
    *(
        "h264",
        "open",
        "hevc",
        "mpeg4",
        "avi",
        TIMELESS,
        "webm",
        "matroska",
        "transport stream",
        "odd",
        "odd 4:2:0",
        "uneven",
        "uneven matroska",
    ),
    *("edited", "edited between", "ünïcode " + "x" * 60, "turned 90", "turned 180", "turned 270"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_frames_are_those_of_reading_the_whole_file(films, kind):
    expected = all_frames(films[kind])
    if kind.startswith("turned"):
        expected = np.rot90(expected, -int(kind.split()[1]) // 90, axes=(1, 2))
    info = probe(films[kind])
    assert info.frames == len(expected) == FRAMES
    assert (info.height, info.width) == expected.shape[1:3]
    clips = read_clips(films[kind], WANTED, info, bounds=AS_IS)
    for clip, indices in zip(clips, WANTED, strict=True):
        assert clip.indices == indices
        assert clip.frames.dtype == torch.uint8
        assert np.array_equal(channels_last(clip), expected[list(indices)])


@pytest.mark.parametrize("kind", ["h264", "transport stream", "uneven matroska", "edited"])
def test_a_file_is_decoded_in_one_pass_without_seeks(films, monkeypatch, kind):
    opened, read = [], []
    whole, decoded = av.open, media._decoded
    monkeypatch.setattr(av, "open", lambda *args, **options: opened.append(args) or whole(*args, **options))
    monkeypatch.setattr(media, "_decoded", lambda *args: (read.append(frame.pts) or frame for frame in decoded(*args)))
    overlapping = (WANTED[0], WANTED[0], WANTED[1][:2])
    info = probe(films[kind])
    assert not read
    read_clips(films[kind], overlapping, info, bounds=AS_IS)
    assert len(opened) == 2  # once for the packets
    assert tuple(read) == info.times[: WANTED[1][1] + 1]  # no further than need be


def test_a_mirrored_video_is_shown_mirrored(films, tmp_path):
    path = turned(films["h264"], tmp_path / "mirrored.mp4", "mirrored")
    (clip,) = read_clips(path, WANTED[:1], probe(path), bounds=AS_IS)
    assert np.array_equal(channels_last(clip), all_frames(path)[list(WANTED[0])][:, :, ::-1])


@pytest.mark.parametrize(("matrix", "red", "blue"), [(1, 0.2126, 0.0722), (6, 0.299, 0.114)])  # BT.709, BT.601
@pytest.mark.parametrize("full", [False, True])
def test_colours_are_those_that_the_file_says(tmp_path, matrix, red, blue, full):
    y, u, v = 120, 90, 160
    with av.open(str(tmp_path / "film.webm"), "w") as container:
        stream = container.add_stream("libvpx-vp9", rate=FPS, options={"lossless": "1", "cpu-used": "8"})
        (stream.width, stream.height), stream.pix_fmt = SIZE, "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, 2 if full else 1
        planes = np.concatenate([np.full(n, value, np.uint8) for n, value in ((3072, y), (768, u), (768, v))])
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(planes.reshape(72, 64), format="yuv420p")
            frame.colorspace, frame.color_range = matrix, 2 if full else 1
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    luma, chroma = (y, 1 / 255) if full else ((y - 16) * 255 / 219, 1 / 224)
    r = luma + 255 * chroma * 2 * (1 - red) * (v - 128)
    b = luma + 255 * chroma * 2 * (1 - blue) * (u - 128)
    g = (luma - red * r - blue * b) / (1 - red - blue)
    (clip,) = read_clips(tmp_path / "film.webm", [(0, 1)], probe(tmp_path / "film.webm"), bounds=AS_IS)
    assert np.abs(channels_last(clip) - np.array([r, g, b])).max() < 2


@pytest.mark.parametrize("kind", ["h264", "avi", "webm", "matroska", "edited"])
def test_rate_and_length(films, kind):
    info = probe(films[kind])
    assert info.fps == pytest.approx(FPS, rel=1e-3)
    assert info.duration == pytest.approx(FRAMES / FPS, rel=1e-3)


@pytest.mark.parametrize("kind", ["uneven", "uneven matroska"])
def test_rate_of_a_video_whose_rate_varies_is_its_average(films, kind):
    with av.open(str(films[kind])) as container:
        times = [frame.time for frame in container.decode(video=0)]
    assert probe(films[kind]).fps == pytest.approx((FRAMES - 1) / (times[-1] - times[0]), rel=0.01)


def test_rate_of_a_clip_counts_the_time_that_its_frames_stand_for(films):
    clip, other = read_clips(films["h264"], ((0, 3, 6, 9), (20, 59)), probe(films["h264"]), bounds=AS_IS)
    assert clip.fps == 4  # 4 frames of a second's 10
    assert other.fps == 0.5


@pytest.mark.e2e  # for the library, which takes seconds to import
def test_frames_are_scaled_as_qwen_vl_utils_scales_them(films):
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.functional import resize

    bounds = Bounds(factor=14, min_pixels=1, max_pixels=40 * 40)
    (scaled,) = read_clips(films["h264"], WANTED[:1], probe(films["h264"]), bounds=bounds)
    whole = torch.from_numpy(all_frames(films["h264"])[list(WANTED[0])]).permute(0, 3, 1, 2)
    expected = resize(whole, [28, 42], interpolation=InterpolationMode.BICUBIC, antialias=True)
    assert scaled.frames.shape == (4, 3, 28, 42)
    apart = (scaled.frames.int() - expected.int()).abs()
    assert apart.float().mean() < 0.5
    assert apart.max() <= 8  # shades, where the curve overshoots black or white
    assert scaled.frames.is_contiguous()


def test_small_frames_are_scaled_up_to_the_least_pixels(films):
    bounds = Bounds(factor=28, min_pixels=100_352, max_pixels=200_000)
    (scaled,) = read_clips(films["h264"], ((0, 1),), probe(films["h264"]), bounds=bounds)
    height, width = scaled.frames.shape[2:]
    assert 100_352 <= height * width <= 200_000
    assert height % 28 == width % 28 == 0


@pytest.fixture(scope="module")
def bad_files(films, tmp_path_factory):
    """Files that are no videos, by name; ``read`` ones open and fail at their frames."""
    folder = tmp_path_factory.mktemp("bad")
    data = films["h264"].read_bytes()
    front = fast_start(films["h264"], folder / "front.mp4").read_bytes()
    matroska = films["matroska"].read_bytes()
    garbled = bytearray(front)
    late = len(garbled) * 3 // 4
    garbled[late : late + 4000] = np.random.default_rng(0).bytes(4000)
    contents = {
        "empty.mp4": b"",
        "text.mp4": b"hello " * 999,
        "no_header.mp4": data[: len(data) // 2],
        "half.mp4": front[: len(front) // 2],
        "header.mp4": front[: front.index(b"mdat") + 9],
        "half.mkv": matroska[: len(matroska) // 4],
        "garbled.mp4": bytes(garbled),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    Image.new("RGB", SIZE).save(folder / "picture.jpg")
    (folder / "picture.jpg").rename(folder / "picture.mp4")
    with av.open(str(folder / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        for number in range(20):
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            sound.sample_rate, sound.pts = 44100, 1024 * number
            container.mux(stream.encode(sound))
        container.mux(stream.encode())
    for name in ("no_frames.avi", "no_frames.mkv"):
        with av.open(str(folder / name), "w") as container:
            stream = container.add_stream("mpeg4", rate=FPS)
            stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
            container.start_encoding()
    (folder / "folder.mp4").mkdir()
    return folder


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("empty.mp4", "cannot be read as a video"),
        ("text.mp4", "cannot be read as a video"),
        ("no_header.mp4", "cannot be read as a video"),
        ("header.mp4", "holds no frames"),
        ("half.mp4", "cannot be read as a video"),
        ("half.mkv", "ends after"),
        ("picture.mp4", "cannot be read as a video"),
        ("sound.mp4", "holds no video"),
        ("no_frames.avi", "holds no frames"),
        ("no_frames.mkv", "cannot be read as a video"),
        ("folder.mp4", "cannot be read as a video"),
        ("missing.mp4", "No such file"),
    ],
)
def test_a_file_that_is_no_video_is_named(bad_files, name, words):
    with pytest.raises(MediaError, match=words) as caught:
        probe(bad_files / name)
    assert str(caught.value).startswith(f"{bad_files / name}: ")
    assert "\n" not in str(caught.value)


def test_damage_inside_is_found_when_its_frames_are_read(bad_files):
    path = bad_files / "garbled.mp4"
    info = probe(path)
    assert info.frames == FRAMES
    with pytest.raises(MediaError, match=r"garbled\.mp4: (cannot be read as a video|frame \d+ is damaged)") as caught:
        read_clips(path, WANTED, info, bounds=AS_IS)
    assert "\n" not in str(caught.value)


def test_frames_behind_the_end_are_an_error(films):
    with pytest.raises(MediaError, match=r"h264\.mp4: ends before frame 60"):
        read_clips(films["h264"], ((0, FRAMES),), probe(films["h264"]), bounds=AS_IS)


def test_a_size_that_cannot_be_is_an_error(films, tmp_path):
    with pytest.raises(MediaError, match=r"h264\.mp4: 64×48 pixels cannot be scaled to 300 or fewer"):
        read_clips(films["h264"], WANTED, probe(films["h264"]), bounds=Bounds(28, 1, 300))
    ribbon = encode(tmp_path / "ribbon.mp4", [np.zeros((4, 1000, 3), np.uint8)] * 4)
    with pytest.raises(MediaError, match=r"ribbon\.mp4: 1000×4 pixels are too narrow"):
        read_clips(ribbon, ((0, 1),), probe(ribbon), bounds=Bounds(28, 1, 10**5))


def psnr(a, b):
    return float(10 * torch.log10(255**2 / (a.double() - b.double()).square().mean()))


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("large") / "large.mp4", seconds=2, fps=FPS, size=(320, 240))


def test_extracted_frames_are_those_of_the_video(large, tmp_path):
    bounds = Bounds(28, 1, 128 * 28 * 28 // 4)
    wanted = ((0, 2, 4, 6), (10, 12, 14, 19))
    folder = tmp_path / "deep" / "film"
    info = probe(large)
    extract_frames(large, wanted, info, folder, bounds=bounds)
    assert sorted(path.name for path in folder.iterdir()) == sorted(FRAME_NAME.format(i) for i in sum(wanted, ()))
    for clip in read_clips(large, wanted, info, bounds=bounds):
        paths = [folder / FRAME_NAME.format(index) for index in clip.indices]
        again = read_extracted(paths, clip.indices, fps=FPS, bounds=bounds)
        assert (again.indices, again.fps) == (clip.indices, clip.fps)
        assert again.frames.shape == clip.frames.shape
        assert min(psnr(a, b) for a, b in zip(again.frames, clip.frames, strict=True)) > 38
        for factor in (28, 32):  # another model's
            sized = read_extracted(paths, clip.indices, fps=FPS, bounds=Bounds(factor, 1, 128 * 28 * 28 // 4))
            assert sized.frames.shape[2] % factor == sized.frames.shape[3] % factor == 0


def test_extraction_replaces_a_folder_or_leaves_it(large, tmp_path, monkeypatch):
    folder = tmp_path / "film"
    info = probe(large)
    extract_frames(large, ((0, 1),), info, folder, bounds=AS_IS)
    extract_frames(large, ((2, 3),), info, folder, bounds=AS_IS)
    kept = ["000002.jpg", "000003.jpg"]
    assert sorted(path.name for path in folder.iterdir()) == kept
    with pytest.raises(MediaError):
        extract_frames(large, ((4, 999),), info, folder, bounds=AS_IS)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(JigsawError, match=r"film: cannot be written \(No space left on device\)") as caught:
        extract_frames(large, ((4, 5),), info, folder, bounds=AS_IS)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in folder.iterdir()) == kept


def test_an_extracted_frame_of_another_size_or_kind_is_named(tmp_path):
    Image.new("RGB", (56, 28)).save(tmp_path / "a.jpg")
    Image.new("RGB", (28, 28)).save(tmp_path / "b.jpg")
    (tmp_path / "c.jpg").write_bytes(b"no picture")
    with pytest.raises(MediaError, match=r"b\.jpg: is of another size"):
        read_extracted([tmp_path / "a.jpg", tmp_path / "b.jpg"], (0, 1), fps=FPS, bounds=Bounds(28, 1, 9999))
    with pytest.raises(MediaError, match=r"c\.jpg: is not a picture"):
        read_extracted([tmp_path / "c.jpg"] * 2, (0, 1), fps=FPS, bounds=Bounds(28, 1, 9999))


def test_toy_videos_are_the_same_in_every_run_and_no_two_frames_are_alike(tmp_path):
    first = write_videos(tmp_path / "a", 2, seed=3, seconds=1)
    again = write_videos(tmp_path / "b", 2, seed=3, seconds=1)
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]
    assert first[0].read_bytes() != first[1].read_bytes()
    frames = all_frames(first[0]).astype(int)
    assert frames.shape == (30, 48, 64, 3)
    assert min(np.abs(a - b).mean() for a, b in combinations(frames, 2)) > 1


@pytest.mark.parametrize("name", ["list.m3u8", "list.mp4", "list.ffconcat", "list.mpd", "list.sdp"])
def test_a_playlist_is_no_video_whatever_it_names(tmp_path, name):
    """FFmpeg would follow it to any file that this process may read."""
    secret = write_video(tmp_path / "secret.ts", seconds=2)
    parts = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:2.0,\n{}\n#EXT-X-ENDLIST\n"
    concat = "ffconcat version 1.0\nfile {}\n"
    (tmp_path / name).write_text((concat if "concat" in name else parts).format(secret))
    with pytest.raises(MediaError, match="cannot be read as a video"):
        probe(tmp_path / name)


@pytest.mark.parametrize("suffix", ["flv", "mpg", "ts", "mkv", "avi", "wmv", "3gp", "mov"])
def test_formats_that_people_have_are_read(tmp_path, suffix):
    assert probe(write_video(tmp_path / f"film.{suffix}", seconds=2, fps=8)).frames == 16
