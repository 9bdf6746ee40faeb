"""Questions of a benchmark as lmms-eval asks and scores them.

A benchmark is a function from its folder to :class:`Question` s, and a task file that names it (``eval/tasks``). All
else is here. Documents hold paths, no pixels.
"""

import json
import logging
import os
import re
from base64 import b64decode
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

from jigsaw.errors import JigsawError, MediaError
from jigsaw.evaluation.replies import READERS, careful_letter, careful_yes

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL import Image

Document = Mapping[str, Any]
"""A question as a row of lmms-eval's data set."""

ROOT = "VJ_DATA"
"""Environment variable: folder that holds a folder a benchmark."""

# Appended to a question, as the paper's scripts have it.
LETTER = "\nAnswer with the option letter directly."
LETTER_IN_PARENTHESES = "\nAnswer with the option letter with parenthesis directly."
LETTER_OF_CHOICES = "\nAnswer with the option's letter from the given choices directly."

YES_OR_NO = "\nAnswer Yes or No directly."

_MARK = re.compile("<(image|video)>")
_HELD = re.compile(r"(?P<file>.*\.parquet)#(?P<column>\w+)/(?P<row>\d+)(?:/(?P<place>\d+))?")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question of a benchmark.

    Attributes:
        id: unique in the benchmark, whatever the order of its rows.
        prompt: the text, ``<image>`` or ``<video>`` where a medium stands.
        media: path of each medium, in that order; of a picture in a parquet file what :func:`held` gives.
        answer: what the paper's reader must read.
        reader: its name, a key of :data:`jigsaw.evaluation.replies.READERS`.
        letters: of the options; empty where the answer is yes or no.
        category: of the question, as the benchmark names it.
        group: questions of one name count together, where the benchmark has such.
        cluster: questions of one name are not independent; the group if empty, or else the first medium.
        share: each film is shown in this part of the frames that a question may have: ``max_frames // share``.
    """

    id: str
    prompt: str
    media: tuple[str, ...]
    answer: str
    reader: str
    letters: str = ""
    category: str = ""
    group: str = ""
    cluster: str = ""
    share: int = 1


Questions = Callable[[Path], Iterable[Question]]
"""The questions of a benchmark in its folder."""


def documents(folder: str, questions: Questions) -> Callable[["Dataset"], "Dataset"]:
    """What lmms-eval calls in place of loading a data set.

    Args:
        folder: of the benchmark, below :data:`ROOT`.
        questions: of the folder.
    """

    def process_docs(stub: "Dataset") -> "Dataset":
        from datasets import Dataset

        root = os.environ.get(ROOT)
        if not root:
            raise JigsawError(f"{ROOT} is not set; it names the folder that holds {folder} and the other benchmarks")
        if not (Path(root) / folder).is_dir():
            raise JigsawError(f"{Path(root) / folder}: no such folder; {ROOT} must hold one with the benchmark's data")
        try:
            rows = [asdict(question) for question in questions(Path(root) / folder)]
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise JigsawError(
                f"{Path(root) / folder}: its data are others than expected ({type(error).__name__}: {error})"
            ) from error
        if not rows:
            raise JigsawError(f"{Path(root) / folder}: holds no questions; its data must be downloaded again")
        return Dataset.from_list(rows)

    return process_docs


def messages(doc: Document) -> list[dict[str, Any]]:
    """A question's chat messages; a medium is the path of its file, or a picture out of a parquet file.

    Raises:
        FileNotFoundError: if a medium is not there.
        JigsawError: if the prompt has other media than the question.
    """
    return chat(doc, lambda name, kind: {"url": opened(name)})


def chat(doc: Document, medium: Callable[[str, str], dict[str, Any]]) -> list[dict[str, Any]]:
    """A question's chat messages.

    Args:
        doc: the question.
        medium: what is said of a medium beside its type, by its name and that type, ``image`` or ``video``.

    Raises:
        JigsawError: if the prompt has other media than the question.
    """
    parts = _MARK.split(doc["prompt"])
    if len(parts) // 2 != len(doc["media"]):
        raise JigsawError(
            f"question {doc['id']}: marks {len(parts) // 2} media in its prompt, but has {len(doc['media'])}"
        )
    content: list[dict[str, Any]] = []
    for place, part in enumerate(parts):
        if place % 2:
            content.append({"type": part, **medium(doc["media"][place // 2], part)})
        elif part:
            content.append({"type": "text", "text": part})
    return [{"role": "user", "content": content}]


def missing(doc: Document) -> list[str]:
    """Files of a question's media that are not there."""
    files = [found["file"] if (found := _HELD.fullmatch(medium)) else medium for medium in doc["media"]]
    return [file for file in files if not Path(file).is_file()]


