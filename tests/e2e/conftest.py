"""A small GRPO run on the CPU, with verl, Ray and vLLM; and verl's workers alone, on one rank and on two."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from jigsaw.show.training import Metrics, read_metrics
from jigsaw.toy.model import build_tiny_model
from jigsaw.verl_plugin.checkpoint import resume_overrides
from jigsaw.verl_plugin.child import train_with_verl


@dataclass
class Run:
    """A small run's places, and a way to train it on."""

    folder: Path
    media_root: Path
    model: Path

    def train(self, steps: int, *overrides: str, some_reward: bool = False) -> dict[int, Metrics]:
        """Train up to ``steps``; the metrics of the steps of this call.

        A model with random weights earns nothing by our reward, so its steps have no gradient; by ``some_reward`` (see
        some_reward.py) they have.
        """
        if some_reward:
            overrides += (f"reward.custom_reward_function.path={Path(__file__).with_name('some_reward.py')}",)
        metrics = self.folder / f"metrics-{steps}.jsonl"
        train_with_verl(
            [
                "--config-dir=configs",
                "--config-name=quickstart",
                f"hydra.run.dir={self.folder / 'hydra'}",
                f"data.train_files={self.folder / 'data/train.parquet'}",
                f"data.val_files={self.folder / 'data/val.parquet'}",
                f"data.media_root={self.media_root}",
                "data.train_batch_size=8",
                "actor_rollout_ref.rollout.n=4",
                "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=32",
                "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=32",
                f"actor_rollout_ref.model.path={self.model}",
                f"trainer.total_training_steps={steps}",
                f"trainer.default_local_dir={self.folder / 'checkpoints'}",
                "trainer.val_before_train=false",
                "trainer.test_freq=2",
                "trainer.save_freq=1",
                *resume_overrides(self.folder / "checkpoints"),
                *overrides,
            ],
            run=self.folder,
            log=self.folder / "verl.log",
            metrics=metrics,
            on_step=lambda step, values: None,
        )
        return read_metrics([metrics])


@pytest.fixture(scope="session")
def make_run(tiny_model: Path) -> Callable[..., Run]:
    """A run in a folder, whose ``data`` holds the rows, of media below another; of the tiny model unless given one."""
    return lambda folder, media_root, model=tiny_model: Run(folder, media_root, model)


@pytest.fixture(scope="session", params=["qwen2_5_vl", pytest.param("qwen3_vl", marks=pytest.mark.slow("models"))])
def family(request: pytest.FixtureRequest) -> str:
    """Each family of models that is trained; whatever uses it runs once for each."""
    return str(request.param)


@pytest.fixture(scope="session")
def model_of_family(family: str, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of the family, whose head is its embeddings."""
    from jigsaw.toy.model import build_tiny_model
    from jigsaw.toy.warm_start import CUE_WORDS

    if family == "qwen2_5_vl":
        return tiny_model
    return build_tiny_model(tmp_path_factory.mktemp("model") / "tiny", family=family, words=CUE_WORDS)


@pytest.fixture(scope="session")
def sharp_model(tmp_path_factory: pytest.TempPathFactory, model_of_family: Path) -> Path:
    """The tiny model with weights that make it care where its tokens stand, and sure of what it says.

    Freshly drawn, it attends to all tokens alike: whatever the rollout got wrong about positions would not show.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    sharp = AutoModelForImageTextToText.from_pretrained(model_of_family)
    with torch.no_grad():
        for name, weight in sharp.named_parameters():
            if name.endswith(("q_proj.weight", "k_proj.weight", "q_norm.weight")):
                weight *= 4.5 if "proj" in name else 4  # where queries are normalised, their size is their norm's
            elif name.endswith("language_model.norm.weight"):
                weight *= 2.3
        # verl's rollout never samples these, so its probabilities are of all other tokens; the trainer's are of all.
        sharp.get_input_embeddings().weight[[sharp.config.image_token_id, sharp.config.video_token_id]] = 0
    folder = tmp_path_factory.mktemp("model") / "sharp"
    sharp.save_pretrained(folder)
    AutoProcessor.from_pretrained(model_of_family).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def untied_model(tmp_path_factory: pytest.TempPathFactory, model_of_family: Path) -> Path:
    """The tiny model with a head of its own, as a 7B has."""
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    tied = AutoModelForImageTextToText.from_pretrained(model_of_family)
    config = AutoConfig.from_pretrained(model_of_family)
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = False
    untied = AutoModelForImageTextToText.from_config(config)
    untied.load_state_dict(tied.state_dict())
    with torch.no_grad():
        untied.lm_head.weight += 0.02 * torch.randn(
            untied.lm_head.weight.shape, generator=torch.Generator().manual_seed(0)
        )
    folder = tmp_path_factory.mktemp("model") / "untied"
    untied.save_pretrained(folder)
    AutoProcessor.from_pretrained(model_of_family).save_pretrained(folder)
    return folder


@dataclass
class Machine:
    """What programs take for a machine: a host name, a network, a /dev/shm and a /run of its own."""

    name: str
    address: str
    holder: int
    """The process that keeps the namespaces."""
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, *command: str | Path, log: Path, **environment: str) -> subprocess.Popen[bytes]:
        """A process on this machine; it ends with the machine."""
        enter = ["nsenter", f"--target={self.holder}", "--net", "--uts", "--mount", "--wd=."]
        with log.open("ab") as sink:
            process = subprocess.Popen(
                [*enter, *map(str, command)],
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
            )
        self.processes.append(process)
        return process

    def run(self, *command: str | Path, log: Path, **environment: str) -> None:
        """Run a command to its end, which must be a good one."""
        status = self.start(*command, log=log, **environment).wait()
        assert status == 0, log.read_text()[-4000:]

    def all(self) -> list[psutil.Process]:
        """Its processes, whoever started them."""
        listing = ["ip", "netns", "pids", _namespace(self.name)]
        found = subprocess.run(listing, capture_output=True, text=True, check=True).stdout
        return [psutil.Process(int(number)) for number in found.split() if psutil.pid_exists(int(number))]

    def end(self) -> None:
        """End them."""
        for process in self.all():
            process.kill()
        psutil.wait_procs(self.all(), timeout=10)
        for started in self.processes:
            started.wait()


