"""RGB-D scenes, one frame at a time: ScanNet's ``.sens`` files, read as a stream, and folders of pictures and maps."""

import os
import struct
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
from PIL import Image

from jigsaw.errors import MediaError
from jigsaw.media.camera import Intrinsics, Size, read_matrix
from jigsaw.media.image import opened

COLOUR_FOLDERS = ("color", "rgb", "image", "images")
"""Names of the folder of pictures beside a folder ``depth``; the first that is there is taken."""

_PICTURES = (".jpg", ".jpeg", ".png")
_INTRINSICS = (
    ("intrinsic/intrinsic_color.txt", "intrinsic/intrinsic_depth.txt"),  # as ScanNet's tools export a scene
    ("intrinsics_color.txt", "intrinsics_depth.txt"),  # its subset of 25,000 frames
)
_MILLIMETRES = 1000  # a metre
_LONGEST_READING = 65535  # units

_RAW, _PNG, _JPEG = 0, 1, 2
_RAW_DEPTH, _ZLIB_DEPTH, _OCCI_DEPTH = 0, 1, 2
_MATRICES = struct.Struct("<64f")
_SIZES = struct.Struct("<iiIIIIfQ")
_FRAME = struct.Struct("<16f4Q")
_LONGEST_NAME = 4096
_SLACK = 1 << 16
_EXIF_ORIENTATION = 274


class CutOffError(MediaError):
    """A ``.sens`` file ends, or makes no sense, from some frame on."""


@dataclass(frozen=True)
class Frame:
    """One view of a scene.

    Attributes:
        colour: the encoded picture: its file, or its bytes.
        size: (width, height) of the picture in pixels.
        depth: metres along the camera's z axis, float32 (H, W); 0 where there is no reading.
        pose: camera to world, float64 (4, 4), finite; None where the scene has none.
    """

    colour: Path | bytes
    size: Size
    depth: npt.NDArray[np.float32]
    pose: npt.NDArray[np.float64] | None

    def encoded(self) -> bytes:
        """The bytes of the encoded picture.

        Raises:
            MediaError: if its file cannot be read.
        """
        if isinstance(self.colour, bytes):
            return self.colour
        try:
            return self.colour.read_bytes()
        except OSError as error:
            raise MediaError(self.colour, f"cannot be read ({error.strerror}); make it readable") from error


