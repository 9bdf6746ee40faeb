"""The warm start's examples as a data set of verl's supervised trainer (configs/warm_start.yaml)."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch.utils.data import Dataset

from jigsaw.difficulty import at_level
from jigsaw.rows import Row, read_rows
from jigsaw.toy.settings import Settings
from jigsaw.toy.warm_start import Example, recall_example, warm_start_example
from jigsaw.toy.worlds import worlds_of
from jigsaw.verl_plugin.sft import supervised_item


class WarmStartDataset(Dataset[dict[str, Any]]):
    """``data.train_batch_size`` × ``data.steps`` examples; see :func:`jigsaw.toy.warm_start.warm_start_example`.

    ``data.recall`` asks for text alone, :func:`jigsaw.toy.warm_start.recall_example`. The sources come in turn.

    Args:
        parquet_files: verl passes them; as in the config.
        tokenizer: not used; verl passes it.
        config: verl's ``data`` config, with ``sources``: of each its rows, their media's folder, and the task of the
            world that they are rendered of.
        processor: of a family that is trained.
        max_samples: not used; verl passes it.
    """

    def __init__(self, parquet_files: Any, tokenizer: Any, config: Any, processor: Any, max_samples: int = -1) -> None:
        worlds = {world.task: world for world in worlds_of(Settings(**config.settings))}
        self._lessons: list[Callable[[int], Example]] = []
        for source in config.sources:
            rows = read_rows(source.files)
            at_levels: list[Row] = [at_level(row, "image", tuple(grid)) for grid in config.levels for row in rows]
            told: dict[str, Any] = {"seed": config.seed, "world": worlds[source.world] if source.world else None}
            if config.recall:
                self._lessons.append(partial(recall_example, at_levels or rows, **told))
            else:
                self._lessons.append(partial(warm_start_example, at_levels or rows, source.media_root, **told))
        self._config, self._processor = config, processor

    def __len__(self) -> int:
        return int(self._config.train_batch_size * self._config.steps)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """See :func:`jigsaw.verl_plugin.sft.supervised_item`."""
        example = self.example(index)
        return supervised_item(self._processor, example.messages, example.media, example.reply, example.given)

    def example(self, index: int) -> Example:
        """The example of an index; a later round goes on with examples that the rounds before have not shown."""
        config = self._config
        index += config.round * len(self)
        return self._lessons[index % len(self._lessons)](index)
