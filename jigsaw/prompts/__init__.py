"""The wording of the prompts: one Jinja template a task, and nothing but wording."""

from functools import cache
from importlib.resources import files

from jigsaw.rows import AnswerFormat


@cache
def render(task: str, answer_format: AnswerFormat, **values: int) -> str:
    """The prompt of a task as text, with one ``<image>`` mark a piece.

    Args:
        task: name of the template.
        answer_format: how the answer is asked for.
        values: what the template needs, for example ``rows`` and ``columns``.
    """
    # Imported here: a reader of finished rows never needs the template engine.
    from jinja2 import DictLoader, Environment, StrictUndefined

    templates = {
        entry.name.removesuffix(".j2"): entry.read_text(encoding="utf-8")
        for entry in files(__name__).iterdir()
        if entry.name.endswith(".j2")
    }
    environment = Environment(
        loader=DictLoader(templates), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
    )
    return environment.get_template(task).render(answer_format=answer_format, **values).strip()
