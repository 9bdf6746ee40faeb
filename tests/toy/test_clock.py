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
WATCH = """
import sys, time
from pathlib import Path
import psutil
from jigsaw.toy.clock import Clock
clock = Clock(Path(sys.argv[1]), seconds_install=0.0)
clock.watch_memory()
while clock.peak_gib == 0:
    time.sleep(0.1)
print(clock.peak_gib - psutil.Process().memory_full_info().pss / 2**30)
"""


@pytest.mark.seconds
def test_the_clock_counts_the_runs_own_processes(tmp_path: Path) -> None:
    """A stranger's memory is not the run's, whatever the machine has in use.

    The run has a process of its own: this one's share of its libraries falls when another test loads them too.
    """
    command = [sys.executable, "-c", ALLOCATE]
    environment = {**os.environ, MARK: str(tmp_path)}
    stranger = subprocess.Popen([*command, "600"], stdin=subprocess.PIPE)
    child = subprocess.Popen([*command, "200"], stdin=subprocess.PIPE, env=environment)
    try:
        for process, size in ((stranger, 600), (child, 200)):
            while psutil.Process(process.pid).memory_info().rss < size << 20:
                time.sleep(0.1)
        run = [sys.executable, "-c", WATCH, str(tmp_path / "timing.json")]
        besides_itself = float(subprocess.run(run, capture_output=True, text=True, check=True).stdout)
    finally:
        for process in (stranger, child):
            process.kill()
            process.wait()
    assert 0.19 < besides_itself < 0.25
