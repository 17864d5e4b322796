"""``xcit-serve variants``: list the published models."""

import argparse

from app.cli.output import show
from app.cli.parser import Parser


def add_arguments(parser: Parser) -> None:
    parser.description = (
        "List the models that the authors of XCiT published. Each name can be used as a "
        "checkpoint: the weights are downloaded on first use."
    )


def run(_: argparse.Namespace) -> int:
    from model.families.variants import VARIANTS

    show(f"{'name':<36}{'side':>6}{'patch':>7}{'dim':>6}{'depth':>7}")
    for name, variant in VARIANTS.items():
        sizes = variant.hyperparameters
        show(
            f"{name:<36}{variant.image_size:>6}{variant.patch_size:>7}"
            f"{sizes['dim']:>6}{sizes['depth']:>7}"
        )
    return 0
