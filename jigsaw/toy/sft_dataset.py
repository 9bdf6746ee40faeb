"""The warm start's examples as a data set of verl's supervised trainer (configs/warm_start.yaml)."""

from typing import Any

from jigsaw.difficulty import at_level
from jigsaw.rows import read_rows
from jigsaw.toy.warm_start import Example, warm_start_example
from jigsaw.verl_plugin.sft import SFTDataset


class WarmStartDataset(SFTDataset):
    """``data.train_batch_size`` × ``data.steps`` examples; see :func:`jigsaw.toy.warm_start.warm_start_example`."""

    def __init__(self, parquet_files: Any, tokenizer: Any, config: Any, processor: Any, max_samples: int = -1) -> None:
        super().__init__(parquet_files, tokenizer, config, processor, max_samples)
        rows = read_rows(config.train_files)
        self._rows = [at_level(row, "image", tuple(grid)) for grid in config.levels for row in rows] or rows
        self._config = config

    def __len__(self) -> int:
        return int(self._config.train_batch_size * self._config.steps)

    def example(self, index: int) -> Example:
        """The example of an index; a later round goes on with examples that the rounds before have not shown."""
        config = self._config
        index += config.round * len(self)
        return warm_start_example(self._rows, config.media_root, index, seed=config.seed, scenes=config.scenes)
