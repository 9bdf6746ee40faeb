"""The paper's benchmarks and figures, and the pages that are made of them.

``eval/benchmarks.yaml`` says what each benchmark is, ``eval/paper.csv`` what the paper measured on it.
``python -m jigsaw.evaluation.table`` makes ``eval/tasks/<task>/README.md`` for each task of ours, and the table in
``eval/eval.md``.
"""

import csv
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from jigsaw.errors import JigsawError, print_error

EVAL = Path(__file__).parents[2] / "eval"
if not EVAL.is_dir():
    EVAL = Path(__file__).parents[1] / "eval"
"""The folder of tables and tasks: the clone's, or the wheel's."""

SUITES = ("image", "video", "3d")
"""Of the paper's tables 1 to 3; reasoning has no task of ours."""

BEGIN = "<!-- benchmarks: made by python -m jigsaw.evaluation.table -->"
END = "<!-- end -->"
MEAN = "mean"
"""What paper.csv has in a benchmark's place for the mean of a model's row, where the paper gives it."""

_COLUMNS = ("table", "model", "benchmark", "frames", "metric", "value")

_Entry = TypeVar("_Entry")


@dataclass(frozen=True, kw_only=True)
class Size:
    """How many rows a benchmark has.

    Attributes:
        rows: their number.
        known: whether it was seen in the data or its card, or inferred from the paper's figures.
        detail: what a row is, or how the number comes about.
    """

    rows: int | Literal["unknown"]
    known: Literal["seen", "inferred", "unknown"]
    detail: str = ""

    def __str__(self) -> str:
        if self.rows == "unknown":
            return "unknown"
        return f"{self.rows:,}" if self.known == "seen" else f"{self.rows:,} ({self.known})"


@dataclass(frozen=True, kw_only=True)
class Citation:
    """The paper of a benchmark.

    Attributes:
        author: the first one, "Surname, Given name".
        title: its title.
        year: of its first version.
        arxiv: its number there.
    """

    author: str
    title: str
    year: int
    arxiv: str


@dataclass(frozen=True, kw_only=True)
class Fixtures:
    """What ``_fixed`` changes on the replies of the tests.

    Attributes:
        paper: the score as in the paper.
        fixed: the score of the same replies with the faults mended.
    """

    paper: float
    fixed: float


@dataclass(frozen=True, kw_only=True)
class Reader:
    """How the answer is read in a reply.

    Attributes:
        paper: as the paper's script does.
        careful: as the task with ``_fixed`` does.
    """

    paper: str
    careful: str


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A benchmark of the paper; the attributes are the keys that the head of ``benchmarks.yaml`` explains."""

    name: str
    task: str
    built_in: bool
    suites: tuple[Literal["image", "video", "3d", "reasoning"], ...]
    setting: str
    metric: Mapping[str, str]
    size: Size
    source: tuple[str, ...]
    folder: str = ""
    files: Mapping[str, str] | None = None
    prompt: str
    reader: str
    corrections: tuple[str, ...]
    fixed: str = ""
    licence: str
    gated: Literal["yes", "no", "unknown"]
    download: str
    judge: str
    rules: str = ""
    ran_here: str
    on_fixtures: Fixtures | None = None
    citation: Citation | None = None

    @property
    def needs(self) -> str:
        """What it asks of who runs it, as far as that is known."""
        data = f"`{self.folder}`" if self.folder else "hub"
        size = "" if self.download == "unknown" else f" ({self.download})"
        licence = "licence unknown" if self.licence == "unknown" else self.licence
        judge = "" if self.judge == "none" else f"judge: {self.judge}; without: `{self.rules}`"
        return "; ".join(filter(None, (data + size, licence, "gated" if self.gated == "yes" else "", judge)))


@dataclass(frozen=True)
class PaperValue:
    """A figure of the paper.

    Attributes:
        table: number of the table.
        model: as the paper names it.
        benchmark: name of the benchmark, or :data:`MEAN`.
        frames: how many a film had at most; None where the table does not say.
        metric: name of the metric in lmms-eval's results.
        value: times 100.
    """

    table: int
    model: str
    benchmark: str
    frames: int | None
    metric: str
    value: float


@dataclass(frozen=True)
class Table:
    """All that is known of the benchmarks.

    Attributes:
        readers: by name.
        benchmarks: in the paper's order.
        values: in the paper's order.
    """

    readers: Mapping[str, Reader]
    benchmarks: tuple[Benchmark, ...]
    values: tuple[PaperValue, ...]


@lru_cache
def read_table(folder: Path = EVAL) -> Table:
    """The two files of a folder, read once.

    Raises:
        JigsawError: if a key is unknown or missing, a value of the wrong kind, or the files do not fit each other.
    """
    if not (folder / "benchmarks.yaml").is_file():
        raise JigsawError(f"{folder}: holds no benchmarks.yaml; give the folder eval of a clone")
    readers, benchmarks = _read_benchmarks(folder / "benchmarks.yaml")
    return Table(readers, benchmarks, _read_values(folder / "paper.csv", {b.name: b for b in benchmarks}))


def by_task() -> dict[str, Benchmark]:
    """The paper's benchmarks by their tasks."""
    return {benchmark.task: benchmark for benchmark in read_table().benchmarks}


