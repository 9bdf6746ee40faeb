"""RGB-D scenes to rows of the depth jigsaw: ScanNet, raw and exported, or any folder of pictures and depth maps."""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from jigsaw.errors import JigsawError, MediaError, OptionError
from jigsaw.files import atomic_write
from jigsaw.media.camera import Size, register
from jigsaw.media.image import largest_size, scaled_size
from jigsaw.media.rgbd import CutOffError, FolderScene, SensScene, colour_folder, open_scene, scene_files
from jigsaw.prepare.frames import Frames
from jigsaw.prepare.images import NO_SIZE
from jigsaw.prepare.pipeline import (
    Options,
    Sources,
    row_schema,
    stamp_of,
    usable_file,
    walk,
)
from jigsaw.prompts import render
from jigsaw.reader import Record
from jigsaw.tasks.depth import MOST_POINTS, RADIUS, choose_points
from jigsaw.tokens import media_tokens

if TYPE_CHECKING:
    import pyarrow as pa

SENS = ".sens"

_SCAN = re.compile(r"(scene\d{4})_\d{2}")

SHARD_SIZE = 1
"""Scenes a shard: one takes a second or two."""
TIME_LIMIT = 1800
"""Seconds that a scene may take: its frames may come from a slow disk."""


@dataclass(frozen=True, kw_only=True)
class DepthOptions(Options):
    """What decides the rows, besides the scenes.

    Attributes:
        points: number of points a picture (paper: 6).
        samples_per_scene: frames a scene at most, spread evenly; each gives one row (paper: 300K of 1,500 scenes).
        max_side: pixels; pictures with a longer side are shown scaled down to it, so that the model sees the discs as
            they are drawn. Those that do not fit the prompt even then are scaled down further.
        extract_frames: folder that gets the pictures of the rows, as they are; the rows hold paths relative to it. None
            for paths relative to the media root, where there are no ``.sens`` files.
    """

    points: int = 6
    samples_per_scene: int = 200
    max_side: int = 1296
    extract_frames: Path | None = None

    def validate(self) -> None:
        """Raise JigsawError if a value makes no sense."""
        if not 2 <= self.points <= MOST_POINTS:
            raise OptionError("points", self.points, f"must be 2 to {MOST_POINTS}")
        if self.samples_per_scene < 1:
            raise OptionError("samples_per_scene", self.samples_per_scene, "must be 1 or more")
        if self.max_side < 4 * RADIUS:
            raise OptionError("max_side", self.max_side, f"must be {4 * RADIUS} pixels or more")
        super().validate()

    def arguments(self) -> dict[str, Any]:
        """All of it as JSON values, as the manifest says it; of the frames' folder, whether there is one."""
        return {**super().arguments(), "extract_frames": self.extract_frames is not None}

    @property
    def prompt(self) -> str:
        """The text of every row's prompt."""
        return render("depth", self.answer_format, points=self.points)

    @property
    def media(self) -> int:
        """1, the picture."""
        return 1

    def sources(self, media_root: Path, only: str | None = None) -> Sources:
        """The scenes below a folder."""
        found = list_scenes(media_root) if only is None else [only]
        if self.extract_frames is None and (sens := next((scene for scene in found if scene.endswith(SENS)), None)):
            raise OptionError(
                "extract_frames",
                None,
                f"{media_root} holds {SENS} files ({sens}); name a folder, which gets the pictures of the rows",
            )
        frames: Frames | None = None
        if self.extract_frames is not None:
            if self.extract_frames.resolve() == media_root.resolve():
                raise OptionError("extract_frames", self.extract_frames, "is the folder of the scenes; choose another")
            frames = Frames(self.extract_frames.absolute(), partial(frames_place, media_root=media_root.absolute()))
        return Sources(
            command="prepare depth",
            paths=found,
            noun="scenes",
            look=partial(look_at_scene, media_root=media_root.absolute(), options=self, frames=frames),
            row=partial(depth_row, options=self),
            schema=depth_schema(),
            libraries=("pillow", "numpy"),
            shard_size=SHARD_SIZE,
            time_limit=TIME_LIMIT,
            files=scene_files,
            frames=frames,
            group=room,
        )

    def fits(self, size: Size) -> bool:
        """Whether a picture of this (width, height) fits the prompt."""
        try:
            return media_tokens([(*size, 1)]) <= self.room
        except ValueError:
            return False


