"""A checkpoint of verl's FSDP engine as a Hugging Face folder: about one copy of the weights in memory, and compared
with what was trained before it is there.

verl's own merger holds two copies, compares nothing, and leaves an adapter apart from its model.
"""

import json
import logging
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from pickle import UnpicklingError
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.distributed.tensor import DTensor, Shard  # by this import torch.load takes them without unpickling code

from jigsaw.errors import JigsawError
from jigsaw.files import atomic_folder
from jigsaw.verl_plugin.checkpoint import is_saved, is_supervised

DTYPE = torch.bfloat16
"""Of the folder, as the models are published that were begun with; the trainer's is float32."""
ADAPTER = "lora_adapter"
"""The folder, in the model's, of an adapter that was trained."""
_BROKEN = (OSError, RuntimeError, EOFError, ValueError, TypeError, LookupError, AttributeError, UnpicklingError)
_PEFT = "base_model.model."
_LORA = re.compile(r"(?P<module>.+)\.lora_(?P<part>[AB])\.default\.weight")
_SHOWN = 160
_AGREES = 0.01
"""Of the largest logit: more than rounding differs by."""

OnProgress = Callable[[int, int], Any]
Describe = Callable[[Path, int], None]


@dataclass(frozen=True)
class Exported:
    """What was made.

    Attributes:
        weights: their number.
        difference: the largest between the folder's logits and the trained weights', both in :data:`DTYPE`.
        adapter: rank of the adapter that was merged; 0 where there is none.
    """

    weights: int
    difference: float
    adapter: int


class Trained:
    """The weights of a checkpoint, however many ranks hold them: files are mapped, and a weight read when asked for.

    Args:
        folder: of the ranks' files, ``actor`` in a checkpoint of GRPO.

    Raises:
        JigsawError: if a rank's file is missing or broken, or they are laid out as no FSDP does.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            ranks = json.loads((folder / "fsdp_config.json").read_text(encoding="utf-8"))["world_size"]
        except _BROKEN as error:
            raise JigsawError(
                f"{folder / 'fsdp_config.json'}: cannot be read ({error}); take another checkpoint"
            ) from error
        files = [folder / f"model_world_size_{ranks}_rank_{rank}.pt" for rank in range(ranks)]
        if missing := [file.name for file in files if not file.is_file()]:
            raise JigsawError(
                f"{folder}: {', '.join(missing)} is missing, of {ranks} ranks; where machines share no disk, gather "
                "the files of all in one folder"
            )
        first = self._load(files[0])
        sharded = next((weight for weight in first.values() if isinstance(weight, DTensor)), None)
        # Where ranks hold copies of one another (HSDP), the first row of the mesh has all.
        row = (
            [0]
            if sharded is None
            else sharded.device_mesh.mesh.reshape(-1, sharded.device_mesh.mesh.shape[-1])[0].tolist()
        )
        self._ranks = [first if rank == 0 else self._load(files[rank]) for rank in row]
        self._found = {self._plain(name): name for name in first if _LORA.fullmatch(name) is None}

    @staticmethod
    def _load(file: Path) -> dict[str, torch.Tensor]:
        try:
            found: dict[str, torch.Tensor] = torch.load(file, mmap=True, map_location="cpu", weights_only=True)
        except _BROKEN as error:
            raise JigsawError(f"{file}: cannot be read ({_short(error)}); take another checkpoint") from error
        return found

    @staticmethod
    def _plain(name: str) -> str:
        """A weight's name in the model, without what peft puts around it."""
        return name.removeprefix(_PEFT).replace(".base_layer.", ".")

    @property
    def names(self) -> list[str]:
        """Of the model's weights, as it names them."""
        return list(self._found)

    @cached_property
    def modules(self) -> list[str]:
        """Those with an adapter, as the model names them."""
        found = (_LORA.fullmatch(name) for name in self._ranks[0])
        return [self._plain(match["module"]) for match in found if match and match["part"] == "A"]

    @cached_property
    def rank(self) -> int:
        """Of the adapter; 0 without one."""
        return len(self.factor(self.modules[0], "A")) if self.modules else 0

    @cached_property
    def alpha(self) -> int:
        """What an adapter is scaled by, times its rank."""
        file = self.folder / "lora_train_meta.json"
        try:
            return int(json.loads(file.read_text(encoding="utf-8"))["lora_alpha"])
        except _BROKEN as error:
            raise JigsawError(f"{file}: cannot be read ({error}); it says by what the adapter is scaled") from error

    def factor(self, module: str, part: str) -> torch.Tensor:
        """A factor of an adapter, float32: A is (rank, inputs), B (outputs, rank)."""
        return self._whole(f"{_PEFT}{module}.lora_{part}.default.weight").float()

    def weight(self, name: str) -> torch.Tensor:
        """A weight of the model in :data:`DTYPE`, its adapter merged."""
        weight = self._whole(self._found[name])
        module = name.removesuffix(".weight")
        if module in self._adapted:
            change = self.factor(module, "B") @ self.factor(module, "A")
            weight = weight.float() + self.alpha / self.rank * change
        return weight.to(DTYPE)

    @cached_property
    def _adapted(self) -> frozenset[str]:
        return frozenset(self.modules)

    def _whole(self, name: str) -> torch.Tensor:
        parts = [rank[name] for rank in self._ranks]
        if not isinstance(parts[0], DTensor):
            return parts[0]
        placement = parts[0].placements[-1]
        local = [part.to_local() if isinstance(part, DTensor) else part for part in parts]
        if placement.is_replicate():
            return local[0]
        if not isinstance(placement, Shard):
            raise JigsawError(f"{self.folder}: {name} is laid out as {placement}, which no FSDP does")
        return local[0] if len(local) == 1 else torch.cat(local, dim=placement.dim)


