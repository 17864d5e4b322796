"""A virtual environment for each peer, below ``runs/compare``; their requirements conflict."""

import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]
REQUIREMENTS = Path(__file__).parent / "peers"
ENVIRONMENTS = ROOT / "runs" / "compare"
# Packages that would replace the network or the build of PyTorch that all share.
FOREIGN = {"torchvision", "torchaudio", "triton"}


def interpreter(peer: str) -> Path:
    return ENVIRONMENTS / peer / "bin" / "python"


def set_up(peer: str) -> None:
    """Create or update the environment of ``peer``."""
    subprocess.run([sys.executable, "-m", "venv", ENVIRONMENTS / peer], check=True)
    file = REQUIREMENTS / f"requirements-{peer}.txt"
    command = [
        str(interpreter(peer)),
        "-m",
        "pip",
        "--disable-pip-version-check",
        "install",
        "--quiet",
    ]
    subprocess.run([*command, "--requirement", str(file)], check=True)
    found, own = packages(peer), packages(None)
    if found["torch"] != own["torch"]:
        raise RuntimeError(f"{peer}: torch {found['torch']}, not {own['torch']} as here")
    if foreign := FOREIGN & set(found):
        raise RuntimeError(f"{peer}: installing it also installed {', '.join(sorted(foreign))}")


def packages(peer: str | None) -> Mapping[str, str]:
    """Version by name of all packages in the environment of ``peer``, or in this one."""
    where = ENVIRONMENTS / (peer or "") / "lib"
    path = sys.path if peer is None else [str(each) for each in where.glob("*/site-packages")]
    return {found.name.lower(): found.version for found in distributions(path=path)}


def missing(peers: Iterable[str]) -> list[str]:
    """The peers that have no environment."""
    return [peer for peer in peers if not interpreter(peer).exists()]


def versions(names: Sequence[str], found: Mapping[str, str]) -> dict[str, str]:
    return {name: found[name] for name in names if name in found}
