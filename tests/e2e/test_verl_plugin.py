"""The plug-in on verl itself, without a run: dataset, shared prompts, sampler, and which patches are still needed."""

import asyncio
import gc
import inspect
import json
import subprocess
import sys
import weakref
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from omegaconf import DictConfig, OmegaConf, open_dict
from tensordict import TensorDict
from tensordict.tensorclass import NonTensorStack
from transformers import AutoProcessor
from verl.utils import tensordict_utils

from jigsaw import machine, plan
from jigsaw.errors import JigsawError
from jigsaw.permutation import is_answer
from jigsaw.prepare.images import ImageOptions
from jigsaw.prepare.pipeline import prepare_rows
from jigsaw.puzzle import media_specs
from jigsaw.reward import compute_score
from jigsaw.rows import read_rows
from jigsaw.toy.rows import depth_row, image_row, released, video_row
from jigsaw.verl_plugin import agent_loop, features, install, sampler
from jigsaw.verl_plugin.dataset import JigsawDataset
from jigsaw.verl_plugin.difficulty import Schedule
from jigsaw.verl_plugin.launch import compose_config
from jigsaw.verl_plugin.seeds import reply_seed

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, scenes: Path) -> Path:
    """Rows of 40 training and 8 held-out scenes, 2×2."""
    out = tmp_path_factory.mktemp("rows")
    prepare_rows(scenes, out, ImageOptions(grid=(2, 2), min_side=28, val=8), progress=lambda done, total: None)
    return out


@pytest.fixture(scope="module")
def config(repository: Path, data: Path, scenes: Path, tiny_model: Path) -> DictConfig:
    """The quickstart's config, composed as verl composes it."""
    return compose_config(
        repository / "configs",
        "quickstart",
        f"data.train_files={data / 'train.parquet'}",
        f"data.val_files={data / 'val.parquet'}",
        f"data.media_root={scenes}",
        f"actor_rollout_ref.model.path={tiny_model}",
        "data.epochs=3",
        "trainer.total_training_steps=7",
    )


@pytest.fixture(scope="module")
def processor(tiny_model: Path) -> Any:
    return AutoProcessor.from_pretrained(tiny_model)


@pytest.fixture
def dataset(config: DictConfig, processor: Any) -> JigsawDataset:
    return JigsawDataset(config.data.train_files, processor.tokenizer, config.data, processor)


# --- dataset ---------------------------------------------------------------------------------------------------


def test_an_index_says_epoch_and_row(dataset: JigsawDataset) -> None:
    assert len(dataset) == 3 * 40
    items = [dataset[index] for index in range(len(dataset))]
    for epoch in range(3):
        of_epoch = items[40 * epoch : 40 * (epoch + 1)]
        assert {item["extra_info"]["epoch"] for item in of_epoch} == {epoch}
        assert len({item["extra_info"]["id"] for item in of_epoch}) == 40
    orders = [tuple(item["extra_info"]["id"] for item in items[40 * e : 40 * (e + 1)]) for e in range(3)]
    assert len(set(orders)) == 3  # shuffled anew


def test_a_row_gets_another_order_in_another_epoch(dataset: JigsawDataset) -> None:
    answers: dict[str, set[tuple[int, ...]]] = {}
    for index in range(len(dataset)):
        item = dataset[index]
        truth = item["reward_model"]["ground_truth"]
        assert is_answer(truth, 4)
        answers.setdefault(item["extra_info"]["id"], set()).add(tuple(truth))
    assert sum(len(different) > 1 for different in answers.values()) > 30


EASY_FIRST = {"image": {"levels": [[2, 1], [2, 2]], "raise_at": 0.8, "window": 10}}


def test_with_a_difficulty_schedule_a_prompt_comes_at_every_level(
    dataset: JigsawDataset, config: DictConfig, processor: Any
) -> None:
    data = _changed(config, difficulty=EASY_FIRST)
    item = JigsawDataset(data.train_files, processor.tokenizer, data, processor)[50]
    easy, hard = item["extra_info"]["levels"]
    assert [len(level["reward_model"]["ground_truth"]) for level in (easy, hard)] == [2, 4]
    assert [level["extra_info"]["grid"] for level in (easy, hard)] == [[2, 1], [2, 2]]
    assert {level["extra_info"]["id"] for level in (easy, hard)} == {dataset[50]["extra_info"]["id"]}
    assert hard["raw_prompt"] == dataset[50]["raw_prompt"]  # 2×2 are the rows' own grid
    held_out = JigsawDataset(data.val_files, processor.tokenizer, data, processor)
    assert "levels" not in held_out[0]["extra_info"]


def test_a_row_that_cannot_be_read_is_named(config: DictConfig, processor: Any, data: Path, tmp_path: Path) -> None:
    table = pq.read_table(data / "train.parquet")
    days = pa.array([2**31 - 1 if row == 7 else 1 for row in range(len(table))], pa.int32())  # after the year 9999
    other = tmp_path / "other.parquet"
    pq.write_table(table.append_column("when", days.cast(pa.date32())), other)
    changed = _changed(config, train_files=str(other))
    with pytest.raises(JigsawError, match=r"other\.parquet, row 7: column when holds a value that cannot be read"):
        JigsawDataset(str(other), processor.tokenizer, changed, processor)


def test_a_row_that_no_level_fits_is_named(config: DictConfig, processor: Any, data: Path, tmp_path: Path) -> None:
    rows = pq.read_table(data / "train.parquet").to_pylist()
    rows[3]["prompt"][0]["content"] += " Please."
    other = tmp_path / "other.parquet"
    pq.write_table(pa.Table.from_pylist(rows), other)
    changed = _changed(config, train_files=str(other), difficulty=EASY_FIRST)
    with pytest.raises(JigsawError, match=r"other\.parquet, row 3: .*make the rows with jigsaw prepare"):
        JigsawDataset(str(other), processor.tokenizer, changed, processor)


