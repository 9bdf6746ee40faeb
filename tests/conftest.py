"""Options and fixtures that the tests share."""

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import pytest
import yaml
from hypothesis import settings

collect_ignore = ["tasks/outside"]  # what a test puts into a copy of the package

SLOW = {
    "cluster": "two nodes: of Ray, of Slurm, a Ray job; takes root, and installs Slurm from Debian",
    "faults": "processes of a real run are killed",
    "learning": "a run must learn",
    "media": "the rest of the video formats",
    "models": "Qwen3-VL, on all that is run on Qwen2.5-VL",
    "training": "more real runs: stability options, adapters, the supervised baseline, awkward batches, true times",
    "upstream": "what is worked around is still there; after a new version of verl, vLLM or torch",
}
"""What takes too long for every run, in parts of 80 minutes at most; ``pytest.mark.slow("faults")`` makes one of it."""


yaml.SafeLoader = yaml.CSafeLoader  # of which OmegaConf makes its own: a recipe is composed in two thirds of the time

settings.register_profile("whole", deadline=None)  # others may use the machine
settings.register_profile("quick", deadline=None, max_examples=10)  # for `tests/run.sh --fast`
settings.load_profile("whole")


def pytest_addoption(parser: pytest.Parser) -> None:
    parts = "; ".join(f"{part}: {what}" for part, what in SLOW.items())
    parser.addoption(
        "--slow",
        nargs="?",
        const="all",
        choices=["all", *SLOW],
        help=f"run the slow tests too, or a part of them alone ({parts})",
    )


def _wanted(item: pytest.Item, slow: str | None) -> bool:
    mark = item.get_closest_marker("slow")
    if mark and mark.args[0] not in SLOW:
        raise pytest.UsageError(f"{item.nodeid}: no part of the slow tests is called {mark.args[0]!r}")
    return slow == "all" or (mark.args[0] if mark else None) == slow


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Unit tests alone need not wait for verl and vLLM to be imported."""
    return True if collection_path.name == "e2e" and config.option.markexpr.startswith("not e2e") else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Slow tests are left out, not skipped, unless asked for; end-to-end tests run last."""
    slow = config.getoption("--slow")
    config.hook.pytest_deselected(items=[item for item in items if not _wanted(item, slow)])
    items[:] = [item for item in items if _wanted(item, slow)]
    items.sort(key=lambda item: item.get_closest_marker("e2e") is not None)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return Path(__file__).parents[1]


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 48 rendered scenes."""
    from jigsaw.toy.scenes import write_scenes

    folder = tmp_path_factory.mktemp("media") / "scenes"
    write_scenes(folder, 48, seed=7)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen2.5-VL with random weights."""
    from jigsaw.toy.model import build_tiny_model
    from jigsaw.toy.warm_start import CUE_WORDS, IN_ORDER

    return build_tiny_model(tmp_path_factory.mktemp("model") / "tiny", words=CUE_WORDS, phrases=(IN_ORDER,))


@pytest.fixture(scope="session")
def one_reader() -> Iterator[None]:
    """One reader does what ``prepare`` and ``verify`` give to Ray, where no ``shared_ray`` runs: it starts at once."""
    from jigsaw.prepare import folder, ray_work, verify

    def work(parts: Any, work: Any, *, time_limit: float, **on_ray: Any) -> Iterator[tuple[int, list[bytes]]]:
        if "ray" in sys.modules and sys.modules["ray"].is_initialized():
            yield from ray_work.work_on_ray(parts, work, time_limit=time_limit, **on_ray)
        else:
            for number, part in parts:
                yield number, ray_work._work_part(work, part, time_limit)

    with pytest.MonkeyPatch.context() as patch:
        for module in (folder, verify):
            patch.setattr(module, "work_on_ray", work)
        yield


@pytest.fixture(scope="session")
def shared_ray() -> Iterator[None]:
    """A Ray of two nodes that all that runs in this process from now on uses; to start one each time takes seconds."""
    import ray
    from ray.cluster_utils import Cluster

    with TemporaryDirectory(prefix="ray") as folder, pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
        environment.setenv("RAY_TMPDIR", folder)  # by the usual folder, others on this machine would find and join it
        nodes = Cluster()
        unwatched = {"no_monitor": True, "include_log_monitor": False}  # each takes a second to start
        for _ in range(2):
            nodes.add_node(num_cpus=2, object_store_memory=128 << 20, include_dashboard=False, **unwatched)
        ray.init(nodes.address, log_to_driver=False, logging_level=logging.ERROR)
        yield
        ray.shutdown()
        nodes.shutdown()


@pytest.fixture(scope="session")
def started_ray() -> Callable[..., AbstractContextManager[str]]:
    """A Ray begun by ``ray start``, as by a user: its address, while a context lasts."""
    from jigsaw.processes import MARK, kill_leftovers

    @contextmanager
    def started(*resources: str, nodes: int = 1, **environment: str) -> Iterator[str]:
        def start(*place: str) -> None:
            command = [Path(sys.executable).with_name("ray"), "start", *place, *resources]
            everything = {**os.environ, **environment, MARK: folder}
            subprocess.run(command, env=everything, check=True, capture_output=True)

        # In a folder of its own: by the usual one, others on this machine would find and join it.
        with TemporaryDirectory(prefix="ray") as folder:
            try:
                start("--head", "--port=0", f"--temp-dir={folder}", "--include-dashboard=false")
                address = Path(folder, "ray_current_cluster").read_text()
                for _ in range(nodes - 1):
                    start(f"--address={address}")
                yield address
            finally:
                kill_leftovers(Path(folder))

    return started


@pytest.fixture(scope="session")
def children_named() -> Callable[..., list[psutil.Process]]:
    """The processes below one (this one unless told) whose command holds one of some words."""

    def find(*words: str, below: int | None = None) -> list[psutil.Process]:
        found = []
        for process in psutil.Process(below).children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # it ends this very moment, or is a zombie
                command = " ".join(process.cmdline())
                found += [process] * any(word in command for word in words)
        return found

    return find


class Judge:
    """A server that speaks OpenAI's protocol, says 1 of all, notes what it is asked, and keeps silent when told."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.silent = False
        self.answer: Any = None
        self.key = "sesame"
        judge = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                has_key = self.headers["Authorization"] == f"Bearer {judge.key}"
                self.say((200 if has_key else 401) if self.path == "/v1/models" else 404, {"data": []})

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if judge.silent:
                    self.say(503, {"error": {"message": "out of office"}})
                    return
                judge.asked.append({**asked, "path": self.path, "key": self.headers["Authorization"]})
                if judge.answer is not None:
                    self.say(200, judge.answer)
                    return
                choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "1"}}
                usage = {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}
                body = {"id": "a", "object": "chat.completion", "created": 0, "model": asked["model"], "usage": usage}
                self.say(200, {**body, "choices": [choice]})

            def say(self, status: int, said: Any) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps(said).encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"


@pytest.fixture
def judge() -> Iterator[Judge]:
    """A judge that can be asked."""
    made = Judge()
    yield made
    made.server.shutdown()
