"""Whether what a quickstart's model has learned carries over to what no puzzle asks.

    source train_scripts/env_cpu.sh
    .venv/bin/python benchmarks/probes.py RUN... [--json FILE]

A RUN is the output folder of a finished ``jigsaw quickstart``. Its random, its warm-started and its trained model are
shown media of a series of their own and asked three things: on which side a landscape has its sky, in which half of a
hall the nearest pillar stands, whether a film runs forwards. Each in two ways. ``tower``: a linear classifier on the
tokens of the vision tower, fitted to few media; how often it is right on others, chance 0.5. ``asked``: the question in
words, and how well the likelihoods of its two answers tell the media apart: the area under the curve, chance 0.5
whatever a model likes better.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated, Any

import numpy as np
import torch
import typer
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table
from run import machine
from sklearn.linear_model import RidgeClassifierCV
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from jigsaw.errors import JigsawError
from jigsaw.files import json_object, write_json
from jigsaw.media.video import Clip
from jigsaw.processes import told_in_one_line
from jigsaw.solve import shown
from jigsaw.toy.films import FPS, FRAMES, render_film
from jigsaw.toy.quickstart import load
from jigsaw.toy.rooms import SIZE, render_room
from jigsaw.toy.scenes import render_scene

SERIES = 1000
"""Seed of the media, which no run that is asked should have. They are rendered once for all models."""
FITTED, ASKED, DRAWS = 64, 400, 5
"""Media that a classifier is fitted to, those it is asked of, and how often others are drawn to fit it to."""
AS_RENDERED = {"shortest_edge": 1, "longest_edge": 10**9}
"""Pixels: media are seen as they are by all models, whatever those of a run were limited to."""
EVERY = 6
"""Frames of a film from one that is shown to the next."""

Result = dict[str, Any]


@dataclass(frozen=True)
class Probe:
    """A question with two answers.

    Attributes:
        question: in words, with its answers.
        answers: of a label of 0 and of 1.
        show: the medium of an index, and its label.
    """

    question: str
    answers: tuple[str, str]
    show: Callable[[int], tuple[Any, int]]


def _flipped(index: int) -> int:
    return int(np.random.default_rng([SERIES, index]).integers(2))


@cache
def sky(index: int) -> tuple[Image.Image, int]:
    """A landscape, upright (0) or upside down (1)."""
    picture = render_scene(SERIES, index)
    return (picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM), 1) if _flipped(index) else (picture, 0)


def middle_of_nearest(depth: np.ndarray) -> float:
    """The column in the middle of a hall's nearest pillar, in pixels, by its depths (H, W), 0 where nothing is known.

    The front of a pillar is flat and parallel to the picture.
    """
    columns = np.where(depth > 0, depth, np.inf).min(axis=0)
    return float(np.flatnonzero(np.isclose(columns, columns.min())).mean())


@cache
def nearest(index: int) -> tuple[Image.Image, int]:
    """A hall whose nearest pillar stands to the left (0) or to the right (1)."""
    view = render_room(SERIES, index)
    return view.colour, int(middle_of_nearest(view.depth) >= SIZE[0] / 2)


@cache
def course(index: int) -> tuple[Clip, int]:
    """A film, forwards (0) or backwards (1)."""
    frames = render_film(SERIES, index)[::EVERY]
    label = _flipped(index)
    turned = np.ascontiguousarray(frames[::-1] if label else frames)
    return Clip(torch.from_numpy(turned).permute(0, 3, 1, 2), tuple(range(0, FRAMES, EVERY)), FPS / EVERY), label


PROBES = {
    "sky's side": Probe("On which side is the sky, top or bottom?", ("top", "bottom"), sky),
    "nearest pillar's half": Probe("In which half is the nearest pillar, left or right?", ("left", "right"), nearest),
    "a film's course": Probe("Does the film run forwards or backwards?", ("forwards", "backwards"), course),
}


@torch.no_grad()
def looked_at(model: Any, processor: Any, probe: Probe, medium: Any) -> tuple[np.ndarray, float]:
    """The tokens of the tower, all in one row, and by how much the second answer is likelier than the first."""
    kind = "image" if isinstance(medium, Image.Image) else "video"
    messages = [{"role": "user", "content": [{"type": kind}, {"type": "text", "text": probe.question}]}]
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    tokens: list[np.ndarray] = []
    hook = model.model.visual.merger.register_forward_hook(
        lambda module, given, made: tokens.append(made.float().flatten().numpy())
    )
    likelihoods = []
    for answer in probe.answers:
        given = processor(text=[prompt + answer], return_tensors="pt", **shown([medium]))
        said = len(processor.tokenizer(answer)["input_ids"])
        chosen = given["input_ids"][0, -said:]
        logits = model(**given).logits[0, -said - 1 : -1]
        likelihoods.append(float(logits.log_softmax(-1).gather(1, chosen[:, None]).sum()))
    hook.remove()
    return tokens[0], likelihoods[1] - likelihoods[0]


def probed(folder: Path, probe: Probe, told: str) -> Result:
    """What a model's tower and its words tell of a probe's media."""
    model, processor = load(folder)
    for sized in (processor.image_processor, processor.video_processor):
        sized.size = AS_RENDERED
    media = (probe.show(index) for index in range(DRAWS * FITTED + ASKED))
    found = [
        (*looked_at(model, processor, probe, medium), label)
        for medium, label in track(media, told, total=DRAWS * FITTED + ASKED, transient=True, console=CONSOLE)
    ]
    tokens, differences, labels = map(np.array, zip(*found, strict=True))
    accuracies = []
    for draw in range(DRAWS):
        fitted = slice(draw * FITTED, (draw + 1) * FITTED)
        classifier = make_pipeline(StandardScaler(), RidgeClassifierCV(np.logspace(0, 6, 13)))
        classifier.fit(tokens[fitted], labels[fitted])
        accuracies.append(float(classifier.score(tokens[-ASKED:], labels[-ASKED:])))
    asked = float(roc_auc_score(labels[-ASKED:], differences[-ASKED:]))
    return {"tower": fmean(accuracies), "tower_sd": stdev(accuracies), "asked": asked}


REMEDY = "give the output folder of a finished quickstart"
"""What to do where a folder is none."""


@dataclass(frozen=True)
class Run:
    """A finished quickstart.

    Attributes:
        name: its task and seed.
        models: the folders of its models, by what has been done to them.
    """

    name: str
    models: dict[str, Path]

    @classmethod
    def read(cls, folder: Path) -> "Run":
        """What lies in its output folder.

        Raises:
            JigsawError: if it has not finished, or a model is not there.
        """
        if not (folder / "summary.json").is_file():
            raise JigsawError(f"{folder}: no finished quickstart; give its output folder")
        summary = json_object(folder / "summary.json", "grpo_steps", "tasks", remedy=REMEDY)
        seed = json_object(folder / "settings.json", "seed", remedy=REMEDY)["seed"]
        pieces = [each["pieces"] for each in summary["tasks"].values()]
        names = {"random": "random", "warm-started": "warm_start", "trained": f"step_{summary['grpo_steps']}"}
        models = {name: folder / "model" / place for name, place in names.items()}
        for model in models.values():
            if not (model / "config.json").is_file():
                raise JigsawError(f"{model}: no such model; {REMEDY}")
        return cls(f"{'mixture' if len(pieces) > 1 else pieces[0]}, seed {seed}", models)


def table(results: Sequence[Result]) -> Table:
    """A line a model; for each probe what the tower says and what the words."""
    lines = Table("run", "model", *PROBES, title="tower's tokens · asked in words; chance is 0.5 · 0.5")
    for run, model in dict.fromkeys((each["run"], each["model"]) for each in results):
        of_model = {each["probe"]: each for each in results if (each["run"], each["model"]) == (run, model)}
        cells = [
            f"{one['tower']:.3f} ± {one['tower_sd']:.3f} · {one['asked']:.3f}"
            for one in map(of_model.get, PROBES)
            if one
        ]
        lines.add_row(run, model, *cells)
    return lines


CONSOLE = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 150)


Runs = Annotated[list[Path], typer.Argument(help="Output folders of finished quickstarts.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the figures here.")]


def main(runs: Runs, json_file: JsonFile = None) -> None:
    """Ask models what no puzzle has asked them.

    Example: python benchmarks/probes.py outputs/quickstart --json probes.json
    """
    with told_in_one_line(lambda: CONSOLE.print("stopped")):
        results = [
            {"run": run.name, "model": name, "probe": what, **probed(folder, probe, f"{run.name}, {name}, {what}")}
            for run in [Run.read(folder) for folder in runs]
            for name, folder in run.models.items()
            for what, probe in PROBES.items()
        ]
        CONSOLE.print(table(results))
        if json_file is not None:
            settings = {"fitted": FITTED, "asked": ASKED, "draws": DRAWS}
            write_json(json_file, {"machine": machine(), **settings, "results": results})


if __name__ == "__main__":
    typer.run(main)
