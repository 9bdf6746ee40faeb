"""``jigsaw prepare image``: the rows, the rejects, and the same bytes whatever happens on the way."""

import errno
import hashlib
import json
import operator
import os
import random
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

import jigsaw
from jigsaw.cli import app
from jigsaw.errors import JigsawError
from jigsaw.files import atomic_write
from jigsaw.prepare import pipeline
from jigsaw.prepare.images import (
    SHARD_SIZE,
    ImageOptions,
    check_picture,
    image_schema,
    list_pictures,
    parse_grid,
)
from jigsaw.prepare.pipeline import prepare_rows, sample_of
from jigsaw.prepare.ray_work import work_on_ray
from jigsaw.reader import MEMORY, json_line
from jigsaw.rows import read_rows, read_table

pytestmark = pytest.mark.usefixtures("one_reader")

PICTURES = 2 * SHARD_SIZE + 100  # three shards
VAL = 40
OUTPUTS = {"train.parquet", "val.parquet", "rejected.jsonl", "manifest.json"}

# Runs the command with `os.replace`, the step between any two states of the output folder, replaced: at the call of the
# given number, counted from 1, it does what the test wants.
COMMAND = """
import os, signal, sys
from jigsaw.cli import main

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests are a background job

at, action = int(sys.argv.pop(1)), sys.argv.pop(1)
calls, replace = 0, os.replace

def stepping(source, target):
    global calls
    calls += 1
    if calls == at and action == "kill before":
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
    if calls == at and action == "kill after":
        os.kill(os.getpid(), signal.SIGKILL)
    if calls == at and action == "interrupt":
        os.killpg(0, signal.SIGINT)
    if calls == at and action == "terminate":
        os.kill(os.getpid(), signal.SIGTERM)
    if calls == at and action == "wait":
        print("waiting", flush=True)
        sys.stdin.read()

os.replace = stepping
main()
"""


def save(path: Path, width: int = 96, height: int = 90, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (30, 90, 160)).save(path, **options)
    return path


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> Path:
    """Three shards of pictures in nested folders, no two the same; every seventh is refused."""
    root = tmp_path_factory.mktemp("media")
    base = tmp_path_factory.mktemp("base")
    kinds = [save(base / f"{i}.jpg", 96 + i, 90) for i in range(5)]
    kinds += [save(base / "small.jpg", 83, 90), save(base / "wide.png", 300, 90)]
    for index in range(PICTURES):
        source = kinds[index % len(kinds)]
        target = root / f"part {index % 3}" / f"{index:05d}{source.suffix}"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(source.read_bytes() + b"%d" % index)  # readers do not mind what stands behind a picture
    return root


def arguments(media: Path, out: Path, *more: str) -> list[str]:
    return ["prepare", "image", "--media-root", str(media), "--out", str(out), "--val", str(VAL), *more]


def command(media: Path, out: Path, *more: str, at: int = 0, action: str = "") -> list[str]:
    return [sys.executable, "-c", COMMAND, str(at), action, *arguments(media, out, *more)]


def run(media: Path, out: Path, *more: str, at: int = 0, action: str = "") -> subprocess.CompletedProcess:
    return subprocess.run(
        command(media, out, *more, at=at, action=action),
        capture_output=True,
        text=True,
        timeout=120,  # Ray takes its time to start on a busy machine
        start_new_session=True,
    )


def prepare(media: Path, out: Path, workers: int = 1, **options):
    return prepare_rows(media, out, ImageOptions(**options), workers=workers, progress=lambda done, total: None)


def contents(out: Path) -> dict[str, str]:
    assert {path.name for path in out.iterdir()} == {*OUTPUTS, ".job.json", ".lock"}
    return {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in OUTPUTS}


def one_line(result: subprocess.CompletedProcess, *words: str) -> None:
    assert result.returncode == 1, result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    for word in words:
        assert word in result.stderr


