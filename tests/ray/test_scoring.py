"""The parts of a run on a cluster, without a cluster; `test_cluster` has whole runs."""

import asyncio
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from app.cli.main import main
from app.config.settings import SettingsError
from app.scoring.records import Failure, Record, ScoringError
from app.scoring.rows import Row, schema
from app.scoring.run import RunOptions
from app.scoring.shards import Shards
from app.scoring.sources import Source
from app.scoring.stages import (
    COLUMN,
    Chunk,
    Classify,
    Decode,
    Description,
    describe,
    pack,
    read,
    unpack,
)
from app.serving.errors import StartupError
from tests.app.conftest import make_settings
from tests.app.scoring.runs import Fake, Watching
from tests.app.scoring.sources import opened, write_tar

from .library import RayActorError, RayTaskError, cluster, ray

OPTIONS = RunOptions(top_k=lambda classes: 2, embeddings=False, shard_size=5)


def chunks(tables: Iterator[dict[str, list[bytes]]]) -> list[Chunk]:
    return [chunk for table in tables for chunk in unpack(table)]


async def through(stage: Any, table: Any) -> list[Chunk]:
    return [chunk async for found in stage(table) for chunk in unpack(found)]


def test_reading_begins_at_the_first_image_that_is_missing(tmp_path: Path) -> None:
    source = opened(write_tar(tmp_path / "a.tar", [(f"{n}.jpg", b"%d" % n) for n in range(100)]))
    *found, last = chunks(read({"start": [60]}, source=source))
    assert [record.id for chunk in found for record in chunk.records] == [*map(str, range(60, 100))]
    assert [len(chunk.records) for chunk in found] == [32, 8]
    assert (last.records, last.share, last.problems) == ((), source.share, [])


def test_the_last_chunk_reports_damage_of_the_source(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [("1.jpg", b"1"), ("2.jpg", b"2" * 600)])
    path.write_bytes(path.read_bytes()[:1200])
    source = opened(path)
    assert chunks(read({"start": [0]}, source=source))[-1].problems == source.problems != []


