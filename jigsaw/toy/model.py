"""A tiny Qwen2.5-VL with random weights: the real architecture and processor, a tokenizer made on the spot."""

import os
from importlib.resources import files
from itertools import product
from pathlib import Path

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
PATCH = 14
"""Pixels of a side of a vision patch; 2 × 2 patches make one token, as in Qwen2.5-VL."""


def build_tokenizer(texts: list[str], vocabulary: int = 1024) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with Qwen's special tokens; every digit is a token of its own.

    Unlike Qwen's it may merge across words, so that the fixed wording of a prompt is a handful of tokens and a tiny
    model on a CPU spends its time on the pictures.

    Args:
        texts: what the merges are learned from; other text still tokenizes, byte by byte.
        vocabulary: largest number of tokens.
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
    tokenizer.add_tokens([AddedToken(tag, normalized=False) for tag in MARKUP])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token=None,
        extra_special_tokens=list(SPECIAL_TOKENS[1:]),
        model_max_length=4096,
    )


def build_config(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLConfig:
    """Qwen2.5-VL's layout at about a million parameters."""
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 128,
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
        },
        vision_config={
            "depth": 2,
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_heads": 4,
            "out_hidden_size": 128,
            "patch_size": PATCH,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "tokens_per_second": 2,
            "fullatt_block_indexes": [1],
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )


def build_processor(tokenizer: PreTrainedTokenizerFast, max_pixels: int = 112 * 112) -> Qwen2_5_VLProcessor:
    """Qwen2.5-VL's processor around the tokenizer.

    Args:
        tokenizer: see :func:`build_tokenizer`.
        max_pixels: a picture with more pixels is scaled down.
    """
    size = {"shortest_edge": (2 * PATCH) ** 2, "longest_edge": max_pixels}
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(patch_size=PATCH, size=size),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(patch_size=PATCH, size=size),
        chat_template=(files("jigsaw.toy") / "chat_template.jinja").read_text(encoding="utf-8"),
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


def build_tiny_model(folder: str | os.PathLike[str], *, seed: int = 0, words: tuple[str, ...] = ()) -> Path:
    """Write a tiny Qwen2.5-VL as a Hugging Face folder, whole or not at all.

    Args:
        folder: where to; a folder that is there already is kept.
        seed: of the random weights.
        words: texts that should take few tokens, for example the warm start's replies.

    Returns:
        The folder.
    """
    folder = Path(folder)
    if folder.is_dir():
        return folder
    tokenizer = build_tokenizer(prompt_texts(list(words)))
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(build_config(tokenizer))
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    with atomic_folder(folder) as draft:
        model.save_pretrained(draft)
        build_processor(tokenizer).save_pretrained(draft)
    return folder
