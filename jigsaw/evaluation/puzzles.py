"""Held-out jigsaws as lmms-eval asks and scores them: straight from prepared rows, in the very wording of training."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jigsaw.errors import JigsawError
from jigsaw.evaluation.questions import Document
from jigsaw.puzzle import media_specs
from jigsaw.rows import read_table, row_at
from jigsaw.scoring import score_one
from jigsaw.solve import without_content
from jigsaw.tasks import TASKS, build_puzzle, plan, task_of

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

ROWS, MEDIA_ROOT = "VJ_ROWS", "VJ_MEDIA_ROOT"
"""Environment variables: a parquet file of rows, and the folder of their media."""

METRICS = {
    "exact": "exact",
    "position_accuracy": "position_accuracy",
    "valid_permutation": "valid_permutation",
    "format": "well_formed",
    "kendall": "kendall_tau",
    "chance_corrected": "chance_corrected",
}
"""Names in lmms-eval's results, and those of :func:`jigsaw.scoring.score_one`."""


def puzzles(task: str, *, grey: bool = False) -> Callable[["Dataset"], "Dataset"]:
    """What lmms-eval calls in place of loading a data set.

    Args:
        task: ``image``, ``video`` or ``depth``; rows of others are left out.
        grey: whether all pieces are shown as one grey: nothing is left to see.
    """

    def process_docs(stub: "Dataset") -> "Dataset":
        from datasets import Dataset

        rows, root = os.environ.get(ROWS), os.environ.get(MEDIA_ROOT)
        if not rows or not root:
            raise JigsawError(f"{ROWS} and {MEDIA_ROOT} must name a parquet file of rows and the folder of their media")
        found = list(_documents(Path(rows), Path(root), task, grey))
        if not found:
            raise JigsawError(f"{rows}: holds no {task} puzzles")
        return Dataset.from_list(found)

    return process_docs


def _documents(rows: Path, root: Path, task: str, grey: bool) -> Iterator[dict[str, Any]]:
    table = _table(str(rows))
    for index in range(table.num_rows):
        row = row_at(table, index)
        if task_of(row).name != task:
            continue
        planned = plan(row, index=index)
        specs = media_specs(planned.messages)
        files = list(dict.fromkeys(str(root / path) for spec in specs for path in TASKS[task].files(spec)))
        yield {
            "id": f"{rows.name}/{planned.id}",
            "index": index,
            "rows": str(rows),
            "root": str(root),
            "grey": grey,
            "answer": ", ".join(map(str, planned.answer)),
            "pieces": len(planned.answer),
            "media": files,
            "prompt": "".join(part.get("text", "") for message in planned.messages for part in _parts(message)),
            "cluster": files[0],
            "share": 1,
        }


@lru_cache(4)
def _table(path: str) -> "pa.Table":
    return read_table(path)


def messages(doc: Document) -> list[dict[str, Any]]:
    """A puzzle's messages; its pieces are pictures and clips as training shows them, not to be scaled again.

    Raises:
        MediaError: if its media cannot be read.
    """
    puzzle = build_puzzle(row_at(_table(doc["rows"]), doc["index"]), doc["root"], index=doc["index"])
    pieces = iter(puzzle.media)
    shown: list[dict[str, Any]] = []
    for message in puzzle.messages:
        content = []
        for part in _parts(message):
            if part["type"] == "text":
                content.append({"type": "text", "text": part["text"]})
            else:
                piece = next(pieces)
                content.append(
                    {"type": part["type"], "url": without_content(piece) if doc["grey"] else piece, "as_is": True}
                )
        shown.append({"role": message["role"], "content": content})
    return shown


def _parts(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def text(doc: Document) -> str:
    """A puzzle's text, which lmms-eval logs."""
    return str(doc["prompt"])


def score(doc: Document, replies: Sequence[str]) -> dict[str, float]:
    """The reward's metrics of a reply."""
    found = score_one(row_at(_table(doc["rows"]), doc["index"]), replies[0], place=doc["index"])
    return {ours: found[name] for ours, name in METRICS.items()}
