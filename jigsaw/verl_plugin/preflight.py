"""What would stop a run, said before it starts: the config, the data, the model, the machine and the run's folder.

verl meets each of these minutes later, or waits for ever. Neither torch nor verl is imported here.
"""

import json
import netrc
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from math import inf, isinf
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from omegaconf import DictConfig, OmegaConf

from jigsaw import doctor, machine, memory
from jigsaw.errors import JigsawError
from jigsaw.rows import read_table
from jigsaw.shapes import FAMILIES, Shapes
from jigsaw.verl_plugin import checkpoint
from jigsaw.verl_plugin.benchmarks import Benchmarks
from jigsaw.verl_plugin.launch import models
from jigsaw.verl_plugin.memory import setup_of
from jigsaw.verl_plugin.packed import PACKED_ENGINE, is_packed
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
from jigsaw.verl_plugin.same_rows import check_same_rows
from jigsaw.verl_plugin.watch import Limits

GIB = 2**30
SHARED_MEMORY = GIB // 2
"""Free in /dev/shm at least for each engine of vLLM: its queues take 0.4 GiB there; with less it dies of SIGBUS."""
CHECKPOINT_BYTES = {"model": 4, "optimizer": 8}
"""Of a weight in a checkpoint, by what ``actor.checkpoint.save_contents`` names: float32, and Adam's two moments."""
MEDIA = ("image", "video")
"""What vLLM counts in a prompt."""
ATTENTION = ("sdpa", "eager")
"""Names of attention that need nothing installed."""
_REFUSED_BY_CLUSTERS = ("num_cpus", "num_gpus", "object_store_memory", "resources")
"""What ``ray.init`` does not take where it joins a cluster."""
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_HUB_SECONDS = 5.0
_MODEL = "actor_rollout_ref.model"
_ACTOR = "actor_rollout_ref.actor"
_ROLLOUT = "actor_rollout_ref.rollout"
_LIMIT = "engine_kwargs.vllm.limit_mm_per_prompt"


def problems(config: DictConfig) -> list[str]:
    """What stops a run with this config, a line each; empty if nothing is known to.

    Rows are looked at one by one only where all else is well: it takes about 0.2 s for 1,000 of them. What vLLM must
    know of them, its limit on the media of a prompt, is then filled into the config where it is null.

    Args:
        config: verl's, composed.
    """
    found = [line for check in CHECKS for line in _lines(check, config)]
    return list(dict.fromkeys(found)) or list(_lines(check_rows, config))


Check = Callable[[DictConfig], Iterator[str]]


def problems_of_sizes(config: DictConfig) -> list[str]:
    """The same of a config's numbers alone, whatever the machine and the data."""
    return [line for check in SIZES for line in _lines(check, config)]


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
    if model.use_remove_padding and find_spec("flash_attn") is None:
        yield f"{_MODEL}.use_remove_padding=true: needs flash-attn, which is not installed; set it to false"
    yield from _check_attention(model)


