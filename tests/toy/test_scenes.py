"""The rendered scenes: a pure function, and puzzles that colour cannot solve while structure can."""

import hashlib
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from jigsaw.errors import JigsawError
from jigsaw.toy.scenes import PALETTES, SETTINGS, render_scene, write_scenes

LEARNED, JUDGED = 300, 200


def test_a_scene_is_a_small_rgb_picture():
    scene = render_scene(0, 0, size=64)
    assert scene.mode == "RGB"
    assert scene.size == (64, 64)


def test_a_scene_too_small_to_show_anything_is_refused():
    with pytest.raises(ValueError, match="16 pixels"):
        render_scene(0, 0, size=8)


@pytest.mark.seconds
def test_scenes_are_the_same_in_another_process():
    program = (
        "import hashlib\nfrom jigsaw.toy.scenes import render_scene\n"
        "print(hashlib.sha256(b''.join(render_scene(3, i).tobytes() for i in range(5))).hexdigest())"
    )
    there = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    assert there == hashlib.sha256(b"".join(render_scene(3, i).tobytes() for i in range(5))).hexdigest()


def test_no_two_scenes_of_neighbouring_seeds_and_indices_are_the_same():
    assert len({render_scene(seed, index).tobytes() for seed in range(4) for index in range(8)}) == 32


def test_every_pair_of_colours_occurs_both_ways_round():
    assert set(SETTINGS) == {"day", "dusk", "night", "snow", "sand", "sea"}
    pairs = [(sky, ground) for _, sky, ground in PALETTES]
    assert sorted(pairs) == sorted((ground, sky) for sky, ground in pairs)


def test_writing_keeps_what_is_finished_and_replaces_what_is_not(tmp_path):
    paths = write_scenes(tmp_path, 3, seed=0, size=32)
    assert [path.name for path in paths] == ["scene-00000.png", "scene-00001.png", "scene-00002.png"]
    before = [path.stat().st_mtime_ns for path in paths]
    paths[1].write_bytes(paths[1].read_bytes()[:20])
    Image.new("RGB", (32, 32)).save(paths[2])

    write_scenes(tmp_path, 4, seed=0, size=32)
    after = [path.stat().st_mtime_ns for path in paths]
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, False, False]
    for index in range(4):
        with Image.open(tmp_path / f"scene-{index:05d}.png") as image:
            assert image.tobytes() == render_scene(0, index, 32).tobytes()
    assert len(list(tmp_path.iterdir())) == 4


def test_the_files_do_not_depend_on_the_number_of_workers(tmp_path):
    alone, shared = (write_scenes(tmp_path / str(n), 5, seed=1, size=32, workers=n) for n in (1, 2))
    assert [path.read_bytes() for path in alone] == [path.read_bytes() for path in shared]


@pytest.mark.parametrize(("count", "workers"), [(0, 1), (1, 0)])
def test_nothing_to_write_or_nobody_to_write_is_an_error(tmp_path, count, workers):
    with pytest.raises(JigsawError, match="1 or more"):
        write_scenes(tmp_path / "new", count, seed=0, workers=workers)
    assert not (tmp_path / "new").exists()


# How far a guess gets. Each guesser learns the order of two halves from 300 scenes and is judged on 200 others.


@pytest.fixture(scope="module")
def scenes() -> np.ndarray:
    return np.stack([np.asarray(render_scene(0, index)) for index in range(LEARNED + JUDGED)]).astype(np.float32) / 255


def brightness(tiles: np.ndarray) -> np.ndarray:
    return tiles.mean((1, 2, 3))[:, None]


def colour(tiles: np.ndarray) -> np.ndarray:
    # Brightness is a sum of these; as a column of its own its rounding errors would be learned.
    return tiles.mean((1, 2))


def structure(tiles: np.ndarray) -> np.ndarray:
    """How rough a tile is, across and down, how it fades across and down, and which way its edges lean."""
    grey = tiles.mean(-1)
    down, across = np.diff(grey, axis=1)[:, :, :-1], np.diff(grey, axis=2)[:, :-1]
    columns = [np.abs(down), np.abs(across), down, across, down * across]
    return np.stack([column.mean((1, 2)) for column in columns], axis=1)


def pairs(scenes: np.ndarray, grid: str, features: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Features of both halves side by side, in random order, and whether they are in place (1) or swapped (−1)."""
    first, second = np.split(scenes, 2, axis=1 if grid == "2x1" else 2)
    first, second = features(first), features(second)
    swapped = np.random.default_rng(0).random(len(scenes)) < 0.5
    shown = np.where(swapped[:, None], np.hstack([second, first]), np.hstack([first, second]))
    known = shown[:LEARNED]
    return (shown - known.mean(0)) / known.std(0), np.where(swapped, -1, 1)


def by_weights(shown: np.ndarray, truth: np.ndarray) -> float:
    """Judged accuracy of least squares."""
    shown = np.hstack([shown, np.ones((len(shown), 1))])
    weights = np.linalg.lstsq(shown[:LEARNED], truth[:LEARNED], rcond=None)[0]
    return float(np.mean(np.sign(shown[LEARNED:] @ weights) == truth[LEARNED:]))


def by_neighbours(shown: np.ndarray, truth: np.ndarray) -> float:
    """Judged accuracy of the 15 nearest neighbours, among the pairs known and the same pairs swapped."""
    swapped = np.roll(shown[:LEARNED], shown.shape[1] // 2, axis=1)
    known, labels = np.vstack([shown[:LEARNED], swapped]), np.concatenate([truth[:LEARNED], -truth[:LEARNED]])
    distances = np.square(shown[LEARNED:, None] - known).sum(-1)
    votes = labels[np.argpartition(distances, 15)[:, :15]].sum(1)
    return float(np.mean(np.sign(votes) == truth[LEARNED:]))


@pytest.mark.seconds
@pytest.mark.parametrize("grid", ["2x1", "1x2"])
@pytest.mark.parametrize(
    ("features", "guess", "bound"),
    [  # measured on the series 0, 1 and 2, 2x1 and 1x2 (chance 0.50, one standard error 0.035):
        (brightness, by_weights, 0.62),  # 0.56 to 0.57, 0.55 to 0.56
        (brightness, by_neighbours, 0.65),  # 0.48 to 0.65, 0.55 to 0.56
        (colour, by_weights, 0.67),  # 0.55 to 0.58, 0.53 to 0.58
        (colour, by_neighbours, 0.68),  # 0.56 to 0.64, 0.52 to 0.55
    ],
)
def test_means_hardly_tell_the_order(scenes, grid, features, guess, bound):
    assert guess(*pairs(scenes, grid, features)) <= bound


@pytest.mark.seconds
@pytest.mark.parametrize("grid", ["2x1", "1x2"])
def test_structure_tells_the_order(scenes, grid):
    assert by_weights(*pairs(scenes, grid, structure)) >= 0.95
