"""Video jigsaw: a video is cut into clips of equal length, each shown as a video of its own (paper, 3.2).

The struct in ``videos`` holds ``path`` and

==============================  ========================================================================================
``jigsaw_clip_num``             number of clips
``clip_order``                  released rows: a list with one entry a piece; its values play no part
``spatial_jigsaw_grid_config``  [rows, columns] if each clip is also cut into tiles: pieces go by time, then raster
``fps``                         frames a second that are sampled: 2
``fps_min_frames``              fewest frames a clip: 4 (released rows: 2)
``fps_max_frames``              most frames a clip: 12 (released rows: 16)
``min_pixels, max_pixels``      limits of a frame's size: 128·28·28 both
``frames``                      if ``path`` is a folder of extracted frames: for each clip their indices in the video
``source_fps``                  then also the video's own frames a second
==============================  ========================================================================================

with the values after the colons where a row has none. A row with ``extra_info.trim`` is one of ours, one without it a
released one, which goes by 0.1.

Of N frames and K clips, the first ``N mod K`` frames are dropped (released rows: ``N mod (10·K)``, unless K = 1), so
that a clip has ``L = (N − dropped) / K`` frames; ``⌊trim·L⌋`` of them go at each end. Of the M that are left a clip
shows ``M / video's fps · fps``, but at least the fewest and at most the most, rounded down to an even number. They are
evenly spaced from the first of the M to the last and rounded to whole frames, which is qwen-vl-utils' sampling.
"""

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

from jigsaw.errors import MediaError, RowError
from jigsaw.media.image import center_crop_box, image_size
from jigsaw.media.video import (
    FRAME_NAME,
    Bounds,
    Clip,
    VideoInfo,
    extracted_size,
    frame_size,
    probe,
    read_clips,
    read_extracted,
)
from jigsaw.puzzle import CutOptions, Plan, Spec, media_specs
from jigsaw.rows import Row, extra_info, media_path, media_struct, struct_path, whole_numbers
from jigsaw.tasks.base import Level, Task, is_count
from jigsaw.tokens import Medium

DATA_SOURCE = "visual_jigsaw_video"

TRIM = 0.05
"""Share of a clip that is dropped at each end (paper)."""

MAX_PIXELS = 128 * 28 * 28
"""Of a frame (paper)."""

MOST_BYTES = 1 << 30
"""Of a puzzle's pixels; the 128,000 tokens that Qwen2.5-VL can read are 0.6 GB of them."""

_RELEASED_TRIM = 0.1