def list_scenes(media_root: Path) -> list[str]:
    """POSIX paths of all scenes below a folder, relative to it and sorted: ``.sens`` files and folders.

    A ``.sens`` file beside its export is left out. Linked folders are not entered; those that lead outside are listed,
    so that they are rejected where people see it.

    Raises:
        JigsawError: if the folder or one below it cannot be read, or there is no scene.
    """
    scenes = []
    for folder, folders, files, outside in walk(media_root, "scenes"):
        if colour_folder(folders):
            scenes.append(folder.as_posix())
            folders.clear()
        else:
            scenes += [(folder / name).as_posix() for name in files if name.endswith(SENS)]
            scenes += outside
    if not scenes:
        raise JigsawError(
            f"{media_root}: holds no scenes; they are {SENS} files, or folders that hold a folder depth and one of "
            "pictures (color, rgb, image, images)"
        )
    return sorted(scenes)


def room(scene: str) -> str:
    """Name of the room that a scene shows: ScanNet's ``sceneNNNN_NN`` are scans of room ``sceneNNNN``.

    >>> room("scans/scene0012_01/scene0012_01.sens"), room("scannet_frames_25k/scene0012_00"), room("lab/desk")
    ('scene0012', 'scene0012', 'lab/desk')
    """
    scan = _SCAN.fullmatch(PurePosixPath(scene).name.removesuffix(SENS))
    return scan[1] if scan else scene


def look_at_scene(scene: str, *, media_root: Path, options: DepthOptions, frames: Frames | None) -> list[Record]:
    """The records of a scene, one a sampled frame: what its row needs, or the reason why there is none.

    A record holds ``path`` of the picture, ``scene``, ``width`` and ``height`` of the file in pixels, ``resize`` as
    [width, height] or [-1, -1], the picture's ``tokens``, ``points`` as [y, x] pixels of the file, nearest first, and
    their ``depths`` in metres.

    Args:
        scene: path relative to ``media_root``.
        media_root: folder that the scene must not leave.
        options: what decides the rows.
        frames: where the pictures of the rows go; None to leave them where they are.
    """
    path = media_root / scene
    try:
        if path.is_dir():
            _check_inside(path, media_root)
        else:
            usable_file(scene, media_root)
        with open_scene(path) as opened:
            return list(_frame_records(opened, scene, media_root, options, frames))
    except MediaError as error:
        return [{"reason": _reason(error, path)}]


def _frame_records(
    opened: SensScene | FolderScene,
    scene: str,
    media_root: Path,
    options: DepthOptions,
    frames: Frames | None,
) -> Iterator[Record]:
    if len(opened) == 0:
        raise MediaError(None, "holds no frames; a picture and its depth map must have one name")
    folder = PurePosixPath(scene if isinstance(opened, FolderScene) else scene.removesuffix(SENS))
    target: Path | None = None
    for index in sampled_frames(len(opened), options.samples_per_scene, [options.seed, scene]):
        path = (folder / opened.name(index)).as_posix()
        try:
            if isinstance(opened, FolderScene):
                usable_file(path, media_root)
            frame = opened.frame(index)
            pixels = register(frame.size, (frame.depth.shape[1], frame.depth.shape[0]), opened.cameras)
            allowed = shown_size(frame.size, options.max_side)
            if (resize := largest_size(allowed, options.fits)) is None:
                raise MediaError(None, f"its picture cannot be made to fit the prompt ({allowed[0]}×{allowed[1]})")
            points, depths = choose_points(
                frame.depth,
                pixels,
                frame.size,
                count=options.points,
                shrink=min(resize[0] / frame.size[0], resize[1] / frame.size[1]),
                key=[options.seed, scene, opened.name(index)],
            )
            encoded = frame.encoded() if frames is not None else b""
        except CutOffError as error:
            yield {"reason": _reason(error, opened.path)}
            return
        except MediaError as error:
            yield {"path": path, "reason": _reason(error, opened.path)}
            continue
        if frames is not None:
            if target is None:
                target = frames.claim(scene, stamp_of(scene, media_root, scene_files))
            with atomic_write(target / PurePosixPath(path).name) as file:
                file.write(encoded)
        yield {
            "path": path,
            "scene": scene,
            "width": frame.size[0],
            "height": frame.size[1],
            "resize": list(resize) if resize != frame.size else list(NO_SIZE),
            "tokens": media_tokens([(*resize, 1)]),
            "smaller": resize != allowed,
            "points": points,
            "depths": depths,
        }


