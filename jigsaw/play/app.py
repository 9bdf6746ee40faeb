"""The page of :mod:`jigsaw.play.table` as an ASGI application: Starlette serves it, everything on it is local."""

import json
from collections.abc import AsyncGenerator
from contextlib import closing
from pathlib import Path
from shutil import copyfileobj

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from jigsaw.errors import JigsawError
from jigsaw.play.table import GAMES, Table, Visit
from jigsaw.show.gallery import render

VISIT = "X-Jigsaw-Visit"
"""Header with a visit's token. A page of another origin cannot set it, so it cannot play in a visitor's name."""
_SAFE = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_LONGEST_ANSWER = 10_000
_FORM = 1 << 16
"""Bytes that a form has besides its files, at most."""


def application(table: Table, *, model: str | None, most_bytes: int, hosts: list[str]) -> Starlette:
    """The application.

    Args:
        table: where it is played.
        model: name of who plays beside; None for nobody.
        most_bytes: of the files of a puzzle.
        hosts: names under which it may be asked; ``["*"]`` for all. A page elsewhere could else have its own name lead
            here, and read what is played.
    """
    page = render("page.html.j2", "jigsaw.play", games=GAMES, model=model, most_bytes=most_bytes)

    async def index(request: Request) -> Response:
        return HTMLResponse(page, headers=_SAFE)

    async def enter(request: Request) -> Response:
        token, visit = table.enter(request.headers.get(VISIT, ""))
        return JSONResponse({"visit": token, "tally": visit.said()})

    async def begin(request: Request) -> Response:
        visit = _visit(table, request)
        async with _Form(request, most_bytes + _FORM) as form:
            task, level = str(form.get("task")), str(form.get("level"))
            files = {part: form[part] for part in GAMES[task].parts if part in form} if task in GAMES else {}
            brought = {part: file for part, file in files.items() if isinstance(file, UploadFile) and file.filename}

            def fill(folder: Path) -> dict[str, tuple[str, Path]]:
                return {part: (str(file.filename), _copied(file, folder, part)) for part, file in brought.items()}

            return JSONResponse(await run_in_threadpool(table.begin, visit, task, level, fill))

    async def answer(request: Request) -> Response:
        visit = _visit(table, request)
        try:
            given = json.loads(await _body(request, _LONGEST_ANSWER))["answer"]
            pieces = [piece for piece in given if type(piece) is int]
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise JigsawError("an answer is a list of numbers") from error
        return JSONResponse(await run_in_threadpool(table.answer, visit, pieces if pieces == given else []))

    async def ask(request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(table.ask, _visit(table, request)))

    return Starlette(
        routes=[
            Route("/", index),
            Mount("/static", StaticFiles(directory=Path(__file__).parent / "static")),
            *(Route(f"/{run.__name__}", run, methods=["POST"]) for run in (enter, begin, answer, ask)),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts)],
        exception_handlers={JigsawError: _refuse, HTTPException: _turn_away, Exception: _fail},
    )


def _visit(table: Table, request: Request) -> Visit:
    token = request.headers.get(VISIT, "")
    found, visit = table.enter(token)
    if found != token:
        raise HTTPException(410, "this visit has ended; load the page again")
    return visit


class _Form:
    """The form of a request, its files on disk, until one leaves."""

    def __init__(self, request: Request, most_bytes: int) -> None:
        self._request, self._most = request, most_bytes

    async def __aenter__(self) -> FormData:
        if not self._request.headers.get("content-type", "").startswith("multipart/form-data"):
            raise JigsawError("a puzzle is asked for by a form")
        parser = MultiPartParser(self._request.headers, _counted(self._request, self._most), max_files=2, max_fields=4)
        try:
            self._form = await parser.parse()
        except MultiPartException as error:
            raise JigsawError(f"the form cannot be read ({error.message})") from error
        return self._form

    async def __aexit__(self, *raised: object) -> None:
        await self._form.close()


async def _counted(request: Request, most: int) -> AsyncGenerator[bytes, None]:
    """What is sent, as far as it is not too much."""
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise HTTPException(413, f"more than {most >> 20} MiB are too much; bring a smaller file")
        yield part


async def _body(request: Request, most: int) -> bytes:
    return b"".join([part async for part in _counted(request, most)])


def _copied(file: UploadFile, folder: Path, part: str) -> Path:
    """An upload as a file; nothing of its name but what its suffix says of a film."""
    suffix = Path(str(file.filename)).suffix.lower()
    path = folder / (part.replace(" ", "-") + (suffix if suffix.isascii() and suffix[1:].isalnum() else ""))
    with path.open("wb") as sink, closing(file.file) as source:
        copyfileobj(source, sink)
    return path


def _refuse(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": " ".join(str(error).split())}, 400)


def _turn_away(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code)


def _fail(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "this went wrong on the server; where it was started, it says how"}, 500)
