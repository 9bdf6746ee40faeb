"""Things that several threads ask for, each made once."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from threading import Lock
from typing import Any


@dataclass
class _Entry:
    """A thing on the shelf, made when it is first asked for."""

    lock: Lock = field(default_factory=Lock)
    made: list[Any] = field(default_factory=list)


class Shelf:
    """What was made last, so that who asks for the same shares it; safe in threads.

    Args:
        kept: how many things.
    """

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._lock = Lock()
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What ``make`` makes; of several that ask for one key at a time, one makes it and the others wait."""
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
            self._entries.move_to_end(key)
            while len(self._entries) > self._kept:
                self._entries.popitem(last=False)
        with entry.lock:
            if not entry.made:
                entry.made.append(make())
            return entry.made[0]
