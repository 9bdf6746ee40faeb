"""From sources to rows: what preparing pictures, videos and scenes has in common.

A *source* is a picture, a video or a scene, named by its path relative to the media root. A kind of source brings

* a list of the sources that are there, sorted;
* ``look``, a function of one source that the workers run. It gives *records*: what a row needs, one record a row, or
  ``{"reason"}`` where the source, or a part of it, cannot be used. In a reason, what differs from source to source
  stands in brackets; the summary counts what stands before them. A record may name a ``path`` of its own, for example
  of a frame of a scene; else it gets its source's. It holds the ``tokens`` of the row's media, and ``smaller``, true
  where they are shown smaller so that the prompt fits;
* ``row``, a function that makes a row of a record.

:func:`prepare_rows` does the rest, so that ``train.parquet``, ``val.parquet``, ``rejected.jsonl`` and ``manifest.json``
depend on the sources and the options alone. The split is by source. Of sources with the same content the first is kept.
"""

import hashlib
import heapq
import json
import os
import stat
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from jigsaw.errors import JigsawError, MediaError, OptionError
from jigsaw.files import sha256_of
from jigsaw.prepare.folder import (
    Job,
    OnProgress,
    begin,
    fingerprint,
    output_folder,
    publish,
    read_manifest,
    read_shards,
    run_shards,
)
from jigsaw.prepare.frames import Frames
from jigsaw.reader import Record, Work, json_line
from jigsaw.rows import ANSWER_FORMATS, AnswerFormat, media_path
from jigsaw.tokens import AROUND, MAX_PROMPT_LENGTH, VISION, text_tokens

if TYPE_CHECKING:
    import pyarrow as pa

OUTPUTS = ("rejected.jsonl", "val.parquet", "train.parquet")

ROW_GROUP = 10_000
"""Rows a row group: fixed, so the bytes do not depend on how the rows arrive."""

Rejects = Callable[[int], None]
"""Called with the number of records that were rejected so far."""

Files = Callable[[Path], list[str]]
"""A source that is a folder -> the files in it that decide its records, relative to it; OSError if it has no list."""


@dataclass(frozen=True, kw_only=True)
class Options(ABC):
    """What decides the rows of every kind, besides the sources.

    Attributes:
        val: number of sources for the validation split.
        seed: of the split and of the sample that ``limit`` draws.
        limit: look at a random sample of so many sources; None for all.
        answer_format: how the prompt asks for the answer.
        max_prompt_length: tokens; what does not fit is shown smaller. That of the training (paper: 8192).
    """

    val: int = 0
    seed: int = 0
    limit: int | None = None
    answer_format: AnswerFormat = "answer_tag"
    max_prompt_length: int = MAX_PROMPT_LENGTH

    @property
    @abstractmethod
    def prompt(self) -> str:
        """The text of every row's prompt."""

    @property
    @abstractmethod
    def media(self) -> int:
        """Number of media in a prompt."""

    @property
    def text_tokens(self) -> int:
        """The most tokens that the prompt's text takes."""
        return text_tokens([{"role": "user", "content": self.prompt}])

    @cached_property
    def room(self) -> int:
        """Tokens that the text leaves for the media."""
        return self.max_prompt_length - self.text_tokens

    @abstractmethod
    def sources(self, media_root: Path, only: str | None = None) -> "Sources":
        """The sources below a folder, and how they become rows.

        Args:
            media_root: the folder.
            only: path of one source below it, where the others are of no interest; None for all.

        Raises:
            JigsawError: if the folder cannot be used.
        """

    def validate(self) -> None:
        """Raise JigsawError if a value makes no sense."""
        if self.val < 0:
            raise OptionError("val", self.val, "must be 0 or more")
        if self.limit is not None and self.limit < 1:
            raise OptionError("limit", self.limit, "must be 1 or more")
        if self.answer_format not in ANSWER_FORMATS:
            raise OptionError("answer_format", self.answer_format, f"must be one of {', '.join(ANSWER_FORMATS)}")
        least = self.media * (AROUND + VISION.least)
        if least > self.max_prompt_length or least > self.room:  # in this order: a text can be written too long
            raise OptionError(
                "max_prompt_length",
                self.max_prompt_length,
                f"too few tokens for {self.media:,} media, which take "
                f"{least:,} without any text, however small they are; raise it or make fewer pieces",
            )

    def arguments(self) -> dict[str, Any]:
        """All of it as JSON values, as the manifest says it."""
        return asdict(self)


