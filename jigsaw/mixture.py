"""Which row stands at an index of a run over several sources: arithmetic, no data."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from math import gcd, isfinite, lcm
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jigsaw.errors import JigsawError


@dataclass(frozen=True)
class Source:
    """Files of rows that are drawn from as one.

    Attributes:
        name: unique in its mixture; empty where the files were given without one.
        files: parquet files.
        weight: its share of the prompts, relative to the other sources'.
        media_root: folder of the rows' media.
        epochs: passes over the rows that training may take.
    """

    name: str
    files: tuple[str, ...]
    weight: Fraction
    media_root: str
    epochs: int


_KEYS = [field.name for field in fields(Source)]


def read_sources(given: Any, media_root: Any, epochs: Any, option: str = "the data") -> list[Source]:
    """The sources that a config names.

    Args:
        given: a file, a list of files (one source), or a list of ``{name, files}`` with ``weight`` (1 if not given),
            ``media_root`` and ``epochs``.
        media_root: of sources without their own; None if there is no such folder.
        epochs: of sources without their own.
        option: what messages call a source without a name.

    Raises:
        JigsawError: if it is anything else; the message names the source.
    """
    if not isinstance(given, list) or not any(isinstance(entry, Mapping) for entry in given):
        given = [{"name": "", "files": given}]
    sources: dict[str, Source] = {}
    for entry in given:
        if not isinstance(entry, Mapping) or not isinstance(name := entry.get("name"), str):
            raise JigsawError(
                f"a source of data is {entry!r:.80}; it must be {{{', '.join(_KEYS)}}}, name and files at least"
            )
        where = f"source {name!r}" if name else option
        if unknown := set(entry) - set(_KEYS):
            raise JigsawError(f"{where}: {', '.join(map(str, unknown))} is unknown; known are {', '.join(_KEYS)}")
        if name in sources:
            raise JigsawError(f"{where}: is there twice; names must be unique")
        default = {"weight": 1, "media_root": media_root, "epochs": epochs}
        values = default | {key: value for key, value in entry.items() if value is not None}
        weight, root, passes = (values[key] for key in default)
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not isfinite(weight) or weight <= 0:
            raise JigsawError(f"{where}: weight is {weight!r}; it must be a number above 0")
        if root is None:
            raise JigsawError(f"{where}: where are its pictures or videos? set its media_root, or data.media_root")
        if not isinstance(root, str) or not root:
            raise JigsawError(f"{where}: media_root is {root!r:.60}; it must be a folder")
        if isinstance(passes, bool) or not isinstance(passes, int) or passes < 1:
            raise JigsawError(f"{where}: epochs is {passes!r}; it must be a whole number, 1 or more")
        # By its digits: 0.1 is a tenth then, and the pattern of the draws short.
        sources[name] = Source(name, _files(values.get("files"), where), Fraction(str(weight)), root, passes)
    return list(sources.values())


def _files(given: Any, where: str) -> tuple[str, ...]:
    files = given if isinstance(given, list) else [given]
    if not files or not all(isinstance(file, str) and file for file in files):
        raise JigsawError(f"{where}: {given!r:.60} names no file; give a parquet file of rows, or a list of them")
    return tuple(files)


class Schedule:
    """The draws of a mixture: at an index a source, an epoch of this source and a place in that epoch.

    Any number of first draws holds each source's share to within one draw. For that the n-th draw of a source with
    share s has a window, after (n − 1) / s draws and up to ⌈n / s⌉, and of the windows that are open the one that
    closes first is served. As the shares add up to 1, every window is met. (The usual smooth round robin serves who is
    furthest behind; with many sources it can be more than one draw off.)

    Args:
        weights: of the sources, above 0.
        rows: of the sources, 1 or more.
        epochs: of the sources, 1 or more.
    """

    def __init__(self, weights: Sequence[Fraction], rows: Sequence[int], epochs: Sequence[int]) -> None:
        scale = lcm(*(weight.denominator for weight in weights))
        whole = [int(weight * scale) for weight in weights]
        self._each = [number // gcd(*whole) for number in whole]
        self._period = sum(self._each)
        """After so many draws the pattern repeats; each source was drawn ``_each`` times."""
        self._rows = rows
        limits = [number * passes for number, passes in zip(rows, epochs, strict=True)]
        # By then one source is asked for more than it has: a longer pattern is not needed.
        horizon = min(-(-(limit + 1) * self._period // each) for limit, each in zip(limits, self._each, strict=True))
        self._source = _pattern(self._each, min(self._period, horizon))
        self._nth = np.zeros(len(self._source), dtype=np.int64)
        ends = []
        for source, (limit, each) in enumerate(zip(limits, self._each, strict=True)):
            places = np.flatnonzero(self._source == source)
            self._nth[places] = np.arange(len(places))
            rounds, rest = divmod(limit, each)
            if rest < len(places):
                ends.append((rounds * self._period + int(places[rest]), source))
        self._length, self.first_to_end = min(ends)

    def __len__(self) -> int:
        """The draws before the source ``first_to_end`` is asked for more than its epochs hold."""
        return self._length

    def __getitem__(self, index: int) -> tuple[int, int, int]:
        """(source, epoch, place in the epoch) of a draw, all 0-based.

        Raises:
            IndexError: if the index is not in 0..length − 1.
        """
        if not 0 <= index < self._length:
            raise IndexError(f"draw {index} of {self._length}")
        rounds, place = divmod(index, self._period)
        source = int(self._source[place])
        epoch, row = divmod(rounds * self._each[source] + int(self._nth[place]), self._rows[source])
        return source, epoch, row


def _pattern(each: Sequence[int], length: int) -> NDArray[np.int32]:
    """The first draws' sources, (length,); each is drawn ``each`` times in ``sum(each)`` draws."""
    period = sum(each)
    drawn = [0] * len(each)
    deadlines = [-(-period // number) for number in each]
    pattern = np.empty(length, dtype=np.int32)
    for draw in range(length):
        open_windows = (source for source, number in enumerate(each) if drawn[source] * period < number * (draw + 1))
        source = min(open_windows, key=deadlines.__getitem__)
        drawn[source] += 1
        deadlines[source] = -(-(drawn[source] + 1) * period // each[source])
        pattern[draw] = source
    return pattern


def shuffled(rows: int, seed: int, name: str, epoch: int) -> list[int]:
    """The rows 0..rows − 1 of a source in the order of an epoch, the same in every process."""
    keys = [hashlib.blake2b(f"{seed}/{name}/{epoch}/{row}".encode()).digest() for row in range(rows)]
    return sorted(range(rows), key=keys.__getitem__)