def test_another_process_sees_the_same_data(dataset: JigsawDataset, config: DictConfig, processor: Any) -> None:
    again = JigsawDataset(config.data.train_files, processor.tokenizer, config.data, processor)
    for index in (0, 39, 40, 119):
        assert again[index]["raw_prompt"] == dataset[index]["raw_prompt"]


def test_messages_hold_specs_and_no_pixels(dataset: JigsawDataset) -> None:
    assert json.loads(json.dumps(dataset[0]["raw_prompt"])) == dataset[0]["raw_prompt"]


def test_validation_is_one_pass_in_file_order(config: DictConfig, processor: Any, data: Path) -> None:
    held_out = JigsawDataset(config.data.val_files, processor.tokenizer, config.data, processor)
    ids = [row["extra_info"]["id"] for row in pq.read_table(data / "val.parquet").to_pylist()]
    assert [held_out[index]["extra_info"]["id"] for index in range(len(held_out))] == ids


def test_max_samples_takes_the_first_rows(config: DictConfig, processor: Any) -> None:
    assert len(JigsawDataset(config.data.val_files, processor.tokenizer, config.data, processor, max_samples=3)) == 3


def _changed(config: DictConfig, **values: Any) -> DictConfig:
    changed = config.data.copy()
    with open_dict(changed):
        changed.update(values)
    return changed


def test_fewer_rows_than_a_batch_is_said(config: DictConfig, processor: Any) -> None:
    data = _changed(config, train_batch_size=41)
    with pytest.raises(JigsawError, match=r"train\.parquet: 40 rows are fewer than data\.train_batch_size=41"):
        JigsawDataset(data.train_files, processor.tokenizer, data, processor)


def test_data_that_end_before_the_training_are_said(config: DictConfig, processor: Any) -> None:
    data = _changed(config, total_training_steps=8)
    with pytest.raises(JigsawError, match=r"40 rows × 3 epochs last for 7 steps, .* is 8; raise data\.epochs"):
        JigsawDataset(data.train_files, processor.tokenizer, data, processor)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"epochs": 1.5}, r"^data\.train_files: epochs is 1\.5; it must be a whole number, 1 or more"),
        ({"epochs": None}, r"^data\.train_files: epochs is None"),
        ({"cut_time_limit": None}, r"^data\.cut_time_limit is None; it must be a whole number, 1 or more"),
        ({"seed": "x"}, r"^data\.seed is 'x'; it must be a whole number, 0 or more"),
        ({"train_batch_size": 0}, r"^data\.train_batch_size is 0; it must be a whole number, 1 or more"),
        ({"train_batch_size": True}, r"^data\.train_batch_size is True"),
        ({"media_root": "/nowhere"}, "^data.media_root is /nowhere; there is no such folder$"),
        ({"val_files": []}, r"^data\.val_files: \[\] names no file"),
        ({"difficulty": EASY_FIRST, "trainer_mode": "colocate_async"}, "needs trainer.v1.trainer_mode=sync, not colo"),
    ],
)
def test_a_value_that_makes_no_sense_is_named(config: DictConfig, processor: Any, values: Any, said: str) -> None:
    data = _changed(config, **values)
    with pytest.raises(JigsawError, match=said):
        JigsawDataset(data.train_files, processor.tokenizer, data, processor)


def test_training_on_the_validation_file_is_refused(config: DictConfig, processor: Any) -> None:
    train = str(config.data.train_files)
    other = Path(train).parent / ".." / Path(train).parent.name / Path(train).name
    for val_files in (train, str(other), [str(config.data.val_files), train]):
        data = _changed(config, val_files=val_files)
        with pytest.raises(JigsawError, match=r"train\.parquet: is in data\.train_files and in data\.val_files"):
            JigsawDataset(data.train_files, processor.tokenizer, data, processor)


def test_a_duplicate_id_is_refused(config: DictConfig, processor: Any, data: Path, tmp_path: Path) -> None:
    rows = pq.read_table(data / "train.parquet").to_pylist()
    more = tmp_path / "more.parquet"
    pq.write_table(pa.Table.from_pylist([{**rows[0], "extra_info": {"id": "new"}}, rows[5]]), more)
    changed = _changed(config, train_files=[str(config.data.train_files), str(more)])
    named = r"train\.parquet, row 5 and .*more\.parquet, row 1 have the same id '.*'; ids must be unique"
    with pytest.raises(JigsawError, match=named):
        JigsawDataset(changed.train_files, processor.tokenizer, changed, processor)
    # The first rows alone hold no duplicate.
    assert JigsawDataset(changed.train_files, processor.tokenizer, changed, processor, max_samples=41)


@pytest.mark.parametrize("change", [{"images": ["a.png"]}, {"extra_info": "a"}, {"images": [None]}])
def test_a_hostile_row_is_named(config: DictConfig, processor: Any, data: Path, tmp_path: Path, change: Any) -> None:
    rows = [{**row, **change} for row in pq.read_table(data / "train.parquet").to_pylist()]
    bad = tmp_path / "bad.parquet"
    pq.write_table(pa.Table.from_pylist(rows), bad)
    changed = _changed(config, train_files=str(bad))
    with pytest.raises(JigsawError, match=rf"bad\.parquet, row 0: .*{next(iter(change))} is "):
        JigsawDataset(str(bad), processor.tokenizer, changed, processor)


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist([{"images": None, "videos": None, **row} for row in rows])


