"""train_scripts/cluster/slurm.sh under a real Slurm of two nodes, Debian's, each on a machine of its own."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from jigsaw.prepare.images import ImageOptions
from jigsaw.prepare.pipeline import prepare_rows
from jigsaw.show.training import read_metrics
from jigsaw.toy.scenes import write_scenes

pytestmark = [pytest.mark.e2e, pytest.mark.slow("cluster"), pytest.mark.timeout(900)]

SCRIPT = "train_scripts/cluster/slurm.sh"
PROGRAMS = {"munged": "munge", "slurmctld": "slurmctld", "slurmd": "slurmd", "sbatch": "slurm-client"}
"""What is started, and Debian's package of it."""
CONFIG = """
ClusterName=jigsaw
SlurmctldHost=node1
SlurmUser=root
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
KillWait=60
NodeName=node[1-2] CPUs={cores} RealMemory=1000
PartitionName=all Nodes=ALL Default=YES
"""
RAY = "--num-cpus=16 --num-gpus=1 --object-store-memory=300000000"


@dataclass
class Ended:
    """A job that ended: its exit code, what it printed, its logs."""

    code: int
    output: str
    logs: Path


@dataclass
class Slurm:
    """A Slurm that runs: jobs are submitted on ``node1``."""

    folder: Path
    machines: Any

    def submit(self, clone: Path, *arguments: str, nodes: int = 2, **environment: str) -> int:
        """Submit the script from a folder; the number of the job."""
        log = self.folder / "sbatch.log"
        log.unlink(missing_ok=True)
        command = ["sbatch", "--parsable", f"--nodes={nodes}", f"--chdir={clone}", f"--output={self.folder}/job-%j"]
        given = {"SLURM_CONF": str(self.folder / "slurm.conf"), "RAY_START": RAY, "RAY_TMPDIR": "/run", **environment}
        shell = ["sh", "-c", 'cd "$0" && exec "$@"', clone]  # the folder that Slurm tells the job
        self.machines[0].run(*shell, *command, SCRIPT, *arguments, log=log, **given)
        return int(log.read_text())

    def ask(self, *command: str) -> str:
        """What a command of Slurm's prints."""
        log = self.folder / "asked"
        log.unlink(missing_ok=True)
        self.machines[0].run(*command, log=log, SLURM_CONF=str(self.folder / "slurm.conf"))
        return log.read_text()

    def wait_for(self, text: str, job: int) -> None:
        """Wait until a job printed it."""
        output = self.folder / f"job-{job}"
        while not output.exists() or text not in output.read_text():
            assert re.search("JobState=(PENDING|CONFIGURING|RUNNING)", self.ask("scontrol", "show", "job", str(job)))
            time.sleep(1)

    def wait(self, job: int, clone: Path) -> Ended:
        """Wait for a job's end."""
        while re.search(
            "JobState=(PENDING|CONFIGURING|RUNNING|COMPLETING)", state := self.ask("scontrol", "show", "job", str(job))
        ):
            time.sleep(1)
        code = re.search(r"ExitCode=(\d+):", state)
        assert code is not None
        return Ended(int(code[1]), (self.folder / f"job-{job}").read_text(), clone / "outputs/slurm" / str(job))

    def run(self, clone: Path, *arguments: str, **given: Any) -> Ended:
        """Submit and wait."""
        return self.wait(self.submit(clone, *arguments, **given), clone)


@pytest.fixture(scope="module")
def slurm(machines: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """slurmctld on ``node1``, slurmd on both; installed if they are not there."""
    if missing := [package for program, package in PROGRAMS.items() if shutil.which(program) is None]:
        install = ["apt-get", "install", "--yes", "--no-install-recommends"]
        subprocess.run(["apt-get", "update"], check=True, capture_output=True)
        subprocess.run([*install, *missing], check=True, capture_output=True)
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "node1", "node2"):
        (folder / name).mkdir()
    cores = len(os.sched_getaffinity(0))
    (folder / "slurm.conf").write_text(CONFIG.format(folder=folder, cores=cores))
    # Not looked for: where there are no cgroups, slurmd would not start.
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    with ExitStack() as stack:
        munge = [
            f"--{name}={folder}/munge.{name.removesuffix('-file')}" for name in ("key-file", "pid-file", "log-file")
        ]
        munge += [f"--seed-file={folder}/munge.seed", f"--socket={folder}/munge.socket"]
        # Forced: the folder above may be everybody's.
        daemon = subprocess.Popen(["munged", "--foreground", "--force", *munge], stderr=subprocess.DEVNULL)
        stack.callback(daemon.wait)
        stack.callback(daemon.terminate)
        where = {"SLURM_CONF": str(folder / "slurm.conf")}
        while not (folder / "munge.socket").exists():
            assert daemon.poll() is None
            time.sleep(0.1)
        machines[0].start("slurmctld", "-D", log=folder / "slurmctld.out", **where)
        for machine in machines:
            machine.start("slurmd", "-D", "-N", machine.name, log=folder / f"{machine.name}.out", **where)
        found = Slurm(folder, machines)
        end = time.monotonic() + 60
        log = folder / "sinfo"
        idle = False
        while not idle:
            log.unlink(missing_ok=True)
            asked = machines[0].start("sinfo", "--noheader", "--format=%D %t", log=log, **where).wait()
            idle = asked == 0 and log.read_text() == "2 idle\n"
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.5)
        yield found


