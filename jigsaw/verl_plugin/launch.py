"""Starts GRPO by a recipe: composes its config as verl will, has it checked, then becomes verl's trainer."""

import difflib
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, HydraException, OverrideParseException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from jigsaw.errors import JigsawError, Problems
from jigsaw.evaluation.questions import ROOT
from jigsaw.machine import CLONE, SETUP_GPU, gpus
from jigsaw.shapes import Shapes
from jigsaw.verl_plugin.checkpoint import LOGS, log_override, override, quoted, resume_overrides
from jigsaw.verl_plugin.cpu.environment import ENVIRONMENT
from jigsaw.verl_plugin.plans import whole
from jigsaw.verl_plugin.same_rows import remember_rows

CONFIGS = (CLONE or Path(__file__).resolve().parents[1]) / "configs"
"""The recipes; of an installation without the clone those that its wheel brought."""
OUTPUTS = (CLONE or Path()) / "outputs"
"""Where runs go: into the clone, else where one stands."""
TRAINER = "jigsaw.verl_plugin.grpo"
PLUGIN = "jigsaw.verl_plugin.install"
_FOLDER = "trainer.default_local_dir"
_PATH = "actor_rollout_ref.model.path"
_ROLLOUT = "actor_rollout_ref.rollout"
_LIMIT = f"{_ROLLOUT}.engine_kwargs.vllm.limit_mm_per_prompt"
_BUILDS_ON = re.compile(r"^defaults:\n  - (\w+)$", re.MULTILINE)
_AT_A_TIME = 512
_SHOWN = 3
"""Names that are proposed for one that is unknown."""


@dataclass(frozen=True)
class Start:
    """A start of a recipe that nothing is known to stop.

    Attributes:
        arguments: of verl's trainer, our own.
        given: the user's, which come last and win.
        config: what verl will compose of them.
        metrics: the file that verl's logger will write.
    """

    arguments: list[str]
    given: list[str]
    config: DictConfig
    metrics: Path

    @property
    def command(self) -> list[str]:
        """verl's trainer with all overrides, also what was filled into the config since: vLLM's limit on media."""
        limit = OmegaConf.select(self.config, _LIMIT)  # follows from the rows: null until they are looked at
        limits = [] if limit is None else [f"{_LIMIT}={json.dumps(OmegaConf.to_container(limit)).replace(chr(34), '')}"]
        return [sys.executable, "-m", TRAINER, *self.arguments, *limits, *self.given]

    def make_ready(self) -> None:
        """Make what the trainer takes to be there, and write down which rows are trained on.

        Raises:
            JigsawError, OSError: if it cannot be written.
        """
        self.metrics.parent.mkdir(parents=True, exist_ok=True)
        remember_rows(self.config)


class SupervisedStart(Start):
    """A start of the supervised baseline."""

    @property
    def command(self) -> list[str]:
        """verl's supervised trainer, a process a GPU of this machine."""
        return [sys.executable, "-m", *sft_trainer(self.config.trainer.n_gpus_per_node), *self.arguments, *self.given]

    def make_ready(self) -> None:
        """Make the folder of the metrics.

        Raises:
            OSError: if it cannot be made.
        """
        self.metrics.parent.mkdir(parents=True, exist_ok=True)


@dataclass(frozen=True)
class Inputs:
    """What a start is given most often; None where the recipe says it.

    Attributes:
        model: folder or hub name of weights.
        data: folder with ``train.parquet`` and ``val.parquet``.
        media_root: of the rows.
        output: the run's folder.
    """

    model: str | None = None
    data: str | None = None
    media_root: str | None = None
    output: str | None = None

    def overrides(self, *, supervised: bool = False) -> list[str]:
        """The same as overrides, of GRPO or of the supervised baseline; those of the user come after."""
        found = []
        if self.model is not None:
            found.append(override("model.path" if supervised else _PATH, self.model))
        if self.data is not None:
            files = {"train_files": "train", "val_files": "val"}
            found += [override(f"data.{key}", Path(self.data, f"{name}.parquet")) for key, name in files.items()]
            if not supervised:
                found.append("data.mixture=null")
        if self.media_root is not None:
            found.append(override("data.media_root", self.media_root))
        if self.output is not None:
            run = Path(self.output).resolve()
            found += [override("hydra.run.dir", run / "hydra"), override(_FOLDER, run / "checkpoints")]
        return found


