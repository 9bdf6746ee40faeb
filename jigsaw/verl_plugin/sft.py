"""Chats with pictures and replies to learn, in the form that verl's supervised trainer takes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from jigsaw.errors import JigsawError
from jigsaw.response import reply_of
from jigsaw.rows import read_rows
from jigsaw.solve import shown
from jigsaw.tasks import build_puzzle
from jigsaw.verl_plugin.plans import check_processor
from jigsaw.verl_plugin.positions import get_rope_index


class AnswerDataset(Dataset[dict[str, Any]]):
    """Puzzles with their right answers as replies: the supervised baseline (paper, section 4), of pictures alone.

    As in GRPO, the data is ``data.epochs`` passes over the rows long, each with orders of its own; held-out rows are
    one pass.

    Args:
        parquet_files: a file of rows, or several.
        tokenizer: not used; verl passes it.
        config: verl's ``data`` config with ``media_root``, ``epochs`` and ``seed``.
        processor: of a family that is trained.
        max_samples: use the first so many rows of each file; all if not positive.

    Raises:
        JigsawError: for files that cannot be read, rows without pictures and another processor.
    """

    def __init__(self, parquet_files: Any, tokenizer: Any, config: Any, processor: Any, max_samples: int = -1) -> None:
        check_processor(None if processor is None else type(processor).__name__)
        files = [parquet_files] if isinstance(parquet_files, str) else list(parquet_files)
        self._rows = [row for file in files for row in read_rows(file)[: max_samples if max_samples > 0 else None]]
        without = next((number for number, row in enumerate(self._rows) if not row.get("images")), None)
        if without is not None:
            raise JigsawError(
                f"{', '.join(files)}: row {without} has no pictures; the supervised baseline takes no others"
            )
        given = config.train_files
        self._epochs = int(config.epochs) if files == ([given] if isinstance(given, str) else list(given)) else 1
        self._config, self._processor = config, processor

    def __len__(self) -> int:
        return self._epochs * len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """See :func:`supervised_item`."""
        epoch, place = divmod(index, len(self._rows))
        row, config = self._rows[place], self._config
        puzzle = build_puzzle(row, config.media_root, seed=config.seed, epoch=epoch, index=place)
        reply = reply_of(puzzle.answer, puzzle.extra_info["answer_format"])
        return supervised_item(self._processor, puzzle.messages, puzzle.media, reply)


def supervised_item(
    processor: Any, messages: Sequence[dict[str, Any]], media: Sequence[Any], reply: str, given: str = ""
) -> dict[str, Any]:
    """An item of a ``data.custom_cls`` of verl's; verl's own data set wants the media in the parquet file.

    Args:
        processor: of a family that is trained.
        messages: the prompt.
        media: its pictures and clips, in their order.
        reply: what is to be learnt; the end of the turn is added.
        given: how the reply begins, which is not.

    Returns:
        Token ids (L,), position ids (4, L), a loss mask (L,), 1 on what is to be learnt, and the media's features.
    """
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    reply += processor.tokenizer.eos_token
    features = dict(processor(text=[prompt + given + reply], return_tensors="pt", **shown(media)))
    ids = features.pop("input_ids")[0]
    features.pop("mm_token_type_ids", None)
    where = ("image_grid_thw", "video_grid_thw", "second_per_grid_ts")
    places = get_rope_index(
        processor,
        input_ids=ids,
        attention_mask=features.pop("attention_mask")[0],
        **{name: features[name] for name in where if name in features},
    )
    features.pop("second_per_grid_ts", None)
    loss_mask = torch.zeros_like(ids)
    loss_mask[-len(processor.tokenizer(reply)["input_ids"]) :] = 1
    return {
        "input_ids": ids,
        "position_ids": torch.cat([torch.arange(len(ids)).unsqueeze(0), places]),
        "loss_mask": loss_mask,
        "multi_modal_inputs": features,
    }
