"""Files next to a checkpoint: encodings, allowed locations and content."""

import codecs
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from model.checkpoint import read_checkpoint, write_checkpoint
from model.errors import CheckpointError
from model.metadata.description import Overrides
from model.metadata.sidecar import read_labels
from model.spec import ModelSpec

from .test_xcit_published import TINY, network

Save = Callable[[object], Path]
State = dict[str, Tensor]


def refusal(path: Path, **overrides: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path, Overrides(**overrides))
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.txt", "ant\nbée\ncat\n"),
        ("labels.txt", "\n\nant\r\n  bée\t\r\n\r\ncat\r\n\r\n"),
        ("labels.txt", "ant\rbée\rcat"),
        ("labels.txt", "ant\n\ufeffbée\ncat"),
        ("labels.json", '["ant", "bée", "cat"]'),
        ("weights.labels.json", '{"2": "cat", "0": "ant", "1": "bée"}\r\n'),
    ],
)
def test_labels_are_read_in_the_encodings_of_editors(
    save: Save, state: State, encoding: str, name: str, text: str
) -> None:
    path = save(state)
    path.with_name(name).write_bytes(text.encode(encoding))
    assert read_checkpoint(path).spec.labels == ("ant", "bée", "cat")


@pytest.mark.parametrize("mark", [codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE])
def test_both_byte_orders_of_utf_16_are_read(tmp_path: Path, mark: bytes) -> None:
    path = tmp_path / "labels.txt"
    order = "utf-16-le" if mark == codecs.BOM_UTF16_LE else "utf-16-be"
    path.write_bytes(mark + "ant\nbee".encode(order))
    assert read_labels(path) == ("ant", "bee")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "labels.txt",
            b"ant\n0\tbee\ncat",
            "label 1, counted from 0, contains the control",
        ),
        ("labels.txt", "ant\nbee\u202egpj\ncat".encode(), "U+202E"),
        ("labels.txt", "ant\nbee\u2028INFO ready\ncat".encode(), "U+2028"),
        ("labels.txt", b"ant\nbee\x1b[2J\ncat", "U+001B"),
        ("labels.txt", "ant\nbee\ncat".encode("utf-16-le"), "control character U+0000"),
        ("labels.txt", b"ant\nb\xe9e\ncat", "cannot be read as UTF-8 text"),
        ("labels.txt", b"ant\nbee\n" + b"c" * 1001, "has 1001 characters; at most 1000"),
        ("labels.txt", b"\n" * (2**20 + 1), "over 1048576 bytes"),
        ("labels.txt", b"\n\n", "an empty label"),
        ("labels.json", b'["ant", "bee\\ud800", "cat"]', "U+D800"),
        ("labels.json", b'["ant", "bee\\nINFO ready", "cat"]', "U+000A"),
        ("labels.json", b'["ant", " ", "cat"]', "label 1, counted from 0, is empty"),
        ("labels.json", b"[" * 200_000, "nested too deeply"),
        ("labels.json", b"[" + b"9" * 6000 + b"]", "nested too deeply or too long"),
        ("preprocess.json", b'{"mean": [NaN, 0, 0]}', "mean must be three numbers"),
        ("preprocess.json", b'{"crop_pct": true}', "crop_pct is true; it must be above 0"),
        ("preprocess.json", b'{"interpolation": ["bicubic"]}', "interpolation is a list of 1"),
        ("preprocess.json", b'{"\\u001b[2J": 1}', r"unknown preprocessing field '\x1b[2J'"),
    ],
)
def test_invalid_sidecars_are_refused_with_the_reason(
    save: Save, state: State, name: str, content: bytes, message: str
) -> None:
    path = save(state)
    path.with_name(name).write_bytes(content)
    assert message in refusal(path)


@pytest.mark.parametrize(
    "name", ["labels.txt", "labels.json", "preprocess.json", "config.json", "args.yaml"]
)
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda link: link.symlink_to("/proc/self/environ"), "leaves its directory"),
        (lambda link: link.symlink_to("../outside.txt"), "leaves its directory"),
        (lambda link: link.symlink_to(link.name), "its links are circular"),
        (lambda link: link.symlink_to("nowhere"), "cannot be read: No such file"),
        (lambda link: os.mkfifo(link), "not a regular file"),
        (lambda link: link.mkdir(), "cannot be read: Is a directory"),
        (lambda link: link.write_bytes(b" " * (2**20 + 1)), "over 1048576 bytes"),
    ],
    ids=["environ", "outside", "circle", "dangling", "pipe", "directory", "long"],
)
def test_sidecars_must_be_small_regular_files_of_the_directory(
    tmp_path: Path, name: str, make: Callable[[Path], None], message: str
) -> None:
    (tmp_path / "outside.txt").write_text("a\nb\nc\nd\ne\n")
    place = tmp_path / "model"
    place.mkdir()
    path = place / "weights.safetensors"
    save_file(dict(network(**TINY).state_dict()), path)
    make(place / name)
    told = refusal(path)
    assert told.startswith(f"{place / name}: ")
    assert message in told


def test_links_inside_the_directory_are_followed(save: Save, state: State) -> None:
    """Kubernetes mounts a ConfigMap as links to a hidden directory next to them."""
    path = save(state)
    hidden = path.with_name("..2026_01_01")
    hidden.mkdir()
    (hidden / "labels.txt").write_text("ant\nbee\ncat\n")
    path.with_name("..data").symlink_to(hidden.name)
    path.with_name("labels.txt").symlink_to("..data/labels.txt")
    assert read_checkpoint(path).spec.labels == ("ant", "bee", "cat")


def test_file_named_by_the_user_may_be_anywhere(
    save: Save, state: State, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "mine.txt"
    elsewhere.write_text("ant\nbee\ncat\n")
    link = elsewhere.with_name("link.txt")
    link.symlink_to(elsewhere)
    path = save(state)
    assert read_checkpoint(path, Overrides(labels=link)).spec.labels == ("ant", "bee", "cat")
    pipe = elsewhere.with_name("pipe")
    os.mkfifo(pipe)
    assert "not a regular file" in refusal(path, labels=pipe)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "a\nINFO ready"}, "name contains the control character U+000A"),
        ({"name": ""}, "name is empty"),
        ({"name": "x" * 257}, "name has 257 characters"),
        ({"version": "1\r"}, "version contains the control character U+000D"),
        ({"labels": ["ant", "b\x00", "cat"]}, "label 1, counted from 0, contains the control"),
        ({"labels": ["ant", 3, "cat"]}, "label 1, counted from 0, is 3; expected text"),
        ({"provenance": {"data": "\x1b[2J"}}, "provenance 1, counted from 0, contains"),
        ({"provenance": {"data": 3}}, "is 3; expected text"),
        ({"name": 3}, "'name' is 3"),
    ],
)
def test_metadata_with_control_characters_is_refused(
    tmp_path: Path, spec: ModelSpec, state: State, change: dict[str, Any], message: str
) -> None:
    path = tmp_path / "small.safetensors"
    write_checkpoint(path, spec, state)
    with safe_open(path, "pt") as file:
        document = json.loads(file.metadata()["xcit"])
    save_file(state, path, {"xcit": json.dumps(document | change)})
    assert message in refusal(path)


def test_labels_in_other_scripts_are_accepted(spec: ModelSpec) -> None:
    labels = ("Grüner Veltliner", "می‌خواهم", "👩‍🌾")
    assert replace(spec, labels=labels).labels == labels
