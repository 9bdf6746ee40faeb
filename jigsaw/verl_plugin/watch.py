"""What goes wrong in a run that goes on: a line for each, once it begins, from the metrics of its steps alone."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from statistics import fmean

from omegaconf import DictConfig

from jigsaw.errors import JigsawError

SAME_ANSWER = "same_answer"
"""The end of the metrics' names that say how many of a task's replies have the answer that most of them have."""


@dataclass(frozen=True)
class Limits:
    """``trainer.warnings``; means are over ``window`` steps, and null switches a warning off.

    Attributes:
        window: steps.
        floor: ``reward/TASK/chance_corrected`` up to which a task is not better than a guess, whose mean is 0.
        entropy_below: nats a token under which the model hardly draws.
        entropy_above: times the mean of the first window.
        same_answer: share of a task's replies that have one answer.
        at_limit: share of replies that are cut off at ``data.max_response_length``.
    """

    window: int
    floor: float | None
    entropy_below: float | None
    entropy_above: float | None
    same_answer: float | None
    at_limit: float | None

    @classmethod
    def of(cls, config: DictConfig) -> "Limits":
        """Of ``trainer.warnings``.

        Raises:
            JigsawError: if a limit is unknown, missing or no number above 0.
        """
        known = [field.name for field in fields(cls)]
        if unknown := {str(name) for name in config} ^ set(known):
            raise JigsawError(
                f"trainer.warnings has {', '.join(sorted(unknown))} or lacks it; it has {', '.join(known)}"
            )
        for name, value in config.items():
            if not (value is None and name != "window") and (
                isinstance(value, bool) or not isinstance(value, int | float) or value <= 0
            ):
                raise JigsawError(f"trainer.warnings.{name!s} is {value}; it must be a number above 0")
        if not isinstance(config.window, int):
            raise JigsawError(f"trainer.warnings.window is {config.window}; it must be a whole number of steps")
        return cls(**{str(name): value for name, value in config.items()})


class Watch:
    """Sees a run's steps go by."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._recent: dict[str, deque[float]] = {}
        self._usual_entropy: float | None = None
        self._said: set[str] = set()

    def see(self, metrics: Mapping[str, object]) -> list[str]:
        """A line for all that is wrong since this step; it is said anew only once it was right in between.

        Args:
            metrics: what verl's logger is told of the step.
        """
        for name, value in metrics.items():
            if _is_watched(name) and isinstance(value, int | float):
                self._recent.setdefault(name, deque(maxlen=self._limits.window)).append(float(value))
        found = dict(self._found())
        new = [line for what, line in found.items() if what not in self._said]
        self._said = set(found)
        return new

    def _means(self, fits: Callable[[str], bool]) -> Iterator[tuple[str, float]]:
        """Of each metric of which there is a window."""
        for name, values in self._recent.items():
            if fits(name) and len(values) == self._limits.window:
                yield name, fmean(values)

    def _found(self) -> Iterator[tuple[str, str]]:
        limits, over = self._limits, f"over {self._limits.window} steps"
        for name, mean in self._means(lambda name: name.endswith("/chance_corrected")):
            if limits.floor is not None and mean <= limits.floor:
                task = name.split("/")[1]
                yield (
                    name,
                    f"{task}: {mean:.3f} of the way from a guess to the right order {over}: the reward is at its "
                    "floor, where the format alone pays; fewer pieces (data.difficulty), or a look at the replies",
                )
        for name, mean in self._means(lambda name: name.endswith(f"/{SAME_ANSWER}")):
            if limits.same_answer is not None and mean >= limits.same_answer:
                task = name.split("/")[1]
                yield name, f"{task}: {mean:.0%} of the replies {over} have one answer, whatever they were shown"
        for _, mean in self._means("actor/entropy".__eq__):
            if self._usual_entropy is None:
                self._usual_entropy = mean
            if limits.entropy_below is not None and mean < limits.entropy_below:
                yield (
                    "collapse",
                    f"entropy {mean:.4f} nats a token {over}: replies hardly differ, so that there is little to learn; "
                    "actor.clip_ratio_high, or a lower learning rate",
                )
            if limits.entropy_above is not None and mean > limits.entropy_above * self._usual_entropy:
                yield (
                    "explosion",
                    f"entropy {mean:.2f} nats a token {over}, {mean / self._usual_entropy:.1f} times that of the "
                    "first: replies dissolve; a lower learning rate, or a length reward",
                )
        for _, mean in self._means("response_length/clip_ratio".__eq__):
            if limits.at_limit is not None and mean >= limits.at_limit:
                yield (
                    "limit",
                    f"{mean:.0%} of the replies {over} are cut off at data.max_response_length, and earn nothing; "
                    "raise it, or use a length reward",
                )


def _is_watched(name: str) -> bool:
    return name in ("actor/entropy", "response_length/clip_ratio") or (
        name.startswith("reward/") and name.count("/") == 2 and name.endswith(("/chance_corrected", f"/{SAME_ANSWER}"))
    )
