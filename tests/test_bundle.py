"""A bundle is loaded by the `datasets` library, shows what a model is shown, and is scored by the reward."""

import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from jigsaw.bundle import write_bundle
from jigsaw.cli import app
from jigsaw.errors import JigsawError
from jigsaw.response import reply_of
from jigsaw.reward import compute_score
from jigsaw.tasks import build_puzzle
from jigsaw.toy.rows import write_puzzles

pytestmark = pytest.mark.seconds


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder of media, and a row of each task."""
    folder = tmp_path_factory.mktemp("media")
    return folder, write_puzzles(folder, picture=(120, 80), grid=(2, 2), film=(56, 56), seconds=2)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.parametrize("task", ["image", "video", "depth"])
def test_the_library_shows_what_a_model_is_shown(rows: tuple[Path, dict[str, Any]], tmp_path: Path, task: str) -> None:
    folder, made = rows
    pq.write_table(pa.Table.from_pylist([made[task]]), tmp_path / "rows.parquet")
    assert write_bundle(tmp_path / "rows.parquet", folder, tmp_path / "out.parquet", seed=5).rows == 1
    (example,) = datasets.load_dataset("parquet", data_files=str(tmp_path / "out.parquet"), split="train")
    puzzle = build_puzzle(made[task], folder, seed=5)
    assert (example["id"], example["task"], tuple(example["answer"])) == (puzzle.id, task, puzzle.answer)
    if task == "video":
        frames = [picture.tobytes() for clip in example["videos"] for picture in clip]
        assert frames == [frame.tobytes() for clip in puzzle.media for frame in clip.frames.permute(0, 2, 3, 1).numpy()]
        assert example["fps"] == [clip.fps for clip in puzzle.media]
    else:
        assert [picture.tobytes() for picture in example["images"]] == [picture.tobytes() for picture in puzzle.media]
    assert example["prompt"].count("<video>" if task == "video" else "<image>") == len(puzzle.media)
    said = {"task": task, "answer_format": example["answer_format"], "grid": example["grid"] or None}
    said = {name: value for name, value in said.items() if value is not None}
    reply = reply_of(tuple(example["answer"]), example["answer_format"])
    assert compute_score("", reply, example["answer"], said)["exact"] == 1


def test_rows_that_cannot_be_made_are_left_out_and_named(rows: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, made = rows
    gone = {**made["image"], "images": [{**made["image"]["images"][0], "path": "gone.jpg"}]}
    gone["extra_info"] = {**gone["extra_info"], "id": "gone"}
    pq.write_table(pa.Table.from_pylist([gone, made["image"]]), tmp_path / "rows.parquet")
    out = tmp_path / "out.parquet"
    ended = CliRunner().invoke(
        app,
        ["bundle", str(tmp_path / "rows.parquet"), "--media-root", str(folder), "--out", str(out), "--json"],
        catch_exceptions=False,
    )
    told = json.loads(ended.stdout)
    assert told["rows"] == 1
    assert "gone.jpg" in told["left_out"]["gone"]
    with pytest.raises(JigsawError, match=r"out .*: is there already; remove it or choose another"):
        CliRunner().invoke(
            app,
            ["bundle", str(tmp_path / "rows.parquet"), "--media-root", str(folder), "--out", str(out)],
            catch_exceptions=False,
        )


def test_of_nothing_no_bundle_is_written(rows: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([rows[1]["image"]]), tmp_path / "rows.parquet")
    with pytest.raises(JigsawError, match=r"rows\.parquet: no puzzle could be made of its rows; .*picture\.jpg"):
        write_bundle(tmp_path / "rows.parquet", tmp_path, tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()
