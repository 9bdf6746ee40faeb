"""What is played, without the page: puzzles of what a visitor brings, tries and tallies."""

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import gettempdir

import numpy as np
import pytest
from PIL import Image

from jigsaw.errors import JigsawError
from jigsaw.play import table as module
from jigsaw.play.table import GAMES, Table, Visit
from jigsaw.puzzle import CutOptions, Puzzle
from jigsaw.response import reply_of
from jigsaw.toy.rgbd import render_views, write_scene
from jigsaw.toy.videos import write_video

Brought = Mapping[str, tuple[str, Path]]
Fill = Callable[[Path], Brought]

pytestmark = pytest.mark.seconds  # each table has readers, processes of their own


class Asked:
    """A model that says what a function makes of a puzzle."""

    options = CutOptions()

    def get_ready(self) -> None:
        pass

    def __init__(self, say: Callable[[Puzzle], str]) -> None:
        self.say = say
        self.asked = 0

    def ask(self, puzzle: Puzzle, *, max_new_tokens: int) -> str:
        self.asked += 1
        return self.say(puzzle)


def nothing(folder: Path) -> Brought:
    return {}


def bringing(**files: Path) -> Fill:
    """What puts copies of files into the folder, as an upload does."""

    def fill(folder: Path) -> Brought:
        found = {}
        for part, path in files.items():
            place = folder / f"{part}{path.suffix}"
            place.write_bytes(path.read_bytes())
            found[part.replace("_", " ")] = (path.name, place)
        return found

    return fill


def table(asked: Asked | None = None) -> Table:
    return Table(asked, seed=3, answer_format="answer_tag")


def entered(of: Table) -> Visit:
    return of.enter("")[1]


def on(visit: Visit) -> Puzzle:
    assert visit.played is not None
    return visit.played.puzzle


@pytest.mark.parametrize(("task", "level", "pieces"), [("image", "2x3", 6), ("video", "4", 4), ("depth", "5", 5)])
def test_what_is_drawn_can_be_played(task: str, level: str, pieces: int) -> None:
    tables = table()
    visit = entered(tables)
    shown = tables.begin(visit, task, level, nothing)
    assert len(shown["pieces"]) == pieces
    assert "truth" not in shown
    assert (shown["picture"] is not None) == (task == "depth")
    told = tables.answer(visit, visit.begun, on(visit).answer)
    assert (told["right"], told["score"], told["places"]) == (True, 1.2, (True,) * pieces)


@pytest.mark.parametrize("task", ["image", "depth"])
def test_every_level_can_be_played(task: str) -> None:
    tables = table()
    for level in GAMES[task].levels:
        assert tables.begin(entered(tables), task, level, nothing)["pieces"]


def test_what_a_visitor_brings_is_played_and_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = tmp_path / "cat.png"
    Image.effect_noise((90, 60), 50).convert("RGB").save(picture)
    film = write_video(tmp_path / "film.mp4", seconds=6, fps=8)
    (view,) = render_views(1, 1, 1)
    scene = write_scene(tmp_path / "scene", [view], layout="folder")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    tables = table()
    visit = entered(tables)
    for task, files in (
        ("image", {"picture": picture}),
        ("video", {"film": film}),
        ("depth", {"picture": scene / "rgb/0.jpg", "depth_map": scene / "depth/0.png"}),
    ):
        shown = tables.begin(visit, task, next(iter(GAMES[task].levels)), bringing(**files))
        assert shown["name"] == next(iter(files.values())).name
        assert list(temporary.iterdir()) == []
        if task == "image":
            assert on(visit).reassemble().tobytes() == Image.open(picture).tobytes()


def test_the_first_answer_counts_and_later_ones_are_told() -> None:
    tables = table()
    visit = entered(tables)
    tables.begin(visit, "image", "2x2", nothing)
    right = on(visit).answer
    wrong = (right[1], right[0], *right[2:])
    told = tables.answer(visit, visit.begun, wrong)
    assert (told["right"], told["first"], told["truth"]) == (False, True, right)
    assert told["places"] == (False, False, True, True)
    told = tables.answer(visit, visit.begun, right)
    assert (told["right"], told["first"]) == (True, False)
    assert told["tally"]["person"] == {"tried": 1, "right": 0, "places": 0.5}
    assert told["tally"]["chance"] == pytest.approx(1 / 24)


