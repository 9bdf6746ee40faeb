"""The paper's benchmarks in small: made-up questions about rendered pictures and films, in the layout of the real ones.

With them the whole evaluation runs where the real data are not: ``python -m jigsaw.toy.benchmarks FOLDER`` makes them,
and ``VJ_DATA=FOLDER jigsaw eval MODEL --suite all`` asks them. What a model scores means nothing.
"""

import csv
import json
import shutil
import sys
from base64 import b64encode
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from jigsaw.media.image import encoded
from jigsaw.toy.scenes import render_scene
from jigsaw.toy.videos import write_video

Layout = Literal["official", "converted"]
"""Of the data: as its authors give it, or as the paper's authors converted it; some benchmarks have one alone."""

WORDS = ("left", "right", "above", "below", "inside")
ASK = "\nAnswer with the option letter directly."
SIZE = (112, 84)
"""(width, height) of the pictures, but for one in ten: multiples of 28, so that a model sees them unscaled."""
ODD_SIZE = (150, 100)


@dataclass
class _Made:
    """Where one benchmark is made.

    Attributes:
        root: holds all of them.
        rows: questions, or groups of them.
        converted: the layout.
        film: a film, of which all are copies.
    """

    root: Path
    rows: int
    converted: bool
    film: Path

    def picture(self, name: str, seed: int) -> str:
        """Write a picture below the root."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        size = ODD_SIZE if seed % 10 == 1 else SIZE
        render_scene(17, seed).resize(size).save(path)
        return name

    def films(self, *names: str) -> None:
        """Put films below the root."""
        for name in names:
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.film, path)

    def write(self, name: str, rows: Any) -> None:
        """Write rows as JSON, or JSON Lines, as the name says."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = "\n".join(map(json.dumps, rows)) + "\n" if name.endswith(".jsonl") else json.dumps(rows, indent=1)
        path.write_text(lines)


