"""Files that are found in the place of weights, recognised by their content, and the way out."""

import re
from collections.abc import Collection

HEAD = 512  # bytes of a file that tell what it is
SAVE = "save the weights alone: torch.save(model.state_dict(), path)"

PROTOBUF = re.compile(rb"\x08[\x01-\x1f][\x0a\x12\x1a\x22\x3a\x42]")
JSON = re.compile(rb"\s*[\[{]\s*[\"\[{}\]\d]")

# the beginning of a file, and what it is
BEGINNINGS = {
    b"version https://git-lfs": "a Git LFS pointer; git lfs pull brings the file itself",
    b"\x89HDF\r\n\x1a\n": f"an HDF5 file, as Keras and TensorFlow write it; {SAVE}",
    b"GGUF": f"a GGUF file; {SAVE}",
    b"\x93NUMPY": f"a NumPy array; {SAVE}",
    b"ftrt": f"a TensorRT engine; {SAVE}",
    b"\x1f\x8b": "a gzip archive; unpack it, and give the weight file inside",
    b"BZh": "a bzip2 archive; unpack it, and give the weight file inside",
    b"\xfd7zXZ": "an xz archive; unpack it, and give the weight file inside",
    b"\x28\xb5\x2f\xfd": "a Zstandard archive; unpack it, and give the weight file inside",
    b"7z\xbc\xaf": "a 7-Zip archive; unpack it, and give the weight file inside",
    b"Rar!": "a RAR archive; unpack it, and give the weight file inside",
    b"\xff\xd8\xff": "a JPEG image",
    b"\x89PNG": "a PNG image",
    b"%PDF": "a PDF document",
    b"\x7fELF": "a program",
}
# a part of the name of an entry of a zip archive, and what the archive is
ZIP_ENTRIES = {
    r"(^|/)constants\.pkl$|(^|/)code/": (
        "a TorchScript archive, which is code; save its weights alone: "
        "torch.save(torch.jit.load(path).state_dict(), new_path)"
    ),
    r"(^|/)archive_format$|(^|/)serialized_exported_program\.json$": (
        "a torch.export archive; save its weights alone: "
        "torch.save(torch.export.load(path).state_dict, new_path)"
    ),
    r"^MAR-INF/": "a TorchServe archive; unzip it, and give the weight file inside",
    r"\.npy$": (
        "a NumPy archive (.npz); convert it: torch.save({name: torch.from_numpy(array) "
        "for name, array in numpy.load(path).items()}, new_path)"
    ),
    r"\.weights\.h5$": f"a Keras archive; {SAVE}",
    r"\.(pt|pth|bin|safetensors|ckpt)$": "a zip archive; unzip it, and give the weight file inside",
}


def name_file(head: bytes) -> str:
    """What a file is that begins with ``head``, and neither safetensors nor PyTorch's."""
    for start, kind in BEGINNINGS.items():
        if head.startswith(start):
            return kind
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if not head:
        return "an empty file"
    if not head.strip(b"\0"):
        return "nothing but zeros, as an interrupted copy leaves them"
    if head[257:262] == b"ustar":
        return "a tar archive; unpack it, and give the weight file inside"
    if head[4:8] == b"TFL3":
        return f"a TensorFlow Lite model; {SAVE}"
    if PROTOBUF.match(head):
        return f"a protobuf file, as ONNX and TensorFlow write models; {SAVE}"
    if text.startswith(b"<"):
        return _name_markup(text)
    if JSON.match(text):
        return "a JSON file; give the weight file beside it"
    return _name_unknown(head)


def name_zip(entries: Collection[str]) -> str | None:
    """What a zip archive of these entries is; ``None`` for one by ``torch.save``."""
    pickles = [name for name in entries if re.fullmatch(r"(.+/)?data\.pkl", name)]
    for pattern, kind in ZIP_ENTRIES.items():
        if any(re.search(pattern, name) for name in entries):
            return kind
    return None if len(pickles) == 1 else f"a zip archive without PyTorch's data.pkl; {SAVE}"


def _name_markup(text: bytes) -> str:
    if re.search(rb"<net\s", text):
        return f"OpenVINO's description of a model; {SAVE}"
    return "a web page, as a failed download leaves one"


def _name_unknown(head: bytes) -> str:
    if re.match(rb"[(cN\]}][\x20-\x7e\n]*p0?\d?\n", head):
        return f"a pickle by Python 2, or of protocol 0; {SAVE}"
    if head.isascii() and re.sub(r"\s", "", head.decode()).isprintable():
        return "a text file"
    return f"an unknown format; its first bytes are {head[:8].hex(' ')}"
