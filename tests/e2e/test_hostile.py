"""Hostile image files: the real server's verdicts, CPU time and memory."""

import io
import json
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from PIL import Image

from model.images.formats import FORMATS as ALL_FORMATS
from tests.hostile import (
    BOMBS,
    LARGEST_KINDS,
    HostileFile,
    Kind,
    corpus,
    encode,
    good_files,
    kinds,
    largest,
    picture,
    write,
)
from tests.server_process import PATIENCE, Server
from tests.yardstick import slowness

from .conftest import StartServer

FORMATS = tuple(one.key for one in ALL_FORMATS)
SMALL_LIMIT = 2_000_000  # pixels, so that memory per pixel shows
DEFAULT_LIMIT = 50_000_000
WORKERS = 2
CONNECTIONS = 4
MOST_CPU = 5.0  # seconds of CPU for a large file, in all threads, where the bounds were measured
MOST_CPU_OF_SMALL = 0.02  # the same, for a small one
MOST_WAITED = 2.0  # seconds for a liveness probe
# Bytes of a request in addition to its pixels: the body in pieces, as a whole and in the decoder.
BODY = 3 * 20 * 2**20

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:PIL"),
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
    pytest.mark.starts_first,
]

DECODING = pytest.mark.one_process("decoding is the same in a worker")


@pytest.fixture(scope="module")
def server(start_server: StartServer) -> Server:
    return start_server(
        max_pixels=SMALL_LIMIT, preprocess_workers=WORKERS, log_format="json", log_level="warning"
    )


def post(server: Server, data: bytes) -> httpx.Response:
    return server.client.post("/predict", params={"top_k": 10}, content=data, timeout=PATIENCE)


def post_all(server: Server, files: Sequence[HostileFile]) -> list[httpx.Response]:
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        return list(pool.map(lambda file: post(server, file.data), files))


def is_problem(response: httpx.Response) -> bool:
    """Whether an answer is a refusal in the standard form."""
    return (
        400 <= response.status_code < 500
        and response.headers["content-type"] == "application/problem+json"
        and response.json()["status"] == response.status_code
    )


def decodes(data: bytes, max_pixels: int) -> bool:
    """Whether Pillow reads the first frame to its end."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                return False
            image.load()
    except Exception:  # whatever it is: no picture
        return False
    return True


def scores(response: httpx.Response) -> dict[int, float]:
    rows = response.json()["predictions"]
    return {row["class_id"]: row["score"] for row in rows}


def decoding_memory(max_pixels: int, pictures: int, image_format: str = "") -> int:
    """Bytes that decoding takes according to docs/operations.md: twice four bytes per pixel."""
    return pictures * (17 if image_format in ("WEBP", "HEIF") else 2 * 4) * max_pixels


def is_at_rest(server: Server) -> bool:
    """Whether the process uses almost no CPU time."""
    before = server.cpu_seconds()
    time.sleep(0.2)
    return server.cpu_seconds() - before < 0.05


def check_verdicts(server: Server, files: Sequence[HostileFile]) -> None:
    """Post files, and compare each verdict with Pillow's.

    A few may differ: the service refuses kinds that Pillow reads wrongly, and accepts what browsers
    show.
    """
    before, cpu = server.forget_peak(), server.cpu_seconds()
    responses = post_all(server, files)
    grown, cpu = server.memory("VmHWM") - before, server.cpu_seconds() - cpu
    wrong, others = [], []
    for file, response in zip(files, responses, strict=True):
        name = f"{file.name}: {response.status_code} {response.text[:200]}"
        if not (response.status_code == 200 or is_problem(response)):
            wrong.append(name)
        elif decodes(file.data, SMALL_LIMIT) != (response.status_code == 200):
            others.append(name)
    assert not wrong, f"{len(wrong)} of {len(files)}:\n" + "\n".join(wrong)
    assert len(others) < 0.04 * len(files), "\n".join(others)
    assert grown < decoding_memory(SMALL_LIMIT, WORKERS) + 64 * 2**20
    assert cpu < len(files) * MOST_CPU_OF_SMALL * slowness()


@pytest.mark.quick
@pytest.mark.parametrize("image_format", FORMATS)
def test_damaged_file_of_each_format_is_refused(bundled_server: Server, image_format: str) -> None:
    kind = next(kind for kind in kinds() if kind.image_format == image_format)
    whole = write(kind)
    cut = whole.data[: len(whole.data) // 2]
    assert post(bundled_server, whole.data).status_code == 200
    refusal = post(bundled_server, cut)
    assert is_problem(refusal)
    assert refusal.json()["type"] == "/problems/invalid-image"


def test_hostile_files_get_the_right_verdict(server: Server) -> None:
    check_verdicts(server, corpus())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 11))
def test_other_damage_gets_the_right_verdict(server: Server, seed: int) -> None:
    check_verdicts(server, corpus(seed))


@DECODING
def test_mode_and_orientation_do_not_change_the_prediction(server: Server) -> None:
    files = [file for file in good_files() if file.shown]
    plain = [HostileFile(f.name, encode(f.shown, "PNG")) for f in files if f.shown]
    wrong = []
    for file, answer, other in zip(
        files, post_all(server, files), post_all(server, plain), strict=True
    ):
        expected, found = scores(other), scores(answer)
        distance = max(abs(found[i] - expected[i]) for i in expected)
        if distance > (0.1 if file.lossy else 0.05):
            wrong.append(f"{file.name}: {distance:.3f}")
    assert not wrong, "\n".join(wrong)


@DECODING
@pytest.mark.parametrize("name", ["a.php", "a.jpg.exe", "con", ".", "..", "a" * 500, "\u202e"])
def test_file_name_does_not_affect_decoding(server: Server, name: str) -> None:
    files = {"file": (name, encode(picture(), "TIFF"), "application/x-php")}
    response = server.client.post("/predict", files=files)
    assert response.status_code == 200, response.text


@DECODING
@pytest.mark.parametrize("media_type", [b"image/png", b"text/html", b"\xff", b"", b"/", b';;="'])
def test_content_type_does_not_affect_decoding(server: Server, media_type: bytes) -> None:
    headers = {b"content-type": media_type}
    response = server.client.post("/predict", content=encode(picture(), "TIFF"), headers=headers)
    assert response.status_code == 200, response.text


def test_log_still_has_one_object_per_line(server: Server) -> None:
    lines = server.log.read_text().splitlines()
    assert [line for line in lines if not is_json(line)] == []


def is_json(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


@pytest.fixture(scope="module")
def started() -> list[Server]:
    return []


@pytest.fixture
def resting(start_server: StartServer, started: list[Server]) -> Server:
    """An idle server: the previous test's, or a new one if that is still busy."""
    if not (started and started[-1].process.poll() is None and is_at_rest(started[-1])):
        started.append(start_server(preprocess_workers=WORKERS, log_level="warning"))
    return started[-1]


