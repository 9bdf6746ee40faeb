"""Rendered rooms with exact depth and poses, and writers of every layout that posed RGB-D scenes come in.

A room is a box with boxes in it; the camera stands inside. Camera: x right, y down, z forward; world: z up, metres.
"""

import hashlib
import os
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from jigsaw.media.camera import Intrinsics

Array = npt.NDArray[np.floating[Any]]
Size = tuple[int, int]
"""(width, height) in pixels."""
Layout = Literal["sens", "exported", "25k", "folder"]

COLOUR_SIZE: Size = (648, 484)
DEPTH_SIZE: Size = (320, 240)
"""ScanNet's sizes (1296×968 and 640×480) by a half."""

LOST = np.full((4, 4), -np.inf)
"""The pose that says that tracking was lost."""


@dataclass(frozen=True)
class View:
    """One rendered view.

    Attributes:
        colour: RGB image.
        depth: metres along the camera's z axis, float32 (H, W); the size need not be the picture's.
        pose: camera to world, float64 (4, 4).
    """

    colour: Image.Image
    depth: Array
    pose: Array


def intrinsics(size: Size) -> Intrinsics:
    """Intrinsics of a camera with ScanNet's field of view (58° across) and pictures of this size."""
    focal = 0.9 * size[0]
    return Intrinsics(focal, focal, (size[0] - 1) / 2, (size[1] - 1) / 2)


def render_views(
    seed: int, scene: int, count: int, *, colour_size: Size = COLOUR_SIZE, depth_size: Size = DEPTH_SIZE
) -> list[View]:
    """Views of one room, a pure function of the arguments: the camera goes round in it, looking inwards and down.

    Args:
        seed: names a series of rooms.
        scene: 0-based number of the room in its series.
        count: number of views.
        colour_size: (width, height) of the pictures.
        depth_size: (width, height) of the depth maps.
    """
    rng = np.random.default_rng(list(hashlib.sha256(f"room/{seed}/{scene}".encode()).digest()))
    boxes, colours = _room(rng)
    views = []
    for angle in rng.uniform(0, 2 * np.pi) + np.arange(count) * (2 * np.pi / max(count, 12)):
        eye = np.array([2.4 * np.cos(angle), 2.4 * np.sin(angle), rng.uniform(1.3, 1.7)])
        pose = look_at(eye, rng.uniform((-0.6, -0.6, 0.4), (0.6, 0.6, 0.9)))
        depth, *_ = cast(boxes, pose, intrinsics(depth_size), depth_size)
        views.append(View(shaded(boxes, colours, pose, intrinsics(colour_size), colour_size), depth, pose))
    return views


def look_at(eye: Array, target: Array) -> Array:
    """The camera-to-world pose (4, 4) of an upright camera at ``eye`` that looks at ``target``."""
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3] = np.column_stack((right, np.cross(forward, right), forward, eye))
    return pose


def _room(rng: np.random.Generator) -> tuple[Array, Array]:
    """Corners (N, 2, 3) of the walls (first) and of the furniture, and their colours (N, 3) in 0..1."""
    walls = np.array([[[-3.2, -3.2, 0.0], [3.2, 3.2, 2.7]]])
    foot = np.column_stack((rng.uniform(-1.7, 1.7, (9, 2)), np.zeros(9)))
    extent = np.column_stack((rng.uniform(0.2, 0.9, (9, 2)), rng.uniform(0.3, 1.4, 9)))
    furniture = np.stack((foot, foot + extent), axis=1)
    return np.concatenate((walls, furniture)), rng.uniform(0.25, 0.95, (10, 3))


def cast(boxes: Array, pose: Array, camera: Intrinsics, size: Size) -> tuple[Array, npt.NDArray[np.intp], Array]:
    """Depth (H, W), number of the box that is seen (H, W) and the point in the world that is seen (3, H, W).

    Args:
        boxes: two corners of each (N, 2, 3), low and high, in metres; the first is the room, which is seen from inside.
        pose: camera to world (4, 4).
        camera: its intrinsics.
        size: (width, height) of the picture.
    """
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    rays = np.stack(((x - camera.cx) / camera.fx, (y - camera.cy) / camera.fy, np.ones(x.shape)))
    # Not by BLAS, whose threads are in each other's way where several processes render.
    rays = np.einsum("ij,jyx->iyx", pose[:3, :3].astype(np.float32), rays.astype(np.float32))
    eye, inverse = pose[:3, 3].astype(np.float32), 1 / rays
    depth, seen = np.full(x.shape, np.inf, np.float32), np.zeros(x.shape, np.intp)
    for number, box in enumerate(boxes.astype(np.float32)):
        # A ray's crossings with the planes of the box, (2, axis, H, W). Depth is the factor of a ray whose z is 1 in
        # the camera. The room, which is the first, is seen from inside.
        crossings = (box - eye)[:, :, None, None] * inverse
        enters, leaves = crossings.min(axis=0).max(axis=0), crossings.max(axis=0).min(axis=0)
        hit = np.where((enters < leaves) & (enters > 0), enters, np.inf) if number else leaves
        seen[hit < depth] = number
        depth = np.minimum(hit, depth)
    return depth, seen, eye[:, None, None] + depth * rays


