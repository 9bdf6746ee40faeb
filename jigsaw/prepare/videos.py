"""Videos to rows of the video jigsaw: a LLaVA-Video-178K tree, or every video below a folder."""

import json
import os
import posixpath
import re
from bisect import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from jigsaw.errors import JigsawError, MediaError, OptionError
from jigsaw.media.video import Bounds, VideoInfo, extract_frames, probe, read_clips
from jigsaw.prepare.frames import DRAFT, Frames
from jigsaw.prepare.images import check_grid, grid_text
from jigsaw.prepare.pipeline import (
    Options,
    Sources,
    list_files,
    row_schema,
    stamp_of,
    usable_file,
)
from jigsaw.prompts import render
from jigsaw.puzzle import CutOptions
from jigsaw.reader import Record
from jigsaw.tasks.video import DATA_SOURCE, MAX_PIXELS, TRIM, clip_indices, piece_size
from jigsaw.tokens import media_tokens

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".flv", ".f4v", ".wmv", ".asf"),
    *(".mpg", ".mpeg", ".m2v", ".ts", ".mts", ".m2ts", ".vob", ".3gp", ".3g2", ".ogv", ".ogm"),
)
"""Lower case; what a file holds is decided by its content."""

MIN_FRAMES = 4
"""Frames a clip at least."""

SHARD_SIZE = 20
"""Videos a shard."""

PROBE_LIMIT, DECODE_LIMIT = 600, 1800
"""Seconds that a video may take: to be looked at (all of it is decoded if its packets do not tell its frames), and its
clips."""

_UNIT = CutOptions().factor ** 2
"""Pixels of a token."""

