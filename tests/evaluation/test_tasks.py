"""All tasks as lmms-eval's manager loads them, on benchmarks in small: what is asked, and what replies are worth."""

import json
import sys
import tracemalloc
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml
from PIL import Image, ImageFile

from jigsaw.evaluation.boxes import shown_size
from jigsaw.evaluation.table import Fixtures, read_table
from jigsaw.evaluation.tasks import read_task
from jigsaw.toy.benchmarks import MAKERS, Layout, write_benchmarks

pytestmark = [pytest.mark.seconds, pytest.mark.timeout(300)]

PROMPTS = Path(__file__).with_name("prompts.yaml")
LAYOUTS: tuple[Layout, ...] = ("official", "converted")
NAMES = [name + kind for name in MAKERS for kind in ("", "_fixed")]


def lmms_eval_s() -> tuple[Any, Any]:
    """Its manager and loader, without what importing them changes for all tests of this process."""
    from lmms_eval.tasks import TaskManager, get_task_dict

    ImageFile.LOAD_TRUNCATED_IMAGES = False
    return TaskManager, get_task_dict


Oracle = Callable[[Mapping[str, Any]], str]
"""A reply to a document."""


class Benchmarks:
    """The tasks of one layout."""

    def __init__(self, root: Path, repository: Path, layout: Layout):
        TaskManager, get_task_dict = lmms_eval_s()
        write_benchmarks(root, layout=layout)
        self.root = root
        manager = TaskManager(include_path=str(repository / "eval/tasks"), include_defaults=False)
        self.names = sorted(name for name in manager.all_tasks if name.startswith("vj_"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("VJ_DATA", str(root))
            self.tasks = {name: get_task_dict([name], manager, task_type="chat")[name] for name in NAMES}

    def values(
        self, name: str, oracle: Callable[[Mapping[str, Any]], str], seed: int | None = None
    ) -> dict[str, float]:
        """A task's results, the rows in file order or shuffled."""
        task = self.tasks[name]
        docs = list(task.test_docs())
        if seed is not None:
            Random(seed).shuffle(docs)
        found: dict[str, list[Any]] = defaultdict(list)
        for doc in docs:
            for metric, value in task.process_results(doc, [oracle(doc)]).items():
                found[metric].append(value)
        assert set(found) <= set(task.aggregation())
        return {metric: task.aggregation()[metric](values) for metric, values in found.items()}


@pytest.fixture(scope="module")
def all_layouts(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Layout, Benchmarks]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))
        yield {layout: Benchmarks(tmp_path_factory.mktemp(layout), repository, layout) for layout in LAYOUTS}


def answer(doc: Mapping[str, Any], *, is_right: bool = True) -> str:
    """What is right, or wrong, in the shortest form."""
    if doc["reader"] == "boxes":
        return json.dumps([box if is_right else [0, 0, 1, 1] for box in shown_boxes(doc)]) if shown_boxes(doc) else ""
    said: str = doc["answer"]
    if is_right:
        return said
    if doc["letters"]:
        return next(letter for letter in doc["letters"] if letter != said.upper())
    return "Yes" if said.lower() == "no" else "No"


def shown_boxes(doc: Mapping[str, Any]) -> list[list[int]]:
    """The true boxes of a question in pixels of the picture as shown."""
    with Image.open(doc["media"][0]) as picture:
        size = picture.size
    across, down = (shown / side for shown, side in zip(shown_size(size), size, strict=True))
    if "box" in doc:
        boxes = [doc["box"]]
    else:
        truth = json.loads(Path(doc["annotations"]).read_text())["annotations"]
        mine = [one["bbox"] for one in truth if (one["image_id"], one["category_id"]) == (doc["image"], doc["target"])]
        boxes = [[left, top, left + width, top + height] for left, top, width, height in mine]
    return [[round(x0 * across), round(y0 * down), round(x1 * across), round(y1 * down)] for x0, y0, x1, y1 in boxes]


def right(doc: Mapping[str, Any]) -> str:
    return answer(doc)


def wrong(doc: Mapping[str, Any]) -> str:
    return answer(doc, is_right=False)


def nothing(doc: Mapping[str, Any]) -> str:
    return ""


def at_length(doc: Mapping[str, Any]) -> str:
    if doc["reader"] == "boxes":
        return f"<think>It could be [1, 1, 2, 2].</think>\n```json\n{answer(doc)}\n```"
    if doc["letters"]:
        return f"The answer is ({answer(doc)})."
    return f"{answer(doc).title()}, I see it."


