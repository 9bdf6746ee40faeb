"""``vj_qwen_vl``: lmms-eval's real command with a tiny model, both engines, films as the paper showed them."""

import json
import os
import re
import shutil
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from jigsaw.errors import JigsawError, MediaError
from jigsaw.evaluation.shown import Policy, Show
from jigsaw.lmms_plugin.engines import Asked, Reply, load_processor, workers
from jigsaw.toy.benchmarks import write_benchmarks
from jigsaw.toy.videos import write_video

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("benchmarks")
    write_benchmarks(root, seconds=9)
    return root


@pytest.fixture
def model(restless: Callable[[str], Path]) -> Path:
    return restless("qwen2_5_vl")


def environment(benchmarks: Path, **others: str) -> dict[str, str]:
    return {**os.environ, "VJ_DATA": str(benchmarks), "HF_HUB_OFFLINE": "1", **others}


def lmms_eval(
    benchmarks: Path, model: Path, out: Path, tasks: str, *options: str, ranks: int = 1, args: str = ""
) -> tuple[str, dict[str, Any], dict[str, list[str]]]:
    """What lmms-eval's command printed, its results, and the replies of each task by their rows."""
    start = [sys.executable, "-m"]
    if ranks > 1:
        start = [*start, "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}", "-m"]
    command = [
        *(*start, "lmms_eval", "--include_path=eval/tasks", f"--tasks={tasks}", "--model=vj_qwen_vl"),
        *(f"--model_args=pretrained={model}{args}", "--batch_size=1", "--gen_kwargs=max_new_tokens=6"),
        *(f"--output_path={out}", "--log_samples", *options),
    ]
    ended = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env=environment(benchmarks, HF_HOME=str(out / "hf")),
    )
    said = ended.stdout + ended.stderr
    results = {}
    for file in out.glob("*/*_results.json"):
        results = json.loads(file.read_text())["results"]
    replies = {}
    for file in out.glob("*/*_samples_*.jsonl"):
        rows = sorted(map(json.loads, file.read_text().splitlines()), key=lambda row: row["doc_id"])
        replies[file.stem.partition("_samples_")[2]] = [row["filtered_resps"][0] for row in rows]
    return said, results, replies


TASKS = "vj_mmvp,vj_viewspatial,vj_tvbench,vj_cvbench,vj_winoground,vj_ovdeval"


def test_real_runs_by_one_process_and_by_two(benchmarks: Path, model: Path, tmp_path: Path) -> None:
    said, results, replies = lmms_eval(benchmarks, model, tmp_path / "one", TASKS)
    assert set(results) == set(TASKS.split(",")), said[-3000:]
    assert {name: len(rows) for name, rows in replies.items()} == {
        **dict.fromkeys(("vj_viewspatial", "vj_tvbench", "vj_cvbench"), 4),
        **{"vj_mmvp": 8, "vj_winoground": 16, "vj_ovdeval": 16},
    }
    assert len({reply for rows in replies.values() for reply in rows}) > 10
    for name, metrics in results.items():
        assert 0 <= metrics["unreadable,none"] <= 1, name
    _, by_two, same_replies = lmms_eval(benchmarks, model, tmp_path / "two", TASKS, ranks=2)
    assert same_replies == replies
    assert values(by_two) == values(results)