def _letter(number: int, count: int = 4) -> str:
    """The answer to a question; all letters come, not in turn."""
    return "ABCDEFG"[(number * 7 + number // 3) % count]


def _word(number: int, count: int = 4) -> str:
    return WORDS["ABCDEFG".index(_letter(number, count))]


def _options(count: int = 4) -> str:
    return "".join(f"\n{letter}. {word}" for letter, word in zip("ABCDEFG", WORDS[:count], strict=False))


def _mmvp(made: _Made) -> None:
    path = made.root / "MMVP" / "Questions.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("Index", "Question", "Options", "Correct Answer"))
        for index in range(1, 2 * made.rows + 1):
            made.picture(f"MMVP/images/{index}.jpg", index)
            asked = f"Is the tree of picture {index} left or right?"
            table.writerow((index, asked, "(a) Left (b) Right", f"({_letter(index, 2).lower()})"))


def _hrbench(made: _Made) -> None:
    rows = [
        {
            "index": number,
            "question": f"Where is thing {number}?",
            "answer": _letter(number),
            "category": "single",
            **dict(zip("ABCD", WORDS, strict=False)),
            "image": b64encode(encoded(render_scene(17, number).resize(SIZE), "JPEG")).decode(),
        }
        for number in range(made.rows)
    ]
    _parquet(made.root / "HR-Bench/hr_bench_8k.parquet", rows)


def _sat(made: _Made) -> None:
    rows = [
        {
            "image_bytes": [
                encoded(render_scene(17, number + place).resize(SIZE), "PNG") for place in range(1 + number % 2)
            ],
            "question": f"Did thing {number} move?",
            "answers": ["left", "right"],
            "correct_answer": _word(number, 2),
        }
        for number in range(made.rows)
    ]
    _parquet(made.root / "sat/SAT_test.parquet", rows)


def _videott(made: _Made) -> None:
    rows = [
        {
            "video_id": f"film{number}",
            "question": f"What is odd in film {number}?{_options()}",
            "answer": _letter(number),
            "capability": "odd",
        }
        for number in range(made.rows + 1)
    ]
    _parquet(made.root / "video-tt/test-00000-of-00001.parquet", rows)
    made.films(*(f"video-tt/Benchmark-AllVideos-HQ-encoded/film{number}.mp4" for number in range(made.rows)))


def _parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def _lisa(made: _Made) -> None:
    made.write(
        "lisa_grounding/lisa_test.json",
        [
            {
                "image": made.picture(f"lisa_grounding/test/{number}.jpg", number).split("/", 1)[1],
                "problem": f"What would give shade in picture {number}?",
                "solution": [10 + number, 12, 60 + number, 70],
            }
            for number in range(made.rows)
        ],
    )


def _ovdeval(made: _Made) -> None:
    rows = []
    for subset in ("color", "logo"):
        categories = [{"id": 1, "name": f"{subset} one"}, {"id": 2, "name": f"{subset} two"}]
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number in range(made.rows):
            size = ODD_SIZE if number % 10 == 1 else SIZE
            image = {"id": number, "file_name": f"{number}.jpg", "width": size[0], "height": size[1]}
            made.picture(f"OVDEval/images/{subset}/{number}.jpg", number)
            images.append({**image, "text": [f"{subset} one"], "neg_text": [f"{subset} two"]})
            for place in range(1 + number % 2):  # the second category has no boxes
                box = [5 + 40 * place, 8 + number, 30, 40]
                annotations.append(
                    {
                        "id": len(annotations),
                        "image_id": number,
                        "category_id": 1,
                        "bbox": box,
                        "area": 1200,
                        "iscrowd": 0,
                    }
                )
            rows += [{"task": subset, "image_info": image, "category_info": category} for category in categories]
        truth = {"images": images, "annotations": annotations, "categories": categories}
        made.write(f"OVDEval/annotations/{subset}.json", truth)
    if made.converted:
        made.write("OVDEval/all_data.json", rows)


def _vsr(made: _Made) -> None:
    made.write(
        "vsr/test.jsonl",
        [
            {
                "image": made.picture(f"coco/{('val', 'train')[number % 2]}2017/{number:012d}.jpg", number)[-16:],
                "caption": f"The cat is {_word(number)} the dog.",
                "label": number % 3 % 2,
                "relation": _word(number),
            }
            for number in range(made.rows)
        ],
    )


def _omnispatial(made: _Made) -> None:
    official, converted = [], []
    for number in range(made.rows):
        picture = made.picture(f"OmniSpatial/OmniSpatial_1.5K/Perspective/{number}.png", number)
        said = {"question": f"Where does person {number} look?", "task_type": "Perspective", "sub_task_type": "Ego"}
        place = WORDS.index(_word(number))
        official.append({**said, "id": f"{number}_0", "options": list(WORDS[:4]), "answer": place})
        said["question"] += _options() + ASK
        converted.append({**said, "image": picture.split("/", 1)[1], "answer": _letter(number)})
    if made.converted:
        made.write("OmniSpatial/all_eval_data.json", converted)
    else:
        made.write("OmniSpatial/OmniSpatial_1.5K/data.json", official)


def _da2k(made: _Made) -> None:
    official: dict[str, Any] = {}
    converted = []
    for number in range(made.rows):
        picture = made.picture(f"DA-2K/images/indoor/{number}.jpg", number).split("/", 1)[1]
        near, far = [60, 20 + number], [10, 80]
        official[picture] = [{"point1": near, "point2": far, "closer_point": "point1"}]
        asked = f"Which point is closer?\nA. green\nB. red{ASK}"
        answer = _letter(number, 2)
        points = [near, far] if answer == "A" else [far, near]
        converted.append({"image": picture, "points": points, "question": asked, "answer": answer})
    if made.converted:
        made.write("DA-2K/all_data.json", converted)
    else:
        made.write("DA-2K/annotations.json", official)


def _winoground(made: _Made) -> None:
    official, converted = [], []
    for number in range(made.rows):
        names = [f"ex_{number}_img_{place}" for place in (0, 1)]
        pictures = [f"data/images/{name}.png" for name in names]
        for place, picture in enumerate(pictures):
            made.picture(f"winoground/{picture}", 2 * number + place)
        captions = (f"cat {number} over dog", f"dog over cat {number}")
        official.append(
            {"id": number, "caption_0": captions[0], "caption_1": captions[1], "image_0": names[0], "image_1": names[1]}
        )
        for place, (answer, sign) in enumerate(zip("AB", ("pos", "neg"), strict=True)):
            said = {"idx": f"{number}_{sign}", "GT": answer}
            asked = f"<image>\nWhich caption fits?\nA. {captions[0]}\nB. {captions[1]}{ASK}"
            converted.append({**said, "question_type": "text", "image_name": [pictures[place]], "question": asked})
            asked = f"<image>\n<image>\nWhich picture fits? Caption: {captions[place]}{ASK}"
            converted.append({**said, "question_type": "image", "image_name": pictures, "question": asked})
    if made.converted:
        made.write("winoground/all_data.json", converted)
    else:
        made.write("winoground/data/examples.jsonl", official)


def _sugarcrepe(made: _Made) -> None:
    files = ("replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")
    converted = []
    for place, file in enumerate(files):
        official = []
        for number in range(made.rows):
            picture = made.picture(f"coco/val2017/{1000 + number:012d}.jpg", number)[-16:]
            captions = (f"A red car, {number}.", f"A car that is red, {number}.", f"A blue car, {number}.")
            names = ("caption", "caption2", "negative_caption")
            official.append({"id": number, "filename": picture, **dict(zip(names, captions, strict=True))})
            for caption, kind in zip(captions, ("positive_1", "positive_2", "negative"), strict=True):
                converted.append(
                    {
                        "id": place * made.rows + number,
                        "q_type": kind,
                        "category": file,
                        "image": picture,
                        "question": f"<image>\nIs the caption right? Caption: {caption}\nAnswer Yes or No directly.",
                        "answer": "No" if kind == "negative" else "Yes",
                    }
                )
        if not made.converted:
            made.write(f"SugarCrepe_pp/{file}.json", official)
    if made.converted:
        made.write("SugarCrepe_pp/all_data.json", converted)


def _aotbench(made: _Made) -> None:
    rows = [
        {
            "video_name": f"videos/{number}.mp4",
            "question": f"Does film {number} run backwards?{_options(2)}{ASK}",
            "ans": _letter(number, 2),
            "question_type": "QA",
        }
        for number in range(made.rows)
    ]
    made.write("AoTBench/valid_data.json", rows)
    made.films(*(f"AoTBench/{row['video_name']}" for row in rows))


def _tomato(made: _Made) -> None:
    official: dict[str, Any] = {}
    converted = []
    for number in range(made.rows):
        video = f"videos/human/{number:04d}.mp4"
        made.films(f"TOMATO/{video}")
        asked = f"How does hand {number} turn?"
        place = WORDS.index(_word(number))
        official[str(number)] = {
            "question": asked,
            "options": list(WORDS[:4]),
            "answer": place,
            "key": f"{number:04d}",
            "demonstration_type": "human",
            "motion_type": "rotation",
        }
        prompt = f"<video>\n{asked}{_options()}{ASK}"
        converted.append({"video": video, "question": prompt, "answer": _letter(number), "type": "rotation"})
    if made.converted:
        made.write("TOMATO/all_data.json", converted)
    else:
        made.write("TOMATO/data/rotation.json", official)


def _favor(made: _Made) -> None:
    rows = [
        {
            "video_name": f"{number}.mp4",
            "question": f"What does person {number} do first?",
            "options": list(WORDS),
            "correct_answer": _word(number, 5),
            "task_type": "AS",
        }
        for number in range(made.rows)
    ]
    made.write("FAVOR/question_perspective.json", rows)
    made.films(*(f"FAVOR/videos/{row['video_name']}" for row in rows))


def _tuna(made: _Made) -> None:
    rows = [
        {
            "video": f"{number}",
            "question": f"How does camera {number} move?",
            "candidates": list(WORDS[:4]),
            "answer": _letter(number),
            "task": "camera",
        }
        for number in range(made.rows)
    ]
    made.write("TUNA/TUNA-MCQ.json", rows)
    made.films(*(f"TUNA/video/{row['video']}.mp4" for row in rows))


def _tvbench(made: _Made) -> None:
    official, converted = [], []
    for number in range(made.rows):
        made.films(f"TVBench/video/action_count/{number}.mp4")
        said = {"question": f"How often does ball {number} fall?", "video": f"{number}.mp4"}
        official.append({**said, "candidates": list(WORDS[:4]), "answer": _word(number)})
        said = {"question": said["question"] + _options(), "video": f"action_count/{number}.mp4"}
        converted.append({**said, "answer": _letter(number), "task": "action_count"})
    if made.converted:
        made.write("TVBench/all_data.json", converted)
    else:
        made.write("TVBench/json/action_count.json", official)


def _motionbench(made: _Made) -> None:
    official, converted = [], []
    for number in range(made.rows):
        folder = ("public-dataset", "self-collected")[number % 2]
        video = f"MotionBench/{folder}/{number}.mp4"
        made.films(f"MotionBench/{video}")
        asked = f"How does hand {number} move?{_options()}"
        qa = [{"uid": f"{number}a", "question": asked, "answer": _letter(number)}]
        qa += [{"uid": f"{number}b", "question": asked, "answer": "NA"}]
        official.append({"key": str(number), "video_path": f"{number}.mp4", "question_type": "MR", "qa": qa})
        converted.append({"video": video, "question": asked, "answer": _letter(number), "question_type": "MR"})
    converted.append({**converted[0], "video": "MotionBench/self-collected/CWBOtkJ7M6uDG75t.mp4"})
    if made.converted:
        made.write("MotionBench/motionbench_val.json", converted)
    else:
        made.write("MotionBench/video_info.meta.jsonl", official)


def _lvbench(made: _Made) -> None:
    official, converted = [], []
    for number in range(made.rows):
        made.films(f"LVBench/all_videos/film{number}.mp4")
        asked = f"What happens in minute {number}?{_options()}"
        qa = {"uid": str(number), "question": asked, "answer": _letter(number), "question_type": ["event", "time"]}
        official.append({"key": f"film{number}", "qa": [qa]})
        converted.append({**qa, "video": f"film{number}.mp4"})
    if made.converted:
        made.write("LVBench/all_data.json", converted)
    else:
        made.write("LVBench/video_info.meta.jsonl", official)


def _cvbench(made: _Made) -> None:
    official, converted = [], []
    for number in range(made.rows):
        films = [f"{number}/{place}.mp4" for place in range(2 + number % 3)]
        made.films(*(f"CVBench/videos/{film}" for film in films))
        is_yes_or_no = number % 4 == 3
        asked = f"Which film shows event {number}?"
        letters = [f"{letter}. {word}" for letter, word in zip("ABCD", WORDS, strict=False)]
        choices = ["Yes.", "No."] if is_yes_or_no else letters
        answer = ("Yes", "No")[number % 8 == 3] if is_yes_or_no else _letter(number)
        videos = {f"video_{place + 1}": film for place, film in enumerate([*films, None, None][:4])}
        said = {"id": number, "question": asked, "options": choices, "answer": answer, "task_type": "event"}
        official.append({**said, **videos})
        asked += "".join(f"\n{choice}" for choice in choices) + ASK
        converted.append({"videos": films, "question": asked, "answer": answer, "category": "event"})
    if made.converted:
        made.write("CVBench/all_data.json", converted)
    else:
        made.write("CVBench/CVBench.json", official)


def _3dsrbench(made: _Made) -> None:
    made.write(
        "3DSRBench/all_data.json",
        [
            {
                "image": made.picture(f"coco/val2017/{2000 + number:012d}.jpg", number).split("/", 1)[1],
                "question": f"Which is higher, {number}?{_options(2)}{ASK}",
                "answer": _letter(number, 2),
                "category": "height",
            }
            for number in range(made.rows)
        ],
    )


def _viewspatial(made: _Made) -> None:
    made.write(
        "ViewSpatial-Bench/ViewSpatial-Bench.json",
        [
            {
                "image_path": [
                    made.picture(f"ViewSpatial-Bench/scene{number}/{place}.jpg", number + place)
                    for place in range(1 + number % 3)
                ],
                "question": f"Where is chair {number}?",
                "choices": _options()[1:],
                "answer": f"{_letter(number)}. {_word(number)}",
                "question_type": "camera",
            }
            for number in range(made.rows)
        ],
    )


def _all_angles(made: _Made) -> None:
    made.write(
        "All-Angles-Bench/data.json",
        [
            {
                "image_path": [
                    made.picture(f"All-Angles-Bench/scene{number}/{place}.jpg", number + place).split("/", 1)[1]
                    for place in range(2)
                ],
                "question": f"How many chairs has room {number}?",
                **dict(zip("ABC", ("one", "two", "three"), strict=True)),
                "answer": _letter(number, 3),
                "category": "counting",
            }
            for number in range(made.rows)
        ],
    )


MAKERS: dict[str, Callable[[_Made], None]] = {
    "vj_3dsrbench": _3dsrbench,
    "vj_all_angles": _all_angles,
    "vj_aotbench": _aotbench,
    "vj_cvbench": _cvbench,
    "vj_da2k": _da2k,
    "vj_favor_bench": _favor,
    "vj_hrbench8k": _hrbench,
    "vj_lisa_grounding": _lisa,
    "vj_lvbench": _lvbench,
    "vj_mmvp": _mmvp,
    "vj_motionbench": _motionbench,
    "vj_omnispatial": _omnispatial,
    "vj_ovdeval": _ovdeval,
    "vj_sat": _sat,
    "vj_sugarcrepe_pp": _sugarcrepe,
    "vj_tomato": _tomato,
    "vj_tuna_bench": _tuna,
    "vj_tvbench": _tvbench,
    "vj_videott": _videott,
    "vj_viewspatial": _viewspatial,
    "vj_vsr": _vsr,
    "vj_winoground": _winoground,
}
"""Benchmarks by the names of their tasks."""


def write_benchmarks(
    root: Path, *, layout: Layout = "official", tasks: Iterable[str] = MAKERS, rows: int = 4, seconds: float = 3
) -> None:
    """Write benchmarks in small.

    Args:
        root: a new folder, as ``VJ_DATA`` names it.
        layout: of the data.
        tasks: names of their tasks.
        rows: questions each; where questions count together, groups.
        seconds: length of the films.
    """
    film = write_video(root / "film.mp4", seconds=seconds, size=(112, 84))
    for task in tasks:
        MAKERS[task](_Made(root, rows, layout == "converted", film))
    film.unlink()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m jigsaw.toy.benchmarks FOLDER")
    write_benchmarks(Path(sys.argv[1]))
