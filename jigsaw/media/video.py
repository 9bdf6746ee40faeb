"""Videos: what a file holds, and the frames of clips, each decoded once in one pass from the start of the file.

Frame i of a video is the i-th picture, counted from 0, that FFmpeg shows when it decodes the file from its first key
frame to its end. So what an edit list hides, or what a cut has left without its key frame, is no frame; a frame that is
damaged is one, but never used. Frames are upright, RGB, 8 bits a channel.

Nothing here seeks: where a key frame is announced but groups of pictures are open, or times are missing, a seek ends at
another frame than the one that was asked for.
"""

import math
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain, dropwhile
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

Pixels = npt.NDArray[np.uint8]
"""(H, W, RGB)."""

FRAME_NAME = "{:06d}.jpg"
"""Name of an extracted frame by its index."""

_CONVERT = "convert it, for example with: ffmpeg -i VIDEO -c:v libx264 OTHER.mp4"

FORMATS = (
    *("mov", "matroska", "webm", "avi", "flv", "asf", "mpeg", "mpegvideo", "mpegts", "ogg", "mxf", "nut", "gif"),
    *("h264", "hevc", "m4v", "ivf", "yuv4mpegpipe"),
)
"""FFmpeg's names of the formats that are read, whatever a file's suffix says. The list is closed because others name
further files to read: a playlist could show any film that this process may read."""

_FILE_ALONE = {"format_whitelist": ",".join(FORMATS), "protocol_whitelist": "file"}

_TRIED = 32
"""Frames that are decoded to see whether they are shown as the packets say; decoders hold back 16 at most."""

_TEMPORAL_PATCH = 2
_LONGEST = 200
"""Times its width that a frame may be long."""

JPEG_QUALITY = 95
"""Of extracted frames, with colour at full resolution: 38 dB and more against what was decoded."""


@dataclass(frozen=True)
class VideoInfo:
    """What a video file holds.

    Attributes:
        times: when each frame is shown, in the stream's unit, None where it does not say; frames are known by it.
        fps: frames a second, on average.
        width: pixels, of the upright picture.
        height: pixels, of the upright picture.
    """

    times: tuple[int | None, ...] = field(repr=False)
    fps: float
    width: int
    height: int

    @property
    def frames(self) -> int:
        """Number of frames."""
        return len(self.times)

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.frames / self.fps


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

    def pictures(self) -> list[Image.Image]:
        """The frames as RGB pictures."""
        return [Image.fromarray(frame) for frame in self.frames.permute(0, 2, 3, 1).numpy()]

    def metadata(self, time_embedding: str = "released") -> dict[str, Any]:
        """What transformers takes a clip's place in time from.

        Each two frames (one temporal patch) last 1 s in the mode ``released``, whatever the clip's rate; in the mode
        ``true`` as long as they do in the video, to 1/64 s: a number that every implementation multiplies without
        rounding, so that trainer and rollout cut the same positions to whole numbers.
        """
        seconds = 1.0
        if time_embedding == "true":
            seconds = max(round(_TEMPORAL_PATCH / self.fps * 64), 1) / 64
        frames = len(self.frames)
        return {
            "fps": _TEMPORAL_PATCH / seconds,
            "total_num_frames": frames,
            "frames_indices": list(range(frames)),
            "video_backend": "jigsaw",
        }


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
        """(height, width) that qwen-vl-utils' ``smart_resize`` gives, float for float.

        Written anew, as the library brings torch and torchvision along: seconds for every process that reads videos.

        Raises:
            ValueError: if the picture is too narrow or the limits are too tight for any size.
        """
        if max(height, width) > _LONGEST * min(height, width):
            raise ValueError(
                f"{width}×{height} pixels are too narrow; a side may be {_LONGEST} times the other at most"
            )
        down, across = (max(1, round(side / self.factor)) for side in (height, width))
        if down * across * self.factor**2 > self.max_pixels:
            scale = math.sqrt(height * width / self.max_pixels)
            down, across = (math.floor(side / scale / self.factor) for side in (height, width))
        elif down * across * self.factor**2 < self.min_pixels:
            scale = math.sqrt(self.min_pixels / (height * width))
            down, across = (math.ceil(side * scale / self.factor) for side in (height, width))
        if not down or not across:
            raise ValueError(
                f"{width}×{height} pixels cannot be scaled to {self.max_pixels} or fewer with sides that are multiples "
                f"of {self.factor}"
            )
        return down * self.factor, across * self.factor


