"""The curves of a run."""

from pathlib import Path

from PIL import Image

from jigsaw.show.training import first_trained, heldout_exact, joined, plot_training, read_metrics, read_start


def test_metrics_of_several_starts_are_one_curve(tmp_path: Path) -> None:
    first, second = tmp_path / "1.jsonl", tmp_path / "2.jsonl"
    first.write_text('{"step": 1, "data": {"a": 1}}\n{"step": 2, "data": {"a": 2}}\n{"step": 3, "da')
    second.write_text('{"step": 2, "data": {"a": 5}}\n{"step": 3, "data": {"a": 6}}\n')
    assert read_metrics([first, second]) == {1: {"a": 1}, 2: {"a": 5}, 3: {"a": 6}}


def test_what_a_start_did_after_the_next_one_went_on_is_left_out() -> None:
    tested = {"val-core/a/acc/mean@1": 0.5}
    first = {step: {"a": 1.0} for step in (1, 2, 3, 4)}
    second = {2: tested, 3: {"a": 2.0}}
    assert (first_trained(second), first_trained({2: tested})) == (3, None)
    assert joined([first, second]) == {1: {"a": 1.0}, 2: {"a": 1.0, **tested}, 3: {"a": 2.0}}
    assert joined([first, {2: tested}])[4] == {"a": 1.0}


def test_of_what_a_start_logged_whole_lines_and_numbers_are_read(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(
        b'{"step": 1, "data": {"a": 1, "b": null, "c": NaN, "d": "x", "e": [1]}}\n'
        b'{"step": 2, "da\n[1]\n{"step": "3", "data": {}}\n\xff\n'
        b'{"step": 4, "data": {"a": 4}}\n{"step": 5, "data": {"a": 5}}'
    )
    assert read_start(file) == {1: {"a": 1}, 4: {"a": 4}}


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
