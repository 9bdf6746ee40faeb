"""The model class ``vj_qwen_vl`` of lmms-eval: Qwen2.5-VL and Qwen3-VL, shown media as the paper showed them."""

import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from tqdm import tqdm

from jigsaw.errors import JigsawError
from jigsaw.evaluation.questions import missing
from jigsaw.evaluation.shown import Policy
from jigsaw.lmms_plugin import FEWEST_FRAMES
from jigsaw.lmms_plugin.engines import Asked, Engine, Generation, Reply, Transformers, Vllm, workers
from jigsaw.lmms_plugin.first_minute import FirstMinute
from jigsaw.lmms_plugin.replies import Replies, key_of, weights_of

ENGINES = ("hf", "vllm")
TIME_EMBEDDINGS = ("released", "true")


class QwenVL(lmms):  # type: ignore[misc]
    """``--model vj_qwen_vl --model_args pretrained=MODEL,engine=vllm,max_frames=16``.

    The model is loaded when it is first asked, after all questions' media were found.

    Args:
        pretrained: the model, a folder or a name on the hub.
        engine: ``hf`` or ``vllm``.
        max_frames: of the films of a question.
        time_embedding: ``released``, as in the paper, or ``true``.
        batch_size: questions at once, by ``hf``.
        attn_implementation: of transformers.
        tensor_parallel_size: GPUs that vLLM splits the model over.
        gpu_memory_utilization: of vLLM.
        max_model_len: tokens that vLLM has room for, of prompt and reply.
        replies: file in which replies are kept; what it holds is not asked again.
        weights: their hash, where it is known, by which replies are kept.
        max_new_tokens: longest reply, in place of what the tasks say.
        device: lmms-eval's option, which is not taken: GPUs are used if there are any.
        max_batch_size: lmms-eval's option, which is not taken.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str,
        engine: str = "hf",
        max_frames: int = 16,
        time_embedding: str = "released",
        batch_size: int | str = 1,
        attn_implementation: str = "sdpa",
        tensor_parallel_size: int = 1,
        gpu_memory_utilization: float = 0.9,
        max_model_len: int | None = None,
        replies: str | None = None,
        weights: str | None = None,
        max_new_tokens: int | None = None,
        device: str | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        for name, value, known in (("engine", engine, ENGINES), ("time_embedding", time_embedding, TIME_EMBEDDINGS)):
            if value not in known:
                raise JigsawError(f"{name}={value}: is not known; it must be {' or '.join(known)}")
        if max_frames < FEWEST_FRAMES:
            raise JigsawError(f"max_frames={max_frames}: must be {FEWEST_FRAMES} or more, for some show four films")
        self._name = pretrained
        self._policy = Policy(max_frames, time_embedding=time_embedding)
        self._weights = weights
        self._longest = max_new_tokens
        self._by_vllm = engine == "vllm"
        self._replies = Replies(Path(replies)) if replies else None
        self._hf: dict[str, Any] = {"batch_size": int(batch_size), "attn_implementation": attn_implementation}
        self._vllm: dict[str, Any] = {
            "tensor_parallel_size": tensor_parallel_size,
            "gpu_memory_utilization": gpu_memory_utilization,
            "max_model_len": max_model_len,
        }

    def show_in(self, max_frames: int) -> None:
        """Show films in another number of frames from now on; what is loaded stays."""
        self._policy = replace(self._policy, max_frames=max_frames)

    @cached_property
    def _engine(self) -> Engine:
        if self._by_vllm:
            return Vllm(self._name, **self._vllm)
        return Transformers(self._name, **self._hf)

    @property
    def device(self) -> torch.device:
        """Where lmms-eval gathers what its processes count."""
        import torch.distributed as dist

        if dist.is_initialized() and dist.get_backend() == "nccl":
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("cpu")

    def generate_until(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """Replies, in the order of their requests.

        Raises:
            FileNotFoundError: if media are not there; nothing is loaded then.
            MediaError: if a medium cannot be read.
        """
        _check_media([doc for doc in map(self._doc, requests) if "media" in doc])
        asked = [self._asked(request) for request in requests]
        keys = self._keys(asked)
        first: dict[str, int] = {}
        for place, key in enumerate(keys):  # two tasks may ask the same
            first.setdefault(key, place)
        known = {key: kept for key in first if (kept := self._known(key))}
        open_places = [place for key, place in first.items() if key not in known]
        with tqdm(total=len(first), initial=len(known), disable=self.rank != 0, desc="vj_qwen_vl") as progress:
            minute = FirstMinute(len(open_places))
            for number, reply in self._engine.ask([asked[place] for place in open_places]) if open_places else ():
                place = open_places[number]
                known[keys[place]] = (reply.text, reply.tokens)
                self._keep(keys[place], requests[place], reply)
                progress.update()
                if (told := minute.tell(time.monotonic())) and self.rank == 0:
                    progress.write(told, file=sys.stderr)
        return [GenerationResult(known[key][0], TokenCounts(output_tokens=known[key][1])) for key in keys]

    def _keys(self, asked: Sequence[Asked]) -> list[str]:
        """A name for each question; the same for the same question, where replies are kept."""
        if self._replies is None:
            return [str(place) for place in range(len(asked))]
        weights = self._weights or weights_of(self._name)

        def key(question: Asked) -> str:
            messages = question.messages()
            return key_of(
                messages,
                weights=weights,
                generation=asdict(question.generation),
                # How films are shown is no matter of pictures.
                shown=asdict(question.policy) if has_films(messages) else None,
                engine="vllm" if self._by_vllm else "hf",
            )

        with ThreadPoolExecutor(workers()) as pool:  # each holds the pictures of one question at a time
            found = pool.map(key, asked)
            return list(tqdm(found, total=len(asked), disable=self.rank != 0, desc="what is known of the questions"))

    def _known(self, key: str) -> tuple[str, int] | None:
        kept = None if self._replies is None else self._replies.get(key)
        return (kept["reply"], kept["tokens"]) if kept else None

    def _keep(self, key: str, request: Instance, reply: Reply) -> None:
        if self._replies is not None:
            *_, doc_id, task, _ = request.args
            row = {"key": key, "task": task.removesuffix("_fixed"), "row": doc_id}
            self._replies.add({**row, "reply": reply.text, "tokens": reply.tokens})

    def _doc(self, request: Instance) -> Any:
        *_, doc_id, task, split = request.args
        return self.task_dict[task][split][doc_id]

    def _asked(self, request: Instance) -> Asked:
        _, doc_to_messages, kwargs, *_ = request.args
        doc = self._doc(request)
        generation = Generation(
            max_new_tokens=self._longest or kwargs.get("max_new_tokens", Generation.max_new_tokens),
            temperature=float(kwargs.get("temperature") or 0.0),
            top_p=float(kwargs.get("top_p") or 1.0),
        )
        policy = replace(self._policy, max_frames=self._policy.max_frames // doc.get("share", 1))
        return Asked(partial(doc_to_messages, doc), policy, generation)

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """Not offered: none of the paper's benchmarks asks for it.

        Raises:
            JigsawError: always.
        """
        raise JigsawError("vj_qwen_vl: writes replies and tells no likelihoods; ask this task of another model class")

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        """Not offered: none of the paper's benchmarks asks for it.

        Raises:
            JigsawError: always.
        """
        raise JigsawError("vj_qwen_vl: answers once and holds no conversation; ask this task of another model class")


def _check_media(docs: Sequence[Any]) -> None:
    absent = list(dict.fromkeys(file for doc in docs for file in missing(doc)))
    if absent:
        others = f", nor are {len(absent) - 1} more of the benchmarks' media" if len(absent) > 1 else ""
        raise FileNotFoundError(f"{absent[0]}: no such file{others}; download them again")


def has_films(messages: Sequence[Any]) -> bool:
    """Whether a question shows a film."""
    return any(part["type"] == "video" for message in messages for part in message["content"])
