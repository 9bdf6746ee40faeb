"""The tiny model: what it is, sees and learns from; test_quickstart.py trains it."""

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from transformers import AutoModelForImageTextToText, AutoProcessor

from jigsaw.media.image import greyed
from jigsaw.prepare.images import ImageOptions
from jigsaw.prepare.pipeline import prepare_rows
from jigsaw.puzzle import Puzzle
from jigsaw.solve import scores_of, solve
from jigsaw.tasks import build_puzzle, plan
from jigsaw.toy.rows import image_row
from jigsaw.toy.settings import Settings
from jigsaw.toy.sft_dataset import WarmStartDataset
from jigsaw.toy.verdict import mean_scores
from jigsaw.toy.warm_start import Example

pytestmark = pytest.mark.e2e


def _row(number: int) -> dict[str, Any]:
    return image_row(f"scene-{number:05d}.png", (2, 1), id=str(number))


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> tuple[Any, Any]:
    return AutoModelForImageTextToText.from_pretrained(tiny_model).eval(), AutoProcessor.from_pretrained(tiny_model)


@pytest.fixture(scope="module")
def puzzles(scenes: Path) -> list[Puzzle]:
    return [build_puzzle(_row(number), scenes) for number in range(8)]


def test_the_tiny_model_is_a_real_qwen2_5_vl(model: tuple[Any, Any]) -> None:
    net, processor = model
    assert type(net).__name__ == "Qwen2_5_VLForConditionalGeneration"
    assert type(processor).__name__ == "Qwen2_5_VLProcessor"
    assert sum(weight.numel() for weight in net.parameters()) < 2_000_000
    text = "Tile 1: <think>Ünïcode, 12</think><answer>2, 1</answer>"
    assert processor.tokenizer.decode(processor.tokenizer(text)["input_ids"]) == text


@pytest.fixture(scope="module")
def warm_start_of(
    tmp_path_factory: pytest.TempPathFactory, scenes: Path, model: tuple[Any, Any]
) -> Callable[[list[list[int]]], WarmStartDataset]:
    """The warm start's examples of rows of 2×1, at some levels."""
    data = tmp_path_factory.mktemp("rows")
    prepare_rows(scenes, data, ImageOptions(grid=(2, 1)), progress=lambda done, total: None)
    settings = asdict(Settings("2x1", None, None, None, 0))
    source = {"files": str(data / "train.parquet"), "media_root": str(scenes), "world": "image"}
    length = {"train_batch_size": 16, "steps": 2, "round": 0}
    config = {"sources": [source], "settings": settings, "seed": 0, "recall": False, **length}

    def of_levels(levels: list[list[int]], **others: int) -> WarmStartDataset:
        given = OmegaConf.create({**config, "levels": levels, **others})
        return WarmStartDataset(source["files"], model[1].tokenizer, given, model[1])

    return of_levels


@pytest.fixture(scope="module")
def warm_start(warm_start_of: Callable[[list[list[int]]], WarmStartDataset]) -> WarmStartDataset:
    return warm_start_of([])


def test_a_warm_start_shows_each_level(warm_start_of: Callable[[list[list[int]]], WarmStartDataset]) -> None:
    dataset = warm_start_of([[2, 1], [2, 2]])
    shown = Counter(len(dataset.example(index).media) for index in range(32))
    assert set(shown) == {2, 4}


def test_warm_start_items_are_what_the_model_reads(warm_start: WarmStartDataset, model: tuple[Any, Any]) -> None:
    net, processor = model
    assert len(warm_start) == 32
    for index in range(4):
        item, example = warm_start[index], warm_start.example(index)
        learned = item["input_ids"][item["loss_mask"].bool()]
        assert processor.tokenizer.decode(learned) == example.reply + processor.tokenizer.eos_token
        positions, _ = net.model.get_rope_index(
            item["input_ids"].unsqueeze(0),
            mm_token_type_ids=(item["input_ids"] == net.config.image_token_id).long().unsqueeze(0),
            image_grid_thw=item["multi_modal_inputs"]["image_grid_thw"],
        )
        assert torch.equal(item["position_ids"][1:], positions[:, 0])


def test_warm_start_examples_depend_on_seed_and_index_alone(warm_start: WarmStartDataset) -> None:
    def shown(example: Example) -> tuple[Any, ...]:
        return example.reply, [image.tobytes() for image in example.media]

    assert shown(warm_start.example(5)) == shown(warm_start.example(5))
    assert len({repr(shown(warm_start.example(index))) for index in range(32)}) > 24  # some tiles come twice