@pytest.fixture(autouse=True)
def no_job_stays(slurm: Slurm) -> Iterator[None]:
    """Of a test that failed; the next one's would wait for it."""
    yield
    slurm.ask("scancel", "--user=root")


@pytest.fixture
def clone(repository: Path, tmp_path: Path) -> Callable[..., Path]:
    """A clone with the real scripts and the real Ray; ``jigsaw`` is a line of shell, as may be what is before Ray."""

    def make(jigsaw: str = "exit 0", ray: str = "") -> Path:
        programs = tmp_path / "clone/.venv/bin"
        programs.mkdir(parents=True)
        shutil.copytree(repository / "train_scripts", tmp_path / "clone/train_scripts")  # ".." of a link is elsewhere
        real = Path(sys.executable).parent
        for name, code in (
            ("jigsaw", jigsaw),
            ("ray", f'{ray}\nexec {real}/ray "$@"'),
            ("python", f'exec {real}/python "$@"'),
        ):
            (programs / name).write_text(f"#!/bin/sh\n{code}\n")
            (programs / name).chmod(0o755)
        return tmp_path / "clone"

    return make


def _ray_of(machine: Any) -> list[psutil.Process]:
    """The processes of Ray that run on a machine."""
    return [
        process
        for process in machine.all()
        if "raylet" in " ".join(process.cmdline()) or process.name() == "gcs_server"
    ]


@pytest.fixture
def training(tiny_model: Path, tmp_path: Path) -> list[str]:
    """Arguments of a small training, whose places are in the test's folder."""
    write_scenes(tmp_path / "scenes", 16, seed=3)
    prepare_rows(tmp_path / "scenes", tmp_path / "rows", ImageOptions(grid=(2, 1), val=4), progress=lambda *_: None)
    return [
        "quickstart",
        "machine=cpu_cluster",
        f"data.train_files={tmp_path}/rows/train.parquet",
        f"data.val_files={tmp_path}/rows/val.parquet",
        f"data.media_root={tmp_path}/scenes",
        "data.train_batch_size=4",
        "actor_rollout_ref.rollout.n=2",
        f"actor_rollout_ref.model.path={tiny_model}",
        f"hydra.run.dir={tmp_path}/hydra",
        f"trainer.default_local_dir={tmp_path}/checkpoints",
        "trainer.val_before_train=false",
        "trainer.test_freq=-1",
        "trainer.save_freq=100",
    ]


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_tiny_model_trains(slurm: Slurm, repository: Path, training: list[str], tmp_path: Path, nodes: int) -> None:
    ended = slurm.run(repository, *training, "trainer.total_training_steps=1", nodes=nodes)
    assert ended.code == 0, ended.output
    assert sorted(read_metrics((tmp_path / "checkpoints/metrics").glob("*.jsonl"))) == [1]
    names = [f"node{number}" for number in range(1, nodes + 1)]
    assert {f"{name}.log" for name in names} | {"train.log"} <= {path.name for path in ended.logs.iterdir()}
    assert (ended.logs / "train.log").read_text() in ended.output
    shutil.rmtree(ended.logs)


def test_a_training_at_its_time_limit_saves_and_goes_on_when_submitted_again(
    slurm: Slurm, repository: Path, training: list[str], tmp_path: Path
) -> None:
    job = slurm.submit(repository, *training, "trainer.total_training_steps=500", nodes=1)
    slurm.wait_for("step:2 ", job)
    slurm.ask("scancel", "--batch", "--signal=TERM", str(job))  # what Slurm sends 300 s before the limit
    ended = slurm.wait(job, repository)
    assert ended.code == 143
    told = re.search(
        r"error: stopped by SIGTERM after step (\d+) of 500; it is saved as global_step_\1$", ended.output, re.M
    )
    assert told, ended.output
    for machine in slurm.machines:
        assert _ray_of(machine) == []
    last = int(told[1]) + 1
    again = slurm.run(repository, *training, f"trainer.total_training_steps={last}", nodes=1)
    assert again.code == 0, again.output
    assert sorted(read_metrics(sorted((tmp_path / "checkpoints/metrics").glob("*.jsonl")))) == list(range(1, last + 1))
    for logs in (ended.logs, again.logs):
        shutil.rmtree(logs)


