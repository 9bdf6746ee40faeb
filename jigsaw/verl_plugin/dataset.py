"""The dataset that verl trains on: rows become plans here, and pixels only where verl asks for them."""

import asyncio
import os
from bisect import bisect_right
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, ClassVar

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf
from PIL import Image
from torch.utils.data import Dataset

from jigsaw.difficulty import LEVELS, at_level, read_difficulties
from jigsaw.errors import JigsawError, RowError
from jigsaw.media.video import Clip
from jigsaw.mixture import Schedule, Source, read_sources, shuffled
from jigsaw.puzzle import CutOptions, Message, media_specs
from jigsaw.reward import check_options, compute_score
from jigsaw.rows import Row, read_table, row_at, row_split
from jigsaw.tasks import TASKS, cut_media, plan

REWARD = "pkg://jigsaw.reward"
TIME_EMBEDDINGS = ("released", "true")
_MERGE, _TEMPORAL_PATCH = 2, 2
"""Qwen2.5-VL: patches a side of a token, frames a patch."""
PROCESSORS = ("Qwen2_5_VLProcessor",)
"""Models of other processors were not run; a name that is added here needs a run of tests/e2e."""
POSITION = "position"
"""Where in its ``extra_info`` a prompt to train on holds its index in the dataset."""


class JigsawDataset(Dataset[dict[str, Any]]):
    """Plans of puzzles, in the form that verl's trainer and agent loop take.

    verl never tells a dataset which epoch it is. So the training data is all epochs long and shuffled inside, one
    permutation of a source's rows an epoch: the index alone says source, epoch and row (see :mod:`jigsaw.mixture`), and
    with it the order of the pieces. Without a mixture all files are one source. Validation data is one pass, in the
    order of the files, always with the orders of epoch 0.

    Args:
        data_files: parquet file or files of rows, or sources; None stands for ``data.mixture``. Files of different
            columns may be mixed.
        tokenizer: not used; verl passes it.
        config: verl's ``data`` config with ``mixture``, ``media_root``, ``epochs`` and ``seed``.
        processor: verl's processor; None means that the model takes no pictures.
        max_samples: use the first so many rows of each source; all if not positive.

    Raises:
        JigsawError: for data or a model that cannot be trained on; the message names the file and the row.
    """

    training: ClassVar["JigsawDataset | None"] = None
    """The one that this process trains on, for who looks ahead: verl hands it to nobody."""

    def __init__(
        self,
        data_files: str | ListConfig | None,
        tokenizer: Any,
        config: DictConfig,
        processor: Any = None,
        max_samples: int = -1,
    ) -> None:
        if type(processor).__name__ not in PROCESSORS:
            found = "no processor" if processor is None else type(processor).__name__
            raise JigsawError(f"the model has {found}; set actor_rollout_ref.model.path to a Qwen2.5-VL model")
        for option, known in (("time_embedding", TIME_EMBEDDINGS), ("video_decoder", ("pyav",))):
            if _word(config[option]) not in known:
                raise JigsawError(f"data.{option} is {config[option]!r}; it must be one of {', '.join(known)}")
        if config.difficulty and config.trainer_mode != "sync":
            raise JigsawError(
                f"data.difficulty needs trainer.v1.trainer_mode=sync, not {config.trainer_mode}: the level of a step "
                "follows from the steps before it"
            )
        _check_scoring(config.reward)
        root = None if OmegaConf.is_missing(config, "media_root") else config.media_root

        def read(files: Any, option: str) -> list[Source]:
            plain = OmegaConf.to_container(files, resolve=True) if isinstance(files, ListConfig) else files
            return read_sources(plain, root, config.epochs, option)

        wanted, option = config.mixture, "data.mixture"
        if wanted is None:
            wanted, option = config.train_files, "data.train_files"
        if wanted is None:
            raise JigsawError("no rows to train on: set data.train_files, or data.mixture")
        training = read(wanted, option)
        places = _places(training)
        if config.train_files is not None and _places(read(config.train_files, "data.train_files")) != places:
            raise JigsawError("data.train_files and data.mixture name different files; set one of them alone")
        if shared := places & _places(read(config.val_files, "data.val_files")):
            raise JigsawError(f"{', '.join(sorted(shared))}: is in {option} and in data.val_files; hold some rows out")
        self._seed = _whole("data.seed", 0 if config.seed is None else config.seed)
        given = training if data_files is None else read(data_files, "the data")
        self._training = _places(given) == places
        # What is handed over may name the files alone; of the training data the config says more.
        self._sources = training if self._training else given
        # Held-out puzzles stay as they are: what the training leads to is measured on them.
        self._difficulties = read_difficulties(config.difficulty) if self._training else {}
        for source in self._sources:
            if not Path(source.media_root).is_dir():
                where = f"source {source.name!r}: media_root" if source.name else "data.media_root"
                raise JigsawError(f"{where} is {source.media_root}; there is no such folder")
        self._files = [file for source in self._sources for file in source.files]
        self._media_roots = [source.media_root for source in self._sources for _ in source.files]
        self._tables = [read_table(file) for file in self._files]
        self._ends = list(accumulate(table.num_rows for table in self._tables))
        self._rows: list[range] = []
        """The rows of each source, counted over all files."""
        start = 0
        for last in accumulate(len(source.files) for source in self._sources):
            end = self._ends[last - 1]
            self._rows.append(range(start, min(end, start + max_samples) if max_samples > 0 else end))
            start = end
        self._draws = Schedule(
            [source.weight for source in self._sources],
            [len(rows) for rows in self._rows],
            [source.epochs for source in self._sources],
        )
        self._shuffled: dict[int, tuple[int, list[int]]] = {}
        """The epoch that a source was last drawn in, and the order of its rows there."""
        self._in_order = list(chain(*self._rows))
        if self._training:
            self._check_length(config)
            JigsawDataset.training = self
        rows: dict[str, int] = {}
        kinds: dict[tuple[Any, ...], dict[str, Any]] = {}
        for row in self._in_order:
            item = self._item(row, epoch=0)
            extra_info = item["extra_info"]
            name = extra_info["id"]
            if name in rows:
                raise JigsawError(
                    f"{self._where(rows[name])} and {self._where(row)} have the same id {name!r}; ids must be unique, "
                    "over all files"
                )
            rows[name] = row
            kind = (item["data_source"], extra_info["task"], extra_info["answer_format"], "grid" in extra_info)
            kinds.setdefault(kind, item)
        function = config.reward.custom_reward_function
        if function.path == REWARD:  # and not one of the user's
            self._check_reward(function.reward_kwargs, list(kinds.values()))

    def _check_reward(self, given: DictConfig | None, items: list[dict[str, Any]]) -> None:
        """Raise JigsawError unless the reward takes its options, and with them an item of each kind."""
        where = "reward.custom_reward_function.reward_kwargs"
        if not isinstance(given, DictConfig | None):
            raise JigsawError(f"{where} is {given!r:.60}; it must be a mapping from option to value")
        options: Any = {} if given is None else OmegaConf.to_container(given, resolve=True)
        try:
            check_options(options, TASKS)
            for item in items:
                where = f"{where.partition(' ')[0]} and {self._where(item['index'])}"
                truth = item["reward_model"]["ground_truth"]
                compute_score(item["data_source"], "", truth, item["extra_info"], **options)
        except ValueError as error:
            raise JigsawError(f"{where}: {error}") from error

    def _check_length(self, config: DictConfig) -> None:
        """Raise JigsawError unless there are rows for a batch, and draws for all steps."""
        batch_size = _whole("data.train_batch_size", config.train_batch_size, least=1)
        if (rows := len(self._in_order)) < batch_size:
            raise JigsawError(
                f"{', '.join(self._files)}: {rows} rows are fewer than data.train_batch_size="
                f"{batch_size}; add rows or lower the batch size"
            )
        steps = len(self._draws) // batch_size
        if steps < (config.total_training_steps or 1):
            source, rows = self._sources[self._draws.first_to_end], len(self._rows[self._draws.first_to_end])
            who, mend = f"source {source.name!r}", "raise its epochs or lower its weight"
            if not source.name:
                who, mend = ", ".join(self._files), "raise data.epochs"
            raise JigsawError(
                f"{who}: {rows} rows × {source.epochs} epochs last for {steps} steps, "
                f"trainer.total_training_steps is {config.total_training_steps}; {mend}"
            )

    def __len__(self) -> int:
        return len(self._draws) if self._training else len(self._in_order)

    def _draw(self, index: int) -> tuple[int, int]:
        """(row, epoch) at an index; the row is counted over all files."""
        if not self._training:
            return self._in_order[index], 0
        source, epoch, place = self._draws[index]
        if self._shuffled.get(source, (None,))[0] != epoch:
            order = shuffled(len(self._rows[source]), self._seed, self._sources[source].name, epoch)
            self._shuffled[source] = epoch, order
        return self._rows[source][self._shuffled[source][1][place]], epoch

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The plan of one puzzle, as verl wants it: ``raw_prompt`` holds the messages with media specs."""
        item = self._item(*self._draw(index))
        if self._training:
            item["extra_info"][POSITION] = index
        return item

    def _item(self, row_index: int, epoch: int) -> dict[str, Any]:
        file, place = self._place(row_index)
        try:
            row = row_at(self._tables[file], place)
            puzzle = self._puzzle(row, row_index, epoch)
            task = puzzle["extra_info"]["task"]
            if task in self._difficulties:
                levels = [at_level(row, task, level) for level in self._difficulties[task].levels]
                puzzle["extra_info"][LEVELS] = [self._puzzle(level, row_index, epoch) for level in levels]
        except RowError as error:
            raise JigsawError(f"{self._where(row_index)}: {error}") from error
        return {
            "data_source": row["data_source"],
            **puzzle,
            "index": row_index,
            # verl's collate wants one tensor to know the batch size by.
            "dummy_tensor": torch.tensor([0], dtype=torch.uint8),
        }

    def _puzzle(self, row: Row, row_index: int, epoch: int) -> dict[str, Any]:
        """What an item says of a row's puzzle."""
        file, place = self._place(row_index)
        planned = plan(row, self._seed, epoch, index=place)
        for spec in media_specs(planned.messages):
            spec["media_root"] = self._media_roots[file]
        return {
            "raw_prompt": planned.messages,
            "reward_model": {"style": "rule", "ground_truth": list(planned.answer)},
            "extra_info": {**planned.extra_info, "index": row_index, "split": row_split(row), "epoch": epoch},
        }

    def _place(self, row_index: int) -> tuple[int, int]:
        """(number of the file, place of the row in it), both 0-based."""
        file = bisect_right(self._ends, row_index)
        return file, row_index - (self._ends[file - 1] if file else 0)

    def _where(self, row_index: int) -> str:
        """File and row, for messages."""
        file, place = self._place(row_index)
        return f"{self._files[file]}, row {place}"

    @classmethod
    async def process_multi_modal_info(
        cls, messages: list[Message], image_patch_size: int, config: DictConfig
    ) -> tuple[list[Any] | None, list[Any] | None, list[Any] | None]:
        """(images, videos, audios) of a prompt, cut from the specs in its messages; verl calls it by this name.

        Raises:
            MediaError: if a file is missing, outside its source's media root or cannot be used.
        """
        root = media_specs(messages)[0]["media_root"]  # a prompt is of one source
        options = CutOptions(factor=_MERGE * image_patch_size)
        loop = asyncio.get_running_loop()
        media = await loop.run_in_executor(None, cut_media, messages, root, options)
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


def _check_scoring(reward: DictConfig) -> None:
    """Raise JigsawError unless there is who asks for a reward that is not ours, and in time."""
    model = reward.reward_model
    if not reward.num_workers and (model.enable or reward.reward_manager.name == "remote"):
        raise JigsawError("this reward is asked for by processes of its own: set reward.num_workers to 1 or more")
    if model.enable and not model.enable_resource_pool:
        raise JigsawError(
            "a reward model must have scored a reply before the trainer takes it: "
            "set reward.reward_model.enable_resource_pool=true"
        )


def _word(value: Any) -> str:
    """A config value as text; YAML takes ``true`` for a truth value."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _whole(option: str, value: Any, least: int = 0) -> int:
    """A config value that must be a whole number."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise JigsawError(f"{option} is {value!r:.60}; it must be a whole number, {least} or more")
    return value


def _places(sources: list[Source]) -> set[str]:
    """Where the files lie, however they are written: absolute, without links."""
    return {os.path.realpath(file) for source in sources for file in source.files}
