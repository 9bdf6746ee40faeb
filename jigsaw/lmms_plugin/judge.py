"""A judge's replies, kept: a server between lmms-eval's tasks and the judge, which both speak OpenAI's protocol to.

lmms-eval has no one place where a judge is asked, and tasks that score by rules where the judge fails, with no word of
it. Here all of them ask one address; what the judge said is kept and not asked again, and what it did not say fails the
evaluation.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from jigsaw.errors import JigsawError
from jigsaw.lmms_plugin.replies import Replies
from jigsaw.lmms_plugin.run import KEY

URL = "OPENAI_API_URL"
"""Environment variable: the judge's address; OpenAI's where none is given."""
_OPENAI = "https://api.openai.com/v1"
_CALL = "/chat/completions"
_SECONDS = 120.0
"""That a reply may take."""
_PATIENCE = 10
"""Questions in a row without an answer; lmms-eval's tasks ask each some five times, with pauses."""


class Judge:
    """The server.

    Args:
        kept: JSON Lines, a judge's reply each: ``key``, ``reply`` (its text), ``tokens``, ``asked`` and ``answer`` (as
            they went over the wire).
    """

    def __init__(self, kept: Path) -> None:
        self.url = (os.environ.get(URL) or _OPENAI).rstrip("/").removesuffix(_CALL)
        self._key = os.environ.get(KEY)
        self._kept = kept
        self._models: set[str] = set()
        self._unanswered: dict[str, str] = {}
        """Why, by key."""
        self._silent = 0
        """Questions in a row without an answer."""
        self.give_up: Callable[[], None] = lambda: None
        """Called when it has been silent for so long that asking on makes no sense."""

    @cached_property
    def _replies(self) -> Replies:
        return Replies(self._kept)

    @property
    def used(self) -> dict[str, Any] | None:
        """What the results say of it; None if it was not asked."""
        return {"url": self.url, "models": sorted(self._models)} if self._models else None

    def check(self) -> None:
        """Raise JigsawError if it does not answer, or not to this key."""
        if not self._key:
            raise JigsawError(f"a judge needs {KEY}; {URL} names another than OpenAI's")
        try:
            answer = httpx.get(f"{self.url}/models", headers=self._headers, timeout=30.0)
        except httpx.HTTPError as error:
            raise JigsawError(
                f"the judge at {self.url} does not answer ({error}); set {URL} to one that does"
            ) from error
        if answer.status_code in (401, 403):
            raise JigsawError(f"the judge at {self.url} does not take the key in {KEY} ({answer.status_code})")
        if answer.status_code != 200:
            raise JigsawError(
                f"the judge at {self.url} answers {answer.status_code} to /models; {URL} must name what speaks "
                "OpenAI's protocol, as a rule an address that ends in /v1"
            )

    def check_answered(self) -> None:
        """Raise JigsawError if it was asked what it did not answer."""
        if self._unanswered:
            why = next(iter(self._unanswered.values()))
            raise JigsawError(
                f"the judge left {len(self._unanswered)} questions unanswered ({why}); what it said is kept, start "
                "again to ask the rest"
            )

    @contextmanager
    def listening(self) -> Iterator[dict[str, str]]:
        """While it is open, who has this environment asks here."""
        place = socket.create_server(("127.0.0.1", 0))
        routes = [Route("/{path:path}", self._asked, methods=["POST"])]
        server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [place]}, daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        try:
            # Some tasks take the address of the call, some put the call behind it; all paths are one here.
            here = f"http://127.0.0.1:{place.getsockname()[1]}/v1{_CALL}"
            direct = ",".join(filter(None, (os.environ.get("no_proxy"), "127.0.0.1")))
            yield {URL: here, KEY: self._key or "none", "API_TYPE": "openai", "no_proxy": direct}
        finally:
            server.should_exit = True
            thread.join()

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._key}"}

    async def _asked(self, request: Request) -> JSONResponse:
        asked = await request.json()
        self._models.add(str(asked.get("model")))
        key = sha256(json.dumps([self.url, asked], sort_keys=True).encode()).hexdigest()
        # Noted before anything can fail: without the judge's word its task must not score.
        self._unanswered.setdefault(key, "the server between failed")
        known = self._replies.get(key)
        if not known or "answer" not in known:
            try:
                answer, text = await self._judged(asked)
            except (httpx.HTTPError, httpx.InvalidURL, ValueError, LookupError, TypeError) as error:
                why = self._unanswered[key] = f"{type(error).__name__}: {error}".splitlines()[0]
                self._silent += 1
                if self._silent >= _PATIENCE:
                    self.give_up()
                return JSONResponse({"error": {"message": why, "type": "judge"}}, status_code=502)
            tokens = (answer.get("usage") or {}).get("completion_tokens", 0)
            known = {"key": key, "reply": text, "tokens": tokens, "asked": asked, "answer": answer}
            self._replies.add(known)
        self._silent = 0
        self._unanswered.pop(key, None)
        return JSONResponse(known["answer"])

    async def _judged(self, asked: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """The judge's answer, and its text."""
        if not self._key:
            raise ValueError(f"there is no {KEY}")
        async with httpx.AsyncClient(timeout=_SECONDS) as client:
            answer = await client.post(f"{self.url}{_CALL}", headers=self._headers, json=asked)
        answer.raise_for_status()
        said: dict[str, Any] = answer.json()
        text = said["choices"][0]["message"]["content"]
        if not isinstance(text, str) or not text.strip():
            raise ValueError("its answer is empty")
        return said, text
