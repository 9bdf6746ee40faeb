"""Replies that are kept: appended as they come, found again by what was asked and of which weights."""

import errno
import json
import os
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from filelock import FileLock
from PIL import Image

from jigsaw.errors import JigsawError, remedy
from jigsaw.evaluation.shelf import Shelf
from jigsaw.files import json_lines, sha256_of

_hashes = Shelf(4096)  # of files
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
        kept = json_lines(path, "key", "reply", "tokens", remedy="remove the line, and it is asked again")
        self._known = {row["key"]: row for row in kept}

    def get(self, key: str) -> Mapping[str, Any] | None:
        """The line of a key, if there is one."""
        return self._known.get(key)

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a line, on disk when this returns.

        Raises:
            JigsawError: if it cannot be written; nothing of it is left then.
        """
        line = (json.dumps(row, ensure_ascii=False) + "\n").encode()
        with self._lock, self._path.open("ab", buffering=0) as file:
            size = file.tell()
            try:
                if file.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file.fileno())
            except OSError as error:
                os.truncate(self._path, size)
                raise JigsawError(
                    f"{self._path}: cannot be written ({error.strerror}); {remedy(error)}, "
                    "then start again: what was answered is kept"
                ) from error
        self._known[row["key"]] = dict(row)


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
    files = [file for file in sorted(folder.iterdir()) if file.is_file() and file.suffix not in _NOT_WEIGHTS]
    return sha256("".join(f"{file.name}\0{sha256_of(file)}\0" for file in files).encode()).hexdigest()


def key_of(messages: Sequence[Mapping[str, Any]], **asked: Any) -> str:
    """A hash of a question: its text, the bytes of its media, and all else that it was asked with.

    Args:
        messages: lmms-eval's.
        asked: what can be written as JSON.
    """
    parts = [[message["role"], *(_part(part) for part in message["content"])] for message in messages]
    told = json.dumps([parts, asked], sort_keys=True, ensure_ascii=False)
    return sha256(told.encode()).hexdigest()


def _part(part: Mapping[str, Any]) -> list[str]:
    if part["type"] == "text":
        return ["text", part["text"]]
    medium = part["url"]
    if isinstance(medium, Image.Image):
        picture = medium.convert("RGB")
        return [part["type"], f"{picture.size}", sha256(picture.tobytes()).hexdigest()]
    if isinstance(medium, str):
        return [part["type"], _hashes.get(medium, lambda: sha256_of(Path(medium)))]
    return [part["type"], f"{medium.indices} {medium.fps}", sha256(medium.frames.numpy()).hexdigest()]
