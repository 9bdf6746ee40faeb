"""A custom reward, on top of ours: partial credit that grows with the square of the pieces in place.

    bash train_scripts/image.sh … reward.custom_reward_function.path=examples/reward.py

Run as a script, it scores two replies.
"""

from typing import Any

from jigsaw import reward

WEIGHT = 0.5
"""Of the partial credit; below 1, so that a wrong answer never beats a right one."""


def compute_score(
    data_source: str, solution_str: str, ground_truth: Any, extra_info: dict[str, Any], **options: Any
) -> dict[str, float]:
    """verl's call for each reply. ``score`` is what the model is trained on; all of it is logged as ``reward/…``."""
    scores = reward.compute_score(data_source, solution_str, ground_truth, extra_info, **options)
    if not scores["valid_permutation"]:
        return scores
    partial = WEIGHT * scores["position_accuracy"] ** 2
    return {**scores, "score": scores["format_reward"] + (1.0 if scores["exact"] else partial)}


if __name__ == "__main__":
    for answer in ("2, 1, 3", "2, 3, 1"):
        reply = f"<think>…</think><answer>{answer}</answer>"
        score = compute_score("visual_jigsaw_image", reply, (2, 1, 3), {"answer_format": "answer_tag"})
        print(f"{answer}: {score['score']:.3f}, right: {score['exact']:.0f}")
