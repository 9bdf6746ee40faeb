"""Replies that are kept: appended as they come, found again by what was asked and of which weights."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from blake3 import blake3
from filelock import FileLock
from PIL import Image

from jigsaw.errors import JigsawError

_NOT_WEIGHTS = {".md", ".gitattributes", ".png", ".lock"}


class Replies:
    """A file of replies, a JSON object a line. Several processes may append to it; a line is whole or not there.

    Args:
        path: made if missing. What a killed process left of a line is cut off.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = FileLock(f"{path}.lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock:
            path.touch()
            with path.open("rb+") as file:
                content = file.read()
                file.truncate(content.rfind(b"\n") + 1)
        self._known = {row["key"]: row for row in read_replies(path)}

    def get(self, key: str) -> Mapping[str, Any] | None:
        """The line of a key, if there is one."""
        return self._known.get(key)

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a line, on disk when this returns.

        Raises:
            JigsawError: if it cannot be written; nothing of it is left then.
        """
        line = (json.dumps(row, ensure_ascii=False) + "\n").encode()
        with self._lock, self._path.open("ab") as file:
            size = file.tell()
            try:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            except OSError as error:
                os.truncate(self._path, size)
                raise JigsawError(
                    f"{self._path}: cannot be written ({error.strerror}); what was answered before is kept"
                ) from error
        self._known[row["key"]] = dict(row)


def read_replies(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a file of replies.

    Raises:
        JigsawError: if a line is none.
    """
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                _ = row["key"], row["reply"]
            except (ValueError, KeyError, TypeError) as error:
                raise JigsawError(f"{path}, line {number}: is no reply; remove it") from error
            yield row


def weights_of(model: str) -> str:
    """A hash of all in a model's folder that can change a reply; of a name on the hub, of what is downloaded.

    Raises:
        JigsawError: if there is no such folder.
    """
    folder = Path(model)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        try:
            folder = Path(snapshot_download(model))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            raise JigsawError(
                f"{model}: is no folder here, and cannot be had from the hub ({' '.join(str(error).split())[:200]})"
            ) from error
    found = blake3()
    for file in sorted(folder.iterdir()):
        if file.is_file() and file.suffix not in _NOT_WEIGHTS:
            found.update(f"{file.name}\0{digest(file)}\0".encode())
    return found.hexdigest()


def digest(file: Path) -> str:
    """The hash of a file's content."""
    return blake3(max_threads=blake3.AUTO).update_mmap(file).hexdigest()


@lru_cache(4096)
def _digest_of_medium(path: str) -> str:
    return digest(Path(path))


def key_of(messages: Sequence[Mapping[str, Any]], **asked: Any) -> str:
    """A hash of a question: its text, the bytes of its media, and all else that it was asked with.

    Args:
        messages: lmms-eval's.
        asked: what can be written as JSON.
    """
    parts = [[message["role"], *(_part(part) for part in message["content"])] for message in messages]
    told = json.dumps([parts, asked], sort_keys=True, ensure_ascii=False)
    return blake3(told.encode()).hexdigest()


def _part(part: Mapping[str, Any]) -> list[str]:
    if part["type"] == "text":
        return ["text", part["text"]]
    medium = part["url"]
    if isinstance(medium, Image.Image):
        picture = medium.convert("RGB")
        return [part["type"], f"{picture.size}", blake3(picture.tobytes()).hexdigest()]
    if isinstance(medium, str):
        return [part["type"], _digest_of_medium(medium)]
    return [part["type"], f"{medium.indices} {medium.fps}", blake3(medium.frames.numpy().tobytes()).hexdigest()]
