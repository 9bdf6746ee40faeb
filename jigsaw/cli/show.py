"""``jigsaw show``: a page to look at puzzles."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from jigsaw.errors import JigsawError
from jigsaw.show.gallery import write_gallery


def show(
    data: Annotated[Path, typer.Argument(help="Parquet file of rows.", metavar="FILE.parquet")],
    media_root: Annotated[Path, typer.Option(help="Folder that the rows' paths are relative to.", metavar="DIR")],
    out: Annotated[Path, typer.Option(help="The page to write.", metavar="PAGE.html")],
    limit: Annotated[int, typer.Option(min=1, help="Show so many rows at most, from the first on.")] = 20,
    seed: Annotated[int, typer.Option(help="Seed of the run whose orders are shown.")] = 0,
    epoch: Annotated[int, typer.Option(min=0, help="Pass over the data whose orders are shown, from 0.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object instead of a line.")] = False,
) -> None:
    """Write a self-contained HTML page of puzzles: pieces as the model sees them, prompt, answer, source.

    Example: [bold]jigsaw show data/val.parquet --media-root pictures --out puzzles.html[/]
    """
    rows, cards = write_gallery(data, media_root, out, limit=limit, seed=seed, epoch=epoch)
    failed = [{"index": card.index, "id": card.id, "error": card.error} for card in cards if card.error is not None]
    if as_json:
        headlines = sorted({card.headline for card in cards if card.headline})
        print(json.dumps({"out": str(out), "rows": rows, "shown": len(cards), "kinds": headlines, "failed": failed}))
    else:
        Console().print(f"{out}: {len(cards):,} of {rows:,} rows", markup=False, highlight=False, soft_wrap=True)
    if failed:
        raise JigsawError(f"{len(failed)} of {len(cards)} rows could not be built; {out} shows why")