def sampled_frames(count: int, samples: int, key: list[str | int]) -> list[int]:
    """``samples`` of ``count`` frames, or all if fewer: ascending, evenly spread, from a start that ``key`` draws.

    >>> sampled_frames(3, 5, ["a"])
    [0, 1, 2]
    """
    if count <= samples:
        return list(range(count))
    start = int.from_bytes(hashlib.sha256(json.dumps(key).encode()).digest()[:4], "big")
    return [((place << 32) + start) * count // (samples << 32) for place in range(samples)]


def shown_size(size: Size, max_side: int) -> Size:
    """(width, height) scaled down so that no side is longer than ``max_side`` pixels.

    >>> shown_size((4032, 3024), 1296)
    (1296, 972)
    """
    return size if max(size) <= max_side else scaled_size(size, max_side)


def frames_place(scene: str, media_root: Path) -> str:
    """Where the extracted pictures of a scene go, as a POSIX path: its own, without its suffix."""
    if not (media_root / scene).is_dir():
        return scene.removesuffix(SENS)
    return f"{scene}/{colour_folder(os.listdir(media_root / scene))}"


def _check_inside(folder: Path, media_root: Path) -> None:
    if not Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(media_root)):
        raise MediaError(None, "leaves the media root; move the folder below it or choose another root")


def _reason(error: MediaError, scene: Path) -> str:
    """An error without its file, which the record names; of files in the scene's folder the kind is left."""
    if error.path is None or not (path := Path(error.path)).is_relative_to(scene) or path == scene:
        return error.why
    return f"{path.relative_to(scene).parts[0]}: {error.why}"


def depth_schema() -> "pa.Schema":
    """The schema of depth rows."""
    import pyarrow as pa

    pair = pa.list_(pa.int64())
    image = pa.struct([("path", pa.string()), ("points", pa.list_(pair)), ("resize_size", pair)])
    return row_schema(
        "images",
        image,
        [
            ("width", pa.int64()),
            ("height", pa.int64()),
            ("scene", pa.string()),
            ("depths", pa.list_(pa.float64())),
            ("draw", pa.string()),
        ],
    )


def depth_row(record: Record, index: int, split: str, options: DepthOptions) -> Record:
    """The row of one frame.

    Args:
        record: of :func:`look_at_scene`.
        index: 0-based place of the row in its file.
        split: name of the split.
        options: the number of points and the answer format.
    """
    from jigsaw.tasks.depth import AFTER_RESIZE, DATA_SOURCE

    return {
        "data_source": DATA_SOURCE,
        "prompt": [{"role": "user", "content": options.prompt}],
        "images": [{"path": record["path"], "points": record["points"], "resize_size": record["resize"]}],
        "reward_model": {"style": "rule", "ground_truth": ""},
        "extra_info": {
            # With the number of points, so that files of several numbers can be put together.
            "id": f"{record['path']}#{options.points}",
            "index": index,
            "split": split,
            "answer_format": options.answer_format,
            "width": record["width"],
            "height": record["height"],
            "scene": record["scene"],
            "depths": record["depths"],
            "draw": AFTER_RESIZE,
        },
    }
