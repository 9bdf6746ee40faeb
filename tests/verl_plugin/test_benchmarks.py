"""Benchmarks during training: which are asked, what is shown of them, and what their replies come to."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import DictConfig, OmegaConf

from jigsaw.errors import JigsawError
from jigsaw.evaluation.questions import messages
from jigsaw.evaluation.shown import Media, Policy
from jigsaw.toy.benchmarks import write_benchmarks
from jigsaw.verl_plugin.benchmarks import Benchmarks
from jigsaw.verl_plugin.dataset import JigsawDataset

pytestmark = pytest.mark.timeout(120)
ASKED = ("vj_mmvp", "vj_winoground", "vj_cvbench", "vj_lisa_grounding", "vj_hrbench8k")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("benchmarks")
    write_benchmarks(folder, tasks=ASKED)
    return folder


def said(root: Path, **changed: Any) -> DictConfig:
    return OmegaConf.create({"every": 1, "suite": "all", "data": str(root), "limit": 4, "frames": 16, **changed})


def test_what_is_there_is_asked_and_what_is_not_is_told(data: Path) -> None:
    found = Benchmarks(said(data))
    assert set(found.questions) == {"MMVP", "Winoground", "CVBench", "LISA-Grounding", "HR-Bench-8K"}
    assert set(found.questions.values()) == {4}
    assert len(found) == 20
    assert "TVBench: no such folder" in found.absent["TVBench"]
    assert str(found).endswith("SAT-Real, 3DSRBench, ViewSpatial, All-Angles-Bench")
    assert found.shown() == {"image": 2, "video": 4}


def test_a_question_is_shown_as_jigsaw_eval_shows_it(data: Path) -> None:
    found = Benchmarks(said(data))
    config = OmegaConf.create({"max_prompt_length": 32768, "time_embedding": "released"})
    items = {item["extra_info"]["id"]: item for item in map(found.__getitem__, range(len(found)))}
    for asked in found._asked:
        for doc in asked.docs[:2]:
            item = items[f"{asked.name}/{doc['id']}"]
            plain = messages(doc)
            texts = [part.get("text") for part in item["raw_prompt"][0]["content"]]
            assert texts == [part.get("text") for part in plain[0]["content"]]
            images, films, _ = asyncio.run(JigsawDataset.process_multi_modal_info(item["raw_prompt"], 14, config))
            pictures, clips = Media(14, 2)(plain, Policy(16 // doc["share"]))
            assert [np.asarray(image).tolist() for image in images or ()] == [np.asarray(p).tolist() for p in pictures]
            assert all((film == clip.frames).all() for (film, _), clip in zip(films or (), clips, strict=True))


def test_large_pictures_leave_room_for_words(data: Path) -> None:
    found = Benchmarks(said(data))
    config = OmegaConf.create({"max_prompt_length": 8, "time_embedding": "released"})
    item = found[0]
    (picture,), *_ = asyncio.run(JigsawDataset.process_multi_modal_info(item["raw_prompt"], 14, config))
    assert picture.width * picture.height <= 6 * 28 * 28


def test_figures_are_read_carefully_and_by_group_and_silence_is_wrong(data: Path) -> None:
    found = Benchmarks(said(data))
    answers = {place: f"The answer is ({found[place]['reward_model']['ground_truth']})." for place in range(len(found))}
    figures = found.figures(answers)
    assert figures["val-benchmark/MMVP/pair_acc"] == 1
    assert figures["val-benchmark/Winoground/group_score"] == 1
    assert figures["val-benchmark/HR-Bench-8K/acc"] == 1
    first = next(place for place in range(len(found)) if found[place]["data_source"] == "benchmark/MMVP")
    del answers[first]  # one of four, half a pair
    figures = found.figures(answers)
    assert figures["val-benchmark/MMVP/acc"] == 0.75
    assert figures["val-benchmark/MMVP/pair_acc"] == 0.5
    assert figures["val-benchmark/MMVP/unreadable"] == 0.25
    assert figures["val-benchmark/MMVP/unanswered"] == 0.25
    assert figures["val-benchmark/HR-Bench-8K/unanswered"] == 0


def test_a_benchmark_without_all_its_media_is_refused(data: Path, tmp_path: Path) -> None:
    root = tmp_path / "some"
    shutil.copytree(data / "MMVP", root / "MMVP")
    shutil.copytree(data / "CVBench", root / "CVBench")
    gone = sorted((root / "MMVP/images").iterdir())[0]
    gone.unlink()
    with pytest.raises(JigsawError, match=rf"^MMVP: {gone}: no such file; complete its folder, or move it away$"):
        Benchmarks(said(root))
    shutil.rmtree(root / "MMVP")
    assert list(Benchmarks(said(root)).questions) == ["CVBench"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"suite": "pictures"}, r"^eval\.suite is 'pictures'; it must be one of image, video, 3d, all, or null$"),
        ({"limit": 0}, r"^eval\.limit is 0; it must be a whole number, 1 or more$"),
        ({"frames": "many"}, r"^eval\.frames is 'many'"),
        ({"data": "nowhere"}, r"^eval\.suite=all: none of its benchmarks is there; MMVP: nowhere/MMVP: no such folder"),
    ],
)
def test_what_cannot_be_asked_is_said(data: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(JigsawError, match=message):
        Benchmarks(said(data, **changed))


def test_groups_are_asked_whole(data: Path) -> None:
    assert Benchmarks(said(data, limit=3)).questions["MMVP"] == 2
    assert Benchmarks(said(data, limit=1)).questions["Winoground"] == 4
    assert Benchmarks(said(data, limit=3)).questions["HR-Bench-8K"] == 3


def test_nothing_is_asked_unless_told(data: Path) -> None:
    found = Benchmarks(said(data, suite=None))
    assert (len(found), found.questions, str(found)) == (0, {}, "none")


def test_a_question_says_of_itself_what_a_puzzle_says(data: Path) -> None:
    """verl makes a batch of both: a key that one of them lacks would shift all values."""
    puzzle = {"data_source", "raw_prompt", "reward_model", "extra_info", "index"}
    assert Benchmarks(said(data))[0].keys() == puzzle