def held(file: Path, column: str, row: int, place: int | None = None) -> str:
    """The name of a picture that lies in a row of a parquet file, or at a place of the list that lies there."""
    return f"{file}#{column}/{row}" + ("" if place is None else f"/{place}")


def opened(name: str) -> "str | Image.Image":
    """A medium by its name: the path of its file, or a picture out of a parquet file.

    Raises:
        FileNotFoundError: if it is not there.
        MediaError: if it is no picture.
    """
    if absent := missing({"media": [name]}):
        raise FileNotFoundError(f"{absent[0]}: no such file; download the benchmark's media again")
    found = _HELD.fullmatch(name)
    if not found:
        return name
    from PIL import Image

    value = _rows(found["file"])[int(found["row"])][found["column"]]
    if found["place"]:
        value = value[int(found["place"])]
    if isinstance(value, Image.Image):
        return value
    try:
        picture = Image.open(BytesIO(value if isinstance(value, bytes) else b64decode(value)))
        picture.load()
    except (OSError, ValueError, SyntaxError) as error:
        raise MediaError(name, f"cannot be read as a picture ({error}); replace its file") from error
    return picture


@lru_cache
def _rows(file: str) -> "Dataset":
    """A parquet file's rows, on disk in a form that gives each at once, however large its row groups are."""
    from datasets import Dataset

    return Dataset.from_parquet(file)


def text(doc: Document) -> str:
    """A question's text, which lmms-eval logs."""
    return _MARK.sub("", doc["prompt"]).strip()


def score(doc: Document, replies: Sequence[str]) -> dict[str, float]:
    """A reply scored as the paper did: ``acc``, and ``unreadable`` where no letter was read, neither yes nor no."""
    read = READERS[doc["reader"]](replies[0])
    is_readable = read.isalpha()
    if doc["reader"] == "W":
        is_readable = read in (set(doc["letters"]) or {"YES", "NO"})
    return {"acc": float(read == doc["answer"].upper()), "unreadable": float(not is_readable)}


def score_carefully(doc: Document, replies: Sequence[str]) -> dict[str, float]:
    """The same by a careful reader."""
    if doc["letters"]:
        letter = careful_letter(replies[0], doc["letters"])
        return {"acc": float(letter == doc["answer"].upper()), "unreadable": float(letter is None)}
    says_yes = careful_yes(replies[0])
    is_right = says_yes is not None and says_yes == (doc["answer"].lower() == "yes")
    return {"acc": float(is_right), "unreadable": float(says_yes is None)}


Verdict = tuple[str, float]
"""A question's group and whether its reply is right: 1 or 0."""


def share_of_groups(size: int) -> Callable[[Iterable[Verdict]], float]:
    """A metric's aggregation: the share of groups all whose questions were answered rightly, in whatever order.

    Args:
        size: questions a group; of one that has fewer (``--limit``) some were not asked, so it is not right.
    """

    def aggregate(verdicts: Iterable[Verdict]) -> float:
        groups: dict[str, list[float]] = defaultdict(list)
        for group, right in verdicts:
            groups[group].append(right)
        return sum(len(rights) >= size and all(rights) for rights in groups.values()) / len(groups)

    return aggregate


def film_question(
    name: str, film: Path, text: str, answer: str, *, letters: str, category: str = "", ask: str = LETTER
) -> Question:
    """A question about one film, which stands before it; read as the paper's scripts of films read."""
    return Question(
        id=name,
        prompt=f"<video>\n{text}{ask}",
        media=(str(film),),
        answer=answer,
        reader="L+",
        letters=letters,
        category=category,
    )


