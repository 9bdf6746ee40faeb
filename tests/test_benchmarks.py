"""The figures that benchmarks/curves.py and benchmarks/learning.py keep; the runs themselves take hours."""

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from importlib import import_module
from itertools import takewhile
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from typer import Typer
from typer.testing import CliRunner

from jigsaw.errors import JigsawError
from jigsaw.toy.films import render_film
from jigsaw.toy.rooms import render_room
from jigsaw.toy.scenes import render_scene
from jigsaw.toy.settings import LEARNED


def result(variant: str, steps: int = 100) -> dict[str, Any]:
    return {
        "variant": variant,
        "seed": 0,
        "steps": steps,
        "machine": {"cpu": "a CPU"},
        "solved": None,
        "heldout_exact": {"0": 0.03125, "5": 0.125},
        "step_s": 8.0,
        "peak_gib": 10.0,
    }


@pytest.fixture
def curves(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Result]:
    """The command, given figures of earlier starts."""
    monkeypatch.syspath_prepend(repository / "benchmarks")
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # what it does on Ctrl-C is not what the tests do
    app = Typer()
    app.command()(import_module("curves").main)

    def run(figures: str) -> Result:
        (tmp_path / "figures.json").write_text(figures)
        places = {"--json": "figures.json", "--picture": "curves.png", "--out": "out"}
        given = [word for option, name in places.items() for word in (option, str(tmp_path / name))]
        return CliRunner().invoke(app, ["stability", "--only", "plain", "--only", "difficulty", *given])

    return run


def test_figures_that_are_there_are_shown_and_kept_as_they_are(curves: Callable[[str], Result], tmp_path: Path) -> None:
    figures = {"study": "stability", "results": [result("plain", steps=500), result("difficulty")]}
    ran = curves(json.dumps(figures))
    assert (ran.exit_code, ran.stderr) == (0, "")
    assert "0.125" in ran.stdout
    assert ran.stdout.endswith("cpu a CPU\n")
    assert json.loads((tmp_path / "figures.json").read_text()) == figures
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width > 800
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]


@pytest.mark.parametrize(
    "figures",
    ["[", "[]", '{"study": "ranks", "results": []}', '{"study": "stability", "results": [{"variant": "plain"}]}'],
)
def test_a_file_of_other_figures_is_left_as_it_is(
    curves: Callable[[str], Result], tmp_path: Path, figures: str
) -> None:
    ran = curves(figures)
    assert ran.exit_code == 1
    assert "figures.json: holds no figures of this study; move it away, or give another --json" in ran.stderr
    assert len(ran.stderr.splitlines()) == 1
    assert (tmp_path / "figures.json").read_text() == figures


@pytest.mark.parametrize(
    ("task", "source"),
    [("image", "visual_jigsaw_image"), ("video", "visual_jigsaw_video"), ("depth", "visual_depth_jigsaw")],
)
def test_a_task_of_a_mixture_has_its_own_curve(
    repository: Path, monkeypatch: pytest.MonkeyPatch, task: str, source: str
) -> None:
    monkeypatch.syspath_prepend(repository / "benchmarks")
    sources = {"visual_jigsaw_image": 0.1, "visual_jigsaw_video": 0.2, "visual_depth_jigsaw": 0.3}
    tested = {f"val-core/{name}/acc/mean@1": exact for name, exact in sources.items()}
    placed = {f"val-aux/{name}/position_accuracy/mean@1": 2 * exact for name, exact in sources.items()}
    columns = ("score", "exact", "valid_permutation")
    trained = {f"reward/{name}/{column}": 0.5 for name in ("image", "video", "depth") for column in columns}
    log = import_module("learning").log_of({1: {**trained, "actor/entropy": 0.25}, 0: {**tested, **placed}}, task)
    assert log["curve"] == {"0": sources[source]}
    assert log["in_place"] == {"0": 2 * sources[source]}
    assert log["steps"] == {"score": [0.5], "exact": [0.5], "valid_permutation": [0.5], "entropy": [0.25]}


OPTIONS = {
    "1x2 tiles": ["--grid", "1x2"],
    "2x1 tiles": ["--grid", "2x1"],
    "2x1 tiles, 8 replies": ["--grid", "2x1"],
    "8 replies": ["n=8"],
}


