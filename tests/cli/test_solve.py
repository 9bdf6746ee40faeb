"""``jigsaw solve``: a puzzle of a file of one's own, what a model said of it, and what it put together."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from jigsaw.cli import app
from jigsaw.errors import JigsawError
from jigsaw.puzzle import Puzzle
from jigsaw.solve import Endpoint
from jigsaw.toy.rgbd import render_views, write_scene
from jigsaw.toy.rows import write_puzzles

Say = Callable[[Puzzle], str]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture, a film and a scene."""
    folder = tmp_path_factory.mktemp("mine")
    write_puzzles(folder, picture=(120, 80), grid=(2, 2), film=(112, 84), seconds=6)
    write_scene(folder / "scene", render_views(3, 0, 1), layout="exported")
    return folder


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch) -> Callable[[Say], None]:
    """Have the server say what a function makes of the puzzle: what goes there is tested by tests/test_solve.py."""

    def say(what: Say) -> None:
        def ask(self: Endpoint, puzzle: Puzzle, *, max_new_tokens: int) -> str:
            return what(puzzle)

        monkeypatch.setattr(Endpoint, "ask", ask)

    return say


def run(*arguments: str | Path) -> Result:
    options = ["--endpoint", "http://localhost/v1", *map(str, arguments)]
    return CliRunner().invoke(app, ["solve", *options], catch_exceptions=False)


def tagged(answer: Sequence[int]) -> str:
    return f"<think>So it is.</think><answer>{', '.join(map(str, answer))}</answer>"


def right(puzzle: Puzzle) -> str:
    return tagged(puzzle.answer)


def wrong(puzzle: Puzzle) -> str:
    return tagged((*puzzle.answer[1:], puzzle.answer[0]))


@pytest.mark.parametrize(
    ("name", "options", "pieces"),
    [
        ("picture.jpg", ["--grid", "2x3"], 6),
        ("film.mp4", ["--clips", "4"], 4),
        ("scene", ["--task", "depth", "--points", "5"], 5),
    ],
)
@pytest.mark.parametrize("say", [right, wrong])
def test_a_file_of_each_kind_is_solved_and_drawn(
    files: Path, tmp_path: Path, says: Callable[[Say], None], name: str, options: list[str], pieces: int, say: Say
) -> None:
    says(say)
    ended = run(files / name, *options, "--out", tmp_path / "picture.png", "--json")
    ((told,), skipped) = json.loads(ended.stdout).values()
    assert skipped == []
    assert (told["file"], len(told["truth"]), told["right"]) == (name, pieces, say is right)
    assert sorted(told["answer"]) == list(range(1, pieces + 1))
    assert (told["score"] > 1) == (say is right)
    drawn = Image.open(tmp_path / "picture.png").convert("RGB")
    drawn.load()
    run(files / name, *options, "--out", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert f"{int(say is right)} of 1" in page
    assert "So it is." in page


def test_what_the_model_put_together_is_drawn_beside_the_source(
    files: Path, tmp_path: Path, says: Callable[[Say], None]
) -> None:
    halves = {}
    for name, say in (("right", right), ("wrong", wrong), ("none", lambda puzzle: "I cannot tell.")):
        says(say)
        run(files / "picture.jpg", "--grid", "2x2", "--out", tmp_path / f"{name}.png")
        whole = Image.open(tmp_path / f"{name}.png").convert("RGB")
        width, height = 600, 400  # 120 × 80, five times
        halves[name] = [whole.crop((x, 36, x + width, 36 + height)).tobytes() for x in (16, 32 + width)]
    assert halves["right"][0] == halves["right"][1]
    assert halves["wrong"][0] == halves["right"][0] != halves["wrong"][1]
    assert len(set(halves["none"][1])) <= 3  # one colour


def test_a_folder_is_a_table_and_a_page(files: Path, tmp_path: Path, says: Callable[[Say], None]) -> None:
    for number in range(3):
        shutil.copy(files / "picture.jpg", tmp_path / f"{number}.jpg")
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    says(right)
    ended = run(tmp_path, "--task", "image", "--grid", "2x2", "--limit", "2", "--out", tmp_path / "page.html")
    assert "2 of 2 right" in ended.stdout
    assert "2.jpg" not in ended.stdout
    ended = run(tmp_path, "--task", "image", "--grid", "2x2")
    assert "3 of 3 right" in ended.stdout
    assert "left out: " in ended.stdout
    assert "broken.jpg: is not a picture" in ended.stdout.replace("\n", "")


def test_the_order_alone_can_be_asked_for(files: Path, says: Callable[[Say], None]) -> None:
    asked = []

    def plain(puzzle: Puzzle) -> str:
        asked.append(puzzle.messages[0]["content"][-1]["text"])
        return ", ".join(map(str, puzzle.answer))

    says(plain)
    told: Any = json.loads(run(files / "picture.jpg", "--no-think", "--json", "--seed", "3").stdout)
    assert told["solved"][0]["right"]
    assert "<think>" not in asked[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.jpg"], "nowhere.jpg: there is no such file"),
        (["picture.jpg", "--model", "m"], "give --model, a folder or hub name, or --endpoint, a server's address; one"),
        (["."], r"task: what is to be made of \.\? give image, video or depth"),
        ([".", "--task", "depth", "--out", "a.gif"], r"out a\.gif: must end in \.png"),
        (["picture.jpg", "--out", "picture.jpg"], r"out picture\.jpg: is the file itself"),
        (["picture.jpg", "--grid", "1x1"], "grid"),
        (["picture.jpg", "--grid", "50x50"], "grid: too many pieces for a prompt of 8,192 tokens; make fewer"),
        (["film.mp4", "--task", "image"], r"film\.mp4: is not a picture that can be read"),
        (["picture.jpg", "--task", "video"], r"picture\.jpg: "),
        (["picture.jpg", "--task", "depth"], r"picture\.jpg: "),
        (["film.mp4", "--clips", "100"], r"film\.mp4: cannot be cut"),
    ],
)
def test_what_cannot_be_solved_is_one_line(
    files: Path,
    monkeypatch: pytest.MonkeyPatch,
    says: Callable[[Say], None],
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(files)
    says(right)
    before = {path.name: path.read_bytes() for path in files.iterdir() if path.is_file()}
    with pytest.raises(JigsawError, match=said) as raised:
        run(*arguments)
    assert "\n" not in str(raised.value)
    assert {path.name: path.read_bytes() for path in files.iterdir() if path.is_file()} == before


def test_a_model_that_is_none_is_one_line(files: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(JigsawError, match=rf"^{tmp_path}: cannot be loaded \("):
        CliRunner().invoke(app, ["solve", str(files / "picture.jpg"), "--model", str(tmp_path)], catch_exceptions=False)
