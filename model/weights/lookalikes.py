"""Recognising files that are not weights by their content, with advice for each."""

import re
from collections.abc import Collection

HEAD = 512  # bytes needed to recognise a file
SAVE = "save only the weights: torch.save(model.state_dict(), path)"

PROTOBUF = re.compile(rb"\x08[\x01-\x1f][\x0a\x12\x1a\x22\x3a\x42]")
JSON = re.compile(rb"\s*[\[{]\s*[\"\[{}\]\d]")

# first bytes of a file, and its description
BEGINNINGS = {
    b"version https://git-lfs": "a Git LFS pointer; run git lfs pull to get the file itself",
    b"\x89HDF\r\n\x1a\n": f"an HDF5 file, as written by Keras and TensorFlow; {SAVE}",
    b"GGUF": f"a GGUF file; {SAVE}",
    b"\x93NUMPY": f"a NumPy array; {SAVE}",
    b"ftrt": f"a TensorRT engine; {SAVE}",
    b"\x1f\x8b": "a gzip archive; unpack it and give the weight file inside",
    b"BZh": "a bzip2 archive; unpack it and give the weight file inside",
    b"\xfd7zXZ": "an xz archive; unpack it and give the weight file inside",
    b"\x28\xb5\x2f\xfd": "a Zstandard archive; unpack it and give the weight file inside",
    b"7z\xbc\xaf": "a 7-Zip archive; unpack it and give the weight file inside",
    b"Rar!": "a RAR archive; unpack it and give the weight file inside",
    b"\xff\xd8\xff": "a JPEG image",
    b"\x89PNG": "a PNG image",
    b"%PDF": "a PDF document",
    b"\x7fELF": "a program",
}
# part of an entry's name in a zip archive, and the description of the archive
ZIP_ENTRIES = {
    r"(^|/)constants\.pkl$|(^|/)code/": (
        "a TorchScript archive, which is code; save only its weights: "
        "torch.save(torch.jit.load(path).state_dict(), new_path)"
    ),
    r"(^|/)archive_format$|(^|/)serialized_exported_program\.json$": (
        "a torch.export archive; save only its weights: "
        "torch.save(torch.export.load(path).state_dict, new_path)"
    ),
    r"^MAR-INF/": "a TorchServe archive; unzip it and give the weight file inside",
    r"\.npy$": (
        "a NumPy archive (.npz); convert it: torch.save({name: torch.from_numpy(array) "
        "for name, array in numpy.load(path).items()}, new_path)"
    ),
    r"\.weights\.h5$": f"a Keras archive; {SAVE}",
    r"\.(pt|pth|bin|safetensors|ckpt)$": "a zip archive; unzip it and give the weight file inside",
}


def name_file(head: bytes) -> str:
    """Describe a file that is neither safetensors nor PyTorch, from its first bytes."""
    for start, kind in BEGINNINGS.items():
        if head.startswith(start):
            return kind
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if not head:
        return "an empty file"
    if not head.strip(b"\0"):
        return "nothing but zeros, as after an interrupted copy"
    if head[257:262] == b"ustar":
        return "a tar archive; unpack it and give the weight file inside"
    if head[4:8] == b"TFL3":
        return f"a TensorFlow Lite model; {SAVE}"
    if PROTOBUF.match(head):
        return f"a protobuf file, as written by ONNX and TensorFlow; {SAVE}"
    if text.startswith(b"<"):
        return _name_markup(text)
    if JSON.match(text):
        return "a JSON file; give the weight file next to it"
    return _name_unknown(head)


def name_zip(entries: Collection[str]) -> str | None:
    """Describe a zip archive by its entries; ``None`` if ``torch.save`` wrote it."""
    pickles = [name for name in entries if re.fullmatch(r"(.+/)?data\.pkl", name)]
    for pattern, kind in ZIP_ENTRIES.items():
        if any(re.search(pattern, name) for name in entries):
            return kind
    return None if len(pickles) == 1 else f"a zip archive without PyTorch's data.pkl; {SAVE}"


def _name_markup(text: bytes) -> str:
    if re.search(rb"<net\s", text):
        return f"an OpenVINO model description; {SAVE}"
    return "a web page, as after a failed download"


def _name_unknown(head: bytes) -> str:
    if re.match(rb"[(cN\]}][\x20-\x7e\n]*p0?\d?\n", head):
        return f"a pickle of Python 2, or of protocol 0; {SAVE}"
    if head.isascii() and re.sub(r"\s", "", head.decode()).isprintable():
        return "a text file"
    return f"an unknown format; its first bytes are {head[:8].hex(' ')}"