@dataclass(frozen=True)
class Sources:
    """The sources below a media root, and how they become rows.

    Attributes:
        command: name of the command, for example ``"prepare image"``.
        paths: POSIX paths of all of them, relative to the media root, sorted.
        noun: what the sources are called, in the plural.
        look: path of a source -> its records; can be pickled, and must depend on the source alone.
        row: (record with its ``path``, 0-based place of the row in its file, split) -> row.
        schema: of the rows.
        libraries: packages that read the sources; the manifest holds their versions.
        shard_size: sources a shard: enough for about a second, and few enough that their records fit in memory.
        time_limit: seconds that ``look`` may take; it is ended and the source rejected after that.
        files: which files count where sources are folders; None where they are files.
        frames: where ``look`` writes the frames of the rows, if it does.
        group: path of a source -> name of those that belong into one split, scans of one room for example.
    """

    command: str
    paths: Sequence[str]
    noun: str
    look: Work
    row: Callable[[Record, int, str], Record]
    schema: "pa.Schema"
    libraries: tuple[str, ...]
    shard_size: int
    time_limit: float = 120
    files: Files | None = None
    frames: Frames | None = None
    group: Callable[[str], str] = str


@dataclass(frozen=True)
class Summary:
    """What came of it.

    Attributes:
        found: sources below the media root.
        sampled: of these, sources that were looked at; fewer than ``found`` with a limit.
        kept: rows, ``train`` + ``val`` of them.
        rejected: number of sources, or of parts of sources, by reason.
        smaller: of the rows, those whose media are shown smaller so that the prompt fits.
        tokens: of a prompt: ``media_mean`` and ``media_most`` over the rows, exact, and ``text_at_most``, a bound for
            the text of each.
        up_to_date: the folder was finished already; nothing was done.
    """

    found: int
    sampled: int
    kept: int
    train: int
    val: int
    rejected: dict[str, int]
    smaller: int
    tokens: dict[str, float]
    up_to_date: bool


def prepare_rows(
    media_root: Path,
    out: Path,
    options: Options,
    *,
    workers: int | None = None,
    ray_address: str | None = None,
    progress: OnProgress,
    rejects: Rejects = lambda count: None,
) -> Summary:
    """Make ``train.parquet``, ``val.parquet``, ``rejected.jsonl`` and ``manifest.json``.

    A run that was killed resumes where it was.

    Args:
        media_root: folder of the sources; the rows hold paths relative to it.
        out: output folder; made if need be.
        options: what decides the rows; their class says of what.
        workers: number of sources at work at a time; None for one a core.
        ray_address: of a Ray cluster, whose nodes all see the media root; None for this machine.
        progress: told (sources done, sources in all).
        rejects: told how many records are rejected so far, right before ``progress``.

    Raises:
        JigsawError: if an option makes no sense, nothing is left to train on, or the folder or Ray cannot be used.
    """
    options.validate()
    sources = options.sources(media_root)
    found = sources.paths
    _check_apart(out, media_root)
    if workers is not None and workers < 1:
        raise OptionError("workers", workers, "must be 1 or more")
    sample = sorted(sample_of(found, options.limit, "limit", options.seed)) if options.limit is not None else found
    if options.val >= len(sample):
        raise OptionError("val", options.val, f"leaves nothing to train on; {len(sample)} {sources.noun} are there")
    stamps = {path: stamp_of(path, media_root, sources.files) for path in found}
    job = Job(
        command=sources.command,
        arguments=options.arguments(),
        listing=fingerprint(stamps.items()),
        versions=_versions(sources.libraries),
        outputs=OUTPUTS,
        shard_size=sources.shard_size,
        time_limit=sources.time_limit,
        frames=None if sources.frames is None else os.path.realpath(sources.frames.folder),
    )
    frames = nullcontext() if sources.frames is None else sources.frames.held({path: stamps[path] for path in sample})
    with output_folder(out), frames:
        if not begin(out, job):
            return Summary(**read_manifest(out)["counts"], up_to_date=True)
        sizes = Counter(stamps[path][0] for path in sample)
        items = [(path, stamps[path][0] is not None and sizes[stamps[path][0]] > 1) for path in sample]
        work = partial(_look_and_hash, look=sources.look, media_root=media_root.absolute(), files=sources.files)
        run_shards(out, job, items, work, workers=workers, ray_address=ray_address, progress=progress, rejects=rejects)
        return _publish(out, job, items, sources, options, media_root, len(found))