def of_suite(suite: str) -> tuple[Benchmark, ...]:
    """The paper's benchmarks of a suite that have a task of ours; ``all`` are all but those of reasoning."""
    return tuple(
        benchmark
        for benchmark in read_table().benchmarks
        if not benchmark.built_in
        and (suite in benchmark.suites or (suite == "all" and benchmark.suites != ("reasoning",)))
    )


def paper_values(benchmark: str, folder: Path = EVAL) -> tuple[PaperValue, ...]:
    """The paper's figures on a benchmark, or its means (:data:`MEAN`).

    Raises:
        JigsawError: if there is no such benchmark, or a file is damaged.
    """
    table = read_table(folder)
    names = [known.name for known in table.benchmarks]
    if benchmark not in (MEAN, *names):
        raise JigsawError(f"{benchmark}: no benchmark of the paper; there are {', '.join(names)}")
    return tuple(value for value in table.values if value.benchmark == benchmark)


def _read_benchmarks(file: Path) -> tuple[dict[str, Reader], tuple[Benchmark, ...]]:
    import yaml

    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise JigsawError(f"{file}: cannot be read as YAML ({' '.join(str(error).split())})") from error
    if not isinstance(found, dict) or set(found) != {"readers", "benchmarks"}:
        raise JigsawError(f"{file}: must have the keys readers and benchmarks, and no others")
    if not isinstance(found["readers"], dict) or not isinstance(found["benchmarks"], list):
        raise JigsawError(f"{file}: readers must be keys and values, benchmarks a list")
    readers = {name: _read(Reader, entry, f"{file}, reader {name}") for name, entry in found["readers"].items()}
    benchmarks: list[Benchmark] = []
    for number, entry in enumerate(found["benchmarks"]):
        name = entry.get("name", number) if isinstance(entry, dict) else number
        benchmark = _read(Benchmark, entry, f"{file}, benchmark {name}")
        ours = benchmark.task.startswith("vj_")
        if ours == benchmark.built_in:
            raise JigsawError(f"{file}, benchmark {name}: a task is built in, or its name begins with vj_")
        if ours and not (benchmark.folder and benchmark.files and benchmark.reader in readers):
            raise JigsawError(f"{file}, benchmark {name}: needs folder, files and a reader of {', '.join(readers)}")
        if any(benchmark.name == other.name or benchmark.task == other.task for other in benchmarks):
            raise JigsawError(f"{file}, benchmark {name}: its name or its task comes twice")
        benchmarks.append(benchmark)
    return readers, tuple(benchmarks)


def _read(kind: type[_Entry], entry: Any, where: str) -> _Entry:
    """A mapping as a dataclass."""
    if not isinstance(entry, dict):
        raise JigsawError(f"{where}: is {entry!r:.60} where keys and values are expected")
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]  # dataclasses alone come here
    for key in entry:
        if key not in known:
            raise JigsawError(f"{where}: has the unknown key {key}; known are {', '.join(known)}")
    for key, field in known.items():
        if key not in entry and field.default is MISSING:
            raise JigsawError(f"{where}: lacks the key {key}")
    return kind(**{key: _value(known[key].type, value, f"{where}, {key}") for key, value in entry.items()})


