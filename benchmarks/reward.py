"""Time of the reward against the released scorer's, in one run.

    python benchmarks/reward.py [--json FILE]

The released scorer's behaviour is written down here anew, from its description (repetition, then a pattern for the
format, then the last box, then numbers), with the plain means that it uses. Both read the same replies in turn, so a
busy machine slows both. A figure is the fastest of a round's repeats; median and spread are taken over the rounds.
"""

import argparse
import json
import platform
import random
import re
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from jigsaw.permutation import answer_of, draw
from jigsaw.reward import compute_score

K = 9
SENTENCE = "the tile shows sky above a dark roof and some grass near its lower edge so it belongs in the top row"
WORDS = SENTENCE.split()

PATTERN = re.compile(r"<think>.*</think>.*\\boxed{.*}.*", re.DOTALL)


def released_score(text: str, truth: list[int]) -> float:
    """The score as the released code works it out."""
    penalty, previous, run = 0.0, None, 0
    for line in text.strip().splitlines():
        if not line.strip():
            continue
        if len(line.strip().split()) < 7:
            previous, run = None, 0
            continue
        key = line.strip().lower()
        run = run + 1 if key == previous else 1
        previous = key
        if run > 3:
            penalty = -0.5
            break
    if not PATTERN.fullmatch(text):
        return 0.0
    start = text.rfind("\\boxed{") + len("\\boxed{")
    depth, end = 1, None
    for place, character in enumerate(text[start:], start):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            end = place
            break
    try:
        answer = [int(part.strip()) for part in text[start:end].split(",")]
    except ValueError:
        answer = []
    if answer == truth:
        return 1.2 + penalty
    partial = 0.0
    if len(answer) == len(set(answer)) == len(truth) > 4:
        partial = 0.2 * sum(a == b for a, b in zip(answer, truth, strict=True)) / len(truth)
    return 0.2 + partial + penalty


def reply(rng: random.Random, answer: tuple[int, ...], words: int, template: str) -> str:
    """A reply of about ``words`` words in lines of about 15 words."""
    lines = []
    for start in range(0, words, 15):
        lines.append(" ".join(rng.choices(WORDS, k=min(15, words - start))).capitalize() + ".")
    return template.format("\n".join(lines), ", ".join(map(str, answer)))


BOXED = "<think>{}</think>\n\\boxed{{{}}}"
TAGS = "<think>{}</think>\n<answer>{}</answer>"

Case = tuple[str, list[tuple[str, str, list[int]]]]
"""Name, and per reply: the boxed text, the same reply with answer tags, the true answer."""


def typical_cases(rng: random.Random, replies: int) -> list[Case]:
    cases: list[Case] = []
    for tokens in (20, 100, 500, 2000):
        items = []
        for number in range(replies):
            truth = answer_of(draw(K, seed=0, split="bench", sample_id=str(number), epoch=0))
            # One reply in four is right, as in the middle of a run.
            other = answer_of(draw(K, seed=1, split="bench", sample_id=str(number), epoch=0))
            answer = truth if number % 4 == 0 else other
            words = int(tokens / 1.3)
            state = rng.getstate()
            boxed = reply(rng, answer, words, BOXED)
            rng.setstate(state)
            items.append((boxed, reply(rng, answer, words, TAGS), list(truth)))
        cases.append((f"{tokens} tokens", items))
    return cases


