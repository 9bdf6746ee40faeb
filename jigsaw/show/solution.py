"""What a model made of a puzzle: as a picture beside the source, and on a page with its reply."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from jigsaw.files import atomic_write
from jigsaw.puzzle import Puzzle
from jigsaw.show.gallery import Card, check_place, put_together, render, write_page
from jigsaw.show.samples import Answered, Sample
from jigsaw.tasks.depth import draw_discs

_SIDE = 640
_FRAME_SIDE = 160
_GAP, _HEAD = 16, 36
_PAPER, _INK, _NOTHING = (255, 255, 255), (31, 35, 40), (222, 219, 213)


@dataclass(frozen=True)
class Solution:
    """A puzzle that was asked of a model.

    Attributes:
        name: of its file.
        card: the puzzle, laid out.
        puzzle: with its pixels.
        reply: the model's.
        answer: what was read from it, 1-based; None where there is none.
        reason: why there is none; empty where there is one.
        score: the reward.
    """

    name: str
    card: Card
    puzzle: Puzzle
    reply: str
    answer: tuple[int, ...] | None
    reason: str
    score: float

    @property
    def is_right(self) -> bool:
        """Whether all pieces are in their places."""
        return self.answer == self.puzzle.answer


def write_picture(solution: Solution, out: Path) -> None:
    """Draw the source, beside it what the model put together, and write it as the suffix says."""
    source = _arranged(solution.puzzle, solution.puzzle.answer)
    said, made = "no answer", None
    if solution.answer is not None:
        said, made = "right" if solution.is_right else "wrong", _arranged(solution.puzzle, solution.answer)
    size = source.size
    font = ImageFont.load_default(18)
    # Clips are wide: below one another.
    below = size[0] > 2 * size[1]
    step = (0, size[1] + _HEAD + _GAP) if below else (size[0] + _GAP, 0)
    whole = Image.new("RGB", (size[0] + step[0] + 2 * _GAP, size[1] + step[1] + _HEAD + _GAP), _PAPER)
    draw = ImageDraw.Draw(whole)
    for place, (title, picture) in enumerate((("the source", source), (f"the model: {said}", made))):
        x, y = _GAP + place * step[0], place * step[1]
        draw.text((x, y + _HEAD / 2), title, _INK, font, anchor="lm")
        if picture is None:
            draw.rectangle((x, y + _HEAD, x + size[0] - 1, y + _HEAD + size[1] - 1), _NOTHING)
        else:
            whole.paste(picture, (x, y + _HEAD))
    with atomic_write(out) as file:
        whole.save(file, Image.registered_extensions()[out.suffix.lower()], quality=92)


def _arranged(puzzle: Puzzle, answer: Sequence[int]) -> Image.Image:
    """The pieces in an order: a tiling's picture; frames of clips; a picture whose discs count from the nearest on."""
    if puzzle.grid is not None and puzzle.task == "image":
        return _fitted(replace(puzzle, answer=tuple(answer)).reassemble(), _SIDE)
    if puzzle.task == "depth":
        picture = puzzle.media[0].copy()
        draw_discs(picture, [puzzle.pieces[place - 1] for place in answer])  # over those of the puzzle
        return _fitted(picture, _SIDE)
    clips = [puzzle.pieces[place - 1].pictures() for place in answer]
    frames = [_fitted(clip[len(clip) // 2], _FRAME_SIDE) for clip in clips]
    row = Image.new("RGB", (sum(frame.width for frame in frames) + 4 * (len(frames) - 1), frames[0].height), _PAPER)
    x = 0
    for frame in frames:
        row.paste(frame, (x, 0))
        x += frame.width + 4
    return row


def _fitted(picture: Image.Image, side: int) -> Image.Image:
    """Scaled so that its longer side has so many pixels; a small one by a whole number, without blur."""
    longest = max(picture.size)
    if longest <= side // 2:
        times = side // longest
        return picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
    fitted = picture.copy()
    fitted.thumbnail((side, side))
    return fitted


def write_solutions(solutions: Sequence[Solution], out: Path, *, title: str, summary: str) -> None:
    """Write a self-contained page: pieces, replies, and what the model put together.

    Raises:
        JigsawError: if another file than a page is in its place.
    """
    check_place(out)
    shown = [(solution.name, _sample(solution)) for solution in solutions]
    write_page(render("solved.html.j2", title=title, summary=summary, solved=shown), out)


def _sample(solution: Solution) -> Sample:
    puzzle, answer = solution.puzzle, solution.answer
    whole = None if answer is None else put_together(puzzle, answer)
    replied = Answered(1, solution.score, solution.reply, answer, solution.reason, whole)
    return Sample(0, 1, solution.score, puzzle.answer, "", (replied,), solution.card)
