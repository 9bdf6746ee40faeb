"""Questions of a benchmark as lmms-eval asks and scores them.

A benchmark is a function from its folder to :class:`Question` s, and a task file that names it (``eval/tasks``). All
else is here. Documents hold paths, no pixels.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

from jigsaw.errors import JigsawError
from jigsaw.evaluation.replies import READERS, careful_letter, careful_yes

if TYPE_CHECKING:
    from datasets import Dataset

Document = Mapping[str, Any]
"""A question as a row of lmms-eval's data set."""

ROOT = "VJ_DATA"
"""Environment variable: folder that holds a folder a benchmark."""

# Appended to a question, as the paper's scripts have it.
LETTER = "\nAnswer with the option letter directly."
LETTER_OF_CHOICES = "\nAnswer with the option's letter from the given choices directly."

_MARK = re.compile("<(image|video)>")


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question of a benchmark.

    Attributes:
        id: unique in the benchmark, whatever the order of its rows.
        prompt: the text, ``<image>`` or ``<video>`` where a medium stands.
        media: path of each medium, in that order.
        answer: what the paper's reader must read.
        reader: its name, a key of :data:`jigsaw.evaluation.replies.READERS`.
        letters: of the options; empty where the answer is yes or no.
        category: of the question, as the benchmark names it.
    """

    id: str
    prompt: str
    media: tuple[str, ...]
    answer: str
    reader: str
    letters: str = ""
    category: str = ""


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
        rows = [asdict(question) for question in questions(Path(root) / folder)]
        if not rows:
            raise JigsawError(f"{Path(root) / folder}: holds no questions; its data must be downloaded again")
        return Dataset.from_list(rows)

    return process_docs


def messages(doc: Document) -> list[dict[str, Any]]:
    """A question's chat messages; a medium is the path of its file.

    Raises:
        FileNotFoundError: if a medium is not there.
    """
    content: list[dict[str, str]] = []
    waiting = iter(doc["media"])
    for place, part in enumerate(_MARK.split(doc["prompt"])):
        if place % 2:
            path = next(waiting)
            if not Path(path).is_file():
                raise FileNotFoundError(f"{path}: no such file; download the benchmark's media again")
            content.append({"type": part, "url": path})
        elif part:
            content.append({"type": "text", "text": part})
    return [{"role": "user", "content": content}]


def text(doc: Document) -> str:
    """A question's text, which lmms-eval logs."""
    return _MARK.sub("", doc["prompt"]).strip()


def score(doc: Document, replies: Sequence[str]) -> dict[str, float]:
    """A reply scored as the paper did: ``acc``, and ``unreadable`` where nothing was read."""
    read = READERS[doc["reader"]](replies[0])
    return {"acc": float(read == doc["answer"].upper()), "unreadable": float(not read)}


def score_carefully(doc: Document, replies: Sequence[str]) -> dict[str, float]:
    """The same by a careful reader."""
    if doc["letters"]:
        letter = careful_letter(replies[0], doc["letters"])
        return {"acc": float(letter == doc["answer"].upper()), "unreadable": float(letter is None)}
    says_yes = careful_yes(replies[0])
    is_right = says_yes is not None and says_yes == (doc["answer"].lower() == "yes")
    return {"acc": float(is_right), "unreadable": float(says_yes is None)}


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
    text = file.read_text(encoding="utf-8")
    try:
        rows = [json.loads(line) for line in text.splitlines() if line] if file.suffix == ".jsonl" else json.loads(text)
    except ValueError as error:
        raise JigsawError(f"{file}: cannot be read as JSON ({error}); download it again") from error
    for number, row in enumerate(rows if isinstance(rows, list) else [rows]):
        if not isinstance(row, Mapping):
            raise JigsawError(f"{file}, row {number}: is {row!r:.60} where an object is expected; is it another file?")
        yield f"{file}, row {number}", row


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
