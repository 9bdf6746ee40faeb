"""The curves of a run."""

from pathlib import Path

from PIL import Image

from jigsaw.show.training import heldout_exact, plot_training, read_metrics


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
