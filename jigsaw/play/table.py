"""Who plays, at what puzzle, and how it went: all that the page shows, without the page."""

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import factorial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from jigsaw.cutter import Cutter
from jigsaw.errors import JigsawError, MediaError, print_error
from jigsaw.media.video import probe
from jigsaw.permutation import is_answer
from jigsaw.prepare.images import parse_grid
from jigsaw.prepare.pipeline import Options, rows_of
from jigsaw.puzzle import CutOptions, Puzzle
from jigsaw.reader import ReaderDied, Readers, Record
from jigsaw.response import reply_of
from jigsaw.reward import compute_score
from jigsaw.rows import AnswerFormat
from jigsaw.show.gallery import FIGURES
from jigsaw.show.samples import reader
from jigsaw.solve import CUT_INTO, Model, options_of
from jigsaw.tasks import TASKS, plan, with_media
from jigsaw.toy.rgbd import render_views, write_scene
from jigsaw.toy.scenes import render_scene
from jigsaw.toy.videos import write_video

AT_ONCE = 2
"""Puzzles that are made at a time."""
LONGEST_FILM = 600
"""Seconds: each frame up to the last that is shown must be decoded."""
TIME_LIMIT = 120
"""Seconds that a file may take."""
MOST_VISITS, LONGEST_REST = 100, 7200
"""Visits that are kept, and the seconds after which one that rests is not."""


@dataclass(frozen=True)
class Game:
    """A jigsaw as people know it.

    Attributes:
        name: of what it is made of.
        levels: how it can be cut, by value and in words; the first is the one that is begun with.
        parts: the files that one is made of, by what they are, and what a file of it may be.
    """

    name: str
    levels: dict[str, str]
    parts: dict[str, str]


_GRIDS = ("2x2", "1x2", "2x1", "2x3", "3x3", "4x4")
_COUNTS = ("3", "2", "4", "5", "6")
GAMES = {
    "image": Game("Picture", {grid: f"{grid.replace('x', ' × ')} tiles" for grid in _GRIDS}, {"picture": "image/*"}),
    "video": Game("Film", {count: f"{count} clips" for count in _COUNTS}, {"film": "video/*"}),
    "depth": Game(
        "Room",
        {count: f"{count} points" for count in _COUNTS},
        {"picture": "image/*", "depth map": "image/png"},
    ),
}
"""By task."""


@dataclass(frozen=True)
class Try:
    """What someone made of a puzzle.

    Attributes:
        reply: in words.
        answer: what was read from it, 1-based; None where there is none.
        reason: why there is none; empty where there is one.
        metrics: the reward's.
        places: of each place, whether it holds its piece.
    """

    reply: str
    answer: tuple[int, ...] | None
    reason: str
    metrics: dict[str, float]
    places: tuple[bool, ...]

    def said(self) -> dict[str, Any]:
        """As the page is told it."""
        return {
            "reply": self.reply,
            "answer": self.answer,
            "reason": self.reason,
            "right": bool(self.metrics["exact"]),
            "score": self.metrics["score"],
            "places": self.places,
        }


@dataclass
class Tally:
    """How often one was right: sums over puzzles."""

    tried: int = 0
    right: float = 0
    places: float = 0

    def add(self, tried: Try) -> None:
        """Count one more puzzle."""
        self.tried += 1
        self.right += tried.metrics["exact"]
        self.places += tried.metrics["position_accuracy"]


@dataclass
class Played:
    """A puzzle on a table: its number in the visit, its pixels, and what was made of it."""

    number: int
    puzzle: Puzzle
    person: Try | None = None
    model: Try | None = None
    is_asked: bool = False
    is_shown: bool = False


