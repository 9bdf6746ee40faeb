"""The pages as a site: ``sphinx-build -W -c docs . build/site``. The README is its first page."""

from typing import Any

project = "Visual Jigsaw"
extensions = ["myst_parser", "sphinxcontrib.mermaid"]
root_doc = "README"
include_patterns = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/*.md", "eval/*.md", "eval/tasks/*/README.md"]
html_theme = "furo"
myst_heading_anchors = 3
myst_fence_as_directive = ["mermaid"]
nitpicky = True

CHAPTERS = {
    "Use": [
        "docs/quickstart",
        "docs/learning",
        "docs/data",
        "docs/training",
        "docs/checkpoints",
        "docs/cluster",
        "docs/reward",
        "docs/tasks",
        "eval/eval",
        "docs/troubleshooting",
    ],
    "Understand": ["docs/design", "docs/paper_and_code", "docs/edge", "docs/benchmarks", "docs/gpu"],
    "Project": ["CONTRIBUTING", "CHANGELOG"],
}


def _add_contents(app: Any, name: str, source: list[str]) -> None:
    if name == root_doc:
        for caption, pages in CHAPTERS.items():
            source[0] += "\n".join(["", "```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```", ""])
    if name.startswith("eval/tasks/"):
        source[0] = f"---\norphan: true\n---\n{source[0]}"  # eval/eval.md leads to them


def setup(app: Any) -> None:
    """Give the README a table of contents that GitHub's readers do not see."""
    app.connect("source-read", _add_contents)
