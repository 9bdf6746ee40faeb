"""``jigsaw bundle``: puzzles with their media inside, for other tools."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from jigsaw.bundle import write_bundle
from jigsaw.cli.progress import progress_bar
from jigsaw.errors import JigsawError, OptionError


def bundle(
    data: Annotated[Path, typer.Argument(help="Parquet file of rows.", metavar="FILE.parquet")],
    media_root: Annotated[Path, typer.Option(help="Folder that the rows' paths are relative to.", metavar="DIR")],
    out: Annotated[Path, typer.Option(help="Parquet file to write.", metavar="OUT.parquet")],
    seed: Annotated[int, typer.Option(help="Of the orders: data.seed of a training.")] = 0,
    limit: Annotated[int | None, typer.Option(help="The first so many rows.", min=1, show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object instead.")] = False,
) -> None:
    """Write puzzles with all that a model is shown into one file, which the datasets library loads. For small sets.

    Example: [bold]jigsaw bundle data/val.parquet --media-root pictures --out puzzles.parquet[/]
    """
    if out.exists():
        raise OptionError("out", out, "is there already; remove it or choose another")
    try:
        import datasets  # noqa: F401
    except ModuleNotFoundError as error:
        raise JigsawError(f"{error.name} is not installed; pip install datasets") from error
    with progress_bar("rows", stopped="stopped; nothing is written") as (progress, _):
        found = write_bundle(data, media_root, out, seed=seed, limit=limit, on_progress=progress)
    if as_json:
        print(json.dumps({"out": str(out), **asdict(found)}, indent=2, ensure_ascii=False))
        return
    print(f"{out}: {found.rows:,} puzzles, {out.stat().st_size / 2**20:,.1f} MiB")
    for reason in found.left_out.values():
        print(f"left out: {reason}")
