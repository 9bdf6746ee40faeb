"""Videos: what a file holds, and the frames of clips, each decoded once in one pass from the start of the file.

A frame's index is its 0-based place among the frames that a player would show. Frames are upright, RGB, 8 bits a
channel. decord is kept from seeking, as its seeks end at wrong frames where groups of pictures are open (seen in 0.6.0
with HEVC and MPEG-4).
"""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from jigsaw.errors import JigsawError, MediaError
from jigsaw.files import atomic_folder
from jigsaw.media.image import open_rgb

if TYPE_CHECKING:
    import torch

Frame = npt.NDArray[np.uint8]
"""(H, W, RGB)."""

FRAME_NAME = "{:06d}.jpg"
"""Name of an extracted frame by its index."""

JPEG_QUALITY = 95
"""Of extracted frames, with colour at full resolution: 38 dB and more against what was decoded."""


@dataclass(frozen=True)
class VideoInfo:
    """What a video file holds.

    Attributes:
        frames: number of frames.
        fps: frames a second, on average.
        width: pixels, of the upright picture.
        height: pixels, of the upright picture.
        duration: seconds.
    """

    frames: int
    fps: float
    width: int
    height: int
    duration: float


@dataclass(frozen=True, eq=False)
class Clip:
    """Evenly spaced frames of one clip.

    Attributes:
        frames: uint8 (T, C, H, W), RGB; T is even.
        indices: the frames' 0-based indices in the source.
        fps: T by the clip's length in seconds, which is how qwen-vl-utils counts the rate of what it samples.
    """

    frames: "torch.Tensor"
    indices: tuple[int, ...]
    fps: float


