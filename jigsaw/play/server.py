"""The page's server: where it is asked, and how it ends, with nothing left of what was uploaded."""

import ipaddress
import os
import shutil
import signal
import socket
from collections.abc import Collection, Generator, Iterator
from contextlib import contextmanager
from errno import EACCES, EADDRINUSE
from pathlib import Path
from tempfile import gettempdir, mkdtemp
from types import FrameType

import psutil
import uvicorn
from starlette.applications import Starlette

from jigsaw.errors import OptionError

_PREFIX = "jigsaw-play-"


def opened(host: str, port: int) -> socket.socket:
    """The socket that is asked at an address.

    Args:
        host: name or address.
        port: 0 for any that is free.

    Raises:
        OptionError: if there is no such address here, or the port is in use.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError) as error:
        raise OptionError("host", host, "is no address; give one of this machine's, or 0.0.0.0 for all") from error
    try:
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        why = os.strerror(error.errno or 0)
        if error.errno in (EADDRINUSE, EACCES):
            raise OptionError("port", port, f"{why}; choose another") from error
        raise OptionError("host", host, f"{why}; is it an address of this machine?") from error


def where(place: socket.socket) -> tuple[str, Collection[str] | None]:
    """The page's address, and the names by which it may be asked; None for any, where not only this machine can."""
    host, port, *_ = place.getsockname()
    shown = f"[{host}]" if ":" in host else host
    is_own = ipaddress.ip_address(host.partition("%")[0]).is_loopback
    return f"http://{shown}:{port}", {host, "localhost", "127.0.0.1", "::1"} if is_own else None


@contextmanager
def uploads() -> Iterator[Path]:
    """A folder for what visitors bring, which is gone afterwards, as are those of servers that were killed.

    Ctrl-C and SIGTERM end the process at once, whoever is waiting: a model may take minutes for a reply, and its thread
    cannot be stopped.
    """
    for left in Path(gettempdir()).glob(f"{_PREFIX}*"):
        owner = left.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdecimal() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))

    def end(number: int, frame: FrameType | None) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(0 if number == signal.SIGINT else 128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield folder
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        shutil.rmtree(folder, ignore_errors=True)


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave signals to :func:`uploads`."""
        yield


def serve(app: Starlette, place: socket.socket) -> None:
    """Serve for good."""
    _Server(uvicorn.Config(app, log_level="warning")).run(sockets=[place])
