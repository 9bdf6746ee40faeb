"""Checkpoints: which one a run resumes from, which are never written over, and who may train in their folder."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("hydra")

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from jigsaw.errors import JigsawError
from jigsaw.verl_plugin import checkpoint
from jigsaw.verl_plugin.checkpoint import (
    MARKER,
    MarkWhole,
    check_free,
    is_whole,
    last_whole,
    loading,
    override,
    resume_overrides,
    saving,
)


def save(folder: Path, step: int, *, weights: bool = True, whole: bool = True) -> Path:
    """A checkpoint as verl and the callback leave it."""
    made = folder / f"global_step_{step}"
    made.mkdir(parents=True)
    if weights:
        (made / "actor").mkdir()
        (made / "actor/model.pt").write_bytes(b"weights")
    if whole:
        (made / MARKER).touch()
    return made


def config(folder: Path, *, async_save: bool = False, **trainer: Any) -> DictConfig:
    values = {"default_local_dir": str(folder), "resume_mode": "disable", "resume_from_path": None, **trainer}
    actor = {"checkpoint": {"async_save": async_save}}
    return OmegaConf.create({"trainer": values, "actor_rollout_ref": {"actor": actor}})


def test_the_newest_whole_checkpoint_is_the_last(tmp_path: Path) -> None:
    assert last_whole(tmp_path) is None
    for step in (20, 100, 40):
        save(tmp_path, step)
    save(tmp_path, 120, weights=False)  # verl took them away
    save(tmp_path, 140, whole=False)  # cut off
    assert last_whole(tmp_path) == tmp_path / "global_step_100"


@pytest.mark.parametrize("name", ["global_step_40.bak", "global_step_", "global_step_x", "global_step_60 (copy)"])
def test_a_copy_that_someone_put_aside_is_no_checkpoint(tmp_path: Path, name: str) -> None:
    save(tmp_path, 20)
    save(tmp_path, 40).rename(tmp_path / name)
    assert last_whole(tmp_path) == tmp_path / "global_step_20"
    assert resume_overrides(tmp_path)[1] == override("trainer.resume_from_path", tmp_path / "global_step_20")


@given(
    st.text(alphabet=st.sampled_from("ab\\'\" ,[]{}$()=:/é~#%&*?!\t\n"), max_size=12).filter(lambda v: "${" not in v)
)
def test_hydra_reads_any_path_as_it_was(value: str) -> None:
    assert OverridesParser.create().parse_override(override("data.media_root", value)).value() == value


def test_a_checkpoint_is_marked_once_all_of_it_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    callback = MarkWhole(config(tmp_path))
    made = save(tmp_path, 1, whole=False)
    (made / "actor/huggingface").mkdir()
    (made / "actor/huggingface/config.json").write_text("{}")
    flushed: list[tuple[int, bool]] = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        flushed.append((os.fstat(descriptor).st_ino, (made / MARKER).exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    callback.on_save(trainer=None, global_step=1, checkpoint_dir=str(made), async_save=False)
    assert last_whole(tmp_path) is None  # its step is not in the log yet
    callback.mark()
    before = {inode for inode, marked in flushed if not marked}
    paths = [made, *(path for path in made.rglob("*") if path.name != MARKER)]
    assert {path.stat().st_ino for path in paths} <= before
    assert last_whole(tmp_path) == made


def test_what_was_not_saved_is_not_marked(tmp_path: Path) -> None:
    callback = MarkWhole(config(tmp_path))
    made = save(tmp_path, 1, whole=False)
    callback.mark()
    assert not is_whole(tmp_path, 1)
    callback.on_save(trainer=None, global_step=1, checkpoint_dir=str(made), async_save=False)
    callback.mark()
    assert is_whole(tmp_path, 1)
    (made / MARKER).unlink()
    callback.mark()
    assert not is_whole(tmp_path, 1)


def test_where_one_alone_is_kept_it_counts_at_once(tmp_path: Path) -> None:
    callback = MarkWhole(config(tmp_path, max_actor_ckpt_to_keep=1))
    made = save(tmp_path, 1, whole=False)
    callback.on_save(trainer=None, global_step=1, checkpoint_dir=str(made), async_save=False)
    assert is_whole(tmp_path, 1)


def test_old_checkpoints_of_all_starts_go(tmp_path: Path) -> None:
    """verl forgets those of the starts before."""
    for step in (2, 4, 6):
        save(tmp_path, step)
    save(tmp_path, 5, whole=False)  # not ours to remove
    resume = {"resume_mode": "resume_path", "resume_from_path": str(tmp_path / "global_step_6")}
    callback = MarkWhole(config(tmp_path, max_actor_ckpt_to_keep=2, **resume))
    made = save(tmp_path, 8, whole=False)
    callback.on_save(trainer=None, global_step=8, checkpoint_dir=str(made), async_save=False)
    assert is_whole(tmp_path, 2)
    callback.mark()
    assert [step for step in (2, 4, 5, 6, 8) if (tmp_path / f"global_step_{step}/actor").exists()] == [5, 6, 8]


def test_a_disk_that_is_full_is_one_line_and_the_last_whole_one_stays(tmp_path: Path) -> None:
    save(tmp_path, 2)
    half = save(tmp_path, 4, whole=False)
    with pytest.raises(JigsawError) as raised, saving(half), Path("/dev/full").open("w") as file:
        file.write("weights")
    assert str(raised.value) == (
        f"{half}: could not be saved ([Errno 28] No space left on device); if the disk is full, make room, and start "
        "again: the run goes on from global_step_2"
    )
    assert not half.exists()
    assert is_whole(tmp_path, 2)


def test_a_checkpoint_that_is_broken_is_one_line_with_the_one_before(tmp_path: Path) -> None:
    for step in (2, 4):
        save(tmp_path, step)
    with pytest.raises(JigsawError) as raised, loading(tmp_path / "global_step_4"):
        raise RuntimeError("ray::Worker\n  File x\nRuntimeError: failed finding central directory\n")
    assert str(raised.value) == (
        f"{tmp_path}/global_step_4: cannot be loaded (RuntimeError: failed finding central directory); a file of it is "
        "broken, or it is of another number of GPUs; moved away, the run goes on from global_step_2"
    )
    with pytest.raises(JigsawError, match=r"\(EOFError\).*goes on from global_step_4"), loading(tmp_path / "elsewhere"):
        raise EOFError
    assert is_whole(tmp_path, 4)


@pytest.mark.parametrize("resume", [{}, {"resume_mode": "resume_path"}, {"resume_mode": "auto"}])
def test_a_run_never_writes_over_a_whole_checkpoint(tmp_path: Path, resume: dict[str, str]) -> None:
    """Killed in the midst of it, the half would bear the whole one's marker."""
    for step in (20, 40):
        save(tmp_path, step)
    if resume:
        resume |= {"resume_from_path": str(tmp_path / "global_step_20")}
        (tmp_path / "latest_checkpointed_iteration.txt").write_text("20")
    with pytest.raises(JigsawError, match=r"global_step_40: is of a later step than this run begins at \((0|20)\)"):
        MarkWhole(config(tmp_path, **resume))
    assert last_whole(tmp_path) == tmp_path / "global_step_40"


