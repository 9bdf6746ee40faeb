"""The gallery: rows of a parquet file as one self-contained HTML page, the puzzles as the model sees them."""

import os
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import factorial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from jigsaw.cutter import Cutter
from jigsaw.errors import JigsawError, RowError
from jigsaw.files import atomic_write
from jigsaw.media.image import encoded
from jigsaw.puzzle import CutOptions, Plan, Puzzle
from jigsaw.rows import Row, each_row, read_table, row_id
from jigsaw.tasks import DEFAULTS, TASKS, plan, with_media
from jigsaw.tasks.base import Mark

if TYPE_CHECKING:
    from jigsaw.media.video import Clip

# Small pictures are shown pixel for pixel; the page of large ones would be too heavy to open.
_LOSSLESS_SIDE = 160
_LONGEST_SIDE = 960
_CLIP_SIDE = 320
_STRIP_SIDE = 112  # of one frame
_STRIP_COLUMNS = 6
_PLAYED_MS = 250  # a frame: clips of half a minute have a frame every few seconds, too slow to watch
_TIME_LIMIT = 300  # seconds that a row's media may take
_WRITTEN_OUT = 25  # pieces; the number of their orders has 26 digits

_cutter = Cutter(readers=1, time_limit=_TIME_LIMIT)


@dataclass(frozen=True)
class Strip:
    """The frames of a clip as one still picture, in reading order.

    Attributes:
        source: data URI.
        size: (width, height) of the picture in pixels.
        grid: (rows, columns) of frames; the last row may have fewer.
        indices: 0-based index in the source of every frame.
        fps: frames a second of the clip's own time.
    """

    source: str
    size: tuple[int, int]
    grid: tuple[int, int]
    indices: tuple[int, ...]
    fps: float


@dataclass(frozen=True)
class Figure:
    """A piece of media on the page.

    Attributes:
        medium: the type of the media; also the name of the template's macro that draws it.
        source: data URI.
        size: (width, height) in pixels as the model is given it; the figure itself may be scaled down.
        strip: the frames, side by side, of what moves; else None.
    """

    medium: str
    source: str
    size: tuple[int, int]
    strip: Strip | None = None


@dataclass(frozen=True)
class Prose:
    """A stretch of the prompt: text, or the mark of a piece.

    Attributes:
        text: the text; empty for a mark.
        place: 1-based place of the piece that stands here; None for text.
    """

    text: str
    place: int | None = None


@dataclass(frozen=True)
class Card:
    """One row on the page: a puzzle, or the reason why there is none.

    Attributes:
        index: 0-based place of the row in its file.
        id: the row's id; its place where the id cannot be read.
        error: why the row could not be built; then all that follows is empty.
        task: name of the task.
        cut: what its source was cut into, in words.
        grid: (rows, columns) of a tiling, else None.
        prompt: the messages in order, media as marks.
        figures: all media in the order shown.
        answer: 1-based; ``answer[i]`` is the place where piece i is shown.
        whole: the reassembled source of a tiling, else None.
        points: the places that the pieces stand for, in source order; none where a piece is a medium.
    """

    index: int
    id: str
    error: str | None = None
    task: str = ""
    cut: str = ""
    grid: tuple[int, int] | None = None
    prompt: tuple[Prose, ...] = ()
    figures: tuple[Figure, ...] = ()
    answer: tuple[int, ...] = ()
    whole: Figure | None = None
    points: tuple[Mark, ...] = ()

    @property
    def headline(self) -> str:
        """Task, cut and chance in words; empty for a row that could not be built."""
        if self.error is not None:
            return ""
        pieces = len(self.answer)
        # Python writes no number of more than 4300 digits, and nobody reads one.
        orders = f"{factorial(pieces):,}" if pieces <= _WRITTEN_OUT else f"{pieces}!"
        return f"{self.task}, {self.cut}, chance 1 in {orders}"


def write_gallery(
    data: str | os.PathLike[str],
    media_root: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    limit: int = 20,
    seed: int = 0,
    epoch: int = 0,
) -> tuple[int, list[Card]]:
    """Write the page of a file's first rows; a row that cannot be built shows its error in its place.

    Args:
        data: parquet file of rows.
        media_root: folder that the rows' paths are relative to.
        out: the page, written as a whole or not at all; its folder is made if missing.
        limit: how many rows at most.
        seed: the seed of the run whose orders are shown.
        epoch: 0-based pass over the data.

    Returns:
        The number of rows in the file, and a card for each row shown.

    Raises:
        JigsawError: if the file is no file of rows, the media root is no folder, or another file than a page is in the
            page's place.
    """
    if not Path(media_root).is_dir():
        raise JigsawError(f"{media_root}: no such folder; give the one that the rows' paths are relative to")
    check_place(out)
    table = read_table(data)
    cards = [
        Card(index=index, id=str(index), error=str(row))
        if isinstance(row, RowError)
        else make_card(row, index, media_root, seed=seed, epoch=epoch)
        for index, row in enumerate(each_row(table.slice(0, limit)))
    ]
    write_page(render_page(cards, title=Path(data).name, rows=table.num_rows, seed=seed, epoch=epoch), out)
    return table.num_rows, cards