class SensScene:
    """A ``.sens`` file. Frames that are not asked for are skipped by their byte counts.

    Attributes:
        cameras: intrinsics of colour and depth.
    """

    def __init__(self, file: IO[bytes], path: Path):
        """Read the header.

        Raises:
            MediaError: if it is none that can be read.
        """
        self.path = path
        self._file = file
        self._length = os.fstat(file.fileno()).st_size
        version, name_length = struct.unpack("<IQ", self._take(12))
        if version != 4 or name_length > _LONGEST_NAME:
            raise MediaError(path, "is no .sens file of version 4; download it again")
        self._take(name_length)
        matrices = np.array(_MATRICES.unpack(self._take(_MATRICES.size))).reshape(4, 4, 4)
        colour_camera, colour_place, depth_camera, depth_place = matrices
        (self._colour_kind, self._depth_kind, *sides, self._units, count) = _SIZES.unpack(self._take(_SIZES.size))
        self._count: int = count
        self._colour_size, self._depth_size = (sides[0], sides[1]), (sides[2], sides[3])
        if self._depth_kind == _OCCI_DEPTH:
            raise MediaError(path, "its depth maps are compressed by occi, which is not read; export the scene")
        if self._colour_kind not in (_RAW, _PNG, _JPEG) or self._depth_kind not in (_RAW_DEPTH, _ZLIB_DEPTH):
            raise MediaError(path, "its header names an unknown compression; download it again")
        most = Image.MAX_IMAGE_PIXELS or 1 << 32
        if not all(0 < width * height <= most for width, height in (self._colour_size, self._depth_size)):
            raise MediaError(path, "its header names sizes of pictures that make no sense; download it again")
        # The longest reading in metres must be a number, too.
        if not _LONGEST_READING / np.finfo(np.float32).max < self._units < np.inf:
            raise MediaError(path, "its header names a unit of depth that makes no sense; download it again")
        # Then no pixel would lie where the intrinsics alone put it. In ScanNet both are the identity.
        if not np.allclose(colour_place, depth_place, atol=1e-3):
            raise MediaError(path, "its two cameras stand in different places; export depth maps laid over the colour")
        if self._count * _FRAME.size > self._length:
            raise MediaError(path, "names more frames than its bytes can hold; download it again")
        self.cameras = Intrinsics.from_matrix(colour_camera), Intrinsics.from_matrix(depth_camera)
        self._starts = [file.tell()]  # of the frames walked so far and of the one after them, in bytes

    def __len__(self) -> int:
        """Number of frames that the header names."""
        return self._count

    def name(self, index: int) -> str:
        """File name of a frame's picture, by its 0-based number."""
        return f"{index:06d}" + (".jpg" if self._colour_kind == _JPEG else ".png")

    def frame(self, index: int) -> Frame:
        """Read one frame; cheapest in ascending order.

        Raises:
            CutOffError: if the file is cut off or damaged in this frame or before.
            MediaError: if this frame alone cannot be used.
        """
        while len(self._starts) <= index:
            self._head(len(self._starts) - 1)
        pose, colour_bytes, depth_bytes = self._head(index)
        if not np.isfinite(pose).all():
            raise MediaError(self.path, "tracking was lost, so there is no pose")
        colour, depth = self._take(colour_bytes), self._take(depth_bytes)
        return Frame(self._picture(colour), self._colour_size, self._depth_map(depth), pose)

    def _take(self, count: int) -> bytes:
        try:
            data = self._file.read(count)
        except OSError as error:
            raise MediaError(self.path, f"cannot be read ({error.strerror}); make it readable") from error
        if len(data) < count:
            raise MediaError(self.path, "ends within its header; download it again")
        return data

    def _head(self, index: int) -> tuple[npt.NDArray[np.float64], int, int]:
        """Pose and the byte counts of colour and depth of a frame whose start is known; the file then stands after."""
        start = self._starts[index]
        end = start + _FRAME.size
        colour_bytes = depth_bytes = 0
        if end <= self._length:
            self._file.seek(start)
            *pose, _, _, colour_bytes, depth_bytes = _FRAME.unpack(self._take(_FRAME.size))
            end += colour_bytes + depth_bytes
        (width, height), (columns, rows) = self._colour_size, self._depth_size
        # No codec makes more of a picture than this; a number that is wrong would else fill the memory.
        too_long = colour_bytes > 4 * width * height + _SLACK or depth_bytes > 4 * columns * rows + _SLACK
        if end > self._length or too_long:
            raise CutOffError(self.path, f"is cut off or damaged; download it again (frame {index} of {self._count})")
        if index + 1 == len(self._starts):
            self._starts.append(end)
        return np.array(pose).reshape(4, 4), colour_bytes, depth_bytes

    def _picture(self, data: bytes) -> bytes:
        """The encoded picture; raw pixels as PNG."""
        if self._colour_kind == _RAW:
            if len(data) != 3 * self._colour_size[0] * self._colour_size[1]:
                raise MediaError(self.path, "its colour has not the size that the header names")
            encoded = BytesIO()
            Image.frombytes("RGB", self._colour_size, data).save(encoded, "PNG")
            return encoded.getvalue()
        if _upright_size(BytesIO(data), self.path) != self._colour_size:
            raise MediaError(self.path, "its colour has not the size that the header names")
        return data

    def _depth_map(self, data: bytes) -> npt.NDArray[np.float32]:
        width, height = self._depth_size
        if self._depth_kind == _ZLIB_DEPTH:
            try:
                # One byte more than wanted tells what is too long, and nothing can grow beyond it.
                data = zlib.decompressobj().decompress(data, 2 * width * height + 1)
            except zlib.error as error:
                raise MediaError(self.path, f"its depth map is damaged ({error})") from error
        if len(data) != 2 * width * height:
            raise MediaError(self.path, "its depth map has not the size that the header names")
        return _metres(np.frombuffer(data, "<u2").reshape(height, width), self._units)