@pytest.fixture(scope="module")
def undisturbed(media, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    prepare(media, out, workers=2, val=VAL)
    return out


def rejected(out: Path) -> dict[str, str]:
    return {entry["path"]: entry["reason"] for entry in map(json.loads, (out / "rejected.jsonl").open())}


# ------------------------------------------------------------------------------------------------------- what is made


def test_rows_build_puzzles(media, undisturbed):
    train, val = read_rows(undisturbed / "train.parquet"), read_rows(undisturbed / "val.parquet")
    refused = rejected(undisturbed)
    assert len(val) == VAL
    assert len(train) + len(val) + len(refused) == PICTURES
    for split, rows in (("train", train), ("val", val)):
        paths = [row["images"][0]["path"] for row in rows]
        assert paths == sorted(paths)
        assert [row["extra_info"]["index"] for row in rows] == list(range(len(rows)))
        assert {row["extra_info"]["split"] for row in rows} == {split}
    ids = [row["extra_info"]["id"] for row in train + val]
    assert len(set(ids)) == len(ids)
    row = val[0]
    assert row["data_source"] == "visual_jigsaw_image"
    assert row["images"][0]["jigsaw_config"] == [3, 3]
    assert row["images"][0]["resize_size"] == row["images"][0]["crop_size"] == [-1, -1]
    assert row["reward_model"] == {"style": "rule", "ground_truth": ""}
    assert row["extra_info"]["answer_format"] == "answer_tag"
    assert row["prompt"][0]["content"].count("<image>") == 9
    puzzle = jigsaw.build_puzzle(row, media)
    assert puzzle.reassemble().size == (row["extra_info"]["width"], row["extra_info"]["height"])


def test_the_schema_is_fixed(undisturbed):
    assert read_table(undisturbed / "train.parquet").schema.remove_metadata() == image_schema()
    assert read_table(undisturbed / "val.parquet").schema.remove_metadata() == image_schema()


def test_the_manifest_says_what_is_there(media, undisturbed):
    manifest = json.loads((undisturbed / "manifest.json").read_text())
    small = sum(1 for reason in rejected(undisturbed).values() if reason == "a side is shorter than 84 pixels (83×90)")
    kept = PICTURES - small
    assert manifest["counts"] == {
        "found": PICTURES,
        "sampled": PICTURES,
        "kept": kept,
        "train": kept - VAL,
        "val": VAL,
        "rejected": {"a side is shorter than 84 pixels": small},
        "smaller": 0,
        "tokens": {"media_mean": manifest["counts"]["tokens"]["media_mean"], "media_most": 72, "text_at_most": 598},
    }
    assert 54 < manifest["counts"]["tokens"]["media_mean"] < 72  # 9 tiles of 4 tokens and of 6, two more for each
    assert manifest["arguments"]["grid"] == "3x3"
    for name in OUTPUTS - {"manifest.json"}:
        digest = hashlib.sha256((undisturbed / name).read_bytes()).hexdigest()
        assert manifest["files"][name]["sha256"] == digest
    for name in OUTPUTS:
        assert str(media).encode() not in (undisturbed / name).read_bytes()


def test_grid_format_seed_and_limit(media, tmp_path):
    summary = prepare(media, tmp_path, grid=(1, 2), answer_format="boxed", limit=60, val=10, min_side=0)
    assert (summary.found, summary.sampled, summary.kept, summary.train) == (PICTURES, 60, 60, 50)
    row = read_rows(tmp_path / "train.parquet")[0]
    assert row["images"][0]["jigsaw_config"] == [1, 2]
    assert "\\boxed" in row["prompt"][0]["content"]
    parts = {row["images"][0]["path"].split("/")[0] for row in read_rows(tmp_path / "train.parquet")}
    assert len(parts) == 3  # a sample of everything, not the head of the list


def test_val_zero_gives_an_empty_file(tmp_path):
    save(tmp_path / "m" / "a.png")
    prepare(tmp_path / "m", tmp_path / "out")
    with pytest.raises(JigsawError, match="holds no rows"):
        read_table(tmp_path / "out" / "val.parquet")


def test_the_help_says_that_training_needs_validation_rows():
    help_page = CliRunner().invoke(app, ["prepare", "image", "--help"]).stdout
    assert "training needs some" in " ".join(help_page.replace("│", " ").split())


@given(st.lists(st.text(max_size=8), unique=True, max_size=30), st.data())
def test_the_split_depends_on_nothing_but_seed_and_names(names, data):
    count = data.draw(st.integers(0, len(names)))
    seed = data.draw(st.integers(0, 3))
    drawn = sample_of(names, count, "val", seed)
    assert len(set(drawn)) == count
    assert drawn == sample_of(data.draw(st.permutations(names)), count, "val", seed)
    # One name taken away moves no other name from one split to the other, save one that fills its place.
    if names:
        left = names[1:]
        assert len(set(sample_of(left, min(count, len(left)), "val", seed)) - set(drawn)) <= 1


def test_another_seed_gives_another_split():
    names = [str(number) for number in range(100)]
    assert sample_of(names, 10, "val", 0) != sample_of(names, 10, "val", 1) != sample_of(names, 10, "limit", 1)


# ------------------------------------------------------------------------------------------------------ the same bytes


@pytest.mark.e2e
@pytest.mark.usefixtures("shared_ray")
@pytest.mark.parametrize("workers", [1, 3])
def test_bytes_do_not_depend_on_workers(media, undisturbed, tmp_path, workers):
    prepare(media, tmp_path / "out", workers=workers, val=VAL)
    assert contents(tmp_path / "out") == contents(undisturbed)


@pytest.mark.e2e
@pytest.mark.usefixtures("shared_ray")
@pytest.mark.parametrize("words", [("ray::_work_part", "ray::IDLE"), ("jigsaw.reader",)])
def test_workers_and_readers_that_are_killed(media, undisturbed, tmp_path, children_named, words):
    """Once a shard is finished the others are at work; workers or readers are killed, and nothing of it shows."""
    killed = []

    def kill(done: int, total: int) -> None:
        if done and not killed:
            for process in children_named(*words):
                process.kill()
                killed.append(process.pid)

    prepare_rows(media, tmp_path / "out", ImageOptions(val=VAL), workers=2, progress=kill)
    assert killed
    assert contents(tmp_path / "out") == contents(undisturbed)


@pytest.mark.e2e
@pytest.mark.usefixtures("shared_ray")
def test_a_cluster_gives_the_same_bytes(media, undisturbed, tmp_path):
    import ray

    address = ray.get_runtime_context().gcs_address
    result = run(media, tmp_path / "out", "--ray-address", address)
    assert (result.returncode, result.stderr) == (0, "")
    assert contents(tmp_path / "out") == contents(undisturbed)


@pytest.mark.slow("cluster")
@pytest.mark.e2e
def test_a_cluster_that_asks_for_a_token(media, tmp_path, started_ray, monkeypatch):
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)  # Ray sets it where it starts a cluster of its own
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with started_ray("--num-cpus=1", "--object-store-memory=100000000", **token) as address:
        result = run(media, tmp_path / "out", "--ray-address", address)
    assert result.returncode == 1
    # Ray's own lines come before.
    assert re.search(r"^error: --ray-address .* set RAY_AUTH_MODE=token$", result.stderr, re.MULTILINE)