def test_the_model_answers_once_and_is_told_after_the_person() -> None:
    asked = Asked(lambda puzzle: reply_of(puzzle.answer, "answer_tag"))
    tables = table(asked)
    visit = entered(tables)
    tables.begin(visit, "image", "2x2", nothing)
    told = tables.ask(visit, visit.begun)
    assert told["model"] is None
    assert told["tally"]["model"] == {"tried": 0, "right": 0, "places": 0}
    told = tables.answer(visit, visit.begun, (1, 2, 3, 4))
    assert told["model"]["right"]
    assert told["tally"]["model"] == {"tried": 1, "right": 1, "places": 1}
    assert tables.ask(visit, visit.begun)["model"]["answer"] == on(visit).answer
    assert asked.asked == 1


def test_a_reply_without_an_answer_says_why() -> None:
    tables = table(Asked(lambda puzzle: "I cannot tell."))
    visit = entered(tables)
    tables.begin(visit, "image", "2x2", nothing)
    tables.answer(visit, visit.begun, on(visit).answer)
    model = tables.ask(visit, visit.begun)["model"]
    assert (model["answer"], model["right"], model["score"], model["places"]) == (None, False, 0, ())
    assert "expected <think>" in model["reason"]


def test_a_visit_has_puzzles_of_its_own_and_a_seed_repeats_them() -> None:
    tables, again = table(), table()
    shown = [tables.begin(entered(tables), "image", "3x3", nothing) for _ in range(2)]
    assert shown[0] == shown[1] == again.begin(entered(again), "image", "3x3", nothing)
    visit = entered(tables)
    assert tables.begin(visit, "image", "3x3", nothing) != tables.begin(visit, "image", "3x3", nothing)
    free = Table(None, seed=None, answer_format="answer_tag")
    assert free.begin(entered(free), "image", "3x3", nothing) != free.begin(entered(free), "image", "3x3", nothing)


def test_visits_are_kept_apart_and_the_oldest_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_VISITS", 2)
    tables = table()
    (first, one), (second, other) = tables.enter(""), tables.enter("nonsense")
    assert first != second
    assert one is not other
    assert tables.enter(first)[1] is one
    tables.enter("")
    assert tables.enter(second)[0] != second
    assert tables.find("nonsense") is None
    monkeypatch.setattr(module, "LONGEST_REST", -1)
    assert tables.find(first) is None


def test_those_who_only_look_in_put_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_VISITS", 3)
    tables = table()
    token, visit = tables.enter("")
    tables.begin(visit, "image", "2x2", nothing)
    for _ in range(9):
        tables.enter("")
    assert tables.find(token) is visit


def test_what_is_meant_for_another_puzzle_is_refused() -> None:
    tables = table(Asked(lambda puzzle: "?"))
    visit = entered(tables)
    first = tables.begin(visit, "image", "2x2", nothing)["puzzle"]
    second = tables.begin(visit, "image", "2x2", nothing)["puzzle"]
    for do in (lambda: tables.answer(visit, first, (1, 2, 3, 4)), lambda: tables.ask(visit, first)):
        with pytest.raises(JigsawError, match="another puzzle was begun"):
            do()
    assert visit.person.tried == 0
    assert tables.answer(visit, second, (1, 2, 3, 4))["first"]


def test_the_puzzle_that_was_begun_last_stays_whichever_is_made_first() -> None:
    tables = table()
    visit = entered(tables)

    def slowly(folder: Path) -> Brought:
        tables.begin(visit, "image", "3x3", nothing)
        return {}

    tables.begin(visit, "image", "2x2", slowly)
    assert len(on(visit).answer) == 9


