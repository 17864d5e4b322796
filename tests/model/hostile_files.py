"""Small weight files that would be expensive to read, or that only look like weights."""

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable, ItemsView
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from model.families.xcit import XCiT

from .conftest import HYPERPARAMETERS
from .test_xcit_published import TINY, network

State = dict[str, Tensor]


def small() -> State:
    return dict(network(**TINY).state_dict())


def official() -> ItemsView[str, Tensor]:
    """The authors' layout, with query, key and value in one matrix."""
    state = {key: tensor for key, tensor in small().items() if ".attn.k." not in key}
    return {key.replace(".attn.q.", ".attn.qkv."): t for key, t in state.items()}.items()


def archive(data: bytes, *, compression: int = zipfile.ZIP_STORED, storage: bytes = b"") -> bytes:
    """A file in the layout of torch.save with this pickle and at most one storage."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        file.writestr("archive/data.pkl", data)
        file.writestr("archive/version", "3\n")
        if storage:
            file.writestr("archive/data/0", storage)
    return buffer.getvalue()


def saved(payload: object, *, older: bool = False) -> bytes:
    """A file by torch.save, in the current layout or that before PyTorch 1.6."""
    buffer = io.BytesIO()
    torch.save(payload, buffer, _use_new_zipfile_serialization=not older)
    return buffer.getvalue()


def described(hyperparameters: dict[str, object], more: str = "") -> bytes:
    """A self-describing file whose metadata contradicts its weights."""
    document = {
        "format_version": 1,
        "name": "x",
        "version": "1",
        "family": "vit_pytorch",
        "hyperparameters": HYPERPARAMETERS | hyperparameters,
        "preprocess": {"image_size": 16},
        "labels": ["a", "b", "c"],
    }
    state = dict(XCiT(**HYPERPARAMETERS).state_dict())
    return save(state, {"xcit": more or json.dumps(document)})


def safetensors(header: bytes, body: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + body


def renumbered(layers: str, number: str) -> bytes:
    key = f"{layers}.{number}.norm1.weight"
    return save({**small(), key: torch.ones(64)})


def shape(key: str, shape: list[int]) -> bytes:
    """A safetensors file with a tensor of this shape and no numbers."""
    header: dict[str, object] = {}
    header["blocks.0.local_mp.conv1.weight"] = entry([64, 1, 3, 3], 0, 2304)
    header[key] = entry(shape, 2304, 2304)
    return safetensors(json.dumps(header).encode(), bytes(2304))


def entry(shape: list[int], start: int, end: int) -> dict[str, object]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}


def reduce(module: str, name: str, arguments: bytes) -> bytes:
    """A pickle that calls a function."""
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + arguments + b"R."


def shared_by_many() -> bytes:
    """A thousand layers that are all one tensor."""
    weight = torch.ones(4096, 4096)
    state = {f"blocks.{i}.mlp.fc1.weight": weight for i in range(1000)}
    return saved({**small(), **state})


def legacy_announcing(count: int) -> bytes:
    """The older layout, with a storage whose numbers are missing."""
    return saved({"w": torch.ones(4)}, older=True)[:-24] + struct.pack("<q", count) + bytes(16)


def many_small_tensors(count: int) -> bytes:
    header = {
        f"{i:x}": {"dtype": "U8", "shape": [1], "data_offsets": [i, i + 1]} for i in range(count)
    }
    return safetensors(json.dumps(header, separators=(",", ":")).encode(), bytes(count))


def central_directory(entries: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for number in range(entries):
            file.writestr(f"{number:0200}", b"")
    return buffer.getvalue()


def same_bytes(count: int) -> bytes:
    """Nested dictionaries, each with the previous one twice."""
    value: object = {"a": torch.ones(1)}
    for _ in range(count):
        value = {"x": value, "y": value}
    return saved(value)


def colliding_keys(count: int) -> bytes:
    """A dictionary of integers with the same hash."""
    items = b"".join(
        b"\x8a\x0b" + (number * (2**61 - 1)).to_bytes(11, "little") + b"N"
        for number in range(count)
    )
    return archive(b"\x80\x02}(" + items + b"u.")


def entry_at(offset: int) -> bytes:
    """An archive whose directory has an entry outside the file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("archive/data.pkl", b"\x80\x02}.")
        file.infolist()[0].header_offset = offset
    return buffer.getvalue()


def text(value: str) -> bytes:
    """The pickle opcode that pushes a text."""
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def one_tensor_under_many_paths(count: int, depth: int) -> bytes:
    """A tensor found ``count`` times, below ``depth`` long keys."""
    storage = (
        b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x04tQ"
    )
    tensor = (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00K\x04\x85K\x01\x85\x89}tRq\x000"
    )
    members = b"".join(text(f"{number:x}") + b"h\x00" for number in range(count))
    keys = b"".join(b"}" + text("k" * 60) for _ in range(depth))
    return archive(
        b"\x80\x02" + tensor + keys + b"}(" + members + b"u" + b"s" * depth + b".",
        storage=bytes(16),
    )


