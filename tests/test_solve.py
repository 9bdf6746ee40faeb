"""Puzzles asked of a server: what goes there, and that nothing that a server does hangs or breaks the one who asks."""

import json
import threading
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from jigsaw.errors import JigsawError
from jigsaw.puzzle import Puzzle
from jigsaw.solve import Endpoint
from jigsaw.tasks import build_puzzle
from jigsaw.toy.rows import write_puzzles


class Server(ThreadingHTTPServer):
    """Speaks the protocol of chats.

    Attributes:
        answer: what is written for a chat, by this function of the handler.
        asked: bodies of the requests.
        keys: what came as a key.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer: Callable[[Handler], None] = lambda handler: handler.reply("<answer>1, 2</answer>")
        self.asked: list[Any] = []
        self.keys: set[str | None] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        assert self.path == "/v1/models"
        self.send(200, json.dumps({"data": [{"id": "mine"}]}).encode())

    def do_POST(self) -> None:
        assert self.path == "/v1/chat/completions"
        self.server.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.server.keys.add(self.headers.get("Authorization"))
        self.server.answer(self)

    def reply(self, text: Any) -> None:
        self.send(200, json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode())

    def send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    found.shutdown()
    thread.join()
    found.server_close()


@pytest.fixture(scope="module")
def puzzles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Puzzle]:
    """One of each task."""
    folder = tmp_path_factory.mktemp("media")
    rows = write_puzzles(folder, picture=(120, 80), grid=(2, 2), film=(56, 56), seconds=2)
    return {task: build_puzzle(row, folder) for task, row in rows.items()}


def pictures(content: list[dict[str, Any]]) -> list[Image.Image]:
    found = []
    for item in content:
        if item["type"] != "text":
            kind = item["type"]
            head, _, data = item[kind]["url"].partition(",")
            assert head == {"image_url": "data:image/png;base64", "video_url": "data:video/jpeg;base64"}[kind]
            found += [Image.open(BytesIO(b64decode(part))) for part in data.split(",")]
    return found


def test_a_puzzle_goes_there_pixel_for_pixel_and_its_reply_comes_back(
    server: Server, puzzles: dict[str, Puzzle]
) -> None:
    puzzle = puzzles["image"]
    reply = Endpoint(server.url, key="s3cret").ask(puzzle, max_new_tokens=7)
    assert reply == "<answer>1, 2</answer>"
    (asked,) = server.asked
    assert (asked["model"], asked["temperature"], asked["max_tokens"]) == ("mine", 0, 7)
    assert server.keys == {"Bearer s3cret"}
    content = asked["messages"][0]["content"]
    assert [item["text"] for item in content if item["type"] == "text"] == [
        item["text"] for item in puzzle.messages[0]["content"] if item["type"] == "text"
    ]
    for sent, tile in zip(pictures(content), puzzle.media, strict=True):
        assert sent.tobytes() == tile.tobytes()


def test_a_clip_goes_there_as_its_frames(server: Server, puzzles: dict[str, Puzzle]) -> None:
    Endpoint(server.url, model="other").ask(puzzles["video"], max_new_tokens=7)
    frames = pictures(server.asked[0]["messages"][0]["content"])
    wanted = [frame for clip in puzzles["video"].media for frame in clip.frames.permute(0, 2, 3, 1).numpy()]
    assert [frame.tobytes() for frame in frames] == [frame.tobytes() for frame in wanted]
    assert server.asked[0]["model"] == "other"


def _drip(handler: Handler) -> None:
    """A byte now and then, for ever: no single read takes long."""
    handler.send_response(200)
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b" ")
            time.sleep(0.02)
    except OSError:
        return


def _flood(handler: Handler) -> None:
    handler.send_response(200)
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b" " * 2**16)
    except OSError:
        return


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda handler: handler.send(200, b"hello"), r"cannot be asked \(Expecting value"),
        (lambda handler: handler.send(200, b"[]"), r"answers \[\], which holds no reply"),
        (lambda handler: handler.send(200, b'{"choices": []}'), "which holds no reply"),
        (lambda handler: handler.reply(None), "answers None in place of a reply"),
        (lambda handler: handler.send(500, b"out\nof memory"), "answers 500 out of memory;"),
        (lambda handler: handler.send(401, b""), "answers 401 ;"),
        (lambda handler: time.sleep(1), r"has not answered within 0\.3 s"),
        (_drip, r"has not answered within 0\.3 s"),
        (_flood, "answers more than 4 MiB, which is no reply"),
    ],
    ids=["text", "a list", "no choice", "nothing", "an error", "a refusal", "hangs", "drips", "floods"],
)
def test_whatever_a_server_does_is_one_line(
    server: Server, puzzles: dict[str, Puzzle], answer: Callable[[Handler], None], said: str
) -> None:
    server.answer = answer
    begun = time.monotonic()
    with pytest.raises(JigsawError, match=said) as raised:
        Endpoint(server.url, seconds=0.3 if "within" in said else 30).ask(puzzles["image"], max_new_tokens=7)
    assert time.monotonic() - begun < 20
    assert str(raised.value).startswith(server.url)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("url", ["nonsense", "ftp://here", "localhost:8000/v1"])
def test_what_is_no_address_is_one_line(url: str) -> None:
    with pytest.raises(JigsawError, match=rf"^{url}: is no address of a server; it must be like http://"):
        Endpoint(url)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/v1", "http://"])
def test_an_address_that_leads_nowhere_is_one_line(puzzles: dict[str, Puzzle], url: str) -> None:
    with pytest.raises(
        JigsawError, match=rf"^{url}: cannot be asked \(.*\); is it the address of an OpenAI-compatible"
    ):
        Endpoint(url).ask(puzzles["image"], max_new_tokens=7)