def test_a_model_that_fails_is_told_without_its_address(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(puzzle: Puzzle) -> str:
        raise JigsawError("http://secret.example: has not answered within 300 s")

    tables = table(Asked(fail))
    visit = entered(tables)
    tables.begin(visit, "image", "2x2", nothing)
    with pytest.raises(JigsawError, match=r"^the model gives no reply now; try again later$"):
        tables.ask(visit, 1)
    assert "secret.example" in capsys.readouterr().err
    with pytest.raises(JigsawError, match="the model gives no reply now"):  # it is asked again
        tables.ask(visit, 1)


@pytest.mark.parametrize("answer", [(), (1, 2), (1, 1, 2, 3), (0, 1, 2, 3), (1, 2, 3, 4, 5)])
def test_what_is_no_answer_counts_nothing(answer: tuple[int, ...]) -> None:
    tables = table()
    visit = entered(tables)
    with pytest.raises(JigsawError, match="there is no puzzle on the table"):
        tables.answer(visit, visit.begun, answer)
    tables.begin(visit, "image", "2x2", nothing)
    with pytest.raises(JigsawError, match="names each of its 4 pieces once"):
        tables.answer(visit, visit.begun, answer)
    assert visit.person.tried == 0


def text(path: Path) -> Path:
    path.write_bytes(b"PK\3\4 no picture" * 99)
    return path


def bomb(path: Path) -> Path:
    """200 megapixels in a few kilobytes."""
    Image.new("1", (20_000, 10_000)).save(path)
    return path


def thin(path: Path) -> Path:
    Image.new("RGB", (1, 90)).save(path)
    return path


def bare(path: Path) -> Path:
    """A depth map without a reading."""
    Image.fromarray(np.zeros((48, 64), np.uint16)).save(path)
    return path


@pytest.mark.parametrize(
    ("task", "parts", "said"),
    [
        ("image", {"picture": ("cat.jpg", text)}, r"^cat\.jpg: is not a picture that can be read"),
        ("image", {"picture": ("cat.png", bomb)}, r"^cat\.png: has more than 89478485 pixels; scale it down first"),
        ("image", {"picture": ("cat.png", thin)}, r"^cat\.png: "),
        ("video", {"film": ("film.mp4", text)}, r"^film\.mp4: "),
        ("depth", {"picture": ("room.png", bomb)}, r"^the depth map is missing; bring it too, or neither"),
        ("depth", {"depth_map": ("map.png", bare)}, r"^the picture is missing"),
        ("depth", {"picture": ("room.png", thin), "depth_map": ("map.png", bare)}, r"^room\.png: "),
        ("depth", {"picture": ("room.png", bomb), "depth_map": ("map.png", bomb)}, r"^room\.png: has more than"),
        ("depth", {"picture": ("room.png", text), "depth_map": ("map.png", bare)}, r"^room\.png: is not a picture"),
    ],
)
def test_a_file_that_is_of_no_use_is_one_line(
    tmp_path: Path, task: str, parts: dict[str, tuple[str, Callable[[Path], Path]]], said: str
) -> None:
    files = {part: make(tmp_path / name) for part, (name, make) in parts.items()}
    tables = table()
    visit = entered(tables)
    tables.begin(visit, "image", "2x2", nothing)
    before = on(visit)
    with pytest.raises(JigsawError, match=said) as raised:
        tables.begin(visit, task, next(iter(GAMES[task].levels)), bringing(**files))
    assert gettempdir() not in str(raised.value)
    assert on(visit) is before  # what was on the table stays there


def test_a_long_film_is_refused_before_it_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film = write_video(tmp_path / "film.mp4", seconds=90, fps=10)
    monkeypatch.setattr(module, "LONGEST_FILM", 60)
    tables = table()
    with pytest.raises(JigsawError, match=r"^film\.mp4: takes 1\.5 minutes, 1 are the most; cut it"):
        tables.begin(entered(tables), "video", "3", bringing(film=film))


def test_a_file_that_takes_too_long_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film = write_video(tmp_path / "film.mp4", seconds=60, fps=25)
    monkeypatch.setattr(module, "TIME_LIMIT", 0.01)
    tables = table()
    visit = entered(tables)
    with pytest.raises(JigsawError, match=r"^film\.mp4: the reader took longer than 0\.01 s"):
        tables.begin(visit, "video", "3", bringing(film=film))


@pytest.mark.parametrize(("task", "level"), [("image", "50x50"), ("audio", "3"), ("video", "2x2"), ("depth", "")])
def test_a_puzzle_that_is_not_offered_is_refused(task: str, level: str) -> None:
    tables = table()
    with pytest.raises(JigsawError, match=f"^{task} {level}: there is no such puzzle"):
        tables.begin(entered(tables), task, level, nothing)
