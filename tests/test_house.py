"""What may know what (pyproject.toml, ``[tool.importlinter]``)."""

import subprocess
import sys
from pathlib import Path


def test_no_module_knows_more_than_it_may(repository: Path) -> None:
    lint = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    ended = subprocess.run([sys.executable, "-c", lint], cwd=repository, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout
    assert "0 broken" in ended.stdout
