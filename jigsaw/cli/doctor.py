"""``jigsaw doctor``: is this machine ready, and what is there to do if not?"""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jigsaw.doctor import Check, Status, examine

_STYLES: dict[Status, str] = {"ok": "green", "warning": "yellow", "problem": "bold red"}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object instead of a table.")] = False,
    brief: Annotated[bool, typer.Option("--brief", help="Leave out what is well.")] = False,
) -> None:
    """Look at this machine: versions, GPUs, compiler, memory, limits, Ray. Exits with 1 if something will not run.

    Example: [bold]jigsaw doctor --json[/]
    """
    checks = [check for check in examine() if not (brief and check.status == "ok")]
    counts = Counter(check.status for check in checks)
    if as_json:
        summary = {"problems": counts["problem"], "warnings": counts["warning"]}
        print(json.dumps({**summary, "checks": [asdict(check) for check in checks]}, indent=2))
    elif checks:
        _print_table(checks)
    else:
        print("all is well")
    if counts["problem"]:
        raise typer.Exit(1)


def _print_table(checks: Iterable[Check]) -> None:
    table = Table()
    for heading in ("what", "", "found", "what to do"):
        table.add_column(heading, overflow="fold")
    for check in checks:
        status = Text(check.status, style=_STYLES[check.status])
        table.add_row(Text(check.name), status, Text(check.found), Text(check.advice))
    Console().print(table)