def _value(kind: Any, value: Any, where: str) -> Any:
    """A value of a field's type, lists as tuples."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        parts = [part for part in inner if part is not NoneType]
        return _value(next((part for part in parts if part is type(value)), parts[-1]), value, where)
    if is_dataclass(kind):
        return _read(kind, value, where)  # type: ignore[arg-type]  # a class, no instance
    if origin is tuple and isinstance(value, list):
        return tuple(_value(inner[0], part, where) for part in value)
    if origin is Mapping and isinstance(value, dict) and value:
        return {_value(str, key, where): _value(str, part, where) for key, part in value.items()}
    if origin is Literal and value in inner:
        return value
    if kind is float and type(value) in (int, float):
        return float(value)
    if kind in (str, int, bool) and type(value) is kind and value != "":
        return value
    expected = " or ".join(map(str, inner)) if origin is Literal else getattr(kind, "__name__", str(kind))
    raise JigsawError(f"{where}: is {value!r:.60} where {expected} is expected")


def _read_values(file: Path, benchmarks: Mapping[str, Benchmark]) -> tuple[PaperValue, ...]:
    values: dict[tuple[object, ...], PaperValue] = {}
    with file.open(encoding="utf-8", newline="") as lines:
        rows = csv.DictReader(lines)
        if tuple(rows.fieldnames or ()) != _COLUMNS:
            raise JigsawError(f"{file}: must have the columns {', '.join(_COLUMNS)}")
        for number, row in enumerate(rows, start=2):
            where = f"{file}, line {number}"
            try:
                frames = int(row["frames"]) if row["frames"] else None
                table, percent = int(row["table"]), float(row["value"])
            except (TypeError, ValueError) as error:
                raise JigsawError(f"{where}: table, frames and value must be numbers") from error
            value = PaperValue(table, row["model"], row["benchmark"], frames, row["metric"], percent)
            known = benchmarks[value.benchmark].metric if value.benchmark in benchmarks else ()
            if value.metric not in known and (value.benchmark, value.metric) != (MEAN, MEAN):
                raise JigsawError(f"{where}: benchmarks.yaml has no {value.metric} of {value.benchmark}")
            if not 0 <= percent <= 100:
                raise JigsawError(f"{where}: {percent} is not between 0 and 100")
            if values.setdefault((table, value.model, value.benchmark, frames, value.metric), value) is not value:
                raise JigsawError(f"{where}: comes twice")
    return tuple(values.values())


def pages(folder: Path = EVAL) -> dict[Path, str]:
    """The text of each page by its path: the readme of each task of ours, and eval.md with the table in it."""
    table = read_table(folder)
    ours = [benchmark for benchmark in table.benchmarks if not benchmark.built_in]
    made = {folder / "tasks" / benchmark.task / "README.md": render_readme(benchmark, table) for benchmark in ours}
    page = folder / "eval.md"
    return {**made, page: _with_block(page, render_overview(table))}


def write_pages(folder: Path = EVAL) -> list[Path]:
    """Write the pages; which they are."""
    made = pages(folder)
    for path, text in made.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return list(made)


def render_readme(benchmark: Benchmark, table: Table) -> str:
    """The page of a benchmark."""
    values = [value for value in table.values if value.benchmark == benchmark.name]
    columns = list(dict.fromkeys((value.table, value.frames) for value in values))
    cells = {(value.model, value.table, value.frames): f"{value.value:.2f}" for value in values}
    header = [f"table {number}" + (f", {frames} frames" if frames else "") for number, frames in columns]
    rows = [
        [model, *(cells.get((model, *column), "") for column in columns)]
        for model in dict.fromkeys(v.model for v in values)
    ]
    return _render(
        "benchmark.md.j2",
        benchmark=benchmark,
        reader=table.readers[benchmark.reader],
        figures=markdown_table(["model", *header], rows),
        metric=values[0].metric,
        film="video" in benchmark.suites,
    )


def render_overview(table: Table) -> str:
    """The table of all benchmarks, a row each."""
    header = ["benchmark", "suite", "task", "protocol", "metric", "rows", "needs", "run here"]
    rows = [
        [
            benchmark.name if benchmark.built_in else f"[{benchmark.name}](tasks/{benchmark.task}/README.md)",
            ", ".join(benchmark.suites),
            f"`{benchmark.task}`",
            "lmms-eval's own" if benchmark.built_in else "paper's",
            f"`{next(iter(benchmark.metric))}`",
            str(benchmark.size),
            benchmark.needs,
            benchmark.ran_here.partition(";")[0],
        ]
        for benchmark in table.benchmarks
    ]
    return markdown_table(header, rows)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose columns stand below each other in the source, too."""
    lines = [header, *rows]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    padded.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def _with_block(page: Path, block: str) -> str:
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise JigsawError(f"{page}: has no place for the table, {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{block}\n\n{END}{after}"


def _render(template: str, **values: Any) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("jigsaw.evaluation", ""),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(**values)


def _main(arguments: Sequence[str]) -> int:
    try:
        for path in write_pages(*map(Path, arguments[:1])):
            print(path)
    except (JigsawError, OSError) as error:
        print_error(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
