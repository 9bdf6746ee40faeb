"""The dataset that verl trains on: rows become plans here, and pixels only where verl asks for them."""

import asyncio
import hashlib
import os
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import torch
from omegaconf import DictConfig
from PIL import Image
from torch.utils.data import Dataset

from jigsaw.errors import JigsawError, RowError
from jigsaw.media.video import Clip
from jigsaw.puzzle import DECODERS, CutOptions, Message
from jigsaw.rows import read_table, row_split
from jigsaw.tasks import cut_media, plan

TIME_EMBEDDINGS = ("released", "true")
_MERGE, _TEMPORAL_PATCH = 2, 2
"""Qwen2.5-VL: patches a side of a token, frames a patch."""
PROCESSORS = ("Qwen2_5_VLProcessor",)
"""Models of other processors were not run; a name that is added here needs a run of tests/e2e."""


class JigsawDataset(Dataset[dict[str, Any]]):
    """Plans of puzzles, in the form that verl's trainer and agent loop take.

    verl never tells a dataset which epoch it is. So the training data is ``data.epochs`` × rows long and shuffled
    inside, one permutation of the rows an epoch: the index alone says epoch and row, and with it the order of the
    pieces. Validation data is one pass, in the order of the file, always with the orders of epoch 0.

    Args:
        data_files: parquet file or files of rows; files of different columns may be mixed.
        tokenizer: not used; verl passes it.
        config: verl's ``data`` config with ``media_root``, ``epochs`` and ``seed``.
        processor: verl's processor; None means that the model takes no pictures.
        max_samples: use the first so many rows; all if not positive.

    Raises:
        JigsawError: for data or a model that cannot be trained on; the message names the file and the row.
    """

    def __init__(
        self,
        data_files: str | Sequence[str],
        tokenizer: Any,
        config: DictConfig,
        processor: Any = None,
        max_samples: int = -1,
    ) -> None:
        files = _as_list(data_files)
        if type(processor).__name__ not in PROCESSORS:
            found = "no processor" if processor is None else type(processor).__name__
            raise JigsawError(f"the model has {found}; set actor_rollout_ref.model.path to a Qwen2.5-VL model")
        for option, known in (("time_embedding", TIME_EMBEDDINGS), ("video_decoder", DECODERS)):
            if _word(config[option]) not in known:
                raise JigsawError(f"data.{option} is {config[option]!r}; it must be one of {', '.join(known)}")
        training, validation = _places(config.train_files), _places(config.val_files)
        if shared := training & validation:
            raise JigsawError(
                f"{', '.join(sorted(shared))}: is in data.train_files and in data.val_files; hold some rows out"
            )
        self._seed = int(config.seed or 0)
        self._files = files
        self._tables = [read_table(file) for file in files]
        self._ends: list[int] = []
        for table in self._tables:
            self._ends.append((self._ends[-1] if self._ends else 0) + table.num_rows)
        self._rows = min(self._ends[-1], max_samples) if max_samples > 0 else self._ends[-1]
        self._training = _places(files) == training
        self._epochs = int(config.epochs) if self._training else 1
        self._shuffled: tuple[int, list[int]] | None = None
        if self._training and self._rows < config.train_batch_size:
            raise JigsawError(
                f"{', '.join(files)}: {self._rows} rows are fewer than data.train_batch_size="
                f"{config.train_batch_size}; add rows or lower the batch size"
            )
        steps = len(self) // config.train_batch_size
        if self._training and (config.total_training_steps or 0) > steps:
            raise JigsawError(
                f"{', '.join(files)}: {self._rows} rows × data.epochs={self._epochs} last for {steps} steps, "
                f"trainer.total_training_steps is {config.total_training_steps}; raise data.epochs"
            )
        rows: dict[str, int] = {}
        for row in range(self._rows):
            name = self._plan(row, epoch=0)[1].id
            if name in rows:
                raise JigsawError(
                    f"{self._where(rows[name])} and {self._where(row)} have the same id {name!r}; ids must be unique, "
                    "over all files"
                )
            rows[name] = row

    def __len__(self) -> int:
        return self._rows * self._epochs

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The plan of one puzzle, as verl wants it: ``raw_prompt`` holds the messages with media specs."""
        epoch, place = divmod(index, self._rows)
        row_index = self._order(epoch)[place] if self._training else place
        row, planned = self._plan(row_index, epoch)
        return {
            "data_source": row["data_source"],
            "raw_prompt": planned.messages,
            "reward_model": {"style": "rule", "ground_truth": list(planned.answer)},
            "extra_info": {
                "id": planned.id,
                "index": row_index,
                "split": row_split(row),
                "epoch": epoch,
                "task": planned.task,
                "answer_format": planned.answer_format,
                **({} if planned.grid is None else {"grid": list(planned.grid)}),
            },
            "index": row_index,
            # verl's collate wants one tensor to know the batch size by.
            "dummy_tensor": torch.tensor([0], dtype=torch.uint8),
        }

    def _place(self, row_index: int) -> tuple[int, int]:
        """(number of the file, place of the row in it), both 0-based."""
        file = bisect_right(self._ends, row_index)
        return file, row_index - (self._ends[file - 1] if file else 0)

    def _where(self, row_index: int) -> str:
        """File and row, for messages."""
        file, place = self._place(row_index)
        return f"{self._files[file]}, row {place}"

    def _plan(self, row_index: int, epoch: int) -> tuple[dict[str, Any], Any]:
        file, place = self._place(row_index)
        row = self._tables[file].slice(place, 1).to_pylist()[0]
        try:
            return row, plan(row, self._seed, epoch, index=place)
        except RowError as error:
            raise JigsawError(f"{self._where(row_index)}: {error}") from error

    def _order(self, epoch: int) -> list[int]:
        """The rows of an epoch in the order in which they are trained on."""
        if self._shuffled is None or self._shuffled[0] != epoch:
            keys = [hashlib.blake2b(f"{self._seed}/{epoch}/{row}".encode()).digest() for row in range(self._rows)]
            self._shuffled = epoch, sorted(range(self._rows), key=keys.__getitem__)
        return self._shuffled[1]

    @classmethod
    async def process_multi_modal_info(
        cls, messages: list[Message], image_patch_size: int, config: DictConfig
    ) -> tuple[list[Any] | None, list[Any] | None, list[Any] | None]:
        """(images, videos, audios) of a prompt, cut from the specs in its messages; verl calls it by this name.

        Raises:
            MediaError: if a file is missing, outside ``data.media_root`` or cannot be used.
        """
        options = CutOptions(factor=_MERGE * image_patch_size, decoder=config.video_decoder)
        loop = asyncio.get_running_loop()
        media = await loop.run_in_executor(None, cut_media, messages, config.media_root, options)
        images = [item for item in media if isinstance(item, Image.Image)]
        videos = [
            (clip.frames, _video_metadata(clip, _word(config.time_embedding)))
            for clip in media
            if isinstance(clip, Clip)
        ]
        return images or None, videos or None, None


def _video_metadata(clip: Clip, time_embedding: str) -> dict[str, Any]:
    """What transformers takes a clip's place in time from.

    Each two frames (one temporal patch) last 1 s in the mode ``released``, whatever the clip's rate; in the mode
    ``true`` as long as they do in the video, to 1/64 s: a number that every implementation multiplies without
    rounding, so that trainer and rollout cut the same positions to whole numbers.
    """
    seconds = 1.0
    if time_embedding == "true":
        seconds = max(round(_TEMPORAL_PATCH / clip.fps * 64), 1) / 64
    frames = len(clip.frames)
    return {
        "fps": _TEMPORAL_PATCH / seconds,
        "total_num_frames": frames,
        "frames_indices": list(range(frames)),
        "video_backend": "jigsaw",
    }


def _word(value: Any) -> str:
    """A config value as text; YAML takes ``true`` for a truth value."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _as_list(files: str | Sequence[str]) -> list[str]:
    return [files] if isinstance(files, str) else [str(file) for file in files]


def _places(files: str | Sequence[str]) -> set[str]:
    """Where files lie, however they are written: absolute, without links."""
    return {os.path.realpath(file) for file in _as_list(files)}
