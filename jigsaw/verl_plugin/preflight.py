"""What would stop a run, said before it starts: the config, the data, the model, the machine and the run's folder.

verl meets each of these minutes later, or waits for ever. Neither torch nor verl is imported here.
"""

import json
import netrc
import os
import re
import shutil
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from omegaconf import DictConfig, OmegaConf

from jigsaw import machine
from jigsaw.errors import JigsawError
from jigsaw.rows import read_table
from jigsaw.verl_plugin import checkpoint
from jigsaw.verl_plugin.plans import (
    REWARD,
    Plans,
    check_media_roots,
    check_options_of_data,
    check_processor,
    check_scoring,
    given,
    heldout_sources,
    training_sources,
    whole,
)

GIB = 2**30
SHARED_MEMORY = GIB // 2
"""Free in /dev/shm at least: vLLM's queues alone take 0.4 GiB there; with less it dies of SIGBUS."""
_CORES_A_GPU = 3
"""Cores that verl sets aside for each GPU (``max_colocate_count`` in single_controller/ray/base.py)."""
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_HUB_SECONDS = 5.0
_MODEL = "actor_rollout_ref.model"
_ACTOR = "actor_rollout_ref.actor"
_ROLLOUT = "actor_rollout_ref.rollout"
PACKED_ENGINE = "jigsaw.verl_plugin.engine"


def problems(config: DictConfig) -> list[str]:
    """What stops a run with this config, a line each; empty if nothing is known to.

    Rows are looked at one by one only where all else is well: it takes about 0.2 s for 1,000 of them.

    Args:
        config: verl's, composed.
    """
    found = [line for check in CHECKS for line in _lines(check, config)]
    return list(dict.fromkeys(found)) or list(_lines(check_rows, config))


Check = Callable[[DictConfig], Iterator[str]]


def _lines(check: Check, config: DictConfig) -> Iterator[str]:
    try:
        yield from check(config)
    except JigsawError as error:
        yield from str(error).splitlines()


def _line(check: Callable[..., Any], *arguments: Any) -> Iterator[str]:
    """The message of a check that raises, if it does."""
    try:
        check(*arguments)
    except JigsawError as error:
        yield from str(error).splitlines()


def check_modes(config: DictConfig) -> Iterator[str]:
    """Settings that verl ignores, or that this plug-in was not made for."""
    actor, model, rollout = (config.actor_rollout_ref[name] for name in ("actor", "model", "rollout"))
    if config.trainer.v1.trainer_mode != "sync":
        yield (
            f"trainer.v1.trainer_mode is {config.trainer.v1.trainer_mode}: the sampler and the agent loop here work in "
            "the mode sync alone; leave it out"
        )
    if not config.trainer.use_v1:
        yield "trainer.use_v1=false: verl's old trainer has no place for the sampler here; leave it out"
    if actor.strategy not in ("fsdp", "fsdp2"):
        yield f"{_ACTOR}.strategy is {actor.strategy}: it is not installed; set it to fsdp2"
    if rollout.name != "vllm":
        yield f"{_ROLLOUT}.name is {rollout.name}: it is not installed; set it to vllm"
    yield from _line(checkpoint.check_async_save, config)
    for option in ("freeze_vision_tower", "use_prefix_grouper"):
        if actor[option]:
            yield f"{_ACTOR}.{option}=true: verl's trainer takes no notice of it; set it to false"
    if model.use_fused_kernels:
        yield (
            f"{_MODEL}.use_fused_kernels=true: fails, or learns wrongly, where the output layer is sharded apart from "
            "the embeddings, as in a 7B; set it to false"
        )
    if find_spec("flash_attn") is None:
        if model.use_remove_padding:
            yield f"{_MODEL}.use_remove_padding=true: needs flash-attn, which is not installed; set it to false"
        attention = model.override_config.get("attn_implementation", "flash_attention_2")
        if "flash_attention" in str(attention):
            yield (
                f"{_MODEL}.override_config.attn_implementation is {attention}: flash-attn is not installed; set it to "
                "sdpa"
            )


def check_data(config: DictConfig) -> Iterator[str]:
    """Rows, media folders, the options of both, and a custom reward."""
    yield from _line(check_options_of_data, config.data)
    yield from _line(check_scoring, config.reward)
    function = config.reward.custom_reward_function.path or REWARD
    if not function.startswith("pkg://") and not Path(function).is_file():
        yield f"reward.custom_reward_function.path is {function}; there is no such file"
    data = config.data
    if given(data, "media_root") is None and data.mixture is None:
        yield "data.media_root is not set; give the folder that the rows' paths are relative to"
        data = OmegaConf.merge(data, {"media_root": "."})  # so that this is not said of each file again
    for sources_of in (training_sources, heldout_sources):
        try:
            sources = sources_of(data)
        except JigsawError as error:
            yield str(error)
            continue
        yield from _line(check_media_roots, sources)
        for file in dict.fromkeys(file for source in sources for file in source.files):
            yield from _line(read_table, file)