def rows_of(path: str, media_root: Path, options: Options) -> list[Record]:
    """The rows of one source, which go into no file: one of a picture or a video, one a sampled frame of a scene.

    Args:
        path: of the source, relative to ``media_root``.
        media_root: the folder.
        options: what decides the rows.

    Raises:
        JigsawError: if an option makes no sense.
        MediaError: if the source cannot be used.
    """
    options.validate()
    sources = options.sources(media_root, only=path)
    records = [{"path": path, **record} for record in sources.look(path)]
    rows = [sources.row(record, 0, "val") for record in records if "reason" not in record]
    if not rows:
        raise MediaError(media_root / path, records[0]["reason"] if records else "holds nothing to make a puzzle of")
    return rows


def _check_apart(out: Path, media_root: Path) -> None:
    """Raise JigsawError unless neither folder lies in the other: an output folder may be deleted, media may not."""
    here, there = Path(os.path.realpath(out)), Path(os.path.realpath(media_root))
    for inner, outer, word in ((here, there, "in"), (there, here, "around")):
        if inner.is_relative_to(outer):
            raise OptionError(
                "out",
                out,
                f"lies {word} the media root {media_root}, which nothing is written to; choose a folder beside it",
            )


def list_files(media_root: Path, suffixes: tuple[str, ...], noun: str) -> list[str]:
    """POSIX paths of all files below a folder with one of the suffixes (lower case), relative to it and sorted.

    See :func:`walk` for links.

    Raises:
        JigsawError: if the folder or one below it cannot be read, or there is no such file.
    """
    paths = []
    for folder, _, files, outside in walk(media_root, noun):
        paths += [(folder / name).as_posix() for name in files if name.lower().endswith(suffixes)]
        paths += outside
    if not paths:
        raise JigsawError(f"{media_root}: holds no {noun} ({', '.join(suffixes)}); is it the right folder?")
    return sorted(paths)


def walk(media_root: Path, noun: str) -> Iterator[tuple[Path, list[str], list[str], list[str]]]:
    """Every folder below the media root, relative to it: (folder, names of folders, names of files, links outside).

    Folders that are taken off the names are not entered. Nor are linked ones: inside the root their files are found
    anyway, outside they cannot be used. The paths of those outside are given, so that they are rejected where people
    see it.

    Raises:
        JigsawError: if the media root or a folder below it cannot be read.
    """
    if not media_root.is_dir():
        raise JigsawError(f"{media_root}: no such folder; give the folder that holds the {noun}")

    def refuse(error: OSError) -> None:
        raise JigsawError(f"{error.filename}: cannot be listed ({error.strerror}); make it readable or move it away")

    root = Path(os.path.realpath(media_root))
    for folder, folders, files in os.walk(root, onerror=refuse):
        below = Path(folder).relative_to(root)
        links = [below / name for name in folders if (root / below / name).is_symlink()]
        outside = [link.as_posix() for link in links if not (root / link).resolve().is_relative_to(root)]
        yield below, folders, files, outside


