"""Without a cache of compiled models, starts use the same backend."""

import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

from model.backends.agreement import probabilities
from model.backends.base import BackendOptions
from model.backends.choose import choose_backend

from .conftest import HYPERPARAMETERS

pytestmark = pytest.mark.usefixtures("_threads")

SIZE = HYPERPARAMETERS["image_size"]


def no_passwd_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: object) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("home", "directory", "reason"),
    [
        (None, "~/.cache/xcit-serve", "Could not determine home directory"),
        ("here", "~/.cache/xcit-serve", "HOME must be an absolute path"),
        ("/dev/null", "~/.cache/xcit-serve", "Not a directory"),
        ("/proc/nowhere", "~/.cache/xcit-serve", "No such file or directory"),
        ("/", "~nobody-of-that-name/cache", "Could not determine home directory"),
        ("/", "/" + "x" * 300, "File name too long"),
    ],
)
def test_unusable_cache_directory_does_not_change_the_backend(
    whole: nn.Sequential,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    home: str | None,
    directory: str,
    reason: str,
) -> None:
    no_passwd_entry(monkeypatch)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    if home is not None:
        monkeypatch.setenv("HOME", home)
    options = BackendOptions(device="cpu", cache_dir=Path(directory))
    backend, _, _ = choose_backend(lambda: whole, SIZE, probabilities(whole, SIZE), options)
    assert backend.name == "openvino"
    assert f"compiled models are not cached in {directory}: " in caplog.text
    assert reason in caplog.text
    assert not [*tmp_path.iterdir()]


CHOOSE = """
import os, pwd, resource, signal, sys
from pathlib import Path
from model.backends.agreement import probabilities
from model.backends.base import BackendOptions
from model.backends.choose import choose_backend
from model.families.simplify import baseline
from model.spec import PreprocessSpec
from model.families.xcit import XCiT
from tests.model.conftest import HYPERPARAMETERS

network = baseline(XCiT(**HYPERPARAMETERS).eval(), PreprocessSpec(16)).eval()
expected = probabilities(network, 16)
{fault}
options = BackendOptions(device="cpu", cache_dir=Path(sys.argv[1]))
backend, reason, _ = choose_backend(lambda: network, 16, expected, options)
print(backend.name, reason, sep=": ")
"""
FULL_DISK = """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
"""
UNKNOWN_USER = """
def unknown(uid):
    raise KeyError(uid)
pwd.getpwuid = unknown
os.environ.pop("HOME", None)
os.environ.pop("XDG_CACHE_HOME", None)
"""


def choose_after(fault: str, cache: str) -> subprocess.CompletedProcess[str]:
    """The choice of a process with a fault injected."""
    command = [sys.executable, "-c", CHOOSE.replace("{fault}", fault), cache]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_full_disk_does_not_change_the_backend(
    tmp_path: Path,
) -> None:
    done = choose_after(FULL_DISK, str(tmp_path))
    assert done.stdout.startswith("openvino: first choice on cpu; agrees"), done.stderr
    assert "the graph is not cached" in done.stderr
    assert not [*tmp_path.glob("*.xml")]


@pytest.mark.thorough
def test_user_without_name_and_home_gets_the_fast_backend() -> None:
    """OpenVINO's telemetry reads the home directory when it is imported."""
    done = choose_after(UNKNOWN_USER, "~/.cache/xcit-serve")
    assert done.stdout.startswith("openvino: first choice on cpu; agrees"), done.stderr
    assert "compiled models are not cached in ~/.cache/xcit-serve: Could not" in done.stderr
