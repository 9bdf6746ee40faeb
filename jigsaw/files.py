"""Files and folders that are there whole or not at all, and folders that one process holds alone."""

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from jigsaw.errors import JigsawError, remedy

_NAME_KEPT = 200  # bytes


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that appears under ``path`` whole or not at all; its folder is made if missing.

    Raises:
        JigsawError: if the system refuses to write, for example on a full disk.
    """
    # Hidden and with the process's number, so that it is no file of the user's; a name has 255 bytes at most.
    name = os.fsdecode(os.fsencode(path.name)[:_NAME_KEPT])
    temporary = path.parent / f".{name}.{os.getpid()}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise JigsawError(
            f"{path}: cannot be written ({error.strerror or error}); {remedy(error)}, "
            "then start again: what is finished is kept"
        ) from error
    finally:
        with suppress(OSError):  # the error that brought us here says more
            temporary.unlink()


def write_json(path: Path, value: object) -> None:
    """Write a JSON file by rename."""
    with atomic_write(path) as file:
        file.write(json.dumps(value, indent=2).encode() + b"\n")


def json_object(path: Path, *keys: str, remedy: str) -> dict[str, Any]:
    """The object in a JSON file that this package wrote.

    Args:
        path: the file.
        keys: that it has.
        remedy: what to do where it is damaged.

    Raises:
        JigsawError: if it is no object with these keys.
    """
    return _object(path.read_bytes(), str(path), keys, remedy)


def json_lines(path: Path, *keys: str, remedy: str) -> Iterator[dict[str, Any]]:
    """The objects of a JSON Lines file that this package wrote, one at a time.

    Args:
        path: the file.
        keys: that each object has.
        remedy: what to do where a line is damaged.

    Raises:
        JigsawError: if a line is no object with these keys.
    """
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            yield _object(line, f"{path}, line {number}", keys, remedy)


def _object(text: bytes, where: str, keys: Collection[str], remedy: str) -> dict[str, Any]:
    try:
        read = json.loads(text)
    except ValueError as error:
        raise JigsawError(f"{where}: is no JSON ({error}); {remedy}") from error
    if not isinstance(read, dict) or not read.keys() >= set(keys):
        raise JigsawError(f"{where}: is no object with {', '.join(keys)}; {remedy}")
    return read


def sha256_of(path: Path) -> str:
    """sha256 of a file's bytes, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A folder to fill that appears under ``path``, which must not exist, once the block ends without an error.

    Of a block that fails nothing is left.
    """
    draft = path.with_name(f".{path.name}.tmp")  # hidden, so that it is no folder of the user's
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(parents=True)
    except OSError as error:
        raise JigsawError(f"{path}: cannot be made ({error.strerror}); {remedy(error)}") from error
    try:
        yield draft
        draft.rename(path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def alone(lock: Path, busy: str) -> Iterator[None]:
    """Hold a lock file; the system lets go of it when this process ends, however it ends.

    Args:
        lock: the file.
        busy: what to say where another process holds it.

    Raises:
        JigsawError: if another process holds it, or the system refuses to write it.
    """
    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout as error:
        raise JigsawError(busy) from error
    except OSError as error:
        raise JigsawError(f"{lock}: cannot be locked ({error.strerror}); is its folder writable?") from error
    try:
        yield
    finally:
        held.release()
