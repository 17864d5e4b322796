"""The manifests in ``deploy/kubernetes``, as kubectl builds them."""

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

Part = dict[str, Any]


@cache
def build(directory: Path) -> dict[str, Part]:
    """The parts of a directory by kind, in which there is one of each."""
    kubectl = shutil.which("kubectl")
    if not kubectl:
        missing = "there is no kubectl; the tests need version 1.21 or later"
        if os.environ.get("CI_REQUIRES_KUBECTL"):
            pytest.fail(missing)
        pytest.skip(missing)
    done = subprocess.run(
        [kubectl, "kustomize", str(directory)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "kubectl warns, for example of deprecated fields"
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
