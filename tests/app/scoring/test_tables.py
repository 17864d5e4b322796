"""Parquet files: choosing columns, null values, damage, and resuming at any row."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.scoring.records import ScoringError

from .sources import MAX_BYTES, opened, shown, write_parquet

DATA = [b"%d" % i for i in range(50)]


def test_rows_of_several_files_are_read_in_order(tmp_path: Path) -> None:
    write_parquet(tmp_path / "0.parquet", {"image": DATA[:30]}, row_group_size=7)
    write_parquet(tmp_path / "1.parquet", {"image": DATA[30:]}, row_group_size=7)
    source = opened(tmp_path / "0.parquet", tmp_path / "1.parquet")
    whole = shown(source.records())
    assert source.total == 50
    numbers = [*range(30), *range(20)]
    assert whole == [(str(i), data) for i, data in zip(numbers, DATA, strict=True)]
    assert [record.file for record in source.records()][::30] == [
        f"{tmp_path}/{number}.parquet" for number in range(2)
    ]
    for start in range(52):
        assert shown(source.records(start)) == whole[start:]


@pytest.mark.parametrize(
    ("columns", "options", "expected"),
    [
        ({"image": [b"x"]}, {}, ("0", b"x")),
        ({"content": [b"x"], "label": [1]}, {}, ("0", b"x")),
        ({"image": [b"x"], "thumb": [b"y"], "id": [7]}, {}, ("7", b"x")),
        ({"image": [b"x"], "thumb": [b"y"]}, {"column": "thumb"}, ("0", b"y")),
        ({"path": ["a.jpg"], "label": ["cat"]}, {}, ("a.jpg", "a.jpg")),
        ({"path": ["/b.jpg"], "url": ["u"]}, {"id_column": "url"}, ("u", "/b.jpg")),
        ({"image": [{"bytes": b"x", "path": "a.jpg"}], "n": [b"y"]}, {}, ("a.jpg", b"x")),
        ({"image": [{"bytes": None, "path": "a.jpg"}]}, {"column": "image"}, ("a.jpg", "a.jpg")),
        ({"image": [{"bytes": b"", "path": None}]}, {}, ("0", b"")),
        ({"image": [b"x"], "id": [None]}, {}, ("0", b"x")),
        pytest.param(
            {"image": pa.array([None], pa.binary())}, {}, ("0", "no_image"), id="missing bytes"
        ),
        pytest.param(
            {"image": [bytes(MAX_BYTES + 1)]}, {}, ("0", "body_too_large"), id="too many bytes"
        ),
        ({"path": ["a.jpg"]}, {"id_column": "path"}, ("a.jpg", "a.jpg")),
    ],
    ids=str,
)
def test_column_is_chosen_by_name_and_type(
    tmp_path: Path, columns: dict[str, Any], options: dict[str, str], expected: tuple[str, Any]
) -> None:
    source = opened(write_parquet(tmp_path / "t.parquet", columns), **options)
    ((name, found),) = shown(source.records())
    wanted = expected[1]
    if isinstance(found, Path):
        wanted = tmp_path / wanted
    assert (name, found) == (expected[0], wanted)


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        (
            {"n": [1], "text": ["x"]},
            {},
            "no column of image bytes or paths; it has n (int64), text (string); name one with --c",
        ),
        ({"a": [b"x"], "b": [b"y"]}, {}, "several columns of bytes; choose one with --column"),
        ({"n": [1]}, {"column": "n"}, "--column=n: expected a column of bytes, of text or a str"),
        ({"n": [1]}, {"column": "m"}, "--column=m: expected a column of bytes, of text or a str"),
        ({"image": [b"x"]}, {"id_column": "m"}, "--id-column=m: it has image (binary)"),
        pytest.param({"image": pa.array([], pa.binary())}, {}, "no rows", id="no rows"),
    ],
    ids=str,
)
def test_tables_that_cannot_be_used_are_refused_with_one_line(
    tmp_path: Path, columns: dict[str, Any], options: dict[str, str], message: str
) -> None:
    path = write_parquet(tmp_path / "t.parquet", columns)
    with pytest.raises(ScoringError) as refused:
        opened(path, **options)
    assert str(refused.value).startswith(f"{path}: {message}")
    assert "\n" not in str(refused.value)


def test_column_options_are_refused_for_other_sources(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    with pytest.raises(ScoringError, match="--column and --id-column are for parquet files"):
        opened(tmp_path, column="image")


def test_damaged_row_group_fails_alone_and_keeps_the_number_of_rows(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_parquet(
        path, {"image": DATA}, row_group_size=10, compression="none", use_dictionary=False
    )
    column = pq.read_metadata(path).row_group(2).column(0)
    data = bytearray(path.read_bytes())
    start = column.data_page_offset
    data[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(data)
    source = opened(path)
    whole = shown(source.records())
    assert [name for name, _ in whole] == [str(i) for i in range(50)]
    assert [found for _, found in whole] == [*DATA[:20], *["unreadable"] * 10, *DATA[30:]]
    for start in range(51):
        assert shown(source.records(start)) == whole[start:]
