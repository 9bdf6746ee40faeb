"""Rows: their ids, splits and formats, paths that stay inside the media root, parquet files that are none."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jigsaw import rows
from jigsaw.errors import JigsawError, MediaError, RowError
from jigsaw.rows import (
    answer_format,
    each_row,
    extra_info,
    media_path,
    read_rows,
    read_table,
    row_at,
    row_id,
    row_split,
)

ROW = {
    "data_source": "visual_jigsaw_image",
    "prompt": [{"role": "user", "content": "<image><image>"}],
    "images": [{"path": "a.jpg", "jigsaw_config": [1, 2]}],
}


def with_prompt(text: str, **more) -> dict:
    return {**ROW, "prompt": [{"role": "user", "content": text}], **more}


@pytest.fixture
def root(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.jpg").write_bytes(b"x")
    root = tmp_path / "root"
    (root / "deep").mkdir(parents=True)
    (root / "deep" / "picture.jpg").write_bytes(b"x")
    return root


def test_importing_the_package_is_light():
    code = "import sys, jigsaw, jigsaw.rows, jigsaw.permutation; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "verl", "ray", "numpy", "PIL", "pyarrow"} & set(modules)


def test_making_puzzles_needs_no_training_stack():
    code = "import sys, jigsaw; jigsaw.build_puzzle; import jigsaw.prepare.images; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "verl", "ray", "transformers"} & set(modules)


def test_a_given_id_is_the_id():
    assert row_id({**ROW, "extra_info": {"id": 7}}, 3) == "7"


def test_a_row_without_id_gets_one_of_its_content_and_place():
    others = [{"images": [{"path": "b.jpg"}]}, {"data_source": "visual_jigsaw"}, {"videos": [{"path": "a.mp4"}]}]
    ids = {row_id(ROW, 0), row_id(ROW, 1), *(row_id({**ROW, **other}, 0) for other in others)}
    assert len(ids) == 5
    assert row_id(dict(ROW), 0) == row_id({**ROW, "extra_info": None}, 0)


def test_known_ids_stay_as_they_are():
    # By its id a row gets its orders: a changed one would make old runs and their scores unrepeatable.
    assert row_id(ROW, 0) == "e1139f05ba622488"


@pytest.mark.parametrize("given", ["id", "", [], [("id", "a")], 0.0, float("nan")])
def test_extra_info_is_a_mapping_or_nothing(given):
    row = {**ROW, "extra_info": given}
    for read in (extra_info, row_split, lambda row: row_id(row, 0)):
        with pytest.raises(RowError, match=r"extra_info is .*; it must be a struct"):
            read(row)
    assert extra_info(ROW) == extra_info({**ROW, "extra_info": None}) == {}


def test_split():
    assert row_split(ROW) == "train"
    assert row_split({**ROW, "extra_info": {"split": "val"}}) == "val"
    assert row_split({**ROW, "extra_info": {"split": None}}) == "train"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (with_prompt("… in \\boxed{}"), "boxed"),
        (with_prompt("… in <answer> </answer>"), "answer_tag"),
        (with_prompt("… in <answer>\\boxed{}</answer>"), "boxed"),
        (with_prompt("… in \\boxed{}", data_source="jigsaw_nothink"), "boxed"),
        (with_prompt("numbers", data_source="jigsaw_nothink"), "plain"),
        (with_prompt("… in \\boxed{}", extra_info={"answer_format": "plain"}), "plain"),
    ],
)
def test_answer_format(row, expected):
    assert answer_format(row) == expected


@pytest.mark.parametrize("row", [ROW, with_prompt("x", extra_info={"answer_format": "xml"})])
def test_answer_format_that_nothing_decides(row):
    with pytest.raises(RowError, match="answer_tag, boxed, plain"):
        answer_format(row)


def test_a_path_below_the_root(root):
    assert media_path("deep/picture.jpg", root) == (root / "deep" / "picture.jpg").resolve()
    assert media_path("deep/../deep/picture.jpg", root) == (root / "deep" / "picture.jpg").resolve()


@pytest.mark.parametrize("path", ["../outside/secret.jpg", "deep/../../outside/secret.jpg", "..", "deep/../.."])
def test_a_path_that_climbs_out(root, path):
    with pytest.raises(MediaError, match="leaves the media root"):
        media_path(path, root)


def test_an_absolute_path(root):
    with pytest.raises(MediaError, match="absolute paths are not allowed"):
        media_path(str(root / "deep" / "picture.jpg"), root)


def test_links(root):
    (root / "inside.jpg").symlink_to(root / "deep" / "picture.jpg")
    (root / "outside.jpg").symlink_to(root.parent / "outside" / "secret.jpg")
    (root / "folder").symlink_to(root.parent / "outside")
    (root / "loop.jpg").symlink_to(root / "loop.jpg")
    assert media_path("inside.jpg", root).name == "picture.jpg"
    for path in ("outside.jpg", "folder/secret.jpg"):
        with pytest.raises(MediaError, match="leaves the media root"):
            media_path(path, root)
    with pytest.raises(MediaError):
        media_path("loop.jpg", root)


def test_a_root_that_is_a_link(root):
    link = root.parent / "link"
    link.symlink_to(root)
    assert media_path("deep/picture.jpg", link).is_file()


@pytest.mark.parametrize(
    "path", ["", ".", "none.jpg", "deep", "deep/picture.jpg/x", "x" * 300, "a\0b", "a\ud800", "a/" * 3000]
)
def test_a_path_that_names_no_file(root, path):
    with pytest.raises(MediaError):
        media_path(path, root)


def test_unicode_names(root):
    name = "Tür 图片 🧩.jpg"
    (root / name).write_bytes(b"x")
    assert media_path(name, root).name == name


@settings(deadline=None)
@given(st.lists(st.sampled_from(["..", ".", "deep", "picture.jpg", "outside", "secret.jpg", "/", "~", ""]), max_size=7))
def test_no_path_ever_leaves_the_root(tmp_path_factory, parts):
    base = tmp_path_factory.getbasetemp() / "escape"
    root = base / "root"
    for folder in (root / "deep", base / "outside"):
        folder.mkdir(parents=True, exist_ok=True)
    (root / "deep" / "picture.jpg").write_bytes(b"x")
    (base / "outside" / "secret.jpg").write_bytes(b"x")
    try:
        found = media_path("/".join(parts), root)
    except MediaError:
        return
    assert found.is_relative_to(root.resolve())
    assert found.is_file()


def write(path: Path, rows: list[dict]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def test_rows_go_through_parquet(tmp_path):
    assert read_rows(write(tmp_path / "rows.parquet", [ROW, ROW])) == [ROW, ROW]


@pytest.mark.parametrize("column", ["data_source", "prompt", "images"])
def test_a_missing_column(tmp_path, column):
    path = write(tmp_path / "rows.parquet", [{name: value for name, value in ROW.items() if name != column}])
    with pytest.raises(JigsawError, match=rf"rows.parquet: column {column}.* is missing; found .*; make rows with"):
        read_table(path)


def test_no_rows(tmp_path):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist([ROW]).slice(0, 0), path)
    with pytest.raises(JigsawError, match="holds no rows; make it again with jigsaw prepare"):
        read_table(path)


@pytest.mark.parametrize(
    "content", [b"", b"text", b"PAR1", b"PAR1" + b"\0" * 50 + b"PAR1", b'{"data_source": 1}\n' * 99]
)
def test_a_file_that_is_no_parquet(tmp_path, content):
    path = tmp_path / "rows.parquet"
    path.write_bytes(content)
    with pytest.raises(
        JigsawError, match=r"^[^\n]*rows.parquet: cannot be read as parquet[^\n]*; make it again[^\n]*$"
    ):
        read_table(path)


@pytest.mark.parametrize(
    ("name", "fields"),
    [("extra_info.id", ["id", "id"]), ("extra_info.", ["", ""]), ("images.path", ["path", "path"])],
)
def test_a_name_that_is_there_twice(tmp_path, name, fields):
    column = name.split(".")[0]
    twice = pa.StructArray.from_arrays([pa.array(["a", "b"]), pa.array(["a", "b"])], fields)
    table = pa.Table.from_pylist([ROW, ROW])
    if column == "images":
        table = table.drop_columns("images")
        twice = pa.ListArray.from_arrays([0, 1, 2], twice)
    pq.write_table(table.append_column(column, twice), tmp_path / "rows.parquet")
    with pytest.raises(JigsawError, match=rf"rows.parquet: column {name} is there twice; make it again"):
        read_table(tmp_path / "rows.parquet")


VALUES = [
    (2**31 - 1, pa.int32(), pa.date32()),
    (-(2**31), pa.int32(), pa.date32()),
    (2**62, pa.int64(), pa.timestamp("us")),
    (2**62, pa.int64(), pa.duration("s")),
    (1, pa.int64(), pa.timestamp("us", tz="Mars/Olympus")),
]
"""A number, its type, and the type by which Python has no such value."""


@pytest.mark.parametrize(("value", "raw", "kind"), VALUES)
def test_a_value_that_python_does_not_have_costs_its_row(tmp_path, value, raw, kind):
    """Nested or not; the rows before and after are read."""
    plain = pa.array([None, value, None], raw).cast(kind)
    nested = pa.StructArray.from_arrays([pa.ListArray.from_arrays([0, 1, 2, 3], plain)], ["x"])
    for column in (plain, nested):
        path = tmp_path / "rows.parquet"
        pq.write_table(pa.Table.from_pylist([ROW] * 3).append_column("when", column), path)
        message = r"^column when holds a value that cannot be read \([^\n]*\); mend or drop it$"
        with pytest.raises(RowError, match=message):
            row_at(read_table(path), 1)
        assert [type(row) for row in each_row(read_table(path))] == [dict, RowError, dict]
        assert row_at(read_table(path), 2) == list(each_row(read_table(path)))[2]
        with pytest.raises(JigsawError, match=r"rows\.parquet, row 1: column when holds"):
            read_rows(path)


def test_each_row_comes_once_and_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "_PART", 3)
    table = read_table(write(tmp_path / "rows.parquet", [{**ROW, "extra_info": {"id": str(i)}} for i in range(8)]))
    assert [row["extra_info"]["id"] for row in each_row(table)] == [str(i) for i in range(8)]
    assert row_at(table, 7)["extra_info"]["id"] == "7"


def test_a_missing_file_and_a_folder(tmp_path):
    for path in (tmp_path / "none.parquet", tmp_path):
        with pytest.raises(JigsawError, match="no such file; make it with jigsaw prepare"):
            read_table(path)


def test_a_parquet_that_is_cut_off(tmp_path):
    whole = write(tmp_path / "rows.parquet", [ROW] * 50).read_bytes()
    for length in range(0, len(whole), 97):
        (tmp_path / "cut.parquet").write_bytes(whole[:length])
        with pytest.raises(JigsawError, match=r"^[^\n]*cut.parquet: cannot be read as parquet[^\n]*$"):
            read_table(tmp_path / "cut.parquet")


def test_a_damaged_parquet_is_one_line(tmp_path):
    whole = write(tmp_path / "rows.parquet", [ROW] * 50).read_bytes()
    path = tmp_path / "damaged.parquet"

    @settings(deadline=None, max_examples=60)
    @given(st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), min_size=1, max_size=4))
    def check(changes):
        data = bytearray(whole)
        for place, value in changes:
            data[place] = value
        path.write_bytes(data)
        message = f"{path}"
        try:
            read_rows(path)
        except JigsawError as error:
            message = str(error)
        assert message.startswith(f"{path}")
        assert "\n" not in message

    check()
