"""The model class ``vj_qwen_vl`` of lmms-eval: Qwen2.5-VL and Qwen3-VL, shown media as the paper showed them."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from tqdm import tqdm

from jigsaw.errors import JigsawError
from jigsaw.evaluation.questions import missing
from jigsaw.lmms_plugin.engines import Asked, Engine, Generation, Transformers, Vllm
from jigsaw.lmms_plugin.shown import Policy

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
        max_model_len: int = 32768,
        device: str | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        for name, value, known in (("engine", engine, ENGINES), ("time_embedding", time_embedding, TIME_EMBEDDINGS)):
            if value not in known:
                raise JigsawError(f"{name}={value}: is not known; it must be {' or '.join(known)}")
        if max_frames < 4:
            raise JigsawError(f"max_frames={max_frames}: must be 4 or more, which a film of any length is shown in")
        self._name = pretrained
        self._policy = Policy(max_frames, time_embedding=time_embedding)
        self._by_vllm = engine == "vllm"
        self._hf: dict[str, Any] = {"batch_size": int(batch_size), "attn_implementation": attn_implementation}
        self._vllm: dict[str, Any] = {
            "tensor_parallel_size": tensor_parallel_size,
            "gpu_memory_utilization": gpu_memory_utilization,
            "max_model_len": max_model_len,
        }

    @cached_property
    def _engine(self) -> Engine:
        if self._by_vllm:
            return Vllm(self._name, self._policy, **self._vllm)
        return Transformers(self._name, self._policy, **self._hf)

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
        replies: dict[int, GenerationResult] = {}
        with tqdm(total=len(asked), disable=self.rank != 0, desc="vj_qwen_vl") as progress:
            for place, reply in self._engine.ask(asked):
                replies[place] = GenerationResult(reply.text, TokenCounts(output_tokens=reply.tokens))
                progress.update()
        return [replies[place] for place in range(len(asked))]

    def _doc(self, request: Instance) -> Any:
        *_, doc_id, task, split = request.args
        return self.task_dict[task][split][doc_id]

    def _asked(self, request: Instance) -> Asked:
        _, doc_to_messages, kwargs, *_ = request.args
        doc = self._doc(request)
        generation = Generation(
            max_new_tokens=kwargs.get("max_new_tokens", Generation.max_new_tokens),
            temperature=float(kwargs.get("temperature") or 0.0),
            top_p=float(kwargs.get("top_p") or 1.0),
        )
        return Asked(doc_to_messages(doc), doc.get("share", 1), generation)

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """Not offered: none of the paper's benchmarks asks for it."""
        raise NotImplementedError("vj_qwen_vl writes replies; it does not tell likelihoods")

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        """Not offered: none of the paper's benchmarks asks for it."""
        raise NotImplementedError("vj_qwen_vl answers once; it does not hold conversations")


def _check_media(docs: Sequence[Any]) -> None:
    absent = list(dict.fromkeys(file for doc in docs for file in missing(doc)))
    if absent:
        raise FileNotFoundError(
            f"{absent[0]}: no such file, nor are {len(absent) - 1} more of the benchmarks' media; download them again"
        )
