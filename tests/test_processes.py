"""What a run that is stopped leaves behind: nothing of its own, and all that is others'."""

import os
import subprocess
import sys
import time
from multiprocessing import shared_memory
from pathlib import Path

import pytest

from jigsaw.processes import MARK, kill_leftovers, processes_of

pytestmark = pytest.mark.seconds

_HOLD = """
import sys
import time
from multiprocessing import resource_tracker, shared_memory
resource_tracker.register = lambda *_: None  # as where it was killed too
shared = [shared_memory.SharedMemory(name=sys.argv[1])] if sys.argv[1:] else []
shared.append(shared_memory.SharedMemory(create=True, size=4096))
print(shared[-1].name, flush=True)
input()
"""


def test_a_runs_shared_memory_goes_with_it_and_no_others(tmp_path: Path) -> None:
    others = shared_memory.SharedMemory(create=True, size=4096)
    try:
        held = subprocess.Popen(
            [sys.executable, "-c", _HOLD, others.name],
            env={**os.environ, MARK: str(tmp_path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert held.stdout is not None
        name = held.stdout.readline().strip()
        assert Path("/dev/shm", name).exists()
        kill_leftovers(tmp_path)
        held.wait(timeout=5)
        assert not Path("/dev/shm", name).exists()
        assert Path("/dev/shm", others.name).exists()  # this process has it open too
    finally:
        others.close()
        others.unlink()


def test_a_runs_processes_are_found_and_ended(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"],
        env={**os.environ, MARK: str(tmp_path)},
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    while len(processes_of(tmp_path)) < 2:
        assert child.poll() is None
        time.sleep(0.05)
    kill_leftovers(tmp_path)
    assert processes_of(tmp_path) == []
    child.wait(timeout=5)
