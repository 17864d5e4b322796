"""The cache of compiled models: reused, private, and disabled if it cannot be used."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from torch import nn

from model.backends.agreement import probabilities
from model.backends.base import Backend, BackendOptions
from model.backends.cache import locate, open_cache
from model.backends.choose import choose_backend

from .conftest import HYPERPARAMETERS

pytestmark = pytest.mark.usefixtures("_threads")

SIZE = HYPERPARAMETERS["image_size"]

Started = Callable[[], Backend]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "made" / "here"


@pytest.fixture
def start(whole: nn.Sequential, cache: Path) -> Started:
    """Start a backend like a service does, with a new cache."""
    options = BackendOptions(backend="openvino", device="cpu", streams=1, cache_dir=cache)
    expected = probabilities(whole, SIZE)
    return lambda: choose_backend(lambda: whole, SIZE, expected, options).backend


def written(cache: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in cache.iterdir()}


def test_compiled_model_is_cached_for_the_next_start(
    start: Started, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start()
    kept = written(cache)
    assert sorted(path.suffix for path in kept) == [".bin", ".blob", ".xml"]
    monkeypatch.delattr("model.backends.openvino_graph.to_graph")
    assert start().name == "openvino"
    assert written(cache) == kept, "compiled again"


@pytest.mark.thorough
@pytest.mark.parametrize("suffix", [".bin", ".blob", ".xml"])
def test_truncated_cache_file_is_replaced(start: Started, cache: Path, suffix: str) -> None:
    start()
    (kept,) = cache.glob(f"*{suffix}")
    size = kept.stat().st_size
    kept.chmod(0o600)
    kept.write_bytes(kept.read_bytes()[: size // 2])
    assert start().name == "openvino"
    assert kept.stat().st_size > 0.9 * size, "the broken one is still there"


def test_full_disk_is_logged_and_disables_the_cache(
    start: Started, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    assert start().name == "openvino"
    assert "No space left on device" in caplog.text
    assert not [*cache.glob("*.xml")]


def test_cache_below_a_file_is_disabled(
    whole: nn.Sequential, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    options = BackendOptions(backend="openvino", device="cpu", cache_dir=tmp_path / "file" / "x")
    backend, reason, _ = choose_backend(lambda: whole, SIZE, probabilities(whole, SIZE), options)
    assert backend.name == "openvino"
    assert "compiled models are not cached" in caplog.text
    assert reason == "openvino was requested; agrees with 32-bit PyTorch"


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.fixture(params=[0o022, 0o002, 0o000])
def _umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("_umask")
def test_missing_parent_directories_are_private(cache: Path) -> None:
    assert open_cache(cache / "deeper") == cache / "deeper"
    assert mode(cache.parent) == mode(cache) == 0o700


def test_directory_that_any_user_could_replace_is_refused(
    cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert open_cache(cache) == cache
    cache.parent.chmod(0o777)
    assert open_cache(cache) is None
    assert f"any user can replace files in {cache.parent}; choose another" in caplog.text
    cache.parent.chmod(0o1777)
    assert open_cache(cache) == cache, "the sticky bit prevents it"


def test_reason_is_plain_text(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    assert open_cache(tmp_path / "file") is None
    assert caplog.messages == [
        f"compiled models are not cached in {tmp_path / 'file'}: File exists"
    ]


@pytest.mark.thorough
@pytest.mark.usefixtures("_umask")
def test_cached_files_are_private_and_reused_under_any_umask(
    start: Started, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start()
    assert mode(cache) == 0o700
    kept = written(cache)
    assert len(kept) == 3
    assert not any(mode(path) & 0o077 for path in kept)
    start()
    assert written(cache) == kept
    assert "not kept" not in caplog.text


@pytest.mark.parametrize("bits", [0o770, 0o707, 0o777, 0o1777, 0o720, 0o702])
def test_directory_writable_by_others_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, bits: int
) -> None:
    tmp_path.chmod(bits)
    assert open_cache(tmp_path) is None
    assert f"other users can write to {tmp_path}; run: chmod -R go-w {tmp_path}" in caplog.text
    tmp_path.chmod(bits & ~0o022)
    assert open_cache(tmp_path) == tmp_path


@pytest.mark.parametrize("name", ["a.blob", "b.xml", "c.bin", "folder"])
def test_file_writable_by_others_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
    else:
        path.touch()
    tmp_path.chmod(0o700)
    path.chmod(0o666)
    assert open_cache(tmp_path) is None
    assert f"other users can write to {path}" in caplog.text


def test_link_in_the_cache_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o700)
    (cache / "a.blob").symlink_to(tmp_path / "elsewhere")
    assert open_cache(cache) is None
    assert f"{cache / 'a.blob'} is a symbolic link; remove it" in caplog.text


@pytest.mark.parametrize("name", [".", "a.blob"])
def test_cache_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    (tmp_path / "a.blob").touch()
    real = os.stat_result

    def owned_by_another(self: Path) -> os.stat_result:
        found = os.lstat(self)
        fields = list(found)
        if self == tmp_path / name:
            fields[4] += 1
        return real(fields)

    monkeypatch.setattr(Path, "stat", owned_by_another)
    monkeypatch.setattr(Path, "lstat", owned_by_another)
    assert open_cache(tmp_path) is None
    assert f"belongs to user {os.geteuid() + 1}, not to {os.geteuid()}" in caplog.text


def test_refused_cache_is_neither_read_nor_written(
    start: Started, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start()
    for path in cache.glob("*.xml"):
        path.write_text("not what OpenVINO wrote")
    cache.chmod(0o777)
    kept = written(cache)
    assert start().name == "openvino"
    assert written(cache) == kept
    assert "compiled models are not cached" in caplog.text


@pytest.mark.parametrize(
    ("home", "cache_home", "expected"),
    [
        ("/home/a", None, "/home/a/.cache/xcit-serve"),
        ("/home/a", "", "/home/a/.cache/xcit-serve"),
        ("/home/a", "/disk/cache", "/disk/cache/xcit-serve"),
        ("/home/a", "relative/is/ignored", "/home/a/.cache/xcit-serve"),
        (None, "/disk/cache", "/disk/cache/xcit-serve"),
    ],
)
def test_default_directory_follows_home_and_xdg_cache_home(
    monkeypatch: pytest.MonkeyPatch, home: str | None, cache_home: str | None, expected: str
) -> None:
    for name, value in (("HOME", home), ("XDG_CACHE_HOME", cache_home)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert locate(Path("~/.cache/xcit-serve")) == Path(expected)
    assert locate(Path("/elsewhere")) == Path("/elsewhere")


def test_unreadable_cached_model_is_compiled_and_disables_the_cache(
    start: Started, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(directory: Path) -> None:
        raise RuntimeError("cannot read the blob")

    monkeypatch.setattr("model.backends.openvino.seal", fail)
    backend = start()
    assert backend.name == "openvino"
    assert "cannot read the blob" in caplog.text
