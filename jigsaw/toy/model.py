"""A tiny Qwen2.5-VL or Qwen3-VL with random weights: the real architecture and processor, an own tokenizer."""

import os
from importlib.resources import files
from itertools import product
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from jigsaw.files import atomic_folder
from jigsaw.prompts import render
from jigsaw.rows import ANSWER_FORMATS

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
MARKUP = ("<think>", "</think>", "<answer>", "</answer>")
"""One token each, so that a reply is short; ordinary text to whoever decodes it."""
PATCH = {"qwen2_5_vl": 14, "qwen3_vl": 16}
"""By family: pixels of a side of a vision patch; 2 × 2 patches make one token, 28 and 32 pixels at its side."""
WIDTH = 128
"""Of all layers."""
INITIAL = WIDTH**-0.5
"""Standard deviation of the random weights, by which a layer keeps the size of what it is given. Of Qwen's 0.02, meant
for layers twenty times as wide, 400 supervised steps saw nothing on the discs of rooms, where of this 300 did."""
_FRAMES = 64
"""Of a video at full size."""


def build_tokenizer(texts: list[str], vocabulary: int = 1024, phrases: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with Qwen's special tokens; every digit is a token of its own.

    Unlike Qwen's it may merge across words, so that the fixed wording of a prompt is a handful of tokens and a tiny
    model on a CPU spends its time on the pictures.

    Args:
        texts: what the merges are learned from; other text still tokenizes, byte by byte.
        vocabulary: largest number of tokens learned.
        phrases: texts that are one token each, besides.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in (*MARKUP, *phrases)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token=None,
        extra_special_tokens=list(SPECIAL_TOKENS[1:]),
        model_max_length=4096,
    )


def build_config(tokenizer: PreTrainedTokenizerFast, family: str = "qwen2_5_vl") -> Qwen2_5_VLConfig | Qwen3VLConfig:
    """A family's layout at about a million parameters."""
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    text: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "initializer_range": INITIAL,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
        "tie_word_embeddings": True,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
    }
    tower: dict[str, Any] = {
        "depth": 2,
        "initializer_range": INITIAL,
        "hidden_size": WIDTH,
        "intermediate_size": 256,
        "num_heads": 4,
        "out_hidden_size": WIDTH,
        "patch_size": PATCH[family],
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    both = {
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "tie_word_embeddings": True,
    }
    if family == "qwen3_vl":
        text |= {"head_dim": 32}
        text["rope_parameters"] |= {"mrope_interleaved": True}
        tower |= {"deepstack_visual_indexes": [0], "num_position_embeddings": 64}
        return Qwen3VLConfig(text_config=text, vision_config=tower, **both)
    tower |= {"window_size": 112, "tokens_per_second": 2, "fullatt_block_indexes": [1]}
    return Qwen2_5_VLConfig(text_config=text, vision_config=tower, **both)


def build_processor(
    tokenizer: PreTrainedTokenizerFast, family: str = "qwen2_5_vl", max_pixels: int = 112 * 112
) -> Qwen2_5_VLProcessor | Qwen3VLProcessor:
    """A family's processor around the tokenizer.

    Args:
        tokenizer: see :func:`build_tokenizer`.
        family: one of :data:`jigsaw.shapes.FAMILIES`.
        max_pixels: a picture with more pixels is scaled down.
    """
    patch = PATCH[family]
    size = {"shortest_edge": (2 * patch) ** 2, "longest_edge": max_pixels}
    template = (files("jigsaw.toy") / "chat_template.jinja").read_text(encoding="utf-8")
    if family == "qwen3_vl":
        grey = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        return Qwen3VLProcessor(
            image_processor=Qwen2VLImageProcessor(patch_size=patch, size=size, **grey),
            tokenizer=tokenizer,
            # Its limit is of all frames of a video together.
            video_processor=Qwen3VLVideoProcessor(
                patch_size=patch, size={**size, "longest_edge": _FRAMES * max_pixels}, **grey
            ),
            chat_template=template,
        )
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(patch_size=patch, size=size),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(patch_size=patch, size=size),
        chat_template=template,
    )


def prompt_texts(extra: list[str]) -> list[str]:
    """What the tokenizer learns its merges from: all prompts of small grids, and ``extra``."""
    grids = [(rows, columns) for rows, columns in product(range(1, 4), repeat=2) if rows * columns > 1]
    prompts = [
        render("image", answer_format, rows=rows, columns=columns)
        for (rows, columns), answer_format in product(grids, ANSWER_FORMATS)
    ]
    chat = ["system\n", "user\n", "assistant\n"]
    return [*prompts, *chat * 50, *extra * 50]


def build_tiny_model(
    folder: str | os.PathLike[str],
    *,
    family: str = "qwen2_5_vl",
    seed: int = 0,
    words: tuple[str, ...] = (),
    phrases: tuple[str, ...] = (),
    max_pixels: int = 112 * 112,
) -> Path:
    """Write a tiny model as a Hugging Face folder, whole or not at all.

    Args:
        folder: where to; a folder that is there already is kept.
        family: one of :data:`jigsaw.shapes.FAMILIES`.
        seed: of the random weights.
        words: texts that should take few tokens, for example the warm start's replies.
        phrases: texts that are one token each.
        max_pixels: a picture with more pixels is scaled down.

    Returns:
        The folder.
    """
    folder = Path(folder)
    if folder.is_dir():
        return folder
    tokenizer = build_tokenizer(prompt_texts(list(words)), phrases=phrases)
    torch.manual_seed(seed)
    kind = Qwen3VLForConditionalGeneration if family == "qwen3_vl" else Qwen2_5_VLForConditionalGeneration
    model = kind(build_config(tokenizer, family))
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    with atomic_folder(folder) as draft:
        model.save_pretrained(draft)
        build_processor(tokenizer, family, max_pixels).save_pretrained(draft)
    return folder
