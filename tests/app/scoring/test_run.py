"""Whole runs: rows, errors, resuming, and directories that are refused."""

import errno
import itertools
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from app.scoring import run, scorer
from app.scoring.output import open_output
from app.scoring.records import ScoringError
from app.scoring.shards import Shards
from app.scoring.sources import Source
from app.serving.classifier import Input

from .runs import Fake, Watching, killed_after, rows, score
from .sources import write_folder, write_parquet, write_tar

pytestmark = pytest.mark.one_process("scoring has no server")


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last batch of a shard does not wait long, and the heap is that of the tests."""
    monkeypatch.setattr(run, "BATCH_DELAY_MS", 1.0)
    monkeypatch.setattr(run, "keep_heap", lambda: None)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """23 images; three of them are bad."""
    folder = write_folder(tmp_path / "photos", ())
    folder.mkdir()
    for number in range(20):
        (folder / f"{number:02}.jpg").write_bytes(b"%d" % (number % 10))
    (folder / "03b.jpg").write_bytes(b"bad")
    (folder / "07b.jpg").write_bytes(bytes(1001))
    (folder / "11b.jpg").symlink_to("nowhere")
    return folder


def refusal(*arguments: Any, **options: Any) -> str:
    with pytest.raises(ScoringError) as refused:
        score(*arguments, **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_each_image_has_a_row_in_order_and_bad_ones_an_error(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = score(Fake(), out, photos)
    found = rows(out)
    assert [row["id"] for row in found] == sorted(path.name for path in photos.iterdir())
    assert found[4] == {
        "id": "03b.jpg",
        "label": None,
        "class_id": None,
        "score": None,
        "predictions": None,
        "error_kind": "invalid_image",
        "error": "it does not decode",
    }
    assert found[5] == {
        "id": "04.jpg",
        "label": "class_4",
        "class_id": 4,
        "score": 0.9,
        "predictions": [
            {"class_id": 4, "label": "class_4", "score": 0.9},
            {"class_id": 0, "label": "class_0", "score": 0.45},
        ],
        "error_kind": None,
        "error": None,
    }
    good = [row for row in found if not row["error"]]
    assert [row["class_id"] for row in good] == [number % 10 for number in range(20)]
    assert [path.name for path in sorted(out.glob("[!._]*"))] == [
        f"part-{number:05}.parquet" for number in range(5)
    ]
    assert summary.images == 23
    assert summary.errors == {"invalid_image": 1, "body_too_large": 1, "unreadable": 1}
    assert summary.classes == {f"class_{number}": 2 for number in range(10)}
    assert next(summary.lines()) == "23 images in 5 shards: 20 scored, 3 with an error"


def test_manifest_describes_the_run(photos: Path, tmp_path: Path) -> None:
    score(Fake(), tmp_path / "out", photos)
    manifest = json.loads((tmp_path / "out" / "_manifest.json").read_text())
    assert manifest["complete"] is True
    assert manifest["source"]["path"] == str(photos)
    assert manifest["model"]["checkpoint_sha256"] == Fake().info.checkpoint_sha256
    assert manifest["options"] == {"top_k": 2, "embeddings": False, "shard_size": 5}
    assert {"xcit-serve", "torch", "pyarrow", "python"} <= set(manifest["versions"])
    assert manifest["shards"][-1] == {"file": "part-00004.parquet", "rows": 3}
    assert manifest["images"] == 23
    assert manifest["errors"]["unreadable"] == 1


def test_killed_run_resumes_and_equals_an_undisturbed_one(photos: Path, tmp_path: Path) -> None:
    score(Fake(), tmp_path / "whole", photos)
    whole = rows(tmp_path / "whole")
    for images in (0, 7, 12, 20):
        out = tmp_path / f"killed-{images}"
        done = killed_after(images, Fake(), out, photos)
        shards = len([*out.glob("part-*.parquet")])
        assert 0 <= done - 5 * shards <= 5, "redone images: at most those of one shard"
        classifier, progress = Fake(), Watching()
        score(classifier, out, photos, progress=progress)
        assert progress.started_with == 5 * shards
        assert progress.done == 23 - 5 * shards
        assert rows(out) == whole
        for path in (tmp_path / "whole").glob("part-*"):
            assert (out / path.name).read_bytes() == path.read_bytes()


def test_complete_run_is_not_repeated(photos: Path, tmp_path: Path) -> None:
    first = score(Fake(), tmp_path / "out", photos)
    classifier = Fake()
    assert score(classifier, tmp_path / "out", photos) == first
    assert classifier.decoded == []


def test_partial_file_of_a_killed_run_is_replaced(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    killed_after(12, Fake(), out, photos)
    (out / ".part-00002.parquet.partial").write_bytes(b"half a shard")
    score(Fake(), out, photos)
    assert len(rows(out)) == 23
    assert not [*out.glob("*.partial")]


@pytest.mark.thorough
def test_damaged_or_foreign_shard_is_named(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    score(Fake(), out, photos)
    shard = out / "part-00001.parquet"
    data = shard.read_bytes()
    shard.write_bytes(data[:-9])
    assert refusal(Fake(), out, photos) == f"{shard}: damaged; remove it to make it again"
    score(Fake(), tmp_path / "other", photos, top_k=1)
    shard.write_bytes((tmp_path / "other" / shard.name).read_bytes())
    assert refusal(Fake(), out, photos).startswith(f"{shard}: not of this run; remove it or")
    shard.unlink()
    score(Fake(), out, photos)
    assert shard.read_bytes() == data


@pytest.mark.thorough
def test_directory_of_another_run_is_refused(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    score(Fake(), out, photos)

    def difference(*words: object, classifier: Fake | None = None, **options: Any) -> str:
        told = refusal(classifier or Fake(), out, *words, **options)
        start, end = f"{out}: made with other settings: ", "; choose another directory, or repeat"
        assert told.startswith(start)
        assert end in told
        return told.removeprefix(start).partition(end)[0]

    assert difference(photos, top_k=3) == "options.top_k was 2 and is 3"
    assert difference(photos, shard_size=6) == "options.shard_size was 5 and is 6"
    assert difference(photos, embeddings=True) == "options.embeddings was false and is true"
    (photos / "new.jpg").touch()
    assert difference(photos).startswith("source.names_sha256 was ")
    (photos / "new.jpg").unlink()
    other = write_folder(tmp_path / "other", ["a.jpg"])
    assert difference(other) == f'source.path was "{photos}" and is "{other}"'
    tar = write_tar(tmp_path / "s.tar", [("1.jpg", b"1")])
    assert difference(tar) == 'source.kind was "folder" and is "tar"'
    relabelled = Fake()
    relabelled.spec = {"labels": "other"}
    assert difference(photos, classifier=relabelled).startswith("model.description_sha256 was ")


def test_directory_with_other_files_is_refused(photos: Path, tmp_path: Path) -> None:
    told = refusal(Fake(), photos, photos)
    assert told == (
        f"{photos}: has files, such as 00.jpg, but no _manifest.json; choose an empty directory"
    )
    assert not (photos / ".lock").exists()
    (tmp_path / "file").touch()
    assert refusal(Fake(), tmp_path / "file", photos).endswith("cannot be written: File exists")
    (tmp_path / "bad").mkdir()
    for text in ("", "[]", "{}", '{"format": 2}'):
        (tmp_path / "bad" / "_manifest.json").write_text(text)
        assert "_manifest.json: " in refusal(Fake(), tmp_path / "bad", photos)


def test_second_process_on_the_same_directory_is_refused(photos: Path, tmp_path: Path) -> None:
    with open_output(tmp_path / "out"):
        told = refusal(Fake(), tmp_path / "out", photos)
    assert told == f"{tmp_path / 'out'}: another process is writing to it"
    score(Fake(), tmp_path / "out", photos)


def test_full_disk_ends_the_run_with_one_line_and_it_resumes(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    write = Shards.write

    def full(self: Shards, number: int, found: Any) -> Any:
        if number == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, number, found)

    with monkeypatch.context() as patch:
        patch.setattr(Shards, "write", full)
        assert refusal(Fake(), out, photos) == (
            f"{out}/part-00002.parquet: cannot be written: No space left on device; "
            "run the same command again to resume"
        )
    score(Fake(), out, photos)
    assert len(rows(out)) == 23


def test_source_that_disappears_ends_the_run_and_it_resumes(tmp_path: Path) -> None:
    for number in range(2):
        files = [(f"{number}{n}.jpg", b"1") for n in range(6)]
        write_tar(tmp_path / f"{number}.tar", files)
    moved = tmp_path / "1.tar"

    class Moving(Watching):
        def start(self, source: Source, done: int) -> None:
            moved.rename(tmp_path / "moved")

    tars = f"{tmp_path}/{{0..1}}.tar"
    told = refusal(Fake(), tmp_path / "out", tars, progress=Moving())
    assert told.startswith("the source cannot be read further: [Errno 2] No such file or directory")
    assert told.endswith("; run the same command again to resume")
    (tmp_path / "moved").rename(moved)
    assert len(rows(tmp_path / "out")) == 5
    assert score(Fake(), tmp_path / "out", tars).images == 12


def test_lost_device_ends_the_run_and_it_resumes(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (photos / "12.jpg").write_bytes(b"broken")
    assert refusal(Fake(), out, photos) == (
        "inference failed: the device is lost; run the same command again to resume"
    )
    assert len(rows(out)) == 15
    (photos / "12.jpg").write_bytes(b"2")
    score(Fake(), out, photos)
    assert len(rows(out)) == 23


def test_image_that_fails_in_the_network_fails_alone(photos: Path, tmp_path: Path) -> None:
    (photos / "12.jpg").write_bytes(b"poison")
    summary = score(Fake(), tmp_path / "out", photos)
    assert summary.errors["internal_error"] == 1
    (bad,) = (row for row in rows(tmp_path / "out") if row["error_kind"] == "internal_error")
    assert (bad["id"], bad["error"]) == ("12.jpg", "RuntimeError: poison")


def test_image_that_is_never_decoded_fails_alone(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scorer, "PATIENCE", 0.2)
    never = threading.Event()

    class Stuck(Fake):
        def preprocess(self, image: Input) -> bytes:
            if image == b"stuck":
                never.wait(20)
            return super().preprocess(image)

    (photos / "12.jpg").write_bytes(b"stuck")
    try:
        summary = score(Stuck(), tmp_path / "out", photos, shard_size=30)
    finally:
        never.set()
    assert summary.errors["timeout"] == 1
    assert rows(tmp_path / "out")[15]["error"] == "not decoded within 0.2 s"


def test_embeddings_are_a_column_of_fixed_size(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    score(Fake(embedding_size=2), out, photos, embeddings=True)
    found = rows(out)
    assert found[5]["embedding"] == [4.0, 5.0]
    assert found[4]["embedding"] is None
    assert found[5]["label"] == "class_4"


def test_backbone_gives_embeddings_only(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = score(Fake(classes=0, embedding_size=2), out, photos, embeddings=True)
    assert list(rows(out)[5]) == ["id", "embedding", "error_kind", "error"]
    assert summary.classes == {}
    assert next(iter(summary.lines())).startswith("23 images in 5 shards: 20 scored")


def test_rows_name_the_archive_or_table_of_their_image(tmp_path: Path) -> None:
    for number in range(2):
        write_tar(tmp_path / f"{number}.tar", [("a.jpg", b"1"), ("b.jpg", b"2"), ("b.cls", b"1")])
    score(Fake(), tmp_path / "tars", f"{tmp_path}/*.tar")
    found = [(row["file"], row["id"], row["class_id"]) for row in rows(tmp_path / "tars")]
    assert found == [
        (f"{tmp_path}/{number}.tar", key, best)
        for number in range(2)
        for key, best in (("a", 1), ("b", 2))
    ]
    write_parquet(tmp_path / "t.parquet", {"image": [b"3", b"bad"], "id": ["x", "x"]})
    score(Fake(), tmp_path / "table", tmp_path / "t.parquet")
    found = [(row["file"], row["id"], row["class_id"]) for row in rows(tmp_path / "table")]
    assert found == [(f"{tmp_path}/t.parquet", "x", 3), (f"{tmp_path}/t.parquet", "x", None)]


def test_truncated_archive_is_a_problem_of_a_complete_run(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "s.tar", [(f"{n}.jpg", b"%d" % n) for n in range(9)])
    tar.write_bytes(tar.read_bytes()[: 7 * 1024 + 100])
    for _ in range(2):
        summary = score(Fake(), tmp_path / "out", tar)
        assert summary.images == 7
        (problem,) = summary.problems
        assert problem.startswith(f"{tar}: damaged in or after 6.jpg, at byte ")
    empty = write_tar(tmp_path / "empty.tar", [])
    assert refusal(Fake(), tmp_path / "none", empty) == "the source has no images"


def test_images_in_memory_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the model does not answer, the source is not read further."""
    tar = write_tar(tmp_path / "s.tar", [(f"{n:04}.jpg", b"%d" % (n % 10)) for n in range(500)])
    read = itertools.count()
    monkeypatch.setattr(scorer, "size_of", lambda chunk: [next(read) for _ in chunk] and 0)
    classifier = Fake()
    classifier.gate.clear()
    most: list[int] = []

    def look() -> None:
        most.append(len(classifier.decoded))
        classifier.gate.set()

    timer = threading.Timer(0.5, look)
    timer.start()
    score(classifier, tmp_path / "out", tar, shard_size=1000)
    timer.join()
    limit = 2 * 2 * 4 + 3 * scorer.CHUNK  # two batches for each of two streams, and chunks
    assert most[0] <= limit
    assert len(rows(tmp_path / "out")) == 500


def test_bytes_in_memory_are_bounded_but_one_large_image_passes(tmp_path: Path) -> None:
    files = [(f"{n}.jpg", bytes(900) if n % 2 else b"1") for n in range(40)]
    score(Fake(), tmp_path / "out", write_tar(tmp_path / "s.tar", files), max_queue_bytes=100)
    assert len(rows(tmp_path / "out")) == 40