def check_rows(config: DictConfig) -> Iterator[str]:
    """Each row, and the reward on one of each kind."""
    data = config.data
    for files, limit in ((given(data, "train_files"), "train_max_samples"), (data.val_files, "val_max_samples")):
        plans = Plans(files, data, data.get(limit, -1))
        plans.check_rows(config.reward)
    yield from ()


def check_model(config: DictConfig) -> Iterator[str]:
    """The model: a folder or a name on the hub, of an architecture that was run."""
    path = given(config.actor_rollout_ref.model, "path")
    where = f"{_MODEL}.path is {path}"
    if not path:
        yield f"{_MODEL}.path is not set; give a folder, or a name on the hub"
        return
    folder = Path(path)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            hint = ": a checkpoint must be merged first" if (folder / "huggingface").is_dir() else ""
            yield f"{where}, which holds no config.json{hint}; give a folder in Hugging Face's format"
            return
        if not any(file.suffix in (".safetensors", ".bin") for file in folder.iterdir()):
            yield f"{where}, which holds no weights (*.safetensors)"
        yield from _line(_check_processor_of, folder)
    elif not _HUB_NAME.fullmatch(path):
        hint = "; ~ stands for no folder here, write it out" if path.startswith("~") else ""
        yield f"{where}; there is no such folder{hint}"
    else:
        yield from _line(_check_hub, path)


def _check_processor_of(folder: Path) -> None:
    """Raise JigsawError if a model's files name a processor that was not run; which one has none, verl finds out."""
    for name in ("processor_config.json", "preprocessor_config.json"):
        if (folder / name).is_file():
            try:
                processor = json.loads((folder / name).read_text()).get("processor_class")
            except (ValueError, AttributeError) as error:
                raise JigsawError(f"{folder / name}: cannot be read ({error}); download the model again") from error
            if processor is not None:
                return check_processor(processor)
    return None


