"""A folder that a job fills in steps, each of which survives a kill: one file of JSON lines a shard, then the outputs.

The output folder passes through these states, each entered by one rename, so a kill at any moment leaves it in one:

==========  =====================================  =======================================================
state       what is there                          what the next start with the same job does
==========  =====================================  =======================================================
begun       ``.job.json``, shards in ``.work``     works the shards that are missing
publishing  some of the outputs, no manifest       writes the outputs again, the same bytes
finished    all outputs, ``manifest.json``         nothing: it is up to date
==========  =====================================  =======================================================

All files are written by the one process that holds the lock, so an orphan of a killed run cannot write into its
successor's folder. The work itself is :mod:`jigsaw.prepare.ray_work`'s.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from jigsaw.errors import JigsawError
from jigsaw.files import alone, atomic_write, sha256_of, write_json
from jigsaw.prepare.ray_work import work_on_ray
from jigsaw.reader import Record, Work, json_line

OnProgress = Callable[[int, int], None]
"""Called with (items done, items in all), first before any work."""

MANIFEST = "manifest.json"
_JOB, _WORK, _LOCK = ".job.json", ".work", ".lock"


@dataclass(frozen=True)
class Job:
    """What decides the bytes of the outputs; what is not in here (workers, places on disk) must not change them.

    Attributes:
        command: name of the command, for example ``"prepare image"``.
        arguments: the arguments that matter, JSON values.
        listing: hash of the input: names, sizes and times of change.
        versions: of the libraries that read the input and write the output. A finished folder is kept over an upgrade.
        outputs: names of the files that the command makes besides the manifest, in the order in which they appear.
        shard_size: items a shard, about a second's work or more.
        time_limit: seconds that the reader of one item may take.
        frames: folder that the workers fill besides, as a full path: shards hold only together with it. It stands in
            no output.
    """

    command: str
    arguments: dict[str, Any]
    listing: str
    versions: dict[str, str]
    outputs: tuple[str, ...]
    shard_size: int
    time_limit: float
    frames: str | None = None


def fingerprint(values: Iterable[Any]) -> str:
    """sha256 of a stream of JSON values, as hex."""
    digest = hashlib.sha256()
    for value in values:
        digest.update(json_line(value))
    return digest.hexdigest()


@contextmanager
def output_folder(out: Path) -> Iterator[None]:
    """Make the folder and hold it alone; the system lets go of it when this process ends, however it ends.

    Raises:
        JigsawError: if the folder cannot be made or written, or another run holds it.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JigsawError(f"{out}: cannot be used as output folder ({error.strerror}); choose another") from error
    with alone(out / _LOCK, f"{out}: another run is at work in this folder; wait for it or choose another"):
        yield


def begin(out: Path, job: Job) -> bool:
    """Make the folder ready for the job's shards; False if the job is finished already.

    Call it inside :func:`output_folder`. Shards of the same job are kept, those of another are removed.

    Raises:
        JigsawError: if the folder holds another job's outputs, changed outputs or files of someone else.
    """
    ours = {**asdict(job), "outputs": list(job.outputs)}
    for name in (_JOB, MANIFEST):  # half-written ones of runs that were killed; this run alone holds the folder
        for half in out.glob(f".{name}.*.tmp"):
            half.unlink()
    found = _read_json(out / _JOB, {"command", "arguments", "listing"})
    if found is None:
        for name in (*job.outputs, MANIFEST, _WORK):
            if (out / name).exists():
                raise JigsawError(
                    f"{out / name}: was not made by this command and is not replaced; choose another output folder"
                )
    elif (manifest := _read_json(out / MANIFEST, {"files", "counts"})) is not None:
        _check_finished(out, manifest, found, ours)
        _remove_shards(out)  # a kill right after the manifest leaves them
        return False
    elif found != ours:
        _remove_shards(out)
        for name in job.outputs:  # of a run that was killed before its manifest
            (out / name).unlink(missing_ok=True)
    if found != ours:
        with atomic_write(out / _JOB) as file:
            file.write(json_line(ours))
    (out / _WORK).mkdir(exist_ok=True)
    return True


def _remove_shards(out: Path) -> None:
    if (out / _WORK).exists():
        shutil.rmtree(out / _WORK)


def _read_json(path: Path, keys: Set[str]) -> Record | None:
    """An object with these keys, or more; None where there is no file."""
    if not path.exists():
        return None
    try:
        value: Record = json.loads(path.read_bytes())
    except ValueError as error:
        raise JigsawError(f"{path}: is damaged; choose another output folder") from error
    if not isinstance(value, dict) or not value.keys() >= keys:
        raise JigsawError(f"{path}: is damaged; choose another output folder")
    return value


