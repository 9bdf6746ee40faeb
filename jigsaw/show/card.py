"""Cards for the hub: of a checkpoint, what was trained on what and what it came to; of rows, how they were made."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jigsaw.errors import JigsawError
from jigsaw.files import atomic_write, write_json
from jigsaw.show.gallery import render
from jigsaw.show.run import Run, chance, tasks
from jigsaw.show.training import plot_training

CARD, CURVE, RECORD = "README.md", "training.png", "training.json"
_ROWS = "rows.json"
_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Base:
    """The model that was begun with.

    Attributes:
        name: on the hub, or a folder's; where neither was recorded, the model's kind.
        licence: as the hub calls it, None where it is not known.
        on_hub: whether the name is one of the hub's.
        is_known: whether its name was recorded.
    """

    name: str
    licence: str | None = None
    on_hub: bool = False
    is_known: bool = True

    @property
    def in_words(self) -> str:
        """As the card calls it."""
        if self.on_hub:
            return f"[{self.name}](https://huggingface.co/{self.name})"
        return f"`{self.name}`" if self.is_known else f"A model of the kind `{self.name}`"

    @property
    def licence_in_words(self) -> str:
        """What the card says of the licence."""
        if not self.is_known:
            return "Not known: the model that was begun with was not recorded."
        return f"That of {self.in_words}" + (
            f": {self.licence}." if self.licence else ", the model that was begun with."
        )


def write_card(folder: Path, title: str, step: int, base: Base, *, run: Run | None = None, adapter: int = 0) -> None:
    """Write a model card into a model's folder; of a run its curves and its record, too.

    Args:
        folder: of the model.
        title: above the card.
        step: that was exported.
        base: the model that was begun with.
        run: that it is of; None where only the checkpoint is known.
        adapter: rank of the adapter in the weights, 0 without one.
    """
    from huggingface_hub import ModelCardData

    found = {} if run is None else {at: exact for at, exact in run.heldout.items() if at <= step}
    chances = {} if run is None else chance(run)
    of_step = next((value for at, value in reversed(chances.items()) if at <= step), None)
    data = ModelCardData(
        base_model=base.name if base.on_hub else None,
        library_name="transformers",
        license=base.licence,
        pipeline_tag="image-text-to-text",
        tags=["visual-jigsaw", "grpo", "reinforcement-learning", "self-supervised"],
    )
    rows = [] if run is None else _rows(run)
    text = render(
        "card.md.j2",
        title=title,
        base=base.in_words,
        step=step,
        adapter=adapter,
        results=list(found.items()),
        chance=of_step,
        curve=run is not None and bool(run.trained),
        settings=[] if run is None else _settings(run),
        rows=rows,
        licence=base.licence_in_words,
    )
    with atomic_write(folder / CARD) as file:
        file.write(f"---\n{data.to_yaml()}\n---\n\n{text}\n".encode())
    if run is None:
        return
    if run.trained:
        until = {at: values for at, values in run.steps.items() if at <= step}
        plot_training(until, folder / CURVE, chance=of_step or 0.0, title=title)
    record = {name: _without_places(run.record.get(name)) for name in ("recipe", "started", "changed", "versions")}
    metrics = run.steps.get(step, {})
    write_json(
        folder / RECORD,
        {"step": step, "base": base.name if base.is_known else None, **record, "rows": rows, "metrics": metrics},
    )


def _without_places(node: Any) -> Any:
    """Plain values with the names of this machine's files alone: where they lie is nobody's business."""
    if isinstance(node, dict):
        return {key: _without_places(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_without_places(value) for value in node]
    return Path(node).name if isinstance(node, str) and node.startswith("/") else node


def card_of_rows(folder: Path) -> str:
    """The card of a folder of ``jigsaw prepare``.

    Raises:
        JigsawError: if its manifest is broken.
    """
    from huggingface_hub import DatasetCardData

    file = folder / _MANIFEST
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        given, names = _given(manifest), [name for name in ("train", "val") if f"{name}.parquet" in manifest["files"]]
        files = [{"split": name, "path": f"{name}.parquet"} for name in names]
        data = DatasetCardData(
            configs=[{"config_name": "default", "data_files": files}], tags=["visual-jigsaw", "self-supervised"]
        )
        text = render("rows.md.j2", title=folder.resolve().name, manifest=manifest, given=given)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise JigsawError(f"{file}: is broken ({error!r:.100}); make the rows again") from error
    return f"---\n{data.to_yaml()}\n---\n\n{text}\n"


def _given(manifest: Mapping[str, Any]) -> str:
    """The arguments that rows were made with, in words."""
    return " ".join(f"{name}={value}" for name, value in manifest["arguments"].items() if value not in (None, False))


def _settings(run: Run) -> list[tuple[str, str]]:
    """What decides on a run, in words; empty where it was not recorded."""
    actor = "actor_rollout_ref.actor"
    kl = run.setting(f"{actor}.kl_loss_coef") if run.setting(f"{actor}.use_kl_loss") else None
    rank = run.setting("actor_rollout_ref.model.lora_rank")
    found: Mapping[str, Any] = {
        "recipe": run.record.get("recipe"),
        "puzzles": ", ".join(tasks(run)) or None,
        "prompts a step": run.setting("data.train_batch_size"),
        "replies a prompt": run.setting("actor_rollout_ref.rollout.n"),
        "learning rate": run.setting(f"{actor}.optim.lr"),
        "KL loss": kl,
        "adapter": f"LoRA, rank {rank}" if rank else None,
        "seed": run.setting("data.seed"),
        "versions": ", ".join(f"{name} {version}" for name, version in (run.record.get("versions") or {}).items())
        or None,
    }
    return [(name, str(value)) for name, value in found.items() if value is not None] if run.record else []


def _rows(run: Run) -> list[dict[str, Any]]:
    """The files that were trained on, with what ``jigsaw prepare`` says of how it made them."""
    try:
        files = json.loads((run.checkpoints / _ROWS).read_text(encoding="utf-8"))
        found = [{"file": Path(entry["file"]).name, "sha256": entry["sha256"], "made": None} for entry in files]
    except (OSError, ValueError, KeyError, TypeError):  # of a run before rows were recorded
        return []
    for entry, row in zip(files, found, strict=True):
        try:
            manifest = json.loads(Path(entry["file"]).with_name(_MANIFEST).read_text(encoding="utf-8"))
            if manifest["files"][row["file"]]["sha256"] == row["sha256"]:
                row["made"] = f"jigsaw {manifest['command']}, {_given(manifest)}"
        except (OSError, ValueError, KeyError, TypeError):  # rows that others made, or that are not here any more
            continue
    return found