def recipes() -> list[str]:
    """Names of the recipes in ``configs/``: what builds on ``base``, or on one that does."""
    first = {file.stem: _BUILDS_ON.search(file.read_text(encoding="utf-8")) for file in CONFIGS.glob("*.yaml")}
    builds_on = {name: found[1] for name, found in first.items() if found}

    def is_recipe(name: str) -> bool:
        return builds_on.get(name) == "base" or (name in builds_on and is_recipe(builds_on[name]))

    return sorted(filter(is_recipe, builds_on))


def plan_start(recipe: str, given: Sequence[str]) -> Start:
    """What a start of a recipe is made of; nothing is written.

    Checkpoints go to ``outputs/RECIPE_jigsaw/checkpoints`` unless the recipe or an override names another folder.
    It resumes from the newest whole one there. Metrics go to a new file beside them, for verl's logger empties what is
    there. vLLM's longest sequence and number of sequences at a time follow from the batch.

    Args:
        recipe: name of a recipe, or a YAML file of one's own that builds on ours.
        given: Hydra overrides, which come after ours; and ``model=NAME`` for one of ``configs/models``.

    Raises:
        JigsawError: if there is no such recipe, or Hydra cannot compose the config; a line for each override.
    """
    given_recipe, (folder_of, recipe) = recipe, _find(recipe)
    given = list(_with_path_of_model(given))
    run = OUTPUTS.resolve() / f"{recipe}_jigsaw"
    start = [override("hydra.run.dir", run / "hydra")]
    config = _compose(folder_of, recipe, [*start, *given])
    if "actor_rollout_ref" not in config:
        raise JigsawError(f"{given_recipe} is trained with its answers: jigsaw sft {given_recipe}")
    _check_names(folder_of, recipe, like="image")
    _check_numbers(folder_of, recipe, given)
    if not config.trainer.default_local_dir:
        config.trainer.default_local_dir = str(run / "checkpoints")
        start.append(override(_FOLDER, run / "checkpoints"))
    folder = Path(config.trainer.default_local_dir).resolve()
    metrics = folder / "metrics" / f"{datetime.now(UTC):%Y%m%dT%H%M%S}.jsonl"
    follows = [*resume_overrides(folder), *_places_of_logs(config, folder, metrics), *_sizes(config)]
    follows += _benchmarks(config)
    named = {parsed.key_or_group for parsed in _parse(given)}
    for parsed in _parse(follows):  # to compose anew takes a second
        if parsed.key_or_group not in named:
            OmegaConf.update(config, parsed.key_or_group, parsed.value(), force_add=True)
    where = [f"--config-dir={folder_of}", f"--config-name={recipe}", _search(CONFIGS)]
    return Start([*where, *start, *follows], list(given), config, metrics)


def plan_supervised(recipe: str, given: Sequence[str]) -> SupervisedStart:
    """What a start of the supervised baseline is made of; nothing is written.

    Args:
        recipe: a name in ``configs/`` that ends in ``_sft``, or a YAML file of one's own that builds on one.
        given: Hydra overrides; and ``model=NAME`` for one of ``configs/models``.

    Raises:
        JigsawError: if there is no such recipe, or what is known would stop it; a line each.
    """
    given_recipe, folder = recipe, CONFIGS
    if recipe.endswith(".yaml"):
        folder, recipe = _own(recipe)
    elif recipe not in (known := _supervised()):
        raise JigsawError(f"there is no supervised recipe configs/{recipe}.yaml; there are {', '.join(known)}")
    if machines := [line for line in given if line.startswith("machine=")]:
        raise JigsawError(f"{machines[0]}: is GRPO's; the baseline runs on trainer.n_gpus_per_node GPUs of one machine")
    given = list(_with_path_of_model(given, "model.path"))
    run = OUTPUTS.resolve() / recipe
    start = [override("hydra.run.dir", run / "hydra")]
    config = _compose(folder, recipe, [*start, *given])
    if "actor_rollout_ref" in config:
        raise JigsawError(f"{given_recipe} is trained by GRPO: jigsaw train {given_recipe}")
    _check_names(folder, recipe, like="image_sft")
    if not config.trainer.default_local_dir:
        config.trainer.default_local_dir = str(run / "checkpoints")
        start.append(override(_FOLDER, run / "checkpoints"))
    if found := list(_supervised_problems(config)):
        raise Problems(found)
    metrics = Path(config.trainer.default_local_dir, "metrics", f"{datetime.now(UTC):%Y%m%dT%H%M%S}.jsonl").resolve()
    where = [f"--config-dir={folder}", f"--config-name={recipe}", _search(CONFIGS)]
    return SupervisedStart([*where, *start], given, config, metrics)