def test_the_exit_code_is_the_runs_and_nothing_is_left(slurm: Slurm, clone: Callable[..., Path]) -> None:
    place = clone('echo "told: $*"; exit 7')
    ended = slurm.run(place, "image", "data.seed=1")
    assert ended.code == 7
    assert re.search(
        r"^told: train image data.seed=1 trainer.nnodes=2 ray_kwargs.ray_init.address=10.77.0.1:\d+$",
        ended.output,
        re.MULTILINE,
    )
    assert (ended.logs / "node2.ray/raylet.out").is_file()
    for machine in slurm.machines:
        assert _ray_of(machine) == []


@pytest.mark.parametrize(
    "options",
    [(), ("--batch", "--signal=TERM")],
    ids=["by scancel", "by the script's shell alone, as a time limit does"],
)
def test_a_signal_ends_the_run_in_order(slurm: Slurm, clone: Callable[..., Path], options: tuple[str, ...]) -> None:
    place = clone("trap 'echo saved; exit 0' TERM; echo begun; while :; do sleep 0.2; done")
    job = slurm.submit(place, "image")
    slurm.wait_for("begun", job)
    slurm.ask("scancel", *options, str(job))
    ended = slurm.wait(job, place)
    assert (ended.logs / "train.log").read_text().endswith("saved\n")
    assert "ended by a signal" in ended.output
    assert ended.code == 143
    for machine in slurm.machines:
        assert _ray_of(machine) == []


OTHER_RAY = f"""
[ "$SLURMD_NODENAME" = node1 ] || exec {sys.executable} -c '
import sys, ray
ray.__version__ = "2.0.0"
from ray.scripts.scripts import main
sys.exit(main())' "$@"
"""


@pytest.mark.parametrize(
    ("ray", "environment", "line"),
    [
        (OTHER_RAY, {}, r"^slurm.sh: node2: Ray ended: .*Version mismatch: .* Ray: 2.60.0 .* Ray: 2.0.0"),
        (
            '[ "$SLURMD_NODENAME" = node1 ] || exec sleep 1000',
            {"JOIN_SECONDS": "20"},
            r"not joined within 20 s: node2; see the log of each, and whether it reaches 10.77.0.1:",
        ),
        ("", {"RAY_PORT": "6817"}, "^slurm.sh: node1: port 6817 is in use; set RAY_PORT to another, or leave it out$"),
        (
            '[ "$SLURMD_NODENAME" = node1 ] || unset RAY_AUTH_TOKEN',
            {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64, "HOME": "/run"},
            r"^slurm.sh: node2: Ray ended: .*token",
        ),
    ],
    ids=["another version", "late", "a port in use", "a token asked for"],
)
def test_what_is_wrong_with_a_node_is_one_line(
    slurm: Slurm, clone: Callable[..., Path], ray: str, environment: dict[str, str], line: str
) -> None:
    ended = slurm.run(clone("echo begun", ray), "image", **environment)
    assert ended.code == 1
    assert len(re.findall(line, ended.output, re.MULTILINE)) == 1, ended.output
    assert "begun" not in ended.output
    assert "SIGTERM" not in ended.output
    for machine in slurm.machines:
        assert _ray_of(machine) == []


def test_a_ray_that_runs_already_is_told(slurm: Slurm, clone: Callable[..., Path], tmp_path: Path) -> None:
    ray, options = Path(sys.executable).with_name("ray"), ["--head", "--port=0", "--temp-dir=/run/other"]
    slurm.machines[0].run(ray, "start", *options, *RAY.split(), "--include-dashboard=false", log=tmp_path / "other")
    ended = slurm.run(clone(), "image", nodes=1)
    assert ended.code == 0
    assert "node1: Ray runs here already" in ended.output
    others = _ray_of(slurm.machines[0])
    assert others
    for process in others:
        process.kill()


def test_a_name_that_stands_for_the_machine_itself_is_told(
    slurm: Slurm, clone: Callable[..., Path], tmp_path: Path
) -> None:
    """Debian gives a machine's own name to 127.0.1.1."""
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n127.0.1.1 node2\n10.77.0.1 node1\n")
    slurm.machines[1].run("mount", "--bind", hosts, "/etc/hosts", log=tmp_path / "mount")
    try:
        ended = slurm.run(clone(), "image")
    finally:
        slurm.machines[1].run("umount", "/etc/hosts", log=tmp_path / "mount")
    assert ended.code == 0
    assert re.findall(r"^(node\d): the address of its own name is 127", ended.output, re.MULTILINE) == ["node2"]


def test_a_node_that_is_lost_ends_the_job(slurm: Slurm, clone: Callable[..., Path]) -> None:
    place = clone("echo begun; exec sleep 1000")
    job = slurm.submit(place, "image")
    slurm.wait_for("begun", job)
    for process in _ray_of(slurm.machines[1]):
        process.kill()
    ended = slurm.wait(job, place)
    assert ended.code == 1
    assert "slurm.sh: node2: Ray ended: raylet [exit code=-9]" in ended.output
