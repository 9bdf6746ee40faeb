"""The page of :mod:`jigsaw.play.table` as an ASGI application: Starlette serves it, everything on it is local."""

import json
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import closing
from functools import partial
from pathlib import Path
from shutil import copyfileobj
from typing import Any
from urllib.parse import urlsplit

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from jigsaw.errors import JigsawError
from jigsaw.play.table import AT_ONCE, GAMES, Table, Visit
from jigsaw.prepare.images import SUFFIXES as PICTURES
from jigsaw.prepare.videos import SUFFIXES as VIDEOS
from jigsaw.show.gallery import render

VISIT = "X-Jigsaw-Visit"
"""Header with a visit's token. A page of another origin cannot set it, so it cannot play in a visitor's name."""
MOST_WAITING = 20
"""Visitors who wait for their puzzle, or for the model; more are told to come again."""
_SAFE = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_LONGEST_ANSWER = 10_000
_FORM = 1 << 16
"""Bytes that a form has besides its files, at most."""


def application(table: Table, *, model: str | None, most_bytes: int, hosts: Collection[str] | None) -> Starlette:
    """The application.

    Args:
        table: where it is played.
        model: name of who plays beside; None for nobody.
        most_bytes: of the files of a puzzle.
        hosts: names under which it may be asked; None for any. A page elsewhere could else have its own name lead here,
            and read what is played.
    """
    page = render("page.html.j2", "jigsaw.play", games=GAMES, model=model, most_bytes=most_bytes)
    cutting, asking = _Queue(AT_ONCE), _Queue(1)

    async def index(request: Request) -> Response:
        return HTMLResponse(page, headers=_SAFE)

    async def enter(request: Request) -> Response:
        token, visit = table.enter(request.headers.get(VISIT, ""))
        return JSONResponse({"visit": token, "tally": visit.said()})

    async def begin(request: Request) -> Response:
        visit = _visit(table, request)
        async with _Form(request, most_bytes + _FORM) as form:
            task, level = (_text(form.get(name)) for name in ("task", "level"))
            files = {part: form[part] for part in GAMES[task].parts if part in form} if task in GAMES else {}
            brought = {part: file for part, file in files.items() if isinstance(file, UploadFile) and file.filename}

            def fill(folder: Path) -> dict[str, tuple[str, Path]]:
                return {part: (_text(file.filename), _copied(file, folder, part)) for part, file in brought.items()}

            return JSONResponse(await cutting.run(table.begin, visit, task, level, fill))

    async def answer(request: Request) -> Response:
        visit = _visit(table, request)
        said = await _read(request)
        pieces = said.get("answer")
        if not isinstance(pieces, list) or any(type(piece) is not int for piece in pieces):
            raise JigsawError("an answer is a list of numbers")
        return JSONResponse(await run_in_threadpool(table.answer, visit, said.get("puzzle", 0), pieces))

    async def ask(request: Request) -> Response:
        visit = _visit(table, request)
        return JSONResponse(await asking.run(table.ask, visit, (await _read(request)).get("puzzle", 0)))

    return Starlette(
        routes=[
            Route("/", index),
            Mount("/static", StaticFiles(directory=Path(__file__).parent / "static")),
            *(Route(f"/{run.__name__}", run, methods=["POST"]) for run in (enter, begin, answer, ask)),
        ],
        middleware=[Middleware(_Door, hosts=hosts)],
        exception_handlers={JigsawError: _refuse, HTTPException: _turn_away, Exception: _fail},
    )


class _Door:
    """Lets those in who ask by a name of this machine, and of no other page."""

    def __init__(self, app: ASGIApp, hosts: Collection[str] | None) -> None:
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            request = Request(scope)
            host, origin = request.headers.get("host", ""), request.headers.get("origin")
            # A proxy, such as that of a Space, may ask by another name; no page elsewhere can set what it says then.
            names = (host, request.headers.get("x-forwarded-host"))
            why = None
            if self._hosts is not None and _host_name(host) not in self._hosts:
                why = "this page is not known by that name"
            elif origin is not None and urlsplit(origin).netloc not in names:
                why = "another page may not play here"
            if why:
                await JSONResponse({"error": why}, 403)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _host_name(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


class _Queue:
    """Work that so many threads of their own do; who waits holds none."""

    def __init__(self, at_once: int) -> None:
        self._limiter = CapacityLimiter(at_once)

    async def run(self, work: Callable[..., Any], *arguments: Any) -> Any:
        if self._limiter.statistics().tasks_waiting >= MOST_WAITING:
            raise HTTPException(503, "too many are waiting; try again in a minute")
        return await run_sync(partial(work, *arguments), limiter=self._limiter)


def _visit(table: Table, request: Request) -> Visit:
    visit = table.find(request.headers.get(VISIT, ""))
    if visit is None:
        raise HTTPException(410, "this visit has ended; load the page again")
    return visit


class _Form:
    """The form of a request, its files on disk, until one leaves."""

    def __init__(self, request: Request, most_bytes: int) -> None:
        self._request, self._most = request, most_bytes

    async def __aenter__(self) -> FormData:
        if not self._request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            raise JigsawError("a puzzle is asked for by a form")
        too_much = f"more than {self._most >> 20} MiB are too much; bring a smaller file"
        parts = _counted(self._request, self._most, too_much)
        try:
            self._form = await MultiPartParser(self._request.headers, parts, max_files=2, max_fields=4).parse()
        except (MultiPartException, LookupError) as error:  # the latter of a charset that there is not
            raise JigsawError(f"the form cannot be read ({error})") from error
        return self._form

    async def __aexit__(self, *raised: object) -> None:
        await self._form.close()


async def _counted(request: Request, most: int, too_much: str) -> AsyncGenerator[bytes, None]:
    """What is sent, as far as it is not too much."""
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise HTTPException(413, too_much)
        yield part


async def _read(request: Request) -> dict[str, Any]:
    """The JSON object of a request."""
    body = b"".join([part async for part in _counted(request, _LONGEST_ANSWER, "this is no answer to a puzzle")])
    try:
        said = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise JigsawError("what is sent must be JSON") from error
    if not isinstance(said, dict):
        raise JigsawError("what is sent must be a JSON object")
    return said


def _text(given: object) -> str:
    """A form's text, of which no character is half of one."""
    return str(given or "").encode("utf-8", "replace").decode()


def _copied(file: UploadFile, folder: Path, part: str) -> Path:
    """An upload as a file; nothing of its name but a suffix that is known."""
    suffix = Path(str(file.filename)).suffix.lower()
    path = folder / (part.replace(" ", "-") + (suffix if suffix in (*PICTURES, *VIDEOS) else ""))
    with path.open("wb") as sink, closing(file.file) as source:
        copyfileobj(source, sink)
    return path


def _refuse(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": _text(" ".join(str(error).split()))}, 400)


def _turn_away(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code)


def _fail(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "this went wrong on the server; where it was started, it says how"}, 500)