@pytest.mark.e2e
@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nonsense"])
def test_a_cluster_that_is_not_there_is_one_line(media, tmp_path, address):
    one_line(run(media, tmp_path / "out", "--ray-address", address), f"--ray-address {address}: nothing answers there")


@pytest.mark.e2e
def test_killed_at_every_kind_of_moment(media, undisturbed, tmp_path):
    """One folder, killed again and again, each time a little further on; then it is let through.

    The replacements of a whole run: the job, 3 shards, 3 outputs among the shards, 3 outputs in place, the manifest.
    """
    out = tmp_path / "out"
    for at, action, there in [
        (1, "kill before", {"..job.json.N.tmp"}),
        (2, "kill after", {".job.json", ".work"}),  # one shard
        (4, "kill before", {".job.json", ".work"}),  # two shards more, and one output that is not in place
        (4, "kill after", {".job.json", ".work", "rejected.jsonl"}),
        (7, "kill after", {".job.json", ".work", *OUTPUTS}),
    ]:
        assert run(media, out, "--workers", "2", at=at, action=action).returncode == -signal.SIGKILL
        names = {re.sub(r"\d+(?=\.tmp$)", "N", path.name) for path in out.iterdir()}  # of a process that is gone
        assert names == {".lock", *there}
    prepare(media, out, val=VAL)
    assert contents(out) == contents(undisturbed)


