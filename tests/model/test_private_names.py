"""The private and deprecated names of libraries in use: an upgrade that moves one fails here."""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIBRARIES = ("torch", "openvino", "PIL", "numpy", "safetensors", "huggingface_hub")
DEPRECATED = ("torch.jit",)

# Each name has no public equivalent, for the reason given.
NAMES = {
    "torch._inductor.async_compile.shutdown_compile_workers": "ends idle compiler processes",
    "torch._inductor.config.patch": "compile_threads can otherwise only be set before the import",
    "torch.jit.optimized_execution": "turns off the specialisation of scripts for each batch size",
    "torch.jit.trace": "runs without the interpreter lock, and OpenVINO's frontend reads its graph",
    "PIL._webp.__file__": "the path of the bundled libwebp",
    "PIL._avif.__file__": "the path of the bundled libavif",
}
# Public names without documentation, or attributes of objects.
UNDOCUMENTED = {
    "openvino.frontend.pytorch.ts_decoder.TorchScriptPythonDecoder": "avoids convert_model",
    "torch.compiler.config.recompile_limit": "one version is compiled for each batch size",
    "torch.compiler.config.accumulated_recompile_limit": "the same, over all functions",
    "torch._inductor.config.compile_threads": "see above",
    "PIL.AvifImagePlugin.SUPPORTED": "whether Pillow was built with libavif",
    "PIL.Image.core.__file__": "the path of the bundled libtiff",
    "PIL.Image.Image.im": "its pixels can be allocated without the interpreter lock",
}


def resolve(name: str) -> object:
    """The object of a dotted name; raises `ImportError` or `AttributeError` if there is none."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[count:]:
            found = getattr(found, attribute)
        return found
    raise ModuleNotFoundError(name)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", sorted(NAMES | UNDOCUMENTED))
def test_name_exists(name: str) -> None:
    if name.startswith("openvino"):
        pytest.importorskip("openvino")
    resolve(name)


def test_no_other_private_name_is_used() -> None:
    found = {
        name
        for package in ("model", "training")
        for path in (ROOT / package).rglob("*.py")
        for name in private_names(ast.parse(path.read_text()))
    }
    assert found == set(NAMES)


def private_names(tree: ast.Module) -> Iterator[str]:
    """Dotted names of `LIBRARIES` that are private or in `DEPRECATED`, without their prefixes."""
    imported: dict[str, str] = {}
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                imported[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
                names.add(alias.name)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                imported[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                names.add(f"{node.module}.{alias.name}")
    names |= {dotted(node, imported) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    private = {name for name in names if is_private(name)}
    for name in private:
        if not any(other.startswith(f"{name}.") for other in private):
            yield name


def dotted(node: ast.expr, imported: dict[str, str]) -> str:
    """The full name of an attribute of an imported module; empty for anything else."""
    if isinstance(node, ast.Name):
        return imported.get(node.id, "")
    if isinstance(node, ast.Attribute) and (outer := dotted(node.value, imported)):
        return f"{outer}.{node.attr}"
    return ""


def is_private(name: str) -> bool:
    first, *rest = name.split(".")
    private = any(part.startswith("_") and not part.endswith("__") for part in rest)
    deprecated = any(name.startswith(f"{prefix}.") for prefix in DEPRECATED)
    return first in LIBRARIES and (private or deprecated)


def test_private_names_are_recognised() -> None:
    source = """
import torch._dynamo
from PIL import Image, _webp
from torch.jit import trace as t
from torch import nn
x = torch._C.y.z
"""
    assert set(private_names(ast.parse(source))) == {
        "torch._dynamo",
        "PIL._webp",
        "torch.jit.trace",
        "torch._C.y.z",
    }
