"""The reward: worked examples for both profiles, every option, its bounds, and a fuzz: no text makes it raise."""

import importlib.util
import math
import random
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import partial
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jigsaw import plan
from jigsaw.errors import RowError
from jigsaw.permutation import answer_of, draw
from jigsaw.reward import PROFILES, SHAPES, adjacency, check_options, compute_score, reading, repeats_lines
from jigsaw.toy.rows import depth_row, image_row, video_row

KEYS = {
    "score",
    "accuracy_reward",
    "format_reward",
    "exact",
    "acc",
    "position_accuracy",
    "valid_permutation",
    "kendall_tau",
    "chance_corrected",
}
NINE = [8, 4, 6, 1, 9, 2, 5, 3, 7]
LONG_LINE = "the tile in the middle shows blue sky\n"  # eight words
TAGS = "<think>{}</think><answer>{}</answer>"
BOXED = "<think>{}</think>\\boxed{{{}}}"


def tags(answer, think="x"):
    return TAGS.format(think, ", ".join(map(str, answer)))


def boxed(answer, think="x"):
    return BOXED.format(think, ", ".join(map(str, answer)))


def plain(answer):
    return ", ".join(map(str, answer))


def score(text, truth, source="visual_jigsaw_image", extra_info=None, **options):
    """The score of a reply to a puzzle that asks for the profile's usual format, unless the test says another."""
    if isinstance(extra_info, Mapping | None):
        usual = "boxed" if options.get("profile") == "released" else "answer_tag"
        extra_info = {"answer_format": usual, **(extra_info or {})}
    return compute_score(source, text, truth, extra_info, **options)


SWAPPED = [4, 8, *NINE[2:]]  # seven of nine in place, one pair of neighbours the wrong way round
WORKED = [
    # (profile, text, truth, score, accuracy, format)
    ("paper", tags(NINE), NINE, 1.2, 1.0, 0.2),
    ("paper", tags(SWAPPED), NINE, 0.2 + 0.2 * 7 / 9, 0.2 * 7 / 9, 0.2),
    ("paper", tags([3, 1, 2]), [1, 2, 3], 0.2, 0.0, 0.2),  # a permutation with nothing in place
    ("paper", tags([1, 3, 2]), [1, 2, 3], 0.2 + 0.2 / 3, 0.2 / 3, 0.2),  # partial credit for every K
    ("paper", tags([1, 2, 2]), [1, 2, 3], 0.2, 0.0, 0.2),
    ("paper", tags([1, 2, 3, 3]), [1, 2, 3], 0.2, 0.0, 0.2),
    ("paper", TAGS.format("x", ""), [1, 2, 3], 0.2, 0.0, 0.2),  # an empty answer earns its format and no more
    ("paper", plain(NINE), NINE, 0.0, 0.0, 0.0),
    ("paper", "x" + tags(NINE), NINE, 0.0, 0.0, 0.0),
    ("paper", tags(NINE, "\n" + LONG_LINE * 9), NINE, 1.2, 1.0, 0.2),  # the paper knows no penalty for repetition
    ("released", boxed(NINE), NINE, 1.2, 1.0, 0.2),
    ("released", boxed(NINE) + " done", NINE, 1.2, 1.0, 0.2),
    ("released", boxed(SWAPPED), NINE, 0.2 + 0.2 * 7 / 9, 0.2 * 7 / 9, 0.2),
    ("released", boxed([2, 1, 3, 4, 5]), [1, 2, 3, 4, 5], 0.2 + 0.2 * 3 / 5, 0.2 * 3 / 5, 0.2),
    ("released", boxed([2, 1, 3, 4]), [1, 2, 3, 4], 0.2, 0.0, 0.2),  # K = 4 earns no partial credit
    ("released", boxed([1, 2, 3, 4]), [1, 2, 3, 4], 1.2, 1.0, 0.2),
    ("released", boxed([*NINE, NINE[0]]), NINE, 0.2, 0.0, 0.2),  # nine different numbers, but ten of them
    ("released", boxed([*NINE[:8], 10]), NINE, 0.2, 0.0, 0.2),  # nine different numbers, one out of range
    ("released", boxed(NINE, "\n" + LONG_LINE * 4), NINE, 0.7, 1.0, 0.2),
    ("released", boxed(NINE, "\n" + LONG_LINE * 3), NINE, 1.2, 1.0, 0.2),
    ("released", boxed([1], "\n" + LONG_LINE * 4), NINE, -0.3, 0.0, 0.2),
    ("released", "<think>\n" + LONG_LINE * 4, NINE, 0.0, 0.0, 0.0),  # no format, so no penalty either
    ("released", plain(NINE), NINE, 0.0, 0.0, 0.0),
]


