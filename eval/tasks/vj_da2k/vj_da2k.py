"""DA-2K: which of two points of a picture is nearer to the camera."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from jigsaw.errors import MediaError
from jigsaw.evaluation.questions import LETTER, Document, Question, documents, fields, messages, options, read_rows

RADIUS = 30  # pixels, of the circle about a point
WIDTH = 4  # pixels, of its lines
ASK = "Which of the two marked points is closer to the camera?" + options(["The green point.", "The red point."])


@dataclass(frozen=True, kw_only=True)
class Pair(Question):
    """A question about two points.

    Attributes:
        points: [y, x] of the green and of the red one, in pixels.
    """

    points: tuple[tuple[float, float], ...]


def questions(folder: Path) -> Iterator[Pair]:
    """The converted file, whose questions say how to answer, where it lies there, else the official one."""
    if (converted := folder / "all_data.json").is_file():
        for number, (where, row) in enumerate(read_rows(converted)):
            picture, points, text, answer = fields(row, where, "image", "points", "question", "answer")
            yield _pair(str(number), folder / picture, text, answer, points)
        return
    for where, pictures in read_rows(folder / "annotations.json"):
        for picture, pairs in pictures.items():
            for number, pair in enumerate(pairs):
                first, second, nearer = fields(
                    pair, f"{where}, {picture}, pair {number}", "point1", "point2", "closer_point"
                )
                # The nearer point comes first in every pair, so its colour is drawn.
                is_swapped = sha256(f"{picture}\0{number}".encode()).digest()[0] % 2
                points = [second, first] if is_swapped else [first, second]
                answer = "A" if (nearer == "point1") != bool(is_swapped) else "B"
                yield _pair(f"{picture}/{number}", folder / picture, ASK + LETTER, answer, points)


def _pair(name: str, picture: Path, text: str, answer: str, points: Sequence[Sequence[float]]) -> Pair:
    return Pair(
        id=name,
        prompt="<image>\n" + text,
        media=(str(picture),),
        answer=answer,
        reader="L",
        letters="AB",
        points=tuple((point[0], point[1]) for point in points),
    )


def marked(doc: Document) -> list[dict[str, Any]]:
    """A question's messages, the points drawn on their picture."""
    (message,) = messages(doc)
    medium = message["content"][0]
    try:
        with Image.open(medium["url"]) as picture:
            shown = picture.convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise MediaError(medium["url"], f"cannot be read as a picture ({error}); replace it") from error
    medium["url"] = draw(shown, doc["points"])
    return [message]


def draw(picture: Image.Image, points: Sequence[Sequence[float]]) -> Image.Image:
    """A picture with a crossed circle about each of two points, [y, x]: the first green, the second red."""
    pen = ImageDraw.Draw(picture)
    for (y, x), colour in zip(points, ("green", "red"), strict=True):
        for inset in range(WIDTH):
            reach = RADIUS - inset
            pen.ellipse((x - reach, y - reach, x + reach, y + reach), outline=colour)
        pen.line((x - RADIUS, y, x + RADIUS, y), fill=colour, width=WIDTH)
        pen.line((x, y - RADIUS, x, y + RADIUS), fill=colour, width=WIDTH)
    return picture


docs = documents("DA-2K", questions)