def test_one_file_may_mix_grids_tasks_and_clip_counts(config: DictConfig, processor: Any, tmp_path: Path) -> None:
    rows = [
        image_row("a.png", (2, 2), id="a"),
        image_row("a.png", (3, 3), id="b"),
        video_row("a.mp4", 2, id="c"),
        video_row("a.mp4", 3, (2, 2), id="d"),
    ]
    mixed = tmp_path / "mixed.parquet"
    pq.write_table(_table(rows), mixed)
    changed = _changed(config, train_files=str(mixed), train_batch_size=4, total_training_steps=1)
    dataset = JigsawDataset(str(mixed), processor.tokenizer, changed, processor)
    items = [dataset[index] for index in range(4)]
    found = {item["extra_info"]["id"]: len(item["reward_model"]["ground_truth"]) for item in items}
    assert found == {"a": 4, "b": 9, "c": 2, "d": 12}


ASKED = {
    "answer_tag": "<think>x</think><answer>{}</answer>",
    "boxed": "<think>x</think>\\boxed{{{}}}",
    "plain": "{}",
}


@pytest.mark.parametrize(
    "options", [{}, {"profile": "paper"}, {"profile": "released"}, {"tasks": {"image": {"gamma": 0.4}}}]
)
def test_training_scores_a_reply_as_a_user_does_by_hand(
    config: DictConfig, processor: Any, tmp_path: Path, options: dict[str, Any]
) -> None:
    def row(make: Any, asked: str, said: str | None, source: str = "") -> dict[str, Any]:
        own = make(answer_format=asked)
        prompt, name = own["prompt"], own["data_source"] + source
        return {**released(own), "data_source": name, "prompt": prompt, "extra_info": {"answer_format": said}}

    kinds = [
        partial(image_row, "a.png", (2, 3)),
        partial(depth_row, "a.png", [[9, 20 * n] for n in range(6)]),
        partial(video_row, "a.mp4", 6),
    ]
    rows = [row(make, asked, asked) for asked in ASKED for make in kinds]
    # Released rows say nothing of their own.
    rows += [row(make, "boxed", None) for make in kinds] + [row(make, "plain", None, "_nothink") for make in kinds]
    pq.write_table(_table(rows), tmp_path / "rows.parquet")
    files = str(tmp_path / "rows.parquet")
    wanted = {"train_files": files, "train_batch_size": len(rows), "total_training_steps": 2}
    data = _changed(_rewarded(config, **options), **wanted)
    dataset = JigsawDataset(files, processor.tokenizer, data, processor)
    right = 0
    for index in range(2 * len(rows)):
        item = dataset[index]
        place, epoch = item["index"], item["extra_info"]["epoch"]
        read = read_rows(files)[place]
        planned = plan(read, seed=config.data.seed, epoch=epoch, index=place)
        swapped = (planned.answer[1], planned.answer[0], *planned.answer[2:])
        for answer in (planned.answer, swapped):
            for reply in ASKED.values():
                text = reply.format(", ".join(map(str, answer)))
                truth = item["reward_model"]["ground_truth"]
                trained = compute_score(item["data_source"], text, truth, item["extra_info"], **options)
                by_hand = compute_score(read["data_source"], text, planned.answer, planned.extra_info, **options)
                assert trained == by_hand
                right += int(trained["exact"])
    assert right == 2 * len(rows)  # in one format each


def _rewarded(config: DictConfig, **options: Any) -> DictConfig:
    changed = config.copy()
    with open_dict(changed):
        changed.reward.custom_reward_function.reward_kwargs = options
    return changed


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"gama": 0.1}, "reward_kwargs: unknown reward option gama"),
        ({"gamma": 2}, r"reward_kwargs: gamma is 2\.0; it must be below 1"),
        ({"tasks": {"sound": {}}}, r"reward_kwargs: tasks\.sound: no such task; known are image, video, depth"),
        ({"tasks": {"video": {"gama": 0.1}}}, r"reward_kwargs: tasks\.video: unknown reward option gama"),
        ({"tasks": {"depth": {"shape": "round"}}}, r"reward_kwargs: tasks\.depth: shape is 'round'; it must be one of"),
        ({"tasks": "video"}, "reward_kwargs: tasks is 'video'; it must be a mapping"),
        # allowed by itself, but not for rows that are scored by the profile `released`
        (
            {
                "tasks": {"image": {"profile": "released"}},
                "length_reward": {"min_words": 1, "max_words": 2, "penalty": 0.5},
            },
            r"reward_kwargs: tasks\.image: length_reward\.penalty is 0\.5; it must be below 0\.3",
        ),
    ],
)
def test_reward_options_that_make_no_sense_are_refused(
    config: DictConfig, processor: Any, options: Any, said: str
) -> None:
    data = _rewarded(config, **options).data
    with pytest.raises(JigsawError, match=f"^reward.custom_reward_function.{said}"):
        JigsawDataset(data.train_files, processor.tokenizer, data, processor)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"custom_reward_function.reward_kwargs": 3}, r"reward_kwargs is 3; it must be a mapping"),
        ({"reward_model.enable": True}, r"set reward\.num_workers to 1 or more"),
        ({"reward_manager.name": "remote"}, r"set reward\.num_workers to 1 or more"),
        ({"reward_model.enable": True, "num_workers": 1}, r"set reward\.reward_model\.enable_resource_pool=true"),
    ],
)
def test_a_reward_that_cannot_be_had_is_refused(config: DictConfig, processor: Any, values: Any, said: str) -> None:
    changed = config.copy()
    for option, value in values.items():
        OmegaConf.update(changed.reward, option, value, merge=False)
    with pytest.raises(JigsawError, match=said):
        JigsawDataset(changed.data.train_files, processor.tokenizer, changed.data, processor)