def values(results: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    return {
        name: {metric: value for metric, value in found.items() if metric.endswith(",none") and "stderr" not in metric}
        for name, found in results.items()
    }


def test_absent_media_are_named_before_a_model_is_loaded(benchmarks: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(benchmarks, broken)
    (broken / "TVBench/video/action_count/2.mp4").unlink()
    (broken / "TVBench/video/action_count/3.mp4").unlink()
    said, results, _ = lmms_eval(broken, tmp_path / "no_model", tmp_path / "out", "vj_tvbench")
    assert re.search(r"action_count/2\.mp4: no such file, nor are 1 more", said), said[-3000:]
    assert not results
    assert "no_model: cannot be loaded" not in said


def test_what_cannot_be_read_is_named(benchmarks: Path, model: Path, tmp_path: Path) -> None:
    show = Show(AutoProcessor.from_pretrained(model))
    for kind, name in (("image", "p.jpg"), ("video", "f.mp4")):
        (tmp_path / name).write_text("no medium")
        with pytest.raises(MediaError, match=rf"{name}.*cannot be read as a (picture|film)"):
            show([{"role": "user", "content": [{"type": kind, "url": str(tmp_path / name)}]}], Policy())
    half = (benchmarks / "MMVP/images/1.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(half[: len(half) // 2])
    with pytest.raises(MediaError, match=r"half\.jpg: cannot be read as a picture"):
        show([{"role": "user", "content": [{"type": "image", "url": str(tmp_path / "half.jpg")}]}], Policy())
    with pytest.raises(JigsawError, match=r"gone: cannot be loaded"):
        load_processor(str(tmp_path / "gone"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other/config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(JigsawError, match=r"other: is a llama; vj_qwen_vl asks qwen2_5_vl and qwen3_vl"):
        load_processor(str(tmp_path / "other"))


@pytest.mark.parametrize("options", ["engine=sglang", "time_embedding=none", "max_frames=2"])
def test_options_that_are_none_are_named(options: str) -> None:
    from jigsaw.lmms_plugin.model import QwenVL

    with pytest.raises(JigsawError, match=rf"^{options}: (is not known|must be 8)"):
        QwenVL.create_from_arg_string(f"pretrained=x,{options}", {"batch_size": 1})


def test_what_it_does_not_do_it_says_in_one_line() -> None:
    from jigsaw.lmms_plugin.model import QwenVL

    model = QwenVL("x")
    with pytest.raises(JigsawError, match="tells no likelihoods; ask this task of another model class"):
        model.loglikelihood([])
    with pytest.raises(JigsawError, match="holds no conversation; ask this task of another model class"):
        model.generate_until_multi_round([])


@pytest.mark.parametrize("keeps", [False, True])
def test_pictures_of_one_question_at_a_time_are_in_memory(tmp_path: Path, keeps: bool) -> None:
    """An 8K picture takes 100 MB; a benchmark has hundreds."""
    from jigsaw.lmms_plugin.model import QwenVL

    made: list[weakref.ref[Image.Image]] = []
    most = 0

    def messages(doc: Mapping[str, Any]) -> list[dict[str, Any]]:
        nonlocal most
        picture = Image.new("RGB", (64, 48), (doc["id"], 0, 0))
        made.append(weakref.ref(picture))
        most = max(most, sum(one() is not None for one in made))
        return [{"role": "user", "content": [{"type": "image", "url": picture}]}]

    class OneByOne:
        def ask(self, questions: Sequence[Asked]) -> Iterator[tuple[int, Reply]]:
            for place, question in enumerate(questions):
                assert question.messages()
                yield place, Reply("A", 1, ())

    model = QwenVL("x", replies=str(tmp_path / "r.jsonl") if keeps else None, weights="w")
    vars(model)["_engine"] = OneByOne()
    model.task_dict = {"t": {"test": [{"id": number} for number in range(100)]}}
    requests = [SimpleNamespace(args=("", messages, {}, number, "t", "test")) for number in range(100)]
    assert len(model.generate_until(requests)) == 100
    assert most <= 2 * workers()


FRAMES = [(3, 1, 6), (4, 1, 8), (20, 1, 16), (30, 1, 16), (3, 4, 4), (30, 4, 4)]


@pytest.mark.parametrize(("seconds", "share", "frames"), FRAMES)
def test_films_are_shown_as_the_paper_showed_them(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: int, share: int, frames: int
) -> None:
    from qwen_vl_utils import vision_process

    film = write_video(tmp_path / "film.mp4", seconds=seconds, size=(160, 90))
    shown = Show(AutoProcessor.from_pretrained(model))(
        [{"role": "user", "content": [{"type": "video", "url": str(film)}]}], Policy(16 // share)
    )
    ((pixels, told),) = shown.videos
    assert len(pixels) == frames
    assert told["fps"] == 2.0  # each two frames last a second, whatever the film's rate
    assert 128 * 28**2 <= pixels[0, 0].numel() <= 256 * 28**2
    # By the paper's library itself, decoded as it decodes where torchcodec is not installed.
    monkeypatch.setattr(vision_process, "get_video_reader_backend", lambda: "decord")
    limits = {"fps": 2, "max_frames": 16 // share, "min_pixels": 128 * 28**2, "max_pixels": 256 * 28**2}
    theirs = vision_process.fetch_video({"video": str(film), **limits})
    assert torch.equal(pixels.float(), theirs)


def test_pictures_share_their_pixels(model: Path, tmp_path: Path) -> None:
    processor = AutoProcessor.from_pretrained(model)
    Image.new("RGB", (6000, 4000)).save(tmp_path / "p.jpg")
    part = {"type": "image", "url": str(tmp_path / "p.jpg")}
    for count in (1, 3):
        shown = Show(processor)([{"role": "user", "content": [part] * count}], Policy())
        most = 12_845_056 / count
        assert all(0.98 * most < image.width * image.height <= most for image in shown.images)
        assert len(shown.images) == count


@pytest.mark.parametrize(
    ("family", "timed"),
    [
        ("qwen2_5_vl", "released"),
        pytest.param("qwen2_5_vl", "true", marks=pytest.mark.slow("models")),
        *(pytest.param("qwen3_vl", timed, marks=pytest.mark.slow("models")) for timed in ("released", "true")),
    ],
)
def test_both_engines_see_and_say_the_same(
    benchmarks: Path, restless: Callable[[str], Path], tmp_path: Path, family: str, timed: str
) -> None:
    folder = restless(family)
    ended = subprocess.run(
        [sys.executable, Path(__file__).with_name("engines.py"), folder, timed],
        capture_output=True,
        text=True,
        check=False,
        env=environment(benchmarks, HF_HOME=str(tmp_path / "hf")),
    )
    assert "FOUND " in ended.stdout, (ended.stdout + ended.stderr)[-3000:]
    found = json.loads(ended.stdout.partition("FOUND ")[2].splitlines()[0])
    prompts = {name: [prompt for _, prompt in replies] for name, replies in found.items()}
    said = {name: [text for text, _ in replies] for name, replies in found.items()}
    assert prompts["hf"] == prompts["hf by three"] == prompts["vllm"]  # so are the grids: a token a patch of each
    assert said["hf"] == said["hf by three"] == said["vllm"]
    assert len(set(said["hf"])) > 10
