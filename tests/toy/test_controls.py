"""Controls: rewards that say nothing of the order, and pictures of which only the colours are left."""

from pathlib import Path
from statistics import fmean

import numpy as np
from PIL import Image

from jigsaw.reward import compute_score
from jigsaw.toy.controls import format_score, random_score, write_grey, write_shuffled

RIGHT, WRONG, FORMLESS = (
    f"<think>1 sky, 2 ground</think>{end}"
    for end in (
        "<answer>1, 2</answer>",
        "<answer>2, 1</answer>",
        "<answer>1, 1</answer>",
    )
)
ASKED = ("visual_jigsaw_image", [1, 2], {"answer_format": "answer_tag"})


def test_a_random_reward_is_the_same_every_time_and_does_not_know_what_is_right() -> None:
    source, _, extra = ASKED

    def paid(number: int, reply: str, answer: list[int]) -> dict[str, float]:
        return random_score(source, reply, answer, extra_info=extra | {"id": f"scene-{number}.png"})

    for answer in ([1, 2], [2, 1]):
        for reply in (RIGHT, WRONG):  # as it is the same reply to many puzzles that a model would learn
            scores = [paid(number, reply, answer)["score"] for number in range(1000)]
            assert set(scores) == {0, 1}
            assert abs(fmean(scores) - 0.5) < 0.07  # four standard errors
            assert scores == [paid(number, reply, answer)["score"] for number in range(1000)]
    assert paid(0, RIGHT, [1, 2])["exact"] == compute_score(source, RIGHT, [1, 2], extra)["exact"] == 1


def test_a_reward_for_the_form_pays_for_any_order() -> None:
    source, answer, extra = ASKED
    assert [format_score(source, reply, answer, extra_info=extra)["score"] for reply in (RIGHT, WRONG, FORMLESS)] == [
        1,
        1,
        0,
    ]


def test_shuffled_pictures_keep_their_colours_and_nothing_else(scenes: Path, tmp_path: Path) -> None:
    write_shuffled(scenes, tmp_path)
    names = sorted(path.name for path in scenes.glob("*.png"))
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    for name in names[:3]:
        before, after = (np.asarray(Image.open(folder / name).convert("RGB")) for folder in (scenes, tmp_path))
        assert after.shape == before.shape
        colours, kept = (np.sort(pixels.reshape(-1, 3).copy().view("u1,u1,u1"), axis=0) for pixels in (before, after))
        assert (colours == kept).all()
        halves = after.reshape(2, -1, 3).mean(1)
        assert np.abs(halves[0] - halves[1]).max() < 6
    times = [path.stat().st_mtime_ns for path in tmp_path.iterdir()]
    write_shuffled(scenes, tmp_path)
    assert times == [path.stat().st_mtime_ns for path in tmp_path.iterdir()]


def test_frames_and_their_folders_keep_their_names(tmp_path: Path) -> None:
    folders = [tmp_path / "frames" / name for name in ("film-0.mp4", "film-1.mp4")]
    for folder in folders:
        folder.mkdir(parents=True)
        Image.radial_gradient("L").convert("RGB").resize((56, 112)).save(folder / "000000.jpg")
    write_shuffled(tmp_path / "frames", tmp_path / "shuffled")
    made = [np.asarray(Image.open(tmp_path / "shuffled" / folder.name / "000000.jpg")) for folder in folders]
    assert made[0].shape == (112, 56, 3)
    assert (made[0] != made[1]).any()  # an order of its own, though its name is the same


def test_the_frames_of_a_film_share_their_colours(tmp_path: Path) -> None:
    """Shuffled one by one they would still tell in which of them there is more of a colour."""
    film = tmp_path / "frames/film-0.mp4"
    film.mkdir(parents=True)
    for number in range(4):
        Image.new("L", (56, 112), 60 * number).convert("RGB").save(film / f"{number:06}.jpg")
    write_shuffled(tmp_path / "frames", tmp_path / "shuffled")
    made = sorted((tmp_path / "shuffled/film-0.mp4").iterdir())
    pixels = [np.asarray(Image.open(path)) for path in made]
    assert [round(picture.mean() / 90, 1) for picture in pixels] == [1, 1, 1, 1]
    assert all(len(np.unique(picture // 30)) >= 4 for picture in pixels)
    before = made[2].read_bytes()
    made[2].unlink()
    write_shuffled(tmp_path / "frames", tmp_path / "shuffled")
    assert made[2].read_bytes() == before


def test_grey_pictures_show_nothing(scenes: Path, tmp_path: Path) -> None:
    write_grey(scenes, tmp_path)
    grey = [np.asarray(Image.open(tmp_path / path.name)) for path in sorted(scenes.glob("*.png"))]
    assert all(picture.shape == np.asarray(Image.open(next(scenes.glob("*.png")))).shape for picture in grey)
    assert len(np.unique(np.stack(grey))) == 1