def _supervised() -> list[str]:
    return sorted(file.stem for file in CONFIGS.glob("*_sft.yaml"))


def _supervised_problems(config: DictConfig) -> Iterator[str]:
    data, trainer = config.data, config.trainer
    for key in ("train_files", "val_files"):
        if data[key] is None:
            yield f"data.{key} is not set; jigsaw prepare image makes rows"
            continue
        for file in [data[key]] if isinstance(data[key], str) else data[key]:
            if not Path(file).is_file():
                yield f"{file}: no such file; make it with jigsaw prepare image, or give the path of one that is there"
    if data.media_root is None or not Path(data.media_root).is_dir():
        yield f"data.media_root is {data.media_root}; give the folder that the rows' paths are relative to"
    for name, value in (
        ("trainer.n_gpus_per_node", trainer.n_gpus_per_node),
        ("data.train_batch_size", data.train_batch_size),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            yield f"{name} is {value}; it must be a whole number, 1 or more"
            return
    if trainer.device == "cuda" and gpus() < trainer.n_gpus_per_node:
        yield f"trainer.n_gpus_per_node is {trainer.n_gpus_per_node}, this machine has {gpus() or 'no'} GPUs"


def _places_of_logs(config: DictConfig, folder: Path, metrics: Path) -> Iterator[str]:
    """Overrides that have loggers write beside the checkpoints, unless the environment names another place."""
    yield log_override("file", metrics)
    loggers = config.trainer.logger
    for name in [loggers] if isinstance(loggers, str) else loggers:
        if name in LOGS and name != "file":
            variable = LOGS[name]
            yield log_override(name, os.environ.get(variable) or (metrics.parent if name == "wandb" else folder / name))


def _benchmarks(config: DictConfig) -> Iterator[str]:
    """Overrides for benchmarks during training: where they lie, and how many prompts' media are in memory at a time."""
    if not config.eval.suite:
        return
    if data := config.eval.data or os.environ.get(ROOT):
        yield override("eval.data", Path(data).resolve())
    if config.data.val_batch_size is None:
        yield f"data.val_batch_size={_AT_A_TIME}"


def _sizes(config: DictConfig) -> list[str]:
    """Overrides that size vLLM: its longest sequence, where the recipe leaves it null, and how many it has at a time.

    With no length vLLM plans for the model's, 128,000 tokens.
    """
    data, trainer, rollout = config.data, config.trainer, config.actor_rollout_ref.rollout
    prompt, response = (whole(f"data.{name}", data[name], 1) for name in ("max_prompt_length", "max_response_length"))
    prompts = whole("data.train_batch_size", data.train_batch_size, 1)
    gpus = whole("trainer.n_gpus_per_node", trainer.n_gpus_per_node, 1) * whole("trainer.nnodes", trainer.nnodes, 1)
    parallel = whole(f"{_ROLLOUT}.tensor_model_parallel_size", rollout.tensor_model_parallel_size, 1)
    share = -(-prompts * whole(f"{_ROLLOUT}.n", rollout.n, 1) // max(1, gpus // parallel))
    sizes = {}
    if rollout.max_model_len is None:
        sizes["max_model_len"] = prompt + response
    if share < whole(f"{_ROLLOUT}.max_num_seqs", rollout.max_num_seqs, 1):
        sizes["max_num_seqs"] = share
    return [f"{_ROLLOUT}.{name}={size}" for name, size in sizes.items()]


def leave_cpu(config: DictConfig) -> list[str]:
    """Take what ``train_scripts/env_cpu.sh`` sets out of this process's environment, for a recipe that is for GPUs.

    Returns:
        The variables that it was found in; a value that is not the script's stays.
    """
    if config.trainer.device == "cpu" or os.environ.get("VERL_PLATFORM") != ENVIRONMENT["VERL_PLATFORM"]:
        return []
    left = [name for name, value in ENVIRONMENT.items() if os.environ.get(name) == value]
    for name in left:
        del os.environ[name]
    return left


def _find(recipe: str) -> tuple[Path, str]:
    """The folder and the name of a recipe."""
    if recipe.endswith(".yaml"):
        return _own(recipe)
    if recipe in _supervised():
        raise JigsawError(f"{recipe} is trained with its answers: jigsaw sft {recipe}")
    if recipe not in (known := recipes()):
        raise JigsawError(f"there is no recipe configs/{recipe}.yaml; there are {', '.join(known)}")
    return CONFIGS, recipe


def _own(recipe: str) -> tuple[Path, str]:
    """The folder and the name of a recipe of one's own, by its file."""
    file = Path(recipe).resolve()
    if not file.is_file():
        raise JigsawError(f"{recipe}: there is no such file; copy a recipe of {CONFIGS} to begin with")
    try:
        found = OmegaConf.load(file)
    except (YAMLError, OmegaConfBaseException, OSError, UnicodeDecodeError) as error:
        raise JigsawError(f"{recipe}: is no YAML that can be read ({' '.join(str(error).split()):.200})") from error
    builds_on = found.get("defaults") if isinstance(found, DictConfig) else None
    if not isinstance(builds_on, ListConfig):
        raise JigsawError(f"{recipe}: is no recipe; begin it with defaults: [NAME, _self_], NAME one of {CONFIGS}")
    if file.stem in builds_on:
        raise JigsawError(f"{recipe}: builds on {file.stem}, its own name; rename the file")
    return file.parent, file.stem


def _check_names(folder: Path, recipe: str, like: str) -> None:
    """Raise :class:`Problems` where a recipe of one's own has misspelt values of ours.

    Wrong is a name that a recipe of ours does not have, while it has one beside it that is near, or that very name
    elsewhere. What resembles nothing is a value of one's own.

    Args:
        folder: of the recipe.
        recipe: its name.
        like: a recipe of ours that has all values that one of its kind may have.
    """
    if folder == CONFIGS:
        return
    file = folder / f"{recipe}.yaml"
    values = [name for name in _names(OmegaConf.to_container(OmegaConf.load(file))) if name != "defaults"]
    known = list(_names(OmegaConf.to_container(_as_it_is(CONFIGS, like))))
    wrong = []
    for name in values:
        above, _, last = name.rpartition(".")
        if name in known or (above and above not in known):
            continue
        beside = {other.rpartition(".")[2]: other for other in known if other.rpartition(".")[0] == above}
        near = [beside[part] for part in difflib.get_close_matches(last, beside, _SHOWN, cutoff=0.8)]
        near = near or [other for other in known if other.rpartition(".")[2] == last][:_SHOWN]
        if near:
            wrong.append(f"{file.name}: {name} is unknown; did you mean {' or '.join(near)}?")
    if wrong:
        raise Problems(wrong)


def models() -> dict[str, DictConfig]:
    """What ``configs/models`` knows of models, by the name that ``model=NAME`` takes: hub name and shapes."""
    files = sorted((CONFIGS / "models").glob("*.yaml"))
    return {file.stem: config for file in files if isinstance(config := OmegaConf.load(file), DictConfig)}


def _with_path_of_model(given: Sequence[str], option: str = _PATH) -> Iterator[str]:
    """The overrides, ``model=NAME`` as the model's path, unless that is given too: verl has a group of that name."""
    for line in given:
        key, _, name = line.partition("=")
        if key != "model":
            yield line
            continue
        if name not in (known := models()):
            raise JigsawError(f"model={name}: there is no configs/models/{name}.yaml; there are {', '.join(known)}")
        own = [parsed.value() for parsed in _parse(other for other in given if other.startswith(f"{option}="))]
        if not own:
            yield f"{option}={known[name].name}"
        elif not _is_of(known[name], str(own[-1])):
            raise JigsawError(f"model={name}, but {own[-1]} holds another model; leave model={name} out")


def _is_of(model: DictConfig, path: str) -> bool:
    """Whether a folder's weights may be a model's; yes where the folder does not say, which is said elsewhere."""
    file = Path(path, "config.json")
    try:
        found, known = (Shapes.of(read) for read in (json.loads(file.read_text(encoding="utf-8")), model.config))
    except (JigsawError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return True
    return (found.text.hidden, found.text.layers) == (known.text.hidden, known.text.layers)


def train(start: Start) -> None:
    """Become verl's trainer, once all is ready; returns only by an error."""
    sys.stdout.flush()
    sys.stderr.flush()
    # The same process: Ctrl-C, a scheduler's signals and the exit code are the trainer's.
    os.execve(sys.executable, start.command, {**environment(), LOGS["file"]: str(start.metrics)})


def sft_trainer(ranks: int) -> tuple[str, ...]:
    """verl's supervised trainer on so many ranks of this machine: what Python runs with ``-m``."""
    return ("torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}", "-m", "verl.trainer.sft_trainer")


def environment() -> dict[str, str]:
    """The environment of verl's trainers."""
    return {**os.environ, "VERL_USE_EXTERNAL_MODULES": PLUGIN}


def compose_config(folder: Path, recipe: str, *overrides: str) -> DictConfig:
    """A recipe's config as verl's trainer composes it; verl itself is not imported.

    Args:
        folder: of the recipe; what it builds on is found there, in ``configs`` and in verl.
        recipe: name of one, for example ``quickstart``.
        overrides: Hydra's.

    Raises:
        JigsawError: if verl is not installed.
    """
    verl = find_spec("verl")
    if verl is None or verl.origin is None:
        raise JigsawError(f"verl is not installed; to train: {SETUP_GPU}")
    search = _search(CONFIGS, Path(verl.origin).parent / "trainer/config")
    with initialize_config_dir(str(folder.resolve()), version_base=None):
        return compose(recipe, [search, *overrides])


def _search(*folders: Path) -> str:
    """The override by which Hydra finds what a recipe builds on."""
    return f"hydra.searchpath=[{','.join(quoted(f'file://{folder}') for folder in folders)}]"


def _compose(folder: Path, recipe: str, overrides: Sequence[str]) -> DictConfig:
    """:func:`compose_config`, whose errors are one line for each override."""
    try:
        config = compose_config(folder, recipe, *overrides)
        OmegaConf.to_container(config, resolve=True)
    except OverrideParseException as error:
        key = error.override.partition("=")[0]
        raise JigsawError(f"{error.override}: Hydra cannot read it; quote the value: \"{key}='VALUE'\"") from error
    except (HydraException, OmegaConfBaseException) as error:
        unknown = list(_unknown(folder, recipe, overrides)) if type(error) is ConfigCompositionException else []
        message = " ".join(str(error).partition("Config search path")[0].split())
        raise Problems(unknown or [message]) from error
    return config


@cache  # to compose it takes a second
def _as_it_is(folder: Path, recipe: str) -> DictConfig:
    """A recipe's config without overrides, to be read alone."""
    return compose_config(folder, recipe)


def _check_numbers(folder: Path, recipe: str, given: Sequence[str]) -> None:
    """Raise :class:`Problems` where a number of the recipe is overridden by a word."""
    words = {parsed.key_or_group: value for parsed in _parse(given) if isinstance(value := parsed.value(), str)}
    words = {key: value for key, value in words.items() if "$" not in value}
    if words:
        base = _as_it_is(folder, recipe)
        wrong = [
            f"{key}={value}: must be a number, as {number} is"
            for key, value in words.items()
            if isinstance(number := OmegaConf.select(base, key, throw_on_missing=False), int | float)
            and not isinstance(number, bool)
        ]
        if wrong:
            raise Problems(wrong)


def _parse(overrides: Iterable[str]) -> list[Override]:
    return OverridesParser.create().parse_overrides(list(overrides))


def _unknown(folder: Path, recipe: str, overrides: Sequence[str]) -> Iterator[str]:
    """A line for each override of what the recipe does not have, with the names that come nearest."""
    known = list(_names(OmegaConf.to_container(_as_it_is(folder, recipe))))
    for parsed in _parse(overrides):
        key = parsed.key_or_group
        if parsed.is_add() or parsed.is_force_add() or key.startswith("hydra.") or key in known or "." not in key:
            continue
        near = difflib.get_close_matches(key, known, _SHOWN, cutoff=0.8) or _same_last_part(key, known)
        advice = f"did you mean {' or '.join(near)}?" if near else f"the recipe has no such value; to add one: +{key}=…"
        yield f"{key}: is unknown; {advice}"


def _same_last_part(key: str, known: Iterable[str]) -> list[str]:
    last = key.rpartition(".")[2]
    by_last: dict[str, list[str]] = {}
    for name in known:
        by_last.setdefault(name.rpartition(".")[2], []).append(name)
    near = difflib.get_close_matches(last, by_last, 1, cutoff=0.8)
    return [name for part in near for name in by_last[part]][:_SHOWN]


def _names(node: object, above: str = "") -> Iterator[str]:
    """The dotted names of a config's values and groups of values."""
    if isinstance(node, dict):
        for key, value in node.items():
            name = f"{above}{key}"
            yield name
            yield from _names(value, f"{name}.")