def probe(path: str | os.PathLike[str]) -> VideoInfo:
    """What a video file holds, by all its packets and its first frames.

    Every frame is decoded if these are not shown as the packets say (AVI with B-frames, a recording that begins without
    a key frame), or the packets do not say it.

    Raises:
        MediaError: if it is no video, its frames cannot be decoded, or it ends before its header says.
    """
    first: Any = None
    tried: list[int | None] = []
    told: list[int | None] = []
    end = 0
    with _opened(path) as (container, stream):
        for packet in chain(_packets(container, stream), [None]):
            if len(tried) < _TRIED:
                frames = stream.decode(packet)
                first = first or next(iter(frames), None)
                tried += [frame.pts for frame in frames]
            if packet is not None:
                end = max(end, (packet.dts or 0) if packet.pts is None else packet.pts)
                if not packet.is_discard:
                    told.append(packet.pts)
        if first is None:
            raise MediaError(path, "holds no frames; remove or replace it")
        unit, header = stream.time_base, float(stream.average_rate or 0)
        start = (stream.start_time or 0) * unit
        # The sound of a file may go on a little longer than its picture.
        promised = stream.duration * unit if stream.duration else 0.9e-6 * (container.duration or 0)
        seconds = float(end * unit - start)
        if max(end * unit, seconds) < promised - 1:  # Matroska and ASF count from zero, wherever they start
            raise MediaError(path, f"ends after {seconds:.1f} seconds, which is before its header says; replace it")
    times: list[int | None] = [] if None in told else sorted(told)  # type: ignore[type-var]
    if times[: len(tried)] != tried:
        with _opened(path) as (container, stream):
            times = [frame.pts for frame in _decoded(container, stream)]
    if len(times) < 2:
        raise MediaError(path, "holds a single frame, so it is no video; remove it")
    width, height = first.width, first.height
    if _turns(first)[0]:
        width, height = height, width
    return VideoInfo(tuple(times), _rate(path, times, unit, header), width, height)


def _rate(path: str | os.PathLike[str], times: Sequence[int | None], unit: Fraction, header: float) -> float:
    """Frames a second."""
    known = [time for time in times if time is not None]
    fps = 0.0
    if len(known) == len(times) and sorted(known) == known and known[0] < known[-1]:
        fps = float((len(known) - 1) / ((known[-1] - known[0]) * unit))
    # A header's rate is exact where times are rounded (WebM), and wrong where the rate varies (Matroska).
    rate = header if not fps or abs(header - fps) < 0.01 * fps else fps
    if not rate:
        raise MediaError(path, f"does not say when its frames are shown; {_CONVERT}")
    return rate


def read_clips(
    path: str | os.PathLike[str], wanted: Sequence[Sequence[int]], info: VideoInfo, *, bounds: Bounds
) -> list[Clip]:
    """The clips of a video file. Frames are scaled one by one as they come, so a full-size clip is never in memory.

    Args:
        path: the file.
        wanted: a clip's 0-based frame indices, in order, for each clip.
        info: what :func:`probe` says of the file.
        bounds: of the frames' size.

    Raises:
        MediaError: if the frames cannot be decoded or scaled, are damaged, or are others than ``info`` says.
    """
    scaled = dict(_scaled(path, wanted, info, bounds))
    return [_clip([scaled[index] for index in indices], indices, info.fps) for indices in wanted]


def extract_frames(
    path: str | os.PathLike[str], wanted: Sequence[Sequence[int]], info: VideoInfo, folder: Path, *, bounds: Bounds
) -> None:
    """Write the frames of clips as JPEG, scaled, into a folder that appears whole or not at all.

    Args:
        path: the video file.
        wanted: a clip's 0-based frame indices, in order, for each clip.
        info: what :func:`probe` says of the file.
        folder: holds :data:`FRAME_NAME` of each index afterwards, and nothing else; what was there is replaced.
        bounds: of the frames' size.

    Raises:
        MediaError: if the frames cannot be decoded or scaled, are damaged, or are others than ``info`` says.
        JigsawError: if the folder cannot be written.
    """
    try:
        with atomic_folder(folder) as draft:
            for index, frame in _scaled(path, wanted, info, bounds):
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
            raise MediaError(path, "is of another size than the frames before it; extract the frames again")
        size = picture.size
        frames.append(_resized(np.array(picture), extracted_size(path, bounds, picture.height, picture.width)))
    return _clip(frames, indices, fps)


def _clip(frames: Sequence[Pixels], indices: Sequence[int], fps: float) -> Clip:
    import torch

    height, width, channels = frames[0].shape
    # NumPy copies where torch would wake all its threads for it.
    stacked = np.empty((len(frames), channels, height, width), np.uint8)
    for place, frame in enumerate(frames):
        stacked[place] = frame.transpose(2, 0, 1)
    return Clip(torch.from_numpy(stacked), tuple(indices), len(indices) * fps / (indices[-1] - indices[0] + 1))


def _scaled(
    path: str | os.PathLike[str], wanted: Sequence[Sequence[int]], info: VideoInfo, bounds: Bounds
) -> Iterator[tuple[int, Pixels]]:
    """Each wanted frame once, scaled, with its index."""
    target: tuple[int, int] | None = None
    for index, frame in _frames(path, set(chain.from_iterable(wanted)), info):
        if target is None:
            target = frame_size(path, bounds, *frame.shape[:2])
        yield index, _resized(frame, target)


