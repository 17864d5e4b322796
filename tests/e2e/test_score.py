"""``xcit-serve score`` as users run it, compared with a server and killed at any time."""

import io
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from app.serving.worker_pool import WorkerPool
from model.families.xcit_published import PublishedXCiT
from tests.server_process import ROOT, environment

from .conftest import Run, StartServer

pytestmark = pytest.mark.one_process("scoring has no server")

QUICKLY = {"backend": "torch", "precision": "float32", "streams": 2, "max_batch_size": 4}
SMALL = {"patch_size": 16, "dim": 32, "depth": 1, "cls_depth": 1, "heads": 2, "mlp_dim": 32}
BAD = {
    "empty.jpg": b"",
    "text.png": b"no image",
    "cut.jpg": b"\xff\xd8\xff\xe0\0\x10JFIF",
    "many.bmp": b"BM" + bytes(16) + (60_000).to_bytes(4, "little") * 2 + bytes(28),
}


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """Restore what the command changes in this process."""
    before, turn = torch.get_num_threads(), sys.getswitchinterval()
    yield
    torch.set_num_threads(before)
    sys.setswitchinterval(turn)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Settings with a small checkpoint, which starts quickly."""
    torch.manual_seed(0)
    network = PublishedXCiT(num_classes=7, tokens_norm=True, **SMALL).eval()
    path = tmp_path_factory.mktemp("weights") / "small.pth"
    torch.save(network.state_dict(), path)
    return {"checkpoint": path, "image_size": 32, **QUICKLY}


def flags(settings: Mapping[str, object]) -> list[str]:
    return [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 photos in folders, and four bad files."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(60):
        path = folder / f"{number % 3}" / f"{number:02}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(photo(number))
    for name, data in BAD.items():
        (folder / name).write_bytes(data)
    return folder


def photo(seed: int) -> bytes:
    chance = random.Random(seed)
    picture = Image.new("RGB", (60, 40), tuple(chance.randbytes(3)))
    picture.paste(tuple(chance.randbytes(3)), (10, 5, chance.randint(20, 50), 30))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG")
    return buffer.getvalue()


def rows(out: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(out).to_pylist()
    return found


def repeated(photos: Path, times: int, folder: Path) -> Path:
    """A list of the paths of all photos, several times."""
    path = folder / "list.txt"
    names = sorted(str(path) for path in photos.rglob("*.*"))
    path.write_text("\n".join(names * times))
    return path


@contextmanager
def started(*arguments: object) -> Iterator["subprocess.Popen[str]"]:
    command = (sys.executable, "-m", "app", "score", *map(str, arguments))
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(),
        text=True,
        stderr=subprocess.PIPE,
        preexec_fn=obey_interrupts,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def obey_interrupts() -> None:
    """Undo what a shell does to commands in the background: they ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for(path: Path, process: "subprocess.Popen[str]") -> None:
    limit = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.01)


@pytest.mark.parametrize("deterministic", [False, True])
def test_scores_and_errors_are_those_of_the_server(
    run: Run,
    start_server: StartServer,
    photos: Path,
    small: dict[str, object],
    tmp_path: Path,
    deterministic: bool,
) -> None:
    """The same to the last digit in deterministic mode, else within the rounding of batch sizes."""
    settings = {**small, "deterministic": str(deterministic).lower()}
    server = start_server(**settings)
    code, printed, told = run("score", photos, "--out", tmp_path, "--top-k", 3, *flags(settings))
    assert (code, told) == (0, [])
    assert printed.startswith("64 images in 1 shard: 60 scored, 4 with an error\n")
    found = {row["id"]: row for row in rows(tmp_path)}
    assert found["empty.jpg"]["error_kind"] == "unsupported_media_type"
    for name in BAD.keys() - {"empty.jpg"}:  # to the server, an empty body is a missing image
        answer = server.post((photos / name).read_bytes())
        assert found[name]["error"] == answer.json()["detail"]
        assert (
            found[name]["error_kind"].replace("_", "-") == answer.json()["type"].rpartition("/")[2]
        )
        assert found[name]["predictions"] is None
    for name in found.keys() - BAD:
        answer = server.client.post(
            "/predict", params={"top_k": 3}, content=(photos / name).read_bytes()
        ).json()
        expected = [(row["class_id"], row["label"]) for row in answer["predictions"]]
        predictions = found[name]["predictions"]
        assert [(row["class_id"], row["label"]) for row in predictions] == expected
        scores = [row["score"] for row in answer["predictions"]]
        tolerance = 0 if deterministic else 1e-4
        assert [row["score"] for row in predictions] == pytest.approx(scores, rel=tolerance)
        assert found[name]["score"] == predictions[0]["score"]


