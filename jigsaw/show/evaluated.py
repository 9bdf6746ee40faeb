"""Evaluated models side by side: as a table, a chart and a page with right and wrong replies beside their pictures."""

import json
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from jigsaw.errors import JigsawError
from jigsaw.evaluation.results import Folder, Line, Score, as_json, warnings_of
from jigsaw.evaluation.table import markdown_table
from jigsaw.files import atomic_write
from jigsaw.media.image import encoded
from jigsaw.show.gallery import render, write_page

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = (".md", ".json", ".png", ".html")
_READ = {"paper": "paper's way", "fixed": "carefully", "own": ""}
_EXAMPLES = 3  # of each kind, task and model
_TASKS = 12
_SIDE = 320
_FIRST, _OTHER, _SOFT = "#8a8f98", "#2f6f5e", "#c9c5bb"


@dataclass(frozen=True)
class Told:
    """A table.

    Attributes:
        title: over it.
        columns: their names.
        rows: their cells.
    """

    title: str
    columns: list[str]
    rows: list[list[str]]


def tables(folders: Sequence[Folder], lines: Sequence[Line]) -> list[Told]:
    """What is told of evaluated models, in per cent: scores, the paper's, those on trained media; what there is."""
    first, *others = (Path(one.model).name for one in folders)
    columns = ["benchmark", "metric", "frames", "read", "questions", "chance", first, *others]
    found = [
        Told("Scores", [*columns, *(f"{other} − {first}" for other in others)], [_scores(line) for line in lines]),
        Told("The paper's figures", ["benchmark", "metric", "frames", "per cent"], list(_of_paper(lines))),
        Told(
            "Media that were trained on",
            ["benchmark", "metric", "read", "model", "media trained on", "other media"],
            list(_seen(folders, lines)),
        ),
    ]
    return [table for table in found if table.rows]


def _scores(line: Line) -> list[str]:
    asked = next(score for score in line.scores if score)
    return [
        line.benchmark,
        line.metric,
        str(line.frames or ""),
        _READ[line.protocol],
        f"{asked.n:,}",
        "" if line.chance is None else f"{100 * line.chance:.1f}",
        *(_score(score) for score in line.scores),
        *(_difference(line, place) for place in range(1, len(line.scores))),
    ]


def _of_paper(lines: Sequence[Line]) -> Iterator[list[str]]:
    for line in lines:
        if line.protocol == "paper" and line.paper:
            said = ", ".join(f"{model} {value:.2f}" for model, value in line.paper.items())
            yield [line.benchmark, line.metric, str(line.frames or ""), said]


def _seen(folders: Sequence[Folder], lines: Sequence[Line]) -> Iterator[list[str]]:
    for line in lines:
        for folder, score in zip(folders, line.scores, strict=True):
            if score and score.seen and score.unseen:
                parts = [f"{100 * value:.1f} of {n:,}" if n else "none" for value, n in (score.seen, score.unseen)]
                yield [line.benchmark, line.metric, _READ[line.protocol], Path(folder.model).name, *parts]


def _score(score: Score | None) -> str:
    if score is None:
        return ""
    error = "" if score.error is None or score.error == float("inf") else f" ± {100 * score.error:.1f}"
    unread = f", {score.unreadable:.0%} unread" if score.unreadable else ""
    return f"{100 * score.value:.1f}{error}{unread}"


def _difference(line: Line, place: int) -> str:
    found = line.comparisons[place]
    if found is None:
        first, other = line.scores[0], line.scores[place]
        return f"{100 * (other.value - first.value):+.1f}" if first and other else ""
    interval = f"{100 * found.difference:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
    visible = f" (visible from {100 * found.smallest:.1f})" if found.smallest else ""
    return f"{interval}, {line.verdict(place)}{visible}"


def write(folders: Sequence[Folder], lines: Sequence[Line], out: Path) -> None:
    """Write all of it; the suffix says as what.

    Raises:
        JigsawError: if the suffix is none of :data:`KINDS`.
    """
    kind = out.suffix.lower()
    if kind == ".html":
        write_page(page(folders, lines), out)
        return
    if kind == ".md":
        content = markdown(folders, lines).encode()
    elif kind == ".json":
        content = json.dumps(as_json(folders, lines), indent=1, ensure_ascii=False).encode()
    elif kind == ".png":
        content = _drawn(chart(folders, lines))
    else:
        raise JigsawError(f"{out}: must end in {', '.join(KINDS)}")
    with atomic_write(out) as file:
        file.write(content)


def markdown(folders: Sequence[Folder], lines: Sequence[Line]) -> str:
    """The tables and what they are to be read with, as Markdown."""
    parts = [f"# {', '.join(one.model for one in folders)}"]
    parts += [f"## {told.title}\n\n{markdown_table(told.columns, told.rows)}" for told in tables(folders, lines)]
    parts += [NOTE, "\n".join(f"- {warning}" for one in folders for warning in warnings_of(one))]
    for one in folders:
        parts.append(f"{one.path}: {', '.join(f'{name} {version}' for name, version in one.versions.items())}")
    return "\n\n".join(filter(None, parts)) + "\n"