NESTED = 100_000
HUGE = 10**9
FILES: dict[str, Callable[[], bytes]] = {
    "deflated pickle": lambda: archive(bytes(10**8), compression=zipfile.ZIP_DEFLATED),
    "sparse": lambda: saved({**small(), "head.weight": torch.eye(5, 64).to_sparse()}),
    "meta": lambda: saved({**small(), "head.weight": torch.ones(5, 64, device="meta")}),
    "stride 0": lambda: saved({**small(), "head.weight": torch.ones(1).expand(30_000, 30_000)}),
    "shared": shared_by_many,
    "metadata nested": lambda: described({}, "[" * NESTED),
    "metadata depth": lambda: described({"depth": HUGE}),
    "metadata classes": lambda: described({"num_classes": HUGE}),
    "metadata dim": lambda: described({"dim": HUGE * HUGE}),
    "metadata image": lambda: described({"image_size": HUGE}),
    "metadata kernel": lambda: described({"local_patch_kernel_size": HUGE}),
    "metadata list": lambda: described({"depth": [1] * 1000}),
    "layer 999999999": lambda: renumbered("blocks", "999999999"),
    "layer of many digits": lambda: renumbered("blocks", "9" * 9000),
    "many layers": lambda: save(
        {**small(), **{f"blocks.{i}.norm1.weight": torch.ones(1) for i in range(10_000)}}
    ),
    "as many layers as are taken": lambda: save(
        {
            **small(),
            **{f"blocks.{i}.x": torch.ones(1) for i in range(198)},
            **{f"cls_attn_blocks.{i}.x": torch.ones(1) for i in range(198)},
        }
    ),
    "no numbers, many classes": lambda: shape("head.weight", [HUGE, 0]),
    "no numbers, wide": lambda: shape("cls_token", [0, HUGE]),
    "header announced": lambda: struct.pack("<Q", 2**40) + b"{}" + bytes(100),
    "header of 20 MB": lambda: safetensors(
        json.dumps({"__metadata__": {"xcit": " " * 20 * 2**20}}).encode()
    ),
    "bytearray": lambda: archive(reduce("__builtin__", "bytearray", b"J\xff\xff\xff\x7f\x85")),
    "tensor": lambda: archive(reduce("torch", "FloatTensor", b"J\xff\xff\xff\x7f\x85")),
    "memo": lambda: archive(b"\x80\x02}r\xff\xff\xff\x7f."),
    "text announced": lambda: archive(b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"x."),
    "nested lists": lambda: archive(b"\x80\x02" + b"]" * NESTED + b"a" * (NESTED - 1) + b"."),
    "nested keys": lambda: archive(b"\x80\x02})" + b"\x85" * NESTED + b"Ns."),
    "doubling keys": lambda: archive(b"\x80\x02})" + b"2\x86" * 60 + b"Ns."),
    "colliding keys": lambda: colliding_keys(100_000),
    "doubling dictionaries": lambda: same_bytes(200),
    "marks": lambda: archive(b"\x80\x02" + b"(" * 1_100_000 + b"."),
    "long pickle": lambda: archive(b"\x80\x02" + b"N0" * 2**25 + b"."),
    "storage announced": lambda: legacy_announcing(2**40),
    "negative storage": lambda: legacy_announcing(-4),
    "many entries": lambda: central_directory(35_000),
    "entry outside": lambda: entry_at(2**40),
    "entry far outside": lambda: entry_at(2**63),
    "empty archive": lambda: archive(b""),
    "many paths": lambda: one_tensor_under_many_paths(120_000, 15),
    "many long paths": lambda: one_tensor_under_many_paths(120_000, 30),
    "many tensors": lambda: one_tensor_under_many_paths(120_000, 0),
    "many small tensors": lambda: many_small_tensors(60_000),
    "many empty lists": lambda: archive(b"\x80\x02](" + b"]" * 300_000 + b"e."),
    "a list that holds itself": lambda: archive(b"\x80\x02]q\x00(" + b"h\x00" * 300_000 + b"e."),
    "many networks": lambda: save(
        {f"{i}.blocks.0.local_mp.conv1.weight": torch.ones(1) for i in range(5_000)}
    ),
    "long key": lambda: save({"a." * 3_900_000: torch.ones(1)}),
    "many dimensions": lambda: safetensors(
        json.dumps({"head.weight": entry([1] * 2_000_000, 0, 4)}).encode(), bytes(4)
    ),
    "arguments": lambda: saved(
        {
            "state_dict": small(),
            "args": {"model": "xcit_", "mean": [0.5] * 300_000, "img_size": HUGE},
        }
    ),
    "scalar": lambda: save({**small(), "cls_token": torch.ones(())}),
    "scalar attention": lambda: save(
        {key: torch.ones(()) if "cls_attn_blocks.0.attn" in key else t for key, t in official()}
    ),
    "heads": lambda: save({**small(), "blocks.0.attn.temperature": torch.ones(100_000, 1, 1)}),
    "plain pickle": lambda: pickle.dumps({"model": [1.0] * 100_000}),
}


def write(name: str, directory: Path) -> Path:
    path = directory / "weights.pt"
    path.write_bytes(FILES[name]())
    return path
