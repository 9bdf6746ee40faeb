"""The rendered films: a pure function, and puzzles that a frame or a mean cannot solve while the states can."""

import math

import numpy as np
import pytest

from jigsaw.errors import JigsawError
from jigsaw.prepare.videos import VideoOptions, check_video, video_row
from jigsaw.tasks import build_puzzle
from jigsaw.tasks.video import clip_indices
from jigsaw.toy.films import FPS, FRAMES, HEIGHT, KINDS, WIDTH, film_states, render_film, write_films

FILMS = 240


def options(clips: int) -> VideoOptions:
    return VideoOptions(clips=clips, max_frames=4, max_pixels=WIDTH * HEIGHT)


def indices(clips: int) -> np.ndarray:
    """Frames of each clip that are shown, (clips, 4)."""
    rules = options(clips)
    shown = {"trim": rules.trim, "fps": rules.fps, "min_frames": 4, "max_frames": rules.max_frames}
    return np.array(clip_indices(FRAMES, FPS, clips=clips, **shown))


def at_most(chance: float, count: int) -> float:
    """What a blind guess stays under but once in 30,000 times: four standard errors above chance."""
    return chance + 4 * math.sqrt(chance * (1 - chance) / count)


def by_rising(numbers: np.ndarray) -> float:
    """Share of films (axis 0) whose clips (axis 1) are in place once sorted by a number."""
    return float((np.diff(numbers, axis=1) > 0).all(1).mean())


@pytest.fixture(scope="module")
def films() -> np.ndarray:
    return np.stack([render_film(0, index) for index in range(FILMS)])


@pytest.fixture(scope="module")
def states() -> np.ndarray:
    return np.stack([film_states(0, index)[1] for index in range(FILMS)])


def test_films_are_small_and_no_two_of_neighbouring_seeds_and_indices_are_the_same():
    films = [render_film(seed, index) for seed in range(2) for index in range(4)]
    assert {film.shape for film in films} == {(FRAMES, HEIGHT, WIDTH, 3)}
    assert len({film.tobytes() for film in films}) == 8
    assert films[0].tobytes() == render_film(0, 0).tobytes()


def test_all_kinds_occur_about_as_often():
    found = [film_states(0, index)[0] for index in range(FILMS)]
    assert min(map(found.count, KINDS)) > FILMS / len(KINDS) / 2


@pytest.mark.seconds
def test_the_files_do_not_depend_on_the_number_of_workers_and_what_is_there_is_kept(tmp_path):
    alone, shared = (write_films(tmp_path / str(workers), 4, seed=1, workers=workers) for workers in (1, 2))
    assert [path.name for path in alone] == [f"film-1-{index:05d}.mp4" for index in range(4)]
    assert [path.read_bytes() for path in alone] == [path.read_bytes() for path in shared]
    before = [path.stat().st_mtime_ns for path in alone]
    alone[2].unlink()
    after = [path.stat().st_mtime_ns for path in write_films(tmp_path / "1", 4, seed=1)]
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, True, False, True]
    with pytest.raises(JigsawError, match="1 or more"):
        write_films(tmp_path, 0, seed=1)


@pytest.mark.parametrize(("clips", "tokens"), [(2, 36), (3, 54)])
def test_a_film_makes_a_row_by_the_papers_rules(tmp_path, clips, tokens):
    (path,) = write_films(tmp_path, 1, seed=0)
    (record,) = check_video(path.name, media_root=tmp_path, options=options(clips), frames=None)
    assert (record["tokens"], record["smaller"], record["duration"]) == (tokens, False, 24)

    row = video_row({**record, "path": path.name}, 0, "train", options(clips))
    puzzle = build_puzzle(row, tmp_path)
    film = render_film(0, 0)
    for clip, source in zip(puzzle.media, puzzle.order, strict=True):
        assert list(clip.indices) == indices(clips)[source].tolist()
        shown = clip.frames.permute(0, 2, 3, 1).numpy().astype(float)
        assert np.abs(shown - film[list(clip.indices)]).mean() < 8  # H.264, colour at half its resolution


# How far a guess gets, on 500 films of each of the series 0, 1 and 2. By the means of first frames: 0.44 to 0.56 of
# the orders of two clips, 0.12 to 0.18 of three; of whole clips: 0.46 to 0.54, 0.14 to 0.21. By the contrast of first
# frames: 0.95 to 0.98, 0.78 to 0.81, for there is more to see as time goes by; that is how far a film has come.


@pytest.mark.seconds
@pytest.mark.parametrize("clips", [2, 3])
@pytest.mark.parametrize("frames", [slice(0, 1), slice(None)], ids=["first frame", "all frames"])
def test_means_do_not_tell_the_order(films, clips, frames):
    means = films[:, indices(clips)[:, frames]].mean((2, 3, 4))
    bound = at_most(1 / math.factorial(clips), FILMS)
    for numbers in [*np.moveaxis(means, -1, 0), means.mean(-1)]:
        assert max(by_rising(numbers), by_rising(-numbers)) <= bound


@pytest.mark.seconds
@pytest.mark.parametrize(("clips", "right"), [(2, 0.9), (3, 0.7)])
def test_contrast_tells_how_far_a_film_has_come(films, clips, right):
    """So what leaves a frame its colours leaves the order: a control must mix those of all frames."""
    contrast = films[:, indices(clips)[:, 0]].mean(-1).std((2, 3))
    assert by_rising(contrast) >= right


@pytest.mark.parametrize(("clips", "alone"), [(2, 0.78), (3, 0.6)])
def test_states_tell_the_order_together_but_not_alone(states, clips, alone):
    shown = states[:, indices(clips)]
    assert by_rising(shown.mean(2)) == 1
    assert np.diff(shown, axis=2).min() > 0  # and so does the motion within a clip tell the way
    # The best that a clip's state alone can say: the lowest third of all clips come first, and so on.
    guess = np.argsort(np.argsort(shown.mean(2), axis=None)).reshape(FILMS, clips) * clips // (FILMS * clips)
    assert np.mean(guess == np.arange(clips)) <= alone


@pytest.mark.seconds
def test_pixels_show_the_order(films):
    """Least squares on where two clips are not even, learned from 160 films and judged on 80."""
    grey = films[:, indices(2)].mean((2, -1)) / 255
    coarse = grey.reshape(FILMS, 2, 8, HEIGHT // 8, 4, WIDTH // 4).std((3, 5))
    swapped = np.random.default_rng(0).choice((-1, 1), FILMS)
    shown = (coarse[:, 0] - coarse[:, 1]).reshape(FILMS, -1) * swapped[:, None]
    known, judged = shown[:160], shown[160:]
    weights = np.linalg.solve(known.T @ known + np.eye(known.shape[1]), known.T @ swapped[:160])
    assert np.mean(np.sign(judged @ weights) == swapped[160:]) >= 0.85