def picture_question(
    name: str,
    pictures: Sequence[str],
    text: str,
    answer: str,
    *,
    reader: str = "L",
    letters: str = "",
    category: str = "",
    cluster: str = "",
) -> Question:
    """A question about pictures, which stand before it, a line each."""
    return Question(
        id=name,
        prompt="<image>\n" * len(pictures) + text,
        media=tuple(pictures),
        answer=answer,
        reader=reader,
        letters=letters,
        category=category,
        cluster=cluster,
    )


def in_coco(coco: Path, name: str) -> str:
    """The place of a COCO 2017 picture: in ``val2017``, else ``train2017``."""
    places = [coco / part / name for part in ("val2017", "train2017")]
    return str(next((place for place in places if place.is_file()), places[1]))


def omitted(folder: str, count: int, kept: int, what: str) -> None:
    """Say which rows are left out as the paper left them out."""
    if count:
        _log.warning("%s: %d of %d questions are left out, as in the paper: %s", folder, count, count + kept, what)


def options(texts: Sequence[str]) -> str:
    """Options, a line each, after their letters."""
    return "".join(f"\n{letter}. {text}" for letter, text in zip(ascii_uppercase, texts, strict=False))


def letters(count: int) -> str:
    """The first so many letters."""
    return ascii_uppercase[:count]


def read_rows(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The rows of a JSON or JSON Lines file, each after its name in errors: ``FILE, row 3``.

    Raises:
        JigsawError: if it is damaged, or holds no list of objects.
    """
    try:
        text = file.read_text(encoding="utf-8")
        lines = text.split("\n") if file.suffix == ".jsonl" else [text]  # a line of JSON may hold other line ends
        rows = [json.loads(line) for line in lines if line.strip()] if file.suffix == ".jsonl" else json.loads(text)
    except ValueError as error:
        raise JigsawError(f"{file}: cannot be read as JSON ({error}); download it again") from error
    for number, row in enumerate(rows if isinstance(rows, list) else [rows]):
        if not isinstance(row, Mapping):
            raise JigsawError(f"{file}, row {number}: is {row!r:.60} where an object is expected; is it another file?")
        yield f"{file}, row {number}", row


def parquet_rows(file: Path, *names: str) -> list[tuple[Any, ...]]:
    """The named columns of a parquet file, a tuple a row; the pictures beside them are not read.

    Raises:
        JigsawError: if it is damaged or has not all of the columns.
        FileNotFoundError: if it is not there.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as opened:
            fields(dict.fromkeys(opened.schema_arrow.names), str(file), *names)
            table = opened.read(columns=list(names))
    except pa.ArrowInvalid as error:
        raise JigsawError(f"{file}: cannot be read as parquet ({error}); download it again") from error
    return list(zip(*(table[name].to_pylist() for name in names), strict=True))


def pictures_held(file: Path, column: str) -> list[int]:
    """How many pictures lie in each row of a column of lists."""
    import pyarrow.compute as pc

    fields(dict.fromkeys(_rows(str(file)).column_names), str(file), column)
    counts: list[int] = pc.list_value_length(_rows(str(file)).data.column(column)).to_pylist()
    return counts


def fields(row: Mapping[str, Any], where: str, *names: str) -> list[Any]:
    """The values of a row's fields.

    Raises:
        JigsawError: if it has not all of them; the message begins with ``where``.
    """
    for name in names:
        if name not in row:
            raise JigsawError(f"{where}: has no field {name}, but {', '.join(map(str, row))}; is it another file?")
    return [row[name] for name in names]


def place(options: Sequence[Any], answer: Any, where: str) -> str:
    """The letter of the option that is right.

    Raises:
        JigsawError: if it is none of them.
    """
    if answer not in options:
        raise JigsawError(f"{where}: its answer {answer!r:.60} is none of its options")
    return ascii_uppercase[options.index(answer)]
