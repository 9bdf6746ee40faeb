"""A run's rows as plans: what the dataset does without torch, so that a start is checked before verl is loaded."""

import asyncio
import importlib
import inspect
import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from jigsaw.difficulty import LEVELS, at_level, read_difficulties
from jigsaw.errors import JigsawError, Problems, RowError
from jigsaw.mixture import Schedule, Source, read_sources, shuffled
from jigsaw.puzzle import media_counts, media_specs
from jigsaw.reward import check_options, compute_score
from jigsaw.rows import Row, each_row, read_table, row_split
from jigsaw.tasks import TASKS, plan

REWARD = "pkg://jigsaw.reward"
TIME_EMBEDDINGS = ("released", "true")
PROCESSORS = ("Qwen2_5_VLProcessor", "Qwen3VLProcessor")
"""Models of other processors were not run; a name that is added here needs a run of tests/e2e."""
POSITION = "position"
"""Where in its ``extra_info`` a prompt to train on holds its index in the dataset."""
_LOOKED_AT = 8
"""Rows of a source whose media are looked for; those of all jigsaw verify looks at."""
_KWARGS = "reward.custom_reward_function.reward_kwargs"


class Plans:
    """Plans of puzzles, in the form that verl's trainer and agent loop take, but for what needs torch.

    verl never tells a dataset which epoch it is. So the training data is all epochs long and shuffled inside, one
    permutation of a source's rows an epoch: the index alone says source, epoch and row (see :mod:`jigsaw.mixture`), and
    with it the order of the pieces. Without a mixture all files are one source. Validation data is one pass, in the
    order of the files, always with the orders of epoch 0.

    Args:
        data_files: parquet file or files of rows, or sources; None stands for ``data.mixture``. Files of different
            columns may be mixed.
        config: verl's ``data`` config with ``mixture``, ``media_root``, ``epochs`` and ``seed``.
        max_samples: use the first so many rows of each source; all if not positive.

    Attributes:
        training: whether these are the rows to train on.

    Raises:
        JigsawError: for data that cannot be trained on; the message names the file. Rows are looked at by
            :meth:`check_rows` alone.
    """

    def __init__(self, data_files: str | ListConfig | None, config: DictConfig, max_samples: int = -1) -> None:
        check_options_of_data(config)
        check_scoring(config.reward)
        training = training_sources(config)
        held_out = heldout_sources(config)
        places = _places(training)
        if shared := places & _places(held_out):
            option = "data.mixture" if config.mixture is not None else "data.train_files"
            raise JigsawError(f"{', '.join(sorted(shared))}: is in {option} and in data.val_files; hold some rows out")
        whole("data.cut_time_limit", config.cut_time_limit, least=1)
        self._seed = whole("data.seed", 0 if config.seed is None else config.seed)
        given = training if data_files is None else _read(data_files, config, "the data")
        self.training = _places(given) == places
        # What is handed over may name the files alone; of the training data the config says more.
        self._sources = training if self.training else given
        # Held-out puzzles stay as they are: what the training leads to is measured on them.
        self._difficulties = read_difficulties(config.difficulty) if self.training else {}
        check_media_roots(self._sources)
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
        if self.training:
            self._check_length(config)

    @property
    def rows(self) -> int:
        """Number of rows, over all sources."""
        return len(self._in_order)

    def check_rows(self, reward: DictConfig) -> Counter[str]:
        """Plan each row once, and have the reward score an empty reply to one of each kind.

        Args:
            reward: verl's ``reward`` config.

        Returns:
            The most media of each kind, image or video, that a prompt shows, at any level of a difficulty schedule.

        Raises:
            JigsawError: for a row that is no puzzle, for ids that are not unique, and for a reward that does not take
                its options or lacks what a difficulty schedule goes by; the message names the file and the row.
        """
        rows: dict[str, int] = {}
        shown: Counter[str] = Counter()
        examples: dict[tuple[Any, ...], dict[str, Any]] = {}
        for index, row in self._all():
            item = self._item(index, row, epoch=0)
            extra_info = item["extra_info"]
            name = extra_info["id"]
            if name in rows:
                raise JigsawError(
                    f"{self._where(rows[name])} and {self._where(index)} have the same id {name!r}; ids must be "
                    "unique, over all files"
                )
            rows[name] = index
            for puzzle in (item, *extra_info.get(LEVELS, ())):
                shown |= media_counts(puzzle["raw_prompt"])
            scored_alike = (item["data_source"], extra_info["task"], extra_info["answer_format"], "grid" in extra_info)
            examples.setdefault(scored_alike, item)
        if reward.custom_reward_function.path == REWARD:  # and not one of the user's
            self._check_reward(reward.custom_reward_function.reward_kwargs, list(examples.values()))
        elif self._difficulties and not reward.reward_model.enable:
            of_a_schedule = [item for item in examples.values() if item["extra_info"]["task"] in self._difficulties]
            for item in of_a_schedule[:1]:
                _check_says_exact(reward.custom_reward_function, item)
        return shown

    def check_media(self) -> None:
        """Raise JigsawError if of a source none of the first rows has its media, as where their folder is another."""
        for source in self._rows:
            self._check_files(source[:_LOOKED_AT])

    def _check_files(self, rows: range) -> None:
        missing = None
        for index in rows:
            file, place = self._place(index)
            item = self._item(index, next(each_row(self._tables[file].slice(place, 1))), epoch=0)
            task = TASKS[item["extra_info"]["task"]]
            names = [name for spec in media_specs(item["raw_prompt"]) for name in task.files(spec)]
            gone = next((path for name in names if not (path := Path(self._media_roots[file], name)).exists()), None)
            if gone is None:
                return
            missing = missing or f"{self._where(index)}: {gone}"
        raise JigsawError(
            f"{missing}: there is no such file, nor those of the rows after it; give the folder that the rows' paths "
            "are relative to (media_root)"
        )

    def _check_reward(self, given: DictConfig | None, items: list[dict[str, Any]]) -> None:
        """Raise JigsawError unless the reward takes its options, and with them an item of each kind."""
        where = _KWARGS
        options = _options(given)
        try:
            check_options(options, TASKS)
            for item in items:
                where = f"{_KWARGS} and {self._where(item['index'])}"
                _score(compute_score, item, options)
        except ValueError as error:
            raise JigsawError(f"{where}: {error}") from error

    def _check_length(self, config: DictConfig) -> None:
        """Raise JigsawError unless there are rows for a batch, and draws for all steps."""
        batch_size = whole("data.train_batch_size", config.train_batch_size, least=1)
        if self.rows < batch_size:
            raise JigsawError(
                f"{', '.join(self._files)}: {self.rows} rows are fewer than data.train_batch_size="
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
        return len(self._draws) if self.training else len(self._in_order)

    def _draw(self, index: int) -> tuple[int, int]:
        """(row, epoch) at an index; the row is counted over all files."""
        if not self.training:
            return self._in_order[index], 0
        source, epoch, place = self._draws[index]
        if self._shuffled.get(source, (None,))[0] != epoch:
            order = shuffled(len(self._rows[source]), self._seed, self._sources[source].name, epoch)
            self._shuffled[source] = epoch, order
        return self._rows[source][self._shuffled[source][1][place]], epoch

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The plan of one puzzle, as verl wants it: ``raw_prompt`` holds the messages with media specs."""
        row_index, epoch = self._draw(index)
        file, place = self._place(row_index)
        item = self._item(row_index, next(each_row(self._tables[file].slice(place, 1))), epoch)
        if self.training:
            item["extra_info"][POSITION] = index
        return item

    def _all(self) -> Iterator[tuple[int, Row | RowError]]:
        """Each row, or why it cannot be read, with its index, in the order of the files."""
        used = set(self._in_order)
        for index, row in enumerate(chain.from_iterable(map(each_row, self._tables))):
            if index in used:
                yield index, row

    def _item(self, row_index: int, row: Row | RowError, epoch: int) -> dict[str, Any]:
        try:
            if isinstance(row, RowError):
                raise row
            puzzle = self._puzzle(row, row_index, epoch)
            task = puzzle["extra_info"]["task"]
            if task in self._difficulties:
                levels = [at_level(row, task, level) for level in self._difficulties[task].levels]
                puzzle["extra_info"][LEVELS] = [self._puzzle(level, row_index, epoch) for level in levels]
        except RowError as error:
            raise JigsawError(f"{self._where(row_index)}: {error}") from error
        return {"data_source": row["data_source"], **puzzle, "index": row_index}

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


def check_processor(name: str | None) -> None:
    """Raise JigsawError unless a model's processor, by its class's name, is one that was run; None: it has none."""
    if name not in PROCESSORS:
        raise JigsawError(
            f"the model has {name or 'no processor'}; set actor_rollout_ref.model.path to a Qwen2.5-VL or "
            "Qwen3-VL model"
        )


def check_options_of_data(config: DictConfig) -> None:
    """Raise JigsawError for options of ``data`` that are unknown or do not go together."""
    if word(config.time_embedding) not in TIME_EMBEDDINGS:
        raise JigsawError(
            f"data.time_embedding is {config.time_embedding!r}; it must be one of {', '.join(TIME_EMBEDDINGS)}"
        )
    if config.difficulty and config.trainer_mode != "sync":
        raise JigsawError(
            f"data.difficulty needs trainer.v1.trainer_mode=sync, not {config.trainer_mode}: the level of a step "
            "follows from the steps before it"
        )


def check_scoring(reward: DictConfig) -> None:
    """Raise JigsawError where nobody would ask for a reward that is not ours, or not in time."""
    model = reward.reward_model
    if not reward.num_workers and (model.enable or reward.reward_manager.name == "remote"):
        raise JigsawError("this reward is asked for by processes of its own: set reward.num_workers to 1 or more")
    if model.enable and not model.enable_resource_pool:
        raise JigsawError(
            "a reward model must have scored a reply before the trainer takes it: "
            "set reward.reward_model.enable_resource_pool=true"
        )


def training_sources(config: DictConfig) -> list[Source]:
    """The sources to train on, of ``data.mixture`` or ``data.train_files``.

    Raises:
        JigsawError: if there are none, they make no sense, or the two name different files.
    """
    files = given(config, "train_files")
    if config.mixture is None:
        if files is None:
            raise JigsawError("no rows to train on: set data.train_files, or data.mixture")
        return _read(files, config, "data.train_files")
    mixture = _read(config.mixture, config, "data.mixture")
    if files is not None and _places(_read(files, config, "data.train_files")) != _places(mixture):
        raise JigsawError("data.train_files and data.mixture name different files; set one of them alone")
    return mixture


def heldout_sources(config: DictConfig) -> list[Source]:
    """The sources to test on, of ``data.val_files``.

    Raises:
        JigsawError: if there are none or they make no sense.
    """
    files = given(config, "val_files")
    if files is None:
        raise JigsawError("no held-out rows to test on: set data.val_files")
    return _read(files, config, "data.val_files")


def check_media_roots(sources: list[Source]) -> None:
    """Raise :class:`Problems` unless each source's media folder is there."""
    wrong = []
    for source in sources:
        if not Path(source.media_root).is_dir():
            where = f"source {source.name!r}: media_root" if source.name else "data.media_root"
            wrong.append(f"{where} is {source.media_root}; there is no such folder")
    if wrong:
        raise Problems(wrong)


def given(config: DictConfig, option: str) -> Any:
    """A config's value; None where it must be given and is not (``???``)."""
    return None if OmegaConf.is_missing(config, option) else config[option]


def word(value: Any) -> str:
    """A config value as text; YAML takes ``true`` for a truth value."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def whole(option: str, value: Any, least: int = 0) -> int:
    """A config value that must be a whole number.

    Raises:
        JigsawError: if it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise JigsawError(f"{option} is {value!r:.60}; it must be a whole number, {least} or more")
    return value


def _read(files: Any, config: DictConfig, option: str) -> list[Source]:
    plain = OmegaConf.to_container(files, resolve=True) if isinstance(files, ListConfig) else files
    return read_sources(plain, given(config, "media_root"), config.epochs, option)


def _places(sources: list[Source]) -> set[str]:
    """Where the files lie, however they are written: absolute, without links."""
    return {os.path.realpath(file) for source in sources for file in source.files}


def _options(kwargs: DictConfig | None) -> dict[str, Any]:
    """A reward's options as plain values."""
    if not isinstance(kwargs, DictConfig | None):
        raise JigsawError(f"{_KWARGS} is {kwargs!r:.60}; it must be a mapping from option to value")
    options: Any = {} if kwargs is None else OmegaConf.to_container(kwargs, resolve=True)
    return dict(options)


def _score(reward: Any, item: dict[str, Any], options: dict[str, Any]) -> Any:
    """What a reward says of an empty reply to an item, as verl asks it."""
    said = reward(
        data_source=item["data_source"],
        solution_str="",
        ground_truth=item["reward_model"]["ground_truth"],
        extra_info=item["extra_info"],
        **options,
    )
    return asyncio.run(said) if inspect.iscoroutine(said) else said


def _check_says_exact(function: DictConfig, item: dict[str, Any]) -> None:
    """Raise JigsawError unless a custom reward says ``exact``, which the levels of a schedule follow from."""
    name = f"{function.path}, {function.name}"
    try:
        said = _score(_load(function.path, function.name), item, _options(function.reward_kwargs))
    except Exception as error:  # the user's code: whatever it raises, training would meet it too
        raise JigsawError(f"{name}: fails on an empty reply: {type(error).__name__}: {error}") from error
    if not isinstance(said, dict) or "exact" not in said:
        raise JigsawError(
            f"{name}: gives no 'exact', which data.difficulty goes by; return a dict with it, or set "
            "data.difficulty=null"
        )


def _load(path: str, name: str) -> Any:
    """The reward function that a config names, by file or as ``pkg://module``, as verl loads it."""
    if path.startswith("pkg://"):
        return getattr(importlib.import_module(path.removeprefix("pkg://")), name)
    spec = spec_from_file_location("custom_reward_function", path)
    if spec is None or spec.loader is None:
        raise JigsawError(f"{path}: is no Python file")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)
