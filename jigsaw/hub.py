"""Rows from the Hugging Face hub: fetch a data set's parquet files and say what they hold and which media they need."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from jigsaw.errors import JigsawError, RowError, remedy
from jigsaw.puzzle import media_specs
from jigsaw.rows import MEDIA_COLUMNS, each_row, read_table
from jigsaw.tasks import TASKS, plan

if TYPE_CHECKING:
    import pyarrow as pa

RELEASED = "craigwu/visual_jigsaw_training_data"
"""The hub's name of the released training data."""

# Data sets by what their paths look like. The match is the folder that must be found below the media root.
_SOURCES = (
    (re.compile(r"(?:.*/)?(?:train|val)2017(?=/)"), "this folder of COCO 2017"),
    (re.compile(r"(?:.*/)?\d+_\d+_[sm]_[^/]+(?=/)"), "this folder of LLaVA-Video-178K, its archives unpacked in place"),
    (re.compile(r"(?:.*/)?(?=scene\d{4}_\d{2}\b)"), "ScanNet's scene folders, their colour frames exported"),
)
# What the tasks read of a released medium. Another field may mean a puzzle that is cut in another way.
# What an address may hold that is nobody's business: user and token before the host, and a query.
_SECRETS = ((re.compile(r"(?<=://)\S*@"), "***@"), (re.compile(r"(://[^\s?#]*)[?#]\S*"), r"\1?***"))


@dataclass
class Folder:
    """A folder that must lie below the media root.

    Attributes:
        source: the data set that it belongs to, in words.
        example: the path in one of the rows that need it.
        rows: how many do.
    """

    source: str
    example: str
    rows: int = 0


@dataclass
class Contents:
    """What a parquet file holds.

    Attributes:
        rows: number of rows.
        tasks: number of rows by task.
        failed: number of rows that are no puzzle rows.
        error: what is wrong with the first of these, or with the file itself; None if all is well.
        unread: fields of the media that no task knows, such as ``videos.start``.
        folders: folders below the media root, with ``/`` at the end, by their paths; the root itself is "".
    """

    rows: int = 0
    tasks: dict[str, int] = field(default_factory=dict)
    failed: int = 0
    error: str | None = None
    unread: list[str] = field(default_factory=list)
    folders: dict[str, Folder] = field(default_factory=dict)


def pull(
    name: str, out: str | os.PathLike[str], *, revision: str | None = None, endpoint: str | None = None
) -> list[Path]:
    """Fetch the parquet files of a data set; those that are there already are not fetched again.

    A file appears whole or not at all. A connection that breaks is taken up again where it broke. ``HF_ENDPOINT`` and
    ``HF_TOKEN`` are respected; what is secret in an address is never printed.

    Args:
        name: ``owner/name`` on the hub.
        out: folder to write, in the data set's own layout; made if missing.
        revision: branch, tag or commit; the main branch if None.
        endpoint: address of the hub if it is not the usual one.

    Returns:
        The files, by name.

    Raises:
        JigsawError: if the hub cannot be reached or refuses, the data set holds no parquet, or the disk is full.
    """
    from huggingface_hub import HfApi

    hub = HfApi(endpoint=endpoint)
    with _discreet_log(), _one_line(name, revision, hub.endpoint, out):
        found = hub.dataset_info(name, revision=revision)
        files = sorted(file.rfilename for file in found.siblings or () if file.rfilename.endswith(".parquet"))
        if not files:
            raise JigsawError(f"{name}: holds no parquet files; is it the right data set?")
        # The commit, not the branch: all files are of one state, whatever is pushed meanwhile.
        for file in files:
            hub.hf_hub_download(name, file, repo_type="dataset", revision=found.sha, local_dir=Path(out))
    return [Path(out, file) for file in files]


def _masked(text: str) -> str:
    """A text without what is secret in its addresses."""
    for secret, mask in _SECRETS:
        text = secret.sub(mask, text)
    return text


@contextmanager
def _discreet_log() -> Iterator[None]:
    """Mask the addresses that the hub's client writes to its log when it tries again."""

    def mask(record: logging.LogRecord) -> bool:
        record.msg, record.args = _masked(record.getMessage()), None
        return True

    handlers = logging.getLogger("huggingface_hub").handlers
    for handler in handlers:
        handler.addFilter(mask)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(mask)