def actor_of(checkpoint: Path) -> Path:
    """The folder of a checkpoint's weights.

    Raises:
        JigsawError: if it is no checkpoint, or was cut off while it was saved.
    """
    actor = checkpoint if is_supervised(checkpoint) else checkpoint / "actor"
    if not actor.is_dir():
        raise JigsawError(f"{checkpoint}: is no checkpoint; name a folder global_step_N, which has a folder actor")
    if not is_saved(checkpoint):
        raise JigsawError(f"{checkpoint}: is not complete, its save was cut off; take an earlier one")
    return actor


def export_checkpoint(
    checkpoint: Path, out: Path, *, describe: Describe | None = None, on_progress: OnProgress = lambda done, total: None
) -> Exported:
    """Make a Hugging Face folder of a checkpoint, for transformers, vLLM and lmms-eval, by rename.

    Weights are rounded to bfloat16, an adapter is merged, and lies beside them in :data:`ADAPTER`, too. Before the
    folder is there it is loaded: each weight must be the trained one, and the logits of a prompt with a picture, too.

    Args:
        checkpoint: a complete ``global_step_N``, of GRPO or the supervised baseline.
        out: folder to make.
        describe: called with the folder before it appears and the adapter's rank; writes more into it, a model card.
        on_progress: called with (weights done, all): each is written and compared.

    Raises:
        JigsawError: if the checkpoint is incomplete, broken or of another architecture than it says, the disk lacks
            room, the folder is there already, or what was written is not what was trained.
    """
    actor = actor_of(checkpoint)
    if out.exists():
        raise JigsawError(f"{out}: is there already; remove it or choose another folder")
    with _quiet(), atomic_folder(out) as draft:
        trained = Trained(actor)
        model = _model_of(actor / "huggingface")
        names = _check_architecture(model, trained)
        _check_room(draft, model)
        steps = 2 * len(names)
        _write(draft, model, trained, names, lambda done: on_progress(done, steps))
        difference = _compare(draft, trained, names, lambda done: on_progress(len(names) + done, steps))
        if describe is not None:
            describe(draft, trained.rank)
    sizes = model.state_dict()
    return Exported(sum(sizes[name].numel() for name in names), difference, trained.rank)


def _model_of(folder: Path) -> Any:
    """A model by the config in a folder, without weights; the processor must be there, too."""
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    if not (folder / "config.json").is_file():
        raise JigsawError(f"{folder / 'config.json'}: is missing, the model's config; take another checkpoint")
    try:
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder), dtype=DTYPE)
        AutoProcessor.from_pretrained(folder)
    except Exception as error:  # of a broken file, transformers and tokenizers raise whatever comes
        raise JigsawError(
            f"{folder}: holds no model and processor that are known here ({_short(error)}); take another checkpoint"
        ) from error
    return model


def _short(error: Exception) -> str:
    return shorten(" ".join(str(error).split()), _SHOWN, placeholder=" …")


