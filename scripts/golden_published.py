"""Record logits of timm's XCiT, for the tests of `model.families.xcit_published`.

    pip install --no-deps timm && python scripts/golden_published.py

writes ``tests/model/golden/published.json``. timm imports torchvision, which its XCiT does not use,
so an empty stand-in replaces it.
"""

import importlib.abc
import importlib.machinery
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from model.families.variants import SIZES, VARIANTS
from tests.model.published import random_images, realistic_weights

OUTPUT = Path(__file__).parent.parent / "tests" / "model" / "golden" / "published.json"
CLASSES = 10
RESOLUTIONS = ((64, 64), (96, 160), (48, 32))


class AnyClass(type):
    """A class with any attribute."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return AnyClass(name, (), {})


class StandIn(ModuleType):
    """A module with any class."""

    __path__: tuple[str, ...] = ()

    def __getattr__(self, name: str) -> Any:
        return getattr(AnyClass, name) if name.startswith("__") else AnyClass(name, (), {})


class StandInFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.partition(".")[0] == "torchvision":
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> ModuleType:
        return StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def cases() -> list[dict[str, Any]]:
    """Every size and patch size with two or three blocks; the smaller sizes complete."""
    reduced = [
        {"variant": name, "depth": 1 + variant.hyperparameters["depth"] // 12}
        | {"height": height, "width": width}
        for name, variant in VARIANTS.items()
        if name.endswith("_224.fb_in1k")
        for height, width in RESOLUTIONS
    ]
    whole = [
        {"variant": f"xcit_{size}_p{patch}_224.fb_in1k", "depth": SIZES[size][1]}
        | {"height": height, "width": width}
        for size in ("nano_12", "tiny_12", "tiny_24")
        for patch, (height, width) in ((16, (224, 224)), (16, (96, 160)), (8, (80, 112)))
    ]
    return reduced + whole


def main() -> None:
    sys.meta_path.insert(0, StandInFinder())
    import timm
    from timm.models import xcit

    found = []
    for case in cases():
        build = getattr(xcit, case["variant"].partition(".")[0])
        network = build(depth=case["depth"], num_classes=CLASSES).eval()
        network.load_state_dict(realistic_weights(network.state_dict()))
        images = random_images(2, case["height"], case["width"])
        with torch.inference_mode():
            logits = network(images)
            exact = network.double()(images.double())
        error = ((logits - exact).norm() / exact.norm()).item()
        print(
            case,
            f"differs by {error:.1e} from its own logits in 64 bits",
            logits[0, :3].tolist(),
            flush=True,
        )
        found.append({**case, "logits": [[round(x, 9) for x in row] for row in exact.tolist()]})
    OUTPUT.write_text(json.dumps({"timm": timm.__version__, "cases": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
