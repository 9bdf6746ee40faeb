"""The quickstart's parts, small; test_quickstart.py runs them as one."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from PIL import Image
from rich.progress import Progress
from transformers import AutoModelForImageTextToText, AutoProcessor

from jigsaw.difficulty import Difficulty, read_difficulties
from jigsaw.errors import JigsawError
from jigsaw.prepare.images import ImageOptions
from jigsaw.prepare.pipeline import prepare_rows
from jigsaw.prompts import render
from jigsaw.puzzle import Puzzle
from jigsaw.show.training import heldout_exact, plot_training, read_metrics
from jigsaw.tasks import build_puzzle, plan
from jigsaw.toy import launch
from jigsaw.toy.quickstart import Quickstart, _begin, schedule, warm_start_steps_of
from jigsaw.toy.settings import Settings
from jigsaw.toy.sft_dataset import WarmStartDataset
from jigsaw.toy.solve import greyed, scores_of, solve
from jigsaw.toy.verdict import mean_scores
from jigsaw.toy.warm_start import Example
from jigsaw.verl_plugin.checkpoint import override

pytestmark = pytest.mark.e2e


def _row(number: int, rows: int = 2, columns: int = 1) -> dict[str, Any]:
    return {
        "data_source": "visual_jigsaw_image",
        "prompt": [{"role": "user", "content": render("image", "answer_tag", rows=rows, columns=columns)}],
        "images": [{"path": f"scene-{number:05d}.png", "jigsaw_config": [rows, columns]}],
        "extra_info": {"id": str(number), "answer_format": "answer_tag"},
    }


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
    config = {"train_files": str(data / "train.parquet"), "media_root": str(scenes), "seed": 0, "scenes": True}
    config |= {"train_batch_size": 16, "steps": 2, "round": 0}

    def of_levels(levels: list[list[int]], **others: int) -> WarmStartDataset:
        given = OmegaConf.create({**config, "levels": levels, **others})
        return WarmStartDataset(config["train_files"], model[1].tokenizer, given, model[1])

    return of_levels


@pytest.fixture(scope="module")
def warm_start(warm_start_of: Callable[[list[list[int]]], WarmStartDataset]) -> WarmStartDataset:
    return warm_start_of([])


def test_a_warm_start_shows_each_level(warm_start_of: Callable[[list[list[int]]], WarmStartDataset]) -> None:
    dataset = warm_start_of([[2, 1], [2, 2]])
    shown = Counter(len(dataset.example(index).media) for index in range(1, 32, 2))  # the whole puzzles
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


def test_single_tiles_are_named_after_what_they_show(warm_start: WarmStartDataset) -> None:
    names = {warm_start.example(index).reply for index in range(0, 32, 4)}
    assert names == {"sky", "ground"}


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


SETTINGS = Settings(grid="2x1", begin_with=None, images=None, warm_start_steps=2, seed=0)


def _warm_start(
    out: Path, valid: list[float], monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> tuple[str, list[int]]:
    """A warm start whose rounds end with such shares of valid samples: what it says, and the rounds that were made."""
    run, made = Quickstart(out, settings, steps=1), []

    def a_round(number: int, steps: int, model: Path, target: Path, progress: Progress) -> None:
        assert model == (run.random_model if number == 0 else out / f"model/warm_start_round_{number}")
        made.append(number)
        target.mkdir(parents=True)
        (target / "config.json").write_text(str(number))

    monkeypatch.setattr(run, "_warm_start_round", a_round)
    monkeypatch.setattr(run, "_sampled_valid", lambda folder: valid[int((folder / "config.json").read_text())])
    return run.warm_start(Progress(disable=True)), made


UNTIL_FORMED = replace(SETTINGS, warm_start_steps=None)


def test_the_warm_start_goes_on_until_what_is_sampled_has_the_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, made = _warm_start(tmp_path, [0.4, 0.8, 0.97, 1.0], monkeypatch, UNTIL_FORMED)
    assert (said, made) == ("750 steps, 97% valid", [0, 1, 2])
    assert (tmp_path / "model/warm_start/config.json").read_text() == "2"
    assert _warm_start(tmp_path, [], monkeypatch, UNTIL_FORMED) == ("kept", [])


def test_the_warm_start_ends_after_some_rounds_come_what_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said, made = _warm_start(tmp_path, [0.1, 0.2, 0.2, 0.3], monkeypatch, UNTIL_FORMED)
    assert (said, made) == ("1000 steps, 30% valid", [0, 1, 2, 3])


def test_a_warm_start_of_so_many_steps_has_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _warm_start(tmp_path, [0.4], monkeypatch, SETTINGS) == ("2 steps, 40% valid", [0])


def test_a_round_that_was_finished_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model/warm_start_round_1").mkdir(parents=True)
    (tmp_path / "model/warm_start_round_1/config.json").write_text("0")
    assert _warm_start(tmp_path, [0.4, 0.97], monkeypatch, UNTIL_FORMED) == ("500 steps, 97% valid", [1])


def test_each_round_shows_examples_of_its_own(
    warm_start: WarmStartDataset, warm_start_of: Callable[..., WarmStartDataset]
) -> None:
    def shown(dataset: WarmStartDataset) -> list[Any]:
        return [[tile.tobytes() for tile in dataset.example(index).media] for index in range(32)]

    first, second = shown(warm_start), shown(warm_start_of([], round=1))
    assert sum(one == other for one, other in zip(first, second, strict=True)) < 8


def test_puzzles_of_one_picture_are_known_by_it(tmp_path: Path, scenes: Path) -> None:
    rendered = Quickstart(tmp_path, SETTINGS, steps=1)
    assert rendered.picture_of(plan(_row(3))) == "scene-00003.png"
    pictures = tmp_path / "pictures"
    shutil.copytree(scenes, pictures)
    for number in range(2):
        shutil.copy(scenes / "scene-00000.png", pictures / f"more-{number}.png")
    crops = Quickstart(tmp_path, replace(SETTINGS, images=str(pictures)), steps=1)
    crop = _row(0) | {"images": [{"path": "holiday/beach.jpg/004.jpg", "jigsaw_config": [2, 1]}]}
    assert crops.picture_of(plan(crop)) == "holiday/beach.jpg"


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


@pytest.mark.parametrize("easier", ["2x2", "1x3", "3x1"])
def test_a_grid_to_begin_with_must_be_easier(tmp_path: Path, easier: str) -> None:
    with pytest.raises(JigsawError, match=f"--begin-with {easier}: is no easier grid than --grid 2x2"):
        Quickstart(tmp_path, replace(SETTINGS, grid="2x2", begin_with=easier), steps=1)


def test_a_grid_to_begin_with_becomes_a_schedule(tmp_path: Path) -> None:
    assert schedule(Quickstart(tmp_path, replace(SETTINGS, grid="2x2"), steps=1).levels) == ()
    easy_first = Quickstart(tmp_path, replace(SETTINGS, grid="2x2", begin_with="2x1"), steps=1)
    (given,) = schedule(easy_first.levels)
    assert given.startswith("data.difficulty=")
    assert read_difficulties(OverridesParser.create().parse_override(given).value()) == {
        "image": Difficulty(((2, 1), (2, 2)), 0.8, 5)
    }


def test_the_clock_adds_up_all_starts(tmp_path: Path) -> None:
    launch.write_json(tmp_path / "timing.json", {"seconds": 100.0, "seconds_install": 40.0, "peak_gib": 9.5})
    clock = launch.Clock(tmp_path / "timing.json", seconds_install=2.0)
    clock.watch_memory()
    assert 102.0 <= clock.seconds < 110.0
    assert clock.seconds_install == 42.0
    clock.save()
    again = launch.Clock(tmp_path / "timing.json", seconds_install=0.0)
    assert again.seconds >= 102.0
    assert again.peak_gib >= 9.5


ALLOCATE = "import sys; block = bytearray(int(sys.argv[1]) << 20); block[::4096] = b'x' * len(block[::4096]); input()"


def test_the_clock_counts_the_runs_own_processes(tmp_path: Path) -> None:
    """A stranger's memory is not the run's, whatever the machine has in use."""
    clock, own = launch.Clock(tmp_path / "timing.json", seconds_install=0.0), psutil.Process().memory_full_info().pss
    command = [sys.executable, "-c", ALLOCATE]
    environment = {**os.environ, launch.MARK: str(tmp_path)}
    stranger = subprocess.Popen([*command, "600"], stdin=subprocess.PIPE)
    child = subprocess.Popen([*command, "200"], stdin=subprocess.PIPE, env=environment)
    try:
        for process, size in ((stranger, 600), (child, 200)):
            while psutil.Process(process.pid).memory_info().rss < size << 20:
                time.sleep(0.1)
        clock.watch_memory()
        while clock.peak_gib == 0:
            time.sleep(0.1)
    finally:
        for process in (stranger, child):
            process.kill()
            process.wait()
    assert own / 2**30 + 0.19 < clock.peak_gib < own / 2**30 + 0.5


def _train(tmp_path: Path, code: str, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "stub_trainer.py").write_text("import json, os\n" + code)
    steps: list[int] = []
    launch.train_with_verl(
        [],
        trainer=("stub_trainer",),
        run=tmp_path,
        log=tmp_path / "log",
        metrics=tmp_path / "metrics.jsonl",
        on_step=lambda step, values: steps.append(step),
    )
    return steps


def test_metrics_of_a_start_that_was_cut_off_are_not_this_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 7, "data": {}}\n')
    code = (
        "with open(os.environ['VERL_FILE_LOGGER_PATH'], 'w') as f: print(json.dumps({'step': 1, 'data': {}}), file=f)"
    )
    assert _train(tmp_path, code, monkeypatch) == [1]


def test_errors_of_earlier_starts_are_not_this_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "log").write_text("jigsaw.errors.JigsawError: old\n")
    with pytest.raises(JigsawError, match=r"training stopped: MemoryError: new \(all of it: .*log\)"):
        _train(tmp_path, "raise MemoryError('new')", monkeypatch)


@pytest.mark.parametrize("folder", ["a, b (1)", "données=日本", "it's [here] & #there; ~"])
def test_any_path_survives_the_config_language(folder: str) -> None:
    parsed = OverridesParser.create().parse_override(override("data.media_root", f"/tmp/{folder}/q"))
    assert parsed.value() == f"/tmp/{folder}/q"


def test_a_path_that_the_config_language_would_resolve_is_refused() -> None:
    with pytest.raises(JigsawError, match="give the folder without"):
        override("data.media_root", "/tmp/${HOME}")


@pytest.mark.parametrize(("grid", "steps"), [((2, 1), 250), ((1, 2), 250), ((2, 2), 1000)])
def test_more_tiles_take_a_longer_warm_start(grid: tuple[int, int], steps: int) -> None:
    assert warm_start_steps_of(grid) == steps


def test_a_grid_beyond_the_tiny_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JigsawError, match="room for 9 tiles"):
        Quickstart(tmp_path, replace(SETTINGS, grid="4x3"), steps=1)


def test_too_few_pictures_are_said_at_once(tmp_path: Path, scenes: Path) -> None:
    with pytest.raises(JigsawError, match="holds 48 pictures; the quickstart needs 50"):
        Quickstart(tmp_path, replace(SETTINGS, images=str(scenes)), steps=1)


def test_metrics_of_several_starts_are_one_curve(tmp_path: Path) -> None:
    first, second = tmp_path / "1.jsonl", tmp_path / "2.jsonl"
    first.write_text('{"step": 1, "data": {"a": 1}}\n{"step": 2, "data": {"a": 2}}\n{"step": 3, "da')
    second.write_text('{"step": 2, "data": {"a": 5}}\n{"step": 3, "data": {"a": 6}}\n')
    assert read_metrics([first, second]) == {1: {"a": 1}, 2: {"a": 5}, 3: {"a": 6}}


def test_the_curves_are_drawn(tmp_path: Path) -> None:
    steps = {
        step: {
            "critic/score/mean": 0.1 * step,
            "reward/exact": 0.1 * step,
            "reward/valid_permutation": 1 - 0.1 * step,
            "actor/entropy": 1.0,
            "response_length/mean": 9.0,
            **({"val-core/visual_jigsaw_image/acc/mean@1": 0.1 * step} if step % 2 else {}),
        }
        for step in range(1, 6)
    }
    assert [step for step, values in steps.items() if heldout_exact(values) is not None] == [1, 3, 5]
    plot_training(steps, tmp_path / "training.png", chance=0.5, title="A run")
    with Image.open(tmp_path / "training.png") as picture:
        assert picture.width > 800


def test_a_runs_processes_are_found_and_ended(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"],
        env={**os.environ, "JIGSAW_RUN": str(tmp_path)},
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    while len(launch.processes_of(tmp_path)) < 2:
        assert child.poll() is None
        time.sleep(0.05)
    launch.kill_leftovers(tmp_path)
    assert launch.processes_of(tmp_path) == []
    child.wait(timeout=5)


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ("RuntimeError: x\nray.X(JigsawError): at\njigsaw.errors.JigsawError: a.parquet: no such file\nbye\n",
         "a.parquet: no such file"),
        ("  File 'a.py'\n(pid=3) ValueError: bad value\n\nSet HYDRA_FULL_ERROR=1\n", "ValueError: bad value"),
        ("Cannot find primary config 'nowhere'.\n\n", "Cannot find primary config 'nowhere'."),
        ("", "it printed nothing"),
    ],
)  # fmt: skip
def test_a_logs_last_error_is_found(tmp_path: Path, log: str, expected: str) -> None:
    (tmp_path / "log").write_text(log)
    assert launch.last_error(tmp_path / "log") == expected
