"""Rows by hand are rows: ours and, in their layout, the released ones."""

from typing import Any

import pytest

from jigsaw import plan
from jigsaw.rows import answer_format
from jigsaw.toy.rows import depth_row, image_row, released, video_row

PICTURE = {"path", "resize_size"}
VIDEO = {"path", "jigsaw_clip_num", "spatial_jigsaw_grid_config", "clip_order"}


@pytest.mark.parametrize(
    ("row", "column", "fields", "pieces"),
    [
        (image_row("a.png", (2, 3)), "images", {*PICTURE, "jigsaw_config", "crop_size"}, 6),
        (depth_row("a.png", [[9, 9], [9, 60], [9, 99]]), "images", {*PICTURE, "points"}, 3),
        (video_row("a.mp4", 3), "videos", VIDEO, 3),
        (video_row("a.mp4", 3, (1, 2), struct={"fps": 2.0}), "videos", {*VIDEO, "fps"}, 6),
    ],
)
def test_a_released_row_is_the_same_puzzle_in_another_layout(
    row: dict[str, Any], column: str, fields: set[str], pieces: int
) -> None:
    theirs = released(row)
    assert theirs.keys() == {"data_source", "prompt", column, "reward_model", "extra_info"}
    assert theirs[column][0].keys() == fields
    assert theirs["extra_info"] == {"index": 0}  # no id, and nothing that only our rows say
    assert (answer_format(row), answer_format(theirs)) == ("answer_tag", "boxed")
    assert len(plan(theirs).answer) == len(plan(row).answer) == pieces
