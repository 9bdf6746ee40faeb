"""Released rows come from a hub, here one of our own that speaks the hub's protocol, and say what they are."""

import hashlib
import json
import logging
import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO, StringIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer import Typer
from typer.testing import CliRunner

from jigsaw.cli.pull import pull_data
from jigsaw.errors import JigsawError
from jigsaw.hub import contents, pull
from jigsaw.toy import rows as by_hand

NAME = "someone/puzzles"
COMMIT = "0123456789abcdef0123456789abcdef01234567"

app = Typer()
app.command()(pull_data)


def image_row(path: str = "train2017/000000000009.jpg", **changes: object) -> dict[str, object]:
    return {**by_hand.released(by_hand.image_row(path)), **changes}


def parquet(*rows: dict[str, object]) -> bytes:
    sink = BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), sink)
    return sink.getvalue()


class Hub(ThreadingHTTPServer):
    """A hub of one data set.

    Attributes:
        files: its files.
        refuse: (status, error code) of every answer, None to serve.
        cut: break the connection after so many bytes of a file, once.
        asked: the requests, as "METHOD path [range]".
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files: dict[str, bytes] = {}
        self.refuse: tuple[int, str] | None = None
        self.cut: int | None = None
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.server, self.path.partition("?")[0]
        hub.asked.append(f"{self.command} {path} {self.headers.get('Range', '')}".strip())
        if hub.refuse is not None:
            return self.send(hub.refuse[0], {"X-Error-Code": hub.refuse[1], "X-Error-Message": "I will not"})
        api, files = f"/api/datasets/{NAME}", f"/datasets/{NAME}/resolve/{COMMIT}/"
        if path == api or (path.startswith(f"{api}/revision/") and path.endswith(("/main", "/v1"))):
            listing = {"id": NAME, "sha": COMMIT, "siblings": [{"rfilename": name} for name in hub.files]}
            return self.send(200, {"Content-Type": "application/json"}, json.dumps(listing).encode())
        if path.startswith(f"{api}/revision/"):
            return self.send(404, {"X-Error-Code": "RevisionNotFound"})
        if not path.startswith(files):
            return self.send(404, {"X-Error-Code": "RepoNotFound"})
        data = hub.files[path.removeprefix(files)]
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        return self.send(206 if start else 200, headers, data[start:])

    def send(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            end, cut = len(body), self.server.cut
            if cut is not None and end > cut:
                end, self.server.cut = cut, None
            self.wfile.write(body[:end])
            self.close_connection = True


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    for name in ("HF_TOKEN", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # read when it was imported
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def files(folder: Path) -> list[str]:
    """What a user finds there; the client's notes are hidden."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in found if path.parts[0] != ".cache")


def test_parquet_files_are_fetched_as_they_are_and_once(hub, tmp_path):
    hub.files = {"image/train.parquet": parquet(image_row()), "README.md": b"#", "val.parquet": b"any"}
    assert pull(NAME, tmp_path, endpoint=hub.url) == [tmp_path / "image/train.parquet", tmp_path / "val.parquet"]
    assert files(tmp_path) == ["image/train.parquet", "val.parquet"]
    assert (tmp_path / "image/train.parquet").read_bytes() == hub.files["image/train.parquet"]

    hub.asked.clear()
    pull(NAME, tmp_path, endpoint=hub.url)
    assert hub.asked == [f"GET /api/datasets/{NAME}"]


def test_a_revision_is_asked_for_by_its_name(hub, tmp_path):
    hub.files = {"a.parquet": b"any"}
    pull(NAME, tmp_path, revision="v1", endpoint=hub.url)
    assert hub.asked[0] == f"GET /api/datasets/{NAME}/revision/v1"


@pytest.mark.seconds
def test_a_broken_connection_is_taken_up_where_it_broke(hub, tmp_path):
    data = bytes(range(256)) * 2**16
    hub.files, hub.cut = {"a.parquet": data}, 12 * 2**20
    (path,) = pull(NAME, tmp_path, endpoint=hub.url)
    assert path.read_bytes() == data
    first, second = (asked for asked in hub.asked if "a.parquet" in asked and asked.startswith("GET"))
    assert "bytes=" not in first
    assert int(second.partition("bytes=")[2].rstrip("-")) >= 10 * 2**20  # the client writes blocks of 10 MiB


