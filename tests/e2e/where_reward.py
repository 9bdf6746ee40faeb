"""The reward of some_reward.py, with the row of each response and the Ray node of its worker."""

import zlib
from typing import Any

import ray


def compute_score(data_source: str, solution_str: str, ground_truth: Any, extra_info: Any = None) -> dict[str, Any]:
    """A number from 0 to 1 that only the reply's text decides; the node's address, the row's name and epoch."""
    score = zlib.crc32(solution_str.encode()) / 2**32
    row = f"{extra_info['id']} {extra_info['epoch']}"
    return {"score": score, "acc": score, "node": ray.util.get_node_ip_address(), "row": row}