def shaded(
    boxes: Array,
    colours: Array,
    pose: Array,
    camera: Intrinsics,
    size: Size,
    contrast: Array | float = 0.12,
    shade: Array | float = 0.0,
) -> Image.Image:
    """The picture of boxes, each of a colour (N, 3) in 0..1, with checks of 25 cm of a contrast; see :func:`cast`.

    ``shade`` is what their left half, by x, is brighter than the right one.
    """
    _, seen, points = cast(boxes, pose, camera, size)
    # The face that is seen is the one whose plane the point lies in; each faces the light in its own way.
    face = np.abs(boxes.astype(np.float32)[seen].transpose(2, 3, 0, 1) - points).min(axis=0).argmin(axis=0)
    light = np.array([0.72, 0.86, 1.0])[face]
    parity = np.floor(points * 4 + 1e-6).astype(int).sum(axis=0) % 2
    checks = (parity - 0.5) * np.broadcast_to(contrast, len(boxes))[seen]
    left = np.sign(boxes[:, :, 0].mean(axis=1)[seen] - points[0]) / 2
    sides = left * np.broadcast_to(shade, len(boxes))[seen]
    picture = colours[seen] * (light - 0.06 - checks + sides)[..., None]
    return Image.fromarray((picture.clip(0, 1) * 255).round().astype(np.uint8))


def write_scene(
    folder: str | os.PathLike[str],
    views: Sequence[View],
    layout: Layout,
    *,
    poses: Sequence[Array] | None = None,
    depth_compression: int = 1,
    colour_compression: int = 2,
) -> Path:
    """Write views as one scene.

    Args:
        folder: the scene's folder, made if missing; its name is the scene's.
        views: what to write, one or more.
        layout: ``sens``: ScanNet's raw file; ``exported``: what its tools export; ``25k``: its subset of frames;
            ``folder``: ``rgb`` and ``depth`` alone, as other data sets have it.
        poses: written in place of the views' own, for example :data:`LOST`.
        depth_compression: of a ``.sens``: 0 raw, 1 zlib.
        colour_compression: of a ``.sens``: 0 raw, 1 PNG, 2 JPEG.

    Returns:
        The ``.sens`` file, else the folder.
    """
    folder = Path(folder)
    poses = poses or [view.pose for view in views]
    if layout == "sens":
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{folder.name}.sens"
        path.write_bytes(sens_bytes(views, poses, depth_compression, colour_compression))
        return path
    name = "{:06d}" if layout == "25k" else "{}"
    colour, depth, pose = folder / ("rgb" if layout == "folder" else "color"), folder / "depth", folder / "pose"
    for part in (colour, depth, pose)[: 2 if layout == "folder" else 3]:
        part.mkdir(parents=True, exist_ok=True)
    for number, view in enumerate(views):
        view.colour.save(colour / (name.format(number) + ".jpg"), quality=95)
        Image.fromarray(_millimetres(view.depth)).save(depth / (name.format(number) + ".png"))
        if layout != "folder":
            np.savetxt(pose / (name.format(number) + ".txt"), poses[number], fmt="%.6f")
    if layout != "folder":
        place = "intrinsic/intrinsic_{}.txt" if layout == "exported" else "intrinsics_{}.txt"
        for kind, size in (("color", views[0].colour.size), ("depth", views[0].depth.shape[::-1])):
            path = folder / place.format(kind)
            path.parent.mkdir(exist_ok=True)
            np.savetxt(path, _matrix(size), fmt="%.6f")
    return folder


def sens_bytes(
    views: Sequence[View], poses: Iterable[Array], depth_compression: int = 1, colour_compression: int = 2
) -> bytes:
    """A ``.sens`` file of views, with two IMU frames at its end."""
    (width, height), (rows, columns) = views[0].colour.size, views[0].depth.shape
    matrices = (_matrix((width, height)), np.eye(4), _matrix((columns, rows)), np.eye(4))
    parts = [
        struct.pack("<IQ", 4, 3),
        b"toy",
        *(matrix.astype("<f4").tobytes() for matrix in matrices),
        struct.pack(
            "<iiIIIIfQ", colour_compression, depth_compression, width, height, columns, rows, 1000.0, len(views)
        ),
    ]
    for number, (view, pose) in enumerate(zip(views, poses, strict=True)):
        colour = view.colour.tobytes() if colour_compression == 0 else _encoded(view.colour, colour_compression)
        depth = _millimetres(view.depth).tobytes()
        if depth_compression == 1:
            depth = zlib.compress(depth)
        parts += [
            pose.astype("<f4").tobytes(),
            struct.pack("<4Q", number, number, len(colour), len(depth)),
            colour,
            depth,
        ]
    parts += [struct.pack("<Q", 2), bytes(2 * 128)]
    return b"".join(parts)


def _encoded(picture: Image.Image, compression: int) -> bytes:
    file = BytesIO()
    if compression == 2:
        picture.save(file, "JPEG", quality=95)
    else:
        picture.save(file, "PNG")
    return file.getvalue()


def _millimetres(depth: Array) -> npt.NDArray[np.uint16]:
    return (depth * 1000).round().clip(0, 65535).astype("<u2")


def _matrix(size: Size) -> Array:
    camera = intrinsics(size)
    return np.array(
        [[camera.fx, 0, camera.cx, 0], [0, camera.fy, camera.cy, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=np.float64
    )