def _check_hub(name: str) -> None:
    """Raise JigsawError unless a model is in the hub's cache, or can be had from the hub."""
    import httpx
    from huggingface_hub import HfApi, constants, errors, try_to_load_from_cache

    where = f"{_MODEL}.path is {name}"
    cached = try_to_load_from_cache(name, "config.json")
    if isinstance(cached, str):
        return _check_processor_of(Path(cached).parent)
    other = "give its folder, or another model"
    if constants.HF_HUB_OFFLINE:
        raise JigsawError(
            f"{where}: neither a folder nor in the hub's cache ({constants.HF_HUB_CACHE}), and HF_HUB_OFFLINE is set; "
            f"unset it to fetch the model, or {other}"
        )
    try:
        HfApi().model_info(name, timeout=_HUB_SECONDS)
    except errors.GatedRepoError as error:
        raise JigsawError(
            f"{where}: it is gated; accept its terms on the hub, then set HF_TOKEN to your token"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise JigsawError(f"{where}: neither a folder nor a model on the hub; {other}") from error
    except (errors.HfHubHTTPError, httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        raise JigsawError(
            f"{where}: neither a folder nor in the hub's cache, and the hub cannot be asked ({type(error).__name__}); "
            f"mend the network, or {other}"
        ) from error


def check_batches(config: DictConfig) -> Iterator[str]:
    """How a batch divides: by updates, by GPUs, by micro-batches; verl finds out in its first step."""
    data, actor, rollout = config.data, config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    ranks = _ranks(config)
    n = whole(f"{_ROLLOUT}.n", rollout.n, least=1)
    prompts = whole("data.train_batch_size", data.train_batch_size, least=1)
    update = whole(f"{_ACTOR}.ppo_mini_batch_size", actor.ppo_mini_batch_size, least=1)
    parallel = whole(f"{_ROLLOUT}.tensor_model_parallel_size", rollout.tensor_model_parallel_size, least=1)
    if ranks % parallel:
        yield f"{ranks} GPUs do not divide by {_ROLLOUT}.tensor_model_parallel_size={parallel}; change one of them"
    if update > prompts:
        yield f"{_ACTOR}.ppo_mini_batch_size={update} is more than data.train_batch_size={prompts}; lower it"
        return
    if update * n % ranks:
        yield (
            f"{_ACTOR}.ppo_mini_batch_size={update} × {_ROLLOUT}.n={n} responses do not divide by {ranks} GPUs; change "
            "one of them"
        )
        return
    if config.actor_rollout_ref.model.external_lib == PACKED_ENGINE:
        yield from _check_packs(config)
        return
    if actor.use_dynamic_bsz != rollout.log_prob_use_dynamic_bsz:
        yield f"{_ACTOR}.use_dynamic_bsz and {_ROLLOUT}.log_prob_use_dynamic_bsz differ; set both to one value"
    if actor.use_dynamic_bsz:
        return
    share = update * n // ranks
    # A prompt that fails shortens a batch, by updates at most: each share of one must divide.
    limits = [(f"{_ACTOR}.ppo_micro_batch_size_per_gpu", actor.ppo_micro_batch_size_per_gpu)]
    limits += [(f"{_ROLLOUT}.log_prob_micro_batch_size_per_gpu", rollout.log_prob_micro_batch_size_per_gpu)]
    if actor.use_kl_loss or config.algorithm.use_kl_in_reward:
        reference = config.actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu
        limits += [("actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu", reference)]
    for option, value in limits:
        size = whole(option, value, least=1)
        if share % size:
            fitting = [divisor for divisor in range(1, share + 1) if share % divisor == 0]
            nearest = max(divisor for divisor in fitting if divisor <= size)
            yield (
                f"{option}={size} does not divide a GPU's share of an update, {share} responses ({update} prompts × "
                f"{n} / {ranks} GPUs); {nearest} does"
            )


def _check_packs(config: DictConfig) -> Iterator[str]:
    """What the packed engine (engine.py) does not do, and a budget that a response may exceed."""
    role = config.actor_rollout_ref
    model, actor, rollout = role.model, role.actor, role.rollout
    engine = f"{_MODEL}.external_lib={PACKED_ENGINE}"
    for option, value, plain in (
        (f"{_MODEL}.use_remove_padding", model.use_remove_padding, False),
        (f"{_MODEL}.lora_rank", model.lora_rank, 0),
        (f"{_ACTOR}.ulysses_sequence_parallel_size", actor.ulysses_sequence_parallel_size, 1),
    ):
        if value != plain:
            yield f"{engine} does not work with {option}={value}; set it to {plain}, or {_MODEL}.external_lib to null"
    longest = config.data.max_prompt_length + config.data.max_response_length
    for option, value in (
        (f"{_ACTOR}.ppo_max_token_len_per_gpu", actor.ppo_max_token_len_per_gpu),
        (f"{_ROLLOUT}.log_prob_max_token_len_per_gpu", rollout.log_prob_max_token_len_per_gpu),
    ):
        if value < longest:
            yield (
                f"{option}={value} is below {longest} tokens, which a prompt with a response may have; raise it, "
                "or lower data.max_prompt_length or data.max_response_length"
            )


def _ranks(config: DictConfig) -> int:
    """GPUs in all."""
    gpus = whole("trainer.n_gpus_per_node", config.trainer.n_gpus_per_node, least=1)
    return gpus * whole("trainer.nnodes", config.trainer.nnodes, least=1)


def check_machine(config: DictConfig) -> Iterator[str]:
    """GPUs, cores, shared memory and disk, and the set that is installed."""
    trainer = config.trainer
    on_cpu, platform = trainer.device == "cpu", os.environ.get("VERL_PLATFORM", "")
    if on_cpu and platform != "cpu":
        yield f"trainer.device=cpu needs VERL_PLATFORM=cpu and more; first: {machine.CPU_SHELL}"
    elif not on_cpu and platform == "cpu":
        yield "VERL_PLATFORM=cpu is set, and the recipe is for GPUs; open a new shell"
    elif not on_cpu and machine.installed("vllm") is None:
        yield f"the environment holds no vLLM for GPUs; first: {machine.SETUP_GPU}"
    yield from _check_resources(config, on_cpu=on_cpu)
    if (shared := Path("/dev/shm")).is_dir() and (free := shutil.disk_usage(shared).free) < SHARED_MEMORY:
        yield (
            f"/dev/shm has {free / GIB:.2f} GiB free, {SHARED_MEMORY / GIB} are needed; remove what earlier runs left "
            "there, or in Docker: --shm-size=8g"
        )
    if folder := trainer.default_local_dir:
        existing = _existing(Path(folder))
        path = Path(given(config.actor_rollout_ref.model, "path") or "")
        weights = sum(file.stat().st_size for file in path.glob("*.safetensors")) if path.is_dir() else 0
        if (free := shutil.disk_usage(existing).free) < (needed := max(GIB, weights)):
            yield (
                f"{existing} has {free / GIB:.1f} GiB free, a checkpoint takes {needed / GIB:.1f} or more; make room, "
                "or choose another trainer.default_local_dir"
            )


def _check_resources(config: DictConfig, *, on_cpu: bool) -> Iterator[str]:
    """What Ray must place: it waits for ever for what is not there."""
    ray_init, nodes = config.ray_kwargs.ray_init, config.trainer.nnodes
    gpus, ranks = config.trainer.n_gpus_per_node, _ranks(config)
    storage = config.transfer_queue.backend
    units = storage.SimpleStorage.num_data_storage_units if storage.storage_backend == "SimpleStorage" else 0
    cores = 1 + units + _CORES_A_GPU * ranks
    mend = "lower the storage units"
    address = machine.cluster(ray_init.get("address"))
    if address is not None:
        here, free = machine.nodes_of(address)
        large = [node for node in here if node.get("GPU", 0) >= gpus]
        if len(large) < nodes:
            found = ", ".join(f"{node.get('GPU', 0):g}" for node in here)
            yield (
                f"trainer.nnodes={nodes} with trainer.n_gpus_per_node={gpus}: the machines of the Ray cluster at "
                f"{address} have {found} GPUs; ray start on the others, or ask for fewer"
            )
        elif free.get("GPU", 0) < ranks:
            yield (
                f"{free.get('GPU', 0):g} GPUs of the Ray cluster at {address} are free, {ranks} are needed; end what "
                "runs there"
            )
        has = free.get("CPU", 0)
        found = f"the Ray cluster at {address} has {has:g} free"
    else:
        if nodes > 1:
            yield (
                f"trainer.nnodes={nodes}, but no Ray cluster runs here; ray start --head on this machine, ray start "
                "--address=THIS_MACHINE:6379 on the others"
            )
            return
        present = int(ray_init.get("num_gpus") or 0) if on_cpu else machine.gpus()
        if present < gpus:
            advice = "set it to that" if present else f"to try all of this without one: {machine.QUICKSTART}"
            yield f"trainer.n_gpus_per_node is {gpus}, this machine has {present or 'no'} GPUs; {advice}"
        has = ray_init.get("num_cpus") or machine.cores()
        found = f"ray_kwargs.ray_init.num_cpus is {has}" if ray_init.get("num_cpus") else f"this machine has {has}"
        mend = f"set ray_kwargs.ray_init.num_cpus={cores} to have them share cores"
    if has < cores:
        yield (
            f"verl's actors take {cores} CPU cores of Ray's: {_CORES_A_GPU} a GPU, and {1 + units} for its queue (1 + "
            f"transfer_queue.backend.SimpleStorage.num_data_storage_units); {found}; {mend}"
        )


def _existing(folder: Path) -> Path:
    """A folder, or the nearest one above it that is there."""
    absolute = folder.absolute()
    return next(path for path in (absolute, *absolute.parents) if path.exists())


def check_folder(config: DictConfig) -> Iterator[str]:
    """The run's checkpoint folder: one run alone, and nothing whole is written over."""
    folder = config.trainer.default_local_dir
    if not folder or not isinstance(folder, str):
        yield f"trainer.default_local_dir is {folder!r}; it must be a folder"
        return
    existing = _existing(Path(folder))
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        yield f"trainer.default_local_dir is {folder}: {existing} cannot be written; choose another folder"
        return
    yield from _line(checkpoint.check_free, Path(folder))
    yield from _line(checkpoint.check_beginning, config.trainer)


def check_loggers(config: DictConfig) -> Iterator[str]:
    """Weights & Biases asks for a key at its first call, which nobody sees."""
    loggers = config.trainer.logger
    if "wandb" not in ([loggers] if isinstance(loggers, str) else list(loggers or ())):
        return
    if find_spec("wandb") is None:
        yield "trainer.logger holds wandb, which is not installed: pip install wandb"
    elif not (os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_MODE") in ("offline", "disabled", "dryrun")):
        host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
        if not _is_known(host):
            yield f"trainer.logger holds wandb, and no key for {host} is there; wandb login, or set WANDB_MODE=offline"


def _is_known(host: str) -> bool:
    """Whether ``~/.netrc``, where ``wandb login`` writes, holds a key for a host."""
    path = Path(os.environ.get("NETRC") or Path.home() / ".netrc")
    try:
        return path.is_file() and netrc.netrc(str(path)).authenticators(host) is not None
    except (netrc.NetrcParseError, OSError):
        return False


CHECKS: tuple[Check, ...] = (
    check_data,
    check_model,
    check_modes,
    check_batches,
    check_machine,
    check_folder,
    check_loggers,
)
