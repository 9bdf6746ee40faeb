"""``jigsaw play``: what it says of options that make no sense; the page is tested by tests/play and in a browser."""

import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jigsaw.cli import app
from jigsaw.errors import JigsawError


def run(*arguments: str | Path) -> str:
    return CliRunner().invoke(app, ["play", *map(str, arguments)], catch_exceptions=False).output


def test_a_port_in_use_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(JigsawError, match=rf"^port {port}: Address already in use; choose another$"):
            run(f"--port={port}")


def test_an_address_that_is_not_of_this_machine_is_one_line() -> None:
    for host in ("203.0.113.1", "nowhere.invalid", "a b"):
        with pytest.raises(JigsawError, match=rf"^host {host}: .*address"):
            run(f"--host={host}", "--port=0")


@pytest.mark.seconds
def test_a_model_that_is_none_is_told_before_the_page_is_there(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(JigsawError, match=rf"^{tmp_path}: cannot be loaded \("):
        run(f"--model={tmp_path}", "--port=0")


@pytest.mark.parametrize("options", [["--model=m", "--endpoint=http://localhost/v1"], ["--endpoint=nonsense"]])
def test_whom_to_ask_must_be_clear(options: list[str]) -> None:
    with pytest.raises(
        JigsawError, match=r"give --model, a folder or hub name, or --endpoint|is no address of a server"
    ):
        run("--port=0", *options)


@pytest.mark.parametrize("name", ["nosuch", "no/such/folder"])
def test_a_folder_that_is_not_there_is_not_looked_for_elsewhere(name: str) -> None:
    with pytest.raises(JigsawError, match=rf"^{name}: is no folder here, and no name on the hub, OWNER/NAME$"):
        run(f"--model={name}", "--port=0")


def test_an_endpoint_that_does_not_answer_is_told_before_the_page_is_there() -> None:
    with pytest.raises(JigsawError, match=r"^http://127\.0\.0\.1:9/v1: cannot be asked"):
        run("--endpoint=http://127.0.0.1:9/v1", "--port=0")


def test_a_space_needs_a_model_and_a_new_folder(tmp_path: Path) -> None:
    for options in ([], ["--endpoint=http://localhost/v1"], ["--model=../../x"], ["--model=/model"]):
        with pytest.raises(JigsawError, match=r"space.*: needs --model, the name on the hub"):
            run(f"--space={tmp_path / 'space'}", *options)
    with pytest.raises(JigsawError, match=rf"^{tmp_path}: is there already; remove it or choose another folder$"):
        run(f"--space={tmp_path}", "--model=me/mine")
    assert list(tmp_path.iterdir()) == []


def test_a_space_holds_all_that_it_needs(tmp_path: Path) -> None:
    space = tmp_path / "space"
    assert f"hf upload --repo-type space OWNER/NAME {space}" in run(f"--space={space}", "--model=me/mine")
    assert {path.name for path in space.iterdir()} == {"README.md", "Dockerfile", "requirements.txt", "jigsaw"}
    assert "\n- me/mine\n" in (space / "README.md").read_text()
    assert '"--model=me/mine"' in (space / "Dockerfile").read_text()
    packages = {line.split("==")[0] for line in (space / "requirements.txt").read_text().split()}
    assert {"pillow", "starlette", "uvicorn", "python-multipart", "transformers", "torch"} <= packages
    assert not {"verl", "vllm", "pytest"} & packages
    assert {"static", "page.html.j2", "table.py"} <= {path.name for path in (space / "jigsaw/play").iterdir()}
