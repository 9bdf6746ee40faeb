"""``jigsaw smoke``: the first thing to run on a new GPU machine."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jigsaw import machine
from jigsaw.cli.inputs import Model
from jigsaw.errors import JigsawError


def smoke(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Hydra overrides of configs/smoke.yaml.", metavar="NAME=VALUE")
    ] = None,
    model: Model = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder to make anew.", show_default="outputs/smoke", metavar="DIR")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead of a table.")] = False,
) -> None:
    """Train two steps on rendered scenes, on all GPUs of this machine, and say what they took.

    A rollout, an update, the weights' way to vLLM, a test and a checkpoint; minutes, most of them to load the model.
    Exit code 1 if something is wrong.

    Example: [bold]jigsaw smoke --model Qwen/Qwen2.5-VL-7B-Instruct[/]
    """
    try:
        from jigsaw.toy import smoke as toy
        from jigsaw.verl_plugin.launch import OUTPUTS, Inputs
    except ModuleNotFoundError as error:
        raise JigsawError(f"{error.name} is not installed; to train: {machine.SETUP_GPU}") from error

    console = Console(highlight=False, stderr=as_json)
    out = (output or OUTPUTS / "smoke").resolve()
    with console.status(f"two steps; {out / 'verl.log'} says how far they are"):
        found = toy.smoke(out, Inputs(model), overrides or [])
    wrong = [finding for finding in found if finding.wrong]
    if as_json:
        print(json.dumps([asdict(finding) for finding in found], indent=2))
    else:
        table = Table(show_header=False)
        for finding in found:
            mark = Text("✗", style="bold red") if finding.wrong else Text("✓", style="green")
            table.add_row(mark, finding.what, Text(finding.found + (f": {finding.wrong}" if finding.wrong else "")))
        console.print(table)
        console.print("this machine trains" if not wrong else f"{len(wrong)} of {len(found)} are wrong")
    if wrong:
        raise typer.Exit(1)
