"""The ``jigsaw`` command: thin, one function a command."""

import sys

import typer
from rich.console import Console
from rich.markup import escape

from jigsaw.cli.doctor import doctor
from jigsaw.cli.prepare import prepare
from jigsaw.cli.score import score
from jigsaw.cli.show import show
from jigsaw.errors import JigsawError

app = typer.Typer(
    help="Visual Jigsaw: make puzzles from pictures, look at them, score answers.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
app.add_typer(prepare, name="prepare")
app.command()(show)
app.command()(score)
app.command()(doctor)


def main() -> None:
    """Run the command line; an error that the user can mend is one line on stderr and exit code 1."""
    try:
        app()
    except JigsawError as error:
        message = str(error)
    except OSError as error:  # a full disk, a folder without permission: the system's own words, without a trace
        message = f"{error.filename or 'input/output'}: {error.strerror or error}"
    else:
        return
    Console(stderr=True, soft_wrap=True, highlight=False).print(f"[bold red]error:[/] {escape(message)}")
    sys.exit(1)
