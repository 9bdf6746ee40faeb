"""A resumed run is given the rows that it began with, or says that it is not."""

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from jigsaw.errors import JigsawError
from jigsaw.verl_plugin.same_rows import ROWS, check_same_rows, remember_rows


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., DictConfig]:
    """A run's config that goes on from a step, with files of rows, which hold their names."""

    def make(*names: str, step: int = 2, accept: bool = False) -> DictConfig:
        for name in names:
            (tmp_path / name).write_text(name)
        data = {"train_files": [str(tmp_path / name) for name in names], "mixture": None, "epochs": 1}
        trainer = {"default_local_dir": str(tmp_path / "run"), "resume_mode": "disable"}
        if step:
            trainer |= {"resume_mode": "resume_path", "resume_from_path": f"global_step_{step}"}
        return OmegaConf.create({"data": {**data, "media_root": "m", "accept_other_rows": accept}, "trainer": trainer})

    return make


def test_the_same_rows_go_on_wherever_they_lie(tmp_path: Path, config: Callable[..., DictConfig]) -> None:
    check_same_rows(config("a", "b"))  # a run of before
    remember_rows(config("a", "b"))
    check_same_rows(config("a", "b"))
    moved = config("moved", "b")
    (tmp_path / "moved").write_text("a")
    check_same_rows(moved)


def test_other_rows_are_refused_by_name(tmp_path: Path, config: Callable[..., DictConfig]) -> None:
    remember_rows(config("a", "b"))
    changed = config("a", "b")
    (tmp_path / "b").write_text("other")
    with pytest.raises(JigsawError) as refused:
        check_same_rows(changed)
    assert str(refused.value) == (
        f"{tmp_path}/b: not the rows that this run was trained on so far ({tmp_path}/a, {tmp_path}/b, as "
        f"{tmp_path}/run/{ROWS} says); give those, choose another trainer.default_local_dir, or go on with these: "
        "data.accept_other_rows=true"
    )
    for others in (("b", "a"), ("a",), ("a", "b", "c")):
        with pytest.raises(JigsawError, match="not the rows"):
            check_same_rows(config(*others))


def test_other_rows_are_no_matter_where_they_are_accepted_or_the_run_begins(
    config: Callable[..., DictConfig],
) -> None:
    remember_rows(config("a"))
    check_same_rows(config("b", step=0))
    check_same_rows(config("b", accept=True))
    remember_rows(config("b"))
    check_same_rows(config("b"))


def test_a_note_that_is_broken_is_one_line(tmp_path: Path, config: Callable[..., DictConfig]) -> None:
    remember_rows(config("a"))
    for broken in ("", "[1]", '[{"file": "a"}]'):
        (tmp_path / "run" / ROWS).write_text(broken)
        with pytest.raises(JigsawError, match=r"rows\.json: is broken; remove it"):
            check_same_rows(config("a"))


def test_a_file_that_is_gone_is_left_to_the_check_of_the_data(
    tmp_path: Path, config: Callable[..., DictConfig]
) -> None:
    given = config("a")
    remember_rows(given)
    (tmp_path / "a").unlink()
    check_same_rows(given)
