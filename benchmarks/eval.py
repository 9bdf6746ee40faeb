"""Questions a second on a benchmark of short films: both engines of ``vj_qwen_vl`` beside what one would use instead.

    source train_scripts/env_cpu.sh
    .venv/bin/python benchmarks/eval.py [--films N] [--repeats N] [--json FILE]

Beside: lmms-eval's own class for Qwen2.5-VL, and the way of the paper's scripts, one question after the other. All ask
one tiny model of random weights that sees films at their full size, 16 frames of 256 tokens at most, and answers in 8
tokens. Films are rendered: 640×360, 6 to 12 s at 30 frames a second, each asked once. Loading does not count.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Annotated, Any

os.environ.setdefault("FORCE_QWENVL_VIDEO_READER", "decord")  # what both others read films with here
os.environ.pop("VERL_PLATFORM", None)  # vLLM multiplies as it does elsewhere, not so that training repeats to the bit

import torch
import typer
from rich.console import Console
from rich.table import Table
from run import machine

from jigsaw.evaluation.questions import messages
from jigsaw.evaluation.shown import Policy, Seconds
from jigsaw.lmms_plugin.engines import Asked, Engine, Generation, Transformers, Vllm
from jigsaw.toy.model import build_processor, build_tiny_model
from jigsaw.toy.videos import write_video

FRAMES, TOKENS, SIZE = 16, 8, (640, 360)
PIXELS = {"min_pixels": 128 * 28**2, "max_pixels": 256 * 28**2}
QUESTION = "<video>\nWhat moves?\nA. left\nB. right\nAnswer with the option letter directly."

Docs = list[dict[str, Any]]


def make(root: Path, films: int) -> tuple[Path, Docs]:
    model = build_tiny_model(root / "model")
    from transformers import AutoTokenizer

    build_processor(AutoTokenizer.from_pretrained(model), max_pixels=PIXELS["max_pixels"]).save_pretrained(model)
    docs = []
    for number in range(films):
        film = write_video(root / f"{number}.mp4", seconds=6 + number % 7, size=SIZE, seed=number)
        docs.append({"id": number, "prompt": QUESTION, "media": [str(film)], "share": 1})
    return model, docs


def ours(engine: Engine) -> Callable[[Docs], Seconds]:
    def work(docs: Docs) -> Seconds:
        engine.seconds.decoding = engine.seconds.preparing = engine.seconds.asking = 0.0
        asked = [Asked(partial(messages, doc), Policy(FRAMES), Generation(max_new_tokens=TOKENS)) for doc in docs]
        engine.forget()
        assert len(dict(engine.ask(asked))) == len(docs)
        return engine.seconds

    return work


def lmms_evals(model: Path) -> Callable[[Docs], Seconds]:
    from lmms_eval.models.chat.qwen2_5_vl import Qwen2_5_VL

    theirs = Qwen2_5_VL(
        pretrained=str(model),
        device="cpu",
        device_map="cpu",
        attn_implementation="sdpa",
        max_num_frames=FRAMES,
        **PIXELS,
    )

    def work(docs: Docs) -> Seconds:
        theirs.task_dict = {"films": {"test": docs}}
        kwargs = {"max_new_tokens": TOKENS}
        requests = [SimpleNamespace(args=("", messages, kwargs, place, "films", "test")) for place in range(len(docs))]
        assert len(theirs.generate_until(requests)) == len(docs)
        return Seconds()

    return work


def released(model: Path) -> Callable[[Docs], Seconds]:
    """One question after the other, each step for itself."""
    from qwen_vl_utils import process_vision_info
    from transformers import AutoModelForImageTextToText, AutoProcessor

    asked = AutoModelForImageTextToText.from_pretrained(model, attn_implementation="sdpa").eval()
    processor = AutoProcessor.from_pretrained(model)

    def work(docs: Docs) -> Seconds:
        seconds = Seconds()
        for doc in docs:
            begin = time.perf_counter()
            film = {"type": "video", "video": doc["media"][0], "fps": 2, "max_frames": FRAMES, **PIXELS}
            text = {"type": "text", "text": doc["prompt"].removeprefix("<video>")}
            chat = [{"role": "user", "content": [film, text]}]
            _, videos = process_vision_info(chat)
            seconds.add("decoding", begin)  # and scaling
            begin = time.perf_counter()
            inputs = processor(
                text=[processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)],
                videos=videos,
                do_sample_frames=False,
                return_tensors="pt",
            )
            seconds.add("preparing", begin)
            begin = time.perf_counter()
            with torch.inference_mode():
                asked.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
            seconds.add("asking", begin)
        return seconds

    return work


def main(
    films: Annotated[int, typer.Option(help="Films, each asked once.")] = 48,
    repeats: Annotated[int, typer.Option(help="Rounds, in which all are measured in turn.")] = 3,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here, too.")] = None,
) -> None:
    """Measure all four; print a table."""
    with tempfile.TemporaryDirectory() as folder:
        model, docs = make(Path(folder), films)
        ways = {
            "vj_qwen_vl, vllm": ours(Vllm(str(model), max_model_len=4096, enforce_eager=True)),
            "vj_qwen_vl, hf": ours(Transformers(str(model), batch_size=1, attn_implementation="sdpa")),
            "lmms-eval's qwen2_5_vl": lmms_evals(model),
            "one by one": released(model),
        }
        for work in ways.values():
            work(docs[:2])
        rounds: dict[str, list[float]] = {name: [] for name in ways}
        spent: dict[str, Seconds] = {}
        for _ in range(repeats):
            for name, work in ways.items():
                begin = time.perf_counter()
                spent[name] = work(docs)
                rounds[name].append(len(docs) / (time.perf_counter() - begin))
    results = [
        {
            "name": name,
            "questions_s": median(rates),
            "min": min(rates),
            "max": max(rates),
            "to_lmms_eval": median(
                mine / theirs for mine, theirs in zip(rates, rounds["lmms-eval's qwen2_5_vl"], strict=True)
            ),
            "to_one_by_one": median(mine / theirs for mine, theirs in zip(rates, rounds["one by one"], strict=True)),
            **{part: getattr(spent[name], part) for part in ("decoding", "preparing", "asking")},
        }
        for name, rates in rounds.items()
    ]
    table = Table("way", "questions a second", "× lmms-eval's", "× one by one", "decoding s", "preparing s", "asking s")
    for one in results:
        parts = [f"{one[part]:.1f}" if one[part] else "" for part in ("decoding", "preparing", "asking")]
        rate = f"{one['questions_s']:.2f} ({one['min']:.2f}–{one['max']:.2f})"
        table.add_row(one["name"], rate, f"{one['to_lmms_eval']:.2f}", f"{one['to_one_by_one']:.2f}", *parts)
    Console(width=140).print(table)
    if json_file:
        json_file.write_text(
            json.dumps({"machine": machine(), "films": films, "repeats": repeats, "results": results}, indent=1)
        )


if __name__ == "__main__":
    typer.run(main)
