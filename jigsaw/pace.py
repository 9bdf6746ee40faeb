"""How long a training step takes, from arithmetic and assumed shares of a GPU's peak; nothing is measured."""

from dataclasses import dataclass

from jigsaw.flops import group_flops
from jigsaw.memory import Setup

PEAK = 989e12
"""FLOP/s of an H100 SXM in bfloat16, without sparsity."""
SHARE_OF_UPDATE, SHARE_OF_ROLLOUT = 0.35, 0.03
"""Of the peak, assumed: a pass over many tokens is bound by arithmetic, writing one by one by reading weights."""


@dataclass(frozen=True)
class Pace:
    """Seconds of a step.

    Attributes:
        rollout: until vLLM has written all replies.
        update: forward and backward pass over them, with the log-prob passes before it.
    """

    rollout: float
    update: float

    @property
    def step(self) -> float:
        """Both; checkpoints, tests and the weights' way to vLLM come on top."""
        return self.rollout + self.update


def pace(setup: Setup, responses: int, prompt_tokens: int, reply_tokens: int) -> Pace:
    """The pace of the packed engine on H100s; the vision tower and what goes to and from host memory are left out.

    Args:
        setup: of the run.
        responses: to a prompt.
        prompt_tokens: of a prompt, on average.
        reply_tokens: of a reply, on average.
    """
    shapes, speed = setup.shapes, PEAK * setup.gpus
    update = group_flops(shapes, prompt_tokens, [reply_tokens] * responses)
    # Of four passes (forward, forward again, two backward) an adapter spares the one to the frozen weights.
    passes = (3 if setup.adapter else 4) + setup.log_probs + setup.reference
    token = 2 * shapes.text.parameters
    read, write = token * prompt_tokens / SHARE_OF_UPDATE, token * responses * reply_tokens / SHARE_OF_ROLLOUT
    return Pace(
        rollout=setup.prompts * (read + write) / speed,
        update=setup.prompts * update * passes / 4 / (SHARE_OF_UPDATE * speed),
    )
