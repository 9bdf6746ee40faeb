"""Media cut in processes of their own: a file on which a library hangs or dies costs its puzzle alone."""

import os
from math import prod
from typing import Any

from PIL import Image

from jigsaw.errors import MediaError
from jigsaw.media.video import Clip
from jigsaw.puzzle import CutOptions, Message, media_specs
from jigsaw.reader import ReaderDied, Readers, Record
from jigsaw.tasks import DEFAULTS, cut_media


class Cutter:
    """Cuts as :func:`jigsaw.tasks.cut_media` does, for any number of threads.

    Args:
        readers: number of processes at most; each is started when all others are at work, and kept.
        time_limit: seconds of wall time that the media of a prompt may take.
    """

    def __init__(self, readers: int, time_limit: float) -> None:
        self._readers = Readers(readers, time_limit)

    def cut_media(
        self, messages: list[Message], media_root: str | os.PathLike[str], options: CutOptions = DEFAULTS
    ) -> list[Any]:
        """The media of chat messages with specs, in prompt order.

        Raises:
            MediaError: if a file is missing, outside the media root or cannot be used, or no process survives it.
        """
        try:
            record, pixels = self._readers.make(_cut, (messages, os.fspath(media_root), options))
        except ReaderDied as error:
            paths = dict.fromkeys(str(spec["path"]) for spec in media_specs(messages))
            raise MediaError(", ".join(paths), f"{error}; remove or replace it") from error
        if "reason" in record:
            raise MediaError(record["path"], record["reason"])
        media: list[Any] = []
        for one in record["media"]:
            size = prod(one["shape"])
            media.append(_medium(pixels[:size].reshape(one["shape"]), one))
            pixels = pixels[size:]
        return media


def _cut(item: tuple[list[Message], str, CutOptions]) -> tuple[Record, list[Any]]:
    """A reader's work: what is said of each medium, and its pixels, uint8."""
    try:
        media = cut_media(*item)
    except MediaError as error:
        return {"path": error.path and os.fspath(error.path), "reason": error.why}, []
    said: list[Record] = []
    pixels: list[Any] = []
    for one in media:
        if isinstance(one, Clip):
            said.append({"shape": list(one.frames.shape), "indices": one.indices, "fps": one.fps})
            pixels.append(one.frames.contiguous().numpy())
        else:
            said.append({"shape": [one.height, one.width, 3]})
            pixels.append(one.tobytes())
    return {"media": said}, pixels


def _medium(pixels: Any, said: Record) -> Any:
    """An RGB picture, or a clip."""
    if "fps" not in said:
        return Image.fromarray(pixels)
    import torch

    return Clip(torch.from_numpy(pixels), tuple(said["indices"]), said["fps"])
