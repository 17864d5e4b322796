"""Quantising a checkpoint and serving it, as users do."""

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.model.quantisable import write_images, write_original

from .conftest import Run, StartServer

pytestmark = pytest.mark.one_process("about the model")


@dataclass(frozen=True, slots=True)
class Files:
    """A checkpoint and its images."""

    original: Path
    images: Path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    directory = tmp_path_factory.mktemp("small")
    images = write_images(directory / "images", 120)
    return Files(write_original(directory / "original.safetensors", images), images)


def test_quantised_checkpoint_is_served_in_int8(
    files: Files, run: Run, start_server: StartServer, tmp_path: Path
) -> None:
    path = tmp_path / "int8.safetensors"
    arguments = (files.original, files.images, "--out", path, "--labelled", "--max-drop", 100)
    code, printed, errors = run("quantize", *arguments)
    assert (code, errors) == (0, [])
    rows = dict(line.split("  ", 1) for line in printed.splitlines()[:-1])
    for name in ("top-1 agreement", "top-5 agreement", "mean |Δp|", "accuracy", "weights in use"):
        assert rows[name]
    assert rows["layers in int8"].strip() == "9 of 10"
    assert "on this machine" in rows["result"]
    assert printed.splitlines()[-1].startswith(f"{path}: written, ")

    code, described, _ = run("inspect", path)
    assert code == 0
    assert "9 layers, calibrated on 120 images" in described
    code, _, errors = run("convert", path, tmp_path / "converted.safetensors")
    assert code == 1
    assert errors == [
        f"xcit-serve: {path}: quantised; convert the original checkpoint, then quantise that"
    ]

    server = start_server(checkpoint=path)
    model = server.client.get("/healthz").json()["model"]
    assert (model["precision"], model["backend"]) == ("int8", "openvino")
    assert model["backend_reason"] == "the checkpoint is quantised; agrees with 32-bit PyTorch"
    image = next(files.images.rglob("*.png")).read_bytes()
    assert len(server.post(image).json()["predictions"]) == 3


@pytest.mark.parametrize(
    ("out", "more", "told"),
    [
        ("x.pt", (), "x.pt: the output's name must end in .safetensors"),
        ("no/x.safetensors", (), "no/x.safetensors: cannot be written: No such file or directory"),
        ("x.safetensors", ("--max-drop", "-1"), "--max-drop=-1: must be a number from 0 to 100"),
        ("x.safetensors", ("--max-drop", "nan"), "--max-drop=nan: must be a number from 0 to 100"),
        ("x.safetensors", ("--max-drop", "few"), "--max-drop=few: must be a number from 0 to 100"),
    ],
)
def test_wrong_argument_is_a_usage_error(
    files: Files, run: Run, out: str, more: tuple[str, ...], told: str
) -> None:
    code, printed, errors = run("quantize", files.original, files.images, "--out", out, *more)
    assert (code, printed, errors) == (2, "", [f"xcit-serve: {told}"])


def test_output_may_not_replace_the_original(files: Files, run: Run, tmp_path: Path) -> None:
    link = tmp_path / "link.safetensors"
    link.symlink_to(files.original)
    for out in (files.original, link):
        code, _, errors = run("quantize", files.original, files.images, "--out", out)
        told = f"xcit-serve: --out={out}: the checkpoint itself; name another file"
        assert (code, errors) == (2, [told])


@pytest.mark.parametrize("package", ["nncf", "openvino"])
def test_missing_package_is_named_with_its_extra(
    files: Files, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, package: str
) -> None:
    for name in [name for name in sys.modules if name.startswith("model.quantisation.")]:
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.startswith("model.backends.openvino")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    out = tmp_path / "x.safetensors"
    code, _, errors = run("quantize", files.original, files.images, "--out", out)
    told = f"xcit-serve: {package} is not installed; pip install 'xcit-serve[quantize]' installs it"
    assert (code, errors) == (1, [told])


def test_too_few_images_are_one_line(files: Files, run: Run, tmp_path: Path) -> None:
    images = write_images(tmp_path / "few", 3)
    out = tmp_path / "x.safetensors"
    code, printed, errors = run("quantize", files.original, images, "--out", out)
    told = f"xcit-serve: {images}: 3 images; at least 100 are needed, better 1,300"
    assert (code, printed, errors) == (1, "", [told])
    assert not out.exists()
