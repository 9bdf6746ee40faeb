"""The quickstart's stages and settings, without verl; e2e/test_quickstart.py runs it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from rich.progress import Progress

from jigsaw.difficulty import Difficulty, read_difficulties
from jigsaw.errors import JigsawError
from jigsaw.files import write_json
from jigsaw.tasks import plan
from jigsaw.toy.quickstart import Quickstart, _begin, finished, schedule, warm_start_steps_of
from jigsaw.toy.rows import image_row
from jigsaw.toy.settings import Kind, Settings


def _row(number: int) -> dict[str, Any]:
    return image_row(f"scene-{number:05d}.png", (2, 1), id=str(number))


SETTINGS = Settings(grid="2x1", begin_with=None, images=None, warm_start_steps=2, seed=0)


def _warm_start(
    out: Path, valid: list[float], monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> tuple[str, list[int]]:
    """A warm start whose rounds end with such shares of valid samples: what it says, and the rounds that were made.

    Text comes first, once.
    """
    run, made = Quickstart(out, settings, steps=1), []

    def supervise(name: str, steps: int, model: Path, target: Path, progress: Progress, *options: str) -> None:
        target.mkdir(parents=True)
        if "data.recall=true" in options:
            assert (model, steps, made) == (run.random_model, 200 if settings == UNTIL_FORMED else 2, [])
            return
        number = int(options[0].removeprefix("data.round="))
        assert model == out / ("model/recall" if number == 0 else f"model/warm_start_round_{number}")
        made.append(number)
        (target / "config.json").write_text(str(number))

    monkeypatch.setattr(run, "_supervise", supervise)

    def formed(folder: Path, progress: Progress) -> tuple[float, bool]:
        share = valid[int((folder / "config.json").read_text())]
        return share, share >= 0.95

    monkeypatch.setattr(run, "_formed", formed)
    return run.warm_start(Progress(disable=True)), made


UNTIL_FORMED = replace(SETTINGS, warm_start_steps=None)


def test_the_warm_start_goes_on_until_what_is_sampled_has_the_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, made = _warm_start(tmp_path, [0.4, 0.8, 0.97, 1.0], monkeypatch, UNTIL_FORMED)
    assert (said, made) == ("600 steps, 97% valid", [0, 1, 2])
    assert (tmp_path / "model/warm_start/config.json").read_text() == "2"
    assert _warm_start(tmp_path, [], monkeypatch, UNTIL_FORMED) == ("kept", [])


def test_the_warm_start_ends_after_some_rounds_come_what_may_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said, made = _warm_start(tmp_path, [0.1, 0.2, 0.2, 0.3], monkeypatch, UNTIL_FORMED)
    assert (said, made) == ("800 steps, 30% valid", [0, 1, 2, 3])
    assert "after 4 rounds that is still too few; GRPO begins all the same" in capsys.readouterr().out


def test_a_warm_start_of_so_many_steps_has_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _warm_start(tmp_path, [0.4], monkeypatch, SETTINGS) == ("2 steps, 40% valid", [0])


def test_a_round_that_was_finished_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model/recall").mkdir(parents=True)
    (tmp_path / "model/warm_start_round_1").mkdir()
    (tmp_path / "model/warm_start_round_1/config.json").write_text("0")
    assert _warm_start(tmp_path, [0.4, 0.97], monkeypatch, UNTIL_FORMED) == ("400 steps, 97% valid", [1])


def test_puzzles_of_one_picture_are_known_by_it(tmp_path: Path, scenes: Path) -> None:
    rendered = Quickstart(tmp_path, SETTINGS, steps=1)
    assert rendered.source_of(plan(_row(3))) == "scene-00003.png"
    pictures = tmp_path / "pictures"
    shutil.copytree(scenes, pictures)
    for number in range(2):
        shutil.copy(scenes / "scene-00000.png", pictures / f"more-{number}.png")
    crops = Quickstart(tmp_path, replace(SETTINGS, images=str(pictures)), steps=1)
    crop = _row(0) | {"images": [{"path": "holiday/beach.jpg/004.jpg", "jigsaw_config": [2, 1]}]}
    assert crops.source_of(plan(crop)) == "holiday/beach.jpg"


def test_a_folder_of_the_same_settings_is_kept(tmp_path: Path) -> None:
    _begin(tmp_path / "run", SETTINGS)
    (tmp_path / "run/kept").touch()
    _begin(tmp_path / "run", SETTINGS)
    assert (tmp_path / "run/kept").exists()


def test_a_run_of_other_settings_is_put_aside(tmp_path: Path) -> None:
    for seed in range(3):
        _begin(tmp_path / "run", replace(SETTINGS, seed=seed))
    seeds = [json.loads((tmp_path / name / "settings.json").read_text())["seed"] for name in ("run", "run.1", "run.2")]
    assert seeds == [2, 0, 1]


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(JigsawError, match="something other than a quickstart"):
        _begin(tmp_path, SETTINGS)


@pytest.mark.parametrize("text", ['{"grid": ', "[]", '{"grid": "2x1"}'])
def test_settings_that_are_damaged_are_said_and_kept(tmp_path: Path, text: str) -> None:
    (tmp_path / "settings.json").write_text(text)
    with pytest.raises(JigsawError, match=r"settings.json: is no .*; choose another output folder, or move .* away"):
        _begin(tmp_path, SETTINGS)
    assert (tmp_path / "settings.json").read_text() == text


@pytest.mark.parametrize("easier", ["2x2", "1x3", "3x1"])
def test_a_grid_to_begin_with_must_be_easier(tmp_path: Path, easier: str) -> None:
    with pytest.raises(JigsawError, match=f"begin_with {easier}: is no easier grid than 2x2"):
        Quickstart(tmp_path, replace(SETTINGS, grid="2x2", begin_with=easier), steps=1)


def test_a_grid_to_begin_with_becomes_a_schedule(tmp_path: Path) -> None:
    assert schedule(Quickstart(tmp_path, replace(SETTINGS, grid="2x2"), steps=1).levels) == ()
    easy_first = Quickstart(tmp_path, replace(SETTINGS, grid="2x2", begin_with="2x1"), steps=1)
    (given,) = schedule(easy_first.levels)
    assert given.startswith("data.difficulty=")
    assert read_difficulties(OverridesParser.create().parse_override(given).value()) == {
        "image": Difficulty(((2, 1), (2, 2)), 0.8, 5)
    }


@pytest.mark.parametrize(("pieces", "steps"), [(2, 250), (3, 562), (4, 1000)])
def test_more_pieces_take_a_longer_warm_start(pieces: int, steps: int) -> None:
    assert warm_start_steps_of(pieces, None) == steps


def test_a_round_of_the_warm_start_is_as_long_as_what_is_rendered_takes(tmp_path: Path) -> None:
    run = Quickstart(tmp_path, replace(SETTINGS, task="mixture", grid="2x2"), steps=1)
    assert [warm_start_steps_of(part.pieces, part.world) for part in run.parts] == [400, 700, 400]


def test_what_is_too_hard_for_the_steps_is_said_before(tmp_path: Path) -> None:
    def doubts(steps: int, **changed: Any) -> list[str]:
        return Quickstart(tmp_path, replace(SETTINGS, **changed), steps).doubts()

    assert doubts(40) == []
    assert doubts(5) == ["2x1 tiles: runs took 10 steps to learn them; 5 are few"]
    assert doubts(40, grid="3x2") == ["3x2 tiles: no run has learned them yet; they may be too hard for 40 steps"]
    assert len(doubts(2, task="mixture")) == 3


def test_each_task_has_media_and_puzzles_of_its_own(tmp_path: Path) -> None:
    def parts(task: Kind, **changed: Any) -> list[tuple[str, str, float]]:
        run = Quickstart(tmp_path, replace(SETTINGS, task=task, **changed), steps=1)
        return [(part.media_root.name, part.kind, part.chance) for part in run.parts]

    assert parts("image", grid="2x2") == [("scenes", "2x2 tiles", 1 / 24)]
    assert parts("video", clips=3) == [("frames", "3 clips", 1 / 6)]
    assert parts("depth") == [("rooms", "2 points", 1 / 2)]
    assert [name for name, *_ in parts("mixture")] == ["scenes", "frames", "rooms"]


def test_a_mixture_is_one_of_verls_config(tmp_path: Path) -> None:
    run = Quickstart(tmp_path / "with, blank's", replace(SETTINGS, task="mixture"), steps=1)
    given = {one.key_or_group: one.value() for one in OverridesParser.create().parse_overrides(run.arguments_of_rows())}
    assert [source["name"] for source in given["data.mixture"]] == ["image", "video", "depth"]
    assert [source["files"] for source in given["data.val_files"]] == [str(part.heldout_rows) for part in run.parts]
    assert given["data.train_files"] is None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"task": "depth", "images": "."}, r"task depth: needs depth, which a folder of pictures has not"),
        ({"task": "video", "images": "."}, r"task video: needs films, which a folder of pictures has not"),
        ({"task": "video", "clips": 1}, r"clips 1: must be 2 to 3"),
        ({"task": "depth", "points": 9}, r"points 9: must be 2 to 3"),
        ({"task": "depth", "model": "qwen3_vl"}, r"model qwen3_vl: is not for rooms"),
        ({"task": "video", "grid": "2x2"}, r"grid 2x2: is for --task image"),
        ({"clips": 3}, r"clips 3: is for --task video"),
        ({"task": "video", "points": 3}, r"points 3: is for --task depth"),
        ({"task": "video", "begin_with": "2x1"}, r"begin_with 2x1: is for --task image"),
        ({"task": "mixture", "grid": "2x2", "begin_with": "2x1"}, r"begin_with 2x1: is for --task image"),
    ],
)
def test_what_does_not_go_together_is_said(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(JigsawError, match=message):
        Quickstart(tmp_path, replace(SETTINGS, **changed), steps=1)


def test_a_grid_beyond_the_tiny_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JigsawError, match="room for 9 tiles"):
        Quickstart(tmp_path, replace(SETTINGS, grid="4x3"), steps=1)


def test_too_few_pictures_are_said_at_once(tmp_path: Path, scenes: Path) -> None:
    with pytest.raises(JigsawError, match="holds 48 pictures; the quickstart needs 50"):
        Quickstart(tmp_path, replace(SETTINGS, images=str(scenes)), steps=1)


def test_a_finished_run_is_read_also_one_from_before_there_were_other_tasks(tmp_path: Path) -> None:
    told = {"grid": "2x2", "begin_with": None, "images": None, "warm_start_steps": None, "seed": 3}
    write_json(tmp_path / "settings.json", told)
    write_json(tmp_path / "summary.json", {"grpo_steps": 30})
    run = finished(tmp_path, "move it away")
    assert (run.settings, run.steps) == (Settings(**told), 30)
    write_json(tmp_path / "settings.json", {"grid": "2x2"})
    with pytest.raises(JigsawError, match=r"settings.json: is no object with .*seed; move it away"):
        finished(tmp_path, "move it away")