@dataclass(frozen=True)
class Bounds:
    """Limits of a frame's size, in pixels.

    Attributes:
        factor: both sides are multiples of it.
        min_pixels: smaller frames are scaled up to it.
        max_pixels: larger frames are scaled down to it.
    """

    factor: int
    min_pixels: int
    max_pixels: int

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) after qwen-vl-utils' smart resize.

        Raises:
            ValueError: if the picture is too narrow or the limits are too tight for any size.
        """
        # Imported here: it brings torchvision along.
        from qwen_vl_utils.vision_process import smart_resize  # type: ignore[import-untyped]

        size: tuple[int, int] = smart_resize(height, width, self.factor, self.min_pixels, self.max_pixels)
        if min(size) < self.factor:
            raise ValueError(
                f"{width}×{height} pixels cannot be scaled to {self.max_pixels} or fewer with sides that are multiples "
                f"of {self.factor}"
            )
        return size


def probe(path: str | os.PathLike[str]) -> VideoInfo:
    """What a video file holds, by its header, its packets and its first frame, the only one that is decoded.

    Where the header counts the frames (MP4, MOV), only the packets at both ends are looked at.

    Raises:
        MediaError: if it is no video, its first frame cannot be decoded, or it ends before its header says.
    """
    import av

    with _readable(path), av.open(os.fspath(path)) as container:
        stream = container.streams.best("video")
        if stream is None:
            raise MediaError(f"{path}: holds no video; remove it")
        first: Any = next(container.decode(stream), None)
        if first is None:
            raise MediaError(f"{path}: holds no frames; remove or replace it")
        frames, seconds = _length(path, container, stream)
        header = float(stream.average_rate or 0)
    if frames < 2 or seconds <= 0:
        raise MediaError(f"{path}: holds a single frame, so it is no video; remove it")
    fps = (frames - 1) / seconds
    # A header's rate is exact where times are rounded (WebM), and wrong where the rate varies (Matroska).
    if abs(header - fps) < 0.01 * fps:
        fps = header
    width, height = first.width, first.height
    if first.rotation % 180:
        width, height = height, width
    return VideoInfo(frames, fps, width, height, frames / fps)


def _length(path: str | os.PathLike[str], container: Any, stream: Any) -> tuple[int, float]:
    """Number of frames, and seconds from the first to the last."""
    import av

    start, unit = stream.start_time or 0, stream.time_base
    if stream.duration and stream.average_rate:
        end = start + stream.duration
        container.seek(end, stream=stream)
        tail = [packet for packet in container.demux(stream) if packet.size]
        last = max(map(_time, tail), default=start)
        complete = bool(tail) and last + (tail[-1].duration or 0) >= end
        # They differ where an edit list leaves out frames that the header counts.
        if complete and stream.frames == round(stream.duration * unit * stream.average_rate):
            return stream.frames, float((last - start) * unit)
    with av.open(os.fspath(path)) as whole:
        packets = whole.demux(whole.streams.best("video"))
        times = [_time(packet) for packet in packets if packet.size and not packet.is_discard]
    seconds = float((max(times, default=start) - start) * unit)
    # The sound of a file may go on a little longer than its picture.
    promised = float(stream.duration * unit) if stream.duration else 0.9 * (container.duration or 0) / av.time_base
    if seconds < promised - 1:
        raise MediaError(f"{path}: ends after {seconds:.1f} seconds, which is before its header says; replace it")
    return len(times), seconds


def _time(packet: Any) -> int:
    """When a packet's frame is shown, in the stream's unit; AVI knows only when it is decoded."""
    time: int = (packet.dts or 0) if packet.pts is None else packet.pts
    return time


def read_clips(
    path: str | os.PathLike[str], wanted: Sequence[Sequence[int]], *, fps: float, bounds: Bounds, decoder: str
) -> list[Clip]:
    """The clips of a video file. Frames are scaled one by one as they come, so a full-size clip is never in memory.

    Args:
        path: the file.
        wanted: a clip's 0-based frame indices, in order, for each clip.
        fps: frames a second of the file.
        bounds: of the frames' size.
        decoder: ``"decord"`` or ``"torchcodec"``; equal frames, but for shades along colour edges where a side is odd
            or a channel has more than 8 bits. torchcodec refuses the files (some AVI, MPEG) without times of frames.

    Raises:
        MediaError: if the frames cannot be decoded or scaled.
        JigsawError: if the decoder is unknown or cannot be loaded.
    """
    scaled = dict(_scaled(path, wanted, bounds, decoder))
    return [_clip([scaled[index] for index in indices], indices, fps) for indices in wanted]


def extract_frames(
    path: str | os.PathLike[str],
    wanted: Sequence[Sequence[int]],
    folder: Path,
    *,
    bounds: Bounds,
    decoder: str = "decord",
) -> None:
    """Write the frames of clips as JPEG, scaled, into a folder that appears whole or not at all.

    Args:
        path: the video file.
        wanted: a clip's 0-based frame indices, in order, for each clip.
        folder: holds :data:`FRAME_NAME` of each index afterwards, and nothing else; what was there is replaced.
        bounds: of the frames' size.
        decoder: ``"decord"`` or ``"torchcodec"``.

    Raises:
        MediaError: if the frames cannot be decoded or scaled.
        JigsawError: if the folder cannot be written, or the decoder is unknown or cannot be loaded.
    """
    try:
        with atomic_folder(folder) as draft:
            for index, frame in _scaled(path, wanted, bounds, decoder):
                picture = Image.fromarray(frame)
                picture.save(draft / FRAME_NAME.format(index), quality=JPEG_QUALITY, subsampling="4:4:4")
            if folder.exists():
                shutil.rmtree(folder)
    except OSError as error:
        raise JigsawError(
            f"{folder}: cannot be written ({error.strerror or error}); make room or write elsewhere"
        ) from error


def read_extracted(paths: Sequence[Path], indices: Sequence[int], *, fps: float, bounds: Bounds) -> Clip:
    """A clip of extracted frames; they are scaled again only where their sides are no multiples of the factor.

    Args:
        paths: the pictures, in order.
        indices: their 0-based indices in the video.
        fps: frames a second of the video.
        bounds: of the frames' size.

    Raises:
        MediaError: if a picture cannot be read or scaled, or is of another size than the first.
    """
    frames = []
    size: tuple[int, int] | None = None
    for path in paths:
        picture = open_rgb(path)
        if size is not None and picture.size != size:
            raise MediaError(f"{path}: is of another size than the frames before it; extract the frames anew")
        size = picture.size
        whole = not (picture.width % bounds.factor or picture.height % bounds.factor)
        target = (picture.height, picture.width) if whole else _target(path, bounds, picture.height, picture.width)
        frames.append(_resized(np.array(picture), target))
    return _clip(frames, indices, fps)


def _clip(frames: Sequence[Frame], indices: Sequence[int], fps: float) -> Clip:
    import torch

    height, width, channels = frames[0].shape
    # NumPy copies where torch would wake all its threads for it.
    stacked = np.empty((len(frames), channels, height, width), np.uint8)
    for place, frame in enumerate(frames):
        stacked[place] = frame.transpose(2, 0, 1)
    return Clip(torch.from_numpy(stacked), tuple(indices), len(indices) * fps / (indices[-1] - indices[0] + 1))


def _scaled(
    path: str | os.PathLike[str], wanted: Sequence[Sequence[int]], bounds: Bounds, decoder: str
) -> Iterator[tuple[int, Frame]]:
    """Each wanted frame once, scaled, with its index."""
    indices = sorted(set(chain.from_iterable(wanted)))
    target: tuple[int, int] | None = None
    for index, frame in zip(indices, _frames(path, indices, decoder), strict=True):
        if target is None:
            target = _target(path, bounds, *frame.shape[:2])
        yield index, _resized(frame, target)


def _target(path: str | os.PathLike[str], bounds: Bounds, height: int, width: int) -> tuple[int, int]:
    try:
        return bounds.size(height, width)
    except ValueError as error:
        raise MediaError(f"{path}: {error}; leave it out or change its limits") from error


def _resized(frame: Frame, size: tuple[int, int]) -> Frame:
    """A frame scaled to (height, width), bicubic with antialiasing.

    qwen-vl-utils goes by way of floats. In whole numbers it takes a tenth of the time, and every machine rounds alike.
    """
    import torch
    from torch.nn.functional import interpolate

    if frame.shape[:2] == size:
        return frame
    pixels = torch.from_numpy(frame).permute(2, 0, 1)[None]
    return interpolate(pixels, size, mode="bicubic", antialias=True)[0].permute(1, 2, 0).numpy()


def _frames(path: str | os.PathLike[str], indices: Sequence[int], decoder: str) -> Iterator[Frame]:
    """The frames of rising indices."""
    if decoder not in DECODERS:
        raise JigsawError(f"decoder {decoder!r:.60}: must be one of {', '.join(DECODERS)}")
    with _readable(path, decoder):
        yield from DECODERS[decoder](os.fspath(path), indices)


def _decord(path: str, indices: Sequence[int]) -> Iterator[Frame]:
    import decord  # type: ignore[import-untyped]

    decord.logging.set_level(decord.logging.QUIET)
    # One thread: the processes that read videos share the cores as it is.
    reader = decord.VideoReader(path, num_threads=1)
    wanted = set(indices)
    times = reader.get_frame_timestamp(np.arange(len(reader)))[:, 0]
    if (np.diff(times) > 0).all():
        # Frames that are passed over stay unconverted, but decord seeks when it is to pass over a key frame. So the
        # frame before each is read too, and none is ever passed over.
        stops = wanted.union(key - 1 for key in reader.get_key_indices() if 0 < key <= indices[-1])
    else:  # it tells the frames to pass over by their times, which some files (AVI) do not hold
        stops = set(range(indices[-1] + 1))
    place = 0
    for stop in sorted(stops):
        if stop > place:
            reader.skip_frames(stop - place)
        frame = reader.next().asnumpy()
        place = stop + 1
        if stop in wanted:
            # What decord takes for channels is bytes a row by width: 4 where a narrow picture's rows are padded.
            height, width, channels = frame.shape
            yield frame if channels == 3 else frame.reshape(height, -1)[:, : 3 * width].reshape(height, width, 3)


def _torchcodec(path: str, indices: Sequence[int]) -> Iterator[Frame]:
    from torchcodec.decoders import VideoDecoder  # type: ignore[attr-defined]

    try:
        reader = VideoDecoder(path, dimension_order="NHWC")
    except RuntimeError as error:
        if "libtorchcodec" in str(error):
            raise JigsawError(
                "torchcodec finds no FFmpeg on this machine; install FFmpeg's shared libraries or choose decord"
            ) from error
        raise
    first = reader.get_frame_at(0)
    if first.pts_seconds != reader.metadata.begin_stream_seconds_from_content:
        raise MediaError(
            f"{path}: does not say when its frames are shown, by which torchcodec finds them; choose decord"
        )
    for index in indices:
        yield (reader.get_frame_at(index) if index else first).data.numpy()


DECODERS: dict[str, Callable[[str, Sequence[int]], Iterator[Frame]]] = {"decord": _decord, "torchcodec": _torchcodec}


@contextmanager
def _readable(path: str | os.PathLike[str], decoder: str | None = None) -> Iterator[None]:
    """Turn what the readers are seen to raise on bad files into one clear MediaError, the same in every run."""
    import av
    from decord import DECORDError

    try:
        yield
    except (av.FFmpegError, OSError) as error:
        raise MediaError(f"{path}: cannot be read as a video ({error.strerror}); remove or replace it") from error
    except (DECORDError, RuntimeError, IndexError, ValueError) as error:
        # Their own words hold times, addresses and lines of C++.
        raise MediaError(
            f"{path}: cannot be decoded by {decoder or 'FFmpeg'}: it is damaged, or in a format that it does not know; "
            "convert, replace or remove it"
        ) from error
