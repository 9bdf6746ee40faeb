"""What ``jigsaw train`` says before verl's first line, and what it starts."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from typer.testing import CliRunner

from jigsaw import __version__
from jigsaw.cli import app
from jigsaw.errors import JigsawError, Problems
from jigsaw.machine import cores_of_a_run, pins
from jigsaw.verl_plugin import launch, preflight
from jigsaw.verl_plugin.checkpoint import MARKER, override
from jigsaw.verl_plugin.cpu.environment import ENVIRONMENT
from jigsaw.verl_plugin.launch import Inputs, plan_start, recipes
from jigsaw.verl_plugin.supervisor import Limits


@pytest.fixture(autouse=True)
def no_cpu_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one, a recipe for GPUs takes variables out of the environment of all tests."""
    monkeypatch.delenv("VERL_PLATFORM", raising=False)


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["train", *arguments])


def test_the_recipes_are_those_of_grpo() -> None:
    assert {"depth", "image", "image_lora_3b", "mixture", "quickstart", "smoke", "video"} <= set(recipes())
    assert not {"base", "warm_start"} & set(recipes())


def test_a_recipe_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(JigsawError, match=r"no recipe configs/imgae\.yaml; there are depth, image, image_2_gpus, "):
        plan_start("imgae", [])


def test_a_recipe_of_ones_own_lies_anywhere_and_builds_on_ours(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("defaults: [base, {machine: gpu_8}, _self_]\ndata: {train_batch_size: 12}\n")
    start = plan_start(str(mine), ["data.seed=1"])
    assert start.config.data.train_batch_size == 12
    assert start.config.data.max_prompt_length == 8192
    assert start.config.trainer.default_local_dir.endswith("outputs/mine_jigsaw/checkpoints")
    assert start.arguments[:2] == [f"--config-dir={tmp_path}", "--config-name=mine"]
    with pytest.raises(JigsawError, match=r"nope\.yaml: there is no such file"):
        plan_start("nope.yaml", [])


def test_a_model_is_chosen_by_its_name() -> None:
    known = {"qwen2_5_vl_3b", "qwen2_5_vl_7b", "qwen2_5_vl_32b", "qwen3_vl_4b", "qwen3_vl_8b", "thinklite_vl_7b"}
    assert known == launch.models().keys()
    start = plan_start("image", ["model=qwen3_vl_8b", "data.seed=1"])
    assert start.config.actor_rollout_ref.model.path == "Qwen/Qwen3-VL-8B-Instruct"
    assert start.given == ["actor_rollout_ref.model.path=Qwen/Qwen3-VL-8B-Instruct", "data.seed=1"]
    own = "actor_rollout_ref.model.path=/weights"
    assert list(launch._with_path_of_model(["model=qwen3_vl_8b", own])) == [own]
    with pytest.raises(
        JigsawError, match=r"model=qwen3: there is no configs/models/qwen3\.yaml; there are qwen2_5_vl_32b"
    ):
        plan_start("image", ["model=qwen3"])


def test_a_models_name_beside_other_weights_is_refused(tmp_path: Path) -> None:
    weights = f"actor_rollout_ref.model.path={tmp_path}"
    (tmp_path / "config.json").write_text(json.dumps(OmegaConf.to_container(launch.models()["qwen2_5_vl_7b"].config)))
    assert list(launch._with_path_of_model(["model=qwen2_5_vl_7b", weights])) == [weights]
    with pytest.raises(JigsawError, match=f"model=qwen3_vl_8b, but {tmp_path} holds another model; leave model="):
        plan_start("image", ["model=qwen3_vl_8b", weights])


@pytest.mark.parametrize("name", ["a, b [1]", "it's {here} & there", "データ"])
def test_what_a_recipe_builds_on_is_found_in_a_folder_of_any_name(name: str) -> None:
    parsed = OverridesParser.create().parse_override(launch._search(Path("/", name), Path("/other")))
    assert parsed.value() == [f"file:///{name}", "file:///other"]


def test_all_names_that_are_unknown_are_said_with_the_nearest() -> None:
    given = ["data.trian_files=x", "trainer.n_gpu_per_node=4", "actor.clip_ratio_low=3", "data.quite_another=1"]
    with pytest.raises(JigsawError) as raised:
        plan_start("image", [*given, "data.seed=1", "+data.mine=1", "++data.more=1", "hydra.verbose=true"])
    assert str(raised.value).splitlines() == [
        "data.trian_files: is unknown; did you mean data.train_files or data.val_files?",
        "trainer.n_gpu_per_node: is unknown; did you mean trainer.n_gpus_per_node?",
        "actor.clip_ratio_low: is unknown; did you mean actor_rollout_ref.actor.clip_ratio_low or "
        "distillation.distillation_loss.clip_ratio_low?",
        "data.quite_another: is unknown; the recipe has no such value; to add one: +data.quite_another=…",
    ]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("machine=gpu_9", "Could not find 'machine/gpu_9' Available options in 'machine': cpu cpu_cluster gpu_1"),
        ("trainer.default_local_dir=run {1", "Hydra cannot read it; quote the value: \"trainer.default_local_dir='VA"),
        ("data.train_files=a,b", "To use it as a list, use key="),
        ("data.media_root=${oc.env:NOT_SET_AT_ALL}", "Environment variable 'NOT_SET_AT_ALL' not found"),
    ],
)
def test_what_hydra_cannot_compose_is_one_line(given: str, said: str) -> None:
    with pytest.raises(JigsawError) as raised:
        plan_start("image", [given])
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("folder", "sign"), [("run", "++"), ("it's run 1, a back\\slash", "")])
def test_a_recipe_starts_from_its_checkpoints_with_metrics_beside_them(tmp_path: Path, folder: str, sign: str) -> None:
    checkpoints = tmp_path / folder
    for part in ("actor", MARKER):
        (checkpoints / "global_step_2" / part).mkdir(parents=True)
    start = plan_start("image", [sign + override("trainer.default_local_dir", checkpoints)])
    assert start.config.trainer.default_local_dir == str(checkpoints)
    assert start.config.trainer.resume_from_path == str(checkpoints / "global_step_2")
    assert start.metrics.parent == checkpoints / "metrics"
    file = start.config.ray_kwargs.ray_init.runtime_env.env_vars.VERL_FILE_LOGGER_PATH
    assert file == str(start.metrics)
    assert not start.metrics.parent.exists()


