"""Every frame of a video is the one that was filmed, or the file is refused: containers, codecs, orders, times, cuts.

Each frame of these films shows its own number, so that it can be told from its pixels alone.
"""

import zlib
from fractions import Fraction

import av
import numpy as np
import pytest

from jigsaw.errors import MediaError
from jigsaw.media.video import Bounds, probe, read_clips

pytestmark = pytest.mark.e2e

FRAMES, FPS, BLOCK = 72, 25, 16
AS_IS = Bounds(factor=1, min_pixels=1, max_pixels=10**6)

X264 = {"preset": "veryfast", "sc_threshold": "0"}
MPEG = {"sc_threshold": "1000000000"}  # no key frame but those that are asked for
ORDERS = {
    "libx264": {
        "intra": {**X264, "g": "1"},
        "without B": {**X264, "g": "12", "bf": "0"},
        "closed": {**X264, "g": "12", "bf": "3"},
        "open": {**X264, "x264opts": "open-gop=1:keyint=12:min-keyint=12:bframes=3"},
        "long": {**X264, "g": "250", "bf": "3"},
        "refreshed": {**X264, "x264opts": "intra-refresh=1:keyint=12:bframes=0"},
    },
    "libx265": {
        "closed": {"x265-params": "keyint=12:min-keyint=12:open-gop=0:log-level=none"},
        "open": {"x265-params": "keyint=12:min-keyint=12:open-gop=1:log-level=none"},
        "long": {"x265-params": "keyint=250:log-level=none"},
    },
    "mpeg2video": {
        "intra": {**MPEG, "g": "1"},
        "closed": {**MPEG, "g": "12", "bf": "2", "flags": "+cgop"},
        "open": {**MPEG, "g": "12", "bf": "2"},
    },
    "mpeg1video": {"open": {**MPEG, "g": "12", "bf": "2"}},
    "mpeg4": {
        "intra": {**MPEG, "g": "1"},
        "without B": {**MPEG, "g": "12"},
        "open": {**MPEG, "g": "12", "bf": "2"},
        "long": {**MPEG, "g": "250", "bf": "2"},
    },
    "libvpx": {"closed": {"deadline": "realtime", "cpu-used": "8", "g": "12"}},
    "libvpx-vp9": {
        "closed": {"deadline": "realtime", "cpu-used": "8", "g": "12"},
        "hidden": {"deadline": "good", "cpu-used": "8", "g": "36", "auto-alt-ref": "1", "lag-in-frames": "16"},
    },
    "libaom-av1": {"closed": {"usage": "realtime", "cpu-used": "8", "g": "12"}},
    "mjpeg": {"intra": {}},
    "wmv2": {"without B": {**MPEG, "g": "12"}},
    "msmpeg4": {"without B": {**MPEG, "g": "12"}},
    "flv": {"without B": {**MPEG, "g": "12"}},
    "prores_ks": {"intra": {}},
}
CONTAINERS = {
    "libx264": ("mp4", "mov", "m4v", "3gp", "mkv", "avi", "flv", "ts", "m2ts", "mpg", "asf"),
    "libx265": ("mp4", "mkv", "ts"),
    "mpeg2video": ("mpg", "vob", "m2v", "ts", "mkv", "mp4", "avi"),
    "mpeg1video": ("mpg", "mkv"),
    "mpeg4": ("mp4", "3gp", "avi", "mkv", "ts"),
    "libvpx": ("webm", "mkv", "avi", "ogv"),
    "libvpx-vp9": ("webm", "mp4"),
    "libaom-av1": ("mp4", "webm"),
    "mjpeg": ("avi", "mov", "mkv"),
    "wmv2": ("wmv", "asf", "avi"),
    "msmpeg4": ("avi", "wmv"),
    "flv": ("flv",),
    "prores_ks": ("mov",),
}
FORMATS = {"m2ts": "mpegts", "m4v": "mp4", "ogv": "ogg"}
TIMES = ("from zero", "from 7 s", "before zero", "uneven")
TIMELESS = ("mpg", "vob", "m2v", "avi", "ogv")  # what their muxers make of times is no matter of ours


def paint(number):
    """(H, W, RGB): eight blocks, one a bit."""
    bits = (number >> np.arange(8) & 1).reshape(2, 4)
    grey = (20 + 215 * bits).astype(np.uint8).repeat(BLOCK, 0).repeat(BLOCK, 1)
    return np.repeat(grey[:, :, None], 3, 2)


def number(pixels):
    """The number of a painted frame, (H, W, RGB)."""
    middles = pixels.reshape(2, BLOCK, 4, BLOCK, 3)[:, 4:-4, :, 4:-4].mean((1, 3, 4))
    return int((1 << np.arange(8)) @ (middles.ravel() > 128))


