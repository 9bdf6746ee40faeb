"""Work on many items with Ray, on this machine or on a cluster: lists of items in, lines of JSON out.

A file on which its reader hangs or dies costs that item alone (:mod:`jigsaw.reader`). A worker only computes.
"""

import logging
import os
import signal
import sys
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from jigsaw.errors import JigsawError, OptionError
from jigsaw.machine import answers, available_cores
from jigsaw.reader import Reader, Work


def work_on_ray(
    parts: Iterable[tuple[int, Sequence[Any]]],
    work: Work,
    *,
    time_limit: float,
    workers: int | None = None,
    ray_address: str | None = None,
) -> Generator[tuple[int, list[bytes]]]:
    """Work numbered lists of items on Ray, and give (number, a line of JSON for every item) as each is finished.

    See :meth:`jigsaw.reader.Reader.lines` for the lines and :func:`jigsaw.prepare.folder.run_shards` for
    the arguments. If it is closed early, what is at work is killed at once.
    """
    import ray

    with _ray(workers, ray_address) as (cores, lasts):
        workers = workers or cores
        # Two lists a worker where Ray cannot work more than `workers` at a time: one at work, one waiting.
        most = 2 * workers if workers >= cores else workers
        # A worker that dies is Ray's affair: it starts another, a few times.
        remote = ray.remote(num_cpus=1, max_retries=3)(_work_part)
        queue = iter(parts)
        pending: dict[ray.ObjectRef, int] = {}
        try:
            while True:
                while len(pending) < most and (following := next(queue, None)) is not None:
                    number, part = following
                    pending[remote.remote(work, part, time_limit)] = number
                if not pending:
                    return
                (finished,), _ = ray.wait(list(pending))
                number = pending.pop(finished)
                yield number, ray.get(finished)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None  # in the reader's own words
        except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
            raise JigsawError(
                "worker processes died again and again, for want of memory perhaps; "
                "start again (what is finished is kept) with fewer workers"
            ) from error
        finally:
            if pending and lasts:
                # Only what is at work: Ray 2.60 ends this whole process if it is to cancel what has just been finished
                # (task_manager.cc, "Tried to complete task that was not pending").
                _, at_work = ray.wait(list(pending), num_returns=len(pending), timeout=0)
                for reference in at_work:
                    ray.cancel(reference, force=True)


_reader = Reader()
"""A worker's: kept from one list of items to the next."""


def _work_part(work: Work, items: Sequence[Any], time_limit: float) -> list[bytes]:
    return _reader.lines(work, items, time_limit)


@contextmanager
def _ray(workers: int | None, address: str | None) -> Iterator[tuple[int, bool]]:
    """A Ray that runs meanwhile: this process's if it has one, a cluster, or one of our own.

    Yields:
        Its number of cores, and whether it lasts: one of our own ends, with all that is at work, when the block ends.
    """
    import ray

    if ray.is_initialized():
        yield int(ray.cluster_resources().get("CPU", 1)), True
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    on_term = signal.getsignal(signal.SIGTERM)
    try:
        if address is None:
            own = {"num_cpus": workers or available_cores(), "object_store_memory": 128 << 20}
            ray.init(address="local", include_dashboard=False, **own, **quiet)
        else:
            # Asked before Ray, which tries for many minutes.
            if address != "auto" and not answers(address):
                raise OptionError("ray_address", address, "nothing answers there; is the cluster up?")
            try:
                ray.init(address=address, **quiet)
            except (ConnectionError, ValueError, RuntimeError) as error:
                why = " ".join(str(error).split())
                raise OptionError(
                    "ray_address",
                    address,
                    f"Ray cannot be used there ({why:.200}); if the cluster asks for a token, set RAY_AUTH_MODE=token",
                ) from error
        if threading.current_thread() is threading.main_thread():
            # Ray's own prints a trace of C++ and stays when Ray is gone.
            signal.signal(signal.SIGTERM, on_term)
        yield int(ray.cluster_resources().get("CPU", 1)), address is not None
    finally:
        with _silence():
            ray.shutdown()


@contextmanager
def _silence() -> Iterator[None]:
    """Nothing is seen on stderr, also of what C++ writes: Ray says that what is at work fails where it is stopped."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
