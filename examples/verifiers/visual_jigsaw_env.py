"""Image and depth jigsaws as a taskset of verifiers: rows of `jigsaw prepare`, scored by the reward of the training.

vf-eval visual-jigsaw-env --env.taskset.data data/val.parquet --env.taskset.media-root pictures
"""

from collections.abc import Iterator
from pathlib import Path

import verifiers.v1 as vf

from jigsaw import build_puzzle
from jigsaw.errors import RowError
from jigsaw.reward import compute_score
from jigsaw.rows import read_rows
from jigsaw.solve import chat_messages

__all__ = ["JigsawTaskset"]


class JigsawData(vf.TaskData):
    """A puzzle: what is right, and what the reward must know of it."""

    answer: tuple[int, ...]
    extra_info: dict[str, str | list[int]]


class JigsawTask(vf.Task[JigsawData]):
    """How a reply is scored."""

    def _scored(self, trace: vf.Trace) -> dict[str, float]:
        return compute_score("visual_jigsaw", trace.last_reply, self.data.answer, self.data.extra_info)

    @vf.reward
    async def jigsaw_reward(self, trace: vf.Trace) -> float:
        """The reward of the training."""
        return self._scored(trace)["score"]

    @vf.metric
    async def exact(self, trace: vf.Trace) -> float:
        """Whether every piece is in its place."""
        return self._scored(trace)["exact"]

    @vf.metric
    async def position_accuracy(self, trace: vf.Trace) -> float:
        """Share of pieces in their places."""
        return self._scored(trace)["position_accuracy"]


class JigsawConfig(vf.TasksetConfig):
    """Where the puzzles come from."""

    data: Path = Path("data/val.parquet")
    """File of rows."""
    media_root: Path = Path(".")
    """Folder that their paths are relative to."""
    seed: int = 0
    """Of the orders: `data.seed` of a training."""


class JigsawTaskset(vf.Taskset[JigsawTask, JigsawConfig]):
    """The puzzles of a file's rows."""

    def load(self) -> Iterator[JigsawTask]:
        """One task a row, its pictures inside.

        Raises:
            JigsawError: if the file, a row or a picture cannot be used; verifiers' messages take no videos.
        """
        for index, row in enumerate(read_rows(self.config.data)):
            if row.get("videos"):
                raise RowError(f"{self.config.data}, row {index}: is of a video, which verifiers' messages do not take")
            puzzle = build_puzzle(row, self.config.media_root, seed=self.config.seed, index=index)
            yield JigsawTask(
                JigsawData(
                    id=puzzle.id, prompt=chat_messages(puzzle), answer=puzzle.answer, extra_info=puzzle.extra_info
                ),
                self.config.task,
            )
