"""``jigsaw checkpoint``: checkpoints out of a run, from the hub and to it."""

import json
import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from jigsaw import machine
from jigsaw.errors import JigsawError
from jigsaw.show.run import Run, read_run
from jigsaw.verl_plugin.cpu.environment import ENVIRONMENT

if TYPE_CHECKING:
    from jigsaw.show.card import Base
    from jigsaw.verl_plugin.export import Exported

checkpoint = typer.Typer(
    help="Checkpoints as Hugging Face folders: out of a run, from the hub, to it.", no_args_is_help=True
)


@checkpoint.command()
def export(
    run: Annotated[
        Path, typer.Argument(help="outputs/RECIPE_jigsaw, or one checkpoint global_step_N.", metavar="RUN_DIR")
    ],
    out: Annotated[Path, typer.Option(help="Folder to make.", metavar="DIR")],
    step: Annotated[
        int | None, typer.Option(help="Of which step; the last one if not given.", show_default=False)
    ] = None,
    best: Annotated[bool, typer.Option("--best", help="Of the step that was best on the held-out puzzles.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object instead of a table.")] = False,
) -> None:
    """Make a Hugging Face folder of a run's checkpoint, with processor and model card, for transformers and vLLM.

    Before it is there, it is loaded, and its weights and logits are compared with those that were trained.

    Example: [bold]jigsaw checkpoint export outputs/image_jigsaw --best --out visual_jigsaw_image_7B[/]
    """
    if best and step is not None:
        raise JigsawError("--best and --step are given; one of them chooses the checkpoint")
    chosen, of = _choose(run, step, best)
    found = _make_folder(chosen, of, out)
    if as_json:
        print(json.dumps({"checkpoint": str(chosen), "out": str(out), **asdict(found)}, indent=2))
        return
    table = Table(show_header=False)
    rows = {
        "checkpoint": str(chosen),
        "weights": f"{found.weights:,}, bfloat16; each as it was trained",
        "logits": f"at most {found.difference:.3g} from those of the trained weights",
        "adapter": f"LoRA, rank {found.adapter}, merged; alone in lora_adapter" if found.adapter else None,
    }
    for name, value in rows.items():
        if value is not None:
            table.add_row(name, Text(value))
    console = Console(highlight=False)
    console.print(table)
    console.print(f"{out}: made; jigsaw solve, vllm serve and transformers take it", soft_wrap=True, markup=False)


Endpoint = Annotated[
    str | None, typer.Option(help="Address of the hub; also by HF_ENDPOINT.", metavar="URL", show_default=False)
]


@checkpoint.command()
def pull(
    name: Annotated[str, typer.Argument(help="Name of the model on the Hugging Face hub.", metavar="OWNER/NAME")],
    out: Annotated[
        Path | None, typer.Option(help="Folder to write; models/NAME if not given.", metavar="DIR", show_default=False)
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit; the main branch if not given.", show_default=False)
    ] = None,
    endpoint: Endpoint = None,
) -> None:
    """Fetch a model from the hub, and compare its files with the hub's checksums.

    Started again after a break, it goes on where it broke. HF_TOKEN is for gated and private models.

    Example: [bold]jigsaw checkpoint pull craigwu/visual_jigsaw_image_7B[/]
    """
    from jigsaw.hub import pull_model

    out = out or Path("models") / name.rpartition("/")[2]
    files = pull_model(name, out, revision=revision, endpoint=endpoint)
    size = sum(file.stat().st_size for file in files)
    print(f"{out}: {len(files)} files, {size / 2**30:.1f} GiB, each as the hub's checksum says")


@checkpoint.command()
def push(
    folder: Annotated[Path, typer.Argument(help="Of a model, or of rows that jigsaw prepare made.", metavar="DIR")],
    name: Annotated[
        str, typer.Argument(help="Name on the Hugging Face hub; made if it is not there.", metavar="OWNER/NAME")
    ],
    private: Annotated[bool, typer.Option("--private", help="If it is made: for its owner alone.")] = False,
    endpoint: Endpoint = None,
) -> None:
    """Put a model's folder on the hub, with its card; or a folder of rows, with manifest and card.

    The token is that of hf auth login, or HF_TOKEN.

    Example: [bold]jigsaw checkpoint push visual_jigsaw_image_7B me/visual_jigsaw_image_7B --private[/]
    """
    from jigsaw import hub
    from jigsaw.show.card import card_of_rows

    print(hub.push(folder, name, private=private, endpoint=endpoint, card=card_of_rows))


