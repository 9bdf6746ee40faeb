"""What the clock of a run counts."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from jigsaw.errors import JigsawError
from jigsaw.files import write_json
from jigsaw.processes import MARK
from jigsaw.toy.clock import Clock


def test_the_clock_adds_up_all_starts(tmp_path: Path) -> None:
    write_json(tmp_path / "timing.json", {"seconds": 100.0, "seconds_install": 40.0, "peak_gib": 9.5})
    clock = Clock(tmp_path / "timing.json", seconds_install=2.0)
    clock.watch_memory()
    assert 102.0 <= clock.seconds < 110.0
    assert clock.seconds_install == 42.0
    clock.save()
    again = Clock(tmp_path / "timing.json", seconds_install=0.0)
    assert again.seconds >= 102.0
    assert again.peak_gib >= 9.5


def test_a_damaged_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "timing.json").write_text("[]")
    with pytest.raises(JigsawError, match=r"timing.json: is no object with .*; delete it"):
        Clock(tmp_path / "timing.json", seconds_install=0.0)


ALLOCATE = "import sys; block = bytearray(int(sys.argv[1]) << 20); block[::4096] = b'x' * len(block[::4096]); input()"


@pytest.mark.seconds
def test_the_clock_counts_the_runs_own_processes(tmp_path: Path) -> None:
    """A stranger's memory is not the run's, whatever the machine has in use."""
    clock, own = Clock(tmp_path / "timing.json", seconds_install=0.0), psutil.Process().memory_full_info().pss
    command = [sys.executable, "-c", ALLOCATE]
    environment = {**os.environ, MARK: str(tmp_path)}
    stranger = subprocess.Popen([*command, "300"], stdin=subprocess.PIPE)
    child = subprocess.Popen([*command, "100"], stdin=subprocess.PIPE, env=environment)
    try:
        for process, size in ((stranger, 300), (child, 100)):
            while psutil.Process(process.pid).memory_info().rss < size << 20:
                time.sleep(0.1)
        clock.watch_memory()
        while clock.peak_gib == 0:
            time.sleep(0.1)
    finally:
        for process in (stranger, child):
            process.kill()
            process.wait()
    assert own / 2**30 + 0.09 < clock.peak_gib < own / 2**30 + 0.25