def main_metrics(values: Mapping[str, float]) -> dict[str, float]:
    return {metric: value for metric, value in values.items() if metric != "unreadable"}


def test_all_are_there(all_layouts: dict[Layout, Benchmarks]) -> None:
    for benchmarks in all_layouts.values():
        assert set(NAMES) <= set(benchmarks.names)
        for name, task in benchmarks.tasks.items():
            assert task.OUTPUT_TYPE == "generate_until", name
            assert task.config.generation_kwargs["max_new_tokens"] == 1024
            assert task.config.generation_kwargs["do_sample"] is False
            assert task.config.reasoning_tags == "none"


METRICS = {
    "vj_lisa_grounding": {"acc_iou50"},
    "vj_ovdeval": {"nms_ap", "nms_ap_color", "nms_ap_logo"},
    "vj_winoground": {"text_score", "image_score", "group_score"},
    "vj_sugarcrepe_pp": {"group_acc"},
    "vj_mmvp": {"acc", "pair_acc"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", NAMES)
def test_oracles(all_layouts: dict[Layout, Benchmarks], layout: Layout, name: str) -> None:
    benchmarks = all_layouts[layout]
    known = {"vj_cvbench": 0.75, "vj_ovdeval": 0.0}  # its yes/no questions can't be right; boxes: see below
    perfect = known.get(name, 1.0)
    scored = benchmarks.values(name, right)
    assert set(main_metrics(scored)) == METRICS.get(name.removesuffix("_fixed"), {"acc"})
    if "ovdeval" not in name:
        assert set(main_metrics(scored).values()) == {perfect}
        assert scored["unreadable"] == 0
    assert set(main_metrics(benchmarks.values(name, wrong)).values()) == {0}
    silent = benchmarks.values(name, nothing)
    assert set(main_metrics(silent).values()) == {0}
    assert silent["unreadable"] == 1
    assert all(0 <= value <= 1 for value in benchmarks.values(name, at_length).values())
    for seed in range(3):
        assert benchmarks.values(name, right, seed) == scored
        assert benchmarks.values(name, guess, seed) == benchmarks.values(name, guess)
    docs = list(benchmarks.tasks[name].test_docs())
    task = read_task(name)
    by_file = task.figures(task.scores((doc, guess(doc)) for doc in docs))
    assert by_file == benchmarks.values(name, guess)  # without lmms-eval


def guess(doc: Mapping[str, Any]) -> str:
    """Right or wrong, by the question."""
    return answer(doc, is_right=Random(doc["id"]).random() < 0.5)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", list(MAKERS))
def test_the_careful_scorer_reads_right_answers_at_length(
    all_layouts: dict[Layout, Benchmarks], layout: Layout, name: str
) -> None:
    paper = main_metrics(all_layouts[layout].values(name, at_length))
    careful = main_metrics(all_layouts[layout].values(f"{name}_fixed", at_length))
    if name == "vj_ovdeval":  # boxes are asked for in whole pixels
        assert careful["nms_ap"] > 0.9 > paper["nms_ap"]
    else:
        assert set(careful.values()) == {1.0}
    if name not in ("vj_ovdeval", "vj_lisa_grounding"):
        assert max(paper.values()) < 0.5


def test_no_row_holds_pixels(all_layouts: dict[Layout, Benchmarks]) -> None:
    for task in all_layouts["official"].tasks.values():
        assert len(json.dumps(next(iter(task.test_docs())))) < 2000


def test_absent_media_are_named_by_the_task(all_layouts: dict[Layout, Benchmarks]) -> None:
    task = all_layouts["official"].tasks["vj_tvbench"]
    doc = next(iter(task.test_docs()))
    with pytest.raises(FileNotFoundError, match=r"gone\.mp4: no such file"):
        task.doc_to_messages({**doc, "media": ["gone.mp4"]})


def asked(benchmarks: Benchmarks, name: str) -> list[list[str]]:
    """The messages of a task's first and last row, a line a part."""
    docs = list(benchmarks.tasks[name].test_docs())
    return [
        [
            _part(part, benchmarks.root)
            for message in benchmarks.tasks[name].doc_to_messages(doc)
            for part in message["content"]
        ]
        for doc in (docs[0], docs[-1])
    ]


def _part(part: Mapping[str, Any], root: Path) -> str:
    if part["type"] == "text":
        return str(part["text"])
    shown = part["url"]
    if isinstance(shown, Image.Image):
        return f"<{part['type']}: picture of {shown.width}×{shown.height}>"
    return f"<{part['type']}: {Path(shown).relative_to(root)}>"


def snapshot(all_layouts: Mapping[Layout, Benchmarks]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in MAKERS:
        for layout, benchmarks in all_layouts.items():
            if layout == "official" or asked(benchmarks, name) != found[name]["official"]:
                found.setdefault(name, {})[layout] = asked(benchmarks, name)
    return found


def test_prompts_are_as_they_were(all_layouts: dict[Layout, Benchmarks]) -> None:
    """A change of a prompt is seen in review: in the diff of its neighbour, once that is written anew."""
    now = snapshot(all_layouts)
    if Path(sys.argv[0]).name == Path(__file__).name:
        PROMPTS.write_text(_text(now))
    assert now == yaml.safe_load(PROMPTS.read_text()), "write it anew: python tests/evaluation/test_tasks.py"


def _text(found: Mapping[str, Any]) -> str:
    head = "# What is asked: first and last row of each benchmark in small, part by part of their messages.\n"
    return head + yaml.dump(found, Dumper=_Blocks, allow_unicode=True, sort_keys=False, width=1000)


class _Blocks(yaml.SafeDumper):
    """Texts of several lines are written as such."""


def _represent(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text.strip() else None)


_Blocks.add_representer(str, _represent)


def test_the_readmes_say_what_the_careful_scorer_changes(all_layouts: dict[Layout, Benchmarks]) -> None:
    for benchmark in read_table().benchmarks:
        if not benchmark.built_in:
            metric = next(iter(benchmark.metric))
            paper, fixed = (
                round(all_layouts["official"].values(benchmark.task + kind, at_length)[metric], 2)
                for kind in ("", "_fixed")
            )
            assert benchmark.on_fixtures == Fixtures(paper=paper, fixed=fixed), benchmark.task


GROUPS = ("vj_image", "vj_video", "vj_3d")


def test_groups_hold_the_papers_tables(repository: Path) -> None:
    TaskManager, _ = lmms_eval_s()
    manager = TaskManager(include_path=str(repository / "eval/tasks"))
    members = {
        name: yaml.safe_load((repository / f"eval/tasks/groups/{name}.yaml").read_text())["task"]
        for name in (*GROUPS, "vj_all")
    }
    assert set(members) <= set(manager.all_groups)
    everything = [task for name in GROUPS for task in members[name]]
    assert members["vj_all"] == list(dict.fromkeys(everything))
    assert set(everything) <= set(manager.all_tasks)
    assert {task for task in everything if task.startswith("vj_")} == set(MAKERS)


def test_a_group_is_a_name_like_any_other(
    all_layouts: dict[Layout, Benchmarks], repository: Path, tmp_path: Path
) -> None:
    """The form of our groups, without the tasks that need the hub."""
    TaskManager, get_task_dict = lmms_eval_s()
    (tmp_path / "vj_few.yaml").write_text("group: vj_few\ntask:\n  - vj_vsr\n  - vj_mmvp\n")
    manager = TaskManager(include_path=[str(repository / "eval/tasks"), str(tmp_path)], include_defaults=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VJ_DATA", str(all_layouts["official"].root))
        (tasks,) = get_task_dict(["vj_few"], manager, task_type="chat").values()
    assert set(tasks) == {"vj_vsr", "vj_mmvp"}


def test_ten_thousand_rows_load_in_seconds(repository: Path, tmp_path: Path) -> None:
    """The pictures need not even be there; no pixel is held."""
    TaskManager, get_task_dict = lmms_eval_s()
    rows = [{"image": f"{number}.jpg", "caption": "A cat.", "label": 1, "relation": "at"} for number in range(10_000)]
    (tmp_path / "vsr").mkdir()
    (tmp_path / "vsr/test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    manager = TaskManager(include_path=str(repository / "eval/tasks"), include_defaults=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VJ_DATA", str(tmp_path))
        tracemalloc.start()
        docs = get_task_dict(["vj_vsr"], manager, task_type="chat")["vj_vsr"].test_docs()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert len(docs) == 10_000
    assert peak < 100 << 20


if __name__ == "__main__":
    raise SystemExit(pytest.main([__file__, "-q", "-k", "prompts"]))
