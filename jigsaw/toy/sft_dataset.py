"""The warm start's examples as a data set of verl's supervised trainer (configs/warm_start.yaml)."""

from typing import Any

from torch.utils.data import Dataset

from jigsaw.difficulty import at_level
from jigsaw.rows import read_rows
from jigsaw.toy.warm_start import Example, warm_start_example
from jigsaw.verl_plugin.sft import supervised_item


class WarmStartDataset(Dataset[dict[str, Any]]):
    """``data.train_batch_size`` × ``data.steps`` examples; see :func:`jigsaw.toy.warm_start.warm_start_example`.

    Args:
        parquet_files: verl passes them; as in the config.
        tokenizer: not used; verl passes it.
        config: verl's ``data`` config.
        processor: a Qwen2.5-VL processor.
        max_samples: not used; verl passes it.
    """

    def __init__(self, parquet_files: Any, tokenizer: Any, config: Any, processor: Any, max_samples: int = -1) -> None:
        rows = read_rows(config.train_files)
        self._rows = [at_level(row, "image", tuple(grid)) for grid in config.levels for row in rows] or rows
        self._config, self._processor = config, processor

    def __len__(self) -> int:
        return int(self._config.train_batch_size * self._config.steps)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """See :func:`jigsaw.verl_plugin.sft.supervised_item`."""
        example = self.example(index)
        return supervised_item(self._processor, example.messages, example.media, example.reply)

    def example(self, index: int) -> Example:
        """The example of an index; a later round goes on with examples that the rounds before have not shown."""
        config = self._config
        index += config.round * len(self)
        return warm_start_example(self._rows, config.media_root, index, seed=config.seed, scenes=config.scenes)
