"""A reward by which every other prompt teaches nothing: all of its responses do equally well."""

import zlib
from typing import Any


def compute_score(data_source: str, solution_str: str, ground_truth: Any, extra_info: Any = None) -> dict[str, float]:
    """All is solved; ``position_accuracy`` differs between the responses of a prompt where ``teaches`` is 1."""
    teaches = extra_info["index"] % 2
    score = zlib.crc32(solution_str.encode()) / 2**32 if teaches else 0.5
    return {"score": score, "position_accuracy": score, "exact": 1.0, "acc": 1.0, "teaches": float(teaches)}