def _check_attention(model: DictConfig) -> Iterator[str]:
    """The name of an attention that transformers knows; with none verl takes flash-attn's."""
    name = str(model.override_config.get("attn_implementation", "flash_attention_2"))
    option = f"{_MODEL}.override_config.attn_implementation is {name}"
    if name == "flash_attention_2":
        if find_spec("flash_attn") is None:
            yield f"{option}: flash-attn is not installed; set it to sdpa"
    elif name not in ATTENTION:
        yield f"{option}: it must be {', '.join(ATTENTION)}, or flash_attention_2 where flash-attn is installed"


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
    """Each row, the reward on one of each kind, and vLLM's limit on the media of a prompt, see :func:`problems`."""
    data, vllm = config.data, config.actor_rollout_ref.rollout.engine_kwargs.vllm
    shown: Counter[str] = Counter()
    for files, limit in ((given(data, "train_files"), "train_max_samples"), (data.val_files, "val_max_samples")):
        plans = Plans(files, data, data.get(limit, -1))
        shown |= plans.check_rows(config.reward)
        plans.check_media()
    shown |= Benchmarks(data.eval).shown()
    loop = config.actor_rollout_ref.rollout.agent.default_agent_loop
    if shown["video"] and loop != "jigsaw" and _family(config) == "qwen3_vl":
        yield f"{_ROLLOUT}.agent.default_agent_loop={loop}: vLLM takes no videos of a Qwen3-VL from it; leave it out"
    allowed = vllm.limit_mm_per_prompt
    if allowed is None:
        vllm.limit_mm_per_prompt = {kind: shown[kind] for kind in MEDIA}
        return
    if not isinstance(allowed, DictConfig):
        yield f"{_ROLLOUT}.{_LIMIT} is {allowed!r:.60}; it must be like {{image: 9, video: 0}}, or left out"
        return
    for kind, count in shown.items():
        most = allowed.get(kind)
        most = most.get("count") if isinstance(most, DictConfig) else most
        if most is not None and most < count:
            yield (
                f"{_ROLLOUT}.{_LIMIT} allows {most} of {kind}, a prompt shows up to {count}; leave it out, and it "
                "follows from the rows"
            )


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
        yield from _line(_check_kind_of, folder)
    elif not _HUB_NAME.fullmatch(path):
        hint = "; ~ stands for no folder here, write it out" if path.startswith("~") else ""
        hint = f"; to have it from the hub: model={path}" if path in models() else hint
        yield f"{where}; there is no such folder{hint}"
    else:
        yield from _line(_check_hub, path)


def _check_kind_of(folder: Path) -> None:
    """Raise JigsawError if a model's files name an architecture or a processor that was not run.

    Of a model that names none verl finds out.
    """
    kind = _read_json(folder / "config.json").get("model_type")
    if kind is not None and kind not in FAMILIES:
        raise JigsawError(
            f"the model is a {kind}, whose tower is not known; set {_MODEL}.path to a Qwen2.5-VL or Qwen3-VL model"
        )
    for name in ("processor_config.json", "preprocessor_config.json"):
        if (folder / name).is_file():
            processor = _read_json(folder / name).get("processor_class")
            if processor is not None:
                return check_processor(processor)
    return None


def _family(config: DictConfig) -> str | None:
    """The model's, as its config names it; None where its files are not here."""
    from huggingface_hub import try_to_load_from_cache

    path = given(config.actor_rollout_ref.model, "path") or ""
    file = Path(path) / "config.json"
    if not Path(path).is_dir() and isinstance(cached := try_to_load_from_cache(path, "config.json"), str):
        file = Path(cached)
    kind: str | None = _read_json(file).get("model_type") if file.is_file() else None
    return kind


def _read_json(file: Path) -> dict[str, Any]:
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise JigsawError(f"{file}: cannot be read ({error}); download the model again") from error
    if not isinstance(read, dict):
        raise JigsawError(f"{file}: cannot be read (it holds no object); download the model again")
    return read


def _check_hub(name: str) -> None:
    """Raise JigsawError unless a model is in the hub's cache, or can be had from the hub."""
    import httpx
    from huggingface_hub import HfApi, constants, errors, try_to_load_from_cache

    where = f"{_MODEL}.path is {name}"
    cached = try_to_load_from_cache(name, "config.json")
    if isinstance(cached, str):
        return _check_kind_of(Path(cached).parent)
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


ABOVE_ZERO = {
    f"{_ACTOR}.optim.lr": inf,
    f"{_ROLLOUT}.temperature": inf,
    f"{_ROLLOUT}.top_p": 1,
    f"{_ROLLOUT}.gpu_memory_utilization": 1,
}
"""Numbers that must be above 0, and what they may be at most."""