def merge(
    checkpoint: Annotated[Path, typer.Argument(help="A folder global_step_N.", metavar="CHECKPOINT")],
    out: Annotated[Path, typer.Argument(help="Folder to make.", metavar="OUT")],
) -> None:
    """Make a Hugging Face folder of a checkpoint: jigsaw checkpoint export by another name.

    Example: [bold]jigsaw merge outputs/image_jigsaw/checkpoints/global_step_1000 merged[/]
    """
    _make_folder(*_with_run(checkpoint), out=out)
    print(f"{out}: made of {checkpoint}")


def _choose(folder: Path, step: int | None, best: bool) -> tuple[Path, Run | None]:
    """The checkpoint that is meant, and its run."""
    if folder.name.startswith("global_step_") or not folder.is_dir():
        if best or step is not None:
            raise JigsawError(f"{folder}: is no folder of a run, whose checkpoints --step and --best choose from")
        return _with_run(folder)
    run = read_run(folder)
    whole = run.whole_checkpoints
    if not whole:
        raise JigsawError(
            f"{run.checkpoints}: holds no complete checkpoint yet; trainer.save_freq says when one is saved"
        )
    steps = ", ".join(map(str, whole))
    if step is not None and step not in whole:
        raise JigsawError(f"{run.checkpoints}: holds no complete checkpoint of step {step}; there are {steps}")
    if best:
        tested = {at: exact for at, exact in run.heldout.items() if at in whole}
        if not tested:
            raise JigsawError(
                f"{run.folder}: none of the checkpoints of steps {steps} was tested; choose one with --step"
            )
        step = max(tested, key=lambda at: (tested[at], at))
    return run.checkpoints / f"global_step_{step or whole[-1]}", run


def _with_run(checkpoint: Path) -> tuple[Path, Run | None]:
    """A checkpoint and the run that it lies in, if it does."""
    with suppress(JigsawError):
        return checkpoint, read_run(checkpoint.resolve().parent)
    return checkpoint, None


def _make_folder(checkpoint: Path, run: Run | None, out: Path) -> "Exported":
    """Make the folder, with a bar on stderr."""
    if out.exists():  # before torch is loaded
        raise JigsawError(f"{out}: is there already; remove it or choose another folder")
    if not machine.gpus():
        os.environ.update(ENVIRONMENT)
    try:
        from jigsaw.show.card import write_card
        from jigsaw.verl_plugin.checkpoint import step_of
        from jigsaw.verl_plugin.export import actor_of, export_checkpoint
    except ModuleNotFoundError as error:
        raise JigsawError(f"{error.name} is not installed; to export: {machine.SETUP}") from error

    actor = actor_of(checkpoint)
    step, base = step_of(checkpoint), _base(run, actor)

    def describe(folder: Path, adapter: int) -> None:
        write_card(folder, out.resolve().name, step, base, run=run, adapter=adapter)

    console = Console(stderr=True)
    columns = (TextColumn("weights written, compared"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=None)
        return export_checkpoint(
            checkpoint,
            out,
            describe=describe,
            on_progress=lambda done, total: bar.update(task, completed=done, total=total),
        )


def _base(run: Run | None, actor: Path) -> "Base":
    """What is known of the model that was begun with."""
    from jigsaw.show.card import Base
    from jigsaw.verl_plugin.launch import models

    name = run.setting("actor_rollout_ref.model.path") if run else None
    if name is None:
        return Base(_kind(actor / "huggingface/config.json"), is_known=False)
    known = {model.name: model for model in models().values()}
    if name in known:
        return Base(name, known[name].get("licence"), on_hub=True)
    on_hub = not Path(name).is_absolute() and not Path(name).exists() and str(name).count("/") == 1
    return Base(str(name) if on_hub else Path(name).name, on_hub=on_hub)


def _kind(config: Path) -> str:
    """A model's kind, as its config names it."""
    try:
        return str(json.loads(config.read_text(encoding="utf-8"))["model_type"])
    except (OSError, ValueError, LookupError, TypeError):  # said when the model is made
        return "unknown"