def test_reward_options_that_do_not_fit_some_rows_name_one(config: DictConfig, processor: Any, tmp_path: Path) -> None:
    points = [[10, 10], [10, 60], [10, 100]]
    pq.write_table(pa.Table.from_pylist([depth_row("a.png", points)]), tmp_path / "depth.parquet")
    both = [str(config.data.train_files), str(tmp_path / "depth.parquet")]
    data = _rewarded(config, shape="adjacency").data
    assert JigsawDataset(data.train_files, processor.tokenizer, data, processor)
    data = _changed(_rewarded(config, shape="adjacency"), train_files=both)
    with pytest.raises(JigsawError, match=r"reward_kwargs and .*depth\.parquet, row 0: shape 'adjacency' needs "):
        JigsawDataset(data.train_files, processor.tokenizer, data, processor)
    data = _changed(_rewarded(config, tasks={"image": {"shape": "adjacency"}}), train_files=both)
    assert JigsawDataset(data.train_files, processor.tokenizer, data, processor)


def test_options_of_a_reward_of_ones_own_are_ones_own(config: DictConfig, processor: Any) -> None:
    changed = _rewarded(config, anything=1)
    changed.reward.custom_reward_function.path = "my_reward.py"
    assert JigsawDataset(changed.data.train_files, processor.tokenizer, changed.data, processor)


