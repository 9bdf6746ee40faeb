"""The seed that a reply is drawn with: the same start of a run gives the same replies."""

import hashlib
import json
from operator import index


def reply_seed(seed: int, split: str, sample_id: str, step: int, number: int) -> int:
    """The seed of one reply, a function of the arguments alone; 63 bits, which vLLM takes.

    Args:
        seed: the run's.
        split: of the row.
        sample_id: the row's id, unique in its split.
        step: in which the prompt is answered.
        number: of the reply to it, 0-based.
    """
    key = json.dumps([index(seed), str(split), str(sample_id), index(step), index(number)]).encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest()) >> 1
