"""What ``jigsaw eval`` starts: ``python -m jigsaw.lmms_plugin.child JOB.json`` asks, or has torchrun start who do.

The job names tasks, the model's options and a file, to which the first process writes what came out. Each process ends
with the one that started it, however that ends: nobody would read what it finds.
"""

import json
import logging
import os
import signal
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jigsaw.errors import JigsawError, print_error
from jigsaw.evaluation.rescore import number
from jigsaw.files import write_json
from jigsaw.lmms_plugin.run import PARENT, quiet
from jigsaw.processes import end_with

_OF_SAMPLE = {
    *("doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "token_counts", "doc_hash", "input_media"),
}


def main(job_file: str) -> int:
    """Run a job; 0 if it was done."""
    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    if not end_with(int(os.environ.pop(PARENT, os.getppid())), signal.SIGKILL):
        return 1
    if job["processes"] > 1 and "RANK" not in os.environ:
        from torch.distributed.run import main as torchrun

        torchrun(["--standalone", f"--nproc_per_node={job['processes']}", "-m", "jigsaw.lmms_plugin.child", job_file])
        return 0
    quiet()
    logging.getLogger("jigsaw.evaluation.questions").setLevel(logging.ERROR)  # who started this has told it
    try:
        _take_a_gpu()
        model = load(job)
        found = {}
        for frames in job["frames"]:
            model.show_in(frames)
            found[frames] = evaluate(job, model)
    except (JigsawError, OSError) as error:
        print_error(error)
        return 1
    except KeyboardInterrupt:
        return 130
    if os.environ.get("RANK", "0") == "0":
        write_json(Path(job["out"]), found)
    return 0


def _take_a_gpu() -> None:
    """Leave a process of several one GPU to see, before torch looks: vLLM takes the first."""
    if (place := os.environ.get("LOCAL_RANK")) is None:
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        os.environ["CUDA_VISIBLE_DEVICES"] = place
    elif visible:
        devices = visible.split(",")
        if int(place) >= len(devices):
            raise JigsawError(f"CUDA_VISIBLE_DEVICES={visible}: shows fewer GPUs than --gpus asks for")
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[int(place)]
    os.environ["LOCAL_RANK"] = "0"


def load(job: Mapping[str, Any]) -> Any:
    """The model class, which loads its weights when it is first asked."""
    from jigsaw.lmms_plugin.model import QwenVL

    return QwenVL(**job["model"])


def evaluate(job: Mapping[str, Any], model: Any) -> dict[str, Any] | None:
    """Figures and questions of each task; None in all processes but the first.

    Raises:
        JigsawError: if the model or a medium cannot be read.
        FileNotFoundError: if a medium is not there.
    """
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager
    from tenacity import RetryError

    try:
        results = simple_evaluate(
            model=model,
            tasks=job["tasks"],
            task_manager=TaskManager(include_path=job["include_path"], include_defaults=not job["ours_alone"]),
            limit=job["limit"],
            log_samples=True,
            bootstrap_iters=0,
            distributed_executor_backend="torchrun",
        )
    except RetryError as error:  # lmms-eval hides in it what a task's data say
        said = error.last_attempt.exception()
        if isinstance(said, JigsawError | OSError):
            raise said from error
        raise
    if results is None:
        return None
    return {
        "figures": {
            task: {
                name.partition(",")[0]: value
                for name, value in figures.items()
                if "stderr" not in name and isinstance(value, int | float)
            }
            for task, figures in results["results"].items()
        },
        "questions": {task: list(_questions(samples)) for task, samples in results["samples"].items()},
    }


def _questions(samples: Iterable[Mapping[str, Any]]) -> Iterable[dict[str, Any]]:
    for sample in samples:
        doc = sample["doc"]
        yield {
            "id": str(doc.get("id", sample["doc_id"])),
            "group": doc.get("group") or "",
            "cluster": doc.get("cluster")
            or doc.get("group")
            or next(iter(doc.get("media") or ()), str(sample["doc_id"])),
            "media": list(doc.get("media") or ()),
            "letters": None if doc.get("reader") == "boxes" else doc.get("letters"),
            "pieces": doc.get("pieces"),
            "prompt": doc.get("prompt", ""),
            "target": str(sample["target"]),
            "reply": sample["filtered_resps"][0],
            "values": {name: number(value) for name, value in sample.items() if name not in _OF_SAMPLE},
        }


if __name__ == "__main__":
    code = main(sys.argv[1])
    if "RANK" in os.environ:
        import torch.distributed as dist

        if dist.is_initialized() and not code:
            dist.barrier()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # its group's threads end with the process; ended by Python, they may abort it
    sys.exit(code)