class Visit:
    """One visitor's table."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.person, self.model = Tally(), Tally()
        self.played: Played | None = None
        self.begun = 0
        self.chance = 0.0
        self.last = time.monotonic()
        self.lock = threading.Lock()

    def said(self) -> dict[str, Any]:
        """How it went so far, as the page is told it."""
        tallies = {who: vars(tally) for who, tally in (("person", self.person), ("model", self.model))}
        return {**tallies, "chance": self.chance}


class Table:
    """All visits, and the model that plays; for several threads, of which one at a time has the model asked.

    Args:
        asked: the model; None if nobody plays beside.
        seed: of the orders and of what is drawn; None to begin each visit with another.
        answer_format: in which the model is asked.
        max_tokens: longest reply of the model.
        folder: for what visitors bring, while it is cut; the system's if not given.
    """

    def __init__(
        self,
        asked: Model | None,
        *,
        seed: int | None,
        answer_format: AnswerFormat,
        max_tokens: int = 2048,
        folder: Path | None = None,
    ) -> None:
        self._asked, self._seed = asked, seed
        self._format, self._max_tokens = answer_format, max_tokens
        self._visits: OrderedDict[str, Visit] = OrderedDict()
        self._lock = threading.Lock()
        self._folder = folder
        self._readers, self._cutter = Readers(AT_ONCE, TIME_LIMIT), Cutter(AT_ONCE, TIME_LIMIT)

    def find(self, token: str) -> Visit | None:
        """The visit of a token; None where there is none, or none any more."""
        now = time.monotonic()
        with self._lock:
            visit = self._visits.get(token)
            if visit is None or now - visit.last > LONGEST_REST:
                return None
            visit.last = now
            self._visits.move_to_end(token)
            return visit

    def enter(self, token: str) -> tuple[str, Visit]:
        """The visit of a token, or a new one with its token; one that has begun nothing makes room for it first."""
        if visit := self.find(token):
            return token, visit
        token = secrets.token_urlsafe(16)
        visit = Visit(secrets.randbits(32) if self._seed is None else self._seed)
        with self._lock:
            while len(self._visits) >= MOST_VISITS:
                idle = (name for name, old in self._visits.items() if not old.begun)
                del self._visits[next(idle, next(iter(self._visits)))]
            self._visits[token] = visit
        return token, visit

    def begin(self, visit: Visit, task: str, level: str, fill: Callable[[Path], Mapping[str, tuple[str, Path]]]) -> Any:
        """A new puzzle for a visit, as the page is told it.

        Args:
            visit: whose.
            task: its task.
            level: how it is cut, see :data:`GAMES`.
            fill: puts what the visitor brought into a folder, which is gone afterwards; the name that the visitor knows
                a file by, and the file, by part. None of them: something is drawn.

        Raises:
            JigsawError: if there is no such task or level, or the files are of no use.
        """
        if task not in GAMES or level not in GAMES[task].levels:
            raise JigsawError(f"{task} {level}: there is no such puzzle")
        with visit.lock:
            visit.begun += 1
            number = visit.begun
        count = parse_grid(level) if task == "image" else int(level)
        pieces = {CUT_INTO[task]: count}
        options = options_of(task, **pieces, answer_format=self._format, seed=visit.seed)  # type: ignore[arg-type]
        with TemporaryDirectory(dir=self._folder) as folder:
            root = Path(folder)
            brought = fill(root)
            if not brought:
                brought = _drawn(root, task, visit.seed, number)
            puzzle = self._puzzle(task, root, brought, options, visit.seed, number)
        with visit.lock:
            if visit.played is None or visit.played.number < number:  # else a later one was made meanwhile
                visit.played = Played(number, puzzle)
        return {"puzzle": number, "name": next(iter(brought.values()))[0], **_laid_out(puzzle)}

    def _puzzle(
        self, task: str, root: Path, brought: Mapping[str, tuple[str, Path]], options: Options, seed: int, epoch: int
    ) -> Puzzle:
        if missing := [part for part in GAMES[task].parts if part not in brought]:
            raise JigsawError(f"the {missing[0]} is missing; bring it too, or neither")
        name, path = _scene(root, brought) if task == "depth" else next(iter(brought.values()))
        try:
            record, _ = self._readers.make(_look, (task, path.name, root, options, LONGEST_FILM))
            if "reason" in record:
                part, _, why = record["reason"].partition(": ")
                if task == "depth" and part in _PLACES:  # which of the two files is at fault
                    raise JigsawError(f"{brought[_PLACES[part]][0]}: {why}")
                raise MediaError(None, record["reason"])
            planned = plan(record["row"], seed, epoch)
            cut_options = self._asked.options if self._asked else CutOptions()
            return with_media(planned, self._cutter.cut_media(planned.messages, root, cut_options))
        except ReaderDied as error:
            raise JigsawError(f"{name}: {error}; bring a smaller one") from error
        except MediaError as error:
            raise JigsawError(f"{name}: {error.why}") from error

    def answer(self, visit: Visit, number: int, answer: Sequence[int]) -> Any:
        """What a person's answer is worth; the first to a puzzle counts.

        Args:
            visit: whose.
            number: of the puzzle.
            answer: 1-based.

        Raises:
            JigsawError: if the puzzle is not on the table, or it is no answer to it.
        """
        played = _on_table(visit, number)
        if not is_answer(answer, len(played.puzzle.answer)):
            raise JigsawError(f"an answer to this puzzle names each of its {len(played.puzzle.answer)} pieces once")
        tried = _tried(played.puzzle, reply_of(answer, played.puzzle.answer_format))
        with visit.lock:
            is_first = played.person is None
            if is_first:
                played.person = tried
                visit.person.add(tried)
                visit.chance += 1 / factorial(len(answer))
            model = _shown(visit, played)
            tally = visit.said()
        return {**tried.said(), "first": is_first, "truth": played.puzzle.answer, "model": model, "tally": tally}

    def ask(self, visit: Visit, number: int) -> Any:
        """The model's try at a visit's puzzle, which is told, and counts, once the visitor has answered.

        Raises:
            JigsawError: if the puzzle is not on the table, or there is no model, or no reply of it now.
        """
        played = _on_table(visit, number)
        if self._asked is None:
            raise JigsawError("no model plays here: start jigsaw play with --model or --endpoint")
        with visit.lock:
            if played.is_asked and played.model is None:
                raise JigsawError("the model looks at it already")
            played.is_asked = True
        try:
            if played.model is None:
                played.model = _tried(played.puzzle, self._asked.ask(played.puzzle, max_new_tokens=self._max_tokens))
        except JigsawError as error:
            print_error(error)  # where the server was started; a visitor need not know whom it asks
            raise JigsawError("the model gives no reply now; try again later") from error
        finally:
            played.is_asked = played.model is not None
        with visit.lock:
            return {"model": _shown(visit, played), "tally": visit.said()}


def _shown(visit: Visit, played: Played) -> dict[str, Any] | None:
    """The model's try, if there is one that may be shown; when it first is, it counts."""
    if played.model is None or played.person is None:
        return None
    if not played.is_shown:
        played.is_shown = True
        visit.model.add(played.model)
    return played.model.said()


