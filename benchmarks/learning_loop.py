"""What the quickstart learns, in one process: the supervised start and GRPO of the tiny model, without Ray and vLLM.

    python benchmarks/learning_loop.py OUT [task=video] [grid=2x2] [steps=60] [seed=1] [lr=1e-4] ...

For screening settings: about a second a step on one core. Media, rows, puzzles, model, reward, verl's advantages and
the packed forward pass are the quickstart's own; the draws differ. Arguments are fields of :class:`Settings`.
``OUT/runs/`` gets a file of JSON lines a run: its settings, what the model says before GRPO, and a line a step. Media
and supervised starts are kept in ``OUT`` and shared by its runs. What came of it: docs/learning.md.
"""

import json
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from statistics import fmean
from typing import Annotated, Any, get_args

import numpy as np
import torch
import typer
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor
from torch.optim import AdamW, Optimizer
from transformers import AutoModelForImageTextToText, AutoProcessor, DynamicCache
from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage, kl_penalty
from verl.utils.torch_functional import get_cosine_schedule_with_warmup
from yaml import YAMLError

from jigsaw.difficulty import Difficulty, at_level
from jigsaw.errors import JigsawError, OptionError
from jigsaw.files import write_json
from jigsaw.packing.layout import Layout
from jigsaw.packing.model import take_packs
from jigsaw.prepare.images import parse_grid
from jigsaw.prepare.pipeline import prepare_rows
from jigsaw.processes import told_in_one_line
from jigsaw.puzzle import Message, Puzzle
from jigsaw.response import reply_of
from jigsaw.reward import SHAPES, compute_score
from jigsaw.rows import Row, read_rows
from jigsaw.solve import shown, without_content
from jigsaw.tasks import cut, plan
from jigsaw.toy.model import build_tiny_model
from jigsaw.toy.quickstart import (
    BATCH,
    FORM_PUZZLES,
    RECALL,
    RECALL_BATCH,
    UNSAID,
    Part,
    Quickstart,
    warm_start_steps_of,
)
from jigsaw.toy.settings import FORMED, RAISE_AT, ROUNDS, WINDOW, Kind
from jigsaw.toy.settings import Settings as ToldQuickstart
from jigsaw.toy.warm_start import (
    Example,
    name_thought,
    named,
    names_of,
    phrases_of,
    recall_example,
    warm_start_example,
)
from jigsaw.verl_plugin.positions import get_rope_index

MEASURED, EVERY = 120, 10
"""Held-out puzzles that are asked every so many steps; all of them after the last one."""
SUPERVISED = ("task", "grid", "begin_with", "clips", "points", "seed", "recall", "warm_steps", "warm_lr", "truth")
"""What a supervised start depends on."""

LEAST = {"seed": 0, "steps": 1, "recall": 0, "prompts": 1, "n": 2, "lr": 0, "threads": 1}
TASKS = tuple(task for task in get_args(Kind) if task != "mixture")
WEIGHS = ("alike", "rare", "spread")
"""See :func:`weights`."""


@dataclass(frozen=True)
class Settings:
    """What a run is told; the defaults are the quickstart's, on 2×2 tiles."""

    task: str = "image"
    grid: str = ""
    """Empty: 2×2, if the task is to order tiles."""
    begin_with: str = ""
    """Easier grids, in turn, with commas; one is the quickstart's option."""
    clips: int = 2
    points: int = 2
    seed: int = 0
    steps: int = 30
    recall: int = RECALL
    """Supervised steps on text."""
    warm_steps: int | None = None
    """Supervised steps on puzzles; None: rounds as long as the quickstart's, until replies have the form and names are
    right."""
    warm_lr: float = 1e-3
    truth: bool = False
    """Whether the supervised start teaches the true orders: a bound on what the model can learn."""
    prompts: int = BATCH
    n: int = 16
    lr: float = 2e-4
    by_std: bool = True
    """Whether advantages are divided by the standard deviation of their group."""
    weigh: str = WEIGHS[0]
    """How the replies to a prompt weigh: see :func:`weights`."""
    entropy_coeff: float = 0.0
    kl_coef: float = 0.1
    """Weight of the divergence from the supervised start, by verl's ``low_var_kl``."""
    gamma: float = 0.2
    shape: str = "position"
    frozen: bool = False
    """Whether GRPO leaves the vision tower as it is."""
    blind: bool = False
    """Whether GRPO shows no media, in training and in its tests: the text of the prompts alone."""
    threads: int = 1


Prompt = dict[str, Tensor]
"""What the model takes of a prompt: token ids (L,), places (3, L), patches and grids of its media."""
SEEN = ("pixel_values", "image_grid_thw", "pixel_values_videos", "video_grid_thw")


