"""What stands between lmms-eval's tasks and a judge: what is kept, and what a judge that is silent comes to."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from jigsaw.errors import JigsawError
from jigsaw.lmms_plugin.judge import Judge
from jigsaw.lmms_plugin.replies import Replies
from jigsaw.lmms_plugin.run import tasks_of

ASKED = {"model": "gpt", "messages": [{"role": "user", "content": "Is it so?"}]}


@pytest.fixture
def kept(tmp_path: Path, judge: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OPENAI_API_KEY", judge.key)
    monkeypatch.setenv("OPENAI_API_URL", f"{judge.url}/chat/completions")
    return tmp_path / "judge.jsonl"


def ask(environment: dict[str, str], path: str = "", **changed: Any) -> httpx.Response:
    return httpx.post(environment["OPENAI_API_URL"] + path, json=ASKED | changed, timeout=30)


def test_what_was_said_is_kept_and_not_asked_again(kept: Path, judge: Any) -> None:
    between = Judge(kept)
    between.check()
    assert between.used is None
    with between.listening() as environment:
        first = ask(environment)
        assert first.json()["choices"][0]["message"]["content"] == "1"
        assert ask(environment, "/chat/completions").json() == first.json()  # some put the call behind the address
        ask(environment, model="another")
    between.check_answered()
    assert [(one["path"], one["key"]) for one in judge.asked] == [("/v1/chat/completions", "Bearer sesame")] * 2
    assert between.used == {"url": judge.url, "models": ["another", "gpt"]}
    assert judge.key not in kept.read_text()
    with Judge(kept).listening() as environment:
        assert ask(environment).json() == first.json()
    assert len(judge.asked) == 2
    assert json.loads(kept.read_text().splitlines()[0])["asked"] == ASKED


def test_what_was_not_answered_is_told_unless_it_was_later(kept: Path, judge: Any) -> None:
    between = Judge(kept)
    judge.silent = True
    with between.listening() as environment:
        assert ask(environment).status_code == 502
        assert ask(environment, model="another").status_code == 502
        judge.silent = False
        assert ask(environment).status_code == 200
    with pytest.raises(JigsawError, match=r"left 1 questions unanswered \(HTTPStatusError: Server error '503"):
        between.check_answered()


@pytest.mark.parametrize("text", [None, " "])
def test_an_empty_answer_is_none(kept: Path, judge: Any, monkeypatch: pytest.MonkeyPatch, text: str | None) -> None:
    monkeypatch.setattr(judge, "answer", {"choices": [{"message": {"content": text}}]})
    between = Judge(kept)
    with between.listening() as environment:
        assert ask(environment).status_code == 502
    with pytest.raises(JigsawError, match="its answer is empty"):
        between.check_answered()


def test_what_cannot_be_kept_counts_as_unanswered(kept: Path, judge: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Replies, row: object) -> None:
        raise JigsawError("disk full")

    monkeypatch.setattr(Replies, "add", full)
    between = Judge(kept)
    with between.listening() as environment:
        assert ask(environment).status_code == 500
    with pytest.raises(JigsawError, match="left 1 questions unanswered"):
        between.check_answered()


def test_a_judge_that_stays_silent_is_not_asked_for_ever(kept: Path, judge: Any) -> None:
    between, given_up = Judge(kept), []
    between.give_up = lambda: given_up.append(True)
    judge.silent = True
    with between.listening() as environment:
        for _ in range(9):
            ask(environment)
        assert not given_up
        ask(environment)
    assert given_up


def test_an_address_that_is_none_of_the_protocol_is_told(
    kept: Path, judge: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_URL", judge.url.removesuffix("/v1"))
    with pytest.raises(JigsawError, match=r"answers 404 to /models; OPENAI_API_URL must name .* ends in /v1$"):
        Judge(kept).check()


def test_an_answer_of_another_form_is_none(kept: Path, judge: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    between = Judge(kept)
    monkeypatch.setattr(judge, "answer", {"choices": []})
    with between.listening() as environment:
        assert ask(environment).status_code == 502
    with pytest.raises(JigsawError, match="IndexError"):
        between.check_answered()
    assert kept.read_text() == ""


def test_without_a_key_nobody_is_asked(kept: Path, judge: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    between = Judge(kept)
    with pytest.raises(JigsawError, match="a judge needs OPENAI_API_KEY"):
        between.check()
    with between.listening() as environment:
        assert ask(environment).status_code == 502
    with pytest.raises(JigsawError, match="there is no OPENAI_API_KEY"):
        between.check_answered()
    assert judge.asked == []
    told = r"^mathverse_testmini: not run, .* there is no OPENAI_API_KEY; mathverse_rules scores by rules$"
    with pytest.raises(JigsawError, match=told):
        tasks_of(None, ["mathverse_testmini"], "both")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"OPENAI_API_KEY": "open"}, r"does not take the key in OPENAI_API_KEY \(401\)$"),
        ({"OPENAI_API_URL": "http://127.0.0.1:9/v1"}, r"^the judge at http://127\.0\.0\.1:9/v1 does not answer"),
    ],
)
def test_a_judge_that_cannot_be_asked_is_told_first(
    kept: Path, judge: Any, changed: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in changed.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(JigsawError, match=message):
        Judge(kept).check()
