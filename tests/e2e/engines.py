"""Asks a model by both engines of ``vj_qwen_vl``: ``engines.py MODEL BENCHMARKS``; prints what came back as JSON."""

import json
import sys
from functools import partial
from pathlib import Path

from lmms_eval.tasks import TaskManager, get_task_dict

from jigsaw.evaluation.shown import Policy
from jigsaw.lmms_plugin.engines import Asked, Generation, Transformers, Vllm

TASKS = ("vj_mmvp", "vj_viewspatial", "vj_tvbench", "vj_cvbench")
"""A picture, several, a film, several."""


def main(model: str, timed: str) -> None:
    """Print the replies."""
    manager = TaskManager(include_path=str(Path(__file__).parents[2] / "eval/tasks"), include_defaults=False)
    asked = []
    for name in TASKS:
        task = get_task_dict([name], manager, task_type="chat")[name]
        for doc in task.test_docs():
            policy = Policy(16 // doc["share"], time_embedding=timed)
            asked.append(Asked(partial(task.doc_to_messages, doc), policy, Generation(max_new_tokens=12)))
    engines = {
        "hf": Transformers(model, batch_size=1, attn_implementation="sdpa"),
        "hf by three": Transformers(model, batch_size=3, attn_implementation="sdpa"),
        "vllm": Vllm(model, max_model_len=4096, enforce_eager=True),
    }
    found = {}
    for name, engine in engines.items():
        replies = dict(engine.ask(asked))
        found[name] = [[replies[place].text, replies[place].prompt] for place in range(len(asked))]
    print("FOUND " + json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
