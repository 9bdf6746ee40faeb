"""What a task is: how its rows are read, cut and shown, told once in one object."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

from jigsaw.errors import RowError
from jigsaw.prompts import render
from jigsaw.puzzle import CutOptions, Plan, Puzzle, Spec
from jigsaw.rows import AnswerFormat, Row
from jigsaw.tokens import Medium

Level = tuple[int, int] | int
"""A degree of difficulty: a grid, (rows, columns), or a number of pieces."""


def is_count(value: Any) -> bool:
    """Whether a config's value is a whole number above 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


class Mark(NamedTuple):
    """A place in the picture that a piece stands for: its 1-based number, [x, y] in pixels, its depth in metres."""

    number: int
    x: int
    y: int
    depth: float | None


class Task(ABC):
    """A jigsaw.

    To add one: a subclass in a file of this folder, a template of its :attr:`name` in ``jigsaw/prompts``, and an object
    of it in :data:`jigsaw.tasks.TASKS`. What :meth:`read` makes of a row, once a plan, is handed to all that follows.
    """

    name: ClassVar[str]
    media_type: ClassVar[Literal["image", "video"]]
    """What the prompt shows, and the mark that stands for one: ``<image>`` or ``<video>``."""
    column: ClassVar[Literal["images", "videos"]]
    """Of the row's struct about its media."""
    fields: ClassVar[frozenset[str]]
    """What is read of that struct."""
    sized_by: ClassVar[str]
    """What in the struct decides how large the media are shown."""
    level_form: ClassVar[str | None] = None
    """What a level of a difficulty schedule is, in words; None where rows cannot be made easier."""

    @abstractmethod
    def owns(self, row: Row) -> bool:
        """Whether a row could be of this task; it is, unless it is of a later one in the table."""

    @abstractmethod
    def read(self, row: Row) -> Spec:
        """What the row says of its media, checked; plain JSON values.

        Raises:
            RowError: if the row does not hold exactly one struct about them, or a value in it makes no sense.
        """

    @abstractmethod
    def pieces(self, said: Spec) -> int:
        """K, the number of pieces."""

    def media_count(self, said: Spec) -> int:
        """Number of media in the prompt: each piece is one unless told otherwise."""
        return self.pieces(said)

    def grid(self, said: Spec) -> tuple[int, int] | None:
        """(rows, columns) where the pieces tile one picture, else None."""
        return None

    @abstractmethod
    def specs(self, said: Spec, order: Sequence[int]) -> list[Spec]:
        """One spec a medium, in prompt order, with ``"path"`` and all else that :meth:`cut` needs.

        Args:
            said: see :meth:`read`.
            order: 0-based; ``order[j]`` is the piece shown at place j.
        """

    @abstractmethod
    def sizes(self, wanted: Sequence[Spec], media_root: str | os.PathLike[str], options: CutOptions) -> list[Medium]:
        """(width, height, frames) of the media of specs, by the files' headers alone.

        Raises:
            MediaError: if a file is of no use by its header.
        """

    @abstractmethod
    def cut(self, wanted: Sequence[Spec], media_root: str | os.PathLike[str], options: CutOptions) -> list[Any]:
        """The media of specs: RGB images or clips.

        Raises:
            MediaError: if a file cannot be used.
        """

    def shown(self, wanted: Sequence[Spec], media: Sequence[Any]) -> list[Any]:
        """The pieces, in the order shown: the media themselves unless told otherwise."""
        return list(media)

    def files(self, spec: Spec) -> Iterator[str]:
        """Path of each file that a medium is made of, relative to the media root."""
        yield spec["path"]

    def in_words(self, plan: Plan) -> str:
        """What the source was cut into, for a heading: ``3 × 3 tiles``."""
        return f"{len(plan.order)} pieces"

    def marks(self, row: Row, puzzle: Puzzle) -> list[Mark]:
        """Places that the pieces stand for, in source order; none where a piece is a medium."""
        return []

    def level(self, given: Any) -> Level | None:
        """A level as a schedule's config gives it, None if it is none of this task's."""
        return None

    def at_level(self, row: Row, level: Level) -> Row:
        """A row with as many pieces as a level asks for; its prompt is left.

        Raises:
            RowError: if that cannot be.
        """
        raise RowError(f"a row of the task {self.name} cannot be made easier")

    def wording(self, said: Spec) -> dict[str, int]:
        """What the template of the prompt is told of the pieces."""
        return {}

    def prompt(self, said: Spec, answer_format: AnswerFormat) -> str:
        """The prompt that ``jigsaw prepare`` writes."""
        return render(self.name, answer_format, **self.wording(said))