def test_half_written_files_of_a_killed_run_are_removed(tmp_path):
    save(tmp_path / "m" / "a.png")
    out = tmp_path / "out"
    out.mkdir()
    (out / "..job.json.123.tmp").touch()
    (out / ".manifest.json.123.tmp").touch()
    (out / "mine.tmp").touch()
    prepare(tmp_path / "m", out)
    assert {path.name for path in out.glob("*.tmp")} == {"mine.tmp"}


@pytest.mark.e2e
def test_killed_at_any_time(media, undisturbed, tmp_path):
    out = tmp_path / "out"
    with subprocess.Popen(command(media, out), stdout=subprocess.DEVNULL) as process:
        time.sleep(random.uniform(0.4, 1.0))
        process.kill()
    prepare(media, out, val=VAL)
    assert contents(out) == contents(undisturbed)


@pytest.mark.e2e
def test_a_second_run_at_once_stops_and_a_kill_frees_the_folder(media, undisturbed, tmp_path, children_named):
    out = tmp_path / "out"
    first = subprocess.Popen(
        command(media, out, "--workers", "2", at=3, action="wait"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with first:
        assert first.stdout.readline() == "waiting\n"
        with pytest.raises(JigsawError, match="another run is at work"):
            prepare(media, out, val=VAL)
        # Ray's own helpers take minutes to notice; they work on nothing.
        workers = children_named("ray::_work_part", "jigsaw.reader", below=first.pid)
        assert len(workers) > 1
        first.kill()
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
    prepare(media, out, val=VAL)
    assert contents(out) == contents(undisturbed)


@pytest.mark.e2e
def test_ctrl_c_is_one_line_and_goes_on_later(media, undisturbed, tmp_path):
    out = tmp_path / "out"
    result = run(media, out, "--workers", "2", at=3, action="interrupt")
    assert result.returncode == 130
    assert result.stderr == "stopped; what is finished is kept: start the same command again to go on\n"
    assert len(list((out / ".work").iterdir())) >= 2
    prepare(media, out, val=VAL)
    assert contents(out) == contents(undisturbed)


@pytest.mark.e2e
def test_a_scheduler_that_ends_it_sees_no_trace_of_ray(media, undisturbed, tmp_path):
    out = tmp_path / "out"
    result = run(media, out, "--workers", "2", at=3, action="terminate")
    assert (result.returncode, result.stderr) == (-signal.SIGTERM, "")
    prepare(media, out, val=VAL)
    assert contents(out) == contents(undisturbed)


@pytest.mark.seconds
def test_a_full_disk_is_one_line_and_goes_on_later(media, undisturbed, tmp_path):
    """For real, once the first shard is written: what comes next is written to a device that is always full."""
    out = tmp_path / "out"

    def fill(done: int, total: int) -> None:
        for number in range(total // SHARD_SIZE + 1 if done else 0):
            if not (out / f".work/shard-{number:05d}.jsonl").exists():
                (out / f".work/.shard-{number:05d}.jsonl.{os.getpid()}.tmp").symlink_to("/dev/full")

    with pytest.raises(JigsawError, match=r"shard-0000\d.jsonl: cannot be written \(No space left.*start again"):
        prepare_rows(media, out, ImageOptions(val=VAL), workers=1, progress=fill)
    assert {path.name for path in out.iterdir()} == {".job.json", ".lock", ".work"}
    assert [path.name for path in (out / ".work").glob("*.jsonl")] == ["shard-00000.jsonl"]
    for full in (out / ".work").glob(".*.tmp"):  # now there is room
        full.unlink()
    prepare(media, out, val=VAL)
    assert contents(out) == contents(undisturbed)


def test_a_disk_that_fills_up_at_the_end(media, undisturbed, tmp_path, monkeypatch):
    out = tmp_path / "out"
    fsync, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) in (7, 11):  # job, 3 shards, 3 outputs; then 3 outputs and the manifest
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    for name, there in (("train.parquet", set()), ("manifest.json", OUTPUTS - {"manifest.json"})):
        with pytest.raises(JigsawError, match=rf"{name}: cannot be written \(No space left on device\)"):
            prepare(media, out, val=VAL)
        assert {path.name for path in out.iterdir()} == {".job.json", ".lock", ".work", *there}
    prepare(media, out, val=VAL)
    assert contents(out) == contents(undisturbed)


def test_a_pending_write_is_never_seen(tmp_path):
    def fail() -> None:
        with atomic_write(tmp_path / "file") as file:
            file.write(b"half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------------- finished folders


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    for index in range(6):
        save(folder / "m" / f"{index}.png", 90 + index)
    prepare(folder / "m", folder / "out", val=2)
    return folder


@pytest.fixture
def finished(finished_once, tmp_path) -> tuple[Path, Path]:
    shutil.copytree(finished_once, tmp_path, dirs_exist_ok=True)  # with the times of change
    return tmp_path / "m", tmp_path / "out"


def test_a_finished_folder_is_up_to_date(finished, monkeypatch):
    media, out = finished
    before = contents(out)
    monkeypatch.setattr(pipeline, "run_shards", lambda *args, **kwargs: pytest.fail("worked again"))
    assert prepare(media, out, workers=3, val=2).up_to_date
    assert contents(out) == before


def test_other_arguments_replace_nothing(finished):
    media, out = finished
    before = contents(out)
    with pytest.raises(JigsawError, match=r"other arguments: grid 3x3 \(now 2x2\); choose another output folder"):
        prepare(media, out, val=2, grid=(2, 2))
    assert contents(out) == before


def test_other_pictures_replace_nothing(finished):
    media, out = finished
    before = contents(out)
    os.utime(media / "0.png", ns=(0, 0))
    with pytest.raises(JigsawError, match="other files than the media root holds now"):
        prepare(media, out, val=2)
    assert contents(out) == before


def test_outputs_that_were_changed_are_noticed(finished):
    media, out = finished
    (out / "train.parquet").write_bytes(b"edited")
    with pytest.raises(JigsawError, match=r"train.parquet: is missing or not as manifest.json says"):
        prepare(media, out, val=2)


def test_outputs_that_were_removed_are_made_again(finished):
    media, out = finished
    before = contents(out)
    for name in OUTPUTS:
        (out / name).unlink()
    prepare(media, out, val=2)
    assert contents(out) == before


def test_a_moved_media_root_is_the_same_input(finished):
    media, out = finished
    moved = media.rename(media.with_name("moved"))
    assert prepare(moved, out, val=2).up_to_date


@pytest.mark.parametrize("name", ["train.parquet", "manifest.json", ".work"])
def test_files_of_someone_else_are_not_replaced(tmp_path, name):
    save(tmp_path / "m" / "a.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("{}")
    with pytest.raises(JigsawError, match=f"{name}: was not made by this command"):
        prepare(tmp_path / "m", tmp_path / "out")
    assert (tmp_path / "out" / name).read_text() == "{}"


def test_shards_of_other_arguments_are_not_used(media, undisturbed, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(JigsawError, match="for validation leave nothing to train on"):
        prepare(media, out, val=VAL, min_side=1000)  # all shards are there when it fails
    prepare(media, out, val=VAL)
    assert contents(out) == contents(undisturbed)


@pytest.mark.parametrize("name", [".job.json", "manifest.json"])
@pytest.mark.parametrize("text", ["", "{", "{}", "[]", "null"])
def test_a_damaged_job_file_is_one_line(finished, name, text):
    media, out = finished
    (out / name).write_text(text)
    with pytest.raises(JigsawError, match=rf"{name}: is damaged"):
        prepare(media, out, val=2)


# ------------------------------------------------------------------------------------------------------------ pictures


def test_every_kind_of_picture(tmp_path):
    """What `jigsaw.media.image` accepts becomes a row; what it refuses becomes a reject; nothing stops the run."""
    root = tmp_path / "m"
    for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "I;16"):
        path = root / f"good {mode.replace(';', '')}.PNG"
        path.parent.mkdir(exist_ok=True)
        Image.new(mode, (90, 90)).save(path)
    Image.new("CMYK", (90, 90)).save(root / "good cmyk.JPEG")
    turn = Image.Exif()
    turn[274] = 6
    save(root / "good turned.jpg", 120, 90, exif=turn)
    save(root / "good 图片 ü 🧩" / ("n" * 250 + ".jpg"))
    save(root / "/".join(["good deep"] * 30) / "a.jpg", 97)
    (root / "good link.jpg").symlink_to("good turned.jpg")

    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8))
    noise.save(root / "bad cut.jpg")
    (root / "bad cut.jpg").write_bytes((root / "bad cut.jpg").read_bytes()[:-500])
    (root / "bad empty.jpg").write_bytes(b"")
    (root / "bad text.jpg").write_text("no picture")
    noise.save(root / "bad moving.gif", save_all=True, append_images=[Image.new("RGB", (90, 90))])
    save(root / "bad small.png", 83, 500)
    save(tmp_path / "elsewhere" / "a.jpg")
    (root / "bad escape.jpg").symlink_to(tmp_path / "elsewhere" / "a.jpg")
    (root / "bad folder").symlink_to(tmp_path / "elsewhere")
    (root / "bad dead.jpg").symlink_to("nowhere.jpg")
    (root / "same folder").symlink_to("good 图片 ü 🧩")
    os.mkfifo(root / "bad pipe.jpg")
    with open(os.fsencode(root) + b"/bad \xff name.jpg", "wb") as file:
        file.write((root / "good turned.jpg").read_bytes())
    (root / "notes.txt").write_text("not a picture by its name")

    reasons = {
        "bad cut.jpg": "cannot be decoded",
        "bad empty.jpg": "is not a picture",
        "bad text.jpg": "is not a picture",
        "bad moving.gif": "is animated",
        "bad small.png": "a side is shorter than 84 pixels (83×500)",
        "bad escape.jpg": "leaves the media root; ",
        "bad folder": "leaves the media root; ",
        "bad dead.jpg": "no such file",
        "bad pipe.jpg": "no such file",
        "bad \udcff name.jpg": "its name is not valid UTF-8",
        "good turned.jpg": "has the same content as another one (good link.jpg)",
    }
    for verify in (False, True):
        out = tmp_path / f"out {verify}"
        prepare(root, out, verify=verify)
        refused = rejected(out)
        expected = {path: reason for path, reason in reasons.items() if verify or path != "bad cut.jpg"}
        assert set(refused) == set(expected)
        for path, reason in expected.items():
            assert refused[path].startswith(reason)
            assert str(tmp_path) not in refused[path]
        good = read_rows(out / "train.parquet")
        names = {row["images"][0]["path"].split("/")[0] for row in good}
        assert all(name.startswith("good") for name in names - {"bad cut.jpg"})
        assert len(good) == 11 + (not verify)
        if verify:
            for row in good:
                jigsaw.build_puzzle(row, root)
        sizes = {row["images"][0]["path"]: (row["extra_info"]["width"], row["extra_info"]["height"]) for row in good}
        assert sizes["good link.jpg"] == (90, 120)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6), st.integers(1, 6))
