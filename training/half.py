"""A training step's forward and backward pass in 16 bits, on a CPU."""

from copy import deepcopy
from functools import partial

from torch import Tensor, nn
from torch.func import functional_call

from model.families.xcit import CrossCovarianceAttention, LayerScale, XCiT
from training.attention import attend


class HalfPrecision(nn.Module):
    """The training forward pass of ``network`` in bfloat16; gradients go to its 32-bit weights.

    Autocast alone keeps the sums of branches and the layer scales in 32 bits. On a CPU, the casts
    and the traffic of 32-bit tokens take longer than the matrix products. Here weights are cast
    once per step, with layer scales merged into them, and tokens stay in 16 bits. Autocast must
    be enabled: it casts the embedded patches.
    """

    def __init__(self, network: XCiT) -> None:
        super().__init__()
        self.network = network
        body = deepcopy(network).to("meta").train()
        for module in body.modules():
            if isinstance(module, LayerScale):
                vars(module)["forward"] = partial(unscaled, module)
            elif isinstance(module, CrossCovarianceAttention) and module.dropout.p == 0:
                vars(module)["forward"] = partial(attend, module)
        self.body = partial(functional_call, body)  # hides its weights
        self.cast = names_to_cast(network)
        self.scales = names_of_scales(network)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.body(self.weights(), (images,))
        return out

    def weights(self) -> dict[str, Tensor]:
        """The body's parameters, cast and scaled, and the network's buffers."""
        given: dict[str, Tensor] = dict(self.network.named_parameters())
        weights = dict(self.network.named_buffers())
        for name, weight in given.items():
            if name in self.scales:
                weight = weight * given[self.scales[name]].view(-1, *[1] * (weight.ndim - 1))
            weights[name] = weight.bfloat16() if name in self.cast else weight
        return weights


def unscaled(branch: LayerScale, *inputs: Tensor) -> Tensor:
    """The forward pass of a branch whose scale is merged into its last weights."""
    out: Tensor = branch.fn(*inputs)
    return out


def names_to_cast(network: XCiT) -> set[str]:
    """Weights of linear layers and convolutions, positions and class token; norms are not cast."""
    return {"pos_embedding", "cls_token"} | {
        f"{name}.{part}"
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
        for part, _ in module.named_parameters()
    }


def names_of_scales(network: XCiT) -> dict[str, str]:
    """The scale to merge into each weight and bias of a branch's last layer, by its name."""
    found: dict[str, str] = {}
    for name, branch in network.named_modules():
        if isinstance(branch, LayerScale):
            last = [
                part
                for part, module in branch.named_modules()
                if isinstance(module, nn.Linear | nn.Conv2d)
            ][-1]
            found |= {f"{name}.{last}.{part}": f"{name}.scale" for part in ("weight", "bias")}
    return found
