"""The difficulty schedule in a run: what it measured lies beside the checkpoints, one JSON object a line."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensordict import TensorDict
from verl.utils import tensordict_utils

from jigsaw.difficulty import LEVELS, read_difficulties
from jigsaw.errors import JigsawError
from jigsaw.files import atomic_write

_MEND = "the schedule follows from it; put the file back, or begin a new run"


class Schedule:
    """The exact accuracies of a run's steps by task, in a file, and the level that follows from them.

    Args:
        folder: the run's checkpoints.
        config: ``data.difficulty``.
    """

    def __init__(self, folder: str | Path, config: Mapping[str, Any] | None) -> None:
        self._path = Path(folder) / "difficulty.jsonl"
        self._difficulties = read_difficulties(config)

    def _before(self, step: int) -> list[dict[str, Any]]:
        """What the steps before one measured; a run that was cut off may have measured later ones."""
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.is_file() else []
        try:
            entries = [entry for entry in map(json.loads, lines) if entry["step"] < step]
        except (ValueError, TypeError, KeyError) as error:
            raise JigsawError(f"{self._path}: {error!r}; {_MEND}") from error
        if [entry["step"] for entry in entries] != list(range(1, step)):
            raise JigsawError(f"{self._path}: does not hold each of the steps 1 to {step - 1} once; {_MEND}")
        return entries

    def levels(self, step: int) -> dict[str, int]:
        """0-based level of each task's prompts in a step: of what was measured in the steps before it.

        Raises:
            JigsawError: if the file does not say what each of them measured.
        """
        if not self._difficulties:
            return {}
        before = self._before(step)
        return {
            task: difficulty.level([entry[task] for entry in before if task in entry])
            for task, difficulty in self._difficulties.items()
        }

    def record(self, step: int, accuracies: Mapping[str, float | None]) -> None:
        """Write down what a step measured, by task, in place of what an earlier start measured from it on."""
        if not self._difficulties:
            return
        known = {task: value for task in self._difficulties if (value := accuracies.get(task)) is not None}
        with atomic_write(self._path) as file:  # whole, also where the run is killed
            for entry in [*self._before(step), {"step": step, **known}]:
                file.write(json.dumps(entry).encode() + b"\n")

    def choose(self, prompts: TensorDict) -> TensorDict:
        """Prompts with the puzzles of their step's level, of those that the dataset gives in ``extra_info.levels``."""
        given = list(prompts["extra_info"])
        if not any(LEVELS in extra for extra in given):
            return prompts  # no schedule, or held-out puzzles
        levels = self.levels(prompts["global_steps"])
        puzzles = [item_at_level({"extra_info": extra}, levels) for extra in given]
        for name in ("raw_prompt", "reward_model", "extra_info"):
            values = [puzzle.get(name, value) for puzzle, value in zip(puzzles, prompts[name], strict=True)]
            tensordict_utils.assign_non_tensor_stack(prompts, name, values)
        return prompts


def item_at_level(item: Mapping[str, Any], levels: Mapping[str, int]) -> Mapping[str, Any]:
    """The puzzle of an item of the dataset at its task's level; the item where it has no levels."""
    extra = item["extra_info"]
    puzzle: Mapping[str, Any] = extra[LEVELS][levels[extra["task"]]] if LEVELS in extra else item
    return puzzle