def sample_of(names: Sequence[str], count: int, purpose: str, seed: int) -> list[str]:
    """``count`` of the names, in the order of a hash: independent of the other names and of their order."""

    def rank(name: str) -> bytes:
        return hashlib.sha256(json.dumps([purpose, seed, name]).encode()).digest()

    return heapq.nsmallest(count, names, key=rank)


def reason_kind(reason: str) -> str:
    """What a reason has in common with others: what stands before its brackets and its advice.

    >>> reason_kind("is shorter than 24 s (12.3 s)")
    'is shorter than 24 s'
    """
    return reason.partition(" (")[0].partition(";")[0]


def usable_file(path: str, media_root: Path) -> Path:
    """The file that a source's path names.

    Raises:
        MediaError: if rows cannot hold the path or it leaves the media root; the message does not name the place of
            the media root, so that it is a reason for a rejection.
    """
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise MediaError(None, "its name is not valid UTF-8, which rows cannot hold; rename it") from error
    if _climbs(path):  # even if it comes back: its frames would lie elsewhere
        raise MediaError(None, "leaves the media root; name it by its path from there")
    try:
        return media_path(path, media_root)
    except MediaError as error:
        raise MediaError(None, error.why.replace(f" {os.path.realpath(media_root)}", "")) from error


def _climbs(path: str) -> bool:
    return ".." in path.split("/")


def stamp_of(path: str, media_root: Path, files: Files | None = None) -> list[Any]:
    """What tells that a source was replaced: its bytes and its time of change in ns.

    Of a folder: the bytes of all its files that count, and a hash of their names, bytes and times. What cannot be read
    has None in place of its bytes.

    Args:
        path: relative to ``media_root``; the paths of lists may be anything.
        media_root: folder of the sources.
        files: see :class:`Sources`.
    """
    if os.path.isabs(path) or _climbs(path):
        return [None, "outside"]
    found = _file_stamp(f"{media_root}/{path}")
    if found[0] is not None or files is None:
        return found
    try:
        inside = [(name, *_file_stamp(f"{media_root}/{path}/{name}")) for name in files(media_root / path)]
    except (OSError, ValueError):
        return found
    return [sum(size for _, size, _ in inside if size is not None), fingerprint(inside)]


def _file_stamp(path: str) -> list[int | None]:
    """Bytes, None for a folder, and time of change."""
    try:
        status = os.stat(path)
    except OSError as error:  # a dead link, say; it is rejected when its turn comes
        return [None, error.errno]
    except ValueError:  # a name that no file can have, from a list
        return [None, None]
    return [None if stat.S_ISDIR(status.st_mode) else status.st_size, status.st_mtime_ns]


def _look_and_hash(item: tuple[str, bool], look: Work, media_root: Path, files: Files | None) -> list[Record]:
    """The records of a source; where another has its size, they carry the hash of its content.

    That of a folder is of the names and contents of its files that count.
    """
    path, has_twin = item
    records = look(path)
    if not has_twin or all("reason" in record for record in records):
        return records
    try:
        source = media_root / path
        if files is not None and source.is_dir():
            digest = fingerprint((name, sha256_of(source / name)) for name in files(source))
        else:
            digest = sha256_of(source)
    except OSError as error:
        return [{"reason": f"cannot be read ({error.strerror})"}]
    return [{**record, "sha256": digest} for record in records]


def _records(out: Path, job: Job, items: Sequence[tuple[str, bool]]) -> Iterator[tuple[str, Record]]:
    """Every source with each of its records; of sources with the same content, all but the first are rejected."""
    first: dict[str, str] = {}
    for (source, _), records in read_shards(out, job, items):
        digest = next((record["sha256"] for record in records if "sha256" in record), None)
        if digest is not None and (same := first.setdefault(digest, source)) != source:
            records = [{"reason": f"has the same content as another one ({same})"}]
        for record in records:
            yield source, {"path": source, **record}


