"""docs/edge.md lists every internal of verl, vLLM, Ray and torch that the plug-in replaces or subclasses."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

OTHERS = ("verl", "vllm", "torch", "importlib", "ray", "transfer_queue")
ROOT = Path(__file__).parents[2]
PLUGIN = ROOT / "jigsaw/verl_plugin"
EDGE = (ROOT / "docs/edge.md").read_text()


def _foreign(tree: ast.Module) -> set[str]:
    """The names that a module gives to what is not ours."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                module = (node.module if isinstance(node, ast.ImportFrom) else alias.name) or ""
                if module.split(".")[0] in OTHERS:
                    names.add((alias.asname or alias.name).split(".")[0])
    return names


def _replaced(tree: ast.Module) -> Iterator[str]:
    foreign = _foreign(tree)
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign) else []
        for target in (named.value if isinstance(named, ast.Subscript) else named for named in targets):
            parts = ast.unparse(target).split(".")
            if isinstance(target, ast.Attribute) and parts[0] in foreign | {"processor", "model"}:
                yield ".".join(parts[-2:] if parts[0] in ("torch", "importlib") else parts)


def _subclassed(tree: ast.Module) -> Iterator[tuple[str, str]]:
    foreign = _foreign(tree) - {"Dataset"}  # torch's, made to be subclassed
    aliases = {
        node.targets[0].id: ast.unparse(node.value).split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for base in map(ast.unparse, node.bases):
                base = aliases.get(base, base)
                if base.split(".")[0] in foreign:
                    yield base.split(".")[-1], node.name


def _modules() -> dict[str, ast.Module]:
    paths = [path for path in PLUGIN.rglob("*.py") if path.name != "testing.py"]  # tests and benchmarks alone use it
    outside = ROOT / "jigsaw/prompt_tokens.py"
    named = {outside.name: outside, **{str(path.relative_to(PLUGIN)): path for path in paths}}
    return {name: ast.parse(path.read_text()) for name, path in named.items()}


def _rows(heading: str) -> list[list[str]]:
    table = EDGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|"]
    return rows[2:]


def test_what_is_replaced_is_listed_and_nothing_else() -> None:
    listed = {
        (name, where.strip("`")) for what, where, *_ in _rows("Replaced") for name in re.findall("`([^`]+)`", what)
    }
    assert {(name, file) for file, tree in _modules().items() for name in _replaced(tree)} == listed


def test_what_is_subclassed_is_listed_and_nothing_else() -> None:
    listed = {(base.strip("`"), name) for base, ours, _ in _rows("Subclassed") for name in re.findall("`(\\w+)`", ours)}
    assert {pair for tree in _modules().values() for pair in _subclassed(tree)} == listed


@pytest.mark.parametrize("row", _rows("Replaced"), ids=lambda row: row[0])
def test_each_has_a_test_that_says_when_it_can_go(row: list[str]) -> None:
    (name,) = re.findall(r"`(test_\w+)`", row[4])
    assert any(f"def {name}(" in path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
