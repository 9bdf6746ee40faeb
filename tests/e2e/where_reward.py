"""The reward of some_reward.py, with the Ray node of each response's worker."""

import zlib
from typing import Any

import ray


def compute_score(data_source: str, solution_str: str, ground_truth: Any, extra_info: Any = None) -> dict[str, float]:
    """A number from 0 to 1 that only the reply's text decides; the last number of the node's address."""
    score = zlib.crc32(solution_str.encode()) / 2**32
    return {"score": score, "acc": score, "node": float(ray.util.get_node_ip_address().rpartition(".")[2])}
