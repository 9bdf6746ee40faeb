"""What the commands that train are given most often."""

from typing import Annotated

import typer

Model = Annotated[str | None, typer.Option(help="Folder or hub name of the weights.", metavar="MODEL")]
Data = Annotated[
    str | None, typer.Option(help="Folder with train.parquet and val.parquet, of jigsaw prepare.", metavar="DIR")
]
MediaRoot = Annotated[str | None, typer.Option(help="The folder that the rows' paths are relative to.", metavar="DIR")]