def worst_cases(size: int) -> dict[str, str]:
    """Replies made to be slow, ``size`` characters each."""
    return {
        "thinking tags": "<think>" * (size // 7),
        "closed thinking tags": "<think>" + "</think>" * (size // 8),
        "open boxes": "<think></think>" + "\\boxed{" * (size // 7),
        "thinking ends and boxes": "<think>" + "</think>\\boxed{" * (size // 15),
        "answer tags": "<think></think>" + "<answer>" * (size // 8),
        "open braces": "<think></think>\\boxed{" + "{" * size,
        "commas": "<think></think>\\boxed{" + "," * size + "}",
        "one number": "<think></think>\\boxed{" + "1" * size + "}",
        "blanks": " " * size,
        "line ends": "<think>" + "\n" * size,
    }


def seconds(score: Callable[[], object], repeats: int) -> float:
    """The fastest of ``repeats`` calls."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        score()
        best = min(best, time.perf_counter() - start)
    return best


def compare(case: Case, rounds: int, repeats: int) -> dict[str, object]:
    """Microseconds a reply: the released way, and ours with both profiles."""
    name, items = case

    def released() -> None:
        for boxed, _, truth in items:
            released_score(boxed, truth)

    def ours_released() -> None:
        for boxed, _, truth in items:
            compute_score("visual_jigsaw_image", boxed, truth, {"answer_format": "boxed"})

    def ours_paper() -> None:
        for _, tags, truth in items:
            compute_score("visual_jigsaw_image", tags, truth, {"answer_format": "answer_tag"})

    times: dict[str, list[float]] = {"released code": [], "profile released": [], "profile paper": []}
    for _ in range(rounds):
        for way, score in zip(times, (released, ours_released, ours_paper), strict=True):
            times[way].append(seconds(score, repeats) / len(items) * 1e6)
    base = times["released code"]
    result: dict[str, object] = {"case": name, "replies": len(items), "rounds": rounds}
    for way, values in times.items():
        ratios = [value / reference for value, reference in zip(values, base, strict=True)]
        result[way] = {
            "microseconds": statistics.median(values),
            "spread": [min(values), max(values)],
            "ratio": statistics.median(ratios),
            "ratio_spread": [min(ratios), max(ratios)],
        }
    return result


def measure(repeats: int) -> list[dict[str, object]]:
    """See ``benchmarks/run.py``; ``repeats`` is the number of rounds."""
    results = []
    for case in typical_cases(random.Random(0), replies=64):
        figures = compare(case, repeats, repeats=5)
        other = figures["released code"]["microseconds"] / 1e6
        for profile in ("profile released", "profile paper"):
            ours = figures[profile]
            least, most = ours["spread"]
            results.append(
                {
                    "name": f"reward, {profile}, {case[0]}",
                    "ours_s": ours["microseconds"] / 1e6,
                    "ours_min_s": least / 1e6,
                    "ours_max_s": most / 1e6,
                    "other": "the released scorer, written anew",
                    "other_s": other,
                    "ratio": ours["ratio"],
                    "bar": None,
                }
            )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--replies", type=int, default=64, help="replies a case")
    parser.add_argument("--worst-size", type=int, default=1_000_000, help="characters of a worst-case reply")
    arguments = parser.parse_args()
    rng = random.Random(0)
    results = [compare(case, arguments.rounds, repeats=5) for case in typical_cases(rng, arguments.replies)]
    truth = list(range(1, K + 1))
    worst = [
        {
            "case": name,
            "characters": len(text),
            "milliseconds": {
                profile: 1e3 * seconds(partial(compute_score, "visual_jigsaw", text, truth, said), repeats=3)
                for profile, said in (
                    ("released", {"answer_format": "boxed"}),
                    ("paper", {"answer_format": "answer_tag"}),
                )
            },
        }
        for name, text in worst_cases(arguments.worst_size).items()
    ]

    console = Console()
    table = Table(title=f"Reward, microseconds a reply (N = {arguments.replies} replies, {arguments.rounds} rounds)")
    for column in ("case", "scorer", "median", "min–max", "× released code", "min–max"):
        table.add_column(column, justify="left" if column in ("case", "scorer") else "right")
    for result in results:
        for way in ("released code", "profile released", "profile paper"):
            figures = result[way]
            low, high = figures["spread"]
            ratio_low, ratio_high = figures["ratio_spread"]
            table.add_row(
                result["case"],
                way,
                f"{figures['microseconds']:.1f}",
                f"{low:.1f}–{high:.1f}",
                f"{figures['ratio']:.2f}",
                f"{ratio_low:.2f}–{ratio_high:.2f}",
            )
    console.print(table)
    table = Table(title="Worst cases, milliseconds a reply")
    for column in ("case", "characters", "profile released", "profile paper"):
        table.add_column(column, justify="left" if column == "case" else "right")
    for entry in worst:
        times = entry["milliseconds"]
        table.add_row(entry["case"], f"{entry['characters']:,}", f"{times['released']:.1f}", f"{times['paper']:.1f}")
    console.print(table)
    if arguments.json:
        record = {"python": sys.version.split()[0], "machine": platform.machine(), "typical": results, "worst": worst}
        arguments.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