def test_interrupted_and_killed_run_equals_an_undisturbed_one(
    run: Run,
    photos: Path,
    small: dict[str, object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    many = repeated(photos, 40, tmp_path)
    options = ("--shard-size", 40, "--embeddings", *flags(small))
    run("score", many, "--out", tmp_path / "whole", *options)
    command = (many, "--out", tmp_path / "out", *options)
    with started(*command) as process:
        wait_for(tmp_path / "out" / "part-00001.parquet", process)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert told.splitlines()[-1] == "xcit-serve: interrupted; run the same command again to resume"
    assert process.returncode == 130
    before = len([*(tmp_path / "out").glob("part-*")])
    with started(*command) as process:
        wait_for(tmp_path / "out" / f"part-{before + 2:05}.parquet", process)
        process.kill()
    left = len([*(tmp_path / "out").glob("part-*")])

    decoded = 0
    call = WorkerPool.run

    def counted(self: WorkerPool, work: Any, *others: Any) -> Any:
        nonlocal decoded
        decoded += len(work.args[0])
        return call(self, work, *others)

    monkeypatch.setattr(WorkerPool, "run", counted)
    code, _, told_lines = run("score", *command)
    assert code == 0
    assert told_lines == [f"xcit-serve: resuming after {40 * left} images"]
    assert decoded == 64 * 40 - 40 * left
    assert rows(tmp_path / "out") == rows(tmp_path / "whole")


@pytest.mark.slow
def test_run_killed_five_times_at_random_moments_equals_an_undisturbed_one(
    run: Run, photos: Path, tmp_path: Path
) -> None:
    many = repeated(photos, 300, tmp_path)
    options = ("--shard-size", 500, "--max-batch-size", 8)
    run("score", many, "--out", tmp_path / "whole", *options)
    command = (many, "--out", tmp_path / "out", *options)
    chance = random.Random(0)
    for _ in range(5):
        with started(*command) as process:
            manifest = tmp_path / "out" / "_manifest.json"
            begun = time.time()
            while not manifest.exists() or manifest.stat().st_mtime < begun:
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 4))
            assert process.poll() is None, "the run was over before it was killed"
            process.kill()
    assert run("score", *command)[0] == 0
    assert rows(tmp_path / "out") == rows(tmp_path / "whole")


def test_full_disk_ends_the_run_with_one_line_and_it_resumes(
    run: Run, photos: Path, small: dict[str, object], tmp_path: Path
) -> None:
    """A limit on the size of files stands for a full disk: both fail while a shard is written."""
    command = ("score", photos, "--out", tmp_path, "--shard-size", 30, *flags(small))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))
    try:
        code, _, told = run(*command)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 1
    (line,) = told
    start = f"xcit-serve: {tmp_path}/part-00000.parquet: cannot be written: File too large; run"
    assert line.startswith(start)
    assert not [*tmp_path.glob("*part*")]
    assert run(*command)[0] == 0
    assert len(rows(tmp_path)) == 64


def test_backbone_of_dino_gives_embeddings(run: Run, photos: Path, tmp_path: Path) -> None:
    network = PublishedXCiT(num_classes=0, tokens_norm=True, **SMALL).eval()
    state = {f"backbone.{key}": tensor for key, tensor in network.state_dict().items()}
    weights = tmp_path / "dino.pth"
    torch.save({"teacher": state | {"head.last_layer.weight_g": torch.ones(1)}}, weights)
    command = ("score", photos / "0", "--out", tmp_path / "out", "--checkpoint", weights)
    size = ("--image-size", 32, *flags(QUICKLY))
    code, _, told = run(*command, *size)
    assert code == 1
    (line,) = told
    assert line.endswith("(xcit-serve score --embeddings needs none)")
    code, _, told = run(*command, *size, "--embeddings", "--top-k", 3)
    assert (code, told) == (
        2,
        ["xcit-serve: --top-k=3: the checkpoint has no classes, only embeddings"],
    )
    code, _, told = run(*command, *size, "--embeddings")
    assert (code, told) == (0, [])
    found = rows(tmp_path / "out")
    assert set(found[0]) == {"id", "embedding", "error", "error_kind"}
    assert all(len(row["embedding"]) == 32 for row in found)
    assert len({tuple(row["embedding"]) for row in found}) == 20


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["missing"], 1, "missing: no such file or folder"),
        (["."], 1, ".: no images; expected files ending in "),
        (["photos", "--top-k", "8"], 2, "--top-k=8: must be from 1 to 7"),
        (["photos", "--top-k", "0"], 2, "--top-k=0: must be from 1 to 7"),
        (["photos", "--shard-size", "0"], 2, "--shard-size=0: must be from 1 to 1,000,000"),
        (["photos", "--checkpoint", "none.pt"], 1, "none.pt: "),
        (["photos", "--out", "/proc/none"], 1, "/proc/none: cannot be written: "),
        (["bad"], 1, "none of the images could be scored"),
    ],
    ids=str,
)
def test_mistakes_get_one_line(
    run: Run,
    small: dict[str, object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    if arguments[0] in {"photos", "bad"}:
        Path(arguments[0]).mkdir()
        Path(arguments[0], "a.jpg").write_bytes(photo(0) if arguments[0] == "photos" else b"")
    settings = flags(small)
    found, _, told = run("score", *settings, "--out", tmp_path / "out", *arguments)
    assert found == code
    (line,) = told
    assert line.startswith(f"xcit-serve: {message}")