@pytest.mark.parametrize(
    ("refuse", "words"),
    [
        ((404, "RepoNotFound"), "no such data set at http://127.0.0.1:.*; if it is private, set HF_TOKEN"),
        ((401, ""), r"answers 401 I will not; is HF_TOKEN right\?"),
        ((401, "GatedRepo"), "is gated; accept its terms at http://.*/datasets/someone/puzzles, then set HF_TOKEN"),
        ((200, ""), "cannot be fetched from http:.* .Expecting value.*start again when it answers"),
        ((418, ""), "answers 418 I will not; try again later"),
    ],
)
def test_a_refusal_is_one_line_and_leaves_nothing(hub, tmp_path, refuse, words):
    hub.files, hub.refuse = {"a.parquet": b"any"}, refuse
    with pytest.raises(JigsawError, match=rf"^someone/puzzles: .*{words}") as caught:
        pull(NAME, tmp_path / "out", endpoint=hub.url)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "revision", "words"),
    [
        (NAME, "v2", "has no revision 'v2'; see http://.*/commits/main"),
        ("a/b/c", None, "is no name of a data set; it must be OWNER/NAME"),
        (NAME, None, "holds no parquet files"),
    ],
)
def test_what_is_not_there_is_one_line(hub, tmp_path, name, revision, words):
    with pytest.raises(JigsawError, match=words):
        pull(name, tmp_path, revision=revision, endpoint=hub.url)