def test_every_tile_of_a_kept_picture_has_a_pixel(tmp_path_factory, width, height, rows, columns):
    root = tmp_path_factory.getbasetemp() / "tiny"
    name = f"{width}x{height}.png"
    if not (root / name).exists():
        save(root / name, width, height)
    (record,) = check_picture(name, media_root=root, options=ImageOptions(grid=(rows, columns), min_side=0))
    assert ("reason" in record) == (width < columns or height < rows)


def test_listing_is_sorted_and_knows_suffixes(tmp_path):
    for name in ("b.jpg", "a/z.PNG", "a.jpg", "a/b/c.TIFF", "x.txt", "jpg", ".jpg.swp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert list_pictures(tmp_path) == ["a.jpg", "a/b/c.TIFF", "a/z.PNG", "b.jpg"]


@given(st.recursive(st.text(st.characters(), max_size=9) | st.integers() | st.none(), st.lists, max_leaves=5))
def test_any_name_goes_through_a_line_of_json(value):
    line = json_line(value)
    assert json.loads(line) == value
    assert line.count(b"\n") == 1


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "text", ["3", "0x2", "2x0", "1x1", "3x", "x3", "-1x2", "3x3x3", "3×3", "axb", "", " 3x3", "9" * 5000]
)
def test_bad_grids(text):
    with pytest.raises(JigsawError, match=r"grid .*for example 3x3"):
        parse_grid(text)