def film(path, codec, order, times="from zero", frames=FRAMES):
    """Film the numbers from 0 on."""
    start = {"from 7 s": 7 * FPS, "before zero": -5}.get(times, 0)
    options = {"avoid_negative_ts": "disabled"} if times == "before zero" else {}
    gaps = np.random.default_rng(0).integers(1, 6, frames).cumsum().tolist()
    with av.open(str(path), "w", format=FORMATS.get(path.suffix[1:]), options=options) as container:
        stream = container.add_stream(codec, rate=FPS, options={"threads": "1", **ORDERS[codec][order]})
        stream.width, stream.height = 4 * BLOCK, 2 * BLOCK
        stream.pix_fmt = {"mjpeg": "yuvj420p", "prores_ks": "yuv422p10le"}.get(codec, "yuv420p")
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(paint(index), format="rgb24")
            frame.pts, frame.time_base = gaps[index] if times == "uneven" else index + start, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def copy(source, path, change):
    """Copy the packets for which ``change(place, packet)`` gives a packet."""
    with av.open(str(source)) as given, av.open(str(path), "w", format=FORMATS.get(path.suffix[1:])) as container:
        stream = container.add_stream_from_template(given.streams.video[0])
        packets = [packet for packet in given.demux(video=0) if packet.size]
        for packet in filter(None, map(change, range(len(packets)), packets)):
            packet.stream = stream
            container.mux(packet)
    return path


def numbers(path):
    """Of all frames, each read as a clip's."""
    info = probe(path)
    (clip,) = read_clips(path, [range(info.frames)], info, bounds=AS_IS)
    return [number(frame) for frame in clip.frames.permute(0, 2, 3, 1).numpy()]


