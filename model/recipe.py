"""The choices of a training run: one declaration for flags, help, state and model card."""

from dataclasses import dataclass, field
from typing import Any


def _choice(default: Any, meaning: str) -> Any:
    return field(default=default, metadata={"help": meaning})


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides the weights, apart from the data. Defaults: the bundled model's."""

    name: str = _choice("xcit-cifar10", "name of the model")
    image_size: int = _choice(32, "pixels a side of the input")
    patch_size: int = _choice(4, "pixels a side of a patch")
    dim: int = _choice(128, "channels of a token")
    depth: int = _choice(8, "layers over the patches")
    cls_depth: int = _choice(1, "layers that update the class token")
    heads: int = _choice(4, "attention heads")
    dim_head: int = _choice(32, "channels of a head")
    mlp_dim: int = _choice(256, "hidden width of a feed-forward")
    local_patch_kernel_size: int = _choice(3, "kernel of the local patch interaction")
    dropout: float = _choice(0.0, "dropout inside the layers")
    emb_dropout: float = _choice(0.0, "dropout of the embedded patches")
    layer_dropout: float = _choice(0.0, "chance of skipping a layer")
    input_scale: float = _choice(
        0.003, "deviation of the input: at this size flat patches stay flat in the first LayerNorm"
    )
    epochs: int = _choice(26, "passes over the training images")
    decay_epochs: int = _choice(13, "last epochs, over which the rates fall to zero")
    batch_size: int = _choice(128, "images a step, over all processes")
    muon_lr: float = _choice(3e-3, "rate of the hidden matrices")
    adamw_lr: float = _choice(3e-3, "rate of everything else")
    weight_decay: float = _choice(0.05, "decoupled weight decay of matrices and kernels")
    start: str = _choice("", "checkpoint whose weights to begin with; none: random ones")
    cutmix: float = _choice(0.5, "chance of an image to get a piece of another one")
    label_smoothing: float = _choice(0.1, "probability spread over the wrong classes")
    average: float = _choice(0.998, "decay a step of the averaged weights that are kept")
    seed: int = _choice(0, "of initialisation, order and augmentation")

    @property
    def architecture(self) -> dict[str, Any]:
        """Keyword arguments of `XCiT` but for ``num_classes``."""
        names = (
            "image_size patch_size dim depth cls_depth heads dim_head mlp_dim "
            "local_patch_kernel_size dropout emb_dropout layer_dropout"
        )
        return {name: getattr(self, name) for name in names.split()}

    @property
    def decay_start(self) -> int:
        """The first epoch whose rates fall; until it, ``epochs`` makes no difference."""
        return max(1, self.epochs - self.decay_epochs)

    def rate(self, epoch: float) -> float:
        """The factor on both rates at a point of training: half an epoch up, constant, down."""
        rising = min(1.0, 2 * epoch + 0.01)
        falling = (self.epochs - epoch) / (self.epochs - self.decay_start or 1)
        return min(rising, falling)