def _check_finished(out: Path, manifest: Record, found: Record, ours: Record) -> None:
    remedy = "choose another output folder, or delete this one to start over"
    if found["command"] != ours["command"]:
        raise JigsawError(f"{out}: holds the output of jigsaw {found['command']}; {remedy}")
    there, wanted = found["arguments"], ours["arguments"]
    if changed := [name for name in wanted if there.get(name) != wanted[name]]:
        said = ", ".join(f"{name} {there.get(name)} (now {wanted[name]})" for name in changed)
        raise JigsawError(f"{out}: was finished with other arguments: {said}; {remedy}")
    if found.get("frames") != ours["frames"]:
        raise JigsawError(f"{out}: has its frames in {found['frames']}; extract them there, or {remedy}")
    if found["listing"] != ours["listing"]:
        raise JigsawError(f"{out}: was finished from other files than the media root holds now; {remedy}")
    for name, entry in manifest["files"].items():
        if not (out / name).is_file() or sha256_of(out / name) != entry["sha256"]:
            raise JigsawError(f"{out / name}: is missing or not as {MANIFEST} says; {remedy}")


def publish(out: Path, job: Job, counts: Record, write: Callable[[str, IO[bytes]], None]) -> Record:
    """Write the outputs, then the manifest, then drop the shards.

    Args:
        out: the output folder.
        job: the job that is finished.
        counts: what the manifest says of the outputs' content.
        write: writes the output of the given name.

    Returns:
        The manifest.

    Raises:
        JigsawError: if the system refuses to write.
    """
    for name in job.outputs:
        with atomic_write(out / _WORK / name) as file:
            write(name, file)
    for name in job.outputs:
        os.replace(out / _WORK / name, out / name)
    manifest = {
        "command": job.command,
        "arguments": job.arguments,
        "counts": counts,
        "versions": job.versions,
        "files": {name: {"sha256": sha256_of(out / name)} for name in job.outputs},
    }
    write_json(out / MANIFEST, manifest)
    _remove_shards(out)
    return manifest


def read_manifest(out: Path) -> Record:
    """The manifest of a finished folder."""
    manifest: Record = json.loads((out / MANIFEST).read_bytes())
    return manifest


def run_shards(
    out: Path,
    job: Job,
    items: Sequence[Any],
    work: Work,
    *,
    workers: int | None = None,
    ray_address: str | None = None,
    progress: OnProgress,
    rejects: Callable[[int], None],
) -> None:
    """Work all items whose shards are not on disk yet.

    Args:
        out: the output folder, made ready by :func:`begin`.
        job: the job.
        items: what to work, in the order of the output; can be pickled.
        work: what is said of one item.
        workers: number of items at work at a time; None for one a core.
        ray_address: of a Ray cluster; None for this machine.
        progress: told after every shard.
        rejects: told before that how many records have a reason.

    Raises:
        JigsawError: if there is no such cluster, workers die again and again, or a shard cannot be written.
    """
    waiting = {}
    done = rejected = 0

    def count(lines: Iterable[bytes]) -> None:
        nonlocal done, rejected
        for line in lines:
            done += 1
            rejected += sum("reason" in record for record in json.loads(line))

    for number, part in enumerate(_shards(items, job)):
        if _shard_path(out, number).exists():
            with _shard_path(out, number).open("rb") as finished:
                count(finished)
        else:
            waiting[number] = part
    rejects(rejected)
    progress(done, len(items))
    if not waiting:
        return
    each = work_on_ray(waiting.items(), work, time_limit=job.time_limit, workers=workers, ray_address=ray_address)
    with closing(each) as worked:
        for number, lines in worked:
            with atomic_write(_shard_path(out, number)) as file:
                file.writelines(lines)
            count(lines)
            rejects(rejected)
            progress(done, len(items))


def read_shards(out: Path, job: Job, items: Sequence[Any]) -> Iterator[tuple[Any, list[Record]]]:
    """Every item with its records, in order."""
    for number, part in enumerate(_shards(items, job)):
        with _shard_path(out, number).open("rb") as file:
            yield from zip(part, map(json.loads, file), strict=True)


def _shards(items: Sequence[Any], job: Job) -> Iterator[Sequence[Any]]:
    return (items[start : start + job.shard_size] for start in range(0, len(items), job.shard_size))


def _shard_path(out: Path, number: int) -> Path:
    return out / _WORK / f"shard-{number:05d}.jsonl"