def _publish(
    out: Path,
    job: Job,
    items: Sequence[tuple[str, bool]],
    sources: Sources,
    options: Options,
    media_root: Path,
    found: int,
) -> Summary:
    rejected: Counter[str] = Counter()
    kept: Counter[str] = Counter()
    smaller = tokens = most = 0
    for source, record in _records(out, job, items):
        if "reason" in record:
            rejected[reason_kind(record["reason"])] += 1
        else:
            kept[source] += 1
            smaller += record["smaller"]
            tokens += record["tokens"]
            most = max(most, record["tokens"])
    groups = list(dict.fromkeys(map(sources.group, kept)))
    if options.val >= len(groups):
        said = ", ".join(f"{count}: {reason}" for reason, count in sorted(rejected.items()))
        raise JigsawError(
            f"{media_root}: {len(kept)} of {len(items)} {sources.noun} are fit, {options.val} for validation leave "
            f"nothing to train on; rejected were {said or 'none'}"
        )
    drawn = set(sample_of(groups, options.val, "val", options.seed))
    val = {source for source in kept if sources.group(source) in drawn}
    in_val = sum(kept[source] for source in val)
    counts: dict[str, Any] = {
        "found": found,
        "sampled": len(items),
        "kept": kept.total(),
        "train": kept.total() - in_val,
        "val": in_val,
        "rejected": dict(sorted(rejected.items())),
        "smaller": smaller,
        "tokens": {
            "media_mean": round(tokens / kept.total(), 1),
            "media_most": most,
            "text_at_most": options.text_tokens,
        },
    }

    def write(name: str, file: IO[bytes]) -> None:
        records = _records(out, job, items)
        if name == "rejected.jsonl":
            file.writelines(json_line(record) for _, record in records if "reason" in record)
        else:
            split = name.removesuffix(".parquet")
            wanted = (r for source, r in records if "reason" not in r and (source in val) == (split == "val"))
            _write_rows(file, sources, (sources.row(record, index, split) for index, record in enumerate(wanted)))

    publish(out, job, counts, write)
    return Summary(**counts, up_to_date=False)


def _write_rows(file: IO[bytes], sources: Sources, rows: Iterator[Record]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetWriter(file, sources.schema, compression="zstd", compression_level=3) as writer:
        while group := list(islice(rows, ROW_GROUP)):
            writer.write_table(pa.Table.from_pylist(group, schema=sources.schema), row_group_size=ROW_GROUP)


def _versions(libraries: Sequence[str]) -> dict[str, str]:
    from jigsaw import __version__

    try:
        return {"jigsaw": __version__, **{name: version(name) for name in ("pyarrow", *libraries)}}
    except PackageNotFoundError as error:
        raise JigsawError(f"{error.name} is not installed; install visual-jigsaw[train]") from error


def row_schema(
    media_column: str, media: "pa.StructType", extra_info: Sequence[tuple[str, "pa.DataType"]]
) -> "pa.Schema":
    """The schema of rows, see :mod:`jigsaw.rows`.

    Args:
        media_column: ``"images"`` or ``"videos"``.
        media: type of the column's struct.
        extra_info: names and types of what ``extra_info`` holds besides ``id, index, split, answer_format``.
    """
    import pyarrow as pa

    shared = [("id", pa.string()), ("index", pa.int64()), ("split", pa.string()), ("answer_format", pa.string())]
    return pa.schema(
        [
            ("data_source", pa.string()),
            ("prompt", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
            (media_column, pa.list_(media)),
            ("reward_model", pa.struct([("style", pa.string()), ("ground_truth", pa.string())])),
            ("extra_info", pa.struct([*shared, *extra_info])),
        ]
    )