@pytest.fixture(scope="module")
def mixture(data: Path, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Two sources of media roots of their own: the 40 scenes, three times, and 4 others once for three of them."""
    folder = tmp_path_factory.mktemp("mixture")
    rows = pq.read_table(data / "train.parquet").to_pylist()[:4]
    for number, row in enumerate(rows):
        row["extra_info"]["id"] = f"few-{number}"
        path = folder / "media" / row["images"][0]["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((scenes / row["images"][0]["path"]).read_bytes())
    pq.write_table(pa.Table.from_pylist(rows), folder / "few.parquet")
    few = {"name": "few", "files": str(folder / "few.parquet"), "weight": 0.5, "epochs": 9}
    return [
        {"name": "many", "files": [str(data / "train.parquet")], "weight": 1.5},
        {**few, "media_root": str(folder / "media")},
    ]


def _mixed(config: DictConfig, mixture: Any, **values: Any) -> DictConfig:
    return _changed(config, mixture=mixture, train_files=None, **values)


def test_a_mixture_is_drawn_by_weight(config: DictConfig, processor: Any, mixture: Any) -> None:
    data = _mixed(config, mixture)
    dataset = JigsawDataset(data.train_files, processor.tokenizer, data, processor)
    items = [dataset[index] for index in range(len(dataset))]
    assert len(items) == 4 * 9 * 4 + 3  # the next one would be of the few again
    few = [index for index, item in enumerate(items) if item["extra_info"]["id"].startswith("few")]
    assert [index // 4 for index in few] == list(range(36))
    for name, rows in (("few", 4), ("many", 40)):
        own = [item["extra_info"] for item in items if item["extra_info"]["id"].startswith("few") == (name == "few")]
        for place, info in enumerate(own):
            assert info["epoch"] == place // rows
        epochs = [[info["id"] for info in own[begin : begin + rows]] for begin in range(0, len(own), rows)]
        assert all(len(set(epoch)) == len(epoch) for epoch in epochs)
        assert len(set(map(tuple, epochs))) > 1  # shuffled anew


def test_an_index_of_a_mixture_means_the_same_in_any_order(config: DictConfig, processor: Any, mixture: Any) -> None:
    data = _mixed(config, mixture)
    first, again = (JigsawDataset(data.train_files, processor.tokenizer, data, processor) for _ in range(2))
    for index in reversed(range(0, len(first), 7)):
        assert again[index]["raw_prompt"] == first[index]["raw_prompt"]


def test_a_sources_media_are_found_below_its_own_root(config: DictConfig, processor: Any, mixture: Any) -> None:
    pictures = str(config.data.media_root)
    held_out = [{"name": "held out", "files": str(config.data.val_files), "media_root": pictures}]
    data = _mixed(config, [{**mixture[0], "media_root": pictures}, mixture[1]], media_root="???", val_files=held_out)
    for files, roots in ((data.train_files, {pictures, mixture[1]["media_root"]}), (data.val_files, {pictures})):
        dataset = JigsawDataset(files, processor.tokenizer, data, processor)
        prompts = [dataset[index]["raw_prompt"] for index in range(4)]
        assert {spec["media_root"] for prompt in prompts for spec in media_specs(prompt)} == roots
        for prompt in prompts:
            images, _, _ = asyncio.run(JigsawDataset.process_multi_modal_info(prompt, 14, data))
            assert images is not None
            assert len(images) == 4


def test_a_source_without_a_media_root_is_named(config: DictConfig, processor: Any, mixture: Any) -> None:
    data = _mixed(config, mixture, media_root="???")
    with pytest.raises(JigsawError, match=r"source 'many': where are its .* set its media_root, or data\.media_root"):
        JigsawDataset(data.train_files, processor.tokenizer, data, processor)


def test_a_sources_media_root_that_is_not_there_is_named(config: DictConfig, processor: Any, mixture: Any) -> None:
    data = _mixed(config, [mixture[0], {**mixture[1], "media_root": "/nowhere"}])
    with pytest.raises(JigsawError, match=r"^source 'few': media_root is /nowhere; there is no such folder$"):
        JigsawDataset(data.train_files, processor.tokenizer, data, processor)


def test_a_source_that_ends_before_the_training_is_named(config: DictConfig, processor: Any, mixture: Any) -> None:
    data = _mixed(config, mixture, total_training_steps=9)
    assert len(JigsawDataset(data.train_files, processor.tokenizer, data, processor)) // 16 == 9
    data = _mixed(config, mixture, total_training_steps=10)
    said = r"^source 'few': 4 rows × 9 epochs last for 9 steps, .* is 10; raise its epochs or lower its weight$"
    with pytest.raises(JigsawError, match=said):
        JigsawDataset(data.train_files, processor.tokenizer, data, processor)


def test_an_id_in_two_sources_is_refused(config: DictConfig, processor: Any, mixture: Any, tmp_path: Path) -> None:
    rows = pq.read_table(mixture[0]["files"][0]).to_pylist()
    pq.write_table(pa.Table.from_pylist(rows[5:9]), tmp_path / "again.parquet")
    data = _mixed(config, [mixture[0], {**mixture[1], "files": str(tmp_path / "again.parquet")}])
    with pytest.raises(JigsawError, match=r"train\.parquet, row 5 and .*again\.parquet, row 0 have the same id"):
        JigsawDataset(data.train_files, processor.tokenizer, data, processor)


def test_rows_are_named_once_by_files_or_by_sources(config: DictConfig, processor: Any, mixture: Any) -> None:
    data = _changed(config, mixture=mixture)  # with the config's train_files
    with pytest.raises(JigsawError, match=r"data\.train_files and data\.mixture name different files; set one"):
        JigsawDataset(data.train_files, processor.tokenizer, data, processor)
    data = _changed(config, mixture=mixture, train_files=[mixture[1]["files"], *mixture[0]["files"]])  # the same ones
    assert len(JigsawDataset(data.train_files, processor.tokenizer, data, processor)) == 4 * 9 * 4 + 3
    data = _changed(config, train_files=None)
    with pytest.raises(JigsawError, match=r"no rows to train on: set data\.train_files, or data\.mixture"):
        JigsawDataset(data.train_files, processor.tokenizer, data, processor)


def test_max_samples_takes_the_first_rows_of_each_source(config: DictConfig, processor: Any, mixture: Any) -> None:
    data = _mixed(config, mixture, train_batch_size=4, total_training_steps=3)
    dataset = JigsawDataset(data.train_files, processor.tokenizer, data, processor, max_samples=3)
    assert len({dataset[index]["extra_info"]["id"] for index in range(len(dataset))}) == 6


def test_a_time_embedding_that_is_unknown_is_refused(config: DictConfig, processor: Any) -> None:
    changed = _changed(config, time_embedding="false")
    with pytest.raises(JigsawError, match=r"data\.time_embedding is 'false'; it must be one of "):
        JigsawDataset(changed.train_files, processor.tokenizer, changed, processor)


@pytest.mark.parametrize(("other", "name"), [(None, "no processor"), (object(), "object")])
def test_a_model_that_is_not_qwen2_5_vl_is_refused(
    config: DictConfig, processor: Any, other: object, name: str
) -> None:
    with pytest.raises(JigsawError, match=rf"the model has {name}; set actor_rollout_ref\.model\.path"):
        JigsawDataset(config.data.train_files, processor.tokenizer, config.data, other)


def test_a_bad_row_is_named_before_training(config: DictConfig, processor: Any, data: Path, tmp_path: Path) -> None:
    rows = pq.read_table(data / "train.parquet").to_pylist()
    rows[17]["images"][0]["jigsaw_config"] = [3, 3]
    bad = tmp_path / "bad.parquet"
    pq.write_table(pa.Table.from_pylist(rows), bad)
    changed = _changed(config, train_files=str(bad))
    with pytest.raises(JigsawError, match=r"bad\.parquet, row 17: .*must hold 9 <image> marks"):
        JigsawDataset(str(bad), processor.tokenizer, changed, processor)


# --- sampler ---------------------------------------------------------------------------------------------------


def _buffer(
    monkeypatch: pytest.MonkeyPatch, failing: set[int], *, fail_after: int = 1, **options: Any
) -> sampler.JigsawReplayBuffer:
    """A sampler over a queue in memory, in which the prompts of the given numbers fail after so many responses."""
    queue: dict[str, dict[str, Any]] = {}
    carried = {f"u{number}": {"status": "success"} for number in (*range(-4, 0), *range(8)) if number not in failing}
    for number in range(8):
        status = "failure" if number in failing else "finished"
        queue[f"u{number}"] = {"is_prompt": True, "status": status, "global_steps": 1}
        for response in range(fail_after if number in failing else 2):
            queue[f"u{number}_{response}_0"] = {"status": "success"}

    class Queue:
        @staticmethod
        def kv_list(partition_id: str = "") -> dict[str, Any]:
            return {"train": dict(queue), "val": dict(queue), features.PARTITION: dict(carried)}

        @staticmethod
        def kv_clear(keys: list[str], partition_id: str) -> None:
            for key in keys:
                (carried if partition_id == features.PARTITION else queue).pop(key, None)

        @staticmethod
        def kv_batch_get(keys: list[str], partition_id: str, select_fields: list[str]) -> dict[str, Any]:
            right = [key.endswith("_0_0") or key.startswith("u0") for key in keys]
            scores = [{"reward_extra_info": {"exact": float(exact)}} for exact in right]
            tasks = [{"task": "video" if key.startswith("u0") else "image"} for key in keys]
            return {"extra_fields": scores, "extra_info": tasks}

    monkeypatch.setattr(sampler, "tq", Queue)
    monkeypatch.setattr(features, "tq", Queue)
    monkeypatch.setattr("verl.trainer.ppo.v1.replay_buffer.tq", Queue)
    return sampler.JigsawReplayBuffer(
        sampler_kwargs=OmegaConf.create(
            {
                "max_failed_share": 0.01,
                "poll_interval": 0.0,
                "filter_groups": {"enable": False, "metric": "position_accuracy", "max_inflight_gen_batches": 1},
                "train_batch_size": 8,
                "difficulty": None,
                "checkpoints": "unused",
                **options,
            }
        ),
        trainer_mode="sync",
        trainer_config={},
        max_off_policy_threshold=8,
        max_off_policy_strategy="drop",
        refill_fn=lambda prompts: None,
    )


def test_a_failed_group_is_left_out_whole_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, metrics = _buffer(monkeypatch, failing={3}).sample(1, "train", 8)
    assert not any(key.startswith("u3") for key in batch.keys)
    assert len(batch.keys) == 14
    assert metrics["training/failed_prompts"] == 1
    assert metrics["reward/exact"] == 8 / 14


def test_each_task_has_metrics_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight prompts with two responses each: one is a video, both its responses right; one failed."""
    _, metrics = _buffer(monkeypatch, failing={3}).sample(1, "train", 8)
    assert (metrics["training/prompts/video"], metrics["training/prompts/image"]) == (1, 6)
    assert (metrics["reward/video/exact"], metrics["reward/image/exact"]) == (1.0, 0.5)


def test_pixels_of_earlier_steps_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = _buffer(monkeypatch, failing={3})
    assert {f"u{number}" for number in range(-4, 0)} <= features.kept()
    buffer.sample(1, "train", 8)
    assert features.kept() == {f"u{number}" for number in range(8) if number != 3}


def test_a_run_with_too_many_failures_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(JigsawError, match="2 of 8 prompts failed"):
        _buffer(monkeypatch, failing={1, 2}).sample(1, "train", 8)


@pytest.mark.parametrize("partition", ["train", "val"])
@pytest.mark.parametrize("fail_after", [0, 1])
def test_a_batch_without_a_whole_group_stops_the_run(
    monkeypatch: pytest.MonkeyPatch, partition: str, fail_after: int
) -> None:
    buffer = _buffer(monkeypatch, failing=set(range(8)), fail_after=fail_after, max_failed_share=1.0)
    with pytest.raises(JigsawError, match=r"^all 8 prompts of a batch failed; failed_prompts\.jsonl .* says which"):
        buffer.sample(1, partition, 8)


@pytest.mark.parametrize("batch_size", [7, 5])
def test_a_schedule_counts_what_dynamic_sampling_leaves_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, batch_size: int
) -> None:
    """The film is always right and left out, the pictures half the time; two of them may be more than a step needs."""
    schedule = {"raise_at": 0.9, "window": 1}
    buffer = _buffer(
        monkeypatch,
        failing=set(),
        filter_groups={"enable": True, "metric": "exact", "max_inflight_gen_batches": 1},
        difficulty={"video": {"levels": [2, 3], **schedule}, "image": {"levels": [[2, 1], [2, 2]], **schedule}},
        checkpoints=str(tmp_path),
    )
    _, metrics = buffer.sample(1, "train", batch_size)
    assert metrics["reward/exact"] == 0.5
    assert metrics["training/prompts/image"] == batch_size
    assert "training/prompts/video" not in metrics
    (line,) = (tmp_path / "difficulty.jsonl").read_text().splitlines()
    assert json.loads(line) == {"step": 1, "video": 1.0, "image": 0.5}


