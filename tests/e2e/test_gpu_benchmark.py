"""benchmarks/gpu.py in small, on the CPU: the code that a GPU runs."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.e2e


def errors(value: Any, at: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        if "error" in value:
            yield f"{at}: {value['error']}"
        for name, inner in value.items():
            yield from errors(inner, f"{at} / {name}")


def test_every_part_runs_without_anything_but_torch_and_transformers(repository: Path, tmp_path: Path) -> None:
    blocked = "import sys; sys.modules |= dict.fromkeys(('verl', 'vllm', 'ray', 'PIL', 'pyarrow', 'typer', 'rich'))"
    code = f"{blocked}; import runpy; runpy.run_path({str(repository / 'benchmarks/gpu.py')!r}, run_name='__main__')"
    result = subprocess.run(
        [sys.executable, "-c", code, "--small", "--json", tmp_path / "gpu.json"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(repository), "CUDA_VISIBLE_DEVICES": "", "PATH": ""},
    )
    assert result.returncode == 0, result.stderr
    figures = json.loads((tmp_path / "gpu.json").read_text())
    assert list(errors(figures)) == [" / e attention / FlexAttention: it has no backward pass on the CPU"]
    assert {"b correctness", "c tower", "d head", "e attention", "f small"} <= figures.keys()
    batches = figures["f small"]
    for task in ("image", "video", "depth"):
        ours, plain = batches[f"{task}, ours"], batches[f"{task}, plain, micro-batch 4"]
        assert sum(ours["forward_pflop"].values()) < sum(plain["forward_pflop"].values())
    for difference in figures["b correctness"]["a small model, whole"].values():
        if isinstance(difference["ours"], float):
            assert difference["ours"] < 1.5 * difference["plain"]
