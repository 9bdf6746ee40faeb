"""The supervised start of the tiny model: the answer's format and a few words for what it sees, never the order.

A model with random weights answers nothing that a reward could tell apart. So it first learns, from single tiles,
to name what they show, and from whole puzzles to answer in the right form, with orders drawn at random: what it
knows about order afterwards is chance, and everything above it comes from GRPO.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from jigsaw.permutation import answer_of
from jigsaw.puzzle import Message, Plan, Puzzle
from jigsaw.tasks import cut

IGNORED = -100
"""The label that the loss leaves out."""


@dataclass(frozen=True)
class Example:
    """A chat with its media in place, and the reply to learn."""

    messages: list[Message]
    media: list[Image.Image]
    reply: str


def order_example(plan: Plan, media_root: str, rng: random.Random) -> Example:
    """A puzzle with a reply of the right form whose order is drawn at random, whatever the pixels show."""
    puzzle = cut(plan, media_root)
    order = list(range(len(plan.order)))
    rng.shuffle(order)
    answer = ", ".join(str(place) for place in answer_of(order))
    return Example(plan.messages, puzzle.media, f"<think>{THOUGHT}</think><answer>{answer}</answer>")


def naming_example(tile: Image.Image, name: str) -> Example:
    """A single tile and what it shows."""
    content = [{"type": "image", "image": {}}, {"type": "text", "text": NAMING_PROMPT}]
    return Example([{"role": "user", "content": content}], [tile], name)


NAMING_PROMPT = "\nWhat is this?"
THOUGHT = "Look."
WORDS = ("sky", "ground", "sunny ", "shady ", THOUGHT, NAMING_PROMPT)
"""What the tokenizer should spell in few tokens."""


def scene_name(puzzle: Puzzle, place: int) -> str:
    """What the piece at a 0-based place of a rendered scene shows: sky or ground, towards the light or away from it."""
    rows, columns = puzzle.grid or (1, 1)
    row, column = divmod(puzzle.order[place], columns)
    light = "" if columns == 1 else "sunny" if column < columns / 2 else "shady"
    what = "" if rows == 1 else "sky" if row < rows / 2 else "ground"
    return f"{light} {what}".strip()


def picture_name(puzzle: Puzzle, place: int) -> str:
    """What the piece at a 0-based place of any picture shows, read off its pixels: brightness, colour, texture."""
    pixels = np.asarray(puzzle.pieces[place].convert("HSV").resize((32, 32)), dtype=np.float32)
    hue, saturation, value = (np.median(pixels[..., channel]) for channel in range(3))
    brightness = "dark" if value < 85 else "bright" if value > 170 else "medium"
    colour = "grey" if saturation < 40 else HUES[int(hue / 256 * len(HUES))]
    rough = np.abs(np.diff(pixels[..., 2], axis=0)).mean() > 12
    return f"{brightness} {colour} {'rough' if rough else 'smooth'}"


HUES = ("red", "yellow", "green", "cyan", "blue", "magenta")


def collate(processor: Any, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    """Right-padded model inputs with labels on the replies alone.

    Returns:
        The processor's tensors and ``labels``, int64 (batch, length).
    """
    prompts = [
        processor.apply_chat_template(example.messages, add_generation_prompt=True, tokenize=False)
        for example in examples
    ]
    processor.tokenizer.padding_side = "right"
    end = processor.tokenizer.eos_token
    inputs = processor(
        text=[prompt + example.reply + end for prompt, example in zip(prompts, examples, strict=True)],
        images=[tile for example in examples for tile in example.media],
        padding=True,
        return_tensors="pt",
    )
    labels = inputs["input_ids"].clone()
    lengths = inputs["attention_mask"].sum(1).tolist()
    for row, example in enumerate(examples):
        reply = len(processor.tokenizer(example.reply + end)["input_ids"])
        labels[row, : lengths[row] - reply] = IGNORED
        labels[row, lengths[row] :] = IGNORED
    return {**inputs, "labels": labels}


def train(
    model: torch.nn.Module,
    processor: Any,
    batch_of: Callable[[int], list[Example]],
    *,
    steps: int,
    learning_rate: float = 1e-3,
    on_step: Callable[[int], None] = lambda step: None,
) -> float:
    """Plain next-token training, AdamW with a linear warm-up over the first 20 steps and a linear decay.

    Args:
        model: a Qwen2.5-VL, changed in place.
        processor: its processor.
        batch_of: the examples of a step, 0-based.
        steps: number of steps.
        learning_rate: the highest.
        on_step: called with each step when it is done.

    Returns:
        The last step's loss.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / 20, 1.0) * max(1.0 - step / steps, 0.05)
    )
    model.train()
    for step in range(steps):
        loss = model(**collate(processor, batch_of(step))).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        on_step(step)
    model.eval()
    return float(loss.detach())
