"""What an error carries, through processes too."""

import pickle
from pathlib import Path

import pytest

from jigsaw.errors import MediaError, OptionError, print_error


@pytest.mark.parametrize("path", [None, "a.jpg", Path("b: c/d.jpg")])
def test_an_error_of_a_file_keeps_its_parts_in_another_process(path: str | Path | None) -> None:
    error = MediaError(path, "is: broken; replace it")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert (again.path, again.why, str(again)) == (path, "is: broken; replace it", str(error))
    assert str(error) == ("is: broken; replace it" if path is None else f"{path}: is: broken; replace it")


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("min_seconds", 0.5, "min_seconds 0.5: make it longer"),
        ("max_side", 12, "max_side 12: make it longer"),
        ("fps", 2.0, "fps 2: make it longer"),
        ("extract_frames", None, "extract_frames: make it longer"),
    ],
)
def test_an_option_has_its_name_in_python_and_on_the_command_line(
    option: str, value: object, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    error = pickle.loads(pickle.dumps(OptionError(option, value, "make it longer")))  # noqa: S301 - our own
    assert str(error) == said
    print_error(error)
    assert capsys.readouterr().err == f"error: --{said.replace('_', '-')}\n"
