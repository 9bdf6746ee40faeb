"""A reward that even a model with random weights earns some of, so that its steps have gradients."""

import zlib
from typing import Any


def compute_score(data_source: str, solution_str: str, ground_truth: Any, extra_info: Any = None) -> dict[str, float]:
    """A number from 0 to 1 that only the reply's text decides."""
    score = zlib.crc32(solution_str.encode()) / 2**32
    return {"score": score, "acc": score}