def _write(folder: Path, model: Any, trained: Trained, names: Sequence[str], on_progress: Callable[[int], Any]) -> None:
    """Weights, config, tokenizer, processor, and the adapter if there is one."""
    state = {}
    for number, name in enumerate(names, 1):
        state[name] = trained.weight(name)
        on_progress(number)
    model.save_pretrained(folder, state_dict=state)
    for file in folder.iterdir():
        file.chmod(0o644)  # safetensors' are its owner's alone
    for file in (trained.folder / "huggingface").iterdir():
        if file.name != "config.json" and file.is_file():  # the config is the model's, of its new dtype
            shutil.copy(file, folder)
    if trained.rank:
        _save_adapter(trained, folder / ADAPTER)


def _check_architecture(model: Any, trained: Trained) -> list[str]:
    """The weights to write: the model's but those that are tied to others.

    Raises:
        JigsawError: unless the checkpoint has the model's weights, of its shapes, and no others.
    """
    wanted, found = model.state_dict(), set(trained.names)
    other = sorted(wanted.keys() ^ found)
    if other:
        raise JigsawError(
            f"{trained.folder}: {len(other)} weights are the checkpoint's or the model's alone, such as {other[0]}; "
            "its huggingface folder is another model's"
        )
    return [name for name in wanted if name not in model.all_tied_weights_keys]


def _check_room(folder: Path, model: Any) -> None:
    needed = sum(weight.numel() * weight.element_size() for weight in model.state_dict().values())
    if (free := shutil.disk_usage(folder).free) < needed:
        raise JigsawError(
            f"{folder.parent}: {free / 2**30:.1f} GiB are free, the model takes {needed / 2**30:.1f}; make room, or "
            "choose another folder"
        )


def _save_adapter(trained: Trained, folder: Path) -> None:
    """The adapter alone, as peft keeps one."""
    from peft import LoraConfig
    from safetensors.torch import save_file

    folder.mkdir()
    save_file(
        {
            f"{_PEFT}{module}.lora_{part}.weight": trained.factor(module, part).contiguous()
            for module in trained.modules
            for part in "AB"
        },
        folder / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    base = json.loads((trained.folder / "huggingface/config.json").read_text(encoding="utf-8")).get("_name_or_path")
    LoraConfig(
        base_model_name_or_path=base,
        r=trained.rank,
        lora_alpha=trained.alpha,
        target_modules=trained.modules,  # in full: the tower has layers of the same names
        task_type="CAUSAL_LM",
        inference_mode=True,
    ).save_pretrained(str(folder))


def _compare(folder: Path, trained: Trained, names: Sequence[str], on_progress: Callable[[int], Any]) -> float:
    """The largest difference of logits between a folder's model and the trained weights.

    Raises:
        JigsawError: if a weight is another, or the logits differ by more than rounding.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    inputs = _sample(AutoProcessor.from_pretrained(folder))
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=DTYPE)
    with torch.inference_mode():
        written = model(**inputs).logits.float()
        # In place: there is room for one model.
        found = model.state_dict()
        for number, name in enumerate(names):
            weight = trained.weight(name)
            if not torch.equal(found[name], weight):
                raise JigsawError(
                    f"{folder}: {name} is not as it was trained; this is a fault of ours, please report it"
                )
            found[name].copy_(weight)
            on_progress(number + 1)
        difference = float((model(**inputs).logits.float() - written).abs().max())
    if not difference <= _AGREES * float(written.abs().max()):
        raise JigsawError(
            f"{folder}: its logits are not those of the trained weights (they differ by {difference:.3g}); this is a "
            "fault of ours, please report it"
        )
    return difference


def _sample(processor: Any) -> Any:
    """A prompt with a picture of noise."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (112, 168, 3), dtype=np.uint8))
    asked = [{"type": "image"}, {"type": "text", "text": "What is to be seen here?"}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": asked}], add_generation_prompt=True, tokenize=False
    )
    return processor(text=[text], images=[picture], return_tensors="pt")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without its bars and warnings, and torch's of a mesh that no process group is there for."""
    from transformers.utils import logging as of_transformers

    verbosity, mesh = of_transformers.get_verbosity(), logging.getLogger("torch.distributed.device_mesh")
    of_transformers.set_verbosity_error()
    of_transformers.disable_progress_bar()
    before = mesh.level
    mesh.setLevel(logging.ERROR)
    try:
        yield
    finally:
        mesh.setLevel(before)
        of_transformers.set_verbosity(verbosity)
        of_transformers.enable_progress_bar()
