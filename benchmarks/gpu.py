"""What training a prompt once gains on one GPU, beside transformers' own model as verl 0.9.1 runs it.

    PYTHONPATH=. python benchmarks/gpu.py [--json FILE] [--parts a,b,c,d,e,f] [--small]

Needs torch 2.11 and transformers (5.9 to 5.17) only, no weights and no network: random weights at the true Qwen2.5-VL
shapes, bfloat16, no optimizer (7B: weights and gradients are 31 GiB). Parts, each with a time budget; an error in
one of them is noted and the next one run; eight minutes in all on an H100:

a  device, versions, and the ceilings: bf16 matrix product and copy
b  correctness: error against float32 of ours, and of plain bf16
c  the vision tower alone: transformers' loop over windows / all windows at once
d  the head alone: all logits / chunks
e  attention alone, one group: shared prefix / FlexAttention / no sharing / padded
f  whole micro-batches, forward and backward, with gradient checkpointing, 7B, then 3B: one pack / no padding, no
   sharing / padded as verl 0.9.1 has it

A group is one prompt and 16 replies, the one of eight drawn groups whose length is nearest to their mean.
``--small``: the same code with tiny shapes, on the CPU too; on a GPU a first call that shows that everything runs.
"""

import argparse
import copy
import functools
import gc
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

from jigsaw.packing.attention import Piece, attend
from jigsaw.packing.head import log_probs
from jigsaw.packing.kernels import Segments
from jigsaw.packing.layout import Layout
from jigsaw.packing.model import TOWER_ATTENTION, take_packs, use_packed_attention
from jigsaw.packing.tower import Windows

GIB = 2**30
HEAD = 128  # size of a head of the text model
START, END, IMAGE, VIDEO = 151652, 151653, 151655, 151656
H100_PEAK = 989e12  # bf16 FLOP/s, dense, of the SXM data sheet

MODELS: dict[str, dict[str, Any]] = {
    "7B": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
           "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False},
    "3B": {"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16,
           "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True},
    "small": {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 2,
              "num_key_value_heads": 1, "vocab_size": 1024, "tie_word_embeddings": False},
}  # fmt: skip
TOWER = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "window_size": 112,
         "fullatt_block_indexes": [7, 15, 23, 31]}  # fmt: skip
SMALL_TOWER = {"depth": 2, "hidden_size": 160, "intermediate_size": 320, "num_heads": 2, "window_size": 112,
               "fullatt_block_indexes": [1]}  # fmt: skip


@dataclass(frozen=True)
class Task:
    """A prompt: grids of its pictures in patches (time, height, width), and its tokens."""

    grids: list[tuple[int, int, int]]
    video: bool
    prompt: int

    @property
    def patches(self) -> int:
        return sum(math.prod(grid) for grid in self.grids)


TASKS = {
    "image": Task([(1, 12, 16)] * 9, False, 670),  # 9 tiles of 168×224 px
    "video": Task([(6, 20, 24)] * 6, True, 4500),  # 6 clips of 12 frames, 4,320 tokens
    "depth": Task([(1, 70, 92)], False, 1780),
}
SMALL_TASKS = {
    "image": Task([(1, 12, 16)] * 2, False, 120),
    "video": Task([(2, 8, 12)] * 2, True, 130),
    "depth": Task([(1, 18, 20)], False, 120),
}


