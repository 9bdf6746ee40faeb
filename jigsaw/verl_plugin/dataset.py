"""The dataset that verl trains on: rows become plans here, and pixels only where verl asks for them."""

import asyncio
import os
from collections.abc import Sequence
from functools import cache
from typing import Any, ClassVar

import torch
from omegaconf import DictConfig, ListConfig
from PIL import Image
from qwen_vl_utils.vision_process import IMAGE_MAX_TOKEN_NUM
from torch.utils.data import Dataset

from jigsaw.cutter import Cutter
from jigsaw.evaluation.questions import opened
from jigsaw.evaluation.shown import Media, Policy
from jigsaw.media.video import Clip
from jigsaw.puzzle import CutOptions, Message, media_specs
from jigsaw.verl_plugin.benchmarks import MARK, Benchmarks
from jigsaw.verl_plugin.plans import Plans, check_processor, word

_MERGE = 2
"""Of both families: patches a side of a token, frames a patch."""


class JigsawDataset(Dataset[dict[str, Any]]):
    """Plans of puzzles (see :class:`jigsaw.verl_plugin.plans.Plans`), and the media that they ask for.

    Rows to test on are followed by the questions of benchmarks that ``eval.suite`` asks for.

    What the launcher checks before a start (preflight.py) is checked here again, for those who start verl directly.

    Args:
        data_files: parquet file or files of rows, or sources; None stands for ``data.mixture``.
        tokenizer: not used; verl passes it.
        config: verl's ``data`` config with ``mixture``, ``media_root``, ``epochs``, ``seed`` and ``eval``.
        processor: verl's processor; None means that the model takes no pictures.
        max_samples: use the first so many rows of each source; all if not positive.

    Raises:
        JigsawError: for data or a model that cannot be trained on; the message names the file and the row.
    """

    benchmarks: Benchmarks | None
    """Questions that are asked beside the held-out puzzles; None for rows to train on."""
    training: ClassVar["JigsawDataset | None"] = None
    """The one that this process trains on, for the code that looks ahead: verl hands it to nobody."""

    def __init__(
        self,
        data_files: str | ListConfig | None,
        tokenizer: Any,
        config: DictConfig,
        processor: Any = None,
        max_samples: int = -1,
    ) -> None:
        check_processor(None if processor is None else type(processor).__name__)
        self._plans = Plans(data_files, config, max_samples)
        self._plans.check_rows(config.reward)
        self.benchmarks = None if self._plans.training else Benchmarks(config.eval)
        if self._plans.training:
            JigsawDataset.training = self

    def __len__(self) -> int:
        return len(self._plans) + len(self.benchmarks or ())

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The plan of one puzzle, as verl wants it: ``raw_prompt`` holds the messages with media specs.

        Behind the held-out puzzles come the questions of benchmarks.
        """
        rows = len(self._plans)
        item = self.benchmarks[index - rows] if self.benchmarks and index >= rows else self._plans[index]
        # verl's collate wants one tensor to know the batch size by.
        return {**item, "dummy_tensor": torch.tensor([0], dtype=torch.uint8)}

    @classmethod
    async def process_multi_modal_info(
        cls, messages: list[Message], image_patch_size: int, config: DictConfig
    ) -> tuple[list[Any] | None, list[Any] | None, list[Any] | None]:
        """(images, videos, audios) of a prompt, cut from the specs in its messages; verl calls it by this name.

        Raises:
            MediaError: if a file is missing, outside its source's media root or cannot be used, or the process that
                reads it dies or takes longer than ``data.cut_time_limit``.
        """
        spec = media_specs(messages)[0]
        if MARK in spec:
            return await asyncio.get_running_loop().run_in_executor(
                None, _of_benchmark, messages, image_patch_size, config
            )
        root = spec["media_root"]  # a prompt is of one source
        options = CutOptions(factor=_MERGE * image_patch_size)
        # As many as there are cores for each of the workers, which share their machine.
        readers = max(1, len(os.sched_getaffinity(0)) * config.nodes // config.agent_loop_workers)
        cutter = _cutter(readers, config.cut_time_limit)
        media = await asyncio.get_running_loop().run_in_executor(None, cutter.cut_media, messages, root, options)
        images = [item for item in media if isinstance(item, Image.Image)]
        clips = [item for item in media if isinstance(item, Clip)]
        return images or None, _timed(clips, config), None


def _of_benchmark(messages: list[Message], patch: int, config: DictConfig) -> tuple[Any, Any, None]:
    """The media of a benchmark's question; its pictures take three quarters of the longest prompt at most."""
    specs = media_specs(messages)
    names = iter(opened(spec[MARK]) for spec in specs)
    read = [
        {
            "content": [
                part if part["type"] == "text" else {"type": part["type"], "url": next(names)}
                for part in message["content"]
            ]
        }
        for message in messages
    ]
    tokens = min(IMAGE_MAX_TOKEN_NUM, config.max_prompt_length * 3 // 4)
    images, clips = _reader(patch, _MERGE, tokens)(read, Policy(specs[0]["frames"]))
    return list(images) or None, _timed(clips, config), None


def _timed(clips: Sequence[Clip], config: DictConfig) -> list[Any] | None:
    return [(clip.frames, clip.metadata(word(config.time_embedding))) for clip in clips] or None


_cutter, _reader = cache(Cutter), cache(Media)
"""One for all prompts of a process."""
