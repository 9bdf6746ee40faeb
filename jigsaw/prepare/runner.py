"""The runner that every ``prepare`` shares: items in, lines of JSON out, one file a shard; a folder to finish.

The output folder passes through these states, each entered by one rename, so a kill at any moment leaves it in one:

==========  =====================================  =======================================================
state       what is there                          what the next start with the same job does
==========  =====================================  =======================================================
begun       ``.job.json``, shards in ``.work``     works the shards that are missing
publishing  some of the outputs, no manifest       writes the outputs again, the same bytes
finished    all outputs, ``manifest.json``         nothing: it is up to date
==========  =====================================  =======================================================

A worker only computes. All files are written by the one process that holds the lock, so an orphan of a killed run
cannot write into its successor's folder.
"""

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import threading
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import wait as wait_for_handle
from pathlib import Path
from typing import IO, Any

from jigsaw.errors import JigsawError
from jigsaw.files import alone, atomic_write

Record = dict[str, Any]
"""What a worker says of an item: JSON values, the same for the same item in every process."""

Progress = Callable[[int, int], None]
"""Called with (items done, items in all), first before any work."""

SHARD_SIZE = 500
"""Items a shard. Part of the job: what is on disk is numbered by it."""

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
    """

    command: str
    arguments: dict[str, Any]
    listing: str
    versions: dict[str, str]
    outputs: tuple[str, ...]


def available_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fingerprint(values: Iterable[Any]) -> str:
    """sha256 of a stream of JSON values, as hex."""
    digest = hashlib.sha256()
    for value in values:
        digest.update(json_line(value))
    return digest.hexdigest()


def json_line(value: Any) -> bytes:
    """One line of JSON in UTF-8, readable as far as its text is valid."""
    # A file name that is no valid UTF-8 holds lone surrogates; `backslashreplace` writes them as JSON's own \udcxx.
    return json.dumps(value, ensure_ascii=False, sort_keys=True).encode("utf-8", "backslashreplace") + b"\n"


@contextmanager
def output_folder(out: Path) -> Iterator[None]:
    """Make the folder and hold it alone; the system lets go of it when this process ends, however it ends.

    Raises:
        JigsawError: if the folder cannot be made or written, or another run holds it.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JigsawError(f"{out}: cannot be used as output folder ({error.strerror}); choose another --out") from error
    with alone(out / _LOCK, f"{out}: another run is at work in this folder; wait for it or choose another --out"):
        yield


def begin(out: Path, job: Job) -> bool:
    """Make the folder ready for the job's shards; False if the job is finished already.

    Call it inside :func:`output_folder`. Shards of the same job are kept, those of another are removed.

    Raises:
        JigsawError: if the folder holds another job's outputs, changed outputs or files of someone else.
    """
    ours = {**asdict(job), "outputs": list(job.outputs), "shard_size": SHARD_SIZE}
    for name in (_JOB, MANIFEST):  # half-written ones of runs that were killed; this run alone holds the folder
        for half in out.glob(f".{name}.*.tmp"):
            half.unlink()
    found = _read_json(out / _JOB)
    manifest = _read_json(out / MANIFEST)
    if found is None:
        for name in (*job.outputs, MANIFEST, _WORK):
            if (out / name).exists():
                raise JigsawError(
                    f"{out / name}: was not made by this command and is not replaced; choose another --out"
                )
    elif manifest is not None:
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


def _read_json(path: Path) -> Record | None:
    if not path.exists():
        return None
    try:
        value: Record = json.loads(path.read_bytes())
    except ValueError as error:
        raise JigsawError(f"{path}: is damaged; choose another --out") from error
    return value


def _check_finished(out: Path, manifest: Record, found: Record, ours: Record) -> None:
    remedy = "choose another --out, or delete this folder to make it anew"
    if found["command"] != ours["command"]:
        raise JigsawError(f"{out}: holds the output of jigsaw {found['command']}; {remedy}")
    there, wanted = found["arguments"], ours["arguments"]
    if changed := [name for name in wanted if there.get(name) != wanted[name]]:
        said = ", ".join(f"{name} {there.get(name)} (now {wanted[name]})" for name in changed)
        raise JigsawError(f"{out}: was finished with other arguments: {said}; {remedy}")
    if found["listing"] != ours["listing"]:
        raise JigsawError(f"{out}: was finished from other files than the media root holds now; {remedy}")
    for name, entry in manifest["files"].items():
        if not (out / name).is_file() or sha256_of(out / name) != entry["sha256"]:
            raise JigsawError(f"{out / name}: is missing or not as {MANIFEST} says; {remedy}")