_LISTS = re.compile(r"_(?:cap|oe|mc)_[^/]*\.json$")
_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class VideoOptions(Options):
    """What decides the rows, besides the videos.

    Attributes:
        clips: number of clips a video is cut into.
        grid: (rows, columns) of tiles that each clip is cut into; None for whole clips.
        min_seconds: shorter videos are left out (paper: 24).
        trim: share of a clip that is dropped at each end (paper: 0.05).
        fps: frames a second that are shown.
        max_frames: most frames a clip.
        max_pixels: most pixels a frame; smaller frames than both it and the paper's 128·28·28 are scaled up. A video
            whose clips would not fit the prompt gets a lower limit of its own.
        verify: decode the frames of all clips; otherwise as far as the second one of the first clip.
        extract_frames: folder that gets the frames as JPEG, one folder a video; the rows then hold paths relative to
            it. It may be shared, see :mod:`jigsaw.prepare.frames`; a folder of frames with a lower limit bears it in
            its name. None for rows that point at videos.
    """

    clips: int = 6
    grid: tuple[int, int] | None = None
    min_seconds: float = 24
    trim: float = TRIM
    fps: float = 2
    max_frames: int = 12
    max_pixels: int = MAX_PIXELS
    verify: bool = False
    extract_frames: Path | None = None

    def validate(self) -> None:
        """Raise JigsawError if a value makes no sense."""
        if self.clips < 1 or (self.clips == 1 and self.grid is None):
            raise OptionError("clips", self.clips, "must be 2 or more, or 1 with a grid")
        if self.grid is not None:
            check_grid(self.grid)
        if not 0 <= self.min_seconds < float("inf"):
            raise OptionError("min_seconds", self.min_seconds, "must be 0 s or more")
        if not 0 <= self.trim < 0.5:
            raise OptionError("trim", self.trim, "must be 0 or more and less than 0.5")
        if not 0 < self.fps < float("inf"):
            raise OptionError("fps", self.fps, "must be above 0 frames a second")
        if self.max_frames < 2:
            raise OptionError("max_frames", self.max_frames, "must be 2 or more")
        if self.max_pixels < _UNIT:
            raise OptionError("max_pixels", self.max_pixels, f"must be {_UNIT} or more")
        super().validate()

    def arguments(self) -> dict[str, Any]:
        """All of it as JSON values, as the manifest says it; of the frames' folder, whether there is one."""
        return {
            **super().arguments(),
            "grid": self.grid and grid_text(self.grid),
            "extract_frames": self.extract_frames is not None,
        }

    @property
    def prompt(self) -> str:
        """The text of every row's prompt."""
        rows, columns = self.grid or (1, 1)
        tiling = {"rows": rows, "columns": columns} if self.grid else {}
        return render("video", self.answer_format, clips=self.clips, **tiling)

    @property
    def media(self) -> int:
        """Number of pieces."""
        rows, columns = self.grid or (1, 1)
        return self.clips * rows * columns

    def sources(self, media_root: Path, only: str | None = None) -> Sources:
        """The videos below a folder."""
        frames: Frames | None = None
        if self.extract_frames is not None:
            if self.extract_frames.resolve() == media_root.resolve():
                raise OptionError("extract_frames", self.extract_frames, "is the folder of the videos; choose another")
            frames = Frames(self.extract_frames.absolute(), str, {"max_pixels": self.max_pixels})
        return Sources(
            command="prepare video",
            paths=list_videos(media_root) if only is None else [only],
            noun="videos",
            look=partial(check_video, media_root=media_root.absolute(), options=self, frames=frames),
            row=partial(video_row, options=self),
            schema=video_schema(),
            libraries=("av", "torch"),
            shard_size=SHARD_SIZE,
            time_limit=DECODE_LIMIT if self.verify or frames is not None else PROBE_LIMIT,
            frames=frames,
        )

    def limits(self, max_pixels: int) -> Bounds:
        """Of a frame's size, for models whose patches are those of Qwen2.5-VL."""
        return Bounds(CutOptions().factor, min(MAX_PIXELS, max_pixels), max_pixels)

    def tokens(self, info: VideoInfo, frames: int, max_pixels: int) -> int:
        """Tokens of all pieces of a video.

        Args:
            info: of the video.
            frames: a clip.
            max_pixels: a frame.

        Raises:
            ValueError: if the frames cannot be scaled, or not be cut into tiles.
        """
        bounds = self.limits(max_pixels)
        height, width = bounds.size(info.height, info.width)
        return media_tokens([piece_size((width, height, frames), self.grid, bounds.factor)] * self.media)

    def fitting(self, info: VideoInfo, frames: int) -> int:
        """``max_pixels``, or the most pixels a frame below it with which a video's pieces fit the prompt.

        Raises:
            ValueError: if the frames cannot be scaled or cut into tiles, or no number of pixels will do.
        """
        if self.tokens(info, frames, self.max_pixels) <= self.room:
            return self.max_pixels

        def too_many(units: int) -> bool:
            try:
                return self.tokens(info, frames, units * _UNIT) > self.room
            except ValueError:  # too few pixels
                return False

        units = bisect(range(1, self.max_pixels // _UNIT + 1), False, key=too_many)
        if not units:
            raise ValueError(f"{frames} frames a clip, however small, do not fit the prompt")
        return units * _UNIT

    def indices(self, info: VideoInfo) -> list[tuple[int, ...]]:
        """The frame indices of every clip, see :func:`jigsaw.tasks.video.clip_indices`."""
        return clip_indices(
            info.frames,
            info.fps,
            clips=self.clips,
            trim=self.trim,
            fps=self.fps,
            min_frames=min(MIN_FRAMES, self.max_frames),
            max_frames=self.max_frames,
        )


def list_videos(media_root: Path) -> list[str]:
    """POSIX paths of all videos, relative to the media root and sorted.

    If there are lists of LLaVA-Video-178K below it (``*_cap_*.json``, ``*_oe_*.json``, ``*_mc_*.json``), these are the
    videos that their records name, each once, whether they are there or not; else all files with a video's suffix.

    Raises:
        JigsawError: if a folder or a list cannot be read, or there is no video.
    """
    found = list_files(media_root, (*SUFFIXES, ".json"), "videos and no lists of them")
    if lists := [path for path in found if _LISTS.search(path)]:
        videos = {video for path in lists for video in _listed(media_root, path)}
    else:
        videos = {path for path in found if not path.lower().endswith(".json")}
    if not videos:
        raise JigsawError(f"{media_root}: holds no videos ({', '.join(SUFFIXES)}); is it the right folder?")
    return sorted(videos)


def _listed(media_root: Path, path: str) -> Iterator[str]:
    """The videos that a list names, relative to its own folder."""
    try:
        for record in _entries(media_root / path):
            if isinstance(video := record.get("video"), str):
                yield posixpath.normpath(posixpath.join(posixpath.dirname(path), video))
            elif "video" in record:
                raise ValueError(f"a record's video is {video!r:.60}")
    except (ValueError, AttributeError, RecursionError) as error:
        raise JigsawError(
            f"{media_root / path}: is no list of LLaVA-Video-178K, records with the path of a video ({error}); "
            "fetch it again or move it away"
        ) from error


def _entries(path: Path) -> Iterator[Any]:
    """The entries of a JSON file that is one list, a few at a time: the lists are larger than is good for memory."""
    decoder = json.JSONDecoder()
    blank = re.compile(r"[\s,]*")
    with path.open(encoding="utf-8") as file:
        text = file.read(_CHUNK).lstrip()
        if not text.startswith("["):
            raise ValueError("it does not start with [")
        place = 1
        while True:
            place = blank.match(text, place).end()  # type: ignore[union-attr]  # it matches anything
            if text.startswith("]", place):
                return
            try:
                entry, place = decoder.raw_decode(text, place)
            except ValueError:  # cut off at the chunk's end, if it has not ended for good
                if not (more := file.read(_CHUNK)):
                    raise
                text, place = text[place:] + more, 0
            else:
                yield entry


def check_video(path: str, *, media_root: Path, options: VideoOptions, frames: Frames | None) -> list[Record]:
    """One record of a video, or ``{reason}`` for its rejection.

    The record holds ``width``, ``height`` (pixels, upright), ``duration`` (seconds), ``fps``, ``max_pixels`` (of a
    frame), the ``tokens`` of its pieces and, if its frames were extracted, ``frames``: the indices of each clip's.

    Args:
        path: relative to ``media_root``.
        media_root: folder that the video must not leave.
        options: what decides the rows.
        frames: where to extract the frames to; None to extract none.
    """
    file: Path | None = None
    try:
        file = usable_file(path, media_root)
        info = probe(file)
        if info.duration < options.min_seconds:
            return [{"reason": f"is shorter than {options.min_seconds:g} s ({info.duration:.1f} s)"}]
        indices = options.indices(info)
        max_pixels = options.fitting(info, len(indices[0]))
        tokens = options.tokens(info, len(indices[0]), max_pixels)
        smaller, bounds = max_pixels < options.max_pixels, options.limits(max_pixels)
        if frames is not None:
            stamp = stamp_of(path, media_root)
            path += f"@{max_pixels}" * smaller  # not to be taken for frames of other outputs
            _extract(file, path, stamp, indices, info, frames, bounds)
        else:
            # Never the packets alone: they do not tell whether the frames can be decoded.
            wanted = indices if options.verify else [indices[0][:2]]
            read_clips(file, wanted, info, bounds=bounds)
    except MediaError as error:
        return [{"reason": error.why}]
    except ValueError as error:  # of the clips or of the size
        return [{"reason": f"cannot be cut ({error})"}]
    record = {
        "width": info.width,
        "height": info.height,
        "duration": info.duration,
        "fps": info.fps,
        "max_pixels": max_pixels,
        "tokens": tokens,
        "smaller": smaller,
    }
    return [record if frames is None else {**record, "path": path, "frames": indices}]


def _extract(
    file: Path,
    path: str,
    stamp: Sequence[Any],
    indices: Sequence[Sequence[int]],
    info: VideoInfo,
    frames: Frames,
    bounds: Bounds,
) -> None:
    """Write the frames into their folder, one after the other: a killed run's worker may not be gone yet."""
    try:
        with TemporaryDirectory(prefix=DRAFT, dir=frames.folder, ignore_cleanup_errors=True) as draft:
            whole = Path(draft) / "frames"
            extract_frames(file, indices, info, whole, bounds=bounds)
            folder = frames.claim(path, stamp)
            for frame in whole.iterdir():
                os.replace(frame, folder / frame.name)
    except OSError as error:
        raise JigsawError(
            f"{frames.folder / path}: cannot be written ({error.strerror}); make room or write elsewhere, then start "
            "again: what is finished is kept"
        ) from error


def video_schema() -> "pa.Schema":
    """The schema of video rows."""
    import pyarrow as pa

    numbers = pa.list_(pa.int64())
    video = pa.struct(
        [
            ("path", pa.string()),
            ("jigsaw_clip_num", pa.int64()),
            ("clip_order", numbers),
            ("spatial_jigsaw_grid_config", numbers),
            ("fps", pa.float64()),
            ("fps_min_frames", pa.int64()),
            ("fps_max_frames", pa.int64()),
            ("min_pixels", pa.int64()),
            ("max_pixels", pa.int64()),
            ("frames", pa.list_(numbers)),
            ("source_fps", pa.float64()),
        ]
    )
    return row_schema(
        "videos",
        video,
        [
            ("trim", pa.float64()),
            ("width", pa.int64()),
            ("height", pa.int64()),
            ("duration", pa.float64()),
            ("source_fps", pa.float64()),
        ],
    )


def video_row(record: Record, index: int, split: str, options: VideoOptions) -> Record:
    """The row of one video.

    Args:
        record: of :func:`check_video`, with its ``path``.
        index: 0-based place of the row in its file.
        split: name of the split.
        options: the cut and the answer format.
    """
    # With the cut, so that files of several cuts can be put together.
    cut = "x".join(map(str, (options.clips, *(options.grid or ()))))
    frames = record.get("frames")
    bounds = options.limits(record.get("max_pixels", options.max_pixels))
    return {
        "data_source": DATA_SOURCE,
        "prompt": [{"role": "user", "content": options.prompt}],
        "videos": [
            {
                "path": record["path"],
                "jigsaw_clip_num": options.clips,
                "clip_order": list(range(options.media)),
                "spatial_jigsaw_grid_config": options.grid and list(options.grid),
                "fps": options.fps,
                "fps_min_frames": min(MIN_FRAMES, options.max_frames),
                "fps_max_frames": options.max_frames,
                "min_pixels": bounds.min_pixels,
                "max_pixels": bounds.max_pixels,
                "frames": frames,
                "source_fps": frames and record["fps"],
            }
        ],
        "reward_model": {"style": "rule", "ground_truth": ""},
        "extra_info": {
            "id": f"{record['path']}#{cut}",
            "index": index,
            "split": split,
            "answer_format": options.answer_format,
            "trim": options.trim,
            "width": record["width"],
            "height": record["height"],
            "duration": record["duration"],
            "source_fps": record["fps"],
        },
    }
