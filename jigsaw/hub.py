"""The Hugging Face hub: data sets of rows and models from it and to it; what rows hold and which media they need."""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jigsaw.errors import JigsawError, RowError, remedy
from jigsaw.files import sha256_of
from jigsaw.puzzle import media_specs
from jigsaw.rows import MEDIA_COLUMNS, each_row, read_table
from jigsaw.shapes import FAMILIES
from jigsaw.tasks import TASKS, plan

if TYPE_CHECKING:
    import pyarrow as pa

RELEASED = "craigwu/visual_jigsaw_training_data"
"""The hub's name of the released training data."""
RELEASED_MODEL = "craigwu/visual_jigsaw_image_7B"
"""That of a released checkpoint."""
Kind = Literal["dataset", "model"]
_WHAT = {"dataset": "data set", "model": "model"}
_EXAMPLE = {"dataset": RELEASED, "model": RELEASED_MODEL}
NAME = re.compile(r"[\w.-]*\w[\w.-]*/[\w.-]*\w[\w.-]*", re.ASCII)
"""Of what lies on the hub: ``OWNER/NAME``."""
_OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".h5", ".msgpack", ".gguf", ".onnx")
"""Formats that a model's folder may hold beside safetensors."""

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

    _check_name(name, "dataset")
    hub = HfApi(endpoint=endpoint)
    with _discreet_log(), _one_line(name, "dataset", revision, hub.endpoint, out):
        found = hub.dataset_info(name, revision=revision)
        files = sorted(file.rfilename for file in found.siblings or () if file.rfilename.endswith(".parquet"))
        if not files:
            raise JigsawError(f"{name}: holds no parquet files; is it the right data set?")
        # The commit, not the branch: all files are of one state, whatever is pushed meanwhile.
        for file in files:
            hub.hf_hub_download(name, file, repo_type="dataset", revision=found.sha, local_dir=Path(out))
    return [Path(out, file) for file in files]


def pull_model(
    name: str, out: str | os.PathLike[str], *, revision: str | None = None, endpoint: str | None = None
) -> list[Path]:
    """Fetch a model, as :func:`pull` does rows, and compare each file with the hub's checksum of it.

    Args:
        name: ``owner/name`` on the hub.
        out: folder to write; made if missing.
        revision: branch, tag or commit; the main branch if None.
        endpoint: address of the hub if it is not the usual one.

    Returns:
        The files, by name.

    Raises:
        JigsawError: if the hub cannot be reached or refuses, it is no model of an architecture that is known here, the
            disk lacks room, or a file is not what the hub says.
    """
    from huggingface_hub import HfApi

    _check_name(name, "model")
    hub, folder = HfApi(endpoint=endpoint), Path(out)
    with _discreet_log(), _one_line(name, "model", revision, hub.endpoint, out):
        found = hub.model_info(name, revision=revision, files_metadata=True)
        files = {file.rfilename: file for file in found.siblings or ()}
        if "config.json" not in files or not any(file.endswith(".safetensors") for file in files):
            raise JigsawError(f"{name}: holds no config.json and *.safetensors; is it the right model?")

        def fetch(file: str) -> None:
            hub.hf_hub_download(name, file, revision=found.sha, local_dir=folder)
            if not _is_as_said(folder / file, files[file]):
                (folder / file).unlink()
                raise JigsawError(f"{folder / file}: is not what the hub's checksum says, and was removed; start again")

        fetch("config.json")
        _check_family(name, folder / "config.json")
        wanted = sorted(file for file in files if not file.startswith(".") and not file.endswith(_OTHER_WEIGHTS))
        sizes = {file: files[file].size or 0 for file in wanted if not (folder / file).is_file()}
        if (free := shutil.disk_usage(folder).free) < sum(sizes.values()):
            raise JigsawError(
                f"{folder}: {free / 2**30:.1f} GiB are free, {sum(sizes.values()) / 2**30:.1f} are to be fetched; make "
                "room, or choose another folder"
            )
        for file in wanted:
            fetch(file)
    return [folder / file for file in wanted]


def _is_as_said(path: Path, said: Any) -> bool:
    """Whether a file is what the hub says: by sha256 where it is large, by git's hash of a blob else."""
    if said.lfs is not None:
        return bool(sha256_of(path) == said.lfs.sha256)
    if said.blob_id is None:
        return True
    data = path.read_bytes()
    return bool(hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest() == said.blob_id)


def _check_family(name: str, config: Path) -> None:
    try:
        kind = json.loads(config.read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError) as error:
        raise JigsawError(f"{name}: its config.json cannot be read ({error}); is it the right model?") from error
    if kind not in FAMILIES:
        raise JigsawError(
            f"{name}: is a {kind}; this is for {' and '.join(FAMILIES)} alone, hf download fetches any model"
        )


