"""Benchmarks during training: their questions are asked beside the held-out puzzles, of the engine that trains."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig

from jigsaw import machine
from jigsaw.errors import JigsawError, Problems
from jigsaw.evaluation.questions import ROOT, Document, chat, missing
from jigsaw.evaluation.table import SUITES, of_suite
from jigsaw.evaluation.tasks import Task, read_task
from jigsaw.show.training import BENCHMARK
from jigsaw.verl_plugin.plans import whole

_SUITES = (*SUITES, "all")
MARK = "benchmark"
"""What the spec of a benchmark's medium has in place of a path, and what a question is called in ``extra_info``."""
UNANSWERED = "unanswered"
REPLY = "reply"
"""Where among its metrics a reply to a question stands; the trainer scores all of a benchmark together."""


class _Asked(NamedTuple):
    """A benchmark that is asked: its name, its task, and its questions."""

    name: str
    task: Task
    docs: Sequence[Document]


class Benchmarks:
    """The questions of those benchmarks of a suite whose data are there, the first ``limit`` of each.

    Args:
        config: ``eval`` of a recipe.

    Attributes:
        absent: by name why a benchmark is not asked.

    Raises:
        JigsawError: if the suite is unknown, an option is no number, or none of its benchmarks is there.
    """

    def __init__(self, config: DictConfig) -> None:
        limit = whole("eval.limit", config.limit, least=1)
        self._frames = whole("eval.frames", config.frames, least=8)
        self._asked: tuple[_Asked, ...] = ()
        self.absent: dict[str, str] = {}
        if config.suite is not None:
            if config.suite not in _SUITES:
                raise JigsawError(
                    f"eval.suite is {config.suite!r:.60}; it must be one of {', '.join(_SUITES)}, or null"
                )
            if not find_spec("decord"):
                raise JigsawError(f"decord is not installed, which eval.suite needs; first: {machine.SETUP}")
            self._asked, self.absent = _find(config.suite, config.data, limit)
        self._places = [(number, place) for number, one in enumerate(self._asked) for place in range(len(one.docs))]

    @property
    def questions(self) -> dict[str, int]:
        """How many are asked, by benchmark."""
        return {one.name: len(one.docs) for one in self._asked}

    def __str__(self) -> str:
        asked = ", ".join(f"{name} ({count})" for name, count in self.questions.items()) or "none"
        return asked + (f"; not there: {', '.join(self.absent)}" if self.absent else "")

    def __len__(self) -> int:
        return sum(self.questions.values())

    def shown(self) -> Counter[str]:
        """The most media of each kind that a question shows."""
        most: Counter[str] = Counter()
        for one in self._asked:
            for doc in one.docs:
                films = doc["prompt"].count("<video>")
                most |= Counter(image=len(doc["media"]) - films, video=films)
        return most

    def __getitem__(self, place: int) -> dict[str, Any]:
        """A question as verl wants it; its media are named, not read."""
        number, within = self._places[place]
        doc = self._asked[number].docs[within]
        frames = self._frames // doc["share"]
        return {
            "data_source": f"{MARK}/{self._asked[number].name}",
            "raw_prompt": chat(doc, lambda name, kind: {kind: {MARK: name, "frames": frames}}),
            "reward_model": {"style": "rule", "ground_truth": doc["answer"]},
            "extra_info": {
                "id": f"{self._asked[number].name}/{doc['id']}",
                "split": MARK,
                "epoch": 0,
                "index": place,
                MARK: place,
            },
            "index": place,
        }

    def figures(self, replies: Mapping[int, str]) -> dict[str, float]:
        """Metrics of a validation, the replies read carefully: those of ``vj_mmvp_fixed`` are MMVP's.

        Besides, ``unanswered``: the share of questions that were not answered.

        Args:
            replies: by place; a question that was not answered, as one that is too long, counts as answered by nothing.
        """
        begin, found = 0, {}
        for one in self._asked:
            answered = [(doc, replies.get(begin + place, "")) for place, doc in enumerate(one.docs)]
            silent = sum(begin + place not in replies for place in range(len(one.docs)))
            figures = {**one.task.figures(one.task.scores(answered)), UNANSWERED: silent / len(one.docs)}
            found.update({f"{BENCHMARK}{one.name}/{metric}": value for metric, value in figures.items()})
            begin += len(one.docs)
        return found


@lru_cache(1)
def _find(suite: str, data: str | None, limit: int) -> tuple[tuple[_Asked, ...], dict[str, str]]:
    """The benchmarks of a suite that are there, and of the others why they are not.

    Raises:
        JigsawError: if none is there, or a folder is there and cannot be asked from.
    """
    if data:
        os.environ[ROOT] = data
    asked: list[_Asked] = []
    absent: dict[str, str] = {}
    damaged = []
    for benchmark in of_suite(suite):
        task = read_task(f"{benchmark.task}_fixed")
        try:
            first = _first(list(task.documents()), limit)
            if gone := [file for doc in first for file in missing(doc)]:
                raise JigsawError(f"{gone[0]}: no such file")
        except (JigsawError, OSError) as error:
            absent[benchmark.name] = str(error)
            if (root := os.environ.get(ROOT)) and Path(root, benchmark.folder).is_dir():
                damaged.append(f"{benchmark.name}: {error}; complete its folder, or move it away")
        else:
            asked.append(_Asked(benchmark.name, task, first))
    if damaged:
        raise Problems(damaged)
    if not asked:
        name, why = next(iter(absent.items()))
        raise JigsawError(f"eval.suite={suite}: none of its benchmarks is there; {name}: {why}")
    return tuple(asked), absent


def _first(docs: Sequence[Document], limit: int) -> list[Document]:
    """The first questions, whole groups of them: of half a group nothing is right. At least one group."""
    first = docs[:limit]
    if not any(doc["group"] for doc in docs):
        return list(first)
    sizes, begun = (Counter(doc["group"] for doc in some) for some in (docs, first))
    whole = {group for group, count in begun.items() if count == sizes[group]} or {first[0]["group"]}
    return [doc for doc in docs if doc["group"] in whole]