def _namespace(name: str) -> str:
    return f"jigsaw-{os.getpid()}-{name}"


_HOLD = """
hostname "$1" && mount --bind "$2" /etc/hosts && mount --bind /dev/null /etc/resolv.conf &&
    mount -t tmpfs tmpfs /dev/shm && mount -t tmpfs tmpfs /run && echo ready && exec sleep infinity
"""


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Machine, Machine]]:
    """Two machines with a cable between them, on this one: ``node1`` and ``node2``."""
    assert os.geteuid() == 0, "--slow cluster makes network namespaces, which takes root"
    folder = tmp_path_factory.mktemp("machines")
    addresses = {"node1": "10.77.0.1", "node2": "10.77.0.2"}
    hosts = folder / "hosts"
    hosts.write_text("".join(f"{at} {name}\n" for name, at in {"localhost": "127.0.0.1", **addresses}.items()))

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True)

    def hold(name: str) -> int:
        command = [
            "ip",
            "netns",
            "exec",
            _namespace(name),
            "unshare",
            "--uts",
            "sh",
            "-c",
            _HOLD,
            "sh",
            name,
            str(hosts),
        ]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        stack.callback(process.wait)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        return process.pid

    with ExitStack() as stack:
        for name in addresses:
            ip("netns", "add", _namespace(name))
            stack.callback(ip, "netns", "delete", _namespace(name))
        one, two = (["name", "eth0", "netns", _namespace(name)] for name in addresses)
        ip("link", "add", *one, "type", "veth", "peer", *two)
        for name, address in addresses.items():
            inside = ("-netns", _namespace(name))
            ip(*inside, "address", "add", f"{address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                ip(*inside, "link", "set", device, "up")
            ip(*inside, "route", "add", "default", "dev", "eth0")  # by it programs find their own address
        found = [Machine(name, address, hold(name)) for name, address in addresses.items()]
        for machine in found:
            stack.callback(machine.end)
        yield found[0], found[1]


def run_side_by_side(
    commands: Sequence[Sequence[str]], environment: Mapping[str, str], *, seconds: float
) -> list[tuple[int, str]]:
    """Exit status and last output of Python processes, which are ended after so many seconds."""
    processes = [
        subprocess.Popen(
            [sys.executable, *command],
            env={**environment, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for command in commands
    ]
    end = time.monotonic() + seconds
    try:
        outputs = [process.communicate(timeout=max(0.0, end - time.monotonic()))[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.wait(), output[-4000:]) for process, output in zip(processes, outputs, strict=True)]


class Ranks:
    """What one rank and what two ranks made of the same batches (rank.py)."""

    FLOAT = 1e-6
    """Much less than the 3e-4 by which a step moves a weight; the largest weights are rounded to 1e-7."""

    def __init__(self, folder: Path) -> None:
        self._weights = {ranks: load_file(folder / f"{ranks}.safetensors") for ranks in (1, 2)}
        self._metrics = {ranks: json.loads((folder / f"{ranks}.json").read_text()) for ranks in (1, 2)}

    def weights(self, update: str, *, ranks: int = 2) -> dict[str, torch.Tensor]:
        """The weights after an update, by name."""
        everything, prefix = self._weights[ranks], f"{update}/"
        return {name.removeprefix(prefix): everything[name] for name in everything if name.startswith(prefix)}

    def metrics(self, update: str, *, ranks: int = 2) -> dict[str, float]:
        """What verl tells about an update."""
        return dict(self._metrics[ranks][update])

    def distance(self, update: str, other: str) -> float:
        """The largest difference between two ranks' weights after two updates."""
        return _distance(self.weights(update), self.weights(other))

    def assert_equal(self, update: str) -> None:
        """Fail unless two ranks learned what one learned."""
        assert _distance(self.weights(update, ranks=1), self.weights(update)) <= self.FLOAT
        names = ("loss", "grad_norm", "lr", "actor/pg_clipfrac", "actor/entropy_loss")
        _assert_close(self.metrics(update, ranks=1), self.metrics(update), names)

    def assert_learned_alike(self, other: "Ranks", update: str, *, size: int) -> None:
        """Fail unless as many ranks learned the same elsewhere, but for the rounding of float32."""
        wanted, found = (ranks.weights(f"{update} gradients", ranks=size) for ranks in (self, other))
        assert wanted.keys() == found.keys()
        scale = max((gradient.norm() for gradient in wanted.values()), default=torch.zeros(()))
        for name, gradient in wanted.items():
            # A key's bias moves all scores of a query alike: its gradient is what rounding leaves of 0.
            allowed = 1e-5 * max(gradient.norm(), 1e-5 * scale)
            assert (found[name] - gradient).norm() <= allowed, name
        one, two = (torch.cat([w.flatten() for w in r.weights(update, ranks=size).values()]) for r in (self, other))
        assert (two - one).norm() <= 1e-5 * one.norm()
        # Not the share of clipped ratios, of which verl gives the mean of means over micro-batches.
        names = ("loss", "grad_norm", "lr", "actor/entropy_loss")
        _assert_close(self.metrics(update, ranks=size), other.metrics(update, ranks=size), names)


def _assert_close(one: dict[str, float], two: dict[str, float], names: Sequence[str]) -> None:
    # The weights alone do not tell the scale of a gradient: it is clipped, and Adam divides by it.
    for name in names:
        assert two[name] == pytest.approx(one[name], rel=1e-5, abs=Ranks.FLOAT, nan_ok=True), name


def _distance(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> float:
    assert one
    assert one.keys() == two.keys()
    return float(torch.stack([(two[name] - weight).abs().max() for name, weight in one.items()]).max())


@pytest.fixture(scope="session")
def ranks(model_of_family: Path, untied_model: Path) -> Ranks:
    """The updates of rank.py by verl's own engine."""
    return _run_ranks(model_of_family, untied_model, vendor="")


@pytest.fixture(scope="session")
def packed_ranks(model_of_family: Path, untied_model: Path) -> Ranks:
    """The updates of rank.py by the packed engine."""
    return _run_ranks(model_of_family, untied_model, vendor="packed")


def _run_ranks(tied: Path, untied: Path, *, vendor: str) -> Ranks:
    """On one rank and on two, all three processes side by side."""
    script = str(Path(__file__).with_name("rank.py"))
    with TemporaryDirectory() as folder:  # hundreds of megabytes, which pytest would keep
        models = [str(tied), str(untied)]
        commands = [[script, *models, folder, str(rank), str(size)] for size in (1, 2) for rank in range(size)]
        for status, output in run_side_by_side(commands, {**os.environ, "VERL_ENGINE_VENDOR": vendor}, seconds=600):
            assert status == 0, output
        return Ranks(Path(folder))


@pytest.fixture(scope="session")
def side_by_side() -> Callable[..., list[tuple[int, str]]]:
    """:func:`run_side_by_side`, for tests."""
    return run_side_by_side


@pytest.fixture(scope="session")
def restless(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives a tiny model of a family that says something else of every question: its weights are large."""

    @cache
    def made(family: str) -> Path:
        folder = build_tiny_model(tmp_path_factory.mktemp("restless") / "model", family=family)
        model = AutoModelForImageTextToText.from_pretrained(folder)
        torch.manual_seed(1)
        for weight in model.parameters():
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=0.1)
        model.save_pretrained(folder)
        return folder

    return made
