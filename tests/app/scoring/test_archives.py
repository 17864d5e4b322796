"""Tar archives: samples, damage, and resuming at any image."""

import gzip
import tracemalloc
from pathlib import Path

import pytest

from app.scoring.records import ScoringError
from app.scoring.sources import Source

from .sources import MAX_BYTES, opened, shown, write_tar

IMAGES = [(f"a/{i:03}.jpg", b"%d" % i * 100) for i in range(10)]
BLOCK = 512


def check_starts(source: Source) -> None:
    """Reading from any image gives the rest of the same records, and the same problems."""
    whole, problems = shown(source.records()), [*source.problems]
    for start in range(len(whole) + 2):
        assert shown(source.records(start)) == whole[start:]
        assert source.problems == problems


def test_files_with_the_same_key_are_one_sample(tmp_path: Path) -> None:
    files = [
        ("a/1.cls", b"3"),
        ("a/1.jpg", b"one"),
        ("a/1.json", b"{}"),
        ("a/2.left.png", b"left"),
        ("a/2.cls", b"3"),
        ("a/2.right.png", b"right"),
        ("a/2.up.png", b"up"),
        ("a/3.txt", b"no image"),
        ("a/._4.jpg", b"hidden"),
        ("a/4.JPG", b"four"),
        ("a/5.jpg", bytes(MAX_BYTES + 1)),
        ("b.x/6.jpg", b"six"),
        ("README", b"text"),
        ("a/1.jpg", b"one again"),
    ]
    source = opened(write_tar(tmp_path / "s.tar", files))
    assert shown(source.records()) == [
        ("a/1", b"one"),
        ("a/2.left.png", b"left"),
        ("a/2.right.png", b"right"),
        ("a/2.up.png", b"up"),
        ("a/3", "no_image"),
        ("a/4", b"four"),
        ("a/5", "body_too_large"),
        ("b.x/6", b"six"),
        ("README", "no_image"),
        ("a/1", b"one again"),
    ]
    check_starts(source)
    assert source.problems == []
    assert source.total is None


@pytest.mark.parametrize(("suffix", "mode"), [("tar", "w"), ("tgz", "w:gz"), ("tar.xz", "w:xz")])
def test_shards_are_read_one_after_the_other(tmp_path: Path, suffix: str, mode: str) -> None:
    for number in range(3):
        write_tar(tmp_path / f"s-{number}.{suffix}", IMAGES[number * 3 : number * 3 + 3], mode)
    source = opened(f"{tmp_path}/s-{{0..2}}.{suffix}")
    records = [*source.records()]
    assert [record.id for record in records] == [name[:-4] for name, _ in IMAGES[:9]]
    assert [record.file for record in records][::3] == [
        f"{tmp_path}/s-{number}.{suffix}" for number in range(3)
    ]
    assert 0.7 < source.share <= 1
    check_starts(source)


@pytest.mark.thorough
def test_truncated_archive_keeps_its_images_and_says_where_it_ends(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "s.tar", IMAGES)
    whole = path.read_bytes()
    for cut in range(BLOCK, 8 * BLOCK, 100):
        path.write_bytes(whole[:cut])
        source = opened(path, write_tar(tmp_path / "t.tar", IMAGES[:2]))
        found = shown(source.records())
        assert found[-2:] == [("a/000", b"0" * 100), ("a/001", b"1" * 100)]
        complete = max(0, (cut - BLOCK - 100) // (2 * BLOCK) + 1)
        assert found[:complete] == [(name[:-4], data) for name, data in IMAGES[:complete]]
        for name, kind in found[complete:-2]:
            assert (name, kind) == (IMAGES[complete][0][:-4], "unreadable")
        (problem,) = source.problems
        assert problem.startswith(f"{path}: damaged in or after a/")
        check_starts(source)


def test_damage_inside_an_archive_does_not_pass_for_its_end(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "s.tar", IMAGES)
    data = bytearray(path.read_bytes())
    data[4 * BLOCK : 5 * BLOCK] = b"x" * BLOCK  # the header of the third image
    path.write_bytes(data)
    source = opened(path)
    assert [name for name, _ in shown(source.records())] == ["a/000", "a/001"]
    assert source.problems == [
        f"{path}: damaged in or after a/001.jpg, at byte 1024: the header of a file is damaged"
    ]


def test_archive_without_its_end_marker_is_reported(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "s.tar", IMAGES)
    path.write_bytes(path.read_bytes()[: 6 * BLOCK])
    source = opened(path)
    assert len([*source.records()]) == 3
    (problem,) = source.problems
    assert problem.endswith("a/002.jpg, at byte 2048: it has no end marker; files may be missing")


def test_truncated_compressed_archive_keeps_its_images(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "s.tgz", IMAGES, "w:gz")
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), 0)[: 7 * BLOCK])
    source = opened(path)
    found = shown(source.records())
    assert found[:2] == [(name[:-4], data) for name, data in IMAGES[:2]]
    assert len(source.problems) == 1
    check_starts(source)


def test_empty_archive_and_other_files_are_no_error_of_tarfile(tmp_path: Path) -> None:
    assert shown(opened(write_tar(tmp_path / "none.tar", [])).records()) == []
    (tmp_path / "x.tar").write_bytes(b"x" * 5000)
    with pytest.raises(ScoringError, match="not a readable tar archive: invalid header"):
        opened(tmp_path / "x.tar")


@pytest.mark.thorough
def test_archive_is_read_in_constant_memory(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "s.tar", [(f"{i:05}.jpg", bytes(600)) for i in range(4000)])
    source = opened(path)
    peaks = []
    for count in (400, 4000):
        tracemalloc.start()
        records = source.records()
        for _ in range(count):
            next(records)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 20_000