def draw_replies(prompts: int = 8, n: int = 16, mean: float = 440) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Lengths of replies in tokens, ``(prompts, n)``: lognormal, from 60 to 2,048."""
    lengths = np.random.default_rng(0).lognormal(math.log(mean) - 0.55**2 / 2, 0.55, prompts * n)
    return lengths.clip(60, 2048).astype(int).reshape(prompts, n)


class Run:
    """Results, written after each of them; the device; the time that a part has left."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.small: bool = arguments.small
        self.path: Path | None = arguments.json
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.cuda = self.device.type == "cuda"
        self.tasks = SMALL_TASKS if self.small else TASKS
        groups = draw_replies()
        totals = groups.sum(1)
        replies = groups[abs(totals - totals.mean()).argmin()]
        self.replies: list[int] = (replies[:5] // 40 if self.small else replies).tolist()
        self.results: dict[str, Any] = {"replies": self.replies}
        self.part: dict[str, Any] = {}
        self.ends = 0.0

    def begin(self, name: str, budget: float) -> None:
        self.part = self.results.setdefault(name, {})
        self.started = time.monotonic()
        self.ends = math.inf if self.small else self.started + budget
        print(f"\n== {name} ({budget:.0f} s at the most)", flush=True)

    def left(self) -> float:
        return self.ends - time.monotonic()

    def write(self) -> None:
        if self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(self.results, indent=1))

    def record(self, key: str, value: Any) -> None:
        self.part[key] = value
        text = json.dumps(value)
        print(f"  {key}: {text if len(text) < 400 else text[:400] + ' …'}", flush=True)
        self.write()

    def attempt(self, key: str, work: Callable[[], Any]) -> Any:
        """What ``work`` returns, recorded; an error is recorded in its place. None then."""
        if self.left() <= 0:
            self.record(key, {"error": "skipped: the part's time was used up"})
            return None
        result = None
        try:
            result = work()
        except torch.OutOfMemoryError as error:
            message: str | None = f"out of memory: {str(error).splitlines()[0][:300]}"
        except Exception as error:  # noqa: BLE001 - the card may not come back: one part must not cost the others
            message = f"{type(error).__name__}: {str(error)[:600]}"
        else:
            message = None
        # Past the handler, which would keep the frames and their tensors alive.
        self.clear()
        if message is not None:
            self.record(key, {"error": message})
        elif result is not None:
            self.record(key, result)
        return result

    def clear(self) -> None:
        if self.cuda:
            gc.collect()
            torch.cuda.empty_cache()

    def sync(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], object]) -> float:
        """Seconds of one call, on the device, by its events."""
        if not self.cuda:
            start = time.perf_counter()
            work()
            return time.perf_counter() - start
        start_event, end_event = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start_event.record()
        work()
        end_event.record()
        torch.cuda.synchronize()
        return start_event.elapsed_time(end_event) / 1e3

    def measure(self, work: Callable[[], object], repeats: int, warm: int = 1) -> dict[str, Any]:
        """Median and spread of ``repeats`` calls, fewer if the time runs out, and the peak above what was there."""
        repeats, warm = (1, 0) if self.small else (repeats, warm)
        for _ in range(warm):
            work()
        self.sync()
        with self.peak() as memory:
            times = [self.seconds(work)]
            while len(times) < repeats and self.left() > times[-1]:
                times.append(self.seconds(work))
        return {
            "s": statistics.median(times), "min_s": min(times), "max_s": max(times), "n": len(times), **memory,
        }  # fmt: skip

    @contextmanager
    def peak(self) -> Iterator[dict[str, float]]:
        """GiB above what stands now (``live_gib``), and in all (``peak_gib``)."""
        memory: dict[str, float] = {}
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            base = torch.cuda.memory_allocated()
        yield memory
        if self.cuda:
            top = torch.cuda.max_memory_allocated()
            memory |= {"live_gib": (top - base) / GIB, "peak_gib": top / GIB}


# ---------------------------------------------------------------------------------------------------------- a: device


def device(run: Run) -> None:
    run.record("versions", {
        "torch": torch.__version__, "cuda": torch.version.cuda, "transformers": transformers.__version__,
        "python": platform.python_version(), "date": time.strftime("%Y-%m-%d"), "cpus": os.cpu_count(),
    })  # fmt: skip
    if run.cuda:
        properties = torch.cuda.get_device_properties(0)
        query = ["nvidia-smi", "--query-gpu=name,driver_version,clocks.max.sm,power.limit", "--format=csv,noheader"]
        run.attempt("smi", lambda: subprocess.run(query, capture_output=True, text=True, timeout=20).stdout.strip())
        run.record("device", {"name": properties.name, "gib": properties.total_memory / GIB,
                              "capability": f"{properties.major}.{properties.minor}"})  # fmt: skip
    side, size = (256, 2**20) if run.small else (8192, 2**31)

    def product() -> float:
        a, b = (torch.randn(side, side, device=run.device).bfloat16() for _ in range(2))
        return 2 * side**3 / run.measure(lambda: a @ b, 20, warm=3)["s"]

    def copied() -> float:
        source, target = (torch.empty(size, dtype=torch.uint8, device=run.device) for _ in range(2))
        return 2 * size / run.measure(lambda: target.copy_(source), 20, warm=3)["s"]

    run.attempt("matmul_flops", product)
    run.attempt("copy_bytes_per_s", copied)


# ----------------------------------------------------------------------------------------------------- b: correctness


def error(found: Tensor, wanted: Tensor) -> float:
    """Relative, by norms; NaN where anything is not finite."""
    return float((found.float() - wanted.float()).norm() / wanted.float().norm())