def sha256_of(path: Path) -> str:
    """sha256 of a file's bytes, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
    with atomic_write(out / MANIFEST) as file:
        file.write(json.dumps(manifest, indent=2).encode() + b"\n")
    _remove_shards(out)
    return manifest


def read_manifest(out: Path) -> Record:
    """The manifest of a finished folder."""
    manifest: Record = json.loads((out / MANIFEST).read_bytes())
    return manifest


def run_shards(
    out: Path, items: Sequence[Any], work: Callable[[Any], list[Record]], *, workers: int, progress: Progress
) -> None:
    """Work all items whose shards are not on disk yet, in ``workers`` processes.

    Args:
        out: the output folder, made ready by :func:`begin`.
        items: what to work, in the order of the output; can be pickled.
        work: what is said of one item; can be pickled.
        workers: number of processes.
        progress: told after every shard.

    Raises:
        JigsawError: if a worker dies or a shard cannot be written.
    """
    shards = {start // SHARD_SIZE: items[start : start + SHARD_SIZE] for start in range(0, len(items), SHARD_SIZE)}
    waiting = {number: part for number, part in shards.items() if not _shard_path(out, number).exists()}
    done = len(items) - sum(map(len, waiting.values()))
    progress(done, len(items))
    if not waiting:
        return
    # Closed at once when this loop is left by an error or by Ctrl-C: that ends the workers.
    with closing(_worked(waiting, work, min(workers, len(waiting)))) as worked:
        for number, records in worked:
            with atomic_write(_shard_path(out, number)) as file:
                file.writelines(map(json_line, records))
            done += len(shards[number])
            progress(done, len(items))


def read_shards(out: Path, item_count: int) -> Iterator[Record]:
    """The records of all shards, in the order of the items."""
    for number in range((item_count + SHARD_SIZE - 1) // SHARD_SIZE):
        with _shard_path(out, number).open("rb") as file:
            yield from map(json.loads, file)


def _shard_path(out: Path, number: int) -> Path:
    return out / _WORK / f"shard-{number:05d}.jsonl"


def _worked(
    shards: dict[int, Sequence[Any]], work: Callable[[Any], list[Record]], workers: int
) -> Generator[tuple[int, list[Record]]]:
    """(number, records) of every shard, as they are finished."""
    queue = iter(shards.items())
    pending: dict[Future[list[Record]], int] = {}
    with _pool(workers) as pool:
        while True:
            # Two shards a worker: one at work, one waiting. So memory does not grow with the input.
            while len(pending) < 2 * workers and (following := next(queue, None)) is not None:
                number, part = following
                with _interrupts_held():
                    pending[pool.submit(_work_shard, work, part)] = number
            if not pending:
                return
            finished, _ = wait(pending, return_when=FIRST_COMPLETED)
            for future in finished:
                number = pending.pop(future)
                try:
                    yield number, future.result()
                except BrokenProcessPool as error:
                    first = min([number, *pending.values()])
                    raise JigsawError(
                        "a worker process died, out of memory or by a file that crashes its reader, at "
                        f"{shards[first][0]!r} or one of the files after it; start again (what is finished is kept) "
                        "with fewer --workers, or without that file"
                    ) from error


def _work_shard(work: Callable[[Any], list[Record]], items: Sequence[Any]) -> list[Record]:
    return [record for item in items for record in work(item)]


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of fresh processes (a fork would inherit the lock), killed at once if the block is left by an error."""
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker)
    try:
        yield pool
    except BaseException:
        # Killed before the pool is told to end: a pool that ends writes to its workers' pipes, and where a worker dies
        # in that moment a thread of the pool prints a trace.
        for process in set(multiprocessing.active_children()) - others:
            process.kill()
        raise
    finally:
        pool.shutdown()


def _start_worker() -> None:
    # Remarks of readers on odd metadata; what a file is worth is said by its record.
    warnings.simplefilter("ignore")
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """End this worker when its parent was killed; by itself an executor's worker would wait for it for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for_handle([parent.sentinel])
        os._exit(1)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back for a moment; processes that are started meanwhile never see it, and their parent ends them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