def shown(path):
    """What a plain loop over PyAV's frames shows."""
    with av.open(str(path)) as container:
        return [number(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


ALL = [
    (codec, container, order, times)
    for codec, containers in CONTAINERS.items()
    for container in containers
    for order in ORDERS[codec]
    for times in TIMES[: 1 if container in TIMELESS else None]
    if not (codec in ("mpeg1video", "mpeg2video", "flv", "msmpeg4") and times == "uneven")  # they know no other rates
]
SLOW = pytest.mark.slow("media")
# Of the many, a third that are spread evenly; all with --slow.
CASES = [
    pytest.param(
        *case, marks=[pytest.mark.slow("media")] * (zlib.crc32(repr(case).encode()) % 3 > 0), id="-".join(case)
    )
    for case in ALL
]


@pytest.mark.parametrize(("codec", "container", "order", "times"), CASES)
def test_every_frame_is_in_its_place(tmp_path, codec, container, order, times):
    path = film(tmp_path / f"film.{container}", codec, order, times)
    assert shown(path) == numbers(path)
    if not (times == "before zero" and container in ("mp4", "mov", "m4v", "3gp")):  # an edit list hides what is before
        assert numbers(path) == list(range(FRAMES))


@pytest.mark.parametrize("order", ["closed", "open", "long"])
@pytest.mark.parametrize("container", ["ts", "m2ts"])
def test_transport_streams(tmp_path, container, order):
    path = film(tmp_path / f"film.{container}", "libx264", order)
    info = probe(path)
    assert numbers(path) == list(range(FRAMES))
    assert info.fps == FPS
    assert info.duration == pytest.approx(FRAMES / FPS)


def vint(value):
    return (1 << 56 | value).to_bytes(8, "big")


def element(data, name, start=0):
    """(place of its id, place of its content, end) of the first EBML element of a name."""
    place = data.index(name, start)
    size = place + len(name)
    length = 9 - data[size].bit_length()
    content = size + length
    return place, content, content + (int.from_bytes(data[size:content], "big") & (1 << 7 * length) - 1)


def test_a_matroska_file_that_does_not_say_when_frames_are_shown(tmp_path):
    """As tracks were written that came from AVI: its blocks tell when frames are decoded."""
    data = film(tmp_path / "film.mkv", "libx264", "closed").read_bytes()
    segment, name = element(data, b"\x18\x53\x80\x67"), b"\x16\x54\xae\x6b"
    tracks = element(data, name, data.index(name) + 1)  # the first one is in the table of contents
    entry = element(data, b"\xae", tracks[1] + len(b"\xbf\x84CRC!"))
    private = element(data, b"\x63\xa2", entry[1])
    header = data[private[1] : private[2]]
    size = (40 + len(header)).to_bytes(4, "little")
    old = size + b"".join(n.to_bytes(4, "little") for n in (4 * BLOCK, 2 * BLOCK)) + b"\1\0\x18\0H264" + bytes(20)
    body = (
        data[entry[1] : private[0]] + b"\x63\xa2" + vint(len(old + header)) + old + header + data[private[2] : entry[2]]
    )
    body = b"\xae" + vint(len(body)) + body.replace(b"V_MPEG4/ISO/AVC", b"V_MS/VFW/FOURCC")
    path = tmp_path / "old.mkv"
    path.write_bytes(
        data[: segment[0]]
        + b"\x18\x53\x80\x67\x01" + b"\xff" * 7  # of a length that is not told
        + name + vint(len(body)) + body + data[tracks[2] :]
    )  # fmt: skip
    with av.open(str(path)) as container:
        guessed = [packet.pts for packet in container.demux(video=0) if packet.size]
    assert len(set(guessed)) < FRAMES  # FFmpeg's guesses, from when they are decoded
    assert numbers(path) == list(range(FRAMES))


@pytest.mark.parametrize(
    ("codec", "order", "container"),
    [
        *(("libx264", order, container) for order in ("closed", "open") for container in ("mp4", "mkv", "flv")),
        ("libx264", "closed", "ts"),
        ("libx264", "closed", "m2ts"),
        *(("libx265", order, container) for order in ("closed", "open") for container in ("mp4", "mkv", "ts")),
        *(("mpeg2video", order, container) for order in ("closed", "open") for container in ("mpg", "ts", "mkv")),
        *(("mpeg4", "open", container) for container in ("mp4", "avi", "mkv", "ts")),
        *((codec, "closed", "mkv") for codec in ("libvpx", "libvpx-vp9")),
        ("wmv2", "without B", "asf"),
    ],
)
def test_a_stream_that_begins_without_a_key_frame_begins_at_the_first_one(tmp_path, codec, order, container):
    source = film(tmp_path / f"whole.{container}", codec, order)
    path = copy(source, tmp_path / f"cut.{container}", lambda place, packet: packet if place >= 5 else None)
    found = numbers(path)
    # B-frames before the key frame in time are behind it in the file; they need what is cut off.
    assert found == list(range(found[0], FRAMES))
    assert found[0] in range(9, 13)


@pytest.mark.parametrize("share", [0.31, 0.5])
@pytest.mark.parametrize("order", ["without B", "closed"])
def test_a_recording_from_the_middle_of_a_broadcast(tmp_path, order, share):
    data = film(tmp_path / "whole.ts", "libx264", order).read_bytes()
    path = tmp_path / "cut.ts"
    path.write_bytes(data[int(len(data) * share) :])
    found = numbers(path)
    assert found == list(range(found[0], FRAMES))
    assert found[0] % 12 == 0
    assert 0 < found[0] < FRAMES


@pytest.mark.parametrize("container", ["mp4", "mkv", "avi", "flv", "ts", "mpg", "wmv", "webm"])
def test_a_file_that_is_cut_off_is_refused_or_right_up_to_its_end(tmp_path, container):
    codec = {"mpg": "mpeg2video", "wmv": "wmv2", "webm": "libvpx"}.get(container, "libx264")
    data = film(tmp_path / f"whole.{container}", codec, list(ORDERS[codec])[-1]).read_bytes()
    path = tmp_path / f"cut.{container}"
    for share in (0.4, 0.8, 0.9, 0.97):
        path.write_bytes(data[: int(len(data) * share)])
        try:
            found = numbers(path)
        except MediaError:
            continue
        assert found == shown(path)
        assert found[:-4] == list(range(len(found) - 4))  # the last ones may be P-frames whose B-frames are gone


def test_recordings_put_one_behind_the_other(tmp_path):
    data = film(tmp_path / "film.ts", "libx264", "closed").read_bytes()
    (tmp_path / "twice.ts").write_bytes(data + data)
    assert numbers(tmp_path / "twice.ts") == [*range(FRAMES), *range(FRAMES)]


@pytest.mark.parametrize("place", [3, 20])
def test_packets_that_show_nothing_are_not_counted(tmp_path, place):
    path = hidden(tmp_path, place)
    assert numbers(path) == [index for index in range(FRAMES) if index != place]


def test_a_file_whose_packets_promise_more_frames_than_it_shows_is_refused(tmp_path):
    path = hidden(tmp_path, 50)
    with pytest.raises(MediaError, match=r"hidden\.webm: frame 50 is not the one that the file's index names; convert"):
        numbers(path)


def hidden(folder, place):
    """VP8 with a packet that builds a picture for others to refer to, and shows nothing."""

    def change(index, packet):
        if index != place:
            return packet
        data = bytearray(bytes(packet))
        data[0] &= ~0x10
        other = av.Packet(bytes(data))
        other.pts, other.dts, other.time_base, other.is_keyframe = packet.pts, packet.dts, packet.time_base, False
        return other

    return copy(film(folder / "film.webm", "libvpx", "closed"), folder / "hidden.webm", change)
