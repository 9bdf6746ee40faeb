"""Whole files and folders or none, and folders that one process holds."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jigsaw.errors import JigsawError
from jigsaw.files import alone, atomic_folder, atomic_write


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    with atomic_write(path) as file:
        file.write(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"


def test_a_file_is_on_the_disk_before_it_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a machine that loses its power may keep the name and lose the content."""
    done: list[tuple[str, int, int]] = []
    fsync, replace = os.fsync, os.replace

    def fsyncing(descriptor: int) -> None:
        fsync(descriptor)
        status = os.fstat(descriptor)
        done.append(("fsync", status.st_ino, status.st_size))

    def replacing(source: Path, target: Path) -> None:
        status = os.stat(source)
        done.append(("replace", status.st_ino, status.st_size))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", fsyncing)
    monkeypatch.setattr(os, "replace", replacing)
    with atomic_write(tmp_path / "file") as file:
        file.write(b"whole")  # few enough to stay in Python's buffer
    inode = (tmp_path / "file").stat().st_ino
    assert done == [("fsync", inode, 5), ("replace", inode, 5)]


@pytest.mark.parametrize("name", ["n" * 255, "片" * 85])
def test_a_name_may_be_as_long_as_the_system_allows(tmp_path: Path, name: str) -> None:
    with atomic_write(tmp_path / name) as file:
        file.write(b"whole")
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_a_file_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), atomic_write(path) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == [b"old"]


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    if_full = Path("/dev/full")
    assert if_full.exists()
    (tmp_path / f".file.{os.getpid()}.tmp").symlink_to(if_full)
    refusal = pytest.raises(JigsawError, match=r"file: cannot be written \(No space left on device\); make room or")
    with refusal, atomic_write(tmp_path / "file") as file:
        file.write(b"x" * 100_000)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, r"\(No space left on device\); make room or write elsewhere, then"),
        (errno.EDQUOT, r"\(Disk quota exceeded\); make room or write elsewhere, then"),
        (errno.EACCES, r"\(Permission denied\); get permission to write there or write elsewhere, then"),
        (errno.EROFS, r"\(Read-only file system\); write elsewhere, then"),
    ],
)
def test_the_advice_fits_the_refusal(tmp_path: Path, number: int, said: str) -> None:
    with pytest.raises(JigsawError, match=said), atomic_write(tmp_path / "file"):
        raise OSError(number, os.strerror(number))


def test_where_no_files_can_be_there_is_nothing_to_make_room_for() -> None:
    refusal = pytest.raises(JigsawError, match=r"^/proc/x\.html: cannot be written \(.*\); write elsewhere, then")
    with refusal, atomic_write(Path("/proc/x.html")) as file:
        file.write(b"x")


def test_a_parent_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refusal = pytest.raises(JigsawError, match=r"file/page\.html: cannot be written")
    with refusal, atomic_write(tmp_path / "file" / "page.html") as file:
        file.write(b"x")


@pytest.mark.parametrize("path", [Path("."), Path("/")])
def test_a_path_without_a_name_is_one_line(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(JigsawError, match=r": cannot be written"), atomic_write(path) as file:
        file.write(b"x")
    assert list(tmp_path.iterdir()) == []


def test_files_of_the_user_are_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / "page.html.tmp"
    mine.write_bytes(b"mine")
    with atomic_write(tmp_path / "page.html") as file:
        file.write(b"x")
    assert mine.read_bytes() == b"mine"
    assert {path.name for path in tmp_path.iterdir()} == {"page.html", "page.html.tmp"}


def test_a_folder_appears_when_it_is_whole(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "folder") as draft:
        (draft / "half").touch()
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "folder.tmp").mkdir()  # the user's
    with atomic_folder(tmp_path / "folder") as draft:
        (draft / "whole").touch()
    assert [entry.name for entry in (tmp_path / "folder").iterdir()] == ["whole"]
    assert (tmp_path / "folder.tmp").is_dir()


@pytest.mark.seconds
def test_a_second_process_is_told_that_the_folder_is_held(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from jigsaw.files import alone\n"
        "with alone(Path(sys.argv[1]), 'busy'): print('in')"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "lock")]
    with alone(tmp_path / "lock", "busy"):
        second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert second.returncode != 0
    assert "JigsawError: busy" in second.stderr
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "in\n"