@pytest.mark.parametrize(("profile", "text", "truth", "total", "accuracy", "form"), WORKED)
def test_worked_examples(profile, text, truth, total, accuracy, form):
    result = score(text, truth, profile=profile)
    assert result["score"] == pytest.approx(total)
    assert result["accuracy_reward"] == pytest.approx(accuracy)
    assert result["format_reward"] == pytest.approx(form)


def test_the_metrics_of_one_reply():
    assert score(tags(SWAPPED), NINE) == {
        "score": pytest.approx(0.2 + 0.2 * 7 / 9),
        "accuracy_reward": pytest.approx(0.2 * 7 / 9),
        "format_reward": 0.2,
        "exact": 0.0,
        "acc": 0.0,
        "position_accuracy": pytest.approx(7 / 9),
        "valid_permutation": 1.0,
        "kendall_tau": pytest.approx(1 - 2 / 36),
        "chance_corrected": pytest.approx((7 / 9 - 1 / 9) / (1 - 1 / 9)),
    }
    exact = score(tags(NINE), NINE)
    assert exact["exact"] == exact["acc"] == exact["position_accuracy"] == exact["kendall_tau"] == 1.0
    assert exact["chance_corrected"] == exact["valid_permutation"] == 1.0
    for text in (tags([1, 1, 1]), "?"):
        wrong = score(text, NINE)
        assert wrong["exact"] == wrong["acc"] == wrong["position_accuracy"] == wrong["kendall_tau"] == 0.0
        assert wrong["valid_permutation"] == 0.0
        assert wrong["chance_corrected"] == pytest.approx(-1 / 8)


def test_a_blind_valid_guess_earns_what_the_paper_says():
    guesses = permutations(range(1, 5))
    mean = sum(score(tags(guess), [1, 2, 3, 4])["position_accuracy"] for guess in guesses) / 24
    assert mean == pytest.approx(1 / 4)
    drawn = [answer_of(draw(9, seed=0, split="guess", sample_id=str(i), epoch=0)) for i in range(4000)]
    floor = sum(score(tags(guess), NINE)["score"] for guess in drawn) / len(drawn)
    assert floor == pytest.approx(0.222, abs=0.002)


def test_a_single_piece_has_nothing_above_chance():
    assert score(tags([1]), [1])["chance_corrected"] == 0.0
    assert score(tags([1]), [1])["score"] == 1.2
    assert score("?", [1])["chance_corrected"] == 0.0