@given(st.integers(1, 99), st.integers(1, 99))
def test_grids_are_rows_by_columns(rows, columns):
    if rows * columns > 1:
        assert parse_grid(f"{rows}x{columns}") == (rows, columns)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val": -1}, "val -1"),
        ({"min_side": -1}, "min_side -1"),
        ({"limit": 0}, "limit 0"),
        ({"grid": (1, 1)}, "grid 1x1"),
        ({"answer_format": "xml"}, "answer_format xml"),
        ({"max_pixels": 7055}, "max_pixels 7055: must be 7056 or more, for 9 tiles"),
        ({"max_prompt_length": 600}, "max_prompt_length 600: too few tokens for 9 media, which take 54 without"),
        ({"grid": (9999, 9999)}, "max_prompt_length 8192: too few tokens for 99,980,001 media, which take 599,"),
        ({"workers": 0}, "workers 0"),
        ({"val": 2}, "val 2: leaves nothing to train on"),
    ],
)
def test_bad_options_make_nothing(tmp_path, options, message):
    for name in "ab":
        save(tmp_path / "m" / f"{name}.png")
    with pytest.raises(JigsawError, match=message):
        prepare(tmp_path / "m", tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_bad_media_roots(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for name, message in (("none", "no such folder"), ("file", "no such folder"), ("empty", "holds no pictures")):
        with pytest.raises(JigsawError, match=message):
            prepare(tmp_path / name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_picture_that_is_fit(tmp_path):
    save(tmp_path / "m" / "a.png", 20, 20)
    (tmp_path / "m" / "b.png").touch()
    with pytest.raises(JigsawError, match=r"0 of 2 pictures are fit.*1: a side is shorter.*1: is not a picture"):
        prepare(tmp_path / "m", tmp_path / "out")
    assert not OUTPUTS & {path.name for path in (tmp_path / "out").iterdir()}


def test_an_output_folder_that_cannot_be(tmp_path):
    save(tmp_path / "m" / "a.png")
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(JigsawError, match=r"cannot be used as output folder .*; choose another"):
            prepare(tmp_path / "m", out)


@pytest.mark.parametrize(("out", "where"), [("m", "in"), ("m/rows", "in"), ("link", "in"), (".", "around")])
def test_nothing_is_written_among_the_pictures(tmp_path, out, where):
    """The advice to delete an output folder must never cost a picture."""
    save(tmp_path / "m" / "a.png")
    (tmp_path / "link").symlink_to("m")
    with pytest.raises(JigsawError, match=rf"out {tmp_path / out}: lies {where} the media root .*choose a folder"):
        prepare(tmp_path / "m", tmp_path / out)
    assert [path.name for path in (tmp_path / "m").iterdir()] == ["a.png"]
    assert {path.name for path in tmp_path.iterdir()} == {"m", "link"}


# ---------------------------------------------------------------------------------------------------- large pictures


def test_large_pictures_are_shown_smaller_and_counted(tmp_path):
    root = tmp_path / "m"
    save(root / "large.jpg", 2000, 1500)
    save(root / "small.jpg", 640, 480)
    summary = prepare(root, tmp_path / "out", max_prompt_length=3000)
    large, small = read_rows(tmp_path / "out/train.parquet")
    assert small["images"][0]["resize_size"] == [-1, -1]
    assert summary.smaller == 1
    assert summary.tokens["media_most"] + summary.tokens["text_at_most"] <= 3000
    assert summary.tokens["media_mean"] == (summary.tokens["media_most"] + 9 * 50) / 2
    assert (large["extra_info"]["width"], large["extra_info"]["height"]) == (2000, 1500)  # of the file
    assert list(jigsaw.build_puzzle(large, root).reassemble().size) == large["images"][0]["resize_size"]
    prepare(root, tmp_path / "pixels", max_pixels=200_000)
    for row in read_rows(tmp_path / "pixels/train.parquet"):
        assert 199_000 < np.prod(row["images"][0]["resize_size"]) <= 200_000


def test_the_command_says_what_a_prompt_takes(tmp_path):
    save(tmp_path / "m" / "large.jpg", 2000, 1500)
    command = ["prepare", "image", "--media-root", str(tmp_path / "m"), "--out", str(tmp_path / "out")]
    command += ["--max-pixels", "307200", "--max-prompt-length", "4000"]
    said = CliRunner().invoke(app, command).stdout
    for what, number in {
        "shown smaller, to fit": 1,
        "tokens of a prompt's media, mean": 450,
        "  largest": 450,
        "tokens of its text, at most": 598,
    }.items():
        assert re.search(rf"│ {what} +│ +{number} │", said), said
    said = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert (said["smaller"], said["tokens"]) == (1, {"media_mean": 450.0, "media_most": 450, "text_at_most": 598})


# ------------------------------------------------------------------------------------------ readers that do not return


def worked(items: list[Any], workers: int = 2, time_limit: float = 60) -> list[list[dict]]:
    """What is said of each item, in shards of three; an item is what is called."""
    parts = enumerate(items[start : start + 3] for start in range(0, len(items), 3))
    # `operator.call`, as a reader need not find the tests' modules.
    found = dict(work_on_ray(parts, operator.call, time_limit=time_limit, workers=workers))
    return [json.loads(line) for _, lines in sorted(found.items()) for line in lines]


@pytest.mark.e2e
@pytest.mark.usefixtures("shared_ray")
@pytest.mark.parametrize("workers", [1, 3])
def test_a_file_that_kills_its_reader_costs_one_reject(workers):
    good = partial(list, [{"width": 1}])
    items = [good, partial(os._exit, 3), good, os.abort, good, good, partial(bytes, 2 * MEMORY), good]
    reasons = [entry.get("reason") for (entry,) in worked(items, workers)]
    assert reasons == [
        None,
        "the reader died on it (exit status 3)",
        None,
        "the reader died on it (signal 6)",
        None,
        None,
        "the reader needs more than 4 GiB of memory",
        None,
    ]


@pytest.mark.e2e
@pytest.mark.usefixtures("shared_ray")
def test_a_file_on_which_its_reader_hangs_costs_one_reject():
    good = partial(list, [{"width": 1}])
    reasons = [entry.get("reason") for (entry,) in worked([good, partial(time.sleep, 600), good], time_limit=0.5)]
    assert reasons == [None, "the reader took longer than 0.5 s", None]


@pytest.mark.e2e
@pytest.mark.usefixtures("shared_ray")
def test_a_reader_that_dies_by_chance_is_asked_again(tmp_path):
    once = tmp_path / "once"
    script = f"test -e {once} && echo read || {{ touch {once}; kill -9 $PPID; }}"
    assert worked([partial(subprocess.getoutput, script)]) == ["read"]


@pytest.mark.e2e
@pytest.mark.usefixtures("shared_ray")
def test_an_error_in_a_worker_is_not_hidden():
    with pytest.raises(RuntimeError, match="invalid literal for int"):
        worked([list, partial(int, "x")])


# --------------------------------------------------------------------------------------------------------- the command


def test_the_command_prints_a_table_or_json(tmp_path):
    save(tmp_path / "m" / "a.png")
    save(tmp_path / "m" / "b.png", 97)
    more = ["--media-root", str(tmp_path / "m"), "--out", str(tmp_path / "out"), "--val", "1"]
    table = CliRunner().invoke(app, ["prepare", "image", *more])
    assert table.exit_code == 0, table.output
    assert "kept" in table.stdout
    assert table.stderr == ""  # no bar where stderr is no terminal
    summary = json.loads(CliRunner().invoke(app, ["prepare", "image", *more, "--json"]).stdout)
    assert summary["up_to_date"]
    assert (summary["found"], summary["train"], summary["val"], summary["rejected"]) == (2, 1, 1, {})
    result = CliRunner().invoke(app, ["prepare", "image", *more, "--grid", "2x2"])
    assert str(result.exception).count("grid 3x3 (now 2x2)") == 1


@pytest.mark.e2e
@pytest.mark.usefixtures("shared_ray")
def test_work_that_fails_ends_the_run_and_not_the_process():
    """Ray itself ended the process, now and then, when it was told to cancel what had just failed."""
    for _ in range(4):
        with pytest.raises(RuntimeError, match="invalid literal for int"):
            worked([partial(int, "x")])
