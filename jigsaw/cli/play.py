"""``jigsaw play``: a page to play on, and the files that put it up as a Space."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from jigsaw import machine
from jigsaw.cli.asked import MAX_TOKENS, TIMEOUT, Address, Format, MaxTokens, ModelName, Timeout, model_of
from jigsaw.errors import JigsawError, OptionError
from jigsaw.hub import NAME

_LOOPBACK = "127.0.0.1"


def play(
    model: ModelName = None,
    endpoint: Address = None,
    answer_format: Format = "answer_tag",
    max_tokens: MaxTokens = MAX_TOKENS,
    timeout: Timeout = TIMEOUT,
    max_upload: Annotated[int, typer.Option(help="MiB of the files of a puzzle, at most.", min=1)] = 200,
    port: Annotated[int, typer.Option(help="Where the page is; 0 for any that is free.", min=0, max=65535)] = 7860,
    host: Annotated[
        str, typer.Option(help="Address to be asked at; 0.0.0.0 for all who can reach this machine.")
    ] = _LOOPBACK,
    seed: Annotated[
        int | None,
        typer.Option(help="Of orders and drawings; each visit's own if not given.", show_default=False),
    ] = None,
    space: Annotated[
        Path | None,
        typer.Option(
            help="Write the files of a Hugging Face Space with this page into a new folder, and end.",
            metavar="DIR",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Open a page on this machine where one puts pictures, films and rooms together, and a model the same ones.

    What is uploaded is deleted once it is cut. An endpoint's key is OPENAI_API_KEY, where it asks for one.

    Example: [bold]jigsaw play --model visual_jigsaw_image_7B[/]
    """
    if space is not None:
        from jigsaw.play.space import write_space

        if model is None or endpoint is not None or not NAME.fullmatch(model):
            raise OptionError("space", space, "needs --model, the name on the hub of the model that plays, OWNER/NAME")
        write_space(space, model, answer_format=answer_format, max_tokens=max_tokens)
        print(f"{space}: written; put it up with: hf upload --repo-type space OWNER/NAME {space}")
        return
    asked = None if model is None and endpoint is None else model_of(model, endpoint, timeout)
    try:
        from jigsaw.play.app import application
        from jigsaw.play.server import opened, serve, uploads, where
        from jigsaw.play.table import Table
    except ModuleNotFoundError as error:
        raise JigsawError(f"{error.name} is not installed; to play: {machine.SETUP}") from error
    with opened(host, port) as place, uploads() as folder:
        name = None
        if asked is not None:
            asked.get_ready()  # one that cannot be asked is told now
            name = Path(model).resolve().name if model else "the model"
        table = Table(asked, seed=seed, answer_format=answer_format, max_tokens=max_tokens, folder=folder)
        address, hosts = where(place)
        app = application(table, model=name, most_bytes=max_upload << 20, hosts=hosts)
        Console(highlight=False, soft_wrap=True).print(f"play at {address} · Ctrl-C ends it", style="bold")
        serve(app, place)