def check_numbers(config: DictConfig) -> Iterator[str]:
    """Numbers that verl and vLLM refuse after minutes, or that train the wrong way without a word."""
    for option, most in ABOVE_ZERO.items():
        value = OmegaConf.select(config, option)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
            yield f"{option} is {value!r:.60}; it must be above 0{'' if isinf(most) else f', and {most} at most'}"


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
    if is_packed(config):
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
        (f"{_ACTOR}.ulysses_sequence_parallel_size", actor.ulysses_sequence_parallel_size, 1),
    ):
        if value != plain:
            yield f"{engine} does not work with {option}={value}; set it to {plain}, or {_MODEL}.external_lib to null"
    longest = config.data.max_prompt_length + config.data.max_response_length
    budgets = {
        f"{_ACTOR}.ppo_max_token_len_per_gpu": actor.ppo_max_token_len_per_gpu,
        f"{_ROLLOUT}.log_prob_max_token_len_per_gpu": rollout.log_prob_max_token_len_per_gpu,
    }
    if actor.use_kl_loss or config.algorithm.use_kl_in_reward:
        budgets["actor_rollout_ref.ref.log_prob_max_token_len_per_gpu"] = role.ref.log_prob_max_token_len_per_gpu
    for option, value in budgets.items():
        if value < longest:
            yield (
                f"{option}={value} is below {longest} tokens, which a prompt with a response may have; raise it, "
                "or lower data.max_prompt_length or data.max_response_length"
            )


def check_rollout(config: DictConfig) -> Iterator[str]:
    """What vLLM is sized by; what is left null here, the launcher fills in (launch.py)."""
    data, rollout = config.data, config.actor_rollout_ref.rollout
    longest = data.max_prompt_length + data.max_response_length
    if (length := rollout.max_model_len) is not None and length < longest:
        yield (
            f"{_ROLLOUT}.max_model_len={length} is below {longest} tokens, which a prompt with a response may have "
            "(data.max_prompt_length + data.max_response_length); leave it out, and it is that"
        )
    if not rollout.enable_chunked_prefill and rollout.max_num_batched_tokens < (length or longest):
        yield (
            f"{_ROLLOUT}.max_num_batched_tokens={rollout.max_num_batched_tokens} is below {length or longest} tokens, "
            "which a prompt in one part with its response may have; raise it to that"
        )
    if rollout.max_num_seqs > rollout.max_num_batched_tokens:
        yield (
            f"{_ROLLOUT}.max_num_seqs={rollout.max_num_seqs} is more than {_ROLLOUT}.max_num_batched_tokens="
            f"{rollout.max_num_batched_tokens}, which vLLM refuses; raise that"
        )


def _ranks(config: DictConfig) -> int:
    """GPUs in all."""
    gpus = whole("trainer.n_gpus_per_node", config.trainer.n_gpus_per_node, least=1)
    return gpus * whole("trainer.nnodes", config.trainer.nnodes, least=1)


def check_machine(config: DictConfig) -> Iterator[str]:
    """GPUs and what runs on them, cores, shared memory and disk, and the set that is installed."""
    trainer = config.trainer
    on_cpu = trainer.device == "cpu"
    if on_cpu and os.environ.get("VERL_PLATFORM") != "cpu":
        yield f"trainer.device=cpu needs VERL_PLATFORM=cpu and more; first: {machine.CPU_SHELL}"
    elif not on_cpu and machine.installed("vllm") is None:
        yield f"the environment holds no vLLM for GPUs; first: {machine.SETUP_GPU}"
    elif not on_cpu:
        checks = doctor.check_gpu_software()
        yield from (f"{check.name}: {check.found}; {check.advice}" for check in checks if check.status != "ok")
    yield from _check_resources(config, on_cpu=on_cpu)
    parallel = config.actor_rollout_ref.rollout.tensor_model_parallel_size
    engines = trainer.n_gpus_per_node // whole(f"{_ROLLOUT}.tensor_model_parallel_size", parallel, least=1)
    shared, needed = Path("/dev/shm"), SHARED_MEMORY * max(1, engines)
    if shared.is_dir() and (free := shutil.disk_usage(shared).free) < needed:
        yield (
            f"/dev/shm has {free / GIB:.2f} GiB free, {needed / GIB} are needed; remove what earlier runs left there, "
            f"or in Docker: --shm-size={max(8, needed // GIB * 2)}g"
        )
    if trainer.default_local_dir:
        yield from _check_disk(config)
    if not on_cpu and (card := machine.gpu_memory()) is not None:
        yield from _check_memory(config, card)