@pytest.mark.parametrize(
    ("source", "extra_info", "options", "expected"),
    [
        ("visual_jigsaw_image", {"answer_format": "boxed"}, {}, ("boxed", "released")),
        ("visual_jigsaw_image", {"answer_format": "plain"}, {}, ("plain", "paper")),
        ("visual_jigsaw_image", {"answer_format": "answer_tag"}, {}, ("answer_tag", "paper")),
        ("visual_jigsaw_image", None, {"answer_format": "answer_tag"}, ("answer_tag", "paper")),
        ("visual_jigsaw_image", {}, {"answer_format": "boxed"}, ("boxed", "released")),
        ("", {"answer_format": "answer_tag"}, {"profile": "released"}, ("answer_tag", "released")),
        ("visual_jigsaw_image", {"answer_format": "boxed"}, {"profile": "paper"}, ("boxed", "paper")),
        ("visual_jigsaw_image", {"answer_format": "boxed"}, {"answer_format": "plain"}, ("plain", "paper")),
        ("visual_jigsaw_nothink", {"answer_format": "plain"}, {"profile": "paper"}, ("plain", "paper")),
        ("visual_jigsaw_nothink", {"answer_format": "plain"}, {}, ("plain", "released")),
        ("visual_jigsaw_nothink", {"answer_format": "boxed"}, {}, ("boxed", "released")),
    ],
)
def test_what_is_not_given_follows_from_the_puzzle(source, extra_info, options, expected):
    assert reading(source, extra_info, **options) == expected
    # And compute_score reads so: of the four, only the reply in that format and that strictness is right.
    replies = {
        ("answer_tag", "paper"): tags([2, 1]),
        ("answer_tag", "released"): tags([2, 1]) + ".",
        ("boxed", "paper"): boxed([2, 1]),
        ("boxed", "released"): boxed([2, 1]) + ".",
        ("plain", "paper"): "2, 1",
        ("plain", "released"): "+2, 1",
    }
    right = {
        form: compute_score(source, text, [2, 1], extra_info, **options)["exact"] for form, text in replies.items()
    }
    assert right[expected] == 1.0
    assert {name for (name, _), value in right.items() if value} == {expected[0]}
    if expected[1] == "paper":
        assert right[expected[0], "released"] == 0.0


@pytest.mark.parametrize("source", ["visual_jigsaw_image", "visual_jigsaw_nothink", ""])
@pytest.mark.parametrize("extra_info", [None, {}, {"id": "a"}, {"answer_format": None}])
@pytest.mark.parametrize("options", [{}, {"profile": "released"}, {"profile": "paper"}, {"answer_format": None}])
def test_the_format_is_never_guessed(source, extra_info, options):
    with pytest.raises(ValueError, match=r"has no answer_format.*pass the puzzle's extra_info"):
        compute_score(source, boxed([2, 1]), [2, 1], extra_info, **options)


@pytest.mark.parametrize("source", [None, 3, b"visual_jigsaw_image", ["visual_jigsaw_image"]])
@pytest.mark.parametrize("answer_format", ["answer_tag", "boxed", "plain"])
def test_a_data_source_that_is_no_text_is_named(source, answer_format):
    with pytest.raises(ValueError, match=r"^data_source is .*; it must be the row's, a text$"):
        compute_score(source, "2, 1", [2, 1], {"answer_format": answer_format})


def test_plain_has_no_format_reward():
    assert score("2, 1", [2, 1], answer_format="plain")["score"] == 1.0
    assert score("2, 1", [2, 1], "jigsaw_nothink", answer_format="plain")["score"] == 1.0
    assert score("2, 1", [2, 1], answer_format="plain", format_score=0.5)["format_reward"] == 0.0
    assert score("2, 1!", [2, 1], answer_format="plain")["score"] == 0.0
    assert score(LONG_LINE * 4, NINE, "jigsaw_nothink", answer_format="plain")["score"] == -0.5
    assert score(LONG_LINE * 4, NINE, answer_format="plain")["score"] == 0.0


@pytest.mark.parametrize(
    ("text", "repeats"),
    [
        (LONG_LINE * 4, True),
        (LONG_LINE * 3, False),
        ((LONG_LINE + "\n \t\n") * 4, True),  # blank lines break no run
        (LONG_LINE + "  " + LONG_LINE.upper() + LONG_LINE.title() + LONG_LINE.strip() + "  ", True),
        (LONG_LINE * 3 + "so\n" + LONG_LINE * 3, False),  # a shorter line breaks it
        (LONG_LINE * 2 + "another line that is long enough to count\n" + LONG_LINE * 2, False),
        ("one two three four five six\n" * 9, False),
        ("one two three four five six seven\n" * 4, True),
        (LONG_LINE.replace("\n", "\r\n") * 4, True),
        (LONG_LINE.replace("\n", " ") * 9, False),  # one line
        ("", False),
    ],
)
def test_repetition(text, repeats):
    assert repeats_lines(text) == repeats
    result = score(boxed(NINE, "\n" + text + "\n"), NINE, profile="released")
    assert result["score"] == pytest.approx(0.7 if repeats else 1.2)