def _on_table(visit: Visit, number: int) -> Played:
    with visit.lock:
        if visit.played is None:
            raise JigsawError("there is no puzzle on the table; begin a new one")
        if visit.played.number != number:
            raise JigsawError("another puzzle was begun, perhaps on another page; begin a new one here")
        return visit.played


def _drawn(root: Path, task: str, seed: int, number: int) -> dict[str, tuple[str, Path]]:
    """Something to play with for those who bring nothing."""
    if task == "image":
        path = root / "scene.png"
        render_scene(seed, number, size=448).save(path)
        return {"picture": ("a drawn landscape", path)}
    if task == "video":
        film = write_video(root / "film.mp4", seconds=24, fps=8, size=(320, 240), seed=seed + number)
        return {"film": ("a drawn film", film)}
    write_scene(root / "room", render_views(seed, number, 1), layout="folder")
    name = "a drawn room"
    return {"picture": (name, root / "room/rgb/0.jpg"), "depth map": (name, root / "room/depth/0.png")}


_PLACES = {"rgb": "picture", "depth": "depth map"}
"""What lies in the folders of a scene."""


def _scene(root: Path, brought: Mapping[str, tuple[str, Path]]) -> tuple[str, Path]:
    """A picture and its depth map as a scene's folder."""
    scene = root / "scene"
    for place, part in _PLACES.items():
        (scene / place).mkdir(parents=True)
        brought[part][1].rename(scene / place / "0.png")  # what a picture is, is read from it, not from its name
    return brought["picture"][0], scene


def _look(item: tuple[str, str, Path, Options, float]) -> tuple[Record, list[Any]]:
    """A reader's work: the row of a file."""
    task, path, root, options, longest = item
    try:
        if task == "video" and (seconds := probe(root / path).duration) > longest:
            return {"reason": f"takes {seconds / 60:.3g} minutes, {longest / 60:.3g} are the most; cut it"}, []
        return {"row": rows_of(path, root, options)[0]}, []
    except MediaError as error:
        return {"reason": error.why}, []


def _tried(puzzle: Puzzle, reply: str) -> Try:
    read = reader("", puzzle, {})(reply)
    metrics = compute_score("", reply, puzzle.answer, puzzle.extra_info)
    places = tuple(given == right for given, right in zip(read.answer or (), puzzle.answer, strict=False))
    return Try(reply, read.answer, read.reason or "", metrics, places)


def _laid_out(puzzle: Puzzle) -> dict[str, Any]:
    """A puzzle as the page is told it, without what is right."""
    figures = list(map(FIGURES[TASKS[puzzle.task].media_type], puzzle.media))
    shown = [
        {
            "source": figure.source,
            "still": figure.strip.source if figure.strip else None,
            "size": figure.size,
        }
        for figure in figures
    ]
    one_picture = puzzle.task == "depth"
    pieces = len(puzzle.answer)
    return {
        "grid": puzzle.grid,
        "pieces": [None] * pieces if one_picture else shown,
        "picture": shown[0] if one_picture else None,
        "orders": factorial(pieces),
    }