def push(
    folder: str | os.PathLike[str],
    name: str,
    *,
    private: bool = False,
    endpoint: str | None = None,
    card: Callable[[Path], str] | None = None,
) -> str:
    """Put a model's folder, or one of rows, on the hub, in one commit; its repository is made if it is not there.

    What arrived stays: started again after a break, whole files are not sent again.

    Args:
        folder: of a model (``config.json``, ``*.safetensors``), or of ``jigsaw prepare`` (``manifest.json``).
        name: ``owner/name`` on the hub.
        private: whether a repository that is made is seen by its owner alone.
        endpoint: address of the hub if it is not the usual one.
        card: makes the text of ``README.md``, for a folder of rows that has none.

    Returns:
        The address of the commit.

    Raises:
        JigsawError: if the folder is neither, or lacks a file; if there is no token; if the hub cannot be reached or
            refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    folder = Path(folder)
    kind, files = _to_push(folder)
    _check_name(name, kind)
    if get_token() is None:
        raise JigsawError(
            f"{name}: no token of the hub's is here; hf auth login, or set HF_TOKEN to one that may write"
        )
    hub = HfApi(endpoint=endpoint)
    added = [CommitOperationAdd(str(file.relative_to(folder)), file) for file in files]
    if kind == "dataset" and card is not None and folder / "README.md" not in files:
        added.append(CommitOperationAdd("README.md", card(folder).encode()))
    with _discreet_log(), _one_line(name, kind, None, hub.endpoint, folder, sends=True):
        hub.create_repo(name, repo_type=kind, private=private or None, exist_ok=True)
        done = hub.create_commit(name, added, commit_message="Visual Jigsaw", repo_type=kind)
    return _masked(str(done.commit_url))


def _to_push(folder: Path) -> tuple[Kind, list[Path]]:
    """What a folder is, and its files that go to the hub.

    Raises:
        JigsawError: if it is neither a model's nor one of rows, or lacks a file that another names.
    """
    if (folder / "config.json").is_file():
        return "model", _files_of_model(folder)
    if (folder / "manifest.json").is_file():
        rows = sorted(folder.glob("*.parquet"))
        if not rows:
            raise JigsawError(f"{folder}: holds no rows (*.parquet); jigsaw prepare makes them")
        return "dataset", [
            *rows,
            *(file for name in ("manifest.json", "README.md") if (file := folder / name).is_file()),
        ]
    raise JigsawError(
        f"{folder}: is neither a model's folder (config.json; jigsaw checkpoint export makes one) nor one of rows "
        "(manifest.json; jigsaw prepare makes one)"
    )


def _files_of_model(folder: Path) -> list[Path]:
    from safetensors import SafetensorError, safe_open

    weights = sorted(folder.glob("*.safetensors"))
    index = folder / "model.safetensors.index.json"
    named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()) if index.is_file() else set()
    if missing := sorted(named - {file.name for file in weights}) or ([] if weights else ["*.safetensors"]):
        raise JigsawError(f"{folder}: {', '.join(missing)} is missing; export or fetch the model again")
    for file in weights:
        try:
            with safe_open(file, "pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise JigsawError(f"{file}: cannot be read ({error}); export or fetch the model again") from error
    found = (file for file in folder.rglob("*") if file.is_file())
    return sorted(file for file in found if not any(part.startswith(".") for part in file.relative_to(folder).parts))


def _check_name(name: str, kind: Kind) -> None:
    """Raise JigsawError unless it is a name of the hub's, before anything is asked."""
    if not NAME.fullmatch(name):
        raise JigsawError(
            f"{_masked(name)}: is no name of a {_WHAT[kind]}; it must be OWNER/NAME, such as {_EXAMPLE[kind]}"
        )


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
def _one_line(
    name: str, kind: Kind, revision: str | None, endpoint: str, here: str | os.PathLike[str], *, sends: bool = False
) -> Iterator[None]:
    """Turn what the hub's client raises into one line that says what to do.

    Args:
        name: on the hub.
        kind: of the repository.
        revision: that is asked for.
        endpoint: address of the hub.
        here: folder on this machine.
        sends: whether files go to the hub, and not from it.
    """
    import httpx
    from huggingface_hub import errors

    name, endpoint = _masked(name), _masked(endpoint)
    at = f"{endpoint}/datasets/{name}" if kind == "dataset" else f"{endpoint}/{name}"
    what, move = _WHAT[kind], "sent to" if sends else "fetched from"
    kept = "what arrived is not sent again" if sends else "whole files are kept"
    try:
        yield
    except errors.GatedRepoError as error:
        raise JigsawError(f"{name}: is gated; accept its terms at {at}, then set HF_TOKEN to your token") from error
    except errors.RepositoryNotFoundError as error:
        raise JigsawError(f"{name}: no such {what} at {endpoint}; if it is private, set HF_TOKEN") from error
    except errors.RevisionNotFoundError as error:
        raise JigsawError(f"{name}: has no revision {revision!r}; see {at}/commits/main") from error
    except errors.HFValidationError as error:
        raise JigsawError(f"{name}: is no name of a {what}; it must be OWNER/NAME, such as {_EXAMPLE[kind]}") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        token = "may HF_TOKEN's owner write there, and its role?" if sends else "is HF_TOKEN right?"
        advice = token if status in (401, 403) else "try again later"
        why = _masked(" ".join(f"{status} {error.server_message or ''}".split()))
        raise JigsawError(f"{name}: {endpoint} answers {why}; {advice}") from error
    except errors.OfflineModeIsEnabled as error:
        raise JigsawError(f"{name}: HF_HUB_OFFLINE is set; unset it, {endpoint} is to be asked") from error
    # Also what is no answer of a hub (ValueError) and what its fast transport raises (RuntimeError).
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, RuntimeError) as error:
        if isinstance(error, OSError) and error.strerror:  # the system's, not the client's
            raise JigsawError(
                f"{error.filename or here}: cannot be written ({error.strerror}); {remedy(error)}, "
                "then start again: whole files are kept"
            ) from error
        why = _masked(" ".join(str(error.__cause__ or error).split()))
        if isinstance(error, httpx.InvalidURL):  # which quotes the part that it did not understand
            why = "is no address"
        raise JigsawError(
            f"{name}: cannot be {move} {endpoint} ({why}); start again when it answers: {kept}"
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