def test_the_config_is_shown_and_nothing_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRATCH", str(tmp_path))
    folder = "trainer.default_local_dir=${oc.env:SCRATCH}/run"
    shown = run("image", folder, "data.seed=7", "trainer.resume_mode=auto", "--cfg", "job", "--resolve")
    assert shown.exit_code == 0
    config = OmegaConf.create(shown.stdout)
    assert config.trainer.default_local_dir == f"{tmp_path}/run"
    assert config.trainer.resume_mode == "auto"  # as given, not ours
    assert config.data.seed == 7
    assert config.data.trainer_mode == "sync"
    assert list(tmp_path.iterdir()) == []


def test_help_shows_the_call() -> None:
    shown = run("--help", "image")
    assert shown.exit_code == 0
    assert "jigsaw train" in shown.stdout
    assert "NAME=VALUE" in shown.stdout


def test_the_version_is_said() -> None:
    assert CliRunner().invoke(app, ["--version"]).stdout == f"jigsaw {__version__}\n"


def test_a_start_becomes_verls_trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[str, list[str], dict[str, str]]] = []
    monkeypatch.setattr(launch.os, "execve", lambda *call: started.append(call))

    def problems(config: DictConfig) -> list[str]:
        config.actor_rollout_ref.rollout.engine_kwargs.vllm.limit_mm_per_prompt = {"image": 9, "video": 0}
        return []

    monkeypatch.setattr(preflight, "problems", problems)
    (tmp_path / "rows").touch()
    data = (f"data.train_files={tmp_path}/rows", "data.media_root=.")
    assert run("image", f"trainer.default_local_dir={tmp_path}/run", *data, "data.seed=7").exit_code == 0
    ((program, arguments, environment),) = started
    assert program == sys.executable
    assert arguments[1:4] == ["-m", "jigsaw.verl_plugin.grpo", f"--config-dir={launch.CONFIGS}"]
    assert arguments[-1] == "data.seed=7"  # the user's come last and win
    composed = launch.compose_config(launch.CONFIGS, "image", *arguments[6:])  # as verl does
    assert composed.actor_rollout_ref.rollout.engine_kwargs.vllm.limit_mm_per_prompt == {"image": 9, "video": 0}
    assert environment["VERL_USE_EXTERNAL_MODULES"] == "jigsaw.verl_plugin.install"
    assert (tmp_path / "run/metrics").is_dir()


