"""``jigsaw score``: its figures, its table, and one clear line for every bad input."""

import json
import os
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jigsaw import cli, plan
from jigsaw.toy.rows import image_row, released

GRID = (2, 2)


def make_row(sample_id, answer_format="answer_tag"):
    return image_row(f"{sample_id}.png", GRID, id=sample_id, split="val", answer_format=answer_format)


ROWS = [make_row("a"), make_row("b", "boxed"), make_row("c")]


def good_reply(row, **when):
    answer = ", ".join(map(str, plan(row, **when).answer))
    boxed = row["extra_info"]["answer_format"] == "boxed"
    return f"<think>x</think>\\boxed{{{answer}}}" if boxed else f"<think>x</think><answer>{answer}</answer>"


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "val.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), path)
    return path


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command line; gives its exit code, stdout and stderr."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["jigsaw", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        return stop.value.code or 0, captured.out, captured.err

    return call


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_the_figures(run, data, tmp_path):
    a, b, _ = ROWS
    swapped = list(plan(a).answer)
    swapped[0], swapped[1] = swapped[1], swapped[0]
    replies = write(
        tmp_path / "replies.jsonl",
        [
            {"id": "a", "response": good_reply(a)},
            {"id": "a", "response": f"<think>x</think><answer>{', '.join(map(str, swapped))}</answer>"},
            {"id": "b", "response": good_reply(b)},
            {"id": "b", "response": "no idea"},
        ],
    )
    code, out, err = run("score", "--data", data, "--responses", replies, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "rows": 3,
        "rows_without_response": 1,
        "responses": 4,
        "exact": 0.5,
        "position_accuracy": pytest.approx((1 + 0.5 + 1 + 0) / 4),
        "kendall_tau": pytest.approx((1 + 2 / 3 + 1 + 0) / 4),  # the swap turns one pair of six round
        "valid_permutation": 0.75,
        "well_formed": 0.75,
        "score": pytest.approx((1.2 + (0.2 + 0.2 * 0.5) + 1.2 + 0) / 4),
        "chance_exact": pytest.approx(1 / 24),
        "chance_position_accuracy": 0.25,
    }


def test_the_table(run, data, tmp_path):
    replies = write(tmp_path / "replies.jsonl", [{"id": "a", "response": good_reply(ROWS[0])}])
    code, out, _ = run("score", "--data", data, "--responses", replies)
    assert code == 0
    assert "1 response to 1 of 3 puzzles" in out
    assert "0.04167" in out  # chance of an exact answer, 1/24
    assert "2 rows have no response" in out


def test_one_is_one_in_words(run, data, tmp_path):
    replies = write(tmp_path / "replies.jsonl", [{"id": name, "response": "x"} for name in "ab"])
    out = run("score", "--data", data, "--responses", replies)[1]
    assert "2 responses to 2 of 3 puzzles" in out
    assert "1 row has no response and is not counted" in out


def test_responses_may_come_from_a_pipe(run, data):
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as file:
        file.write(json.dumps({"id": "a", "response": "x"}) + "\n")
    try:
        code, out, _ = run("score", "--data", data, "--responses", f"/dev/fd/{reading}", "--json")
    finally:
        os.close(reading)
    assert (code, json.loads(out)["responses"]) == (0, 1)


def test_seed_and_epoch_name_the_puzzles(run, data, tmp_path):
    when = {"seed": 5, "epoch": 3}
    assert all(plan(row).answer != plan(row, **when).answer for row in ROWS)
    records = [{"id": row["extra_info"]["id"], "response": good_reply(row, **when)} for row in ROWS]
    replies = write(tmp_path / "replies.jsonl", records)
    command = ("score", "--data", data, "--responses", replies, "--json")
    assert json.loads(run(*command)[1])["exact"] == 0.0
    assert json.loads(run(*command, "--seed", 5, "--epoch", 3)[1])["exact"] == 1.0


def test_a_released_row_is_scored_in_the_format_that_its_prompt_asks_for(run, tmp_path):
    row = released(make_row("a"))
    data = tmp_path / "released.parquet"
    pq.write_table(pa.Table.from_pylist([row]), data)
    planned = plan(row)
    replies = write(
        tmp_path / "r.jsonl",
        [{"id": planned.id, "response": "<think>x</think>\\boxed{" + ", ".join(map(str, planned.answer)) + "}"}],
    )
    summary = json.loads(run("score", "--data", data, "--responses", replies, "--json")[1])
    assert (summary["well_formed"], summary["exact"], summary["score"]) == (1.0, 1.0, 1.2)


