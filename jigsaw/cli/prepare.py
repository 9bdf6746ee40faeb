"""``jigsaw prepare``: raw data sets to rows."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jigsaw.cli.progress import RayAddress, Workers, progress_bar
from jigsaw.prepare.images import ImageOptions, grid_text, parse_grid
from jigsaw.prepare.pipeline import Options, Summary, prepare_rows
from jigsaw.prepare.scenes import DepthOptions
from jigsaw.prepare.videos import VideoOptions
from jigsaw.rows import AnswerFormat

prepare = typer.Typer(help="Make rows (train.parquet, val.parquet) from raw data sets.", no_args_is_help=True)

Out = Annotated[Path, typer.Option(help="Output folder.")]
Seed = Annotated[int, typer.Option(help="Seed of all that is drawn.")]
Format = Annotated[AnswerFormat, typer.Option(help="How the prompt asks for the answer.")]
MaxPromptLength = Annotated[
    int,
    typer.Option(
        help="Tokens that a prompt may take, data.max_prompt_length in training; what does not fit is shown smaller."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")]


@prepare.command()
def image(
    media_root: Annotated[Path, typer.Option(help="Folder of pictures; all below it are taken.")],
    out: Out,
    grid: Annotated[str, typer.Option(help="Rows x columns of tiles.")] = grid_text(ImageOptions.grid),
    min_side: Annotated[
        int, typer.Option(help="Leave out pictures with a shorter side, in pixels.")
    ] = ImageOptions.min_side,
    max_pixels: Annotated[
        int | None,
        typer.Option(
            help="Show larger pictures scaled down to so many pixels; as many as fit the prompt if not given.",
            show_default=False,
        ),
    ] = ImageOptions.max_pixels,
    val: Annotated[
        int, typer.Option(help="Number of pictures for val.parquet; 0 leaves it empty, and training needs some.")
    ] = ImageOptions.val,
    seed: Seed = ImageOptions.seed,
    workers: Workers = None,
    ray_address: RayAddress = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Decode every picture, not its header alone.")
    ] = ImageOptions.verify,
    answer_format: Format = ImageOptions.answer_format,
    max_prompt_length: MaxPromptLength = ImageOptions.max_prompt_length,
    limit: Annotated[
        int | None, typer.Option(help="Look at a random sample of so many pictures.")
    ] = ImageOptions.limit,
    as_json: AsJson = False,
) -> None:
    """Image jigsaws from every picture below a folder. A run that was stopped resumes when started again.

    Example: [bold]jigsaw prepare image --media-root COCO/train2017 --out data/image --grid 3x3 --val 500[/]
    """
    options = ImageOptions(
        grid=parse_grid(grid),
        min_side=min_side,
        max_pixels=max_pixels,
        verify=verify,
        val=val,
        seed=seed,
        limit=limit,
        answer_format=answer_format,
        max_prompt_length=max_prompt_length,
    )
    _prepare("pictures", media_root, out, options, workers, ray_address, as_json)


@prepare.command()
def video(
    media_root: Annotated[Path, typer.Option(help="LLaVA-Video-178K tree, or folder of videos; all below are taken.")],
    out: Out,
    clips: Annotated[int, typer.Option(help="Number of clips.")] = VideoOptions.clips,
    grid: Annotated[
        str | None, typer.Option(help="Rows x columns of tiles that each clip is cut into too.", show_default=False)
    ] = None,
    min_seconds: Annotated[float, typer.Option(help="Leave out shorter videos.")] = VideoOptions.min_seconds,
    trim: Annotated[float, typer.Option(help="Share of a clip that is dropped at each end.")] = VideoOptions.trim,
    fps: Annotated[float, typer.Option(help="Frames a second that are shown.")] = VideoOptions.fps,
    max_frames: Annotated[int, typer.Option(help="Most frames a clip.")] = VideoOptions.max_frames,
    max_pixels: Annotated[int, typer.Option(help="Most pixels a frame.")] = VideoOptions.max_pixels,
    val: Annotated[
        int, typer.Option(help="Number of videos for val.parquet; 0 leaves it empty, and training needs some.")
    ] = VideoOptions.val,
    seed: Seed = VideoOptions.seed,
    workers: Workers = None,
    ray_address: RayAddress = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Decode all frames of the clips, not just two.")
    ] = VideoOptions.verify,
    extract_frames: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the clips' frames as JPEG: a media root for the rows, which then need no videos. Outputs "
            "may share it; frames of another video of the same name are never replaced, the run stops.",
            metavar="DIR",
            show_default=False,
        ),
    ] = VideoOptions.extract_frames,
    answer_format: Format = VideoOptions.answer_format,
    max_prompt_length: MaxPromptLength = VideoOptions.max_prompt_length,
    limit: Annotated[int | None, typer.Option(help="Look at a random sample of so many videos.")] = VideoOptions.limit,
    as_json: AsJson = False,
) -> None:
    """Video jigsaws from LLaVA-Video-178K or every video below a folder. A run that was stopped resumes.

    Example: [bold]jigsaw prepare video --media-root LLaVA-Video-178K --out data/video --val 500[/]
    """
    options = VideoOptions(
        clips=clips,
        grid=None if grid is None else parse_grid(grid),
        min_seconds=min_seconds,
        trim=trim,
        fps=fps,
        max_frames=max_frames,
        max_pixels=max_pixels,
        verify=verify,
        extract_frames=extract_frames,
        val=val,
        seed=seed,
        limit=limit,
        answer_format=answer_format,
        max_prompt_length=max_prompt_length,
    )
    _prepare("videos", media_root, out, options, workers, ray_address, as_json)


@prepare.command()
def depth(
    media_root: Annotated[
        Path, typer.Option(help="ScanNet (.sens files or exported), or folder of RGB-D scenes; all below are taken.")
    ],
    out: Out,
    points: Annotated[int, typer.Option(help="Number of points a picture.")] = DepthOptions.points,
    samples_per_scene: Annotated[
        int, typer.Option(help="Most frames a scene; each is a row.")
    ] = DepthOptions.samples_per_scene,
    max_side: Annotated[
        int, typer.Option(help="Show larger pictures scaled down to this side, in pixels.")
    ] = DepthOptions.max_side,
    val: Annotated[
        int,
        typer.Option(
            help="Number of scenes for val.parquet, scans of one ScanNet room as one; 0 leaves it empty, and training "
            "needs some."
        ),
    ] = DepthOptions.val,
    seed: Seed = DepthOptions.seed,
    workers: Workers = None,
    ray_address: RayAddress = None,
    extract_frames: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the rows' pictures, then their media root; .sens files need it. Outputs may share it; "
            "pictures of another scene of the same name are never replaced, the run stops.",
            metavar="DIR",
            show_default=False,
        ),
    ] = DepthOptions.extract_frames,
    answer_format: Format = DepthOptions.answer_format,
    max_prompt_length: MaxPromptLength = DepthOptions.max_prompt_length,
    limit: Annotated[int | None, typer.Option(help="Look at a random sample of so many scenes.")] = DepthOptions.limit,
    as_json: AsJson = False,
) -> None:
    """Depth jigsaws from ScanNet or every RGB-D scene below a folder. A run that was stopped resumes.

    Example: [bold]jigsaw prepare depth --media-root ScanNet --out data/depth --val 50 --extract-frames frames[/]
    """
    options = DepthOptions(
        points=points,
        samples_per_scene=samples_per_scene,
        max_side=max_side,
        extract_frames=extract_frames,
        val=val,
        seed=seed,
        limit=limit,
        answer_format=answer_format,
        max_prompt_length=max_prompt_length,
    )
    _prepare("scenes", media_root, out, options, workers, ray_address, as_json)


def _prepare(
    noun: str,
    media_root: Path,
    out: Path,
    options: Options,
    workers: int | None,
    ray_address: str | None,
    as_json: bool,
) -> None:
    with progress_bar(noun) as (progress, rejects):
        summary = prepare_rows(
            media_root, out, options, workers=workers, ray_address=ray_address, progress=progress, rejects=rejects
        )
    _report(summary, out, noun, as_json)


def _report(summary: Summary, out: Path, noun: str, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"out": str(out), **asdict(summary)}))
        return
    title = f"{out} is up to date" if summary.up_to_date else f"{out}"
    table = Table(title=Text(title), show_header=False, min_width=len(title))
    table.add_column("what")
    table.add_column("number", justify="right")
    table.add_row(f"{noun} found", f"{summary.found:,}")
    if summary.sampled < summary.found:
        table.add_row("sampled by --limit", f"{summary.sampled:,}")
    for reason, count in summary.rejected.items():
        table.add_row(Text(f"rejected: {reason}"), f"{count:,}")
    table.add_row("rows kept", f"{summary.kept:,}", style="bold")
    table.add_row("  train", f"{summary.train:,}")
    table.add_row("  val", f"{summary.val:,}")
    if summary.smaller:
        table.add_row("shown smaller, to fit", f"{summary.smaller:,}")
    tokens = summary.tokens
    table.add_row("tokens of a prompt's media, mean", f"{tokens['media_mean']:,.0f}")
    table.add_row("  largest", f"{tokens['media_most']:,}")
    table.add_row("tokens of its text, at most", f"{tokens['text_at_most']:,}")
    Console().print(table, soft_wrap=False)
