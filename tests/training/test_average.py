"""The average of the weights equals PyTorch's, except for its first step."""

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from training.average import Average


def test_average_covers_parameters_and_buffers_and_copies_counters() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    average = Average(network, 0.9)
    usual = get_ema_multi_avg_fn(0.9)  # type: ignore[no-untyped-call]
    expected = AveragedModel(network, multi_avg_fn=usual, use_buffers=True)
    expected.n_averaged.fill_(1)  # otherwise the first update would copy
    for _ in range(5):
        network(torch.randn(8, 4))
        with torch.no_grad():
            for weight in network.parameters():
                weight.add_(torch.randn_like(weight))
        average.update(network)
        expected.update_parameters(network)
    found = average.network.state_dict()
    for name, tensor in expected.module.state_dict().items():
        if tensor.is_floating_point():
            assert torch.allclose(found[name], tensor), name
    assert found["1.num_batches_tracked"] == 5
    assert not average.network.training
    assert not any(weight.requires_grad for weight in average.network.parameters())