def test_a_plain_reply_can_be_malformed_though_it_has_no_format_reward(run, tmp_path):
    row = make_row("a", "plain")
    data = tmp_path / "plain.parquet"
    pq.write_table(pa.Table.from_pylist([row]), data)
    answer = ", ".join(map(str, plan(row).answer))
    replies = write(tmp_path / "r.jsonl", [{"id": "a", "response": answer}, {"id": "a", "response": "It is " + answer}])
    summary = json.loads(run("score", "--data", data, "--responses", replies, "--json")[1])
    assert (summary["well_formed"], summary["exact"], summary["score"]) == (0.5, 0.5, 0.5)


GOOD_LINE = json.dumps({"id": "a", "response": "x"}) + "\n"


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("", "holds no responses"),
        ("\n \n", "holds no responses"),
        (GOOD_LINE + "{nope\n", "replies.jsonl:2: is not JSON"),
        (GOOD_LINE + "\n" + "[1]\n", "replies.jsonl:3: must be an object"),
        ('{"id": "a"}\n', "replies.jsonl:1: must be an object"),
        ('{"id": "a", "response": 3}\n', "replies.jsonl:1: must be an object"),
        ('{"id": "zebra", "response": "x"}\n', "no row with the id 'zebra'"),
        ("[" * 100_000 + "\n", "replies.jsonl:1: is not JSON"),
        (b"\xff\xfe\xfa\n", "replies.jsonl:1: is not JSON"),
    ],
)
def test_bad_responses_are_one_clear_line(run, data, tmp_path, content, named):
    replies = tmp_path / "replies.jsonl"
    replies.write_bytes(content if isinstance(content, bytes) else content.encode())
    code, out, err = run("score", "--data", data, "--responses", replies)
    assert code == 1
    assert out == ""
    assert named in err
    assert err.count("\n") == 1


def test_missing_files_are_one_clear_line(run, data, tmp_path):
    replies = write(tmp_path / "replies.jsonl", [{"id": "a", "response": "x"}])
    for arguments, named in (
        (("--data", tmp_path / "no.parquet", "--responses", replies), "no.parquet: no such file"),
        (("--data", data, "--responses", tmp_path / "no.jsonl"), "no.jsonl: no such file; write one object"),
        (("--data", data, "--responses", tmp_path), f"{tmp_path}: no such file"),
        (("--data", replies, "--responses", replies), "cannot be read as parquet"),
    ):
        code, out, err = run("score", *arguments)
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert named in err


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ([make_row("a"), make_row("b"), make_row("a")], "rows 0 and 2 have the same id 'a'"),
        ([{**make_row("a"), "data_source": "geometry"}], "bad.parquet, row 0: row a: data_source 'geometry'"),
        ([{**make_row("a"), "images": ["a.png"]}], "bad.parquet, row 0: row a: images is ['a.png']"),
        ([{**make_row("a"), "extra_info": "a"}], "bad.parquet, row 0: extra_info is 'a'"),
    ],
)
def test_bad_rows_are_one_clear_line(run, tmp_path, rows, named):
    data = tmp_path / "bad.parquet"
    pq.write_table(pa.Table.from_pylist(rows), data)
    replies = write(tmp_path / "replies.jsonl", [{"id": "a", "response": "x"}])
    code, out, err = run("score", "--data", data, "--responses", replies)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert named in err


def test_rows_that_cannot_be_read_are_one_clear_line(run, tmp_path):
    table, replies = pa.Table.from_pylist(ROWS), write(tmp_path / "replies.jsonl", [{"id": "a", "response": "x"}])
    late = pa.array([1, 2**31 - 1, 1], pa.int32()).cast(pa.date32())  # after the year 9999
    twice = pa.StructArray.from_arrays([pa.array(["a", "b", "c"])] * 2, ["x", "x"])
    for column, named in (
        (late, "bad.parquet, row 1: column more holds a value"),
        (twice, "column more.x is there twice"),
    ):
        pq.write_table(table.append_column("more", column), tmp_path / "bad.parquet")
        code, out, err = run("score", "--data", tmp_path / "bad.parquet", "--responses", replies)
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert named in err


def test_a_name_with_control_characters_is_one_line(run, tmp_path):
    name = "a\nb\x1b[2J\u2028 Tür 图.parquet"
    code, out, err = run("score", "--data", tmp_path / name, "--responses", tmp_path / name)
    assert (code, out) == (1, "")
    assert err.splitlines() == [err.removesuffix("\n")]
    assert r"a\nb\x1b[2J\u2028 Tür 图.parquet: no such file" in err


def test_help_shows_an_example(run):
    code, out, _ = run("score", "--help")
    assert code == 0
    assert "jigsaw score --data" in out
    for option in ("--responses", "--seed", "--epoch", "--json"):
        assert option in out
