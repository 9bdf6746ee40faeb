"""``jigsaw checkpoint export`` and ``jigsaw merge``: which checkpoint is meant, and what its card says."""

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from typer.testing import CliRunner

from jigsaw.cli import app
from jigsaw.errors import JigsawError
from jigsaw.show.training import record_of

HELD_OUT = "val-core/visual_jigsaw_image/acc/mean@1"


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, Path]]:
    """What would be exported, and where to: the weights' own tests are tests/verl_plugin/test_export.py."""
    from jigsaw.verl_plugin import export

    asked: list[tuple[Path, Path]] = []

    def make(checkpoint: Path, out: Path, *, describe: Any, on_progress: Any) -> export.Exported:
        asked.append((checkpoint, out))
        out.mkdir()
        describe(out, 0)
        return export.Exported(weights=1000, difference=0.0, adapter=0)

    monkeypatch.setattr(export, "export_checkpoint", make)
    return asked


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A run with whole checkpoints of steps 2, 4 and 6, whose fourth was the best on the held-out rows."""
    folder = tmp_path / "outputs/image_jigsaw"
    checkpoints = folder / "checkpoints"
    for step in (2, 4, 6, 8):
        (checkpoints / f"global_step_{step}/actor/huggingface").mkdir(parents=True)
        (checkpoints / f"global_step_{step}/actor/huggingface/config.json").write_text('{"model_type": "qwen2_5_vl"}')
        if step < 8:
            (checkpoints / f"global_step_{step}/WHOLE").touch()
    tested = {0: 0.1, 4: 0.75, 6: 0.5}
    rows = tmp_path / "rows"
    rows.mkdir()
    manifest = {"command": "prepare image", "arguments": {"grid": "2x2", "limit": None}, "files": {}}
    manifest["files"] = {"train.parquet": {"sha256": "abc"}}
    (rows / "manifest.json").write_text(json.dumps(manifest))
    (checkpoints / "rows.json").write_text(json.dumps([{"file": str(rows / "train.parquet"), "sha256": "abc"}]))
    metrics = checkpoints / "metrics/20260102T030405.jsonl"
    metrics.parent.mkdir()
    lines = []
    for step in range(8):
        data = {HELD_OUT: tested[step]} if step in tested else {}
        if step:
            data |= {
                "critic/score/mean": step / 10,
                "reward/exact": step / 10,
                "training/prompts/image": 8,
                "reward/image/position_accuracy": 0.5,
                "reward/image/chance_corrected": 1 / 3,
            }
        lines.append(json.dumps({"step": step, "data": data}) + "\n")
    metrics.write_text("".join(lines))
    config = {
        "actor_rollout_ref": {
            "model": {"path": "Qwen/Qwen2.5-VL-7B-Instruct", "lora_rank": 0},
            "actor": {"use_kl_loss": False, "kl_loss_coef": 0.001, "optim": {"lr": 1e-6}},
            "rollout": {"n": 16},
        },
        "data": {"train_batch_size": 256, "seed": 7},
        "trainer": {"total_training_steps": 8},
    }
    record = {"folder": str(tmp_path), "recipe": "image", "started": "2026-01-02T03:04:06+00:00", "config": config}
    record |= {
        "versions": {"verl": "0.9.1"},
        "changed": {"data.seed": [7, 0], "data.media_root": ["/home/me/coco", None]},
    }
    record_of(metrics).write_text(json.dumps(record))
    return folder


@pytest.mark.parametrize(
    ("options", "step"), [([], 6), (["--step", "2"], 2), (["--best"], 4)], ids=["the last", "a step", "the best"]
)
def test_the_checkpoint_that_is_meant(
    trained: Path, tmp_path: Path, exported: list[tuple[Path, Path]], options: list[str], step: int
) -> None:
    out = tmp_path / "model"
    told = json.loads(run("checkpoint", "export", trained, "--out", out, *options, "--json").stdout)
    checkpoint = trained / f"checkpoints/global_step_{step}"
    assert exported == [(checkpoint, out)]
    assert told == {
        "checkpoint": str(checkpoint), "out": str(out), "weights": 1000, "difference": 0.0, "adapter": 0
    }  # fmt: skip


def test_a_checkpoint_by_itself_is_of_the_run_that_it_lies_in(
    trained: Path, tmp_path: Path, exported: list[tuple[Path, Path]]
) -> None:
    checkpoint = trained / "checkpoints/global_step_4"
    assert run("checkpoint", "export", checkpoint, "--out", tmp_path / "one").exit_code == 0
    assert run("merge", checkpoint, tmp_path / "two").stdout == f"{tmp_path / 'two'}: made of {checkpoint}\n"
    assert [asked for asked, _ in exported] == [checkpoint, checkpoint]
    cards = [(tmp_path / name / "README.md").read_text().replace(f"# {name}", "#") for name in ("one", "two")]
    assert cards[0] == cards[1]
    assert "| 4 | 0.750 |" in cards[0]


@pytest.mark.usefixtures("exported")
def test_the_card_says_what_was_trained_on_what_and_what_it_came_to(trained: Path, tmp_path: Path) -> None:
    run("checkpoint", "export", trained, "--out", tmp_path / "mine", "--step", "4")
    card = ModelCard.load(tmp_path / "mine/README.md")
    assert card.data.base_model == "Qwen/Qwen2.5-VL-7B-Instruct"
    assert card.data.license == "apache-2.0"
    for said in (
        "# mine\n",
        "after 4 steps",
        "| 0 | 0.100 |\n| 4 | 0.750 |\n",
        "A blind guess is right on 0.0417.",
        "![Curves of the training](training.png)",
        "| recipe | image |",
        "| puzzles | image |",
        "| prompts a step | 256 |",
        "| seed | 7 |",
        "| versions | verl 0.9.1 |",
        "| `train.parquet`: jigsaw prepare image, grid=2x2 | `abc` |",
        "That of [Qwen/Qwen2.5-VL-7B-Instruct](https://huggingface.co/Qwen/Qwen2.5-VL-7B-Instruct): apache-2.0.",
        "@article{wu2025visualjigsaw,",
    ):
        assert said in card.text, said
    assert "| 6 |" not in card.text
    assert "KL loss" not in card.text
    assert (tmp_path / "mine/training.png").stat().st_size > 10_000
    record = json.loads((tmp_path / "mine/training.json").read_text())
    changed = {"data.seed": [7, 0], "data.media_root": ["coco", None]}
    assert (record["step"], record["changed"], record["metrics"][HELD_OUT]) == (4, changed, 0.75)


@pytest.mark.usefixtures("exported")
def test_of_a_checkpoint_without_its_run_the_card_says_what_is_known(trained: Path, tmp_path: Path) -> None:
    (trained / "checkpoints/global_step_4").rename(tmp_path / "global_step_4")
    run("merge", tmp_path / "global_step_4", tmp_path / "mine")
    text = (tmp_path / "mine/README.md").read_text()
    assert "A model of the kind `qwen2_5_vl` after 4 steps" in text
    assert "Not known: the model that was begun with was not recorded." in text
    assert "## Training" not in text
    assert not (tmp_path / "mine/training.json").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--step", "8"], "holds no complete checkpoint of step 8; there are 2, 4, 6"),
        (["--step", "4", "--best"], "--best and --step are given; one of them chooses the checkpoint"),
    ],
)
def test_a_choice_that_cannot_be_made_is_one_line(trained: Path, tmp_path: Path, options: list[str], said: str) -> None:
    with pytest.raises(JigsawError, match=said):
        run("checkpoint", "export", trained, "--out", tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


def test_what_a_run_lacks_is_one_line(trained: Path, tmp_path: Path) -> None:
    metrics = trained / "checkpoints/metrics/20260102T030405.jsonl"
    metrics.write_text(metrics.read_text().replace("val-core", "other"))
    for folder, options, said in (
        (trained, ["--best"], "none of the checkpoints of steps 2, 4, 6 was tested; choose one with --step"),
        (tmp_path, [], "is no folder of a run; there is neither"),
        (tmp_path / "nowhere", [], "is no checkpoint; name a folder global_step_N"),
        (trained / "checkpoints/global_step_4", ["--best"], "is no folder of a run, whose checkpoints"),
    ):
        with pytest.raises(JigsawError, match=said):
            run("checkpoint", "export", folder, "--out", tmp_path / "out", *options)
    for step in (2, 4, 6):
        (trained / f"checkpoints/global_step_{step}/WHOLE").unlink()
    with pytest.raises(JigsawError, match="holds no complete checkpoint yet"):
        run("checkpoint", "export", trained, "--out", tmp_path / "out")


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ([], "is no checkpoint; name a folder global_step_N"),
        (["global_step_3/actor/"], "is not complete, its save was cut off"),
        (["global_step_3/actor/huggingface/config.json", "global_step_3/WHOLE", "merged/"], "merged: is there already"),
    ],
)
def test_what_cannot_be_merged_is_said_and_nothing_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in made:
        if name.endswith("/"):
            Path(name).mkdir(parents=True)
        else:
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(JigsawError, match=said):
        run("merge", "global_step_3", "merged")
    assert sorted(tmp_path.rglob("*")) == before
