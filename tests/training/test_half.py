"""Training in 16 bits on a CPU: the network's own logits and gradients, in fewer passes."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from model.families.xcit import CrossCovarianceAttention, LayerScale, XCiT
from training.attention import attend
from training.half import HalfPrecision

from .runs import RECIPE, read_metrics, train


def build_network(dropout: float = 0.0) -> XCiT:
    """A network in which every weight matters."""
    torch.manual_seed(0)
    network = XCiT(
        image_size=16,
        patch_size=4,
        num_classes=3,
        dim=32,
        depth=2,
        cls_depth=1,
        heads=2,
        dim_head=16,
        mlp_dim=48,
        dropout=dropout,
    )
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, LayerScale):
                module.scale.uniform_(0.5, 1.5)
            if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_()
    return network


def logits(model: nn.Module) -> Tensor:
    torch.manual_seed(1)
    images = torch.randn(8, 3, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        out: Tensor = model(images)
    return out.float()


@pytest.mark.parametrize(("heads", "dim_head"), [(1, 8), (4, 8), (3, 16)])
def test_attention_has_the_outputs_and_gradients_of_the_network(heads: int, dim_head: int) -> None:
    torch.manual_seed(0)
    module = CrossCovarianceAttention(24, heads, dim_head, dropout=0.0)
    with torch.no_grad():
        module.temperature.uniform_(-1, 2)
    results = []
    for forward in (module, lambda tokens: attend(module, tokens)):
        torch.manual_seed(1)
        tokens = torch.randn(5, 7, 24, requires_grad=True)
        out = forward(tokens)
        inputs = (tokens, *module.parameters())
        results.append((out, *torch.autograd.grad((out * torch.randn_like(out)).sum(), inputs)))
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_constant_channel_has_finite_gradients() -> None:
    module = CrossCovarianceAttention(8, 1, 4, dropout=0.0)
    with torch.no_grad():
        module.to_qkv.weight.zero_()
    total = attend(module, torch.randn(2, 3, 8)).sum()
    total.backward()  # type: ignore[no-untyped-call]
    assert all(
        weight.grad is not None and bool(weight.grad.isfinite().all())
        for weight in module.parameters()
        if weight.requires_grad
    )


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_16_bit_logits_are_those_of_the_network(dropout: float) -> None:
    network = build_network(dropout)
    expected, found = logits(network), logits(HalfPrecision(network))
    assert (found - expected).abs().max() < 0.05 * expected.std()


def test_16_bit_gradients_are_those_of_the_network() -> None:
    network = build_network()
    gradients = []
    for model in (network, HalfPrecision(network)):
        network.zero_grad()
        loss = (logits(model) * torch.tensor([1.0, -2.0, 0.5])).square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        gradients.append({name: weight.grad for name, weight in network.named_parameters()})
    for name, expected in gradients[0].items():
        if name.endswith("1.fn.net.2.bias"):
            continue  # the batch norm after this convolution removes any shift
        found = gradients[1][name]
        assert expected is not None, name
        assert found is not None, name
        assert found.dtype == torch.float32
        assert (found - expected).norm() < 0.1 * expected.norm(), name


def test_16_bit_steps_update_the_running_statistics() -> None:
    networks = build_network(), build_network()
    logits(networks[0])
    logits(HalfPrecision(networks[1]))
    before = dict(build_network().named_buffers())
    for (name, expected), found in zip(
        networks[0].named_buffers(), networks[1].buffers(), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)
        assert not torch.equal(found, before[name])


@pytest.mark.parametrize("fast", [True, False])
def test_runs_use_16_bits_where_the_processor_has_them(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": fast})
    trainer = train(folder, tmp_path / "run", RECIPE)
    assert any(isinstance(part, HalfPrecision) for part in trainer.step.model.modules()) == fast
    assert all(weight.dtype == torch.float32 for weight in trainer.network.parameters())
    first, *_, last = (float(row["train_loss"]) for row in read_metrics(tmp_path / "run"))
    assert last < first
