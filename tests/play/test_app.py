"""What the server of the page lets through: who may ask, how much, and in what words it refuses."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from jigsaw.play.app import VISIT, application
from jigsaw.play.table import Table
from jigsaw.puzzle import CutOptions, Puzzle

pytestmark = pytest.mark.seconds  # each table has readers, processes of their own


@pytest.fixture
def client() -> TestClient:
    table = Table(None, seed=1, answer_format="answer_tag")
    app = application(table, model=None, most_bytes=1 << 20, hosts=["127.0.0.1", "::1"])
    return TestClient(app, base_url="http://127.0.0.1")


def enter(client: TestClient) -> dict[str, str]:
    """The header of a new visit."""
    return {VISIT: client.post("/enter").json()["visit"]}


def begin(client: TestClient, visit: dict[str, str], files: Any = None, **form: str) -> Any:
    fields = {"task": "image", "level": "2x2", **form}
    files = files or {"nothing": ("", b"")}
    return client.post("/begin", headers=visit, data=fields, files=files)


def test_a_puzzle_is_begun_and_answered(client: TestClient) -> None:
    visit = enter(client)
    shown = begin(client, visit).json()
    assert shown["name"] == "a drawn landscape"
    told = client.post("/answer", headers=visit, json={"puzzle": 1, "answer": [1, 2, 3, 4]}).json()
    assert sorted(told["truth"]) == [1, 2, 3, 4]
    again = client.post("/enter", headers=visit).json()
    assert again == {"visit": visit[VISIT], "tally": told["tally"]}


def test_the_page_asks_for_nothing_from_elsewhere(client: TestClient) -> None:
    page = client.get("/")
    assert "http" not in page.text
    assert page.headers["Content-Security-Policy"].startswith("default-src 'self'")
    for name in ("play.js", "play.css"):
        assert f"static/{name}" in page.text
        assert client.get(f"/static/{name}").status_code == 200
    for path in ("/static/../app.py", "/static/%2e%2e/app.py", "/static/"):
        assert client.get(path).status_code == 404


def test_only_the_names_of_this_machine_are_answered(client: TestClient) -> None:
    """A page elsewhere could have its own name lead here."""
    for host in ("elsewhere.example", "127.0.0.1.elsewhere.example", "[", ""):
        refused = client.get("/", headers={"Host": host})
        assert (refused.status_code, refused.json()) == (403, {"error": "this page is not known by that name"})
    for host in ("127.0.0.1:8000", "[::1]:8000"):
        assert client.get("/", headers={"Host": host}).status_code == 200


def test_another_page_may_not_play_here(client: TestClient) -> None:
    refused = client.post("/enter", headers={"Origin": "http://elsewhere.example"})
    assert (refused.status_code, refused.json()) == (403, {"error": "another page may not play here"})
    assert client.post("/enter", headers={"Origin": "http://127.0.0.1"}).status_code == 200
    proxied = {"Origin": "https://me.example", "X-Forwarded-Host": "me.example"}
    assert client.post("/enter", headers=proxied).status_code == 200


def test_whoever_has_no_visit_puts_nobody_out(client: TestClient) -> None:
    visit = enter(client)
    begin(client, visit)
    for _ in range(150):
        client.post("/ask", json={})
        client.post("/enter")
    assert client.post("/answer", headers=visit, json={"puzzle": 1, "answer": [1, 2, 3, 4]}).status_code == 200


def test_those_who_wait_for_the_model_keep_nobody_else_waiting() -> None:
    go_on = threading.Event()

    class Slow:
        options = CutOptions()

        def get_ready(self) -> None:
            pass

        def ask(self, puzzle: Puzzle, *, max_new_tokens: int) -> str:
            go_on.wait(60)
            return "?"

    table = Table(Slow(), seed=1, answer_format="answer_tag")
    app = application(table, model="slow", most_bytes=1 << 20, hosts=None)
    with TestClient(app) as client, ThreadPoolExecutor(60) as pool:
        visits = [enter(client) for _ in range(50)]
        for visit in visits[:3]:
            begin(client, visit)
        waiting = [pool.submit(client.post, "/ask", headers=visit, json={"puzzle": 1}) for visit in visits]
        waiting += [pool.submit(client.post, "/ask", headers=visits[0], json={"puzzle": 1}) for _ in range(9)]
        assert client.get("/static/play.js").status_code == 200
        assert begin(client, visits[10]).status_code == 200
        assert client.post("/answer", headers=visits[1], json={"puzzle": 1, "answer": [1, 2, 3, 4]}).status_code == 200
        go_on.set()
        told = [one.result() for one in waiting]
    assert {answer.status_code for answer in told} <= {200, 400, 503}
    assert sum(answer.status_code == 200 for answer in told) >= 1


@pytest.mark.parametrize("path", ["/begin", "/answer", "/ask"])
def test_a_visit_that_is_none_is_told(client: TestClient, path: str) -> None:
    refused = client.post(path, headers={VISIT: "stolen"})
    assert (refused.status_code, refused.json()) == (410, {"error": "this visit has ended; load the page again"})


def test_an_upload_that_is_too_large_is_cut_off(client: TestClient) -> None:
    visit = enter(client)
    refused = begin(client, visit, {"picture": ("cat.png", os.urandom(3 << 20))})
    assert refused.status_code == 413
    assert refused.json() == {"error": "more than 1 MiB are too much; bring a smaller file"}
    refused = client.post("/answer", headers=visit, content=b"[" * 100_000)
    assert (refused.status_code, refused.json()["error"]) == (413, "this is no answer to a puzzle")


@pytest.mark.parametrize(
    "name", ["../../cat.png", "/etc/passwd", "cat.png\x00", "c:\\cat.png", "é" * 300, "a." + "b" * 300]
)
def test_a_name_leads_nowhere(client: TestClient, tmp_path: Path, name: str) -> None:
    refused = begin(client, enter(client), {"picture": (name, b"no picture")})
    assert refused.status_code == 400
    assert refused.json()["error"].endswith(": is not a picture that can be read; remove or replace it")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "must be JSON"),
        (b"[" * 9000, "must be JSON"),
        (b"[]", "must be a JSON object"),
        (b'{"answer": 3}', "an answer is a list of numbers"),
        (b'{"answer": "1234"}', "an answer is a list of numbers"),
        (b'{"answer": [true, 2, 3, 4]}', "an answer is a list of numbers"),
        (b'{"answer": [1.0, 2, 3, 4]}', "an answer is a list of numbers"),
        (b'{"puzzle": 1, "answer": [1, 2, 3]}', "names each of its 4 pieces once"),
        (b'{"puzzle": 2, "answer": [1, 2, 3, 4]}', "another puzzle was begun"),
        (b'{"puzzle": [], "answer": [1, 2, 3, 4]}', "another puzzle was begun"),
    ],
)
def test_what_is_no_answer_is_told(client: TestClient, body: bytes, said: str) -> None:
    visit = enter(client)
    begin(client, visit)
    refused = client.post("/answer", headers=visit, content=body)
    assert refused.status_code == 400
    assert said in refused.json()["error"]


def test_what_is_no_form_is_told(client: TestClient) -> None:
    visit = enter(client)
    assert client.post("/begin", headers=visit, json={}).json() == {"error": "a puzzle is asked for by a form"}
    broken = {**visit, "Content-Type": "multipart/form-data; boundary=x"}
    assert "cannot be read" in client.post("/begin", headers=broken, content=b"nonsense").json()["error"]
    many = [("picture", ("a.png", b"")) for _ in range(9)]
    assert "cannot be read" in begin(client, visit, many).json()["error"]
    odd = {**visit, "Content-Type": "Multipart/Form-Data; boundary=x; charset=raw_unicode_escape"}
    form = '--x\r\nContent-Disposition: form-data; name="task"\r\n\r\n\\ud800\r\n--x--\r\n'
    assert client.post("/begin", headers=odd, content=form).json()["error"].endswith("there is no such puzzle")
    assert begin(client, visit, task="audio").json() == {"error": "audio 2x2: there is no such puzzle"}
    assert (
        client.post("/ask", headers=visit, json={"puzzle": 1})
        .json()["error"]
        .startswith("there is no puzzle on the table")
    )


def test_what_goes_wrong_inside_is_told_without_its_trace(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = TestClient(client.app, base_url="http://127.0.0.1", raise_server_exceptions=False)
    visit = enter(quiet)
    monkeypatch.setattr(Table, "begin", lambda *asked: 1 / 0)
    refused = begin(quiet, visit)
    assert refused.status_code == 500
    assert refused.json() == {"error": "this went wrong on the server; where it was started, it says how"}
