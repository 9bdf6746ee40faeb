"""Replies that are kept, in a file that may be cut off, damaged, or on a full disk."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from jigsaw.errors import JigsawError
from jigsaw.lmms_plugin.first_minute import FirstMinute
from jigsaw.lmms_plugin.replies import Replies, key_of, weights_of


def row(number: int) -> dict[str, object]:
    return {"key": str(number), "reply": "B" * 100, "tokens": 1}


def test_what_was_added_is_known_again_and_half_a_line_is_cut_off(tmp_path: Path) -> None:
    file = tmp_path / "replies.jsonl"
    Replies(file).add(row(1))
    with file.open("a") as torn:
        torn.write('{"key": "2", "rep')
    again = Replies(file)
    assert again.get("1") == row(1)
    assert again.get("2") is None
    assert file.read_text() == json.dumps(row(1)) + "\n"


@pytest.mark.parametrize("line", ["{", "[]", '{"key": "1"}', "\xff"])
def test_a_line_that_is_no_reply_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "replies.jsonl"
    Replies(file).add(row(1))
    with file.open("a", encoding="latin-1") as damaged:
        damaged.write(f"{line}\n")
    with pytest.raises(JigsawError, match=r"replies\.jsonl, line 2: is no .*; remove the line, and it is asked again"):
        Replies(file)


FULL = """
import resource, sys
from pathlib import Path
from jigsaw.errors import JigsawError
from jigsaw.lmms_plugin.first_minute import FirstMinute
from jigsaw.lmms_plugin.replies import Replies
replies = Replies(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (400, 400))
for number in range(9):
    try:
        replies.add({"key": str(number), "reply": "B" * 100, "tokens": 1})
    except JigsawError as error:
        print(number, error)
        break
"""


@pytest.mark.seconds
def test_where_no_more_can_be_written_what_was_answered_stays_whole(tmp_path: Path) -> None:
    file = tmp_path / "replies.jsonl"
    ended = subprocess.run([sys.executable, "-c", FULL, file], capture_output=True, text=True, check=True)
    assert ended.stdout.startswith(f"2 {file}: cannot be written (")
    assert ended.stdout.endswith("then start again: what was answered is kept\n")
    assert [json.loads(line)["key"] for line in file.read_text().splitlines()] == ["0", "1"]


def test_a_key_is_of_what_is_seen_and_not_of_where_it_lies(tmp_path: Path) -> None:
    def asked(name: str, content: bytes, text: str = "Which?", **others: object) -> str:
        (tmp_path / name).write_bytes(content)
        parts = [{"type": "image", "url": str(tmp_path / name)}, {"type": "text", "text": text}]
        return key_of([{"role": "user", "content": parts}], **others)

    key = asked("a.jpg", b"1", weights="w")
    assert asked("b.jpg", b"1", weights="w") == key
    different = [
        asked("c.jpg", b"2", weights="w"),
        asked("d.jpg", b"1", weights="v"),
        asked("e.jpg", b"1", "What?", weights="w"),
    ]
    assert len({key, *different}) == 4


def test_weights_are_known_by_their_bytes(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"1")
    before = weights_of(str(tmp_path))
    (tmp_path / "README.md").write_text("a card")
    assert weights_of(str(tmp_path)) == before
    (tmp_path / "model.safetensors").write_bytes(b"2")
    assert weights_of(str(tmp_path)) != before


def test_the_first_minute_says_how_many_hours_are_to_come() -> None:
    minute = FirstMinute(7201)
    told = [minute.tell(now) for now in (100.0, 130.0, 159.0, 160.0, 161.0, 500.0)]
    assert told[:3] == [None, None, None]
    assert told[3] == "by the first minute, 0.05 questions a second: 40.0 h for the 7,197 of this round that are left"
    assert told[4:] == [None, None]