def test_tiles_are_named_after_what_they_show(warm_start: WarmStartDataset) -> None:
    thoughts = {warm_start.example(index).reply.partition(" in order")[0] for index in range(32)}
    assert thoughts == {"<think> first sky, second ground,", "<think> first ground, second sky,"}


def test_recall_is_text_whose_names_are_given(warm_start_of: Callable[..., WarmStartDataset], model: Any) -> None:
    recall, tokenizer = warm_start_of([], recall=True), model[1].tokenizer
    for index in range(4):
        item = recall[index]
        whole = tokenizer.decode(item["input_ids"])
        learned = tokenizer.decode(item["input_ids"][item["loss_mask"].bool()])
        assert learned.startswith(" in order: ")
        assert whole.endswith(learned)
        assert whole.removesuffix(learned).rpartition("<think>")[2] in (
            " first sky, second ground,",
            " first ground, second sky,",
        )
        assert item["multi_modal_inputs"] == {}
        assert torch.equal(item["position_ids"], torch.arange(len(item["input_ids"])).expand(4, -1))


def test_shuffling_a_prompts_pixels_changes_the_log_probabilities(
    model: tuple[Any, Any], puzzles: list[Puzzle]
) -> None:
    net, processor = model
    puzzle = puzzles[0]
    text = processor.apply_chat_template(puzzle.messages, add_generation_prompt=True, tokenize=False)
    inputs = processor(text=[text], images=puzzle.media, return_tensors="pt")
    shuffled = dict(inputs)
    order = torch.randperm(len(inputs["pixel_values"]), generator=torch.Generator().manual_seed(0))
    shuffled["pixel_values"] = inputs["pixel_values"][order]
    with torch.inference_mode():
        seen, other = (net(**batch).logits[0, -1].log_softmax(-1) for batch in (inputs, shuffled))
        again = net(**inputs).logits[0, -1].log_softmax(-1)
    assert torch.equal(seen, again)
    assert (seen - other).abs().max() > 1e-3


def test_a_greyed_picture_keeps_its_size_alone(puzzles: list[Puzzle]) -> None:
    grey = greyed(puzzles[0].media[0])
    assert grey.size == puzzles[0].media[0].size
    assert len(grey.getcolors() or []) == 1


def test_a_batch_is_solved_as_each_puzzle_alone(model: tuple[Any, Any], scenes: Path) -> None:
    plans = [plan(_row(number)) for number in range(3)]
    together = solve(*model, plans, scenes, max_new_tokens=4)
    assert together == [solve(*model, [planned], scenes, max_new_tokens=4)[0] for planned in plans]


def test_greyed_out_all_puzzles_of_a_prompt_get_one_reply(model: tuple[Any, Any], scenes: Path) -> None:
    replies = solve(*model, [plan(_row(number)) for number in range(4)], scenes, grey=True, max_new_tokens=4)
    assert len(set(replies)) == 1


def test_replies_are_drawn_or_the_likeliest(model: tuple[Any, Any], scenes: Path) -> None:
    plans = [plan(_row(0))] * 8
    assert len(set(solve(*model, plans, scenes, max_new_tokens=4))) == 1
    torch.manual_seed(0)
    drawn = solve(*model, plans, scenes, sample=True, max_new_tokens=4)
    assert len(set(drawn)) == 8
    torch.manual_seed(0)
    assert solve(*model, plans, scenes, sample=True, max_new_tokens=4) == drawn


def test_scores_are_the_rewards_means(puzzles: list[Puzzle]) -> None:
    right = [f"<think></think><answer>{', '.join(map(str, puzzle.answer))}</answer>" for puzzle in puzzles]
    assert mean_scores(scores_of(puzzles, right))["exact"] == 1.0
    assert mean_scores(scores_of(puzzles, [*right[:4], "", "", "", ""]))["exact"] == 0.5


def test_each_round_shows_examples_of_its_own(
    warm_start: WarmStartDataset, warm_start_of: Callable[..., WarmStartDataset]
) -> None:
    def shown(dataset: WarmStartDataset) -> list[Any]:
        return [[tile.tobytes() for tile in dataset.example(index).media] for index in range(32)]

    first, second = shown(warm_start), shown(warm_start_of([], round=1))
    assert sum(one == other for one, other in zip(first, second, strict=True)) < 8
