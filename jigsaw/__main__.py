"""``python -m jigsaw``: the command without its script, from a folder that was never installed."""

from jigsaw.cli import main

main()