def test_a_run_that_resumes_from_the_newest_one_begins(tmp_path: Path) -> None:
    save(tmp_path, 20)
    resumed = OmegaConf.from_dotlist(resume_overrides(tmp_path)).trainer
    resumed.resume_from_path = resumed.resume_from_path.strip("'")
    MarkWhole(config(tmp_path, **resumed))
    assert last_whole(tmp_path) == tmp_path / "global_step_20"


def test_a_marker_without_weights_goes_before_the_step_is_saved_again(tmp_path: Path) -> None:
    save(tmp_path, 20)
    emptied = save(tmp_path, 40, weights=False)
    MarkWhole(config(tmp_path, resume_mode="resume_path", resume_from_path=str(tmp_path / "global_step_20")))
    (emptied / "actor").mkdir()  # verl saves step 40, and is killed
    assert last_whole(tmp_path) == tmp_path / "global_step_20"


@pytest.mark.parametrize(("tracked", "saved"), [("4", True), ("2", False), ("", False), (None, True)])
def test_a_supervised_checkpoint_is_saved_once_verl_has_said_so(
    tmp_path: Path, tracked: str | None, saved: bool
) -> None:
    step = tmp_path / "global_step_4"
    (step / "huggingface").mkdir(parents=True)
    if tracked is not None:  # there is none beside a copy
        (tmp_path / "latest_checkpointed_iteration.txt").write_text(tracked)
    assert checkpoint.is_saved(step) is saved


def test_asynchronous_checkpoints_are_refused(tmp_path: Path) -> None:
    with pytest.raises(JigsawError, match=r"async_save=true: nothing tells when .* set it to false"):
        MarkWhole(config(tmp_path, async_save=True))


_HOLD = """
import sys
from omegaconf import OmegaConf
from jigsaw.verl_plugin.checkpoint import MarkWhole
held = MarkWhole(OmegaConf.create(sys.argv[1]))
print("held", flush=True)
input()
"""


def test_a_second_run_in_one_folder_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    first = subprocess.Popen(
        [sys.executable, "-c", _HOLD, OmegaConf.to_yaml(config(tmp_path))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert first.stdout is not None
    assert first.stdout.readline() == "held\n"
    for attempt in (lambda: check_free(tmp_path), lambda: MarkWhole(config(tmp_path))):
        with pytest.raises(JigsawError, match=r": another run trains in this folder; wait for it, end it, or choose"):
            attempt()
    first.kill()  # as the kernel does for want of memory
    first.wait()
    check_free(tmp_path)
    MarkWhole(config(tmp_path))


def test_looking_whether_a_folder_is_free_makes_nothing(tmp_path: Path) -> None:
    check_free(tmp_path)
    check_free(tmp_path / "not there")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("refusal", [NotImplementedError("no flock"), OSError(errno.ENOLCK, "No locks available")])
def test_a_disk_without_locks_is_trained_on_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, refusal: Exception
) -> None:
    def acquire(*_: Any, **__: Any) -> None:
        raise refusal

    monkeypatch.setattr(checkpoint.FileLock, "acquire", acquire)
    MarkWhole(config(tmp_path))
    assert f"{tmp_path}: its disk has no locks, so a second run in it is not refused" in caplog.text


@pytest.mark.parametrize("folder", ["a, b (1)", "données=日本", "it's [here] & #there; ~"])
def test_any_path_survives_the_config_language(folder: str) -> None:
    parsed = OverridesParser.create().parse_override(override("data.media_root", f"/tmp/{folder}/q"))
    assert parsed.value() == f"/tmp/{folder}/q"


def test_a_path_that_the_config_language_would_resolve_is_refused() -> None:
    with pytest.raises(JigsawError, match="give the folder without"):
        override("data.media_root", "/tmp/${HOME}")