def test_dynamic_sampling_takes_whole_groups_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The film is always right and left out; of the seven others one failed, and six are needed."""
    filtering = {"enable": True, "metric": "exact", "max_inflight_gen_batches": 1}
    _, metrics = _buffer(monkeypatch, failing={1}, filter_groups=filtering).sample(1, "train", 6)
    assert metrics["training/prompts/image"] == 6
    assert metrics["training/failed_prompts"] == metrics["training/failed_prompts_total"] == 1


def test_a_reward_of_ones_own_may_say_text_and_less_of_some_replies() -> None:
    said = [{"score": 1.0, "read": "2, 1"}, {"score": 0.0, "read": "", "length": 3}]
    answers = ["2, 1", "2, 1", "1, 2", None]
    metrics = sampler._reward_metrics([("u0", "image", *pair) for pair in zip(said * 2, answers, strict=True)])
    assert (metrics["reward/score"], metrics["reward/image/score"]) == (0.5, 0.5)
    assert (metrics["reward/length"], metrics["reward/image/length"]) == (3, 3)
    assert not any(name.endswith("/read") for name in metrics)
    assert metrics["reward/image/same_answer"] == 0.5


@pytest.mark.parametrize(("failing", "stops"), [({1, 2}, False), ({1, 2, 3}, True)])
def test_in_a_short_run_the_share_is_of_a_hundred_prompts(
    monkeypatch: pytest.MonkeyPatch, failing: set[int], stops: bool
) -> None:
    buffer = _buffer(monkeypatch, failing, max_failed_share=0.02)
    with pytest.raises(JigsawError, match="3 of 8 prompts failed") if stops else nullcontext():
        buffer.sample(1, "train", 8)


def test_a_step_takes_replies_in_the_order_of_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever came first."""

    class Manager:
        uids = [f"u{number}" for number in (5, 2, 7, 0, 1, 6, 3, 4)]  # noqa: RUF012

        @staticmethod
        def give_again(*_: Any) -> None: ...

    monkeypatch.setattr(sampler.JigsawAgentLoopManager, "running", Manager)
    batch, _ = _buffer(monkeypatch, failing=set()).sample(1, "train", 8)
    assert batch.keys == [f"{uid}_{reply}_0" for uid in Manager.uids for reply in range(2)]


def test_each_reply_is_asked_for_with_its_seed() -> None:
    asked: list[int] = []

    class Worker(agent_loop.PlainAgentLoopWorker):
        def __init__(self) -> None:
            self.config = OmegaConf.create({"data": {"seed": 3}})

        async def _respond(self, sampling_params: dict[str, Any], *_: Any, **__: Any) -> None:
            assert sampling_params.pop("temperature") == 1.0
            asked.append(sampling_params.pop("seed"))

    async def ask() -> None:
        for step, reply in ((1, 0), (1, 1), (2, 0)):
            row = {"split": "train", "id": "a"}
            await Worker()._run_agent_loop({"temperature": 1.0}, {"step": step}, session_id=reply, extra_info=row)

    asyncio.run(ask())
    assert asked == [reply_seed(3, "train", "a", step, reply) for step, reply in ((1, 0), (1, 1), (2, 0))]