NOTE = (
    "Per cent, with standard errors by clusters (picture, film, scene or group). Differences are paired, with 95 % "
    "intervals of a bootstrap of 10,000 draws; gain and loss are said where p, the larger of the bootstrap's and "
    "McNemar's, is 0.05 or less after Holm's correction over all figures of a protocol. Visible: what so many "
    "questions show in four of five cases. Of what is no mean, such as average precision, "
    "all of it is by the jackknife."
)


def chart(folders: Sequence[Folder], lines: Sequence[Line]) -> "Figure":
    """Scores of all models with their intervals, beside chance.

    Raises:
        JigsawError: if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise JigsawError(f"{error.name} is not installed; a table needs none: --out results.md") from error
    shown = [line for line in lines if line.scores[0] and line.protocol in (_protocol(lines), "own")]
    figure = Figure(figsize=(8, 1.4 + 0.34 * len(shown)), layout="constrained")
    axis = figure.add_subplot()
    for place, line in enumerate(reversed(shown)):
        if line.chance is not None:
            axis.plot([100 * line.chance] * 2, [place - 0.3, place + 0.3], color=_SOFT, linewidth=2)
        for number, score in enumerate(line.scores):
            if score:
                reach = 0.0 if score.error is None or score.error == float("inf") else 196 * score.error
                colour = _FIRST if number == 0 and len(folders) > 1 else _OTHER
                height = place + (0.14 if number else -0.14) * (len(folders) > 1)
                axis.errorbar(100 * score.value, height, xerr=reach, fmt="o", color=colour, markersize=5, capsize=2)
    labels = [f"{line.benchmark} {line.metric}, {line.frames or ''}".rstrip(", ") for line in reversed(shown)]
    axis.set_yticks(range(len(shown)), labels)
    least = min((score.value for line in shown for score in line.scores if score), default=0.0)
    axis.set_xlim(min(-2.0, 115 * least), 102)
    axis.set_ylim(-0.7, len(shown) - 0.3)
    axis.set_xlabel("per cent, with 95 % intervals; grey lines: chance")
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", color="#e0ddd6", linewidth=0.7)
    axis.set_axisbelow(True)
    for number, folder in enumerate(folders):
        colour = _FIRST if number == 0 and len(folders) > 1 else _OTHER
        axis.plot([], [], "o", color=colour, label=Path(folder.model).name)
    figure.legend(loc="outside upper left", ncols=3, frameon=False)
    return figure


def _protocol(lines: Sequence[Line]) -> str:
    return "fixed" if any(line.protocol == "fixed" for line in lines) else "paper"


def _drawn(figure: "Figure") -> bytes:
    written = BytesIO()
    figure.savefig(written, format="png", dpi=160)
    return written.getvalue()


@dataclass(frozen=True)
class Example:
    """A reply to show: what was asked, what came, what was right, and a picture of it as a data URI or nothing."""

    task: str
    model: str
    is_right: bool
    prompt: str
    reply: str
    target: str
    picture: str


def page(folders: Sequence[Folder], lines: Sequence[Line]) -> str:
    """A self-contained page."""
    picture = b64encode(_drawn(chart(folders, lines))).decode()
    return render(
        "evaluated.html.j2",
        title=", ".join(Path(one.model).name for one in folders),
        tables=tables(folders, lines),
        warnings=[warning for one in folders for warning in warnings_of(one)],
        chart=f"data:image/png;base64,{picture}",
        note=NOTE,
        examples=list(_examples(folders, lines)),
        versions=[(str(one.path), one.versions) for one in folders],
    )


def _examples(folders: Sequence[Folder], lines: Sequence[Line]) -> Iterator[Example]:
    protocol = _protocol(lines)
    shown = [line for line in lines if line.protocol in (protocol, "own")]
    tasks = list(dict.fromkeys((line.task, line.frames, line.metric) for line in shown))
    for task, frames, metric in tasks[:_TASKS]:
        for folder in folders:
            asked = folder.questions.get((task, frames), ())
            for is_right in (False, True):
                of_kind = [row for row in asked if row["values"].get(metric) == float(is_right)]
                for row in of_kind[:_EXAMPLES]:
                    said = (row["prompt"], row["reply"], row["target"], _picture(row))
                    yield Example(task, Path(folder.model).name, is_right, *said)


def _picture(row: Mapping[str, Any]) -> str:
    """The first picture of a question; films and pictures out of parquet files have none here."""
    for medium in row["media"]:
        if Path(medium).is_file() and Path(medium).suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"):
            with Image.open(medium) as picture:
                shown = picture.convert("RGB")
            shown.thumbnail((_SIDE, _SIDE))
            return f"data:image/jpeg;base64,{b64encode(encoded(shown, 'JPEG', quality=85)).decode()}"
    return ""
