"""Who is asked: the options of the commands that ask a model, and what they make."""

import os
from typing import Annotated

import typer

from jigsaw.errors import JigsawError
from jigsaw.rows import AnswerFormat
from jigsaw.solve import Endpoint, LocalModel, Model

ModelName = Annotated[
    str | None, typer.Option("--model", help="Folder or hub name of the model.", metavar="MODEL", show_default=False)
]
Address = Annotated[
    str | None,
    typer.Option(
        "--endpoint",
        help="In place of it: a server that speaks OpenAI's protocol, as vllm serve does.",
        metavar="URL",
        show_default=False,
    ),
]
Format = Annotated[
    AnswerFormat,
    typer.Option("--answer-format", help="How the prompt asks for the answer; the released models know boxed."),
]
MaxTokens = Annotated[int, typer.Option("--max-tokens", help="Longest reply.", min=1)]
Timeout = Annotated[float, typer.Option("--timeout", help="Seconds that an endpoint may take for a reply.", min=0.1)]
MAX_TOKENS, TIMEOUT = 2048, 300.0


def model_of(model: str | None, endpoint: str | None, timeout: float) -> Model:
    """Who is asked.

    Raises:
        JigsawError: unless one of both is given, or the endpoint is no address.
    """
    if model is not None and endpoint is None:
        return LocalModel(model)
    if endpoint is not None and model is None:
        return Endpoint(endpoint, seconds=timeout, key=os.environ.get("OPENAI_API_KEY"))
    raise JigsawError("give --model, a folder or hub name, or --endpoint, a server's address; one of them")