def make_card(row: Row, index: int, media_root: str | os.PathLike[str], *, seed: int = 0, epoch: int = 0) -> Card:
    """Build a row's puzzle and lay it out.

    Args:
        row: a row.
        index: 0-based place of the row in its file.
        media_root: folder that the row's path is relative to.
        seed: the run's seed.
        epoch: 0-based pass over the data.
    """
    try:
        return build_card(row, plan(row, seed=seed, epoch=epoch, index=index), index, media_root)[0]
    except JigsawError as error:
        return Card(index=index, id=_name(row, index), error=str(error))


def build_card(
    row: Row, planned: Plan, index: int, media_root: str | os.PathLike[str], options: CutOptions = DEFAULTS
) -> tuple[Card, Puzzle]:
    """A row's plan laid out, and its puzzle.

    Raises:
        MediaError: if its media cannot be used.
    """
    puzzle = with_media(planned, _cutter.cut_media(planned.messages, media_root, options))
    prompt, figures = _lay_out(puzzle)
    task = TASKS[puzzle.task]
    card = Card(
        index=index,
        id=puzzle.id,
        task=puzzle.task,
        cut=task.in_words(planned),
        grid=puzzle.grid,
        prompt=prompt,
        figures=figures,
        answer=puzzle.answer,
        whole=put_together(puzzle, puzzle.answer),
        points=tuple(task.marks(row, puzzle)),
    )
    return card, puzzle


def put_together(puzzle: Puzzle, answer: tuple[int, ...]) -> Figure | None:
    """The picture that an answer, right or wrong, makes of a tiling; None for other puzzles."""
    return image_figure(replace(puzzle, answer=answer).reassemble()) if puzzle.grid else None


def _name(row: Row, index: int) -> str:
    try:
        return row_id(row, index)
    except RowError:
        return str(index)


def _lay_out(puzzle: Puzzle) -> tuple[tuple[Prose, ...], tuple[Figure, ...]]:
    prompt: list[Prose] = []
    figures: list[Figure] = []
    for message in puzzle.messages:
        for item in message["content"]:
            if item["type"] == "text":
                prompt.append(Prose(item["text"]))
            else:
                figures.append(FIGURES[item["type"]](item[item["type"]]))
                prompt.append(Prose("", place=len(figures)))
    return tuple(prompt), tuple(figures)


def image_figure(image: Image.Image) -> Figure:
    """A picture as a figure: lossless where it is small, else as a JPEG that fits a screen."""
    if max(image.size) <= _LOSSLESS_SIDE:
        return Figure("image", _data_uri(image, "png"), image.size)
    return Figure("image", _data_uri(_fitted(image, _LONGEST_SIDE), "jpeg", quality=90), image.size)


def video_figure(clip: "Clip") -> Figure:
    """A clip as a figure that plays, over and over, with its strip."""
    frames = clip.pictures()
    first, *others = [_fitted(frame, _CLIP_SIDE) for frame in frames]
    moving = {"save_all": True, "append_images": others, "duration": _PLAYED_MS, "loop": 0}
    source = _data_uri(first, "webp", **moving, quality=75, method=2)
    return Figure("video", source, frames[0].size, _strip([_fitted(frame, _STRIP_SIDE) for frame in frames], clip))


def _strip(frames: list[Image.Image], clip: "Clip") -> Strip:
    rows = -(-len(frames) // _STRIP_COLUMNS)
    columns = -(-len(frames) // rows)
    width, height = frames[0].size
    whole = Image.new("RGB", (columns * width, rows * height))
    for place, frame in enumerate(frames):
        row, column = divmod(place, columns)
        whole.paste(frame, (column * width, row * height))
    return Strip(_data_uri(whole, "jpeg", quality=80), whole.size, (rows, columns), clip.indices, clip.fps)


def _fitted(image: Image.Image, side: int) -> Image.Image:
    """A copy that is scaled down, if need be, to so many pixels a side."""
    fitted = image.copy()
    fitted.thumbnail((side, side))
    return fitted


def _data_uri(image: Image.Image, format: str, **options: Any) -> str:
    return f"data:image/{format};base64,{b64encode(encoded(image, format, **options)).decode()}"


FIGURES: dict[str, Callable[[Any], Figure]] = {"image": image_figure, "video": video_figure}
"""How each type of media in a chat message becomes a figure. A new type adds its function here and a macro of the name
``medium`` to the template."""


def render_page(cards: list[Card], *, title: str, rows: int, seed: int, epoch: int) -> str:
    """The page as HTML, without a reference to anything outside it.

    Args:
        cards: what to show, in order.
        title: name of the file.
        rows: number of rows in the file.
        seed: the run's seed.
        epoch: 0-based pass over the data.
    """
    headlines = list(dict.fromkeys(card.headline for card in cards if card.headline))
    return render("gallery.html.j2", cards=cards, title=title, rows=rows, headlines=headlines, seed=seed, epoch=epoch)


def render(template: str, /, package: str = "jigsaw.show", **values: Any) -> str:
    """A page by a template of a package; what is put into HTML is text, never markup, unless it is ``Markup``."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(package, ""),
        autoescape=template.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)


def write_page(page: str, out: str | os.PathLike[str]) -> None:
    """Write a page as a whole or not at all; its folder is made if missing."""
    with atomic_write(Path(out)) as file:
        file.write(page.encode(errors="replace"))


def check_place(out: str | os.PathLike[str]) -> None:
    """Raise JigsawError where a page would replace a file that is none."""
    if Path(out).is_file() and Path(out).suffix.lower() not in (".html", ".htm"):
        raise JigsawError(f"{out}: is there and no HTML page; choose another file")