def test_no_network_is_one_line(hub, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(JigsawError, match=rf"cannot be fetched from {address} \(.*refused\); start again"):
        pull(NAME, tmp_path, endpoint=address)


@pytest.mark.parametrize(
    "address",
    [
        "http://user:s3cret@127.0.0.1:9",
        "http://s3cret@127.0.0.1:9/path",
        "http://user:s3@cret@127.0.0.1:9",
        "http://user:s3/cret@127.0.0.1:9",
        "http://127.0.0.1:9/hub?token=s3cret",
        "http://127.0.0.1:9/hub#s3cret",
        "ftp://user:s3cret@127.0.0.1",
    ],
)
def test_what_is_secret_in_an_address_is_not_printed(hub, tmp_path, address):
    with pytest.raises(JigsawError, match=r"cannot be fetched from \w+://.*\*\*\*.* \(.*\); start again") as caught:
        pull(NAME, tmp_path, endpoint=address)
    assert "s3" not in str(caught.value)
    assert "127.0.0.1" in str(caught.value)


@pytest.mark.parametrize("refuse", [(404, "RepoNotFound"), (401, ""), (401, "GatedRepo"), (418, ""), (200, "")])
def test_a_refusal_does_not_print_the_token_of_the_address(hub, tmp_path, refuse):
    hub.refuse = refuse
    with pytest.raises(JigsawError, match=r"http://\*\*\*@127") as caught:
        pull(NAME, tmp_path, endpoint=hub.url.replace("://", "://user:s3cret@"))
    assert "s3cret" not in str(caught.value)


@pytest.mark.seconds
def test_the_log_of_the_client_does_not_print_the_token_of_the_address(hub, tmp_path):
    hub.files, hub.cut = {"a.parquet": bytes(2**20)}, 2**19
    written = StringIO()
    log, handler = logging.getLogger("huggingface_hub"), logging.StreamHandler(written)
    log.addHandler(handler)
    try:
        pull(NAME, tmp_path, endpoint=hub.url.replace("://", "://user:s3cret@"))
    finally:
        log.removeHandler(handler)
    assert "resume" in written.getvalue()
    assert "s3cret" not in written.getvalue()


def test_offline_mode_says_so(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(JigsawError, match=r"^someone/puzzles: HF_HUB_OFFLINE is set; unset it to fetch from http"):
        pull(NAME, tmp_path, endpoint=hub.url)
    assert hub.asked == []


@contextmanager
def disk_that_takes(size: int) -> Iterator[None]:
    """No file can grow beyond ``size`` bytes; the system refuses as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_refuses_keeps_whole_files_and_no_half_ones(hub, tmp_path):
    hub.files = {"a.parquet": b"small", "b.parquet": bytes(2**20)}
    with disk_that_takes(2**19), pytest.raises(JigsawError, match=r"cannot be written \(File too large\); write else"):
        pull(NAME, tmp_path, endpoint=hub.url)
    assert files(tmp_path) == ["a.parquet"]
    assert not list(tmp_path.rglob("*.incomplete"))
    hub.asked.clear()
    pull(NAME, tmp_path, endpoint=hub.url)
    assert files(tmp_path) == ["a.parquet", "b.parquet"]
    assert not [asked for asked in hub.asked if "a.parquet" in asked]


def write(folder: Path, *rows: dict[str, object]) -> Path:
    path = folder / "rows.parquet"
    path.write_bytes(parquet(*rows))
    return path


def test_contents_count_what_is_there_and_what_is_not_understood(tmp_path):
    path = write(tmp_path, image_row(), image_row(), image_row(data_source="other"), image_row("/abs/a.jpg"))
    found = contents(path)
    assert (found.rows, found.tasks, found.failed, found.unread) == (4, {"image": 2}, 2, [])
    assert found.error.startswith(f"{path}: row ")
    assert "data_source 'other' names no task" in found.error
    assert {name: folder.rows for name, folder in found.folders.items()} == {"train2017/": 2}


def test_a_row_that_cannot_be_read_is_counted(tmp_path):
    days = pa.array([1, 2**31 - 1, 1], pa.int32()).cast(pa.date32())  # the second is after the year 9999
    table = pq.read_table(write(tmp_path, image_row(), image_row(), image_row())).append_column("when", days)
    pq.write_table(table, tmp_path / "rows.parquet")
    found = contents(tmp_path / "rows.parquet")
    assert (found.rows, found.tasks, found.failed) == (3, {"image": 2}, 1)
    assert found.error.startswith(f"{tmp_path}/rows.parquet: row 1: column when holds a value that cannot be read")


def test_fields_that_nothing_reads_are_named(tmp_path):
    images = [{"path": "a.jpg", "jigsaw_config": [2, 2], "resize_size": None, "crop_size": None, "rotation": 90}]
    assert contents(write(tmp_path, image_row(images=images))).unread == ["images.rotation"]


@pytest.mark.parametrize("data", [b"version https://git-lfs.github.com/spec/v1\n", b"", parquet({"question": "?"})])
def test_a_file_that_holds_no_rows_says_why(tmp_path, data):
    path = tmp_path / "a.parquet"
    path.write_bytes(data)
    found = contents(path)
    assert (found.rows, found.tasks) == (0, {})
    assert found.error.startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("path", "folder", "words"),
    [
        ("train2017/1.jpg", "train2017/", "COCO"),
        ("coco/images/val2017/1.jpg", "coco/images/val2017/", "COCO"),
        ("0_30_s_academic_v0_1/academic_source/a/b.mp4", "0_30_s_academic_v0_1/", "LLaVA-Video"),
        ("videos/1_2_m_activitynet/x.mp4", "videos/1_2_m_activitynet/", "LLaVA-Video"),
        ("scans/scene0000_00/color/0.jpg", "scans/", "ScanNet"),
        ("scene0000_00/color/0.jpg", "", "ScanNet"),
        ("films/a/b.mp4", "films/", "this folder"),
        ("b.mp4", "", "the files themselves"),
    ],
)
def test_paths_say_which_folder_goes_where(tmp_path, path, folder, words):
    ((found, needed),) = contents(write(tmp_path, image_row(path))).folders.items()
    assert found == folder
    assert words in needed.source
    assert needed.example == path


def test_the_command_says_what_came_and_what_to_do_next(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hub.files = {"train.parquet": parquet(image_row(), image_row())}
    result = CliRunner().invoke(app, [NAME, "--endpoint", hub.url])
    assert result.exit_code == 0
    assert "image 2" in result.stdout
    assert "DIR/train2017/: this folder of COCO 2017 (rows: 2, for example train2017/000000000009.jpg)" in result.stdout
    assert "jigsaw verify data/puzzles/train.parquet --media-root DIR" in result.stdout


def test_the_command_prints_json_and_fails_on_what_is_not_understood(hub, tmp_path):
    hub.files = {"a.parquet": b"no parquet", "b.parquet": parquet(image_row())}
    result = CliRunner().invoke(app, [NAME, "--out", str(tmp_path), "--endpoint", hub.url, "--json"])
    assert isinstance(result.exception, JigsawError)
    assert str(result.exception).startswith("1 of 2 files hold what is not understood; the first: ")
    first, second = json.loads(result.stdout)["files"]
    assert first["rows"] == 0
    assert "cannot be read as parquet" in first["error"]
    assert (second["rows"], second["tasks"], second["error"]) == (1, {"image": 1}, None)
    assert second["folders"]["train2017/"]["example"] == "train2017/000000000009.jpg"