def learned(seed: int, exact: float, name: str = "1x2 tiles", kind: str = "case") -> dict[str, Any]:
    curve = {"0": 0.5, "10": 0.75, "20": exact}
    return {
        "kind": kind,
        "name": name,
        "seed": seed,
        "options": OPTIONS.get(name, []),
        "chance": 0.5,
        "exact_before_sampled": 0.5,
        "exact_after": exact,
        "exact_greyed": 0.48,
        "minutes": 7.0,
        "peak_gib": 10.0,
        "curve": curve,
        "steps": {"exact": [0.5, exact]},
        "machine": {"cpu": "a CPU"},
    }


@pytest.fixture
def learning(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The command, given figures of earlier starts and words."""
    monkeypatch.syspath_prepend(repository / "benchmarks")
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    module = import_module("learning")
    monkeypatch.setattr(module, "ended", lambda command: pytest.fail(f"{command} would take minutes"))
    app = Typer()
    app.command()(module.main)

    def run(figures: str, *words: str) -> Result:
        (tmp_path / "figures.json").write_text(figures)
        places = {"--json": "figures.json", "--pictures": "pictures", "--out": "out"}
        given = [word for option, name in places.items() for word in (option, str(tmp_path / name))]
        return CliRunner().invoke(app, [*given, *words])

    return run


def test_seeds_that_are_there_are_shown_together_and_not_run_again(
    learning: Callable[..., Result], tmp_path: Path
) -> None:
    control = learned(0, 0.5, "1x2 tiles, random reward", "control")
    figures = json.dumps({"results": [learned(0, 0.9), learned(1, 0.98), control]})
    ran = learning(figures, "1x2 tiles", "1x2 tiles", "--seed", "0", "--seed", "1")
    assert (ran.exit_code, ran.stderr) == (0, "")
    assert "0 runs to make, about 0.0 hours on 2 cores; 3 are there" in ran.stdout
    (line,) = [line for line in ran.stdout.splitlines() if "1x2 tiles " in line]
    assert [cell.strip() for cell in line.strip("│").split("│")] == [
        *("1x2 tiles", "2", "0.500", "0.500", "0.940", "0.432 to 1.000", "0.900", "", "0.480", "7 to 7", "10.0"),
    ]  # Student's t of one degree of freedom
    assert (tmp_path / "figures.json").read_text() == figures
    for name in ("cases", "controls"):
        with Image.open(tmp_path / f"pictures/{name}.png") as picture:
            assert picture.width > 300


def test_figures_that_were_made_with_other_options_are_made_again(
    learning: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = learned(0, 0.9, "2x1 tiles")
    before = {"results": [{**case, "options": ["--grid", "1x2"]}, learned(1, 0.9, "2x1 tiles"), learned(0, 0.8)]}
    figures = {name: case[name] for name in case if name not in ("kind", "name", "seed", "options", "machine")}
    monkeypatch.setattr(import_module("learning"), "quickstart", lambda name, seed, out: iter([figures]))
    ran = learning(json.dumps(before), "2x1 tiles", "--seed", "0", "--seed", "1")
    assert "1 runs to make, about 0.1 hours" in ran.stdout
    assert "made with other options before, and again now: 2x1 tiles, seed 0\n" in ran.stdout
    kept = json.loads((tmp_path / "figures.json").read_text())["results"]
    assert [(each["name"], each["seed"], each["options"]) for each in kept] == [
        ("2x1 tiles", 0, ["--grid", "2x1"]),
        ("2x1 tiles", 1, ["--grid", "2x1"]),
        ("1x2 tiles", 0, ["--grid", "1x2"]),
    ]  # in their places: tables compare with the first


def test_a_changed_setting_is_compared_on_the_seeds_that_both_have(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(repository / "benchmarks")
    figures = import_module("learning_figures")
    ours = [learned(1, 0.65), learned(0, 0.55)]
    others = [learned(0, 0.75), learned(1, 0.95), learned(2, 0.0)]
    # Of two tests the first says 0.75 in all: half of -0.3 and of -0.2, and Student's t of one degree of freedom.
    tested = partial(figures.difference, measure=figures.on_the_way)
    assert tested(ours, others) == "-0.125 (-0.443 to +0.193)"
    assert tested(ours[1:], others) == "-0.100"
    assert tested(ours, others[2:]) == ""
    # A run that goes on for longer is compared on the tests that both have.
    longer = {**ours[0], "curve": {**ours[0]["curve"], "30": 1.0}}
    assert tested([longer], others) == tested(ours[:1], others)
    trained = partial(figures.difference, measure=figures.in_training)
    assert trained(ours[1:], others) == "-0.100"
    assert trained([{**ours[1], "steps": {"exact": [0.5, 0.55, 1.0]}}], others) == "-0.100"
    # What begins with an easier grid has sampled other puzzles.
    assert trained([{**ours[1], "options": ["begin_with=2x1"]}], others) == ""


def test_seeds_that_agree_have_an_interval_without_width(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(repository / "benchmarks")
    figures = import_module("learning_figures")
    assert figures.interval([0.75, 0.75, 0.75]) == (0.75, 0.75)
    assert figures.interval([0.75]) is None
    ours, others = ([learned(seed, exact) for seed in (0, 1)] for exact in (0.95, 0.85))
    assert figures.difference(ours, others, figures.on_the_way) == "+0.050 (+0.050 to +0.050)"


def test_runs_are_made_once_each_a_case_before_what_trains_on_from_it(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(repository / "benchmarks")
    runs_of = import_module("learning").runs_of
    cases = ["2x1 tiles", "mixture"]
    runs = list(runs_of(cases, [0, 1], controls=True, changes=True, screen=True))
    assert len({(run.name, run.seed) for run in runs}) == len(runs)
    assert [(run.name, run.seed) for run in runs[:4]] == [(case, seed) for case in cases for seed in (0, 1)]
    kinds = Counter(run.kind for run in runs)
    assert kinds == {"case": 4, "control": 12, "variant": 4, "change": 26, "start": 10}
    assert not [run.name for run in runs if run.name.startswith("mixture,")]


def test_a_run_that_is_stopped_is_let_end_in_its_own_way(repository: Path, tmp_path: Path) -> None:
    """Its parent waits for longer than the quarter of a second after which subprocess.run kills."""
    started, ended = tmp_path / "started", tmp_path / "ended"
    run = f"""if True:
        import pathlib, time
        try:
            pathlib.Path({str(started)!r}).touch()
            time.sleep(60)
        except KeyboardInterrupt:
            time.sleep(1)
            pathlib.Path({str(ended)!r}).touch()
    """
    parent = f"""if True:
        import sys
        from jigsaw.processes import told_in_one_line
        sys.path.insert(0, {str(repository / "benchmarks")!r})
        from learning import ended
        with told_in_one_line(lambda: None):
            ended([sys.executable, "-c", {run!r}])
    """
    stopped = subprocess.Popen([sys.executable, "-c", parent])
    while not started.exists():
        assert stopped.poll() is None
        time.sleep(0.05)
    stopped.terminate()
    assert stopped.wait(timeout=30) == 130
    assert ended.exists()


@pytest.fixture(scope="module")
def measured(repository: Path) -> list[dict[str, Any]]:
    """What benchmarks/learning.json holds."""
    results: list[dict[str, Any]] = json.loads((repository / "benchmarks/learning.json").read_text())["results"]
    return results


@pytest.mark.parametrize("name", list(LEARNED))
def test_a_user_is_told_the_steps_after_which_every_seed_was_half_way_from_chance_to_all(
    measured: list[dict[str, Any]], name: str
) -> None:
    steps = [
        min(int(step) for step, exact in each["curve"].items() if step != "0" and exact >= (1 + each["chance"]) / 2)
        for each in measured
        if each["name"] == name
    ]
    assert max(steps) == LEARNED[name]


def test_changes_stand_beside_the_setting_that_they_change(learning: Callable[..., Result]) -> None:
    names = {"named_before_sampled": 0.9, "named_after_sampled": 0.95, "exact_after_sampled": 0.8}
    found = [
        {**learned(seed, exact, name, kind), **names}
        for kind, name, seed, exact in (
            ("case", "2x1 tiles", 0, 1.0),
            ("change", "2x2, one process", 0, 0.95),
            ("change", "2x2, one process", 1, 0.85),
            ("change", "8 replies", 0, 0.75),
            ("variant", "2x1 tiles, 8 replies", 0, 0.95),
        )
    ]
    ran = learning(json.dumps({"results": found}), "2x1 tiles", "--seed", "0")
    assert (ran.exit_code, ran.stderr) == (0, "")
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in ran.stdout.splitlines() if "│" in line]
    named = ["0.900", "0.950"]
    assert ["2x2, one process", "2", *named, "0.750", "0.900", "0.800", "0.825", "0.700"] in rows
    assert ["8 replies", "1", *named, "0.750", "0.750", "0.800", "-0.100", "-0.100"] in rows
    assert ["2x1 tiles, 8 replies", "1", *named, "0.750", "0.950", "0.800", "-0.025", "-0.025"] in rows


@pytest.mark.parametrize(
    ("figures", "words", "message"),
    [
        ('{"results": []}', ["2x1 tiles", "--seed", "3", "--seed", "3"], "seed 3: is given twice"),
        ('{"results": []}', ["4x4 tiles"], "error: 4x4 tiles: is no case; these are there: 2x1 tiles, "),
        (
            json.dumps({"results": [learned(7, 0.9, "2x1 tiles")]}),
            ["2x1 tiles", "--seed", "7", "--controls"],
            "seed_7: no finished run, from which 2x1 tiles, random reward would train, though the figures of 2x1",
        ),
        (
            json.dumps({"results": [learned(7, 0.9, "2x1 tiles")]}),
            ["2x1 tiles", "--seed", "7", "--changes"],
            "seed_7: no finished run, from which 2x1 tiles, advantage not divided would train",
        ),
        ('{"results": []}', ["2x1 tiles", "--pictures", __file__], __file__),
        ('{"results": []}', ["2x1 tiles", "--json", str(Path(__file__).parent)], str(Path(__file__).parent)),
        ("[", ["2x1 tiles"], "figures.json: holds no figures of this benchmark"),
        ('{"results": [{"name": "2x1 tiles"}]}', ["2x1 tiles"], "figures.json: holds no figures of this benchmark"),
    ],
)
def test_what_cannot_be_learned_is_said_before_it_starts(
    learning: Callable[..., Result], tmp_path: Path, figures: str, words: list[str], message: str
) -> None:
    ran = learning(figures, *words)
    assert ran.exit_code == 1
    assert message in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


def test_how_replies_weigh_follows_their_answers(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(repository / "benchmarks")
    weights = import_module("learning_loop").weights
    assert weights(["1, 2", "1, 2", "2, 1", "1, 2"], 2, "rare") == pytest.approx([2 / 3, 2 / 3, 2, 2 / 3])
    assert weights(["1, 2", "2, 1"], 2, "spread") == [1, 1]
    assert weights(["1, 2", "1, 2"], 2, "spread") == [0, 0]
    assert weights(["a", "b", "c", "a"], 3, "spread") == pytest.approx([2 / 3] * 4)  # of 4 replies, not of 6 orders
    assert weights(["a", "b", "a"], 3, "alike") == [1, 1, 1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["grid=["], "error: grid=[: while parsing"),
        (["weigh=spred"], "error: --weigh spred: must be one of alike, rare, spread"),
        (["task=mixture"], "error: --task mixture: must be one of image, video, depth"),
        (["shape=round"], "error: --shape round: must be one of "),
        (["grid=4x4"], "error: --grid 4x4: the tiny model's replies have room for 9 tiles"),
        (["begin_with=3x3"], "error: --begin-with 3x3: is no easier grid than 2x2"),
        (["begin_with=2x1,2x2"], "error: --begin-with 2x2: is no easier grid than 2x2"),
        (["begin_with=2x1,"], "error: --begin-with 2x1,: must name grids, for example 2x1,1x2"),
        (["begin_with=2x1,2x1"], "error: --begin-with 2x1,2x1: must name grids that get no easier, each once"),
        (["grid=3x3", "begin_with=2x2,2x1"], "error: --begin-with 2x2,2x1: must name grids that get no easier"),
        (["seed=-1"], "error: --seed -1: must be 0 or more"),
        (["n=1"], "error: --n 1: must be 2 or more"),
        (["bogus=1"], "error: bogus=1: Key 'bogus' not in 'Settings'"),
        (["steps=x"], "error: steps=x: Value 'x' of type"),
    ],
)
def test_the_loop_says_what_it_cannot_be_told(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.syspath_prepend(repository / "benchmarks")
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    app = Typer()
    app.command()(import_module("learning_loop").main)
    ran = CliRunner().invoke(app, [str(tmp_path / "out"), *words])
    assert (ran.exit_code, len(ran.stderr.splitlines())) == (1, 1)
    assert ran.stderr.startswith(message)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("task", ["image", "video", "depth"])
def test_the_loop_makes_the_puzzles_of_every_task(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    monkeypatch.syspath_prepend(repository / "benchmarks")
    loop = import_module("learning_loop")
    pieces = {"image": 4, "video": 2, "depth": 2}
    assert loop.part_of(tmp_path, loop.settings_of([f"task={task}"])).pieces == pieces[task]


def test_a_probe_knows_where_the_nearest_pillar_stands(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillars stand at four columns; the middle of a front, not its left edge, lies at one of them."""
    monkeypatch.syspath_prepend(repository / "benchmarks")
    probes = import_module("probes")
    indices = range(120)
    for index in indices:
        middle = probes.middle_of_nearest(probes.render_room(probes.SERIES, index).depth)
        assert min(abs(middle - column) for column in (42, 70, 98, 126)) <= 4
    left = [probes.nearest(index)[1] for index in indices].count(0)
    assert abs(left - 60) < 22  # four standard errors


def test_probes_take_finished_runs_alone(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(repository / "benchmarks")
    read = import_module("probes").Run.read
    with pytest.raises(JigsawError, match="no finished quickstart"):
        read(tmp_path)
    (tmp_path / "settings.json").write_text('{"seed": 3}')
    (tmp_path / "summary.json").write_text("[]")
    with pytest.raises(JigsawError, match=r"summary.json: is no object with grpo_steps, tasks"):
        read(tmp_path)
    (tmp_path / "summary.json").write_text('{"grpo_steps": 30, "tasks": {"image": {"pieces": "2x1 tiles"}}}')
    with pytest.raises(JigsawError, match=r"model/random: no such model"):
        read(tmp_path)
    for name in ("random", "warm_start", "step_30"):
        (tmp_path / "model" / name).mkdir(parents=True)
        (tmp_path / "model" / name / "config.json").write_text("{}")
    assert read(tmp_path).name == "2x1 tiles, seed 3"


def test_a_cue_is_taken_away_and_the_others_stay(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(repository / "benchmarks")
    cues = import_module("cues")
    scene = np.asarray(render_scene(0, 0))
    picture = cues.Medium("scene.png", [scene], (2, 1))
    (alike,) = cues.with_tiles_alike(picture)
    above, below = np.split(alike.astype(float), 2)
    assert np.abs(above.mean((0, 1)) - below.mean((0, 1))).max() < 4
    assert np.corrcoef(above.ravel(), np.split(scene.astype(float), 2)[0].ravel())[0, 1] > 0.9
    (shuffled,) = cues.with_tiles_shuffled(picture)
    for before, after in zip(np.split(scene, 2), np.split(shuffled, 2), strict=True):
        assert (np.sort(before.reshape(-1, 3).sum(1)) == np.sort(after.reshape(-1, 3).sum(1))).all()
        assert (before != after).any()
    (soft,) = cues.blurred(picture)
    assert np.abs(np.diff(soft.astype(float), axis=0)).mean() < np.abs(np.diff(scene.astype(float), axis=0)).mean() / 2
    (grey,) = cues.without_colour(picture)
    assert (np.ptp(grey, axis=-1) == 0).all()
    assert np.abs(grey.mean(-1) - scene.mean(-1)).max() <= 1

    film = cues.Medium("film.mp4", list(render_film(0, 0)[::6]), (2, 1))
    own, means = cues.contrasts(film.frames), [frame.mean() for frame in film.frames]
    for name, wanted in (("frames alike in contrast", np.full(8, own.mean())), ("contrasts in reverse", own[::-1])):
        frames = cues.CUES["video"][name](film)
        # But for a frame that would be darker than black or lighter than white.
        assert sorted(abs(cues.contrasts(frames) / wanted - 1))[-2] < 0.03
        assert [frame.mean() for frame in frames] == pytest.approx(means, abs=2)

    room = np.asarray(render_room(0, 3).colour)
    hall = cues.Medium("room-0-00003/rgb/0.jpg", [room], (2, 1))
    assert (cues.with_shade(hall, cues.SHADE)[0] == room).all()
    middle = round(import_module("probes").middle_of_nearest(render_room(0, 3).depth))
    lit, dim, even = (
        halves[:, middle - 8 : middle].mean() - halves[:, middle + 1 : middle + 9].mean()
        for shade in (cues.SHADE, cues.SHADE / 2, 0)
        for halves in [cues.with_shade(hall, shade)[0][56:84].astype(float)]
    )
    assert lit > 1.5 * dim > 30
    assert abs(even) < 5


def test_changed_media_lie_where_the_others_lay(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(repository / "benchmarks")
    cues = import_module("cues")
    names = ("films/film-0.mp4/000000.jpg", "films/film-0.mp4/000008.jpg", "scene.png")
    for name in names:
        (tmp_path / "own" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (56, 112), "red").save(tmp_path / "own" / name)
    (tmp_path / "own/films/film-0.mp4/.source.json").write_text("{}")
    asked = ["films/film-0.mp4", "scene.png"]
    cues.write_changed(tmp_path / "own", asked, tmp_path / "changed", (2, 1), cues.without_colour)
    assert sorted(path for path in (tmp_path / "changed").rglob("*.*") if path.is_file()) == [
        tmp_path / "changed" / name for name in names
    ]
    assert np.ptp(np.asarray(Image.open(tmp_path / "changed/scene.png")), axis=-1).max() == 0


def table_under(repository: Path, heading: str) -> list[list[str]]:
    """The cells of the first table under a heading of docs/learning.md, without its first two lines."""
    section = (repository / "docs/learning.md").read_text().partition(f"# {heading}\n")[2]
    lines = takewhile(lambda line: line.startswith("|"), section[section.index("\n|") + 1 :].splitlines())
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines][2:]


LABELS = {
    "as in the quickstart: 16 replies, KL loss 0.1": "2x2, one process",
    "prompts whose replies spread weigh more": "prompts with spread weigh more",
    "entropy bonus of 0.01": "entropy 0.01",
    "reward by `adjacency`": "adjacency",
    "reward by `kendall`": "kendall",
    "2×1 first (`--begin-with 2x1`)": "2x1 first",
    "2×1 first, then 1×2": "2x1, then 1x2 first",
}
"""What docs/learning.md calls changes, where it is not their name."""


def listed(values: Iterable[float]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)


def test_the_documented_figures_of_every_task_are_those_that_were_measured(
    repository: Path, monkeypatch: pytest.MonkeyPatch, measured: list[dict[str, Any]]
) -> None:
    monkeypatch.syspath_prepend(repository / "benchmarks")
    figures = import_module("learning_figures")
    shown = {name.partition(", ")[0]: cells for name, *cells in table_under(repository, "Every task")}
    named = figures.by_label([each for each in measured if each["kind"] == "case"])
    assert list(shown) == list(named)
    for name, results in named.items():
        chance, before, after, sampled, greyed = (
            f"{fmean(each[what] for each in results):.3f}"
            for what in ("chance", "exact_before_sampled", "exact_after", "exact_after_sampled", "exact_greyed")
        )
        bounds = figures.interval([each["exact_after"] for each in results])
        interval, worst = "", ""
        if bounds:
            interval = f"{bounds[0]:.3f} to {min(1, bounds[1]):.3f}"
            worst = f"{min(each['exact_after'] for each in results):.3f}"
        expected = [str(len(results)), chance, before, after, interval, worst, sampled, greyed]
        assert shown[name][:8] == expected, name


def test_the_documented_figures_of_the_controls_are_those_that_were_measured(
    repository: Path, measured: list[dict[str, Any]]
) -> None:
    lines = table_under(repository, "Controls")
    for name, *cells in lines:
        control = name.partition(",")[0]
        of_name = "2x1 tiles" if control.startswith("none") else f"2x1 tiles, {control}"
        results = [each for each in measured if each["name"] == of_name and each["seed"] < 3]
        last = [[fmean(each["steps"][what][-5:]) for each in results] for what in ("exact", "valid_permutation")]
        columns = [*last, [each["exact_after_sampled"] for each in results]]
        assert cells == [listed(column) for column in columns], name
        assert len(results) == 3
    assert len(lines) == 7


def test_the_documented_figures_of_the_other_tasks_controls_are_those_that_were_measured(
    repository: Path, measured: list[dict[str, Any]]
) -> None:
    first = {each["name"]: each for each in measured if each["seed"] == 0}
    cases = [name for name in first if f"{name}, random reward" in first and name != "2x1 tiles"]
    (_, *chances), *lines = table_under(repository, "Of the other tasks")
    assert chances == [f"{first[case]['chance']:.3f}" for case in cases]
    for name, *cells in lines:
        control = "" if name.startswith("none") else f", {name.partition(',')[0]}"
        results = [first[f"{case}{control}"] for case in cases]
        figures = [[fmean(each["steps"]["exact"][-5:]), each["exact_after_sampled"]] for each in results]
        assert cells == [listed(pair) for pair in figures], name
    assert len(lines) == 7


@pytest.mark.parametrize("heading", ["What changes it", "On the stack"])
def test_the_documented_figures_of_changes_are_those_that_were_measured(
    repository: Path, monkeypatch: pytest.MonkeyPatch, measured: list[dict[str, Any]], heading: str
) -> None:
    monkeypatch.syspath_prepend(repository / "benchmarks")
    figures = import_module("learning_figures")
    of_heading = {
        "What changes it": [each for each in measured if each["kind"] == "change"],
        "On the stack": figures.by_case(measured, "variant")["2x2 tiles"],
    }
    named = figures.by_label(of_heading[heading])
    first, *_ = named.values()
    for (told, *cells), (name, results) in zip(table_under(repository, heading), named.items(), strict=True):
        assert LABELS.get(told, told) == name.removeprefix("2x2 tiles, ")
        columns = [[each["curve"][step] for each in results] for step in ("10", "30")]
        columns.append([each["exact_after_sampled"] for each in results])
        beside = [
            "" if results is first else figures.difference(results, first, measure)
            for measure in (figures.on_the_way, figures.in_training)
        ]
        assert cells == [*map(listed, columns), *beside], told


def test_the_documented_figures_of_the_loop_beside_the_stack_are_those_that_were_measured(
    repository: Path, measured: list[dict[str, Any]]
) -> None:
    shown = table_under(repository, "The loop beside the stack")
    for (told, *cells), name in zip(shown, ("2x2 tiles", "2x2, one process"), strict=True):
        results = [each for each in measured if each["name"] == name and each["seed"] < 3]
        steps = [[fmean(each["steps"]["exact"][at : at + 5]) for each in results] for at in (0, 5, 10, 25)]
        tests = [[each["curve"][step] for each in results] for step in ("10", "30")]
        assert cells == [*map(listed, [*steps, *tests])], told
        assert len(results) == 3


def test_the_documented_figures_of_supervised_starts_are_those_that_were_measured(
    repository: Path, measured: list[dict[str, Any]]
) -> None:
    shown = table_under(repository, "Supervised steps, and whether GRPO teaches to see")
    for told, *cells in shown:
        steps = told.partition(",")[0]
        name = "no supervised start" if steps == "0" else f"{steps} steps"
        results = [each for each in measured if each["name"] == name and each["kind"] == "start"]
        seconds = [[each["warm_start_seconds"] / 60 for each in results], [each["minutes"] for each in results]]
        figures = ("named_before_sampled", "named_after_sampled", "exact_before_sampled", "exact_after_sampled")
        assert cells == [
            *(", ".join(f"{value:.1f}" for value in minutes) for minutes in seconds),
            str(results[0]["grpo_steps"]),
            *(listed(each[what] for each in results) for what in figures),
        ], told
        assert len(results) == 3
    assert len(shown) == 5


def test_the_documented_figures_of_probes_are_those_that_were_measured(repository: Path) -> None:
    results = json.loads((repository / "benchmarks/probes.json").read_text())["results"]
    shown = {(run, model): cells for run, model, *cells in table_under(repository, "What carries over")}
    assert shown.keys() == {(each["run"], each["model"]) for each in results}
    for (run, model), cells in shown.items():
        expected = []
        for each in results:
            if (each["run"], each["model"]) == (run, model):
                expected += [f"{each['tower']:.3f} ± {each['tower_sd']:.3f}", f"{each['asked']:.3f}"]
        assert cells == expected


def test_the_documented_figures_of_cues_are_those_that_were_measured(repository: Path) -> None:
    results = json.loads((repository / "benchmarks/cues.json").read_text())["results"]
    shown = {(task, cue): cells for task, cue, *cells in table_under(repository, "What it looks at")}
    assert shown.keys() == {(each["task"], each["cue"]) for each in results}
    for (task, cue), cells in shown.items():
        figures: dict[bool, list[float]] = {False: [], True: []}
        for each in results:
            if (each["task"], each["cue"]) == (task, cue):
                figures[each["run"].startswith("mixture")].append(each["exact"])
        assert cells == [listed(figures[False]), listed(figures[True])], (task, cue)
