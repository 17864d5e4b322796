"""The manifests in ``deploy/kubernetes``, as kubectl builds them."""

import json
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.documents import ROOT
from tests.programs import find_program

KUBERNETES = ROOT / "deploy" / "kubernetes"
BASE = KUBERNETES / "base"
KSERVE = KUBERNETES / "overlays" / "kserve"
OVERLAYS = sorted((KUBERNETES / "overlays").iterdir())
BUILT = [BASE, *OVERLAYS]

# Of later versions; 1.20 does not have the fields that replace these.
KNOWN = ("# Warning: 'bases' is deprecated", "# Warning: 'patchesStrategicMerge' is deprecated")

Part = dict[str, Any]


def find_kubectl() -> str:
    return find_program("kubectl", "kubernetes-client", "CI_REQUIRES_KUBECTL")


def kubectl_version() -> tuple[int, int]:
    command = [find_kubectl(), "version", "--client", "--output", "json"]
    printed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    version = json.loads(printed)["clientVersion"]
    return int(version["major"]), int(version["minor"].rstrip("+"))


@cache
def build(directory: Path) -> dict[str, Part]:
    """The parts of a directory by kind, in which there is one of each."""
    command = [find_kubectl(), "kustomize", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    warnings = [line for line in done.stderr.splitlines() if line and not line.startswith(KNOWN)]
    assert not warnings
    parts = [*yaml.safe_load_all(done.stdout)]
    found = {part["kind"]: part for part in parts}
    assert len(found) == len(parts)
    return found


def pod_of(directory: Path) -> Part:
    """The specification of the pods."""
    if directory == KSERVE:
        parts = build(directory)
        runtime = parts["ClusterServingRuntime"]["spec"]
        return {**parts["InferenceService"]["spec"]["predictor"], **runtime}
    pod: Part = build(directory)["Deployment"]["spec"]["template"]["spec"]
    return pod


def container_of(directory: Path) -> Part:
    """The only container of each pod."""
    (container,) = pod_of(directory)["containers"]
    return dict(container)


def variables_of(directory: Path) -> dict[str, str]:
    """The environment of the container."""
    return {each["name"]: each["value"] for each in container_of(directory)["env"]}
