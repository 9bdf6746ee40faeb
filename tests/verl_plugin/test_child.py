"""A trainer as a child: its steps, its error."""

from pathlib import Path

import pytest

from jigsaw.errors import JigsawError
from jigsaw.verl_plugin.child import last_error, train_with_verl


def _train(tmp_path: Path, code: str, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "stub_trainer.py").write_text("import json, os\n" + code)
    steps: list[int] = []
    train_with_verl(
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


def test_a_trainer_has_the_plug_in_where_no_shell_set_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VERL_USE_EXTERNAL_MODULES", raising=False)
    _train(tmp_path, "assert os.environ['VERL_USE_EXTERNAL_MODULES'] == 'jigsaw.verl_plugin.install'", monkeypatch)


def test_errors_of_earlier_starts_are_not_this_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "log").write_text("jigsaw.errors.JigsawError: old\n")
    with pytest.raises(JigsawError, match=r"training stopped: MemoryError: new \(all of it: .*log\)"):
        _train(tmp_path, "raise MemoryError('new')", monkeypatch)


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ("RuntimeError: x\nray.X(JigsawError): at\njigsaw.errors.JigsawError: a.parquet: no such file\nbye\n",
         "a.parquet: no such file"),
        ("ValueError: x\nerror: a.parquet: no such file\n", "a.parquet: no such file"),
        ("  File 'a.py'\n(pid=3) ValueError: bad value\n\nSet HYDRA_FULL_ERROR=1\n", "ValueError: bad value"),
        ("Cannot find primary config 'nowhere'.\n\n", "Cannot find primary config 'nowhere'."),
        ("", "it printed nothing"),
    ],
)  # fmt: skip
def test_a_logs_last_error_is_found(tmp_path: Path, log: str, expected: str) -> None:
    (tmp_path / "log").write_text(log)
    assert last_error(tmp_path / "log") == expected
