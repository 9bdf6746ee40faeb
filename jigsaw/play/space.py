"""The page as a Hugging Face Space: a folder with all that its container takes."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from jigsaw import machine
from jigsaw.errors import JigsawError
from jigsaw.files import atomic_folder
from jigsaw.rows import AnswerFormat
from jigsaw.show.gallery import render

PORT = 7860
"""Where a Space is asked."""
_TO_ASK = ("torch", "torchvision", "transformers", "accelerate", "av")
"""What a model takes besides what the page does."""


def write_space(folder: Path, model: str, *, answer_format: AnswerFormat, max_tokens: int) -> None:
    """Write the Space's files: this package, what it needs in the versions that are installed here, and a container.

    Args:
        folder: made; must not be there.
        model: name on the hub of the model that plays.
        answer_format: in which it is asked.
        max_tokens: longest reply of it.

    Raises:
        JigsawError: if the folder is there, or something that it needs is not installed here.
    """
    if folder.exists():
        raise JigsawError(f"{folder}: is there already; remove it or choose another folder")
    command = ["python", "-m", "jigsaw", "play", f"--model={model}", f"--answer-format={answer_format}"]
    command += [f"--max-tokens={max_tokens}", "--host=0.0.0.0", f"--port={PORT}"]
    with atomic_folder(folder) as draft:
        package = Path(__file__).resolve().parents[1]
        shutil.copytree(package, draft / "jigsaw", ignore=shutil.ignore_patterns("__pycache__"))
        (draft / "requirements.txt").write_text("".join(f"{line}\n" for line in _pinned()), encoding="utf-8")
        for name, values in (("README.md", {"model": model}), ("Dockerfile", {"command": json.dumps(command)})):
            text = render(f"{name}.j2", "jigsaw.play", port=PORT, **values)
            (draft / name).write_text(text + "\n", encoding="utf-8")


def _pinned() -> Sequence[str]:
    needed = [*(pin.package for pin in machine.pins() or () if pin.extra in ("", "play")), *_TO_ASK]
    versions = {package: machine.installed(package) for package in needed}
    if missing := [package for package, version in versions.items() if version is None]:
        raise JigsawError(f"{missing[0]} is not installed, so its version is unknown: {machine.SETUP}")
    return [f"{package}=={version}" for package, version in sorted(versions.items())]