def probe(server: Server, ended: threading.Event) -> float:
    """The longest time that a liveness probe took, in seconds, until an event is set."""
    longest = 0.0
    while not ended.is_set():
        begun = time.monotonic()
        assert server.client.get("/livez").status_code == 200
        longest = max(longest, time.monotonic() - begun)
        ended.wait(0.02)
    return longest


def check_appetite(server: Server, data: bytes, image_format: str = "") -> list[int]:
    """Post a large file to every decoder, and a small file and probes meanwhile.

    Returns:
        The statuses of the large ones, after time, memory and log have been checked.
    """
    assert len(data) <= 20 * 2**20, "otherwise it is refused for its size alone"
    before, logged = server.forget_peak(), server.log.stat().st_size
    cpu = server.cpu_seconds()
    ended = threading.Event()
    with ThreadPoolExecutor(WORKERS + 1) as pool:
        probes = pool.submit(probe, server, ended)
        large = [pool.submit(post, server, data) for _ in range(WORKERS)]
        time.sleep(0.3)
        small = post(server, encode(picture(), "PNG"))
        answers = [each.result() for each in large]
        ended.set()
        longest = probes.result()
    grown, cpu = server.memory("VmHWM") - before, server.cpu_seconds() - cpu
    statuses = [answer.status_code for answer in answers]
    logged = server.log.stat().st_size - logged
    what = f"{len(data)} bytes: {statuses}, {cpu:.1f} s of CPU, {grown / 2**20:.0f} MiB, "
    what += f"{logged} bytes of log, a probe waited {longest:.1f} s"
    assert small.status_code == 200, what
    assert all(answer.status_code == 200 or is_problem(answer) for answer in answers), what
    assert cpu < WORKERS * MOST_CPU * slowness(), what
    assert longest < MOST_WAITED * slowness() + cpu / 2, what
    assert grown < decoding_memory(DEFAULT_LIMIT, WORKERS, image_format) + WORKERS * BODY, what
    assert logged < 2**16, what
    return statuses


@DECODING
@pytest.mark.parametrize("name", BOMBS)
def test_decompression_bomb_costs_little_cpu_and_memory(resting: Server, name: str) -> None:
    check_appetite(resting, BOMBS[name]())
    assert is_at_rest(resting), "it was refused, but is still being decoded"


@DECODING
@pytest.mark.parametrize("kind", LARGEST_KINDS, ids=lambda kind: kind.name)
def test_the_largest_pictures_are_served(resting: Server, kind: Kind) -> None:
    statuses = check_appetite(resting, largest(kind), kind.image_format)
    assert statuses == [200] * WORKERS