def test_who_waits_for_prompts_looks_after_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than seven of eight are finished; the eighth is once its dead worker's prompts were given again."""
    asked: list[tuple[str, set[str]]] = []

    class Manager:
        uids: ClassVar[list[str]] = []

        @staticmethod
        def give_again(partition_id: str, unfinished: Any) -> None:
            asked.append((partition_id, unfinished()))
            sampler.tq.kv_list()["train"]["u3"]["status"] = "finished"

    buffer = _buffer(monkeypatch, failing=set())
    sampler.tq.kv_list()["train"]["u3"]["status"] = "running"
    monkeypatch.setattr(sampler.JigsawAgentLoopManager, "running", Manager)
    batch, _ = buffer.sample(1, "train", 8)
    assert asked == [("train", {"u3"})]
    assert len(batch.keys) == 16


def test_a_larger_share_can_be_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    _, metrics = _buffer(monkeypatch, failing={1, 2}, max_failed_share=0.05).sample(1, "train", 8)
    assert metrics["training/failed_prompts_total"] == 2


# --- workers ---------------------------------------------------------------------------------------------------


def test_a_response_that_is_cancelled_leaves_the_build_to_its_siblings() -> None:
    async def respond() -> list[Any]:
        once: agent_loop._Once[str] = agent_loop._Once()
        going_on = asyncio.Event()

        async def make() -> str:
            await going_on.wait()
            return "built"

        first, *others = [asyncio.ensure_future(once(make)) for _ in range(3)]
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        going_on.set()
        return await asyncio.gather(first, *others, return_exceptions=True)

    first, *others = asyncio.run(respond())
    assert isinstance(first, asyncio.CancelledError)
    assert others == ["built", "built"]


def test_what_responses_shared_goes_with_the_last_of_them() -> None:
    async def prompt() -> weakref.ref[agent_loop.SharedPrompt]:
        shared = agent_loop.SharedPrompt("u0")
        agent_loop._prompt.set(shared)

        async def build() -> dict[str, Any]:
            await asyncio.sleep(0)
            return {"of": agent_loop._prompt}

        async def respond() -> None:
            await agent_loop._prompt.get().media(build)

        await asyncio.gather(*(respond() for _ in range(3)))
        return weakref.ref(shared)

    gc.collect()
    gc.disable()
    try:
        assert asyncio.run(prompt())() is None
    finally:
        gc.enable()


class _Workers:
    """Ray, as far as a manager asks for it: workers by number, with lives that the test ends."""

    def __init__(self, lives: list[str]) -> None:
        self.lives = lives
        self.given: list[tuple[int, list[str]]] = []
        self.ended: set[str] = set()
        self.handles = [
            SimpleNamespace(
                generate_sequences=SimpleNamespace(remote=partial(self._generate, number)),
                life=SimpleNamespace(remote=lambda number=number: self.lives[number]),
                end_of_life=SimpleNamespace(remote=lambda number=number: f"end of {self.lives[number]}"),
            )
            for number in range(len(lives))
        ]

    def _generate(self, number: int, batch: Any) -> str:
        self.given.append((number, list(batch["uid"])))
        return self.lives[number]

    def kill(self, number: int) -> None:
        self.ended.add(f"end of {self.lives[number]}")
        self.lives[number] += "'"

    def get(self, values: Any) -> Any:
        return values

    def wait(self, ends: list[str], *, num_returns: int, timeout: float) -> tuple[list[str], list[str]]:
        return [end for end in ends if end in self.ended], []


def test_prompts_of_a_dead_worker_are_given_again_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    workers, failed = _Workers(["a", "b"]), []
    monkeypatch.setattr(agent_loop, "ray", workers)
    monkeypatch.setattr(agent_loop, "tq", SimpleNamespace(kv_put=lambda **put: failed.append(put)))
    manager = agent_loop.JigsawAgentLoopManager.__new__(agent_loop.JigsawAgentLoopManager)
    manager.config = OmegaConf.create({"trainer": {"default_local_dir": str(tmp_path)}})
    manager.agent_loop_workers = workers.handles
    manager._ends = [handle.end_of_life.remote() for handle in workers.handles]
    manager._step, manager._given, manager._given_again = None, {}, set()
    manager._schedule, manager._looks_ahead = Schedule(tmp_path, None), False
    uids = [f"u{number}" for number in range(4)]
    extras = [{"id": uid, "epoch": 0} for uid in uids]
    prompts = tensordict_utils.get_tensordict(
        {"uid": np.array(uids, dtype=object), "extra_info": np.array(extras, dtype=object)}, {"global_steps": 1}
    )

    manager.generate_sequences(prompts)
    assert workers.given == [(0, ["u0", "u1"]), (1, ["u2", "u3"])]
    manager.give_again("val", uids.copy)
    assert len(workers.given) == 2  # nobody died
    workers.kill(1)
    manager.give_again("val", lambda: ["u1", "u3"])  # u2 was finished before
    assert workers.given[2:] == [(1, ["u3"])]
    manager.give_again("val", lambda: ["u1", "u3"])
    assert len(workers.given) == 3
    workers.kill(0)
    workers.kill(1)
    manager.give_again("val", lambda: ["u1", "u3"])
    assert workers.given[3:] == [(0, ["u1"])]
    assert failed == [{"key": "u3", "partition_id": "val", "tag": {"status": "failure"}}]
    (line,) = map(json.loads, agent_loop.failures_path(manager.config).read_text().splitlines())
    assert line == {"id": "u3", "epoch": 0, "reason": "the worker of its rollout died, twice"}