def test_shapes_by_hand():
    truth = [1, 2, 3, 4]
    grid = {"grid": [2, 2]}
    rows_swapped = tags([3, 4, 1, 2])
    options = {"format_score": 0.0, "gamma": 0.5}
    assert score(rows_swapped, truth, extra_info=grid, shape="position", **options)["score"] == 0.0
    # Four of the six pairs are the wrong way round: tau = (2 − 4) / 6.
    assert score(rows_swapped, truth, shape="kendall", **options)["score"] == pytest.approx(0.5 * (1 - 1 / 3) / 2)
    # Each piece is two places off, as far in sum as a reversal: 8 of 8.
    assert score(rows_swapped, truth, shape="footrule", **options)["score"] == 0.0
    # Both pairs side by side stand, no pair one above the other.
    assert score(rows_swapped, truth, extra_info=grid, shape="adjacency", **options)["score"] == pytest.approx(0.25)
    assert score(tags([2, 1, 3, 4]), truth, shape="footrule", **options)["score"] == pytest.approx(0.5 * (1 - 2 / 8))


@given(st.sampled_from([(1, 3), (3, 1), (2, 2), (2, 3), (3, 2), (3, 3)]), st.randoms(use_true_random=False))
def test_adjacency_against_its_definition(grid, rng):
    rows, columns = grid
    k = rows * columns
    truth = rng.sample(range(1, k + 1), k)
    answer = rng.sample(range(1, k + 1), k)
    shown = {place: (piece // columns, piece % columns) for piece, place in enumerate(truth)}
    put = {(cell // columns, cell % columns): shown[place] for cell, place in enumerate(answer)}
    pairs = [((r, c), (r + dr, c + dc)) for r, c in put for dr, dc in ((0, 1), (1, 0)) if (r + dr, c + dc) in put]
    kept = sum((put[b][0] - put[a][0], put[b][1] - put[a][1]) == (b[0] - a[0], b[1] - a[1]) for a, b in pairs)
    assert adjacency(answer, truth, grid) == pytest.approx(kept / len(pairs))
    assert adjacency(truth, truth, grid) == 1.0


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("grid", [(1, 2), (2, 2), (2, 3)])
@pytest.mark.parametrize("profile", PROFILES)
def test_no_inexact_permutation_comes_near_an_exact_one(shape, grid, profile):
    k = grid[0] * grid[1]
    truth = answer_of(draw(k, seed=0, split="t", sample_id="t", epoch=0))
    write = tags if profile == "paper" else boxed
    options = {"profile": profile, "shape": shape, "extra_info": {"grid": list(grid)}}
    results = {guess: score(write(guess), truth, **options) for guess in permutations(range(1, k + 1))}
    exact = results.pop(truth)
    assert exact["score"] == 1.2
    assert all(0.2 <= result["score"] < 0.4 for result in results.values())
    assert all(result["exact"] == 0.0 for result in results.values())
    if profile == "paper" and k > 2:
        assert len({result["score"] for result in results.values()}) > 1


@pytest.mark.parametrize("shape", SHAPES)
def test_partial_credit_grows_with_gamma(shape):
    close = [1, 2, 3, 4, 5, 7, 6, 8, 9]
    grid = {"grid": [3, 3]}
    truth = list(range(1, 10))
    low, high = (score(tags(close), truth, extra_info=grid, shape=shape, gamma=gamma) for gamma in (0.2, 0.4))
    assert high["accuracy_reward"] == pytest.approx(2 * low["accuracy_reward"])
    assert low["accuracy_reward"] > 0
    assert score(tags(close), truth, extra_info=grid, shape=shape, gamma=0)["score"] == 0.2


LENGTH = {"min_words": 100, "max_words": 1000, "penalty": 0.1}


@pytest.mark.parametrize(
    ("words", "loss"), [(1, 0.099), (50, 0.05), (100, 0), (500, 0), (1000, 0), (1500, 0.05), (2000, 0.1), (9000, 0.1)]
)
def test_length_penalty(words, loss):
    text = "<think>" + "a " * (words - 1) + "</think><answer>2,1</answer>"
    assert len(text.split()) == words
    result = score(text, [2, 1], length_reward=LENGTH)
    assert result["score"] == pytest.approx(1.2 - loss)
    assert result["accuracy_reward"] + result["format_reward"] == 1.2


def test_a_malformed_reply_stays_at_zero_whatever_its_length():
    assert score("a " * 5000, [2, 1], length_reward=LENGTH)["score"] == 0.0


@given(
    st.sampled_from(PROFILES),
    st.sampled_from(["answer_tag", "boxed", "plain"]),
    st.floats(0, 0.45),
    st.floats(0, 0.99),
    st.sampled_from([s for s in SHAPES if s != "adjacency"]),
    st.integers(0, 50),
    st.integers(1, 50),
    st.integers(0, 150),
    st.integers(0, 150),
    st.permutations(range(1, 6)),
    st.booleans(),
    st.booleans(),
)
def test_no_wrong_answer_beats_a_right_one(
    profile, answer_format, gamma, part, shape, shortest, more, words, wrong_words, wrong, repeat, wrong_format
):
    room = 1 - gamma - (0.5 if profile == "released" else 0)
    length = {"min_words": shortest, "max_words": shortest + more, "penalty": part * room}
    options = {
        "profile": profile, "answer_format": answer_format, "gamma": gamma, "shape": shape, "length_reward": length,
    }  # fmt: skip
    write = {"answer_tag": tags, "boxed": boxed, "plain": lambda answer, _: plain(answer)}[answer_format]
    truth = [1, 2, 3, 4, 5]
    right = score(write(truth, "a " * words + ("\n" + LONG_LINE * 5) * repeat), truth, **options)
    assert right["exact"] == 1.0
    text = write(wrong, "a " * wrong_words)
    worse = score("?" + text if wrong_format else text, truth, **options)
    if worse["exact"] == 0.0:
        assert worse["score"] < right["score"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"gama": 0.2}, "gama"),
        ({"profile": "Paper"}, "'Paper'"),
        ({"answer_format": "latex"}, "'latex'"),
        ({"shape": "tau"}, "'tau'"),
        ({"gamma": 1.0}, "gamma"),
        ({"gamma": -0.1}, "gamma"),
        ({"gamma": "0.2"}, "gamma"),
        ({"gamma": math.nan}, "gamma"),
        ({"gamma": True}, "gamma"),
        ({"gamma": 10**400}, "gamma"),
        ({"format_score": 10**400}, "format_score"),
        ({"format_score": math.nan}, "format_score"),
        ({"length_reward": {**LENGTH, "max_words": 10**400}}, "max_words"),
        ({"length_reward": {**LENGTH, "max_words": math.inf}}, "max_words"),
        ({"length_reward": {**LENGTH, "min_words": math.nan}}, "min_words"),
        ({"length_reward": {**LENGTH, "penalty": math.nan}}, "penalty"),
        ({"format_score": -1}, "format_score"),
        ({"format_score": math.inf}, "format_score"),
        ({"format_score": [0.2]}, "format_score"),
        ({"length_reward": 0.1}, "length_reward"),
        ({"length_reward": {}}, "length_reward"),
        ({"length_reward": {**LENGTH, "unit": 1}}, "length_reward"),
        ({"length_reward": {**LENGTH, "min_words": 1000}}, "min_words"),
        ({"length_reward": {**LENGTH, "min_words": -1}}, "min_words"),
        ({"length_reward": {**LENGTH, "penalty": 0.8}}, "penalty"),
        ({"length_reward": {**LENGTH, "penalty": 0.3}, "profile": "released"}, "penalty"),
        ({"length_reward": {**LENGTH, "penalty": 0.1}, "gamma": 0.95}, "penalty"),
        ({"length_reward": {**LENGTH, "penalty": "much"}}, "penalty"),
        ({"shape": "adjacency"}, r"extra_info\['grid'\]"),
        ({"shape": "adjacency", "extra_info": {"grid": [2, 2]}}, r"extra_info\['grid'\]"),
        ({"shape": "adjacency", "extra_info": {"grid": [2]}}, r"extra_info\['grid'\]"),
        *(
            ({"shape": "adjacency", "extra_info": {"grid": grid}}, r"extra_info\['grid'\]")
            for grid in (5, [None, 2], ["1", "2"], [1.0, 2.0], [], [-1, -2])
        ),
        ({"extra_info": "x"}, "extra_info is 'x'"),
        ({"extra_info": ["x"]}, "extra_info is "),
        ({"extra_info": {"answer_format": "latex"}}, "'latex'"),
    ],
)
@pytest.mark.parametrize("text", [tags([2, 1]), "?"])
def test_a_bad_option_is_named_whatever_the_reply(options, named, text):
    with pytest.raises(ValueError, match=named):
        score(text, [2, 1], **options)


@pytest.mark.parametrize(
    "truth",
    [[2, 1, 3], (2, 1, 3), np.array([2, 1, 3]), np.array([2, 1, 3], dtype=object), "[2, 1, 3]", "2,1,3", " [2,1,3] \n"],
)
def test_ground_truth_in_every_form(truth):
    result = score(tags([2, 1, 3]), truth)
    assert result["exact"] == 1.0
    assert set(result) == KEYS
    assert all(type(value) is float for value in result.values())


@pytest.mark.parametrize(
    "truth",
    [
        [],
        [1, 1],
        [0, 1],
        [1, 3],
        "",
        "[]",
        "two",
        "{}",
        None,
        3,
        [1.0, 2.0],
        np.array([1.5, 2.0]),
        "[1.0, 2]",
        "[" * 100_000,
        "2, 1], [3",
        "[2, 1",
        "true, 2",
        [True, 2],
        np.array([True, False]),
        {1, 2},
        {1: 2, 2: 1},
        b"\x01\x02",
        iter([1, 2]),
        [[1], [2]],
        np.array([[1, 2]]),
    ],
)
def test_a_bad_ground_truth_is_an_error(truth):
    with pytest.raises(ValueError, match="ground_truth"):
        score(tags([2, 1]), truth)


def test_numpy_grid_and_verls_extra_keys():
    extra_info = {"answer_format": "answer_tag", "grid": np.array([1, 2]), "num_turns": 2, "rollout_reward_scores": {}}
    result = compute_score(
        data_source="visual_jigsaw_image",
        solution_str=tags([2, 1]),
        ground_truth=[1, 2],
        extra_info=extra_info,
        shape="adjacency",
        reward_router_address="localhost:1",
        reward_model_tokenizer=object(),
    )
    assert result["score"] == 0.2


def test_the_module_is_light():
    code = (
        "import sys, jigsaw.reward\n"
        "print([name for name in ('torch', 'verl', 'numpy', 'PIL', 'pyarrow') if name in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


def load_benchmark():
    path = Path(__file__).parents[1] / "benchmarks" / "reward.py"
    spec = importlib.util.spec_from_file_location("benchmark_reward", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FRAGMENTS = [
    "<think>", "</think>", "<answer>", "</answer>", "\\boxed{", "}", "{", "\\", "<", ">", ",", " ", "\n", "\r\n", "\0",
    "\ud800", "\u2028", "٣", "+1", "-1", "1_0", "0", "9", "1e3", "9" * 5000, "None", "nan", "1, 2, 3",
    "8, 4, 6, 1, 9, 2, 5, 3, 7", LONG_LINE, LONG_LINE * 4, "\U0001f9e9", "İ", "％s %s {0}",
]  # fmt: skip


def mutate(text, rng):
    for _ in range(rng.randrange(1, 4)):
        start = rng.randrange(len(text) + 1)
        end = min(len(text), start + rng.choice([0, 0, 1, 2, 8]))
        text = text[:start] + rng.choice([*FRAGMENTS, "", chr(rng.randrange(0x110000))]) + text[end:]
    return text


def fuzzed_texts(count):
    rng = random.Random(20)
    think = "\n" + LONG_LINE * 3 + "so the sky goes up"
    good = [write(answer, think) for write in (tags, boxed) for answer in (NINE, SWAPPED, NINE[::-1])]
    good += [plain(NINE), plain(SWAPPED)]
    for number in range(count):
        if number % 4:
            yield mutate(rng.choice(good), rng)
        else:
            yield "".join(rng.choices(FRAGMENTS, k=rng.randrange(12)))


def test_fuzz():
    released_score = load_benchmark().released_score
    seen = {"exact": 0, "inexact": 0, "invalid": 0, "malformed": 0}
    compared = 0
    for text in fuzzed_texts(12_000):
        for profile, answer_format in (("paper", "answer_tag"), ("released", "boxed"), ("paper", "plain")):
            result = score(text, NINE, profile=profile, answer_format=answer_format)
            assert set(result) == KEYS
            assert all(type(value) is float and math.isfinite(value) for value in result.values())
            assert -0.5 <= result["score"] <= 1.2
            if result["exact"]:
                seen["exact"] += 1
                assert result["accuracy_reward"] == 1.0
            elif result["valid_permutation"]:
                seen["inexact"] += 1
                assert 0 <= result["accuracy_reward"] < 0.2
            else:
                seen["invalid" if result["format_reward"] else "malformed"] += 1
                assert result["accuracy_reward"] == 0.0
                assert result["score"] in (0.0, 0.2, pytest.approx(-0.3))
            if answer_format == "boxed" and (result["valid_permutation"] or not result["format_reward"]):
                # Where no false permutation is in play, both give one score.
                assert result["score"] == pytest.approx(released_score(text, NINE))
                compared += 1
    assert min(seen.values()) > 500, seen  # the fuzz reaches every outcome
    assert compared > 5000


@given(st.text(), st.sampled_from(PROFILES), st.sampled_from(["answer_tag", "boxed", "plain"]))
def test_any_text_has_a_score(text, profile, answer_format):
    assert score(text, NINE, profile=profile, answer_format=answer_format, length_reward=LENGTH)["score"] <= 1.2


@pytest.mark.parametrize("name", load_benchmark().worst_cases(1000))
def test_the_worst_cases_stay_fast(name):
    text = load_benchmark().worst_cases(300_000)[name]
    start = time.process_time()
    for profile in PROFILES:
        score(text, NINE, profile=profile, length_reward=LENGTH)
    assert time.process_time() - start < 0.9


# --- what a puzzle says of itself -------------------------------------------------------------------------------

WRITE = {"answer_tag": tags, "boxed": boxed, "plain": plain}
MAKE = {
    "image": partial(image_row, "a.png", (2, 3)),
    "video": partial(video_row, "a.mp4", 5),
    "depth": partial(depth_row, "a.png", [[10, 20 * n] for n in range(6)]),
}


def row_of(task, asked, said, nothink=False):
    """A row whose prompt asks for one format; released rows say no other."""
    row = MAKE[task](answer_format=asked)
    return {**row, "data_source": row["data_source"] + "_nothink" * nothink, "extra_info": {"id": "a", **said}}


@given(
    st.sampled_from(list(MAKE)),
    st.sampled_from(list(WRITE)),
    st.sampled_from([*WRITE, None]),
    st.booleans(),
    st.sampled_from([None, *PROFILES]),
    st.integers(0, 9),
)
def test_a_right_answer_is_right_in_the_one_format_that_the_row_asks_for(task, asked, said, nothink, profile, epoch):
    row = row_of(task, asked, {} if said is None else {"answer_format": said}, nothink)
    if said is None and asked == "plain" and not nothink:
        with pytest.raises(RowError, match="does not say how it wants its answer"):
            plan(row)
        return
    expected = said or asked
    planned = plan(row, epoch=epoch)
    scores = {
        form: compute_score(
            row["data_source"], write(planned.answer), planned.answer, planned.extra_info, profile=profile
        )
        for form, write in WRITE.items()
    }
    assert {form for form, result in scores.items() if result["exact"]} == {expected}
    assert scores[expected]["score"] == (1.0 if expected == "plain" else 1.2)


@pytest.mark.parametrize("task", MAKE)
def test_options_find_the_task_and_the_grid_in_what_a_puzzle_says(task):
    planned = plan(row_of(task, "boxed", {}))
    right = boxed(planned.answer)
    options = {"tasks": {task: {"format_score": 0.5}, "other": {"format_score": 0.7}}}
    assert score(right, planned.answer, extra_info=planned.extra_info, **options)["score"] == 1.5
    grids = planned.grid is not None
    assert planned.extra_info.get("grid") == ([2, 3] if grids else None)
    if grids:
        assert score(right, planned.answer, extra_info=planned.extra_info, shape="adjacency")["score"] == 1.2


# --- options by task --------------------------------------------------------------------------------------------

BY_TASK = {"video": {"answer_format": "boxed", "format_score": 0.1}, "depth": {"gamma": 0.5}}


def of_task(task, text, truth=NINE, **options):
    return score(text, truth, extra_info={"task": task}, **options)["score"]


def test_options_of_a_task_go_before_the_common_ones():
    for task, text, expected in (
        ("image", tags(NINE), 1.3),
        ("depth", tags(NINE), 1.3),
        ("video", boxed(NINE), 1.1),
        ("image", tags(SWAPPED), 0.3 + 0.2 * 7 / 9),
        ("depth", tags(SWAPPED), 0.3 + 0.5 * 7 / 9),
        ("video", boxed(SWAPPED), 0.1 + 0.2 * 7 / 9),
        ("image", boxed(NINE), 0.0),
        ("video", tags(NINE), 0.0),
    ):
        assert of_task(task, text, format_score=0.3, tasks=BY_TASK) == pytest.approx(expected), (task, text)


def test_a_tasks_option_of_null_takes_the_common_one_away():
    assert of_task("image", tags(NINE), format_score=0.3, tasks={"image": {"format_score": None}}) == 1.2


@pytest.mark.parametrize("extra_info", [None, {}, {"task": None}, {"task": ["video"]}])
def test_options_by_task_need_the_rows_task(extra_info):
    with pytest.raises(ValueError, match=r"options by task need extra_info\['task'\]"):
        score(tags(NINE), NINE, extra_info=extra_info, tasks=BY_TASK)


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        ({"video": {"gama": 1}}, "unknown reward option gama"),
        ({"video": {"tasks": {"video": {}}}}, "must be a mapping from option to value, without tasks"),
        ({"video": "released"}, "'released' must be a mapping from option to value"),
        ({"video": {"gamma": -1}}, "gamma is -1"),
    ],
)
def test_options_of_a_task_that_make_no_sense_are_refused(tasks, said):
    with pytest.raises(ValueError, match=said):
        of_task("video", tags(NINE), tasks=tasks)
    with pytest.raises(ValueError, match=rf"^tasks\.video: .*{said}"):
        check_options({"tasks": tasks}, ("image", "video"))
    assert of_task("image", tags(NINE), tasks=tasks) == 1.2  # an option of another task is not looked at


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"gama": 1}, "^unknown reward option gama"),
        ({"gama": 1, "tasks": {"video": {}}}, "^unknown reward option gama"),
        ({"shape": "round"}, "^shape is 'round'"),
        ({"tasks": {"sound": {}, "video": {}}}, r"^tasks\.sound: no such task; known are image, video$"),
        ({"tasks": ["video"]}, r"^tasks is \['video'\]; it must be a mapping"),
        ({"tasks": []}, r"^tasks is \[\]; it must be a mapping"),
        ({"tasks": False}, "^tasks is False; it must be a mapping"),
        ({"ground_truth": [1, 2]}, "^unknown reward option ground_truth"),
        ({1: 2}, "^unknown reward option 1"),
        ({"tasks": {"video": {"extra_info": {}}}}, r"^tasks\.video: unknown reward option extra_info"),
    ],
)
def test_options_are_checked_without_a_row(options, said):
    with pytest.raises(ValueError, match=said):
        check_options(options, ("image", "video"))


@pytest.mark.parametrize(
    "options", [{}, {"tasks": None}, {"tasks": {}}, {"shape": "adjacency", "tasks": {"video": {}}}]
)
def test_options_that_are_known_pass(options):
    check_options(options, ("image", "video"))
