"""The tiny model asked here by transformers, and behind vLLM's own server on the CPU: ``jigsaw solve``, verifiers."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from jigsaw.reward import compute_score
from jigsaw.toy.rows import write_puzzles

pytestmark = [pytest.mark.e2e, pytest.mark.slow("training"), pytest.mark.timeout(900)]

SERVE = ["--served-model-name=tiny", "--max-model-len=512", "--max-num-seqs=4", "--dtype=float32", "--enforce-eager"]
FILES = {"picture.jpg": ["--grid=2x1"], "film.mp4": ["--clips=2"]}


@pytest.fixture(scope="module")
def server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server of the tiny model."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", f"--model={tiny_model}", f"--port={port}"]
    with log.open("w") as sink:
        process = subprocess.Popen([*command, *SERVE], stdout=sink, stderr=subprocess.STDOUT)
    try:
        end = time.monotonic() + 300
        while True:
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < end, log.read_text()[-3000:]
            try:
                httpx.get(f"http://127.0.0.1:{port}/v1/models").raise_for_status()
                break
            except httpx.HTTPError:
                time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    write_puzzles(folder, picture=(120, 80), grid=(2, 2), film=(56, 56), seconds=6)
    return folder


def solved(file: Path, *options: str) -> Any:
    command = [sys.executable, "-c", "from jigsaw.cli import main; main()", "solve", str(file), "--json"]
    ended = subprocess.run([*command, *options], capture_output=True, text=True, check=True, env=os.environ)
    (found,) = json.loads(ended.stdout)["solved"]
    return found


@pytest.mark.parametrize("name", FILES)
def test_a_server_is_shown_what_the_model_is_shown_here(
    server: str, media: Path, tiny_model: Path, tmp_path: Path, name: str
) -> None:
    options = [*FILES[name], "--max-tokens=12", f"--out={tmp_path / 'solved.png'}"]
    here = solved(media / name, *options, f"--model={tiny_model}")
    there = solved(media / name, *options, f"--endpoint={server}")
    assert here["truth"] == there["truth"]
    assert here["reply"]
    if name == "picture.jpg":  # a clip's place in time is not told to a server
        assert here["reply"] == there["reply"]
    assert there["reply"]
    assert (tmp_path / "solved.png").is_file()


def test_verifiers_asks_and_scores_its_puzzles(server: str, repository: Path, scenes: Path, tmp_path: Path) -> None:
    """The real library, in a virtual environment of its own: it asks for another ``openai`` than vLLM does."""
    uv = Path(sys.executable).with_name("uv")
    prepare = [
        sys.executable,
        "-m",
        "jigsaw",
        "prepare",
        "image",
        "--grid=2x1",
        "--val=4",
        f"--out={tmp_path / 'rows'}",
    ]
    subprocess.run([*prepare, f"--media-root={scenes}"], check=True, capture_output=True)
    own = tmp_path / "own"
    subprocess.run([uv, "venv", own, "--python", sys.executable], check=True, capture_output=True)
    install = [uv, "pip", "install", "--python", own / "bin/python"]
    subprocess.run([*install, repository, repository / "examples/verifiers"], check=True, capture_output=True)
    taskset = ["--env.taskset.data", tmp_path / "rows/val.parquet", "--env.taskset.media-root", scenes]
    agent = ["--env.agent.harness.id", "null", "--env.agent.runtime.type", "subprocess", "--model", "tiny"]
    client = ["--client.base-url", server, "--client.api-key-var", "OPENAI_API_KEY", "--sampling.max-tokens", "12"]
    environment = {**os.environ, "OPENAI_API_KEY": "none", "PATH": f"{own / 'bin'}:{uv.parent}:{os.environ['PATH']}"}
    environment.pop("PYTHONPATH", None)
    ended = subprocess.run(
        [own / "bin/vf-eval", "visual-jigsaw-env", *taskset, *agent, *client, "-n", "3", "--no-push"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (file,) = tmp_path.glob("outputs/*/traces.jsonl")
    episodes = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(episodes) == 3
    for episode in episodes:
        (trace,) = episode["traces"]
        assert trace["errors"] == []
        reply = trace["nodes"][-1]["message"]["content"]
        scored = compute_score("", reply, trace["task"]["data"]["answer"], trace["task"]["data"]["extra_info"])
        assert trace["rewards"]["jigsaw_reward"]["score"] == scored["score"]
        assert trace["metrics"] == {name: scored[name] for name in ("exact", "position_accuracy")}
