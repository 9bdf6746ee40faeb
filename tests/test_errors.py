"""What an error carries, through processes too."""

import pickle
from pathlib import Path

import pytest

from jigsaw.errors import MediaError


@pytest.mark.parametrize("path", [None, "a.jpg", Path("b: c/d.jpg")])
def test_an_error_of_a_file_keeps_its_parts_in_another_process(path: str | Path | None) -> None:
    error = MediaError(path, "is: broken; replace it")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert (again.path, again.why, str(again)) == (path, "is: broken; replace it", str(error))
    assert str(error) == ("is: broken; replace it" if path is None else f"{path}: is: broken; replace it")
