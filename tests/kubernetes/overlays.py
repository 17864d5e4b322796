"""The manifests in ``deploy/kubernetes``, as kubectl builds them."""

import json
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.documents import ROOT

KUBERNETES = ROOT / "deploy" / "kubernetes"
BASE = KUBERNETES / "base"
KSERVE = KUBERNETES / "overlays" / "kserve"
OVERLAYS = sorted((KUBERNETES / "overlays").iterdir())
BUILT = [BASE, *OVERLAYS]

# Of later versions; 1.20 does not have the fields that replace these.
KNOWN = ("# Warning: 'bases' is deprecated", "# Warning: 'patchesStrategicMerge' is deprecated")

Part = dict[str, Any]


@cache
def find_kubectl() -> str:
    """The path of kubectl; skips the test without it."""
    kubectl = shutil.which("kubectl")
    if kubectl:
        return kubectl
    if os.environ.get("CI_REQUIRES_KUBECTL"):
        pytest.fail("there is no kubectl")
    pytest.skip("there is no kubectl")


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
