"""The errors that a user can mend: each is one line that says what, where and what to do."""

from collections.abc import Sequence
from errno import EACCES, EDQUOT, ENOSPC, EPERM
from os import PathLike

_CONTROLS = (*range(32), *range(127, 160), 0x2028, 0x2029)
_WRITTEN_OUT = {code: repr(chr(code))[1:-1] for code in _CONTROLS}


class JigsawError(Exception):
    """Bad input or set-up. The command line prints the message alone and exits with 1."""


class RowError(JigsawError):
    """A row that is not a puzzle row: a column is missing or its values make no sense."""


class MediaError(JigsawError):
    """A picture, video or map that cannot be used.

    Args:
        path: of the file; None where the caller knows it.
        why: what is wrong, and what to do.
    """

    def __init__(self, path: str | PathLike[str] | None, why: str) -> None:
        super().__init__(path, why)  # what a process that unpickles it gives
        self.path = path
        self.why = why

    def __str__(self) -> str:
        return self.why if self.path is None else f"{self.path}: {self.why}"


class OptionError(JigsawError):
    """An option with a value that makes no sense, or without one that is needed.

    Args:
        option: its name in Python; the command line says ``--like-this``.
        value: what was given; None where nothing was.
        why: what is wrong, and what to do.
    """

    def __init__(self, option: str, value: object, why: str) -> None:
        super().__init__(option, value, why)
        self.option = option
        self.value = value
        self.why = why

    def __str__(self) -> str:
        return self.said_of(self.option)

    def said_of(self, name: str) -> str:
        """The message with the option under this name."""
        value = f"{self.value:g}" if isinstance(self.value, float) else self.value
        return f"{name}: {self.why}" if value is None else f"{name} {value}: {self.why}"


class Problems(JigsawError):
    """Several things to mend at once, a line each."""

    def __init__(self, found: Sequence[str]) -> None:
        super().__init__("\n".join(found))
        self.found = list(found)


def remedy(error: OSError) -> str:
    """What to do where the system refuses to write."""
    if error.errno in (ENOSPC, EDQUOT):
        return "make room or write elsewhere"
    if error.errno in (EACCES, EPERM):
        return "get permission to write there or write elsewhere"
    return "write elsewhere"


def print_error(error: JigsawError | OSError) -> None:
    """Print an error as one line on stderr, :class:`Problems` as one each; the system's own in the system's words.

    Line breaks and other control characters, which names of files may hold, are written out.
    """
    from rich.console import Console
    from rich.markup import escape

    message = str(error)
    if isinstance(error, OptionError):
        message = error.said_of("--" + error.option.replace("_", "-"))
    if isinstance(error, OSError):
        message = f"{error.filename or 'input/output'}: {error.strerror or error}"
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    for line in error.found if isinstance(error, Problems) else [message]:
        console.print(f"[bold red]error:[/] {escape(line.translate(_WRITTEN_OUT))}")