def clip_indices(
    frames: int,
    video_fps: float,
    *,
    clips: int,
    trim: float | None,
    fps: float,
    min_frames: int,
    max_frames: int,
) -> list[tuple[int, ...]]:
    """The 0-based frame indices of every clip, in time.

    Args:
        frames: number of frames of the video.
        video_fps: its frames a second.
        clips: number of clips.
        trim: share of a clip that is dropped at each end, below 0.5; None for a released row's.
        fps: frames a second to sample.
        min_frames: fewest frames a clip; ``max_frames`` and the clip's own length come first.
        max_frames: most frames a clip.

    Raises:
        ValueError: if a clip has fewer than two frames.
    """
    # The released code wants the trim to be a whole number of frames: 10 % of a multiple of 10.
    unit = 10 * clips if trim is None and clips > 1 else clips
    dropped = frames % unit
    length = (frames - dropped) // clips
    # The decimal that was meant, not its binary neighbour.
    ends = int(Fraction(_RELEASED_TRIM if trim is None else trim).limit_denominator(10**6) * length)
    kept = length - 2 * ends
    count = min(max(kept / video_fps * fps, min_frames + min_frames % 2), max_frames, kept)
    count = int(count) // 2 * 2
    if count < 2:
        raise ValueError(f"{frames} frames are too few for {clips} clips of two frames or more")
    # Rounded to the nearest; as count - 1 is odd, no frame lies half-way.
    gaps = count - 1
    offsets = [(2 * i * (kept - 1) + gaps) // (2 * gaps) for i in range(count)]
    return [tuple(dropped + clip * length + ends + offset for offset in offsets) for clip in range(clips)]


class VideoTask(Task):
    """Clips of a video, or tiles of them."""

    name = "video"
    media_type = "video"
    column = "videos"
    fields = frozenset(
        {"path", "jigsaw_clip_num", "fps", "fps_min_frames", "fps_max_frames", "min_pixels", "max_pixels"}
        | {"clip_order", "spatial_jigsaw_grid_config", "frames", "source_fps"}
    )
    sized_by = "max_pixels, min_pixels or fps_max_frames"
    level_form = "a number of clips, 2 or more"

    def owns(self, row: Row) -> bool:
        """Whether it holds videos."""
        return row.get("videos") is not None

    def read(self, row: Row) -> Spec:
        """What the row says of its video, the same for all pieces.

        Raises:
            RowError: if the row does not hold exactly one such struct, or a value in it makes no sense.
        """
        struct = media_struct(row, "videos", "path, jigsaw_clip_num")
        tiling = _grid(struct)
        clips = _clips(struct, tiling)
        trim = extra_info(row).get("trim")
        if trim is not None and not (_is_number(trim) and 0 <= trim < 0.5):
            raise RowError(f"extra_info.trim is {trim!r:.60}; it must be a share below 0.5, or null for a released row")
        released = trim is None
        max_frames = _whole(struct, "fps_max_frames", 16 if released else 12, least=2)
        max_pixels = _whole(struct, "max_pixels", MAX_PIXELS)
        min_pixels = _whole(struct, "min_pixels", min(MAX_PIXELS, max_pixels))
        if min_pixels > max_pixels:
            raise RowError(f"videos[0].min_pixels is {min_pixels}, above max_pixels, {max_pixels}; lower it")
        frames = _extracted(struct, clips)
        return {
            "path": struct_path(struct, "videos"),
            "clips": clips,
            "grid": tiling,
            "trim": trim,
            "fps": _rate(struct, "fps", 2.0),
            "min_frames": _whole(struct, "fps_min_frames", 2 if released else 4),
            "max_frames": max_frames,
            "min_pixels": min_pixels,
            "max_pixels": max_pixels,
            "frames": frames,
            "source_fps": None if frames is None else _rate(struct, "source_fps"),
        }

    def pieces(self, said: Spec) -> int:
        """Number of clips, times that of the tiles of each."""
        return int(said["clips"] * _tiles(said))

    def specs(self, said: Spec, order: Sequence[int]) -> list[Spec]:
        """One spec a piece, in the order shown; of extracted frames, each names its own clip's alone."""
        found = []
        for piece in order:
            clip, tile = divmod(piece, _tiles(said))
            frames = said["frames"] and said["frames"][clip]
            found.append({"task": self.name, **said, "frames": frames, "clip": clip, "tile": tile})
        return found

    def sizes(self, wanted: Sequence[Spec], media_root: str | os.PathLike[str], options: CutOptions) -> list[Medium]:
        """The sizes of the wanted pieces, by the headers of their videos or of all their extracted frames.

        Raises:
            MediaError: if a header cannot be read, a video is too short for its clips or too small for its grid, or the
                pieces are too large for the memory.
        """
        clips = {key: _sizes(found, media_root, options) for key, found in _by_video(wanted).items()}
        return [_piece_size(clips[_key(spec)][spec["clip"]], spec, options.factor) for spec in wanted]

    def cut(self, wanted: Sequence[Spec], media_root: str | os.PathLike[str], options: CutOptions) -> list[Clip]:
        """Cut the wanted pieces, in the order given; a video that several specs share is decoded once.

        Raises:
            MediaError: if a video cannot be read, is too short for its clips or too small for its grid, or the pieces
                are too large for the memory.
        """
        clips = {key: _read(found, media_root, options) for key, found in _by_video(wanted).items()}
        return [_tile(clips[_key(spec)][spec["clip"]], spec, options.factor) for spec in wanted]

    def files(self, spec: Spec) -> Iterator[str]:
        """The video, or the extracted frames of the clip."""
        yield from _frame_names(spec) if spec["frames"] else [spec["path"]]

    def in_words(self, plan: Plan) -> str:
        """Clips, and tiles of each if it is cut."""
        spec = media_specs(plan.messages)[0]
        tiles = _tiles(spec)
        return f"{spec['clips']} clips" + (f" of {tiles} tiles" if tiles > 1 else "")

    def level(self, given: Any) -> Level | None:
        """A number of clips, two or more."""
        return int(given) if is_count(given) and given > 1 else None

    def at_level(self, row: Row, level: Level) -> Row:
        """The row with another number of clips; not of extracted frames, which are of its own clips alone."""
        (struct,) = row["videos"]
        if struct.get("frames") is not None:
            raise RowError("a difficulty schedule needs the videos; make the rows without extracting frames")
        return {**row, "videos": [{**struct, "jigsaw_clip_num": level, "clip_order": None}]}

    def wording(self, said: Spec) -> dict[str, int]:
        """The number of clips, and the grid of each if there is one."""
        return {"clips": said["clips"], **dict(zip(("rows", "columns"), said["grid"] or (), strict=False))}


def _grid(struct: Mapping[str, Any]) -> list[int] | None:
    given = struct.get("spatial_jigsaw_grid_config")
    if given is None:
        return None
    grid = whole_numbers(given, 2)
    if grid is None or min(grid) < 1:
        raise RowError(f"videos[0].spatial_jigsaw_grid_config is {given!r:.60}; it must be [rows, columns] or null")
    return grid


def _clips(struct: Mapping[str, Any], grid: list[int] | None) -> int:
    tiles = grid[0] * grid[1] if grid else 1
    order = struct.get("clip_order")
    if order is not None and not isinstance(order, (list, tuple)):
        raise RowError(f"videos[0].clip_order is {order!r:.60}; it must be a list with one entry a piece, or null")
    clips = _whole(struct, "jigsaw_clip_num", len(order) // tiles if order else 0)
    if clips * tiles < 2:
        raise RowError(f"videos[0].jigsaw_clip_num is {clips}; a puzzle needs two pieces or more")
    if order and len(order) != clips * tiles:
        raise RowError(
            f"videos[0].clip_order has {len(order)} entries; {clips} clips of {tiles} tiles make {clips * tiles} pieces"
        )
    return clips


def _extracted(struct: Mapping[str, Any], clips: int) -> list[list[int]] | None:
    """The indices of extracted frames; None for a video."""
    given = struct.get("frames")
    if given is None:
        return None
    found = [whole_numbers(clip) for clip in given] if isinstance(given, (list, tuple)) else []
    frames = [clip for clip in found if clip is not None]
    lengths = {len(clip) for clip in frames}
    flat = [index for clip in frames for index in clip]
    if len(frames) != clips or len(found) != clips or len(lengths) != 1 or lengths.pop() % 2 or not flat:
        raise RowError(
            f"videos[0].frames is {given!r:.60}; it must hold {clips} lists of frame indices, all of one even length"
        )
    if flat[0] < 0 or any(later <= earlier for earlier, later in pairwise(flat)):
        raise RowError(f"videos[0].frames is {given!r:.60}; its indices must rise from 0 or more")
    return frames


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _whole(struct: Mapping[str, Any], name: str, default: int, *, least: int = 1) -> int:
    given = struct.get(name)
    if given is None:
        return default
    numbers = whole_numbers([given])
    if numbers is None or numbers[0] < least:
        raise RowError(f"videos[0].{name} is {given!r:.60}; it must be a whole number, {least} or more, or null")
    return numbers[0]


def _rate(struct: Mapping[str, Any], name: str, default: float | None = None) -> float:
    given = struct.get(name)
    value = default if given is None else given
    if value is None or not _is_number(value) or not 0 < value <= sys.float_info.max:
        raise RowError(f"videos[0].{name} is {given!r:.60}; it must be a number of frames a second")
    return float(value)


def _tiles(video: Spec) -> int:
    rows, columns = video["grid"] or (1, 1)
    return int(rows * columns)


def _by_video(wanted: Sequence[Spec]) -> dict[str, list[Spec]]:
    """One spec a clip of each video."""
    videos: dict[str, dict[int, Spec]] = {}
    for spec in wanted:
        videos.setdefault(_key(spec), {})[spec["clip"]] = spec
    return {key: list(clips.values()) for key, clips in videos.items()}


def _key(spec: Spec) -> str:
    """What specs of one video have in common."""
    return json.dumps({name: value for name, value in spec.items() if name not in ("clip", "tile", "frames")})


def _bounds(spec: Spec, options: CutOptions) -> Bounds:
    return Bounds(options.factor, spec["min_pixels"], spec["max_pixels"])


def _indices(spec: Spec, info: VideoInfo) -> list[tuple[int, ...]]:
    """Frame indices of all clips of a video."""
    rules = {name: spec[name] for name in ("clips", "trim", "fps", "min_frames", "max_frames")}
    try:
        return clip_indices(info.frames, info.fps, **rules)
    except ValueError as error:
        raise MediaError(spec["path"], f"{error}; leave it out or lower the number of clips") from error


def _frame_paths(spec: Spec, media_root: str | os.PathLike[str]) -> list[Path]:
    """The extracted frames of a spec's clip."""
    return [media_path(name, media_root) for name in _frame_names(spec)]


def _frame_names(spec: Spec) -> list[str]:
    return [f"{spec['path']}/{FRAME_NAME.format(index)}" for index in spec["frames"]]


def _sizes(found: Sequence[Spec], media_root: str | os.PathLike[str], options: CutOptions) -> dict[int, Medium]:
    """Sizes of clips of one video by number, one spec each."""
    spec, bounds = found[0], _bounds(found[0], options)
    if spec["frames"]:
        paths = [path for one in found for path in _frame_paths(one, media_root)]
        (width, height), *others = map(image_size, paths)
        for path, size in zip(paths[1:], others, strict=True):
            if size != (width, height):
                raise MediaError(path, "is of another size than the frames before it; extract the frames again")
        height, width = extracted_size(paths[0], bounds, height, width)
        counts = [len(one["frames"]) for one in found]
    else:
        file = media_path(spec["path"], media_root)
        info = probe(file)
        height, width = frame_size(file, bounds, info.height, info.width)
        counts = [len(indices) for indices in _indices(spec, info)]
        counts = [counts[one["clip"]] for one in found]
    _check_memory(spec, width, height, counts)
    return {one["clip"]: (width, height, count) for one, count in zip(found, counts, strict=True)}


def _check_memory(spec: Spec, width: int, height: int, counts: Sequence[int]) -> None:
    """Raise MediaError if clips of so many frames would take more memory than a puzzle may."""
    if (needed := 3 * width * height * sum(counts)) > MOST_BYTES:
        raise MediaError(
            spec["path"],
            f"its frames take too much memory ({sum(counts)} of {width}×{height} pixels, "
            f"{needed / (1 << 30):.1f} GiB); lower its max_pixels, min_pixels or fps_max_frames",
        )


def _read(found: Sequence[Spec], media_root: str | os.PathLike[str], options: CutOptions) -> dict[int, Clip]:
    """Clips of one video by number, one spec each."""
    spec, bounds = found[0], _bounds(found[0], options)
    if spec["frames"]:
        paths = [_frame_paths(one, media_root) for one in found]
        width, height = image_size(paths[0][0])
        height, width = extracted_size(paths[0][0], bounds, height, width)
        _check_memory(spec, width, height, [len(one["frames"]) for one in found])
        return {
            one["clip"]: read_extracted(files, one["frames"], fps=spec["source_fps"], bounds=bounds)
            for one, files in zip(found, paths, strict=True)
        }
    file = media_path(spec["path"], media_root)
    info = probe(file)
    clips = _indices(spec, info)
    wanted = [clips[one["clip"]] for one in found]
    height, width = frame_size(file, bounds, info.height, info.width)
    _check_memory(spec, width, height, [len(indices) for indices in wanted])
    read = read_clips(file, wanted, info, bounds=bounds)
    return {one["clip"]: clip for one, clip in zip(found, read, strict=True)}


def piece_size(clip: Medium, grid: Sequence[int] | None, factor: int) -> Medium:
    """The size of a piece of a clip: the clip's own, or that of a tile.

    The sides of a tile are multiples of the factor; what does not divide is cropped from the clip's edges.

    Raises:
        ValueError: if the frames are too small for the grid.
    """
    if not grid:
        return clip
    (rows, columns), (width, height, frames) = grid, clip
    tile = width // (columns * factor) * factor, height // (rows * factor) * factor
    if not min(tile):
        raise ValueError(
            f"frames of {width}×{height} pixels cannot be cut into {rows} rows and {columns} columns "
            f"of {factor} pixels or more"
        )
    return *tile, frames


def _piece_size(clip: Medium, spec: Spec, factor: int) -> Medium:
    try:
        return piece_size(clip, spec["grid"], factor)
    except ValueError as error:
        raise MediaError(spec["path"], f"{error}; choose a smaller grid or more pixels") from error


def _tile(clip: Clip, spec: Spec, factor: int) -> Clip:
    """A tile of a clip, sides multiples of the factor."""
    if not spec["grid"]:
        return clip
    rows, columns = spec["grid"]
    count, _, height, width = clip.frames.shape
    across, down, _ = _piece_size((width, height, count), spec, factor)
    x, y, _, _ = center_crop_box((width, height), (across * columns, down * rows))
    left, top = x + spec["tile"] % columns * across, y + spec["tile"] // columns * down
    # A copy, so that a piece that travels does not carry its clip along.
    frames = clip.frames[:, :, top : top + down, left : left + across].clone()
    return Clip(frames, clip.indices, clip.fps)