def frame_size(path: str | os.PathLike[str], bounds: Bounds, height: int, width: int) -> tuple[int, int]:
    """(height, width) at which a video's frame is shown.

    Raises:
        MediaError: if it cannot be scaled.
    """
    try:
        return bounds.size(height, width)
    except ValueError as error:
        raise MediaError(path, f"{error}; leave it out or change its limits") from error


def extracted_size(path: str | os.PathLike[str], bounds: Bounds, height: int, width: int) -> tuple[int, int]:
    """The same of an extracted frame, which is shown as it is where its sides are multiples of the factor."""
    if height % bounds.factor == width % bounds.factor == 0:
        return height, width
    return frame_size(path, bounds, height, width)


def _resized(frame: Pixels, size: tuple[int, int]) -> Pixels:
    """A frame scaled to (height, width), bicubic with antialiasing.

    qwen-vl-utils goes by way of floats. In whole numbers it takes a tenth of the time, and every machine rounds alike.
    """
    if frame.shape[:2] == size:
        return frame
    import torch
    from torch.nn.functional import interpolate

    pixels = torch.from_numpy(frame).permute(2, 0, 1)[None]
    try:
        scaled = interpolate(pixels, size, mode="bicubic", antialias=True)
    except RuntimeError as error:  # torch has no MemoryError of its own
        raise MemoryError(str(error)) from error
    return scaled[0].permute(1, 2, 0).numpy()


def _frames(path: str | os.PathLike[str], wanted: set[int], info: VideoInfo) -> Iterator[tuple[int, Pixels]]:
    """The wanted frames with their indices, in order."""
    from av.video.reformatter import VideoReformatter

    reformatter = VideoReformatter()
    last = max(wanted)
    with _opened(path) as (container, stream):
        # Every frame on the way is compared, so that none of those that are counted can be missing.
        for (index, time), frame in zip(enumerate(info.times), _decoded(container, stream), strict=False):
            if frame.pts != time:
                raise MediaError(path, f"frame {index} is not the one that the file's index names; {_CONVERT}")
            if frame.is_corrupt:
                raise MediaError(path, f"frame {index} is damaged; replace or remove it")
            if index in wanted:
                yield index, _rgb(frame, reformatter)
            if index == last:
                return
    raise MediaError(path, f"ends before frame {last}; replace it")


def _rgb(frame: Any, reformatter: Any) -> Pixels:
    """A decoded frame, upright."""
    # PyAV leaves out the frame's matrix and range where both colour spaces are given alike, as they are by default.
    converted = reformatter.reformat(frame, format="rgb24", dst_colorspace="DEFAULT", src_color_range=frame.color_range)
    pixels: Pixels = converted.to_ndarray()
    swapped, flip_x, flip_y = _turns(frame)
    if swapped:
        pixels = pixels.transpose(1, 0, 2)
    return np.ascontiguousarray(pixels[:: -1 if flip_y else 1, :: -1 if flip_x else 1])


def _turns(frame: Any) -> tuple[bool, bool, bool]:
    """How a stored frame becomes upright: whether x and y are swapped, then x is mirrored, and y."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, False, False
    # x' = ax + cy, y' = bx + dy
    a, b, _, c, d = (int(entry) for entry in np.frombuffer(matrix, np.int32)[:5])
    swapped = abs(b) + abs(c) > abs(a) + abs(d)
    return (True, c < 0, b < 0) if swapped else (False, a < 0, d < 0)


def _decoded(container: Any, stream: Any) -> Iterator[Any]:
    """The frames, in the order in which they are shown."""
    for packet in _packets(container, stream):
        yield from stream.decode(packet)
    yield from stream.decode(None)


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    """The packets from the first key frame on: from those before it, some decoders make grey frames."""
    # Empty ones say that the frame before is shown again; to a decoder they would be the end.
    packets = (packet for packet in container.demux(stream) if packet.size)
    return dropwhile(lambda packet: not packet.is_keyframe, packets)


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[tuple[Any, Any]]:
    """A file and its video stream; what FFmpeg says of bad files becomes one clear MediaError."""
    import av

    try:
        # Not `options`, with which PyAV crashes on files whose streams come without a header.
        with av.open(os.fspath(path), metadata_errors="ignore", container_options=_FILE_ALONE) as container:
            stream = container.streams.best("video")
            if stream is None:
                raise MediaError(path, "holds no video; remove it")
            if stream.codec_context is None:
                raise MediaError(path, f"is in a format that FFmpeg does not know; {_CONVERT}")
            stream.codec_context.thread_count = 1  # the processes that read videos share the cores as it is
            yield container, stream
    except (av.FFmpegError, OSError) as error:
        raise MediaError(path, f"cannot be read as a video ({error.strerror}); remove or replace it") from error