def test_rows_that_are_used_up_do_not_begin_anew(dataset: JigsawDataset) -> None:
    end = len(dataset)
    for positions in ([-1, 0], [end - 2, end - 1], [4, 5, 6], [5, 0]):  # the last is no run's: it begins where it likes
        agent_loop.check_no_second_start(positions, dataset)
    for positions in ([end - 1, 0], [end - 2, end - 1, 0, 1]):
        with pytest.raises(JigsawError, match=r"^the rows are used up: .* the 120 prompts of all epochs; raise"):
            agent_loop.check_no_second_start(positions, dataset)


def test_a_rank_keeps_the_features_of_its_batch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    class Queue:
        @staticmethod
        async def async_kv_batch_get(keys: list[str], partition_id: str) -> dict[str, Any]:
            asked.append(keys)
            return {features.FIELD: [{"pixel_values": torch.ones(1)} for _ in keys]}

    def read(*keys: str) -> list[weakref.ref[torch.Tensor]]:
        batch = TensorDict(
            {"multi_modal_inputs": NonTensorStack(*map(features.reference, keys))}, batch_size=[len(keys)]
        )
        asyncio.run(reader.resolve(batch))
        return [weakref.ref(row["pixel_values"]) for row in batch["multi_modal_inputs"]]

    monkeypatch.setattr(features, "tq", Queue)
    reader = features.Reader()
    first, second = read("u0", "u1")
    assert [first, second] == read("u0", "u1")
    read("u1", "u2")
    gc.collect()
    assert first() is None
    assert second() is not None
    assert asked == [["u0", "u1"], ["u2"]]


# --- patches: ours works, and theirs still does not -------------------------------------------------------------


def _equal_length_batch() -> Any:
    """Position ids of three sequences of one length, packed as TransferQueue packs them."""
    from tensordict import TensorDict

    rows = [torch.arange(20).reshape(4, 5) + 100 * row for row in range(3)]
    packed = torch.nested.as_nested_tensor(rows, layout=torch.jagged)
    return rows, TensorDict({"position_ids": packed}, batch_size=[3])


def test_position_ids_of_equal_length_are_repacked() -> None:
    from verl.utils import tensordict_utils

    rows, batch = _equal_length_batch()
    tensordict_utils.maybe_fix_3d_position_ids(batch)
    selected = tensordict_utils.index_select_tensor_dict(batch, [0, 1, 2])
    for row, back in zip(rows, selected["position_ids"].unbind(), strict=True):
        assert torch.equal(row, back)


def _fails_without_us(code: str) -> str:
    """Run code in a process without the plug-in; what it said on stderr. It must fail, or the patch can go."""
    import os

    environment = {name: value for name, value in os.environ.items() if not name.startswith(("VERL_", "VLLM_"))}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert result.returncode != 0, "works without the patch now: remove it"
    return result.stderr


@pytest.mark.slow("upstream")
def test_verl_still_needs_the_position_ids_repacked() -> None:
    error = _fails_without_us(
        "import verl.utils.tensordict_utils as t, torch\nfrom tensordict import TensorDict\n"
        "rows = [torch.arange(20).reshape(4, 5) for _ in range(3)]\n"
        "packed = torch.nested.as_nested_tensor(rows, layout=torch.jagged)\n"
        "batch = TensorDict({'position_ids': packed}, batch_size=[3])\n"
        "t.maybe_fix_3d_position_ids(batch)\n"
        "assert all(torch.equal(a, b) for a, b in zip(rows, batch['position_ids'].unbind()))\n"
    )
    assert "RuntimeError" in error


@pytest.mark.slow("upstream")
def test_torch_still_refuses_gloo_twice() -> None:
    error = _fails_without_us(
        "import os, torch, verl.utils.distributed as d\n"
        "os.environ.update(RANK='0', WORLD_SIZE='1', MASTER_ADDR='127.0.0.1', MASTER_PORT='0')\n"
        "d.get_device_name = lambda: 'cpu'; d.get_nccl_backend = lambda: 'gloo'\n"
        "d.initialize_global_process_group_ray()\n"
    )
    assert "cpu:gloo,cpu:gloo" in error


@pytest.mark.slow("upstream")
def test_verl_still_pins_the_reference_model() -> None:
    from verl.workers.engine.fsdp.transformer_impl import FSDPEngine

    source = inspect.getsource(FSDPEngine)
    assert "CPUOffloadPolicy(pin_memory=True)" in source, "verl pins nothing any more: remove it"


@pytest.mark.slow("upstream")
def test_verl_still_looks_for_the_distribution_vllm_alone() -> None:
    assert "vllm version None not supported" in _fails_without_us("import verl.third_party.vllm")


def test_patches_are_applied_once_verl_is_imported(config: DictConfig) -> None:
    plugin = config.ray_kwargs.ray_init.runtime_env.env_vars.VERL_USE_EXTERNAL_MODULES
    assert plugin == install.__name__


@pytest.mark.parametrize(("installed", "said"), [("0.9.1", None), ("0.10", "verl 0.10 is installed; install 0.9.1")])
def test_another_verl_is_said_in_one_line(installed: str, said: str | None) -> None:
    line = install.other_verl(machine.pins(), installed)
    assert line is None if said is None else (line or "").startswith(said)
    assert install.other_verl(None, installed) is None  # run from a source tree that was never installed


def test_a_start_that_cannot_be_is_one_line_by_the_script_too(repository: Path) -> None:
    command = ["bash", repository / "train_scripts/launch.sh", "imgae"]
    stopped = subprocess.run(command, capture_output=True, text=True)
    assert stopped.returncode == 1
    (line,) = stopped.stderr.splitlines()
    assert line.startswith("error: there is no recipe configs/imgae.yaml")


def test_verl_still_gives_no_mode_away_twice() -> None:
    from verl.trainer.ppo.v1 import register_trainer
    from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

    other = type("Other", (PPOTrainerSync,), {})
    with pytest.raises(ValueError, match="'sync' is already registered"):
        register_trainer("sync")(other)