@contextmanager
def _one_line(name: str, revision: str | None, endpoint: str, out: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what the hub's client raises into one line that says what to do."""
    import httpx
    from huggingface_hub import errors

    name, endpoint = _masked(name), _masked(endpoint)
    at = f"{endpoint}/datasets/{name}"
    try:
        yield
    except errors.GatedRepoError as error:
        raise JigsawError(f"{name}: is gated; accept its terms at {at}, then set HF_TOKEN to your token") from error
    except errors.RepositoryNotFoundError as error:
        raise JigsawError(f"{name}: no such data set at {endpoint}; if it is private, set HF_TOKEN") from error
    except errors.RevisionNotFoundError as error:
        raise JigsawError(f"{name}: has no revision {revision!r}; see {at}/commits/main") from error
    except errors.HFValidationError as error:
        raise JigsawError(f"{name}: is no name of a data set; it must be OWNER/NAME, such as {RELEASED}") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        advice = "is HF_TOKEN right?" if status in (401, 403) else "try again later"
        why = _masked(" ".join(f"{status} {error.server_message or ''}".split()))
        raise JigsawError(f"{name}: {endpoint} answers {why}; {advice}") from error
    except errors.OfflineModeIsEnabled as error:
        raise JigsawError(f"{name}: HF_HUB_OFFLINE is set; unset it to fetch from {endpoint}") from error
    # Also what is no answer of a hub (ValueError) and what its fast transport raises (RuntimeError).
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, RuntimeError) as error:
        if isinstance(error, OSError) and error.strerror:  # the system's, not the client's
            raise JigsawError(
                f"{error.filename or out}: cannot be written ({error.strerror}); {remedy(error)}, "
                "then start again: whole files are kept"
            ) from error
        why = _masked(" ".join(str(error.__cause__ or error).split()))
        if isinstance(error, httpx.InvalidURL):  # which quotes the part that it did not understand
            why = "is no address"
        raise JigsawError(
            f"{name}: cannot be fetched from {endpoint} ({why}); start again when it answers: whole files are kept"
        ) from error


def contents(path: str | os.PathLike[str]) -> Contents:
    """Plan every row of a parquet file, without its media: what is there, what is not understood, what must be got."""
    found = Contents()
    try:
        table = read_table(path)
    except JigsawError as error:
        found.error = str(error)
        return found
    found.rows = table.num_rows
    found.unread = _unread(table.schema)
    for index, row in enumerate(each_row(table)):
        try:
            if isinstance(row, RowError):
                raise RowError(f"row {index}: {row}")
            planned = plan(row, index=index)
            media = media_specs(planned.messages)[0]["path"]
            if media.startswith("/"):
                raise RowError(f"row {planned.id}: {media} is absolute; it must be relative to a media root")
        except RowError as error:
            found.failed += 1
            found.error = found.error or f"{path}: {error}"
            continue
        found.tasks[planned.task] = found.tasks.get(planned.task, 0) + 1
        name, source = _folder(media)
        found.folders.setdefault(name, Folder(source, media)).rows += 1
    return found


def _unread(schema: "pa.Schema") -> list[str]:
    import pyarrow as pa

    unread = []
    for column in MEDIA_COLUMNS:
        type_ = schema.field(column).type if column in schema.names else None
        if type_ is not None and pa.types.is_list(type_) and pa.types.is_struct(type_.value_type):
            read = frozenset().union(*(task.fields for task in TASKS.values() if task.column == column))
            unread += [f"{column}.{field.name}" for field in type_.value_type if field.name not in read]
    return unread


def _folder(path: str) -> tuple[str, str]:
    """The folder of a path that must be found below the media root, and what it is."""
    for pattern, source in _SOURCES:
        if match := pattern.match(path):
            return f"{match[0].rstrip('/')}/".lstrip("/"), source
    first, slash, _ = path.partition("/")
    return (f"{first}/", "this folder") if slash else ("", "the files themselves")
