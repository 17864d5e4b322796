"""Folders, text files of paths, and the patterns that name several files."""

import os
from pathlib import Path

import pytest

from app.scoring.patterns import expand
from app.scoring.records import Failure, Record, ScoringError, read_image

from .sources import MAX_BYTES, opened, shown, write_folder


def ids(folder: Path) -> list[str]:
    return [record.id for record in opened(folder).records()]


def outcome(path: Path) -> bytes | tuple[str, str]:
    found = read_image(Record("x", path), MAX_BYTES)
    return (found.kind, found.message) if isinstance(found, Failure) else found


def test_folder_is_read_below_in_the_order_of_names(tmp_path: Path) -> None:
    names = ["b/2.png", "b/1.JPEG", "a.jpg", "b/c/0.webp", "z.tiff"]
    hidden = [".hidden.jpg", ".cache/1.jpg", "b/._1.jpg", "notes.txt", "noext"]
    source = opened(write_folder(tmp_path, [*names, *hidden]))
    expected = ["a.jpg", "b/1.JPEG", "b/2.png", "b/c/0.webp", "z.tiff"]
    assert shown(source.records()) == [(name, tmp_path / name) for name in expected]
    assert source.total == 5
    for start in range(7):
        assert shown(source.records(start)) == shown(source.records())[start:]


def test_two_folders_or_other_files_in_one_differ_in_their_description(tmp_path: Path) -> None:
    one = opened(write_folder(tmp_path / "one", ["a.jpg"])).description
    other = opened(write_folder(tmp_path / "other", ["a.jpg"])).description
    more = opened(write_folder(tmp_path / "one", ["b.jpg"])).description
    assert one != other
    assert one != more
    (tmp_path / "one" / "b.jpg").unlink()
    assert opened(tmp_path / "one").description == one


def test_links_to_folders_are_followed_except_in_circles(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "photos", ["a/1.jpg"])
    write_folder(tmp_path / "elsewhere", ["2.jpg"])
    (folder / "b").symlink_to(tmp_path / "elsewhere")
    (folder / "a" / "up").symlink_to(folder)
    (folder / "self").symlink_to("self")
    (folder / "circle.jpg").symlink_to("circle.jpg")
    assert ids(folder) == ["a/1.jpg", "b/2.jpg", "circle.jpg"]
    kind, message = outcome(folder / "circle.jpg")
    assert (kind, message) == ("unreadable", "Too many levels of symbolic links")


def test_names_that_are_not_unicode_are_read_and_get_valid_ids(tmp_path: Path) -> None:
    for name in (b"\xff.jpg", "é\n.jpg".encode()):
        (tmp_path / os.fsdecode(name)).write_bytes(name)
    records = [*opened(tmp_path).records()]
    assert sorted(record.id for record in records) == ["\\udcff.jpg", "é\n.jpg"]
    found = {read_image(record, MAX_BYTES) for record in records}
    assert found == {b"\xff.jpg", "é\n.jpg".encode()}
    assert all(record.id.encode() for record in records)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_folder_that_cannot_be_listed_is_a_failure(tmp_path: Path) -> None:
    write_folder(tmp_path, ["a.jpg", "closed/b.jpg"])
    (tmp_path / "closed").chmod(0)
    try:
        assert shown(opened(tmp_path).records())[1] == ("closed/", "unreadable")
    finally:
        (tmp_path / "closed").chmod(0o700)


def test_files_that_cannot_be_read_are_failures(tmp_path: Path) -> None:
    (tmp_path / "large.jpg").write_bytes(bytes(MAX_BYTES + 1))
    (tmp_path / "link.jpg").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "empty.jpg").touch()
    assert outcome(tmp_path / "large.jpg") == (
        "body_too_large",
        "1001 bytes; the maximum is 1000 (XCIT_MAX_BODY_BYTES)",
    )
    assert outcome(tmp_path / "link.jpg") == ("unreadable", "No such file or directory")
    assert outcome(tmp_path / "pipe.jpg") == ("unreadable", "not a regular file")
    assert outcome(tmp_path) == ("unreadable", "not a regular file")
    assert outcome(Path("nul\0.jpg")) == ("unreadable", "embedded null byte")
    assert outcome(tmp_path / "empty.jpg") == b""


def test_text_file_lists_paths_from_its_folder(tmp_path: Path) -> None:
    lines = b"\xef\xbb\xbfa b.jpg\r\n\n/abs/c.png\nsub/\xff.jpg\na b.jpg"
    (tmp_path / "list.txt").write_bytes(lines)
    source = opened(tmp_path / "list.txt")
    assert source.total == 4
    assert shown(source.records()) == [
        ("a b.jpg", tmp_path / "a b.jpg"),
        ("/abs/c.png", Path("/abs/c.png")),
        ("sub/\\udcff.jpg", tmp_path / os.fsdecode(b"sub/\xff.jpg")),
        ("a b.jpg", tmp_path / "a b.jpg"),
    ]
    assert shown(source.records(3)) == shown(source.records())[3:]


def test_braces_and_wildcards_name_several_files(tmp_path: Path) -> None:
    write_folder(tmp_path, [f"p-{i:02}.tar" for i in range(12)] + ["q-x.tar", "q-y.tar"])

    def names(pattern: str) -> list[str]:
        return [path.name for path in expand(f"{tmp_path}/{pattern}")]

    assert names("p-{08..11}.tar") == ["p-08.tar", "p-09.tar", "p-10.tar", "p-11.tar"]
    assert names("p-{11..10}.tar") == ["p-11.tar", "p-10.tar"]
    assert names("{q-y,p-00}.tar") == ["q-y.tar", "p-00.tar"]
    assert names("q-*.tar") == ["q-x.tar", "q-y.tar"]
    (tmp_path / "odd-{1..2}.tar").touch()
    assert names("odd-{1..2}.tar") == ["odd-{1..2}.tar"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing"], "missing: no such file or folder"),
        (["{0..2}.tar"], "0.tar: no such file or folder"),
        (["*.tgz"], "*.tgz: no file matches"),
        (["empty"], "empty: no images; expected files ending in .avif, .bmp, "),
        (["empty.txt"], "empty.txt: no paths; expected one per line"),
        (["binary.txt"], "binary.txt: not a text file of paths"),
        (["photo.jpg"], "photo.jpg: expected a folder, a tar, a parquet file, or a text file of"),
        (["photos", "list.txt"], "the sources are of several kinds: folder, text"),
        (["photos", "photos"], "2 sources of kind folder; expected one"),
        (["empty.tar"], "empty.tar: not a readable tar archive: empty file"),
        (["list.tar"], "list.tar: not a readable tar archive: "),
        (["list.parquet"], "list.parquet: not a readable parquet file: "),
    ],
    ids=str,
)
def test_sources_that_cannot_be_used_are_refused_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    write_folder(tmp_path, ["photos/a.jpg", "photo.jpg", "list.txt", "list.tar", "list.parquet"])
    (tmp_path / "empty").mkdir()
    for name in ("empty.txt", "empty.tar"):
        (tmp_path / name).touch()
    (tmp_path / "binary.txt").write_bytes(bytes(9))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ScoringError) as refused:
        opened(*words)
    assert str(refused.value).startswith(message)
    assert "\n" not in str(refused.value)
