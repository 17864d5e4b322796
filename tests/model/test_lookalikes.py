"""Other files given as weights are recognised and refused with advice in one line."""

import bz2
import gzip
import io
import lzma
import pickle
import pickletools
import tarfile
import zipfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch import nn

from model.checkpoint import read_checkpoint
from model.errors import CheckpointError

from .hostile_files import archive, saved, small


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    assert str(caught.value).isprintable()
    return str(caught.value)


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, b"content")
    return buffer.getvalue()


def scripted() -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), buffer)  # type: ignore[no-untyped-call]
    return buffer.getvalue()


def numpy_archive() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, weight=np.ones(3))
    return buffer.getvalue()


def tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("weights.pt"))
    return buffer.getvalue()


EXPORTED = ("mine/archive_format", "mine/models/model.json", "mine/data/weights/weight_0")
OLDER_EXPORTED = ("serialized_exported_program.json", "serialized_state_dict.pt", "version")
LOOKALIKES: dict[str, tuple[Callable[[], bytes], str]] = {
    "TorchScript": (scripted, "a TorchScript archive, which is code; save only its weights"),
    "torch.export": (lambda: zipped(*EXPORTED), "torch.export.load(path).state_dict"),
    "older export": (lambda: zipped(*OLDER_EXPORTED), "a torch.export archive"),
    "TorchServe": (
        lambda: zipped("MAR-INF/MANIFEST.json", "weights.pth"),
        "a TorchServe archive; unzip it and give the weight file inside",
    ),
    "zipped": (lambda: zipped("run/weights.pth"), "a zip archive; unzip it"),
    "Keras": (lambda: zipped("config.json", "model.weights.h5"), "a Keras archive"),
    "npz": (numpy_archive, "a NumPy archive (.npz); convert it: torch.save("),
    "two pickles": (lambda: zipped("a/data.pkl", "b/data.pkl"), "without PyTorch's data.pkl"),
    "ONNX": (lambda: b"\x08\x08\x12\x07pytorch\x1a\x052.13", "a protobuf file, as written by"),
    "TFLite": (lambda: b"\x20\0\0\0TFL3" + bytes(60), "a TensorFlow Lite model"),
    "HDF5": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(60), "an HDF5 file, as written by"),
    "gzip": (lambda: gzip.compress(saved({})), "a gzip archive; unpack it and give the weight"),
    "bzip2": (lambda: bz2.compress(saved({})), "a bzip2 archive; unpack it"),
    "xz": (lambda: lzma.compress(saved({})), "an xz archive; unpack it"),
    "tar": (tar, "a tar archive; unpack it"),
    "pickle 0": (lambda: pickle.dumps({"a": 1}, 0), "a pickle of Python 2, or of protocol 0"),
    "pickle 4": (lambda: pickle.dumps([1], 4), "a Python pickle that torch.save did not write"),
    "JSON": (lambda: b'\xef\xbb\xbf{"a": 1}', "a JSON file; give the weight file next to it"),
    "OpenVINO": (lambda: b'<?xml version="1.0"?>\n<net name="x">', "an OpenVINO model"),
    "text": (lambda: b"epoch 1\nloss 0.3\n", "a text file"),
    "zeros": (lambda: bytes(1000), "nothing but zeros, as after an interrupted copy"),
    "image": (lambda: b"\xff\xd8\xff\xe0" + bytes(60), "a JPEG image"),
    "noise": (lambda: b"\xd2\x1bnoise", "its first bytes are d2 1b 6e 6f 69 73 65"),
}


@pytest.mark.filterwarnings("ignore")  # PyTorch's deprecations
@pytest.mark.parametrize("kind", LOOKALIKES)
def test_files_given_as_weights_are_recognised(tmp_path: Path, kind: str) -> None:
    make, message = LOOKALIKES[kind]
    path = tmp_path / "weights.pth"
    path.write_bytes(make())
    told = refusal(path)
    assert told.startswith(f"{path}: ")
    assert message in told


@pytest.mark.parametrize("name", ["a\x1b[31m\nINFO ready", "x" * 500])
def test_names_inside_files_are_shown_on_one_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(save({name: torch.ones(1)}))
    assert len(refusal(path)) < 500
    path.write_bytes(zipped("archive/data.pkl", f"archive/{name}"))
    assert len(refusal(path)) < 500
    path.write_bytes(saved({name: small()}))
    assert len(read_checkpoint(path).place) < 100
    assert read_checkpoint(path).place.isprintable()


def told_of(path: Path, content: bytes) -> str:
    """The message that refuses this content; empty if it is accepted."""
    path.write_bytes(content)
    try:
        read_checkpoint(path)
    except CheckpointError as error:
        return str(error)
    return ""


WHOLE = (
    saved({"state_dict": small(), "epoch": 3}),
    saved({"model": small()}, older=True),
    save(small()),
)


@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")  # of pickletools
@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(
    content=st.sampled_from(WHOLE),
    places=st.lists(st.floats(0, 1), min_size=1, max_size=6),
    values=st.lists(st.integers(0, 255), min_size=6, max_size=6),
    end=st.booleans(),
)
def test_damaged_files_are_read_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory,
    content: bytes,
    places: list[float],
    values: list[int],
    end: bool,
) -> None:
    """Half of the changes are in the description of the tensors, at one end of the file."""
    damaged = bytearray(content)
    for place, value in zip(places, values, strict=False):
        reach = min(len(content), 16_000) - 1
        damaged[-1 - int(place * reach) if end else int(place * reach)] = value
    told = told_of(tmp_path_factory.mktemp("damaged") / "weights.pt", bytes(damaged))
    assert not told or (told.isprintable() and len(told) < 600)


ARGUMENTS = Namespace(model="xcit_tiny_12_p16_224", crop_pct=0.9, mean=[0.5] * 3)
MEMBERS = {"state_dict": {"blocks.0.local_mp.conv1.weight": torch.ones(2, 2)}, "args": ARGUMENTS}
PICKLE = zipfile.ZipFile(io.BytesIO(saved(MEMBERS))).read("archive/data.pkl")
OPERATIONS = st.sampled_from([code.code.encode("latin-1") for code in pickletools.opcodes])


@pytest.mark.filterwarnings("ignore:invalid escape")  # from pickletools
@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(
    start=st.integers(0, len(PICKLE)),
    left_out=st.integers(0, 9),
    inserted=st.lists(OPERATIONS | st.binary(min_size=1, max_size=4), max_size=4).map(b"".join),
)
def test_other_pickles_are_read_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, start: int, left_out: int, inserted: bytes
) -> None:
    changed = PICKLE[:start] + inserted + PICKLE[start + left_out :]
    path = tmp_path_factory.mktemp("changed") / "weights.pt"
    told = told_of(path, archive(changed, storage=bytes(16)))
    assert told.isprintable()
    assert len(told) < 600