def masked(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Attention by the book."""
    heads = q.shape[1]
    q, k, v = (t.repeat_interleave(heads // t.shape[1], 1).transpose(0, 1) for t in (q, k, v))
    return ((q @ k.mT * scale).masked_fill(~mask, -torch.inf).softmax(-1) @ v).transpose(0, 1)


def with_grads(work: Callable[..., Tensor], inputs: list[Tensor], grad: Tensor, dtype: torch.dtype) -> list[Tensor]:
    leaves = [t.to(dtype, copy=True).requires_grad_() for t in inputs]
    out = work(*leaves)
    out.backward(grad.to(out.dtype))
    return [out.detach(), *(leaf.grad for leaf in leaves)]  # type: ignore[list-item]


def compare(names: str, found: list[Tensor], plain: list[Tensor], wanted: list[Tensor]) -> dict[str, Any]:
    return {
        name: {"ours": error(f, w), "plain": error(p, w)}
        for name, f, p, w in zip(names.split(), found, plain, wanted, strict=True)
    }


def draw(run: Run, *shape: int, seed: int = 0) -> Tensor:
    rng = torch.Generator(run.device).manual_seed(seed)
    return torch.randn(*shape, generator=rng, device=run.device).bfloat16()


def correctness(run: Run) -> None:
    cases: dict[str, tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]] = {
        "16 replies": ((20,), (tuple(range(2, 34, 2)),)) if run.small else ((670,), (tuple(run.replies),)),
        "a group without a token, replies of 0 and 1": ((70, 130, 5), ((1, 0, 33), (0, 0), (64, 1))),
        "one token in all": ((9, 65), ((1,), (0,))),
        "one token each": ((9, 65), ((1,), (1,))),
        "one reply": ((300,), ((200,),)),
    }
    for name, (prompts, replies) in cases.items():
        layout = Layout(prompts, replies, run.device)

        def attention(layout: Layout = layout) -> dict[str, Any]:
            heads, key_heads, size = (4, 2, 128) if run.small else (14, 2, 128)  # the reference is large
            inputs = [draw(run, layout.tokens, n, size, seed=i) for i, n in enumerate((heads, key_heads, key_heads))]
            grad, scale, mask = draw(run, layout.tokens, heads, size, seed=3), size**-0.5, layout.mask()
            wanted = with_grads(lambda q, k, v: masked(q, k, v, mask, scale), inputs, grad, torch.float32)

            def one_by_one(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
                out = torch.zeros_like(q)
                for s in range(int(layout.segment[-1]) + 1):
                    own = (layout.segment == s).nonzero()[:, 0]
                    if not len(own):
                        continue
                    seen = layout.sees(own[-1], torch.arange(layout.tokens, device=q.device)).nonzero()[:, 0]
                    heads = (t.transpose(0, 1)[None] for t in (q[seen], k[seen], v[seen]))
                    whole = F.scaled_dot_product_attention(*heads, is_causal=True, scale=scale, enable_gqa=True)
                    out = out.index_copy(0, own, whole[0].transpose(0, 1)[-len(own) :])
                return out

            plain = with_grads(one_by_one, inputs, grad, torch.bfloat16)
            found = with_grads(lambda q, k, v: attend(q, k, v, layout.pieces, scale), inputs, grad, torch.bfloat16)
            return compare("out dq dk dv", found, plain, wanted)

        run.attempt(f"attention, {name}", attention)

    def tower() -> dict[str, Any]:
        windows = Windows(torch.tensor([(1, 12, 16), (2, 8, 10)]), Qwen2_5_VLConfig().vision_config, run.device)
        result = {}
        for name in ("windows", "frames"):
            piece = getattr(windows, name)
            starts = piece.segments.starts.tolist()
            inputs, scale = [draw(run, starts[-1], 16, 80, seed=i) for i in range(3)], 80**-0.5
            grad = draw(run, starts[-1], 16, 80, seed=3)

            def loop(q: Tensor, k: Tensor, v: Tensor, starts: list[int] = starts, scale: float = scale) -> Tensor:
                heads = [[t[a:b].transpose(0, 1)[None] for t in (q, k, v)] for a, b in pairwise(starts)]
                return torch.cat([F.scaled_dot_product_attention(*t, scale=scale)[0].transpose(0, 1) for t in heads])

            wanted, plain = (with_grads(loop, inputs, grad, dtype) for dtype in (torch.float32, torch.bfloat16))
            ours = with_grads(lambda *t, p=piece, s=scale: attend(*t, (p,), s), inputs, grad, torch.bfloat16)
            result[name] = compare("out dq dk dv", ours, plain, wanted)
        return result

    run.attempt("attention of the tower, head size 80", tower)

    def head() -> dict[str, Any]:
        n, size, vocabulary = (64, 64, 1000) if run.small else (1024, 2048, 32768)
        inputs = [draw(run, n, size), draw(run, vocabulary, size, seed=1) / size**0.5]
        targets = torch.arange(n, device=run.device) * 7 % vocabulary
        grad = draw(run, n, seed=2).float()

        def plain(hidden: Tensor, weight: Tensor) -> Tensor:
            return (hidden @ weight.T).float().log_softmax(-1).gather(1, targets[:, None])[:, 0]

        wanted, rounded = (with_grads(plain, inputs, grad, dtype) for dtype in (torch.float32, torch.bfloat16))
        mib = max(1, n * vocabulary * 8 // 4 // 2**20)  # four chunks
        ours = with_grads(lambda h, w: log_probs(h, w, targets, mib)[0], inputs, grad, torch.bfloat16)
        return compare("log_probs d_hidden d_weight", ours, rounded, wanted)

    run.attempt("head", head)
    run.attempt("a small model, whole", lambda: small_model(run))


def small_model(run: Run) -> dict[str, Any]:
    """Gradients of a whole small model: ours and plain in bfloat16, against plain in float32."""
    task = Task([(1, 12, 16), (1, 8, 12)], False, 120)
    config = build_config(MODELS["small"], SMALL_TOWER)
    batch = Batch(run, config, task, [40, 17, 1, 0, 25, 60])
    reference = build_model(run, config, torch.float32)
    state = reference.state_dict()
    grads = {}
    for name, dtype in (("fp32", torch.float32), ("plain", torch.bfloat16), ("ours", torch.bfloat16)):
        model = build_model(run, config, dtype)
        model.load_state_dict(state)
        use_packed_attention(model, name == "ours")
        if name == "ours":
            batch.packed(model, [list(range(len(batch.replies)))])
        else:
            for row in range(len(batch.replies)):
                batch.plain(model, [row])
        grads[name] = {key: p.grad.float() for key, p in model.named_parameters() if p.grad is not None}
    wanted = grads.pop("fp32")
    norm = torch.stack([grad.norm() for grad in wanted.values()]).norm()
    result: dict[str, Any] = {}
    for name, found in grads.items():
        off = {key: float((found[key] - grad).norm() / norm) for key, grad in wanted.items()}
        worst = max(
            (float((found[key] - grad).norm() / grad.norm()), key)
            for key, grad in wanted.items()
            if grad.norm() > 1e-3 * norm
        )
        result[name] = {"all": math.hypot(*off.values()), "worst": worst[0], "worst_name": worst[1]}
    return {key: {name: figures[key] for name, figures in result.items()} for key in ("all", "worst", "worst_name")}


# ---------------------------------------------------------------------------------------------- models and their work


def build_config(text: dict[str, Any], tower: dict[str, Any]) -> Qwen2_5_VLConfig:
    small = text["vocab_size"] < IMAGE
    tokens = [text["vocab_size"] - 8 + i for i in range(4)] if small else [IMAGE, VIDEO, START, END]
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    tied = text["tie_word_embeddings"]
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    return Qwen2_5_VLConfig(
        text_config={**text, "rope_parameters": rope, "rms_norm_eps": 1e-6},
        vision_config={**tower, "patch_size": 14, "out_hidden_size": text["hidden_size"], "tokens_per_second": 2},
        tie_word_embeddings=tied,
        **dict(zip(names, tokens, strict=True)),
    )


def build_model(run: Run, config: Qwen2_5_VLConfig, dtype: torch.dtype) -> Any:
    """Random weights, made on the device, ready for packs and for plain batches."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with run.device:
            # A copy: the model's attention is noted in its configuration.
            model = Qwen2_5_VLForConditionalGeneration(copy.deepcopy(config))
    finally:
        torch.set_default_dtype(before)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return take_packs(model.train())


class Batch:
    """One prompt and its replies, as a pack and as padded micro-batches."""

    def __init__(self, run: Run, config: Qwen2_5_VLConfig, task: Task, replies: list[int]) -> None:
        self.run, self.task, self.replies = run, task, replies
        rng = np.random.default_rng(1)

        def text(n: int) -> list[int]:
            return rng.integers(0, config.text_config.vocab_size - 500, n).tolist()

        pad = config.video_token_id if task.video else config.image_token_id
        prompt: list[int] = text(20)
        for grid in task.grids:
            prompt += [config.vision_start_token_id, *[pad] * (math.prod(grid) // 4), config.vision_end_token_id]
        prompt += text(task.prompt - len(prompt))
        self.prompt = torch.tensor(prompt)
        self.responses = [torch.tensor(text(n), dtype=torch.int64) for n in replies]
        self.grid = torch.tensor(task.grids)
        self.kinds = (self.prompt == pad).int() * (2 if task.video else 1)
        self.names = ("pixel_values_videos", "video_grid_thw") if task.video else ("pixel_values", "image_grid_thw")
        self.pixels = draw(run, task.patches, 3 * 2 * 14 * 14)
        self.advantages = torch.from_numpy(rng.normal(size=len(replies))).float()
        self.tokens = sum(replies)

    def packed(self, model: Any, groups: list[list[int]]) -> None:
        """Forward and backward of a pack: in each group the prompt once and these replies."""
        device, n = self.run.device, len(groups)
        order = [row for group in groups for row in group]
        prompts, responses = [self.prompt] * n, [[self.responses[row] for row in group] for group in groups]
        layout = Layout((len(self.prompt),) * n, tuple(tuple(map(len, group)) for group in responses), device)
        media = (self.pixels.repeat(n, 1), self.grid.repeat(n, 1))
        chosen, _ = model(
            input_ids=layout.join(prompts, responses)[None].to(device),
            position_ids=layout.positions([self.positions(model)] * n)[:, None].to(device),
            pack=layout,
            **dict(zip(self.names, media, strict=True)),
        )
        weights = self.advantages[order].repeat_interleave(torch.tensor(layout.lengths)).to(device)
        (-(weights * chosen).sum() / self.tokens).backward()

    def plain(self, model: Any, rows: list[int]) -> None:
        """Forward and backward of these replies as verl 0.9.1 does it on transformers' model, without flash-attn.

        Padded to the longest, the tower once a reply, logits of every token, log-probabilities token by token.
        """
        device = self.run.device
        whole = [torch.cat([self.prompt, self.responses[row]]) for row in rows]
        prompt, longest = len(self.prompt), max(map(len, whole))
        ids = torch.stack([F.pad(row, (0, longest - len(row))) for row in whole]).to(device)
        attention = torch.stack([F.pad(torch.ones_like(row), (0, longest - len(row))) for row in whole]).to(device)
        first = self.positions(model)
        rest = first[:, -1:] + torch.arange(1, longest - prompt + 1)
        at = torch.cat([first, rest], 1)[:, None].expand(-1, len(rows), -1).to(device)
        media = (self.pixels.repeat(len(rows), 1), self.grid.repeat(len(rows), 1).to(device))
        logits = model(
            input_ids=ids, attention_mask=attention, position_ids=at, use_cache=False,
            **dict(zip(self.names, media, strict=True)),
        ).logits  # fmt: skip
        logits = torch.cat([row[: len(tokens)] for row, tokens in zip(logits, whole, strict=True)])
        labels = torch.cat([tokens.roll(-1) for tokens in whole]).to(device)
        chosen = torch.stack(
            [row.float().log_softmax(-1).gather(-1, label[None])[0] for row, label in zip(logits, labels, strict=True)]
        )
        weights = torch.cat(
            [
                F.pad(self.advantages[row].expand(len(tokens) - prompt), (prompt - 1, 1))
                for row, tokens in zip(rows, whole, strict=True)
            ]
        ).to(device)
        (-(weights * chosen).sum() / self.tokens).backward()

    def positions(self, model: Any) -> Tensor:
        """``(3, tokens)`` of the prompt, on the CPU; worked out once, as a data loader does."""
        if not hasattr(self, "_positions"):
            grids = {self.names[1]: self.grid}
            self._positions = model.model.get_rope_index(self.prompt[None], self.kinds[None], **grids)[0][:, 0]
        return self._positions  # type: ignore[no-any-return]


def flops(config: Qwen2_5_VLConfig, task: Task, packs: list[tuple[int, int, int, int]]) -> dict[str, float]:
    """FLOP of a forward pass by parts: of packs of (tokens, pairs of query and key, positions of the head, towers)."""
    text, tower = config.text_config, config.vision_config
    size = text.hidden_size // text.num_attention_heads
    projections = text.hidden_size * size * (2 * text.num_attention_heads + 2 * text.num_key_value_heads)
    layer = projections + 3 * text.hidden_size * text.intermediate_size
    windows = Windows(torch.tensor(task.grids), tower, "cpu")
    pairs = {name: sum(n * n for n in getattr(windows, name).segments.queries) for name in ("windows", "frames")}
    full = len(tower.fullatt_block_indexes)
    merged = 4 * tower.hidden_size
    weights = tower.depth * (4 * tower.hidden_size**2 + 3 * tower.hidden_size * tower.intermediate_size)
    weights += 1176 * tower.hidden_size + merged * (merged + tower.out_hidden_size) / 4
    one_tower = 2 * weights * task.patches + 4 * tower.hidden_size * (
        full * pairs["frames"] + (tower.depth - full) * pairs["windows"]
    )
    tokens, seen, positions, towers = (sum(column) for column in zip(*packs, strict=True))
    return {
        "tower": one_tower * towers,
        "attention": 4.0 * text.hidden_size * text.num_hidden_layers * seen,
        "linear": 2.0 * layer * text.num_hidden_layers * tokens,
        "head": 2.0 * text.hidden_size * text.vocab_size * positions,
    }


def triangle(n: int) -> int:
    return n * (n + 1) // 2


def shared_pairs(prompt: int, replies: list[int]) -> int:
    """Pairs of query and key of a pack of one group."""
    return triangle(prompt) + sum(triangle(n) + n * prompt for n in replies)


# ----------------------------------------------------------------------------------------------------------- c: tower


def tower(run: Run) -> None:
    """A prompt's pictures through the 7B model's tower, with gradient checkpointing as in training."""
    config = build_config(MODELS["small" if run.small else "7B"], SMALL_TOWER if run.small else TOWER).vision_config

    def build() -> Any:
        torch.set_default_dtype(torch.bfloat16)
        try:
            with run.device:
                model = Qwen2_5_VisionTransformerPretrainedModel(config).train()
        finally:
            torch.set_default_dtype(torch.float32)
        for block in model.blocks:
            block.gradient_checkpointing = True
            block._gradient_checkpointing_func = lambda *a: torch.utils.checkpoint.checkpoint(*a, use_reentrant=False)
        return model

    model = build()
    for name, task in run.tasks.items():
        pixels, grid = draw(run, task.patches, 1176), torch.tensor(task.grids)
        grad = draw(run, task.patches // 4, config.out_hidden_size)

        def plain(pixels: Tensor = pixels, grid: Tensor = grid, grad: Tensor = grad) -> None:
            model(pixels, grid_thw=grid.to(run.device)).pooler_output.backward(grad)

        def ours(pixels: Tensor = pixels, grid: Tensor = grid, grad: Tensor = grad) -> None:
            windows = Windows(grid, config, run.device).arguments()
            model(pixels, grid_thw=grid, **windows).pooler_output.backward(grad)

        for variant, attention, work in (("ours", TOWER_ATTENTION, ours), ("loop", "sdpa", plain)):
            model.config._attn_implementation = attention
            run.attempt(f"{name}, {variant}", lambda work=work: run.measure(work, 7))
            model.zero_grad()

        def host(grid: Tensor = grid) -> dict[str, Any]:
            return run.measure(lambda: Windows(grid, config, run.device).arguments(), 5)

        run.attempt(f"{name}, windows worked out", host)
        embed, size = model.patch_embed, config.hidden_size

        def linear(pixels: Tensor = pixels, embed: nn.Module = embed, size: int = size) -> None:
            F.linear(pixels, embed.proj.weight.view(size, -1)).sum().backward()

        run.attempt(
            f"{name}, patches by Conv3d", lambda p=pixels: run.measure(lambda: model.patch_embed(p).sum().backward(), 5)
        )
        run.attempt(f"{name}, patches by one product", lambda: run.measure(linear, 5))


# ------------------------------------------------------------------------------------------------------------ d: head


def head(run: Run) -> None:
    """The 7B model's head on the response tokens of a group."""
    shape = MODELS["small" if run.small else "7B"]
    n, size, vocabulary = sum(run.replies), shape["hidden_size"], shape["vocab_size"]
    hidden, weight = draw(run, n, size), draw(run, vocabulary, size, seed=1) / size**0.5
    targets = torch.arange(n, device=run.device) * 7 % vocabulary
    hidden.requires_grad_(), weight.requires_grad_()
    run.record("logits", {"rows": n, "vocabulary": vocabulary})

    def whole(dtype: torch.dtype) -> None:
        logits = hidden @ weight.T
        logits.to(dtype).log_softmax(-1).gather(1, targets[:, None]).sum().backward()

    def rows() -> None:
        logits = hidden @ weight.T
        pairs = zip(logits, targets, strict=True)
        torch.stack([row.float().log_softmax(-1).gather(-1, label[None])[0] for row, label in pairs]).sum().backward()

    def measured(work: Callable[[], object], repeats: int = 5) -> dict[str, Any]:
        weight.grad = hidden.grad = None
        result = run.measure(work, repeats)
        if run.cuda:
            result["bytes_a_logit"] = result["live_gib"] * GIB / (n * vocabulary)
        return result

    def both(mib: int) -> None:
        chosen, entropy = log_probs(hidden, weight, targets, mib)
        (chosen.sum() + entropy.sum()).backward()

    for mib in (1,) if run.small else (256, 512, 1024, 2048):
        ours = lambda mib=mib: log_probs(hidden, weight, targets, mib)[0].sum().backward()  # noqa: E731
        run.attempt(f"ours, {mib} MiB", lambda ours=ours: measured(ours))
    run.attempt("ours, 512 MiB, entropy with gradient", lambda: measured(lambda: both(512)))
    run.attempt("all logits, log_softmax in float32", lambda: measured(lambda: whole(torch.float32)))
    run.attempt("all logits, log_softmax in bfloat16", lambda: measured(lambda: whole(torch.bfloat16)))
    run.attempt("all logits, token by token", lambda: measured(rows, 2))


# ------------------------------------------------------------------------------------------------------- e: attention


def attention(run: Run) -> None:
    """One layer's attention of the 7B model, forward and backward, one group of 16."""
    for name, task in run.tasks.items():
        task_attention(run, name, task)
    if not run.cuda:
        run.record("FlexAttention", {"error": "it has no backward pass on the CPU"})
        return
    for name, task in run.tasks.items():
        run.attempt(f"{name}, FlexAttention", lambda task=task: flex(run, task))


def attention_measured(run: Run, tokens: tuple[int, ...], work: Callable[..., Tensor], pairs: int) -> dict[str, Any]:
    """``tokens``: shape of the tensors but for heads and size; ``pairs`` of query and key that are needed."""
    heads, key_heads = (2, 1) if run.small else (28, 4)
    inputs = [draw(run, *tokens, n, HEAD, seed=i).requires_grad_() for i, n in enumerate((heads, key_heads, key_heads))]
    grad = draw(run, *tokens, heads, HEAD, seed=3)
    result = run.measure(lambda: work(*inputs).backward(grad), 7, warm=2)
    count = 4 * heads * HEAD * pairs * 3.5  # backward is five products to the forward's two
    return result | {"flops_per_s": count / result["s"], "flops": count}


def task_attention(run: Run, name: str, task: Task) -> None:
    scale = HEAD**-0.5
    layout = Layout((task.prompt,), (tuple(run.replies),), run.device)
    lengths = [task.prompt + n for n in run.replies]
    shared, whole = shared_pairs(task.prompt, run.replies), sum(map(triangle, lengths))
    padded = (len(lengths), max(lengths))

    def sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        if mask is not None:  # as transformers: no kernel takes grouped heads with a mask
            k, v = (t.repeat_interleave(q.shape[2] // t.shape[2], 2) for t in (k, v))
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=mask is None
        )
        return out.transpose(1, 2)

    def ours() -> dict[str, Any]:
        return attention_measured(run, (layout.tokens,), lambda q, k, v: attend(q, k, v, layout.pieces, scale), shared)

    def unshared() -> dict[str, Any]:
        everything = slice(0, sum(lengths))
        piece = Piece(everything, everything, Segments.of(lengths, device=run.device), causal=True)
        return attention_measured(run, (sum(lengths),), lambda q, k, v: attend(q, k, v, (piece,), scale), whole)

    def causal() -> dict[str, Any]:
        return attention_measured(run, padded, lambda q, k, v: sdpa(q, k, v, None), whole)

    def masked() -> dict[str, Any]:
        place = torch.arange(padded[1], device=run.device)
        mask = (place[:, None] >= place) & (place < torch.tensor(lengths, device=run.device)[:, None, None])
        return attention_measured(run, padded, lambda q, k, v: sdpa(q, k, v, mask[:, None]), whole)

    def explicit() -> dict[str, Any]:
        mask = layout.mask()[None, None]
        return attention_measured(run, (1, layout.tokens), lambda q, k, v: sdpa(q, k, v, mask), shared)

    run.attempt(f"{name}, shared prefix", ours)
    run.attempt(f"{name}, no sharing, no padding", unshared)
    run.attempt(f"{name}, padded, causal", causal)
    run.attempt(f"{name}, padded, with a mask as transformers", masked)
    run.attempt(f"{name}, shared prefix by a mask", explicit)


def flex(run: Run, task: Task) -> dict[str, Any]:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    layout = Layout((task.prompt,), (tuple(run.replies),), run.device)
    segment, prompt = layout.segment, layout.prompt

    def sees(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (k <= q) & ((segment[k] == segment[q]) | (segment[k] == prompt[q]))

    start = time.monotonic()
    blocks = create_block_mask(sees, None, None, layout.tokens, layout.tokens, device=str(run.device))
    run.sync()
    made = time.monotonic() - start
    compiled = torch.compile(flex_attention, dynamic=False)

    def work(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        bhld = (t.transpose(1, 2) for t in (q, k, v))
        return compiled(*bhld, block_mask=blocks, scale=HEAD**-0.5, enable_gqa=True).transpose(1, 2)

    result = attention_measured(run, (1, layout.tokens), work, shared_pairs(task.prompt, run.replies))
    return result | {"block_mask_s": made, "with_compilation_s": time.monotonic() - start}


# ----------------------------------------------------------------------------------------------------- f: whole batches


def batches(run: Run, name: str) -> None:
    """One group of 16 through the whole model, forward and backward: its micro-batches plain, and one pack."""
    config = build_config(MODELS[name], SMALL_TOWER if run.small else TOWER)
    start = time.monotonic()
    model = build_model(run, config, torch.bfloat16)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    run.sync()
    weights = sum(p.numel() for p in model.parameters())
    run.record("model", {"parameters": weights, "build_s": time.monotonic() - start,
                         "weights_and_gradients_gib": 4 * weights / GIB})  # fmt: skip
    peak = run.results.get("a device", {}).get("matmul_flops")
    works = {task: Batch(run, config, run.tasks[task], run.replies) for task in run.tasks}

    def figures(batch: Batch, seconds: float, parts: dict[str, float]) -> dict[str, Any]:
        prompt, replies = len(batch.prompt), batch.replies
        forward = sum(parts.values())
        return {
            "group_s": seconds,
            "response_tokens_per_s": sum(replies) / seconds,
            "tokens_per_s": (prompt * len(replies) + sum(replies)) / seconds,  # n (P + R), as verl counts
            "forward_pflop": {key: value / 1e15 for key, value in parts.items()},
            "flops_per_s": 3 * forward / seconds,  # forward and backward; what is computed again does not count
            "share_of_989_tflops": 3 * forward / seconds / H100_PEAK,
            "share_of_measured_matmul": 3 * forward / seconds / peak if isinstance(peak, float) else None,
        }

    def ours(batch: Batch) -> dict[str, Any]:
        use_packed_attention(model)
        whole = [list(range(len(batch.replies)))]
        result = run.measure(lambda: batch.packed(model, whole), 4)
        prompt, replies = len(batch.prompt), batch.replies
        tokens = prompt + sum(replies)
        pairs = shared_pairs(prompt, replies)
        # The 7B model's rule: 0.2 MB a kept token, 0.3 MB a token for the layer in backward, 0.1 MB a patch.
        rule = (0.5e6 * tokens + 0.1e6 * batch.task.patches) / GIB if name == "7B" else None
        parts = flops(config, batch.task, [(tokens, pairs, sum(replies), 1)])
        return result | {"rule_gib": rule, "tokens": tokens} | figures(batch, result["s"], parts)

    def apart(batch: Batch, micro: int, *, padded: bool) -> dict[str, Any]:
        """A prompt anew for each reply: padded as transformers has it, or on all of ours but the sharing."""
        use_packed_attention(model, packed=not padded)
        n, prompt = len(batch.replies), len(batch.prompt)
        splits = [list(range(i, min(i + micro, n))) for i in range(0, n, micro)]
        lengths = [[prompt + batch.replies[row] for row in rows] for rows in splits]
        if padded:
            lengths = [[max(rows)] * len(rows) for rows in lengths]

        def work(rows: list[int]) -> None:
            if padded:
                batch.plain(model, rows)
            else:
                batch.packed(model, [[row] for row in rows])

        tokens = [sum(rows) for rows in lengths]
        if not run.small:
            work(splits[tokens.index(max(tokens))])  # warm, and the largest
        times: list[float] = []
        with run.peak() as memory:
            for rows in splits:
                times.append(run.seconds(lambda rows=rows: work(rows)))
                if run.left() < times[-1]:
                    break
        seconds = sum(times) * sum(tokens) / sum(tokens[: len(times)])
        packs = [(total, sum(map(triangle, each)), total if padded else total - prompt * len(each), len(each))
                 for total, each in zip(tokens, lengths, strict=True)]  # fmt: skip
        return memory | {
            "micro_batch": micro, "micro_batches_measured": len(times), "micro_batches": len(splits),
            "micro_batch_s": times,
        } | figures(batch, seconds, flops(config, batch.task, packs))  # fmt: skip

    for task, batch in works.items():
        run.attempt(f"{task}, ours", lambda batch=batch: ours(batch))
    if run.cuda:
        for task, batch in works.items():
            whole = [list(range(len(batch.replies)))]
            run.attempt(f"{task}, ours, kernels", lambda b=batch, w=whole: kernels(run, lambda: b.packed(model, w)))
    for task, batch in works.items():
        run.attempt(f"{task}, unpadded, micro-batch 4", lambda batch=batch: apart(batch, 4, padded=False))
    for task in ("image", "depth", "video"):  # the longest one last
        batch = works[task]
        for micro in (4, 2, 1):
            if run.attempt(f"{task}, plain, micro-batch {micro}", lambda b=batch, m=micro: apart(b, m, padded=True)):
                break


def kernels(run: Run, work: Callable[[], object]) -> list[dict[str, Any]]:
    """The kernels that take the most time, milliseconds of one call."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        work()
        run.sync()
    events = sorted(profiler.key_averages(), key=lambda event: -event.self_device_time_total)
    total = sum(event.self_device_time_total for event in events)
    top = [{"ms": e.self_device_time_total / 1e3, "calls": e.count, "name": e.key[:90]} for e in events[:14]]
    return [{"ms": total / 1e3, "calls": sum(e.count for e in events), "name": "all"}, *top]


# ------------------------------------------------------------------------------------------------------------- the run


def errors(value: dict[str, Any], at: str = "") -> Iterator[tuple[str, tuple[float, float]]]:
    """The errors of ours and of plain in there, by name."""
    if {"ours", "plain"} <= value.keys() and isinstance(value["ours"], float):
        yield at, (value["ours"], value["plain"])
    for name, inner in value.items():
        if isinstance(inner, dict):
            yield from errors(inner, f"{at} {name}".strip())


def summary(run: Run) -> Iterator[str]:
    for part, entries in run.results.items():
        if not isinstance(entries, dict):
            continue
        yield f"\n{part}"
        for name, value in entries.items():
            yield f"  {name:52} {line(value)}"


def line(value: Any) -> str:
    """A result in a line of the summary."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if not isinstance(value, dict):
        return json.dumps(value)[:160]
    if "error" in value:
        return str(value["error"])[:140]
    memory = f"live {value.get('live_gib', 0):.2f} GiB"
    if "group_s" in value:
        return (
            f"{value['group_s']:7.3f} s  {value['response_tokens_per_s']:6.0f} response tokens/s"
            f"  {value['tokens_per_s']:6.0f} tokens/s  peak {value.get('peak_gib', 0):.1f} GiB, {memory}"
            f"  {value['share_of_989_tflops']:.1%} of peak"
        )
    if "s" in value:
        text = f"{value['s'] * 1e3:9.2f} ms ({value['min_s'] * 1e3:.2f}–{value['max_s'] * 1e3:.2f}, n={value['n']})"
        if "bytes_a_logit" in value:
            memory += f"  {value['bytes_a_logit']:.2f} bytes a logit"
        if "flops_per_s" in value:
            memory += f"  {value['flops_per_s'] / 1e12:.0f} TFLOP/s"
        return f"{text}  {memory}"
    if pairs := dict(errors(value)):
        worst = max(pairs, key=lambda at: pairs[at][0] / max(pairs[at][1], 1e-12))
        ours, plain = pairs[worst]
        return f"against float32: ours {ours:.1e}, plain {plain:.1e} ({worst}, the worst of {len(pairs)})"
    return json.dumps(value)[:160]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the figures go, written after each of them")
    parser.add_argument("--parts", default="a,b,c,d,e,f", help="which parts, a letter each, with commas between")
    parser.add_argument("--small", action="store_true", help="tiny shapes: shows that everything runs")
    arguments = parser.parse_args()
    run = Run(arguments)
    if not (run.cuda or run.small):
        parser.error("no GPU that torch can use: without one only --small runs")
    torch.backends.cudnn.allow_tf32 = False  # the references are float32
    if not run.cuda:
        torch.set_num_threads(1)  # tiny products wait for each other only
    parts: list[tuple[str, float, Callable[[Run], None]]] = [
        ("a device", 10, device),
        ("b correctness", 30, correctness),
        ("c tower", 60, tower),
        ("d head", 20, head),
        ("e attention", 60, attention),
    ]
    for name, budget in (("small", 60),) if run.small else (("7B", 150), ("3B", 65)):
        parts.append((f"f {name}", budget, functools.partial(batches, name=name)))
    chosen = arguments.parts.split(",")
    if unknown := set(chosen) - {name[0] for name, *_ in parts}:
        parser.error(f"no part {', '.join(sorted(unknown))}: there are a to f")
    start = time.monotonic()
    for name, budget, work in parts:
        if name[0] in chosen:
            run.begin(name, budget)
            run.attempt("whole part", functools.partial(work, run))
            run.record("part_s", time.monotonic() - run.started)
    run.results["total_s"] = time.monotonic() - start
    run.write()
    print("\n".join(summary(run)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