def test_stages_give_the_rows_of_the_scorer(monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = Fake()
    used = Decode.__init__.__globals__  # another test may have imported the module again
    monkeypatch.setitem(used, "RemotePreparer", lambda spec, max_pixels: classifier)
    records = [Record(str(n), b"bad" if n == 3 else b"%d" % n) for n in range(10)]
    settings = make_settings()

    async def run() -> list[Chunk]:
        decode = Decode({}, settings)
        classify = Classify(lambda: classifier, OPTIONS, settings)
        decoded = await through(decode, pack(Chunk(records, 0.5, [])))
        both = {COLUMN: [pack(each)[COLUMN][0] for each in [*decoded, Chunk((), 1.0, ["a"])]]}
        found = await through(classify, both)
        await classify._stack.aclose()
        return found

    chunk, last = asyncio.run(run())
    assert (chunk.records, chunk.items, last.rows, last.problems) == ((), (), [], ["a"])
    assert [row.id for row in chunk.rows] == [*map(str, range(10))]
    assert [row.predictions[0].class_id for row in chunk.rows if not row.failure] == [
        *(0, 1, 2, 4, 5, 6, 7, 8, 9)
    ]
    assert chunk.rows[3].failure == Failure("invalid_image", "it does not decode")


def test_the_description_has_the_measured_batch_size() -> None:
    found = describe(Fake, OPTIONS, make_settings())
    assert (found.info.max_batch_size, found.embedding_size) == (4, 0)
    assert found.spec == {"labels": "ten"}


def chunk_of(numbers: Sequence[int]) -> Chunk:
    rows = [Row(str(n), None, failure=Failure("no_image", "none")) for n in numbers]
    return Chunk((), numbers[-1] / 20, [], rows=rows)


def test_rows_become_shards_of_equal_size_whatever_the_chunks(tmp_path: Path) -> None:
    followed = cluster.Followed(cast(Source, None))
    shards = Shards(tmp_path, schema(10, 0, files=False), "run")
    done = [shards.write(0, chunk_of(range(5)).rows)]
    progress = Watching()
    given = iter([chunk_of(range(5, 8)), chunk_of(range(8, 20)), chunk_of([20])])
    cluster.write_shards(given, followed, shards, done, 5, progress)
    assert [shard.rows for shard in done] == [5, 5, 5, 5, 1]
    assert shards.complete() == done
    assert (progress.done, followed.share) == (16, 1.0)


@pytest.mark.parametrize(
    ("nodes", "settings", "plan"),
    [
        ([{"CPU": 2}], {}, (2, 1, 2, {"num_cpus": 1.4})),
        ([{"CPU": 4}, {"CPU": 8}], {}, (12, 3, 4, {"num_cpus": 2.8})),
        ([{"CPU": 8, "GPU": 2}], {}, (8, 2, 1, {"num_gpus": 1, "num_cpus": 0.5})),
        ([{"CPU": 8, "GPU": 2}], {"device": "cpu"}, (8, 1, 8, {"num_cpus": 5.6})),
        ([{"CPU": 2}, {}], {"preprocess_workers": 5}, (5, 1, 2, {"num_cpus": 1.4})),
    ],
)
def test_each_node_or_gpu_has_a_model_and_each_core_a_decoder(
    nodes: list[dict[str, float]], settings: dict[str, Any], plan: tuple[Any, ...]
) -> None:
    found = cluster.plan_actors(nodes, make_settings(**settings))
    assert (found.decoders, found.models, found.cores) == plan[:3]
    assert found.resources == pytest.approx(plan[3])


def test_a_plan_fits_into_each_kind_of_node() -> None:
    for cores in range(1, 65):
        plan = cluster.plan_actors([{"CPU": cores}], make_settings())
        reserved = plan.decoders * cluster.DECODER + plan.resources["num_cpus"] + cluster.READER
        assert reserved <= cores


def test_a_cluster_without_what_is_needed_is_refused() -> None:
    with pytest.raises(SettingsError, match="--device=cuda: the cluster has no GPUs"):
        cluster.plan_actors([{"CPU": 2}], make_settings(device="cuda"))
    with pytest.raises(SettingsError, match="the cluster has no CPUs"):
        cluster.plan_actors([{}], make_settings())


@pytest.mark.parametrize("address", ["", "head", "ray://head:10001", "head:port", ":6379"])
def test_an_address_of_another_form_is_refused(address: str) -> None:
    with pytest.raises(SettingsError, match=r"must be auto, or HOST:PORT of the cluster's head"):
        cluster.check_address(address)


def test_an_address_without_a_cluster_is_refused_within_seconds() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        begun = time.monotonic()
        with pytest.raises(SettingsError) as caught:
            cluster.check_address(address)
    assert str(caught.value) == f"--ray={address}: cannot be reached: Connection refused"
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    ("cause", "kind", "message"),
    [
        (StartupError("x: no such file"), StartupError, "x: no such file"),
        (ScoringError("lost"), ScoringError, "lost"),
        (ValueError("odd\nlines"), ScoringError, "the cluster failed: odd; run the same command"),
    ],
)
def test_errors_of_a_stage_are_one_line(
    cause: Exception, kind: type[Exception], message: str
) -> None:
    inner = RayTaskError("describe", "a long trace", cause)  # type: ignore[no-untyped-call]
    with pytest.raises(kind) as caught, cluster.cluster_errors():
        raise inner.as_instanceof_cause()  # type: ignore[no-untyped-call]
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_lost_actor_ends_the_run_with_one_line() -> None:
    message = r"the cluster failed: .+; run the same command again"
    with pytest.raises(ScoringError, match=message), cluster.cluster_errors():
        raise RayActorError


def test_other_versions_of_ray_on_the_cluster_are_named_on_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def init(**_: object) -> None:
        raise RuntimeError("Version mismatch: the cluster was started with:\n    Ray: 2.1\n")

    monkeypatch.setattr(ray, "init", init)
    message = "^--ray=auto: Version mismatch: the cluster was started with: Ray: 2.1; if the clust"
    with pytest.raises(SettingsError, match=message), cluster.connected("auto"):
        raise AssertionError("connected")


def test_another_version_of_this_package_on_the_cluster_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = Description(Fake().info, 0, {}, "0.0.7")
    remote = SimpleNamespace(remote=lambda *_: None)
    task = SimpleNamespace(options=lambda **_: remote)
    monkeypatch.setattr(ray, "remote", lambda function: task)
    monkeypatch.setattr(ray, "get", lambda reference: found)
    plan = cluster.Plan(1, 1, 1, {})
    with pytest.raises(ScoringError, match=r"the cluster has xcit-serve 0\.0\.7 and this process"):
        cluster.describe_on_cluster(Fake, OPTIONS, make_settings(), plan)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("nowhere", "--ray=nowhere: must be auto, or HOST:PORT of the cluster's head"),
        ("127.0.0.1:1", "--ray=127.0.0.1:1: cannot be reached: Connection refused"),
    ],
)
def test_the_command_refuses_a_bad_address_with_one_line(
    address: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "1.jpg").write_bytes(b"1")
    arguments = ["score", str(tmp_path), "--out", str(tmp_path / "out"), "--ray", address]
    assert main(arguments) == 2
    assert capsys.readouterr().err.splitlines() == [f"xcit-serve: {message}"]


def test_the_command_names_the_missing_extra(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "app.scoring.cluster")
    monkeypatch.setitem(sys.modules, "ray", None)
    (tmp_path / "1.jpg").write_bytes(b"1")
    main(["score", str(tmp_path), "--out", str(tmp_path / "out"), "--ray", "auto"])
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install 'xcit-serve[ray]' installs it" in line
