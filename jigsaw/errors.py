"""The errors that a user can mend: each is one line that says what, where and what to do."""


class JigsawError(Exception):
    """Bad input or set-up. The command line prints the message alone and exits with 1."""


class RowError(JigsawError):
    """A row that is not a puzzle row: a column is missing or its values make no sense."""


class MediaError(JigsawError):
    """A picture, video or map that cannot be used. The message names the file."""
