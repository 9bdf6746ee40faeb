"""The ``jigsaw`` command: thin, one function a command."""

import sys
from typing import Annotated

import typer

from jigsaw import __version__
from jigsaw.cli.bundle import bundle
from jigsaw.cli.checkpoint import checkpoint, merge
from jigsaw.cli.doctor import doctor
from jigsaw.cli.evaluate import evaluate
from jigsaw.cli.plan import plan
from jigsaw.cli.play import play
from jigsaw.cli.prepare import prepare
from jigsaw.cli.pull import pull_data
from jigsaw.cli.quickstart import quickstart
from jigsaw.cli.report import report
from jigsaw.cli.results import results
from jigsaw.cli.score import score
from jigsaw.cli.sft import sft
from jigsaw.cli.show import show
from jigsaw.cli.smoke import smoke
from jigsaw.cli.solve import solve
from jigsaw.cli.train import train
from jigsaw.cli.verify import verify
from jigsaw.errors import JigsawError, print_error

app = typer.Typer(
    help="Visual Jigsaw: make puzzles from pictures, look at them, train on them, score answers.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
app.command()(quickstart)
app.add_typer(prepare, name="prepare")
app.command("pull-data")(pull_data)
app.command()(verify)
app.command()(show)
app.command()(score)
app.command()(bundle)
app.command()(plan)
app.command()(smoke)
app.command()(train)
app.command()(sft)
app.command()(report)
app.add_typer(checkpoint, name="checkpoint")
app.command()(merge)
app.command()(solve)
app.command()(play)
app.command("eval")(evaluate)
app.command()(results)
app.command()(doctor)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"jigsaw {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; an error that the user can mend is one line on stderr and exit code 1."""
    try:
        app(prog_name="jigsaw")
    except (JigsawError, OSError) as error:
        print_error(error)
        sys.exit(1)