def _check_memory(config: DictConfig, card: int) -> Iterator[str]:
    """What takes more than a whole card, of so many bytes, or than the machine; the tenth of a card that a plan spares
    is not asked for."""
    try:
        setup = setup_of(config, card / memory.SHOWN / GIB)
    except JigsawError:  # nothing can be worked out; what is wrong is said elsewhere
        return
    there = machine.memory()
    if (least := max(phase.least for phase in memory.host(setup))) > there:
        yield (
            f"this machine has {there / GIB:.0f} GiB of memory, {least / GIB:.0f} are taken for certain; jigsaw plan "
            "RECIPE says by what"
        )
    found = f"a GPU here has {card / GIB:.1f} GiB"
    if why := memory.too_small(setup):
        yield f"{found}: {why}"
        return
    for phase in memory.phases(setup):
        if phase.size > card:
            yield f"{found}, {phase.name} takes {phase.size / GIB:.1f}; jigsaw plan RECIPE says what fits"


def _check_disk(config: DictConfig) -> Iterator[str]:
    """Room for the checkpoints that are to come."""
    trainer = config.trainer
    if not trainer.save_freq or trainer.save_freq < 0:
        return
    folder = Path(trainer.default_local_dir)
    count = trainer.max_actor_ckpt_to_keep or 1
    if trainer.total_training_steps:
        count = min(count, -(-trainer.total_training_steps // trainer.save_freq))
    count -= checkpoint.count_whole(folder)
    existing, needed = _existing(folder), count * _checkpoint_size(config.actor_rollout_ref)
    if (free := shutil.disk_usage(existing).free) < needed:
        taken = "a checkpoint takes" if count == 1 else f"{count} checkpoints take"
        yield (
            f"{existing} has {free / GIB:.1f} GiB free, {taken} {needed / GIB:.1f} or more; make room, choose another "
            "trainer.default_local_dir, or keep fewer (trainer.max_actor_ckpt_to_keep)"
        )


def _checkpoint_size(role: DictConfig) -> int:
    """Bytes of a checkpoint; 1 GiB at least, and where the model's config is not here or LoRA trains few weights."""
    folder = Path(given(role.model, "path") or "")
    if role.model.lora_rank or not (folder / "config.json").is_file():
        return GIB
    try:
        weights = Shapes.of(_read_json(folder / "config.json")).parameters
    except (JigsawError, KeyError):  # said of the model, not here
        return GIB
    return max(GIB, weights * sum(CHECKPOINT_BYTES.get(part, 0) for part in role.actor.checkpoint.save_contents))


def _check_resources(config: DictConfig, *, on_cpu: bool) -> Iterator[str]:
    """What Ray must place: it waits for ever for what is not there."""
    ray_init, storage = config.ray_kwargs.ray_init, config.transfer_queue.backend
    groups = _placement_groups(config)
    units = storage.SimpleStorage.num_data_storage_units if storage.storage_backend == "SimpleStorage" else 0
    cores = machine.cores_of_a_run(sum(groups), units)
    mend = "lower the storage units"
    address = machine.cluster(ray_init.get("address"))
    if address is not None:
        nodes = machine.nodes_of(address)
        has = sum(node.free.get("CPU", 0) for node in nodes)
        found = f"the Ray cluster at {address} has {has:g} free"
        yield from _check_cluster(config, address, nodes, units)
    else:
        if config.trainer.nnodes > 1:
            yield (
                f"trainer.nnodes={config.trainer.nnodes}, but no Ray cluster runs here; ray start --head on this "
                "machine, ray start --address=THIS_MACHINE:6379 on the others"
            )
            return
        present, gpus = int(ray_init.get("num_gpus") or 0) if on_cpu else machine.gpus(), config.trainer.n_gpus_per_node
        if present < gpus:
            advice = "set it to that" if present else f"to try all of this without one: {machine.QUICKSTART}"
            yield f"trainer.n_gpus_per_node is {gpus}, this machine has {present or 'no'} GPUs; {advice}"
        elif present < sum(groups):
            yield f"{sum(groups)} GPUs are needed, a reward model's or teacher's among them; this machine has {present}"
        has = ray_init.get("num_cpus") or machine.cores()
        found = f"ray_kwargs.ray_init.num_cpus is {has}" if ray_init.get("num_cpus") else f"this machine has {has}"
        mend += f", or set ray_kwargs.ray_init.num_cpus={cores} to have them share cores"
    if has < cores:
        yield (
            f"verl's actors take {cores} CPU cores of Ray's: {machine.CORES_A_GPU} a GPU, and {1 + units} for its "
            f"queue (1 + transfer_queue.backend.SimpleStorage.num_data_storage_units); {found}; {mend}"
        )


def _check_cluster(config: DictConfig, address: str, nodes: Sequence[machine.Node], units: int) -> Iterator[str]:
    """Whether a cluster's machines have the GPUs, and the GPUs and cores that go together are free on one machine."""
    trainer, ray_init, groups = config.trainer, config.ray_kwargs.ray_init, _placement_groups(config)
    gpus, where = trainer.n_gpus_per_node, f"the Ray cluster at {address}"
    if refused := [name for name in _REFUSED_BY_CLUSTERS if ray_init.get(name) is not None]:
        yield (
            f"ray_kwargs.ray_init.{refused[0]} is set, and the run would join {where}, which has its own; leave it "
            "out, or set ray_kwargs.ray_init.address=local"
        )
    free = [node.free for node in nodes]
    free_gpus = sum(node.get("GPU", 0) for node in free)
    enough = sum(node.get("CPU", 0) for node in free) >= machine.cores_of_a_run(sum(groups), units)
    if sum(node.has.get("GPU", 0) >= gpus for node in nodes) < trainer.nnodes:
        counts = ", ".join(f"{node.has.get('GPU', 0):g}" for node in nodes)
        yield (
            f"trainer.nnodes={trainer.nnodes} with trainer.n_gpus_per_node={gpus}: the machines of {where} have "
            f"{counts} GPUs; ray start on the others, or ask for fewer"
        )
    elif free_gpus < sum(groups):
        yield f"{free_gpus:g} GPUs of {where} are free, {sum(groups)} are needed; end what runs there"
    elif enough and not _fit(free, groups, units):
        counts = ", ".join(f"{node.get('GPU', 0):g} and {node.get('CPU', 0):g}" for node in free)
        yield (
            f"the machines of {where} have {counts} GPUs and cores free; each that trains needs {gpus} and "
            f"{machine.CORES_A_GPU * gpus}, beside one core for each of the queue's actors, which are dealt out to "
            "all; end what runs there, or ask for fewer"
        )


def _placement_groups(config: DictConfig) -> list[int]:
    """GPUs of each of verl's placement groups, all of one on one machine."""
    pools = [("trainer", config.trainer)]
    if config.reward.reward_model.enable_resource_pool:
        pools.append(("reward.reward_model", config.reward.reward_model))
    if config.distillation.enabled:
        pools.append(("distillation", config.distillation))
    return [
        whole(f"{name}.n_gpus_per_node", pool.n_gpus_per_node, least=1)
        for name, pool in pools
        for _ in range(whole(f"{name}.nnodes", pool.nnodes, least=1))
    ]


def _fit(free: Sequence[Mapping[str, float]], groups: Sequence[int], units: int) -> bool:
    """Whether Ray finds room on machines for a run's placement groups and its queue.

    Args:
        free: of each machine, in the order of Ray's names: the queue deals its storage units out to all of them.
        groups: GPUs of each placement group.
        units: of storage, one core each.
    """
    gpus = [node.get("GPU", 0) for node in free]
    cores = [node.get("CPU", 0) - len(range(place, units, len(free))) for place, node in enumerate(free)]
    for group in sorted(groups, reverse=True):
        claimed = machine.CORES_A_GPU * group
        fitting = [place for place in range(len(free)) if gpus[place] >= group and cores[place] >= claimed]
        if not fitting:
            return False
        tightest = min(fitting, key=gpus.__getitem__)
        gpus[tightest] -= group
        cores[tightest] -= claimed
    return min(cores) >= 0 and max(cores) >= 1  # one is the queue's controller's


def _existing(folder: Path) -> Path:
    """A folder, or the nearest one above it that is there."""
    absolute = folder.absolute()
    return next(path for path in (absolute, *absolute.parents) if path.exists())


def check_folder(config: DictConfig) -> Iterator[str]:
    """The run's checkpoint folder: one run alone, the same rows, and nothing whole is written over."""
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
    yield from _line(check_same_rows, config)


LOGGERS = (
    "console", "file", "tensorboard", "wandb", "trackio", "swanlab", "mlflow", "clearml", "rl_insight", "vemlp_wandb"
)  # fmt: skip
"""verl's; a test compares them."""


def check_loggers(config: DictConfig) -> Iterator[str]:
    """Loggers that are there, and that need not ask for a key: they ask at their first call, which nobody sees."""
    loggers = config.trainer.logger
    for name in [loggers] if isinstance(loggers, str) else list(loggers or ()):
        if name not in LOGGERS:
            yield f"trainer.logger holds {name}; verl has {', '.join(LOGGERS)}"
        elif name not in ("console", "file", "vemlp_wandb") and find_spec(name) is None:
            yield f"trainer.logger holds {name}, which is not installed: pip install {name}"
        elif name == "wandb" and not _has_key("WANDB", ("offline", "disabled", "dryrun")):
            host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
            if not _is_known(host):
                yield (
                    f"trainer.logger holds wandb, and no key for {host} is there; wandb login, or set "
                    "WANDB_MODE=offline"
                )
        elif name == "swanlab" and not _has_key("SWANLAB", ("local", "offline", "disabled")):
            yield "trainer.logger holds swanlab, and SWANLAB_API_KEY is not set; set it, or SWANLAB_MODE=local"


def _has_key(service: str, without: Sequence[str]) -> bool:
    """Whether a service's key is in the environment, or its mode is one that needs none."""
    return bool(os.environ.get(f"{service}_API_KEY")) or os.environ.get(f"{service}_MODE") in without


def _is_known(host: str) -> bool:
    """Whether ``~/.netrc``, where ``wandb login`` writes, holds a key for a host."""
    path = Path(os.environ.get("NETRC") or Path.home() / ".netrc")
    try:
        return path.is_file() and netrc.netrc(str(path)).authenticators(host) is not None
    except (netrc.NetrcParseError, OSError):
        return False


def check_watched(config: DictConfig) -> Iterator[str]:
    """What is warned of, and which replies are kept."""
    trainer = config.trainer
    yield from _line(Limits.of, trainer.warnings)
    for name in ("rollout_freq", "rollout_prompts"):
        yield from _line(whole, f"trainer.{name}", trainer[name], 1)


SIZES: tuple[Check, ...] = (check_numbers, check_batches, check_rollout)
CHECKS: tuple[Check, ...] = (
    check_data,
    check_model,
    check_modes,
    *SIZES,
    check_machine,
    check_folder,
    check_loggers,
    check_watched,
)