class Loop:
    """The pictures, the model, and both kinds of training."""

    def __init__(self, out: Path, settings: Settings) -> None:
        self.out, self.settings = out, settings
        self.blind = False
        """Whether no media are shown; the supervised start shows them in any case."""
        part = part_of(out, settings)
        assert part.world is not None
        self.world = part.world
        kept = out / f"{self.world} seed {settings.seed}".replace(" ", "_")
        self.media, rendered, data = kept / self.world.root, kept / self.world.folder, kept / "data"
        self.world.write(rendered, workers=2)
        prepare_rows(rendered, data, self.world.options(28, self.media), progress=lambda done, total: None)
        self.train, self.held_out = (read_rows(data / f"{part}.parquet") for part in ("train", "val"))
        easier = easier_grids(settings)
        grids = tuple(map(parse_grid, (*easier, settings.grid))) if easier else ()
        self.schedule = Difficulty(grids, RAISE_AT, WINDOW) if grids else None
        self.lessons = [at_level(row, "image", grid) for grid in grids for row in self.train] or self.train
        random_model = kept / f"random_{settings.begin_with}"
        made = build_tiny_model(
            random_model,
            seed=settings.seed,
            words=self.world.words,
            phrases=phrases_of(self.world, [plan(row, settings.seed) for row in self.lessons[:: len(self.train)]]),
            max_pixels=self.world.pixels,
        )
        self._load(made)

    def _load(self, folder: Path) -> None:
        """Take the weights in a folder: a model that takes packs, and one of the same weights that draws replies."""
        self.processor = AutoProcessor.from_pretrained(folder)
        self.model, self.drawing = (AutoModelForImageTextToText.from_pretrained(folder) for _ in range(2))
        self.drawing.load_state_dict(self.model.state_dict(keep_vars=True), assign=True)
        take_packs(self.model)

    def prompt(self, messages: Any, media: Sequence[Any], *, grey: bool = False) -> Prompt:
        """A chat with its media, greyed out or not, as the model takes it; without them if that is what is asked."""
        if self.blind:
            messages, media = [_text_of(message) for message in messages], []
        given = shown([without_content(medium) if grey else medium for medium in media])
        text = self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        made = self.processor(text=[text], return_tensors="pt", **given)
        seen = {name: made[name] for name in SEEN if name in made}
        where = {name: made[name] for name in (*SEEN[1::2], "second_per_grid_ts") if name in made}
        ids, where["attention_mask"] = made["input_ids"][0], made["attention_mask"][0]
        return {"input_ids": ids, "position_ids": get_rope_index(self.processor, input_ids=ids, **where), **seen}

    def log_probs(
        self, prompts: Sequence[Prompt], replies: Sequence[Sequence[Tensor]], model: Any = None
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies of all tokens of the replies to each prompt, one behind the other."""
        lengths = tuple(tuple(map(len, group)) for group in replies)
        pack = Layout(tuple(len(prompt["input_ids"]) for prompt in prompts), lengths, torch.device("cpu"))
        ids = pack.join([prompt["input_ids"] for prompt in prompts], replies)[None]
        places = pack.positions([prompt["position_ids"] for prompt in prompts])[:, None]
        found: tuple[Tensor, Tensor] = (model or self.model)(
            pack=pack, input_ids=ids, position_ids=places, **_seen(prompts)
        )
        return found

    @torch.no_grad()
    def draw(self, prompts: Sequence[Prompt], n: int, *, greedy: bool = False) -> list[list[Tensor]]:
        """``n`` replies to each prompt, all prompts of one length; a prompt passes through once for all of them."""
        config, cache = self.drawing.config, DynamicCache()
        end, never = config.text_config.eos_token_id, [config.image_token_id, config.video_token_id]
        ids = torch.stack([prompt["input_ids"] for prompt in prompts])
        places = torch.stack([prompt["position_ids"] for prompt in prompts], 1)
        given = {"input_ids": ids, "position_ids": places, "past_key_values": cache, **_seen(prompts)}
        logits = self.drawing(**given, logits_to_keep=1).logits[:, -1]
        cache.batch_repeat_interleave(n)
        logits, place = logits.repeat_interleave(n, 0), places[..., -1:].repeat_interleave(n, 1)
        drawn: list[Tensor] = []
        over = torch.zeros(len(logits), dtype=torch.bool)
        while not over.all() and len(drawn) < 16 + 10 * self.world.pieces:
            logits[:, never] = -math.inf
            token = logits.argmax(-1) if greedy else torch.multinomial(logits.softmax(-1), 1)[:, 0]
            drawn.append(token)
            over |= token == end
            hidden = self.drawing.model.language_model(
                input_ids=token[:, None], position_ids=place + len(drawn), past_key_values=cache
            )
            logits = self.drawing.lm_head(hidden.last_hidden_state[:, 0])
        rows = torch.stack(drawn, 1)
        kept = (rows == end).cumsum(1) - (rows == end).int() == 0
        replies = [row[mask] for row, mask in zip(rows, kept, strict=True)]
        return [replies[at : at + n] for at in range(0, len(replies), n)]

    def text(self, reply: Tensor) -> str:
        """A reply as the reward reads it."""
        return str(self.processor.decode(reply, skip_special_tokens=True))

    def score(self, row: Row, puzzle: Puzzle, reply: Tensor) -> dict[str, float]:
        """The reward of a reply, and the share of pieces that its thought names right."""
        told: dict[str, Any] = {"gamma": self.settings.gamma, "shape": self.settings.shape}
        text = self.text(reply)
        scores = compute_score(f"visual_jigsaw_{puzzle.task}", text, puzzle.answer, puzzle.extra_info, **told)
        return scores | {"named": named(self.world, row, puzzle, text)}

    def measure(self, rows: Sequence[Row], *, greedy: bool = True, grey: bool = False) -> dict[str, float]:
        """Mean scores of a reply to each row's puzzle; what is drawn is the same whatever was drawn before."""
        with torch.random.fork_rng():
            torch.manual_seed(self.settings.seed)
            return self._measure(rows, greedy=greedy, grey=grey)

    def _measure(self, rows: Sequence[Row], *, greedy: bool, grey: bool) -> dict[str, float]:
        found = []
        for at in range(0, len(rows), 32):
            asked = rows[at : at + 32]
            puzzles = [cut(plan(row, self.settings.seed), self.media) for row in asked]
            replies = self.draw([self.prompt(p.messages, p.media, grey=grey) for p in puzzles], 1, greedy=greedy)
            together = zip(asked, puzzles, replies, strict=True)
            found += [self.score(row, puzzle, reply) for row, puzzle, (reply,) in together]
        return {name: fmean(scores[name] for scores in found) for name in found[0]}

    def example(self, index: int) -> Example:
        """A puzzle of the supervised start, as the quickstart has them, or one that teaches the true order."""
        told: Any = {"seed": self.settings.seed, "world": self.world}
        if not self.settings.truth:
            return warm_start_example(self.lessons, self.media, index, **told)
        row = random.Random(f"{self.settings.seed}/{index}").choice(self.lessons)
        puzzle = cut(plan(row, self.settings.seed, index), self.media)
        thought = name_thought(names_of(self.world, row, puzzle), puzzle.answer)
        return Example(puzzle.messages, puzzle.media, reply_of(puzzle.answer, "answer_tag", thought))

    def warm_start(self) -> float:
        """The supervised start, or what an earlier run has left of it; the seconds that it took."""
        told, begin = self.settings, time.time()
        folder = self.out / "warm" / "_".join(str(getattr(told, name)) for name in SUPERVISED)
        seconds = folder / "seconds.json"
        if not seconds.is_file():
            self._supervise(
                range(told.recall),
                RECALL_BATCH,
                partial(recall_example, self.lessons, seed=told.seed, world=self.world),
            )
            steps, rounds = told.warm_steps, 1
            if steps is None:
                steps, rounds = warm_start_steps_of(self.world.pieces, self.world), ROUNDS
            for number in range(rounds):
                self._supervise(range(number * steps, (number + 1) * steps), BATCH, self.example)
                scores = self.measure(self.train[:FORM_PUZZLES], greedy=False)
                valid, right = scores["valid_permutation"], scores["named"]
                print(f"warm start: {(number + 1) * steps} steps, {valid:.0%} valid, {right:.0%} named", flush=True)
                if valid >= FORMED and right >= self.world.named:
                    break
            self.drawing.save_pretrained(folder)
            self.processor.save_pretrained(folder)
            write_json(seconds, time.time() - begin)
        self._load(folder)
        return float(json.loads(seconds.read_text()))

    def _supervise(self, steps: range, batch: int, example: Callable[[int], Example]) -> None:
        optimizer = AdamW(self.model.parameters(), lr=self.settings.warm_lr, weight_decay=0.01)
        schedule = get_cosine_schedule_with_warmup(optimizer, 20, len(steps), min_lr_ratio=0.05)
        begin, tokens = time.time(), self.processor.tokenizer
        end = tokens.eos_token
        for done, step in enumerate(steps, 1):
            examples = [example(step * batch + place) for place in range(batch)]
            given = [len(tokens(each.given)["input_ids"]) for each in examples]
            replies = [torch.tensor(tokens(each.given + each.reply + end)["input_ids"]) for each in examples]
            learned = [torch.arange(len(reply)) >= known for reply, known in zip(replies, given, strict=True)]
            prompts = [self.prompt(each.messages, each.media) for each in examples]
            loss = -self.log_probs(prompts, [[reply] for reply in replies])[0][torch.cat(learned)].mean()
            self._update(optimizer, loss)
            schedule.step()
            if done % 100 == 0:
                print(f"  {done} loss {loss.item():.3f} {(time.time() - begin) / done:.2f} s", flush=True)

    def _update(self, optimizer: Optimizer, loss: Tensor) -> float:
        """A step of the optimizer; the norm of the gradient."""
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        optimizer.step()
        return float(norm)

    def _advantages(self, scores: Sequence[dict[str, float]], answers: Sequence[Sequence[str]]) -> Tensor:
        """Of all replies, group after group, by verl, each times its weight."""
        told = self.settings
        rewards = torch.tensor([[each["score"]] for each in scores])
        groups = np.arange(len(answers)).repeat(told.n)
        found, _ = compute_grpo_outcome_advantage(
            rewards, torch.ones_like(rewards), groups, norm_adv_by_std_in_grpo=told.by_std
        )
        weighed = torch.tensor([weights(group, self.world.pieces, told.weigh) for group in answers]).flatten()
        advantages: Tensor = found[:, 0] * weighed / weighed.mean().clamp(min=1e-6)  # a step is as long for any weights
        return advantages

    def grpo(self) -> Iterator[dict[str, Any]]:
        """Train; what is logged of each step."""
        told = self.settings
        torch.manual_seed(told.seed)
        rng = random.Random(told.seed)
        self.model.model.visual.requires_grad_(not told.frozen)
        optimizer = AdamW(self.model.parameters(), lr=told.lr, weight_decay=0.0)
        rows = ((row, epoch) for epoch in range(1000) for row in rng.sample(self.train, len(self.train)))
        solved: list[float] = []
        start = deepcopy(self.model) if told.kl_coef else None
        for step in range(1, told.steps + 1):
            begin = time.time()
            drawn = list(islice(rows, told.prompts))
            if self.schedule:
                grid = self.schedule.levels[self.schedule.level(solved)]
                drawn = [(dict(at_level(row, "image", grid)), epoch) for row, epoch in drawn]
            puzzles = [cut(plan(row, told.seed, epoch), self.media) for row, epoch in drawn]
            prompts = [self.prompt(puzzle.messages, puzzle.media) for puzzle in puzzles]
            replies = self.draw(prompts, told.n)
            asked = zip(drawn, puzzles, replies, strict=True)
            scores = [self.score(row, puzzle, reply) for (row, _), puzzle, group in asked for reply in group]
            said = (  # what is no permutation is one answer more
                self.text(reply).rpartition("<answer>")[2] if score["valid_permutation"] else ""
                for reply, score in zip(chain.from_iterable(replies), scores, strict=True)
            )
            answers = [list(islice(said, told.n)) for _ in replies]
            advantages = self._advantages(scores, answers)
            lengths = torch.tensor([len(reply) for group in replies for reply in group])
            chosen, entropy = self.log_probs(prompts, replies)
            # One update a step: the ratio to the policy that drew is 1, and nothing is clipped.
            loss = -(advantages.repeat_interleave(lengths) * chosen).mean() - told.entropy_coeff * entropy.mean()
            if start is not None:
                known = self.log_probs(prompts, replies, model=start)[0].detach()
                loss = loss + told.kl_coef * kl_penalty(chosen, known, "low_var_kl").mean()
            norm = self._update(optimizer, loss)
            logged: dict[str, Any] = {name: fmean(each[name] for each in scores) for name in scores[0]}
            solved.append(logged["exact"])
            logged |= {"answers": len(set(chain.from_iterable(answers))), "entropy": entropy.mean().item()}
            logged |= {"norm": norm, "step": step, "seconds": time.time() - begin}
            if step % EVERY == 0 or step == told.steps:
                logged["held_out"] = self.measure(self.held_out[: None if step == told.steps else MEASURED])
            yield logged
        yield {
            "grey": self.measure(self.held_out, grey=True),
            "after_sampled": self.measure(self.held_out, greedy=False),
            "peak_gib": getrusage(RUSAGE_SELF).ru_maxrss / 2**20,
        }


def weights(answers: Sequence[str], pieces: int, weigh: str) -> list[float]:
    """How the replies to a prompt weigh, by their answers.

    ``rare``: all answers alike, however many replies give them, and 1 on average; ``spread``: replies alike, by how
    many of the answers that could be are there. PuzzleCraft (arXiv 2512.14944) weighs prompts whose replies agree less.
    """
    counts = Counter(answers)
    if weigh == "rare":
        return [len(answers) / len(counts) / counts[answer] for answer in answers]
    most = min(len(answers), math.factorial(pieces))
    share = (len(counts) - 1) / (most - 1) if weigh == "spread" else 1.0
    return [share] * len(answers)


def _text_of(message: Message) -> Message:
    parts = message["content"]
    return message if isinstance(parts, str) else {**message, "content": [p for p in parts if p["type"] == "text"]}


def _seen(prompts: Sequence[Prompt]) -> Prompt:
    return {name: torch.cat([prompt[name] for prompt in prompts]) for name in SEEN if name in prompts[0]}


def easier_grids(settings: Settings) -> list[str]:
    """Those that it begins with, as text; none for its own alone."""
    return settings.begin_with.split(",") if settings.begin_with else []


def part_of(out: Path, settings: Settings) -> Part:
    """The quickstart's puzzles of these settings.

    Raises:
        JigsawError: if it has none such.
    """
    named: Any = {name: getattr(settings, name) for name in ("grid", "seed", "task", "clips", "points")}
    easier = easier_grids(settings)
    try:
        pieces = [math.prod(parse_grid(grid)) for grid in easier]
    except OptionError as error:
        raise OptionError("begin_with", settings.begin_with, "must name grids, for example 2x1,1x2") from error
    if len(set(easier)) < len(easier) or pieces != sorted(pieces):
        raise OptionError("begin_with", settings.begin_with, "must name grids that get no easier, each once")
    for begin_with in easier or [None]:
        told = ToldQuickstart(begin_with=begin_with, images=None, warm_start_steps=None, **named)
        (part,) = Quickstart(out, told, settings.steps).parts
    return part


def settings_of(told: Sequence[str]) -> Settings:
    """The defaults, but for what is told as NAME=VALUE.

    Raises:
        JigsawError: if there is no such setting, or the value is no such thing.
    """
    try:
        settings: Any = OmegaConf.to_object(OmegaConf.merge(Settings, OmegaConf.from_dotlist(list(told))))
    except (OmegaConfBaseException, YAMLError) as error:
        raise JigsawError(f"{' '.join(told)}: {str(error).splitlines()[0]}") from error
    for name, known in {"weigh": WEIGHS, "task": TASKS, "shape": SHAPES}.items():
        if getattr(settings, name) not in known:
            raise OptionError(name, getattr(settings, name), f"must be one of {', '.join(known)}")
    for name, least in LEAST.items():
        if getattr(settings, name) < least:
            raise OptionError(name, getattr(settings, name), f"must be {least} or more")
    return replace(settings, grid=settings.grid or ("2x2" if settings.task == "image" else UNSAID["grid"]))


def main(
    out: Annotated[Path, typer.Argument(help="Folder of media, supervised starts and logs.")],
    told: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME=VALUE]...", help=f"Of: {', '.join(field.name for field in fields(Settings))}."),
    ] = None,
) -> None:
    """Train the tiny model in one process.

    Example: python benchmarks/learning_loop.py outputs/loop grid=2x1 steps=20 seed=1
    """
    with told_in_one_line(lambda: print("stopped; a supervised start that is done is kept")):
        run(out, told or [])


def run(out: Path, words: Sequence[str]) -> None:
    """Start, train and log."""
    settings = settings_of(words)
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    loop = Loop(out, settings)
    told = asdict(settings) | {"chance": 1 / math.factorial(loop.world.pieces)}
    before: dict[str, Any] = {"warm_start_seconds": loop.warm_start()}
    loop.blind = settings.blind
    before |= {"before": loop.measure(loop.held_out), "sampled": loop.measure(loop.held_out, greedy=False)}
    (loop.out / "runs").mkdir(exist_ok=True)
    with (loop.out / "runs" / f"{' '.join(sorted(words)) or 'quickstart'}.jsonl").open("w") as log:
        for line in chain((told, before), loop.grpo()):
            print(json.dumps(line), file=log, flush=True)
            shown = {
                name: round(line[name], 3) for name in ("step", "score", "exact", "entropy", "answers") if name in line
            }
            print(shown, line.get("held_out", {}).get("exact", ""), flush=True)


if __name__ == "__main__":
    typer.run(main)
