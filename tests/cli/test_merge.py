"""What ``jigsaw merge`` refuses; what it makes is tested on a real run (e2e/test_training.py)."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from jigsaw.cli import app
from jigsaw.errors import JigsawError


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ([], "is no checkpoint; name a folder global_step_N"),
        (["global_step_3/actor/"], "is not complete, its save was cut off"),
        (["global_step_3/actor/", "global_step_3/WHOLE", "merged/"], "merged: is there already"),
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
            Path(name).touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(JigsawError, match=said):
        CliRunner().invoke(app, ["merge", "global_step_3", "merged"], catch_exceptions=False)
    assert sorted(tmp_path.rglob("*")) == before
