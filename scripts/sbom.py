"""Write a CycloneDX bill of materials of the service: ``sbom.py FILE``.

It lists the packages pinned in requirements.txt, as installed for this Python, without development
dependencies. Exits non-zero if a package is installed in another version.
"""

import subprocess
import sys
import tempfile
import venv
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent


def pins() -> list[Requirement]:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    requirements = [Requirement(line) for line in lines if not line.startswith("#")]
    return [pin for pin in requirements if pin.marker is None or pin.marker.evaluate()]


def metadata(pin: Requirement) -> Path:
    """The metadata directory of a pinned package."""
    installed = distribution(pin.name)
    if installed.version not in pin.specifier:
        sys.exit(f"{pin.name} {installed.version} is installed, {pin} is pinned")
    (name,) = {file.parts[0] for file in installed.files or () if ".dist-info" in file.parts[0]}
    return Path(str(installed.locate_file(name)))


def write(target: Path) -> None:
    # The tool describes whole environments, so make one with only the pinned packages' metadata.
    with tempfile.TemporaryDirectory() as environment:
        venv.create(environment, symlinks=True)
        (packages,) = Path(environment).glob("lib/python*/site-packages")
        for path in map(metadata, pins()):
            (packages / path.name).symlink_to(path)
        command = [sys.executable, "-m", "cyclonedx_py", "environment", environment]
        command += [f"--pyproject={ROOT / 'pyproject.toml'}", f"--output-file={target}"]
        subprocess.run([*command, "--output-reproducible", "--validate"], check=True)


write(Path(sys.argv[1]))
