"""``jigsaw solve``: puzzles of one's own files, asked of a model."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import factorial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jigsaw.cli.asked import MAX_TOKENS, TIMEOUT, Address, Format, MaxTokens, ModelName, Timeout, model_of
from jigsaw.cli.progress import progress_bar
from jigsaw.errors import JigsawError, MediaError, OptionError
from jigsaw.media.rgbd import colour_folder
from jigsaw.prepare.images import SUFFIXES as PICTURES
from jigsaw.prepare.images import ImageOptions, grid_text, parse_grid
from jigsaw.prepare.pipeline import Options, rows_of
from jigsaw.prepare.scenes import DepthOptions
from jigsaw.prepare.videos import SUFFIXES as VIDEOS
from jigsaw.prepare.videos import VideoOptions
from jigsaw.reward import compute_score
from jigsaw.rows import AnswerFormat
from jigsaw.solve import CUT_INTO, Model, options_of

if TYPE_CHECKING:
    from jigsaw.puzzle import Plan, Puzzle
    from jigsaw.show.gallery import Card
    from jigsaw.show.solution import Solution

_PAGES = (".html", ".htm")
_DRAWN = (".png", ".jpg", ".jpeg", ".webp")


def solve(
    file: Annotated[
        Path, typer.Argument(help="A picture, a video, a scene's folder; or a folder of them.", metavar="FILE")
    ],
    task: Annotated[
        Literal["image", "video", "depth"] | None,
        typer.Option(help="What to make of it; by a file's suffix if not given.", show_default=False),
    ] = None,
    model: ModelName = None,
    endpoint: Address = None,
    grid: Annotated[str, typer.Option(help="Rows x columns of tiles, of a picture.")] = grid_text(ImageOptions.grid),
    clips: Annotated[int, typer.Option(help="Of a video.")] = VideoOptions.clips,
    points: Annotated[int, typer.Option(help="Of a scene's frame.")] = DepthOptions.points,
    answer_format: Format = "answer_tag",
    no_think: Annotated[bool, typer.Option("--no-think", help="Ask for the order alone: the format plain.")] = False,
    seed: Annotated[int, typer.Option(help="Of the order of the pieces.")] = 0,
    max_tokens: MaxTokens = MAX_TOKENS,
    limit: Annotated[int, typer.Option(help="Of a folder: so many puzzles at most.", min=1)] = 20,
    timeout: Timeout = TIMEOUT,
    out: Annotated[
        Path | None,
        typer.Option(
            help="A picture (.png, .jpg) of what the model put together, beside the source; or a page (.html).",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object instead.")] = False,
) -> None:
    """Make a puzzle of a file, ask a model, and say what it answered, what is right and the score.

    An endpoint's key is OPENAI_API_KEY, where it asks for one.

    Example: [bold]jigsaw solve cat.jpg --grid 2x2 --model visual_jigsaw_image_7B --out solved.png[/]
    """
    _check_out(out, file)
    task = task or _task_of(file)
    form: AnswerFormat = "plain" if no_think else answer_format
    options = options_of(task, grid=parse_grid(grid), clips=clips, points=points, answer_format=form, seed=seed)
    _check_pieces(options, task)
    asked = model_of(model, endpoint, timeout)
    found: list[Solution] = []
    skipped: list[str] = []
    with _counted(file, limit) as count:
        for name, planned, card, puzzle in _puzzles(file, options, limit, seed, asked, skipped):
            found.append(_solved(name, planned, card, puzzle, asked.ask(puzzle, max_new_tokens=max_tokens)))
            count(len(found))
    if not found:
        raise JigsawError(f"{file}: holds nothing to make a puzzle of; {skipped[0] if skipped else 'it is empty'}")
    if out is not None:
        _write(found, out, file, task)
    _print(found, skipped, out, as_json)


def _check_out(out: Path | None, file: Path) -> None:
    if not file.exists():
        raise JigsawError(f"{file}: there is no such file")
    if out is None or out.suffix.lower() in _PAGES:
        return
    if out.suffix.lower() not in _DRAWN:
        raise OptionError("out", out, f"must end in {', '.join((*_DRAWN, *_PAGES))}")
    if out.exists() and out.samefile(file):
        raise OptionError("out", out, "is the file itself; choose another")


def _task_of(file: Path) -> Literal["image", "video", "depth"]:
    if file.is_file() and file.suffix.lower() in PICTURES:
        return "image"
    if file.is_file() and file.suffix.lower() in VIDEOS:
        return "video"
    raise OptionError("task", None, f"what is to be made of {file}? give image, video or depth")


def _check_pieces(options: Options, task: str) -> None:
    """Raise JigsawError unless the options make sense, by the names that this command has for them."""
    try:
        options.validate()
    except OptionError as error:
        if error.option != "max_prompt_length":
            raise
        raise OptionError(
            CUT_INTO[task], None, f"too many pieces for a prompt of {error.value:,} tokens; make fewer"
        ) from error


def _puzzles(
    file: Path, options: Options, limit: int, seed: int, asked: Model, skipped: list[str]
) -> Iterator[tuple[str, "Plan", "Card", "Puzzle"]]:
    """The puzzle of a file, or those of the first files of a folder that are fit; why others are not is noted."""
    from jigsaw.show.gallery import build_card
    from jigsaw.tasks import plan

    is_scene = isinstance(options, DepthOptions) and file.is_dir() and bool(colour_folder(os.listdir(file)))
    whole = file.is_dir() and not is_scene
    root, paths = (file, options.sources(file).paths) if whole else (file.resolve().parent, [file.resolve().name])
    made = 0
    for path in paths:
        try:
            row = rows_of(path, root, options)[0]
            planned = plan(row, seed)
            card, puzzle = build_card(row, planned, 0, root, asked.options)
        except MediaError as error:
            if not whole:
                raise
            skipped.append(str(error))
            continue
        yield path, planned, card, puzzle
        made += 1
        if made == limit:
            return


def _solved(name: str, planned: "Plan", card: "Card", puzzle: "Puzzle", reply: str) -> "Solution":
    from jigsaw.show.samples import reader
    from jigsaw.show.solution import Solution

    read = reader("", planned, {})(reply)
    score = compute_score("", reply, planned.answer, planned.extra_info)["score"]
    return Solution(name, card, puzzle, reply, read.answer, read.reason or "", score)


@contextmanager
def _counted(file: Path, limit: int) -> Iterator[Callable[[int], None]]:
    """Count puzzles of a folder on a bar."""
    if not file.is_dir():
        yield lambda done: None
        return
    with progress_bar("puzzles solved", "stopped") as (show, _):
        yield lambda done: show(done, limit)


def _write(found: list["Solution"], out: Path, file: Path, task: str) -> None:
    from jigsaw.show.solution import write_picture, write_solutions

    if out.suffix.lower() in _PAGES:
        right = sum(solution.is_right for solution in found)
        chance = sum(1 / factorial(len(solution.puzzle.answer)) for solution in found) / len(found)
        summary = f"{right} of {len(found)} {task} puzzles right; a blind guess is right on {chance:.2g} of them"
        write_solutions(found, out, title=file.resolve().name, summary=summary)
    elif len(found) == 1:
        write_picture(found[0], out)
    else:
        raise OptionError("out", out, f"is one picture, {len(found)} puzzles were solved; give a page (.html)")


def _print(found: list["Solution"], skipped: list[str], out: Path | None, as_json: bool) -> None:
    if as_json:
        solved = [
            {
                "file": each.name,
                "reply": each.reply,
                "answer": each.answer,
                "reason": each.reason or None,
                "truth": each.puzzle.answer,
                "right": each.is_right,
                "score": each.score,
            }
            for each in found
        ]
        print(json.dumps({"solved": solved, "left_out": skipped}, indent=2, ensure_ascii=False))
        return
    console = Console(highlight=False)
    if len(found) == 1:
        console.print(Text(found[0].reply))
    table = Table("file", "the model", "right is", "score")
    for each in found:
        said = ", ".join(map(str, each.answer)) if each.answer else each.reason
        style = "green" if each.is_right else "red"
        table.add_row(
            Text(each.name), Text(said, style=style), ", ".join(map(str, each.puzzle.answer)), f"{each.score:.3f}"
        )
    console.print(table)
    if len(found) > 1:
        console.print(f"{sum(each.is_right for each in found)} of {len(found)} right")
    for line in skipped:
        console.print(f"left out: {line}", markup=False, soft_wrap=True)
    if out is not None:
        console.print(f"{out}: written", markup=False, soft_wrap=True)
