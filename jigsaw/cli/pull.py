"""``jigsaw pull-data``: released rows from the hub."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jigsaw.errors import JigsawError
from jigsaw.hub import Contents, Folder, contents, pull

_FOLDERS = 20  # that are written out


def pull_data(
    name: Annotated[str, typer.Argument(help="Name of the data set on the Hugging Face hub.", metavar="OWNER/NAME")],
    out: Annotated[
        Path | None, typer.Option(help="Folder to write; data/NAME if not given.", metavar="DIR", show_default=False)
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit; the main branch if not given.", show_default=False)
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(help="Address of the hub; also by HF_ENDPOINT.", metavar="URL", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object instead of a table.")] = False,
) -> None:
    """Fetch the parquet files of a released data set, say what they hold and which media to put where.

    Example: [bold]jigsaw pull-data craigwu/visual_jigsaw_training_data --out data/released[/]
    """
    out = out or Path("data") / name.rpartition("/")[2]
    found = {path: contents(path) for path in pull(name, out, revision=revision, endpoint=endpoint)}
    if as_json:
        files = [{"file": str(path), **asdict(held)} for path, held in found.items()]
        print(json.dumps({"out": str(out), "files": files}, indent=2))
    else:
        _print(out, found)
    errors = [held.error for held in found.values() if held.error is not None]
    if errors:
        raise JigsawError(f"{len(errors)} of {len(found)} files hold what is not understood; the first: {errors[0]}")


def _print(out: Path, found: dict[Path, Contents]) -> None:
    table = Table(title=Text(str(out)))
    table.add_column("file", overflow="fold")
    table.add_column("rows", justify="right")
    table.add_column("tasks")
    table.add_column("not understood")
    folders: dict[str, Folder] = {}
    for path, held in found.items():
        tasks = ", ".join(f"{task} {count:,}" for task, count in held.tasks.items())
        faults = [f"rows: {held.failed:,}"] if held.failed else ["the file"] if held.error else []
        name = Text(str(path.relative_to(out)))
        table.add_row(name, f"{held.rows:,}", tasks, Text(", ".join(faults + held.unread), style="bold red"))
        for folder, needed in held.folders.items():
            folders.setdefault(folder, Folder(needed.source, needed.example)).rows += needed.rows
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    if folders:
        console.print("Media, below a folder DIR of your choice:")
    for folder, needed in sorted(folders.items(), key=lambda item: (-item[1].rows, item[0]))[:_FOLDERS]:
        line = f"  DIR/{folder}: {needed.source} (rows: {needed.rows:,}, for example {needed.example})"
        console.print(line, markup=False)
    if len(folders) > _FOLDERS:
        console.print(f"  and {len(folders) - _FOLDERS:,} more; --json names them all")
    checks = [f"  jigsaw verify {path} --media-root DIR" for path, held in found.items() if held.tasks]
    if checks:
        console.print("Then check that everything is there:")
        console.print("\n".join(checks), markup=False)
