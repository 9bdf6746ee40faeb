"""A task from outside, for tests/tasks/test_outside.py: a picture is cut into columns."""

from typing import Any

from jigsaw.puzzle import Plan, Spec
from jigsaw.rows import Row, media_struct, struct_path
from jigsaw.tasks.base import Level, is_count
from jigsaw.tasks.image import ImageTask


class StripsTask(ImageTask):
    """Columns of a picture."""

    name = "strips"
    fields = frozenset({"path", "columns"})
    level_form = "a number of columns, 2 or more"

    def owns(self, row: Row) -> bool:
        return "strips" in str(row.get("data_source"))

    def read(self, row: Row) -> Spec:
        struct = media_struct(row, "images", "path, columns")
        return {"path": struct_path(struct, "images"), "grid": [1, struct["columns"]], "resize": None, "crop": None}

    def in_words(self, plan: Plan) -> str:
        return f"{len(plan.order)} strips"

    def level(self, given: Any) -> Level | None:
        return given if is_count(given) and given > 1 else None

    def at_level(self, row: Row, level: Level) -> Row:
        (struct,) = row["images"]
        return {**row, "images": [{**struct, "columns": level}]}

    def wording(self, said: Spec) -> dict[str, int]:
        return {"strips": self.pieces(said)}