def test_with_restarts_a_start_is_supervised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Any, Any]] = []
    found: list[str] = []

    def supervised(supervisor: Any, start: Any) -> int:
        seen.append((supervisor._limits, supervisor._environment["VERL_USE_EXTERNAL_MODULES"]))
        again = supervisor._plan()
        assert start.command[:3] == again.command[:3] == [sys.executable, "-m", "jigsaw.verl_plugin.grpo"]
        found.append("something stands against it now")
        supervisor._plan()
        raise AssertionError

    monkeypatch.setattr("jigsaw.verl_plugin.supervisor.Supervisor.run", supervised)
    monkeypatch.setattr(preflight, "problems", lambda config: found)
    (tmp_path / "rows").touch()
    data = (f"data.train_files={tmp_path}/rows", "data.media_root=.", f"trainer.default_local_dir={tmp_path}/run")
    ended = run("image", *data, "--restarts", "3", "--hang-factor", "7.5", "--start-limit", "2")
    assert str(ended.exception) == "something stands against it now"
    assert seen == [(Limits(3, hang_factor=7.5, start_s=120), "jigsaw.verl_plugin.install")]
    assert (tmp_path / "run/rows.json").is_file()


@pytest.mark.seconds
def test_the_wheel_checks_a_start_at_once_and_without_the_clone(repository: Path, tmp_path: Path) -> None:
    """By the real command, as installed where there is no clone: it loads neither torch nor verl, and makes nothing."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path]
    subprocess.run(build, cwd=repository, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    assert (tmp_path / "installed/jigsaw/configs/models/qwen2_5_vl_7b.yaml").is_file()
    here = tmp_path / "here"
    here.mkdir()
    code = (
        "import sys; sys.argv[0] = 'jigsaw'\n"
        "from jigsaw.cli import main\n"
        "try: main()\n"
        "finally:\n"
        "    from jigsaw import machine as m; from jigsaw.verl_plugin.launch import CONFIGS, OUTPUTS\n"
        "    print(sorted({'torch', 'verl', 'vllm', 'transformers'} & set(sys.modules)))\n"
        "    print(CONFIGS, OUTPUTS.resolve(), m.SETUP, m.SETUP_GPU, m.QUICKSTART, m.CPU_SHELL, sep='\\n')"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VERL_")}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": str(tmp_path / "installed")}
    ended = subprocess.run(
        [sys.executable, "-c", code, "train", "image", "data.train_files=no.parquet"],
        cwd=here,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert ended.returncode == 1
    loaded, configs, outputs, *advised = ended.stdout.splitlines()
    assert loaded == "[]"
    assert (configs, outputs) == (f"{tmp_path}/installed/jigsaw/configs", f"{here}/outputs")
    assert "train_scripts" not in " ".join(advised)
    torch = next(pin for pin in pins() if pin.package == "torch" and pin.extra == "train")
    assert f"torch=={torch.wanted}" in advised[0]
    lines = ended.stderr.splitlines()
    assert all(line.startswith("error: ") for line in lines), ended.stderr
    for said in (
        "data.media_root is not set",
        "no.parquet: no such file",
        "no held-out rows to test on: set data.val_files",
        "actor_rollout_ref.model.path is Qwen/Qwen2.5-VL-7B-Instruct: neither a folder nor in the hub's cache",
    ):
        assert any(said in line for line in lines), said
    assert list(here.iterdir()) == []


def test_what_is_given_most_often_has_a_short_name(tmp_path: Path) -> None:
    inputs = Inputs("models/mine", "data/image", "COCO/train 2017", str(tmp_path))
    start = plan_start("image", [*inputs.overrides(), "data.val_files=other.parquet"])
    assert start.config.actor_rollout_ref.model.path == "models/mine"
    assert (start.config.data.train_files, start.config.data.val_files) == ("data/image/train.parquet", "other.parquet")
    assert start.config.data.media_root == "COCO/train 2017"
    assert start.config.trainer.default_local_dir == str(tmp_path / "checkpoints")
    assert start.metrics.parent == tmp_path / "checkpoints/metrics"
    mixture = plan_start("mixture", Inputs(data="data/image").overrides())
    assert (mixture.config.data.mixture, mixture.config.data.train_files) == (None, "data/image/train.parquet")


def test_loggers_write_beside_the_checkpoints_or_where_the_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TENSORBOARD_DIR", raising=False)
    monkeypatch.setenv("SWANLAB_LOG_DIR", "/elsewhere")
    start = plan_start("image", ["trainer.default_local_dir=/run", "trainer.logger=[file,tensorboard,swanlab]"])
    places = start.config.ray_kwargs.ray_init.runtime_env.env_vars
    assert (places.TENSORBOARD_DIR, places.SWANLAB_LOG_DIR) == ("/run/tensorboard", "/elsewhere")
    assert "WANDB_DIR" not in places


def test_a_recipe_may_name_its_folder(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    text = "defaults: [base, {machine: gpu_8}, _self_]\ntrainer: {default_local_dir: /shared/run}\n"
    mine.write_text(text)
    start = plan_start(str(mine), [])
    assert start.config.trainer.default_local_dir == "/shared/run"
    assert str(start.metrics).startswith("/shared/run/metrics/")
    assert not any("default_local_dir" in argument for argument in start.arguments)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1", "is no YAML that can be read"),
        ("- a\n", "is no recipe; begin it with defaults: "),
        ("a: 1\n", "is no recipe; begin it with defaults: "),
        ("", "is no recipe; begin it with defaults: "),
    ],
)
def test_a_file_that_is_no_recipe_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(text)
    with pytest.raises(JigsawError, match=f"mine.yaml: {said}") as error:
        plan_start(str(mine), [])
    assert "\n" not in str(error.value)


def test_a_recipe_that_builds_on_its_own_name_is_one_line(tmp_path: Path) -> None:
    mine = tmp_path / "image.yaml"
    mine.write_text("defaults: [image, _self_]\n")
    with pytest.raises(JigsawError, match=r"image\.yaml: builds on image, its own name; rename the file"):
        plan_start(str(mine), [])


def test_what_a_recipe_of_ones_own_misspells_is_said_and_what_is_its_own_stays(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "defaults: [image, _self_]\n"
        "data: {train_bach_size: 12}\n"
        "trainer: {max_response_length: 9, notes: mine}\n"
        "reward: {custom_reward_function: {reward_kwargs: {bonus: 1}}}\n"
    )
    with pytest.raises(Problems) as raised:
        plan_start(str(mine), [])
    assert str(raised.value).splitlines() == [
        "mine.yaml: data.train_bach_size is unknown; did you mean data.train_batch_size?",
        "mine.yaml: trainer.max_response_length is unknown; did you mean data.max_response_length?",
    ]


def test_a_supervised_recipe_of_ones_own(tmp_path: Path) -> None:
    mine, data = tmp_path / "mine.yaml", tmp_path / "a.parquet"
    mine.write_text("defaults: [image_sft, _self_]\ntrainer: {n_gpus_per_node: 2, device: cpu}\n")
    data.touch()
    given = [f"data.{name}={data}" for name in ("train_files", "val_files")]
    start = launch.plan_supervised(str(mine), [*given, f"data.media_root={tmp_path}", "model=qwen2_5_vl_3b"])
    assert start.config.model.path == "Qwen/Qwen2.5-VL-3B-Instruct"
    assert start.config.trainer.default_local_dir.endswith("outputs/mine/checkpoints")
    assert "--nproc_per_node=2" in start.command
    with pytest.raises(JigsawError, match=f"{mine} is trained with its answers: jigsaw sft {mine}"):
        plan_start(str(mine), [])
    with pytest.raises(JigsawError, match=r"machine=gpu_1: is GRPO's; the baseline runs on trainer\.n_gpus"):
        launch.plan_supervised(str(mine), ["machine=gpu_1"])
    mine.write_text("defaults: [image, _self_]\n")
    with pytest.raises(JigsawError, match=f"{mine} is trained by GRPO: jigsaw train {mine}"):
        launch.plan_supervised(str(mine), [])


def test_a_word_for_a_number_is_one_line_each() -> None:
    words = ["trainer.total_training_steps=abc", "actor_rollout_ref.actor.optim.lr=fast", "trainer.save_freq=often"]
    with pytest.raises(JigsawError) as error:
        plan_start("image", [*words, "trainer.test_freq=${trainer.save_freq}", "data.val_files=a.parquet"])
    assert str(error.value).splitlines() == [
        "trainer.total_training_steps=abc: must be a number, as 1000 is",
        "actor_rollout_ref.actor.optim.lr=fast: must be a number, as 1e-06 is",
        "trainer.save_freq=often: must be a number, as 40 is",
    ]


ROLLOUT = "actor_rollout_ref.rollout"


@pytest.mark.parametrize(
    ("recipe", "changes", "length", "sequences"),
    [
        ("image", {}, 10240, 512),  # 256 prompts × 16 responses / 8 engines
        ("video", {}, 10240, 256),
        ("image", {"trainer.n_gpus_per_node": 4}, 10240, None),  # verl's 1024 are enough
        ("image", {f"{ROLLOUT}.tensor_model_parallel_size": 2, "trainer.nnodes": 2}, 10240, 512),
        ("image", {"data.train_batch_size": 7, f"{ROLLOUT}.n": 3}, 10240, 3),  # of 21, on 8 engines
        ("image", {"data.max_prompt_length": 1000, "data.max_response_length": 24}, 1024, 512),
        ("image", {f"{ROLLOUT}.max_model_len": 20000, f"{ROLLOUT}.max_num_seqs": 64}, None, None),
        ("quickstart", {}, None, None),  # its own
    ],
)
def test_vllm_is_sized_by_the_batch(
    recipe: str, changes: dict[str, int], length: int | None, sequences: int | None
) -> None:
    config = launch._as_it_is(launch.CONFIGS, recipe).copy()
    for name, value in changes.items():
        OmegaConf.update(config, name, value)
    sizes = {"max_model_len": length, "max_num_seqs": sequences}
    assert launch._sizes(config) == [f"{ROLLOUT}.{name}={size}" for name, size in sizes.items() if size]


def test_verl_composes_the_sizes_that_are_planned() -> None:
    given = [f"{ROLLOUT}.n=8"]
    start = plan_start("image", given)
    ours = [value for value in start.arguments if value.startswith(ROLLOUT)]
    composed = launch.compose_config(launch.CONFIGS, "image", *ours, *given).actor_rollout_ref.rollout
    planned = start.config.actor_rollout_ref.rollout
    assert (composed.max_model_len, composed.max_num_seqs) == (10240, 256)
    assert (planned.max_model_len, planned.max_num_seqs) == (10240, 256)


@pytest.mark.parametrize("given", [f"{ROLLOUT}.max_num_seqs=2000", f"{ROLLOUT}.max_model_len=20000"])
def test_a_size_that_is_given_stays(given: str) -> None:
    name, _, value = given.rpartition("=")
    assert OmegaConf.select(plan_start("image", [given]).config, name) == int(value)


def test_a_batch_that_is_no_number_is_one_line() -> None:
    with pytest.raises(JigsawError, match=r"data\.max_prompt_length is None; it must be a whole"):
        plan_start("image", ["data.max_prompt_length=null"])


@pytest.mark.seconds
@pytest.mark.parametrize(("machine", "cores"), [("gpu_1", 5), ("gpu_2", 8), ("gpu_4", 15), ("gpu_8", 33)])
def test_a_machine_file_says_the_cores_that_it_takes(repository: Path, machine: str, cores: int) -> None:
    config = plan_start("image", [f"machine={machine}"]).config
    units = config.transfer_queue.backend.SimpleStorage.num_data_storage_units
    assert cores_of_a_run(config.trainer.n_gpus_per_node, units) == cores
    assert f"take {cores} of Ray's CPU cores" in (repository / f"configs/machine/{machine}.yaml").read_text()


def test_the_script_sets_what_is_listed_and_nothing_else(repository: Path) -> None:
    bare = {"PATH": os.environ["PATH"]}
    code = "source train_scripts/env_cpu.sh; env"
    told = subprocess.run(["bash", "-c", code], cwd=repository, env=bare, capture_output=True, text=True, check=True)
    found = dict(line.split("=", 1) for line in told.stdout.splitlines())
    assert {name: value for name, value in found.items() if name not in ("PATH", "PWD", "SHLVL", "_")} == ENVIRONMENT


def test_a_recipe_for_gpus_leaves_a_shell_for_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OMP_NUM_THREADS", "16")  # not the script's
    cpu, gpus = plan_start("quickstart", []).config, plan_start("image", []).config
    assert launch.leave_cpu(cpu) == []
    assert sorted(launch.leave_cpu(gpus)) == sorted(ENVIRONMENT.keys() - {"OMP_NUM_THREADS"})
    assert [name for name in ENVIRONMENT if name in os.environ] == ["OMP_NUM_THREADS"]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # in a shell that is not for the CPU
    assert launch.leave_cpu(gpus) == []


@pytest.mark.seconds
def test_what_is_left_is_said_and_the_checks_go_by_what_stays(tmp_path: Path) -> None:
    """By the real command: the hub is asked, which the shell had forbidden."""
    given = [f"trainer.default_local_dir={tmp_path}/run", "data.val_files=no.parquet", "data.train_files=no.parquet"]
    environment = {**os.environ, **ENVIRONMENT, "HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9"}
    code = "from jigsaw.cli import main; main()"
    command = [sys.executable, "-c", code, "train", "image", *given]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ended.returncode == 1
    assert ended.stderr.startswith("the recipe is for GPUs; left out, of train_scripts/env_cpu.sh: VERL_PLATFORM, ")
    assert "the hub cannot be asked" in ended.stderr


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["data.train_files=[a.parquet,b.parquet]"], ["a.parquet: no such file", "b.parquet: no such file"]),
        (["trainer.n_gpus_per_node=0"], ["data.train_files is not set", "trainer.n_gpus_per_node is 0; it must be"]),
        (["data.train_batch_size=many"], ["data.train_batch_size is many; it must be a whole number"]),
    ],
)
def test_what_stops_the_supervised_baseline_is_a_line_each(given: list[str], said: list[str]) -> None:
    with pytest.raises(Problems) as raised:
        launch.plan_supervised("image_sft", given)
    for words in said:
        assert any(words in line for line in str(raised.value).splitlines()), words
    with pytest.raises(JigsawError, match="image_sft is trained with its answers: jigsaw sft image_sft"):
        plan_start("image_sft", [])
