"""Processes of their own for what may hang or die: what comes back, what a failure costs, and that none is left."""

import operator
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import repeat

import psutil
import pytest
from PIL import Image

from jigsaw.cutter import Cutter
from jigsaw.errors import MediaError
from jigsaw.reader import MEMORY, Reader, ReaderDied
from jigsaw.tasks import cut_media, plan
from jigsaw.toy.rows import write_puzzles

pytestmark = pytest.mark.seconds

# What is called by a reader must be found by it, so it is of the standard library: `operator.call` calls the item.


@pytest.fixture(scope="module")
def reader():
    return Reader()


def made(reader: Reader, *buffers: bytes) -> bytes:
    record, pixels = reader.make(operator.call, partial(tuple, [{"said": "ü\udcff"}, buffers]), 60)
    assert record == {"said": "ü\udcff"}
    return pixels.tobytes()


def test_bytes_come_back_as_they_were_made(reader):
    large = bytes(range(256)) * 20_000
    for buffers in ([], [b""], [b"abc", b"", b"d"], [large, b"x", large]):
        assert made(reader, *buffers) == b"".join(buffers)


@pytest.mark.parametrize(
    ("item", "time_limit", "said"),
    [
        (os.abort, 60, r"^the reader died on it \(signal 6\)$"),
        (partial(os._exit, 3), 60, r"^the reader died on it \(exit status 3\)$"),
        (partial(time.sleep, 600), 0.2, r"^the reader took longer than 0\.2 s$"),
        (partial(bytes, 2 * MEMORY), 60, r"^the reader needs more than 4 GiB of memory$"),
    ],
)
def test_an_item_that_a_reader_does_not_survive_costs_that_item_alone(reader, item, time_limit, said):
    with pytest.raises(ReaderDied, match=said):
        reader.make(operator.call, item, time_limit)
    assert made(reader, b"next") == b"next"


def test_a_reader_that_dies_by_chance_is_asked_again(reader, tmp_path):
    once = tmp_path / "once"
    script = f"test -e {once} || {{ touch {once}; kill -9 $PPID; }}"
    # Of (exit status, output) the status stands for a record, and no output for no buffers.
    assert reader.make(operator.call, partial(subprocess.getstatusoutput, script), 60)[0] == 0


def test_an_error_of_the_work_is_not_hidden(reader):
    with pytest.raises(RuntimeError, match="invalid literal for int"):
        reader.make(operator.call, partial(int, "x"), 60)
    assert made(reader, b"next") == b"next"


KEEPER = """
import operator, re
from functools import partial
from jigsaw.reader import Reader

hangs = partial(re.match, "(a+)+$", "a" * 60 + "b")  # for ever, with Python's lock in its hands
reader = Reader()
reader.make(operator.call, partial(tuple, [{}, []]), 60)
print(reader._process.pid, flush=True)
reader.make(operator.call, hangs, 600)
"""


def test_a_reader_ends_with_a_keeper_that_is_killed_whatever_it_is_at():
    with subprocess.Popen([sys.executable, "-c", KEEPER], stdout=subprocess.PIPE, text=True) as keeper:
        child = psutil.Process(int(keeper.stdout.readline()))
        begin = sum(child.cpu_times()[:2])
        while sum(child.cpu_times()[:2]) < begin + 0.05:  # it is at work
            time.sleep(0.01)
        keeper.kill()
        assert psutil.wait_procs([child], timeout=30)[1] == []


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    """A media root, and the messages of a puzzle of each task below it."""
    root = tmp_path_factory.mktemp("media")
    return root, {task: plan(row).messages for task, row in write_puzzles(root).items()}


@pytest.fixture(scope="module")
def cutter():
    return Cutter(readers=2, time_limit=120)


def comparable(medium):
    if isinstance(medium, Image.Image):
        return medium.mode, medium.size, medium.tobytes()
    return medium.frames.dtype, medium.frames.shape, medium.frames.numpy().tobytes(), medium.indices, medium.fps


@pytest.mark.parametrize("task", ["image", "depth", "video"])
def test_media_are_those_that_this_process_would_cut(prompts, cutter, task):
    root, messages = prompts
    theirs = list(map(comparable, cutter.cut_media(messages[task], root)))
    assert theirs == list(map(comparable, cut_media(messages[task], root)))


def test_prompts_of_several_threads_share_the_readers(prompts, cutter):
    root, messages = prompts
    with ThreadPoolExecutor(4) as threads:
        cut = list(threads.map(cutter.cut_media, repeat(messages["image"], 12), repeat(root)))
    assert len({tuple(map(comparable, media)) for media in cut}) == 1
    assert len({reader._process.pid for reader in cutter._readers._free.queue if reader._process}) <= 2


def test_a_file_that_cannot_be_used_is_named_as_ever(prompts, cutter, tmp_path):
    (tmp_path / "picture.jpg").write_bytes(b"no picture")
    with pytest.raises(MediaError, match=r"picture\.jpg: is not a picture that can be read") as isolated:
        cutter.cut_media(prompts[1]["image"], tmp_path)
    with pytest.raises(MediaError) as here:
        cut_media(prompts[1]["image"], tmp_path)
    assert str(isolated.value) == str(here.value)


def test_a_file_that_takes_too_long_is_named(prompts):
    root, messages = prompts
    with pytest.raises(MediaError, match=r"^picture\.jpg: the reader took longer than 0\.001 s; remove or replace it$"):
        Cutter(readers=1, time_limit=0.001).cut_media(messages["image"], root)
