"""What test_outside.py runs on a copy of the package that has one task more: ``whole_way.py SCENES [MODEL]``."""

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jigsaw.difficulty import at_level, read_difficulties
from jigsaw.hub import contents
from jigsaw.prepare.verify import verify_rows
from jigsaw.reward import compute_score
from jigsaw.show.gallery import write_gallery
from jigsaw.tasks import TASKS, build_puzzle, plan

scenes, models = Path(sys.argv[1]), sys.argv[2:]
task = TASKS["strips"]
rows = [
    {
        "data_source": "my_jigsaw_strips",
        "prompt": [{"role": "user", "content": task.prompt({"grid": [1, 3]}, "answer_tag")}],
        "images": [{"path": f"scene-{number:05d}.png", "columns": 3}],
        "extra_info": {"id": str(number), "split": "train", "answer_format": "answer_tag"},
    }
    for number in range(20)
]
data, held_out = Path("rows.parquet"), Path("held_out.parquet")
pq.write_table(pa.Table.from_pylist(rows[:16]), data)
pq.write_table(pa.Table.from_pylist(rows[16:]), held_out)

puzzle = build_puzzle(rows[0], scenes)
assert (puzzle.task, len(puzzle.pieces), puzzle.reassemble().size) == ("strips", 3, (112, 112))

reply = f"<think>…</think><answer>{', '.join(map(str, puzzle.answer))}</answer>"
options = {"tasks": {"strips": {"gamma": 0.1}}}
assert compute_score("my_jigsaw_strips", reply, puzzle.answer, puzzle.extra_info, **options)["exact"] == 1

_, cards = write_gallery(data, scenes, "page.html", limit=2)
assert [card.headline for card in cards] == ["strips, 3 strips, chance 1 in 6"] * 2, cards

report = verify_rows(data, scenes, decode=True, workers=1, progress=lambda done, total: None)
assert report.tasks == {"strips": 16}
assert not report.bad, report.bad
assert (contents(data).tasks, contents(data).unread) == ({"strips": 16}, [])

schedule = {"levels": [2, 4], "raise_at": 0.8, "window": 5}
levels = read_difficulties({"strips": schedule})["strips"].levels
assert [len(plan(at_level(rows[0], "strips", level)).order) for level in levels] == [2, 4]

for model in models:
    from transformers import AutoProcessor

    from jigsaw.verl_plugin.dataset import JigsawDataset
    from jigsaw.verl_plugin.launch import CONFIGS, compose_config

    config = compose_config(
        CONFIGS,
        "quickstart",
        f"data.train_files={data}",
        f"data.val_files={held_out}",
        f"data.media_root={scenes}",
        f"actor_rollout_ref.model.path={model}",
        f"data.difficulty={{strips: {schedule}}}".replace("'", ""),
        "trainer.total_training_steps=2",
    )
    processor = AutoProcessor.from_pretrained(model)
    dataset = JigsawDataset(config.data.train_files, processor.tokenizer, config.data, processor)
    extra = dataset[0]["extra_info"]
    assert (extra["task"], len(extra["levels"])) == ("strips", 2)
print("the whole way")
