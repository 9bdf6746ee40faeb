"""What is exported of a checkpoint is what was trained, or is not there: of any number of ranks, with an adapter."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from jigsaw.errors import JigsawError
from jigsaw.verl_plugin import export
from jigsaw.verl_plugin.export import DTYPE, export_checkpoint

pytestmark = pytest.mark.seconds

Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="module", params=["tied", "untied"])
def model(request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model's folder, whose head is its embeddings, or its own."""
    if request.param == "tied":
        return tiny_model
    config = AutoConfig.from_pretrained(tiny_model)
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = False
    folder = tmp_path_factory.mktemp("model") / "untied"
    AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    AutoProcessor.from_pretrained(tiny_model).save_pretrained(folder)
    return folder


def weights_of(folder: Path) -> Weights:
    """A model's weights, each a little moved, as if it had been trained; ties hold."""
    loaded = AutoModelForImageTextToText.from_pretrained(folder)
    with torch.no_grad():
        for number, weight in enumerate(loaded.parameters()):
            weight += 0.01 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(number))
    return dict(loaded.state_dict())


def save(checkpoint: Path, model: Path, weights: Weights, *, mesh: tuple[int, ...] = (1,)) -> Path:
    """A checkpoint as verl's FSDP engine saves it, of all ranks of a mesh; its last dimension shares the weights."""
    actor = checkpoint / "actor"
    (actor / "huggingface").mkdir(parents=True)
    for file in model.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, actor / "huggingface")
    ranks, shards = torch.tensor(mesh).prod().item(), mesh[-1]
    (actor / "fsdp_config.json").write_text(json.dumps({"FSDP_version": 2, "world_size": ranks}))
    for rank in range(int(ranks)):
        distributed.init_process_group("fake", store=FakeStore(), rank=rank, world_size=int(ranks))
        names = ("fsdp",) if len(mesh) == 1 else ("ddp", "fsdp")
        placed = init_device_mesh("cpu", mesh, mesh_dim_names=names)
        layout = [*[Replicate() for _ in mesh[:-1]], Shard(0)]
        state = {}
        for name, weight in weights.items():
            parts = [*weight.chunk(shards), *[weight[:0]] * shards][:shards]  # uneven, or none for the last ranks
            local = parts[rank % shards].clone()
            state[name] = DTensor.from_local(
                local, placed, layout, run_check=False, shape=weight.shape, stride=weight.stride()
            )
        torch.save(state, actor / f"model_world_size_{ranks}_rank_{rank}.pt")
        distributed.destroy_process_group()
    (checkpoint / "WHOLE").touch()
    return checkpoint


def written(folder: Path) -> Weights:
    return {name: weight for file in folder.glob("*.safetensors") for name, weight in load_file(file).items()}


def assert_holds(folder: Path, weights: Weights) -> None:
    loaded, told = AutoModelForImageTextToText.from_pretrained(folder, dtype=DTYPE, output_loading_info=True)
    assert not any(told.values()), told
    for name, weight in loaded.state_dict().items():
        assert torch.equal(weight, weights[name].to(DTYPE)), name


@pytest.mark.parametrize("mesh", [(1,), (2,), (3,), (2, 2)], ids=str)
def test_the_folder_holds_what_all_ranks_trained(model: Path, tmp_path: Path, mesh: tuple[int, ...]) -> None:
    weights = weights_of(model)
    done: list[tuple[int, int]] = []
    made = export_checkpoint(
        save(tmp_path / "global_step_3", model, weights, mesh=mesh),
        tmp_path / "out",
        on_progress=lambda *counts: done.append(counts),
    )
    assert_holds(tmp_path / "out", weights)
    files = written(tmp_path / "out")
    assert made.weights == sum(weight.numel() for weight in files.values())
    assert (made.difference, made.adapter) == (0, 0)
    assert done[-1] == (2 * len(files), 2 * len(files))
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == "bfloat16"
    assert all(file.stat().st_mode & 0o044 == 0o044 for file in (tmp_path / "out").iterdir())
    AutoProcessor.from_pretrained(tmp_path / "out")


def test_what_the_released_models_call_their_weights_is_kept(tiny_model: Path, tmp_path: Path) -> None:
    export_checkpoint(save(tmp_path / "global_step_3", tiny_model, weights_of(tiny_model)), tmp_path / "out")
    assert written(tmp_path / "out").keys() == written(tiny_model).keys()
    assert "model.layers.0.mlp.up_proj.weight" in written(tmp_path / "out")


