"""Prints one hash over the plans and the pixels of a few puzzles of ``a.png``, for a process of its own.

python tests/digest.py MEDIA_ROOT SEED
"""

import hashlib
import json
import random
import sys

import numpy as np

from jigsaw import build_puzzle, plan
from jigsaw.toy.rows import image_row


def digest(media_root: str) -> str:
    found = hashlib.sha256()
    for number in range(5):
        row = image_row("a.png", (3, 3), id=f"é{number}")
        puzzle = build_puzzle(row, media_root, seed=11, epoch=number)
        found.update(repr((puzzle.id, puzzle.order, puzzle.answer)).encode())
        found.update(json.dumps(plan(row, seed=11, epoch=number).messages).encode())
        for piece in puzzle.pieces:
            found.update(piece.tobytes())
    return found.hexdigest()


if __name__ == "__main__":
    random.seed(sys.argv[2])  # the global generators play no part
    np.random.seed(int(sys.argv[2]))
    print(digest(sys.argv[1]))
