"""What the warm start teaches of pictures without labels: words for what their pixels say, never an order."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jigsaw.puzzle import Puzzle
from jigsaw.response import parse, reply_of
from jigsaw.tasks import build_puzzle, plan
from jigsaw.toy.model import build_tokenizer, prompt_texts
from jigsaw.toy.rows import image_row
from jigsaw.toy.settings import Settings
from jigsaw.toy.warm_start import (
    CUE_WORDS,
    CUES,
    cue_thought,
    name_thought,
    named,
    names_of,
    phrases_of,
    recall_example,
    warm_start_example,
)
from jigsaw.toy.worlds import worlds_of


def _row(path: str, grid: tuple[int, int] = (2, 1)) -> dict[str, Any]:
    return image_row(path, grid, id=path)


@pytest.fixture(scope="module")
def landscape(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a picture whose upper half is brighter, cooler and smoother than its lower one."""
    folder = tmp_path_factory.mktemp("landscape")
    pixels = np.full((112, 112, 3), (150, 180, 240), np.uint8)
    pixels[56:] = (110, 90, 60)
    pixels[56::2] += 40
    Image.fromarray(pixels).save(folder / "picture.png")
    return folder


def _words(puzzle: Puzzle) -> list[str]:
    """What is said of the pieces, the upper ones of the picture first."""
    words = cue_thought(puzzle).split(", ")
    return [words[place - 1] for place in puzzle.answer]


@pytest.mark.parametrize("epoch", range(4))
def test_the_words_say_what_is_seen_wherever_it_is_shown(landscape: Path, epoch: int) -> None:
    puzzle = build_puzzle(_row("picture.png"), landscape, epoch=epoch)
    assert _words(puzzle) == ["bright cool smooth", "dark warm sharp"]


def test_of_more_tiles_half_have_more_of_it(landscape: Path) -> None:
    of_four = build_puzzle(_row("picture.png", (2, 2)), landscape)
    assert _words(of_four) == ["bright cool smooth"] * 2 + ["dark warm sharp"] * 2
    of_nine = cue_thought(build_puzzle(_row("picture.png", (3, 3)), landscape)).split(", ")
    assert Counter(words.split()[0] for words in of_nine) == {"bright": 5, "dark": 4}


def test_the_tokenizer_knows_the_words() -> None:
    said = {word for much, little, _ in CUES for word in (much, little)}
    assert {word.strip() for word in CUE_WORDS} == said | {","}


@pytest.mark.parametrize("epoch", range(4))
def test_rendered_pieces_are_named_whatever_their_order(scenes: Path, epoch: int) -> None:
    (world,) = worlds_of(Settings("2x2", None, None, None, 0))
    row = _row("scene-00000.png", (2, 2))
    puzzle = build_puzzle(row, scenes, epoch=epoch)
    names = names_of(world, row, puzzle)
    in_place = ["sunny sky", "shady sky", "sunny ground", "shady ground"]
    assert [names[number - 1] for number in puzzle.answer] == in_place
    assert world.names(puzzle) == in_place


def test_a_thought_names_the_pieces_and_then_an_order_of_them() -> None:
    said = reply_of([2, 1], "answer_tag", name_thought(["sky", "ground"], [2, 1]))
    assert said == "<think> first sky, second ground, in order: ground 2 sky 1</think><answer>2, 1</answer>"


def test_the_names_that_are_right_count(scenes: Path) -> None:
    (world,) = worlds_of(Settings("2x1", None, None, None, 0))
    row = _row("scene-00000.png")
    puzzle = build_puzzle(row, scenes)
    names = names_of(world, row, puzzle)
    for said, share in ((names, 1.0), ([names[0], names[0]], 0.5), (names[::-1], 0.0)):
        assert named(world, row, puzzle, reply_of([1, 2], "answer_tag", name_thought(said, [1, 2]))) == share
    assert named(world, row, puzzle, "") == 0


@pytest.mark.parametrize("grid", [(2, 1), (1, 2), (2, 2), (3, 3), (1, 5)])
def test_a_name_is_one_token(grid: tuple[int, int]) -> None:
    (world,) = worlds_of(Settings(f"{grid[0]}x{grid[1]}", None, None, None, 0))
    puzzle = plan(_row("scene.png", grid))
    pieces = len(puzzle.answer)
    assert len(set(world.names(puzzle))) == pieces
    tokenizer = build_tokenizer(prompt_texts([]), phrases=phrases_of(world, [puzzle]))
    thought = name_thought(world.names(puzzle), puzzle.answer)
    assert len(tokenizer(thought)["input_ids"]) == pieces + 1 + 2 * pieces
    assert tokenizer.decode(tokenizer(thought)["input_ids"]) == thought


def test_to_recall_is_learnt_of_names_at_random() -> None:
    (world,) = worlds_of(Settings("2x2", None, None, None, 0))
    rows = [_row(f"scene-{number:05d}.png", (2, 2)) for number in range(4)]
    examples = [recall_example(rows, index, seed=0, world=world) for index in range(200)]
    assert examples[3] == recall_example(rows, 3, seed=0, world=world)
    first = Counter(example.given.split(",")[0] for example in examples)
    assert set(first) == {f"<think> first {name}" for name in world.names(plan(rows[0]))}
    for example in examples:
        names = [name.split(" ", 2)[2] for name in example.given.removeprefix("<think>").split(",")[:-1]]
        answer = parse(example.given + example.reply, 4, "answer_tag").answer or ()
        assert example.given + example.reply == reply_of(answer, "answer_tag", name_thought(names, answer))


def test_orders_are_uniform_whatever_the_pixels_show(landscape: Path) -> None:
    rows = [_row("picture.png")]
    replies = [warm_start_example(rows, landscape, index, seed=0, world=None).reply for index in range(400)]
    answers = Counter(parse(reply, 2, "answer_tag").answer for reply in replies)
    assert set(answers) == {(1, 2), (2, 1)}
    assert abs(answers[1, 2] - 200) < 50  # five standard deviations


def test_examples_are_functions_of_their_index(scenes: Path) -> None:
    rows = [_row(f"scene-{number:05d}.png") for number in range(48)]

    def shown(index: int) -> tuple[str, list[bytes]]:
        example = warm_start_example(rows, scenes, index, seed=0, world=None)
        return example.reply, [tile.tobytes() for tile in example.media]

    assert shown(3) == shown(3)
    assert shown(3) != shown(4)
