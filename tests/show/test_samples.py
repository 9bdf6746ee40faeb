"""Which replies are shown, and how the rows that they are to are found."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jigsaw.errors import JigsawError
from jigsaw.show.samples import Rows, read_replies, samples
from jigsaw.tasks import plan
from jigsaw.toy.rows import image_row, write_puzzles


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    """The data of a run: two sources of two pictures each, given as a mixture."""
    for source in ("a", "b"):
        rows = [image_row("picture.jpg", (2, 1), id=f"{source}{number}") for number in range(2)]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{source}.parquet")
    mixture = [{"name": "a", "files": "a.parquet", "media_root": "elsewhere"}, {"name": "b", "files": "b.parquet"}]
    return {"data": {"mixture": mixture, "train_files": None, "media_root": "media", "epochs": 1, "difficulty": None}}


def write(file: Path, *replies: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(reply) + "\n" for reply in replies))


def reply(**more: Any) -> dict[str, Any]:
    return {"input": "What?", "output": "Hm", "gts": [2, 1], "score": 0.5, "uid": "p_0_0", "id": "a0"} | more


def test_rows_are_found_by_their_ids_in_all_files(tmp_path: Path, config: dict[str, Any]) -> None:
    rows = Rows(config, tmp_path)
    found = [rows.find(name) for name in ("a0", "a1", "b0", "b1")]
    assert [row["extra_info"]["id"] for row, _, _ in found] == ["a0", "a1", "b0", "b1"]
    assert [place for _, place, _ in found] == [0, 1, 0, 1]
    assert [folder.name for _, _, folder in found] == ["elsewhere", "elsewhere", "media", "media"]
    for name in ("a2", None, 0):
        with pytest.raises(JigsawError, match=f"no row {name}; the rows were changed since"):
            rows.find(name)


def test_rows_without_ids_and_files_without_a_mixture_are_found(tmp_path: Path, config: dict[str, Any]) -> None:
    unnamed = {name: value for name, value in image_row("picture.jpg", (2, 1)).items() if name != "extra_info"}
    unnamed["prompt"] = [{**unnamed["prompt"][0], "content": "<image><image> In <answer> </answer>."}]
    pq.write_table(pa.Table.from_pylist([unnamed, unnamed]), tmp_path / "c.parquet")
    config["data"] |= {"mixture": None, "train_files": [str(tmp_path / "b.parquet"), "c.parquet"]}
    rows = Rows(config, tmp_path)
    assert rows.find("b1")[1] == 1
    assert [rows.find(plan(unnamed, index=place).id)[1] for place in (0, 1)] == [0, 1]


def test_what_puzzles_say_of_themselves_is_that_of_the_first_rows(tmp_path: Path, config: dict[str, Any]) -> None:
    assert Rows(config, tmp_path).kinds() == {
        "image": ("visual_jigsaw_image", {"id": "a0", "task": "image", "answer_format": "answer_tag", "grid": [2, 1]})
    }
    broken = {**image_row("picture.jpg", (2, 1)), "data_source": "other"}
    for file in ("a.parquet", "b.parquet"):
        pq.write_table(pa.Table.from_pylist([broken]), tmp_path / file)
    assert Rows(config, tmp_path).kinds() == {}


def test_a_puzzle_is_of_the_level_that_its_answer_is_of(tmp_path: Path, config: dict[str, Any]) -> None:
    schedule = {"image": {"levels": [[2, 1], [2, 2], [3, 3]], "raise_at": 0.8, "window": 2}}
    config["data"]["difficulty"] = schedule
    rows = Rows(config, tmp_path)
    row, place, _ = rows.find("a0")
    for grid, count in (((2, 1), 2), ((2, 2), 4), ((3, 3), 9)):
        easier, planned = rows.again(row, place, range(count, 0, -1))
        assert (planned.grid, planned.answer) == (grid, tuple(range(count, 0, -1)))
        assert tuple(easier["images"][0]["jigsaw_config"]) == grid
    with pytest.raises(JigsawError, match="its puzzle has 2 pieces"):
        rows.again(row, place, (1, 2, 3))


def test_the_first_a_middle_and_the_last_step_are_shown_with_two_prompts_each(tmp_path: Path) -> None:
    for step in (1, 5, 10, 15, 20, 25):
        write(tmp_path / f"{step}.jsonl", *[reply(uid=f"{prompt}_{number}_0") for prompt in "abc" for number in (0, 1)])
    (tmp_path / "notes.jsonl").touch()
    shown = samples(tmp_path, 20, "unknown", {})
    assert [(sample.step, sample.replies) for sample in shown] == [(1, 2), (1, 2), (10, 2), (10, 2), (20, 2), (20, 2)]
    assert {sample.why for sample in shown} == {"unknown"}
    assert [sample.step for sample in samples(tmp_path, 4, "unknown", {})] == [1, 1]
    assert samples(tmp_path / "none", 4, "unknown", {}) == []


def test_lines_that_are_no_replies_are_left_out(tmp_path: Path) -> None:
    wrong = [
        reply(gts=None),
        reply(gts=[1, 1]),
        reply(output=None),
        reply(score="1"),
        {"input": "a"},
    ]
    write(tmp_path / "1.jsonl", reply(output="good"), *wrong)
    with (tmp_path / "1.jsonl").open("ab") as file:
        file.write(b'\xff\n[1]\n{"input": "Wha')
    assert [found["output"] for found in read_replies(tmp_path / "1.jsonl")] == ["good"]


def test_replies_are_read_as_the_reward_reads_them(tmp_path: Path, config: dict[str, Any]) -> None:
    write_puzzles(tmp_path / "media", seconds=1)
    truth = list(plan(image_row("picture.jpg", (2, 1), id="b0")).answer)
    text = f"<think></think><answer>{', '.join(map(str, truth))}</answer> So it is."
    write(tmp_path / "rollouts/1.jsonl", reply(output=text, gts=truth, id="b0"))
    rows = Rows(config, tmp_path)
    for options, answer in (({}, None), ({"tasks": {"image": {"profile": "released"}}}, tuple(truth))):
        ((answered,),) = [sample.answered for sample in samples(tmp_path / "rollouts", 1, rows, options)]
        assert answered.answer == answer
        assert bool(answered.reason) == (answer is None)
        assert bool(answered.whole) == (answer is not None)


@pytest.mark.seconds
def test_clips_are_put_together_by_the_model(tmp_path: Path, config: dict[str, Any]) -> None:
    made = write_puzzles(tmp_path / "media", seconds=2)["video"]
    pq.write_table(pa.Table.from_pylist([made]), tmp_path / "b.parquet")
    truth = plan(made).answer
    write(tmp_path / "rollouts/1.jsonl", reply(output="?", gts=list(truth), id="video"))
    (sample,) = samples(tmp_path / "rollouts", 1, Rows(config, tmp_path), {})
    assert sample.card is not None
    starts = [sample.card.figures[place - 1].strip.indices[0] for place in truth]  # type: ignore[union-attr]
    assert starts == sorted(starts)
