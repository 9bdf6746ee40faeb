"""What may know what (pyproject.toml, ``[tool.importlinter]``), what one place decides, how long a function may be."""

import ast
import re
import subprocess
import sys
from pathlib import Path


def test_no_module_knows_more_than_it_may(repository: Path) -> None:
    lint = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    ended = subprocess.run([sys.executable, "-c", lint], cwd=repository, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout
    assert "0 broken" in ended.stdout


def test_one_place_names_the_scripts_that_a_wheel_does_not_bring(repository: Path) -> None:
    naming = re.compile(r"(?:bash|source) train_scripts/")
    found = [path.name for path in (repository / "jigsaw").rglob("*.py") if naming.search(path.read_text("utf-8"))]
    assert found == ["machine.py"]


def test_no_function_is_longer_than_a_screen(repository: Path) -> None:
    """60 lines at most, what its docstring takes not counted."""
    longer = []
    for path in (repository / "jigsaw").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
                if node.end_lineno - first.lineno > 60:
                    longer.append(f"{path.name}: {node.name}")
    assert not longer