class FolderScene:
    """A folder of pictures and one of depth maps, 16-bit PNG in millimetres; a frame is a pair of one name.

    Attributes:
        cameras: intrinsics of colour and depth; None where the folder has none.
    """

    def __init__(self, path: Path):
        """List the frames.

        Raises:
            MediaError: if a folder or the intrinsics cannot be read.
        """
        self.path = path
        try:
            self._frames = _pairs(path)
        except OSError as error:
            raise MediaError(path, f"cannot be listed ({error.strerror}); make it readable") from error
        self.cameras: tuple[Intrinsics, Intrinsics] | None = None
        if names := _intrinsics(path):
            colour, depth = (Intrinsics.from_matrix(read_matrix(path / name)) for name in names)
            self.cameras = colour, depth

    def __len__(self) -> int:
        """Number of frames."""
        return len(self._frames)

    def name(self, index: int) -> str:
        """Path of a frame's picture below the scene's folder, by its 0-based number."""
        return self._frames[index][0]

    def frame(self, index: int) -> Frame:
        """Read one frame.

        Raises:
            MediaError: if it cannot be used.
        """
        name, stem = self._frames[index]
        pose = None
        if (pose_path := self.path / "pose" / f"{stem}.txt").is_file():
            pose = read_matrix(pose_path)
            if not np.isfinite(pose).all():
                raise MediaError(self.path / name, "tracking was lost, so there is no pose")
        size = _upright_size(self.path / name, self.path / name)
        return Frame(self.path / name, size, read_depth(self.path / "depth" / f"{stem}.png"), pose)


def scene_files(path: Path) -> list[str]:
    """The files of a scene's folder that decide its frames, relative to it.

    Raises:
        OSError: if a folder cannot be listed.
    """
    pairs = _pairs(path)
    poses = set(os.listdir(path / "pose")) if (path / "pose").is_dir() else set()
    files = [file for picture, stem in pairs for file in (picture, f"depth/{stem}.png")]
    files += [f"pose/{stem}.txt" for _, stem in pairs if f"{stem}.txt" in poses]
    return [*files, *_intrinsics(path)]


def _pairs(path: Path) -> list[tuple[str, str]]:
    """Each frame of a scene's folder: its picture, relative to the folder, and the name that its files share."""
    folder = colour_folder(os.listdir(path)) or COLOUR_FOLDERS[0]
    pictures, maps = sorted(os.listdir(path / folder)), set(os.listdir(path / "depth"))
    stems = {Path(name).stem: name for name in pictures if name.lower().endswith(_PICTURES)}
    # Numbers without zeros in front count up, too.
    ordered = sorted(stems, key=lambda stem: (len(stem), stem))
    return [(f"{folder}/{stems[stem]}", stem) for stem in ordered if f"{stem}.png" in maps]


def _intrinsics(path: Path) -> tuple[str, ...]:
    """The files of the intrinsics of colour and depth in a scene's folder; none unless both are there."""
    return next((names for names in _INTRINSICS if all((path / name).is_file() for name in names)), ())


def colour_folder(names: Collection[str]) -> str | None:
    """The folder of pictures among the names in a folder; None where it is no RGB-D scene."""
    return next((name for name in COLOUR_FOLDERS if name in names), None) if "depth" in names else None


@contextmanager
def open_scene(path: Path) -> Iterator[SensScene | FolderScene]:
    """Open a ``.sens`` file or a scene's folder.

    Raises:
        MediaError: if it cannot be read.
    """
    if path.is_dir():
        yield FolderScene(path)
        return
    try:
        file = path.open("rb", buffering=0)  # buffers would be filled with bytes that are skipped
    except OSError as error:
        raise MediaError(path, f"cannot be read ({error.strerror}); make it readable") from error
    with file:
        yield SensScene(file, path)


def read_depth(path: str | os.PathLike[str]) -> npt.NDArray[np.float32]:
    """A depth map in metres, (H, W), from a 16-bit PNG in millimetres; 0 where there is no reading.

    Raises:
        MediaError: if the file is missing, damaged or no such map.
    """
    with opened(path) as image:
        if image.mode != "I;16":
            raise MediaError(path, "is no depth map; it must be a grey PNG of 16 bits, in millimetres")
        return _metres(np.asarray(image), _MILLIMETRES)


def _metres(values: npt.NDArray[np.uint16], units: float) -> npt.NDArray[np.float32]:
    metres: npt.NDArray[np.float32] = (values / np.float32(units)).astype(np.float32, copy=False)
    return metres


def _upright_size(source: Path | BytesIO, path: Path) -> Size:
    """(width, height) of a picture, from its header; it must be stored upright, as its depth map is."""
    try:
        with opened(source) as image:  # type: ignore[arg-type]
            # Pillow's own method for PNG would decode it.
            if Image.Image.getexif(image).get(_EXIF_ORIENTATION, 1) != 1:
                raise MediaError(path, "is stored turned, unlike its depth map; store it upright")
            return image.size
    except MediaError as error:
        raise MediaError(path, error.why) from error