def test_an_adapter_is_merged_and_lies_beside(tiny_model: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model

    base = AutoModelForImageTextToText.from_pretrained(tiny_model)
    options = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", exclude_modules=".*visual.*")
    adapted = get_peft_model(base, options)
    with torch.no_grad():
        for number, (name, weight) in enumerate(adapted.named_parameters()):
            if "lora_" in name:
                weight.copy_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(number)))
    checkpoint = save(tmp_path / "global_step_3", tiny_model, dict(adapted.state_dict()), mesh=(2,))
    (checkpoint / "actor/lora_train_meta.json").write_text(json.dumps({"r": 4, "lora_alpha": 8}))
    made = export_checkpoint(checkpoint, tmp_path / "out")
    assert made.adapter == 4
    again = AutoModelForImageTextToText.from_pretrained(tiny_model)
    alone = PeftModel.from_pretrained(again, tmp_path / "out/lora_adapter").merge_and_unload()
    assert_holds(tmp_path / "out", dict(alone.state_dict()))
    (checkpoint / "actor/lora_train_meta.json").unlink()
    with pytest.raises(JigsawError, match=r"lora_train_meta\.json: cannot be read .* it says by what the adapter is"):
        export_checkpoint(checkpoint, tmp_path / "other")


@pytest.fixture
def checkpoint(tiny_model: Path, tmp_path: Path) -> Path:
    """One of two ranks."""
    return save(tmp_path / "global_step_3", tiny_model, weights_of(tiny_model), mesh=(2,))


def _drop_rank(checkpoint: Path) -> None:
    (checkpoint / "actor/model_world_size_2_rank_1.pt").unlink()


def _truncate(checkpoint: Path) -> None:
    file = checkpoint / "actor/model_world_size_2_rank_1.pt"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _forget_ranks(checkpoint: Path) -> None:
    (checkpoint / "actor/fsdp_config.json").write_text("{}")


def _be_another(checkpoint: Path) -> None:
    file = checkpoint / "actor/huggingface/config.json"
    config = json.loads(file.read_text())
    config["text_config"]["num_hidden_layers"] = config["text_config"]["num_hidden_layers"] + 1
    config["text_config"].pop("layer_types", None)
    file.write_text(json.dumps(config))


def _be_unknown(checkpoint: Path) -> None:
    (checkpoint / "actor/huggingface/config.json").write_text('{"model_type": "no_such"}')


def _be_garbage(checkpoint: Path, name: str, text: str) -> None:
    (checkpoint / "actor" / name).write_text(text)


def _lose_config(checkpoint: Path) -> None:
    (checkpoint / "actor/huggingface/config.json").unlink()


def _lose_processor(checkpoint: Path) -> None:
    (checkpoint / "actor/huggingface/processor_config.json").unlink()


def _be_half(checkpoint: Path) -> None:
    (checkpoint / "WHOLE").unlink()


def _hold_code(checkpoint: Path) -> None:
    torch.save({"weight": _Code()}, checkpoint / "actor/model_world_size_2_rank_1.pt")


class _Code:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("ran"),)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_drop_rank, r"actor: model_world_size_2_rank_1\.pt is missing, of 2 ranks; where machines share no disk"),
        (_truncate, r"model_world_size_2_rank_1\.pt: cannot be read \(.*\); take another checkpoint"),
        (_hold_code, r"model_world_size_2_rank_1\.pt: cannot be read \("),
        (_forget_ranks, r"fsdp_config\.json: cannot be read \('world_size'\); take another checkpoint"),
        (_be_another, r"weights are the checkpoint's or the model's alone, such as model\.language_model\.layers"),
        (_be_unknown, r"huggingface: holds no model and processor that are known here \("),
        (partial(_be_garbage, name="fsdp_config.json", text="[]"), r"fsdp_config\.json: cannot be read"),
        (partial(_be_garbage, name="huggingface/config.json", text="{garbage"), "holds no model and processor that"),
        (partial(_be_garbage, name="huggingface/tokenizer.json", text="hello"), "holds no model and processor that"),
        (_lose_config, r"huggingface/config\.json: is missing, the model's config; take another checkpoint"),
        (_lose_processor, "holds no model and processor that are known here"),
        (_be_half, "is not complete, its save was cut off; take an earlier one"),
    ],
)
def test_a_broken_checkpoint_is_one_line_and_makes_nothing(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path], None], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    spoil(checkpoint)
    with pytest.raises(JigsawError, match=said) as raised:
        export_checkpoint(checkpoint, tmp_path / "out")
    assert "\n" not in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.name]


def test_a_full_disk_is_said_before_anything_is_written(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**20))
    with pytest.raises(JigsawError, match=r"0\.0 GiB are free, the model takes 0\.0; make room"):
        export_checkpoint(checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def mistaken(monkeypatch: pytest.MonkeyPatch) -> None:
    """One weight is not written as it was trained."""
    right = export.Trained.weight
    asked: set[str] = set()

    def wrong(self: export.Trained, name: str) -> torch.Tensor:
        first = name not in asked
        asked.add(name)
        weight = right(self, name)
        return weight + 1 if first and name.endswith("layers.0.mlp.up_proj.weight") else weight

    monkeypatch.setattr(export.Trained, "weight", wrong)


@pytest.mark.usefixtures("mistaken")
def test_what_is_not_as_it_was_trained_is_noticed(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(JigsawError, match=r"layers\.0\.mlp\.up_proj\.weight is not as it was trained"):
        export_checkpoint(checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()
