"""Released rows come from a hub, here one of our own that speaks the hub's protocol, and say what they are."""

import base64
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
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from huggingface_hub import DatasetCard
from safetensors.torch import save_file
from typer import Typer
from typer.testing import CliRunner

from jigsaw.cli import app as jigsaw
from jigsaw.cli.pull import pull_data
from jigsaw.errors import JigsawError
from jigsaw.hub import contents, pull, pull_model, push
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
    """A hub of one data set and one model of the same name, to which more are pushed.

    Attributes:
        files: of the data set.
        model: the files of the model; large ones, of 1,000 bytes and more, are LFS's.
        refuse: (status, error code) of every answer, None to serve.
        cut: break the connection after so many bytes of a file, once; of one that is sent, before it is answered.
        spoil: send other bytes than the checksum says.
        objects: what was sent of LFS's, by hash.
        pushed: files by (kind, name); made private or not.
        asked: the requests, as "METHOD path [range]".
        tokens: what came as such.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files: dict[str, bytes] = {}
        self.model: dict[str, bytes] = {}
        self.refuse: tuple[int, str] | None = None
        self.cut: int | None = None
        self.spoil = False
        self.objects: dict[str, bytes] = {}
        self.pushed: dict[tuple[str, str], dict[str, bytes]] = {}
        self.private: dict[tuple[str, str], bool] = {}
        self.asked: list[str] = []
        self.tokens: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


LARGE = 1000


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.server, self.path.partition("?")[0]
        if self.is_refused(path):
            return None
        for kind, files in (("datasets", hub.files), ("models", hub.model)):
            api, at = f"/api/{kind}/{NAME}", f"/{NAME}/resolve/{COMMIT}/"
            if kind == "datasets":
                at = f"/{kind}{at}"
            if path == api or (path.startswith(f"{api}/revision/") and path.endswith(("/main", "/v1"))):
                listing = {"id": NAME, "sha": COMMIT, "siblings": [said_of(name, files[name]) for name in files]}
                return self.send_json(listing)
            if path.startswith(f"{api}/revision/"):
                return self.send(404, {"X-Error-Code": "RevisionNotFound"})
            if path.startswith(at):
                return self.send_file(files[path.removeprefix(at)])
        return self.send(404, {"X-Error-Code": "RepoNotFound"})

    def do_POST(self) -> None:
        hub, path = self.server, self.path.partition("?")[0]
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.is_refused(path):
            return None
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = asked.get("type", "model"), f"{asked['organization']}/{asked['name']}"
            if repo in hub.pushed:
                return self.send(409, {}, json.dumps({"url": f"{hub.url}/{repo[1]}"}).encode())
            hub.pushed[repo], hub.private[repo] = {}, asked.get("visibility") == "private"
            return self.send_json({"url": f"{hub.url}/{repo[1]}"})
        if path.endswith("/objects/batch"):
            return self.send_json(
                {"transfer": "basic", "objects": [self.place(each) for each in json.loads(body)["objects"]]}
            )
        if path == "/api/validate-yaml":
            return self.send_json({"errors": [], "warnings": []})
        kind, _, rest = path.removeprefix("/api/").partition("/")
        if "/preupload/" in rest:
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["size"] >= LARGE else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            return self.send_json({"files": modes})
        name, _, _ = rest.partition("/commit/")
        files = hub.pushed[kind.removesuffix("s"), name]
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = hub.objects[value["oid"]]
        at = f"{hub.url}/{name}/commit/{COMMIT}"
        return self.send_json({"success": True, "commitOid": COMMIT, "commitUrl": at})

    def do_PUT(self) -> None:
        hub, size = self.server, int(self.headers["Content-Length"])
        hub.asked.append(f"PUT {self.path}")
        if hub.cut is not None and size > hub.cut:
            self.rfile.read(hub.cut)
            hub.cut = None
            self.close_connection = True
            self.connection.close()
            return
        data = self.rfile.read(size)
        assert hashlib.sha256(data).hexdigest() == self.path.rpartition("/")[2]
        hub.objects[self.path.rpartition("/")[2]] = data
        self.send(200, {})

    def place(self, asked: dict[str, object]) -> dict[str, object]:
        """Where an object of LFS's is to be sent; nowhere, if it is there."""
        known = asked["oid"] in self.server.objects
        return asked if known else asked | {"actions": {"upload": {"href": f"{self.server.url}/store/{asked['oid']}"}}}

    def is_refused(self, path: str) -> bool:
        hub = self.server
        hub.asked.append(f"{self.command} {path} {self.headers.get('Range', '')}".strip())
        hub.tokens.add(self.headers.get("Authorization", ""))
        if hub.refuse is not None:
            self.send(hub.refuse[0], {"X-Error-Code": hub.refuse[1], "X-Error-Message": "I will not"})
        return hub.refuse is not None

    def send_file(self, data: bytes) -> None:
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if self.server.spoil:
            data = data[:-1] + bytes([data[-1] ^ 1])
        self.send(206 if start else 200, headers, data[start:])

    def send_json(self, value: object) -> None:
        self.send(200, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def send(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            end, cut = len(body), self.server.cut
            if self.command == "GET" and cut is not None and end > cut:
                end, self.server.cut = cut, None
            self.wfile.write(body[:end])
            self.close_connection = True


def said_of(name: str, data: bytes) -> dict[str, object]:
    """What a hub says of a file when it is asked for checksums."""
    sha256, blob = hashlib.sha256(data).hexdigest(), hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    said: dict[str, object] = {"rfilename": name, "size": len(data), "blobId": blob}
    return said | ({"lfs": {"size": len(data), "sha256": sha256, "pointerSize": 130}} if len(data) >= LARGE else {})


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    for name in ("HF_TOKEN", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # read when it was imported
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)  # its store is a service of its own
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
    with pytest.raises(JigsawError, match=r"^someone/puzzles: HF_HUB_OFFLINE is set; unset it, http"):
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


CONFIG = b'{"model_type": "qwen2_5_vl"}'
WEIGHTS = bytes(range(256)) * 8


@pytest.fixture
def released(hub: Hub) -> Hub:
    """A hub with a model, beside whose weights lie some in another format."""
    hub.model = {"config.json": CONFIG, "model.safetensors": WEIGHTS, "model.bin": WEIGHTS, ".gitattributes": b"*"}
    return hub


def test_a_model_is_fetched_without_other_formats_and_once(released, tmp_path):
    paths = pull_model(NAME, tmp_path / "out", revision="v1", endpoint=released.url)
    assert paths == [tmp_path / "out/config.json", tmp_path / "out/model.safetensors"]
    assert files(tmp_path / "out") == ["config.json", "model.safetensors"]
    assert released.asked[0] == f"GET /api/models/{NAME}/revision/v1"
    released.asked.clear()
    pull_model(NAME, tmp_path / "out", endpoint=released.url)
    assert released.asked == [f"GET /api/models/{NAME}"]


@pytest.mark.parametrize("spoilt", ["config.json", "model.safetensors"])
def test_a_file_that_is_not_as_the_hub_says_is_removed(released, tmp_path, spoilt):
    if spoilt == "model.safetensors":
        released.model = {"config.json": CONFIG, **released.model}
        released.model.pop("model.bin")
        pull_first = tmp_path / "out"
        pull_model(NAME, pull_first, endpoint=released.url)
        (pull_first / spoilt).unlink()
    released.spoil = True
    with pytest.raises(
        JigsawError, match=rf"out/{spoilt}: is not what the hub's checksum says, and was removed; start"
    ):
        pull_model(NAME, tmp_path / "out", endpoint=released.url)
    assert spoilt not in files(tmp_path / "out")
    released.spoil = False
    pull_model(NAME, tmp_path / "out", endpoint=released.url)
    assert (tmp_path / "out/model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"config.json": CONFIG}, r"holds no config\.json and \*\.safetensors; is it the right model\?"),
        (
            {"config.json": b'{"model_type": "llama"}', "a.safetensors": b""},
            "is a llama; this is for qwen2_5_vl and qwen3",
        ),
        ({"config.json": b"[]", "a.safetensors": b""}, r"its config\.json cannot be read"),
    ],
)
def test_what_is_no_model_of_ours_is_one_line(released, tmp_path, model, said):
    released.model = model
    with pytest.raises(JigsawError, match=f"^{NAME}: {said}"):
        pull_model(NAME, tmp_path / "out", endpoint=released.url)
    assert "a.safetensors" not in files(tmp_path)


def test_a_model_that_the_disk_has_no_room_for_is_not_begun(released, tmp_path, monkeypatch):
    monkeypatch.setattr("jigsaw.hub.shutil.disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(JigsawError, match=r"out: 0\.0 GiB are free, 0\.0 are to be fetched; make room"):
        pull_model(NAME, tmp_path / "out", endpoint=released.url)
    assert files(tmp_path / "out") == ["config.json"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model's folder as it is exported, in two files."""
    folder = tmp_path / "model"
    (folder / ".cache").mkdir(parents=True)
    (folder / ".cache/notes").write_text("no one's business")
    (folder / "config.json").write_bytes(CONFIG)
    (folder / "README.md").write_text("# A card")
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for number, name in enumerate(names):
        save_file({f"weight{number}": torch.full((700,), float(number))}, folder / name)
    index = {"weight_map": {f"weight{number}": name for number, name in enumerate(names)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture
def token(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("HF_TOKEN", "hf_s3cret")
    return "hf_s3cret"


@pytest.mark.parametrize("private", [False, True])
def test_a_model_is_pushed_whole_and_comes_back(hub, tmp_path, model, token, private):
    at = push(model, "me/mine", private=private, endpoint=hub.url)
    assert at == f"{hub.url}/me/mine/commit/{COMMIT}"
    assert hub.private == {("model", "me/mine"): private}
    assert hub.pushed["model", "me/mine"] == {name: (model / name).read_bytes() for name in files(model)}
    assert hub.tokens == {f"Bearer {token}"}
    push(model, "me/mine", endpoint=hub.url)  # a second time, into what is there
    hub.model = hub.pushed["model", "me/mine"]
    pull_model(NAME, tmp_path / "back", endpoint=hub.url)
    assert files(tmp_path / "back") == files(model)


@pytest.mark.usefixtures("token")
def test_what_was_sent_before_a_break_is_not_sent_again(hub, model):
    hub.cut = 100
    push(model, "me/mine", endpoint=hub.url)
    assert hub.pushed["model", "me/mine"].keys() == set(files(model))
    hub.asked.clear()
    push(model, "me/mine", endpoint=hub.url)
    assert not [asked for asked in hub.asked if asked.startswith("PUT")]


@pytest.mark.usefixtures("token")
def test_rows_are_pushed_with_their_manifest_and_a_card(hub, tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "train.parquet").write_bytes(parquet(image_row()))
    (tmp_path / "rejected.jsonl").write_text("")
    push(tmp_path, "me/rows", endpoint=hub.url, card=lambda folder: "# Rows")
    pushed = hub.pushed["dataset", "me/rows"]
    assert sorted(pushed) == ["README.md", "manifest.json", "train.parquet"]
    assert pushed["README.md"] == b"# Rows"
    (tmp_path / "README.md").write_text("# My own")
    push(tmp_path, "me/rows", endpoint=hub.url, card=lambda folder: "# Rows")
    assert pushed["README.md"] == b"# My own"


def _lack_a_file(model: Path) -> None:
    (model / "model-00002-of-00002.safetensors").unlink()


def _lack_all(model: Path) -> None:
    for file in model.glob("*.safetensors*"):
        file.unlink()


def _truncate(model: Path) -> None:
    file = model / "model-00001-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _be_nothing(model: Path) -> None:
    (model / "config.json").unlink()


@pytest.mark.usefixtures("token")
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_lack_a_file, r"model: model-00002-of-00002\.safetensors is missing; export or fetch the model again"),
        (_lack_all, r"model: \*\.safetensors is missing; export or fetch the model again"),
        (_truncate, r"model-00001-of-00002\.safetensors: cannot be read \(.*export or fetch the model again"),
        (
            _be_nothing,
            r"is neither a model's folder \(config\.json; jigsaw checkpoint export makes one\) nor one of rows",
        ),
    ],
)
def test_half_a_model_is_not_pushed(hub, model, spoil, said):
    spoil(model)
    with pytest.raises(JigsawError, match=said):
        push(model, "me/mine", endpoint=hub.url)
    assert hub.asked == []


def test_without_a_token_nothing_is_pushed(hub, model, monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(JigsawError, match="me/mine: no token of the hub's is here; hf auth login, or set HF_TOKEN"):
        push(model, "me/mine", endpoint=hub.url)
    assert hub.asked == []


@pytest.mark.parametrize(
    ("refuse", "said"),
    [
        ((403, ""), r"answers 403 I will not; may HF_TOKEN's owner write there, and its role\?"),
        ((401, ""), r"answers 401 I will not; may HF_TOKEN's owner"),
        ((418, ""), "answers 418 I will not; try again later"),
    ],
)
def test_a_hub_that_takes_nothing_is_one_line_without_the_token(hub, model, token, caplog, capfd, refuse, said):
    hub.refuse = refuse
    with caplog.at_level(logging.DEBUG), pytest.raises(JigsawError, match=said) as raised:
        push(model, "me/mine", endpoint=hub.url)
    assert "\n" not in str(raised.value)
    told = str(raised.value) + caplog.text + "".join(capfd.readouterr())
    assert token not in told


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


@pytest.mark.usefixtures("token")
def test_the_commands_fetch_a_model_and_push_rows_with_their_card(released, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = CliRunner().invoke(jigsaw, ["checkpoint", "pull", NAME, "--endpoint", released.url])
    assert said.stdout.startswith("models/puzzles: 2 files, 0.0 GiB, each as the hub's checksum says")
    Path("rows").mkdir()
    Path("rows/train.parquet").write_bytes(parquet(image_row()))
    manifest = {
        "command": "prepare image",
        "arguments": {"grid": "2x2", "verify": False},
        "counts": {"train": 1000, "val": 8},
        "files": {"train.parquet": {"sha256": "abc"}},
    }
    Path("rows/manifest.json").write_text(json.dumps(manifest))
    push_rows = ["checkpoint", "push", "rows", "me/rows", "--private", "--endpoint", released.url]
    assert CliRunner().invoke(jigsaw, push_rows).stdout == f"{released.url}/me/rows/commit/{COMMIT}\n"
    card = DatasetCard(released.pushed["dataset", "me/rows"]["README.md"].decode())
    assert card.data.configs[0]["data_files"] == [{"split": "train", "path": "train.parquet"}]
    assert "`jigsaw prepare image` with grid=2x2: 1,000 rows to train on, 8 held out" in card.text
    Path("rows/manifest.json").write_text("{}")
    broken = CliRunner().invoke(jigsaw, push_rows)
    assert str(broken.exception).startswith(
        "rows/manifest.json: is broken (KeyError('arguments')); make the rows again"
    )
