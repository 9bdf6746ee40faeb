"""Tasks of ours read from their files without lmms-eval: for who asks their questions in another way."""

import importlib
import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean
from types import ModuleType
from typing import TYPE_CHECKING, Any

import yaml

from jigsaw.errors import JigsawError
from jigsaw.evaluation.questions import Document
from jigsaw.evaluation.table import EVAL

if TYPE_CHECKING:
    from datasets import Dataset

JIGSAWS = "vj_jigsaw"
OURS = frozenset(file.stem for file in (EVAL / "tasks").glob("vj_*/*.yaml"))
"""Names of the tasks that are read here."""


@dataclass(frozen=True)
class Task:
    """A task of ``eval/tasks``.

    Attributes:
        name: its name.
        documents: gives its questions.
        score: what a question's replies add to each metric.
        metrics: by name, what is made of all that was added.
    """

    name: str
    documents: Callable[[], "Dataset"]
    score: Callable[[Document, Sequence[str]], Mapping[str, Any]]
    metrics: Mapping[str, Callable[[Sequence[Any]], float]]

    def scores(self, answered: Iterable[tuple[Document, str]]) -> list[Mapping[str, Any]]:
        """What each question's reply adds to the metrics."""
        return [self.score(doc, [reply]) for doc, reply in answered]

    def figures(self, scores: Iterable[Mapping[str, Any]]) -> dict[str, float]:
        """Each metric over questions; one to which none adds is left out."""
        added: dict[str, list[Any]] = {metric: [] for metric in self.metrics}
        for score in scores:
            for metric, value in score.items():
                added[metric].append(value)
        return {metric: float(self.metrics[metric](values)) for metric, values in added.items() if values}


def read_task(name: str) -> Task:
    """The task of a name.

    Raises:
        JigsawError: if there is none.
    """
    folder = EVAL / "tasks" / (JIGSAWS if name.startswith(JIGSAWS) else name.removesuffix("_fixed"))
    file = folder / f"{name}.yaml"
    if not file.is_file():
        raise JigsawError(f"{name}: is none of the tasks in {EVAL / 'tasks'}")
    said = _read(file)

    def function(value: Any) -> Any:
        return _function(folder, value) if isinstance(value, _Function) else {"mean": fmean}[value]

    docs = function(said["process_docs"])
    return Task(
        name,
        lambda: docs(None),
        function(said["process_results"]),
        {metric["metric"]: function(metric["aggregation"]) for metric in said["metric_list"]},
    )


class _Function(str):
    """The name of a function: of a module beside the file, or of one that is installed."""


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """YAML with lmms-eval's ``!function``."""


_Loader.add_constructor("!function", lambda loader, node: _Function(loader.construct_scalar(node)))


def _read(file: Path) -> dict[str, Any]:
    """A task's file over what it includes."""
    with file.open(encoding="utf-8") as text:
        said = dict(yaml.load(text, _Loader))
    included = said.pop("include", None)
    return said if included is None else {**_read(file.parent / included), **said}


def _function(folder: Path, name: str) -> Any:
    module, _, function = name.rpartition(".")
    return getattr(_module(folder / f"{module}.py") if "." not in module else importlib.import_module(module), function)


@cache
def _module(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"_of_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise JigsawError(f"{file}: cannot be imported")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
