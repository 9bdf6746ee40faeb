"""The time of a step that is worked out (jigsaw/pace.py)."""

from dataclasses import replace

import pytest

from jigsaw.pace import PEAK, SHARE_OF_ROLLOUT, pace
from jigsaw.verl_plugin.launch import CONFIGS, compose_config
from jigsaw.verl_plugin.memory import setup_of


def test_it_follows_the_number_of_gpus_the_replies_and_what_is_trained() -> None:
    eight = setup_of(compose_config(CONFIGS, "image"), 80.0)
    at_eight = pace(eight, 16, 700, 450)
    written = 256 * 16 * 450 * 2 * eight.shapes.text.parameters / (8 * PEAK * SHARE_OF_ROLLOUT)
    assert at_eight.rollout == pytest.approx(written, rel=0.02)  # prompts are read many tokens at a time
    assert pace(replace(eight, gpus_per_node=4), 16, 700, 450).step == pytest.approx(2 * at_eight.step)
    assert pace(eight, 16, 700, 900).rollout == pytest.approx(2 * at_eight.rollout, rel=0.02)
    # 17 × 450 + 700 tokens through 7.6e9 weights, four times, two FLOP each, at the assumed share.
    assert at_eight.update == pytest.approx(39, rel=0.1)
    assert pace(replace(eight, adapter=1), 16, 700, 450).update == pytest.approx(0.75 * at_eight.update)
    with_a_reference = replace(eight, log_probs=True, reference=True)
    assert pace(with_a_reference, 16, 700, 450).update == pytest.approx(1.5 * at_eight.update)
