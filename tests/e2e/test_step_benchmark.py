"""benchmarks/step.py in small, and its meter of memory against a card."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from jigsaw.flops import Group

pytestmark = pytest.mark.e2e

KEYS = {"flops", "tokens", "tower_runs", "head_positions", "passes", "cpu_s", "peak_gib_7b"}


@pytest.mark.slow("training")
def test_every_task_has_its_figures(repository: Path, tmp_path: Path) -> None:
    script, figures, picture = repository / "benchmarks" / "step.py", tmp_path / "step.json", tmp_path / "growth.png"
    result = subprocess.run(
        [sys.executable, script, "--small", "--repeats", "1", "--json", figures, "--plot", picture],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    results = json.loads(figures.read_text())
    assert list(results) == ["image", "video", "depth", "mixture"]
    for task, methods in results.items():
        assert list(methods) == ["plain", "unpadded", "ours"]
        plain, unpadded, ours = methods.values()
        assert plain.keys() == unpadded.keys() == ours.keys() == KEYS
        for name in KEYS - {"cpu_s"}:
            assert plain[name] >= unpadded[name] > ours[name], (task, name)
        assert plain["cpu_s"] is None
        assert unpadded["cpu_s"] > ours["cpu_s"] > 0
        assert (unpadded["tower_runs"], ours["tower_runs"]) == (40, 8)
    with Image.open(picture) as drawn:
        assert drawn.width > 800


def test_an_unknown_task_is_named(repository: Path) -> None:
    command = [sys.executable, repository / "benchmarks" / "step.py", "--tasks", "image,sound"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    said = " ".join(result.stderr.replace("│", " ").split())
    assert "no task sound: there are image, video, depth, mixture" in said


def test_peaks_on_fake_tensors_are_those_of_a_card(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(repository / "benchmarks")
    import gpu
    from live import Meter

    card = json.loads((repository / "benchmarks" / "gpu_h100.json").read_text())
    meter = Meter(gpu.build_config(gpu.MODELS["7B"], gpu.TOWER))
    for name, task in gpu.TASKS.items():
        found = meter.packed(Group(task.prompt, tuple(card["replies"]), tuple(task.grids)), entropy=False)
        assert found / gpu.GIB == pytest.approx(card["f 7B"][f"{name}, ours"]["live_gib"], rel=0.01)
