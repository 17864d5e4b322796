"""Muon: matrices orthogonalised together get the same steps as separately."""

import pytest
import torch
from torch import Tensor

from training.muon import Muon, orthogonalise


def reference(matrix: Tensor) -> Tensor:
    """Newton-Schulz iteration on one matrix ``(rows, columns)``."""
    wide = matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix
    x: Tensor = wide / wide.norm()
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if matrix.shape[0] > matrix.shape[1] else x


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (16, 16)])
def test_each_matrix_of_a_stack_is_orthogonalised(shape: tuple[int, int]) -> None:
    matrices = torch.randn(5, *shape, generator=torch.Generator().manual_seed(0))
    matrices *= torch.tensor([1e-4, 0.1, 1.0, 10.0, 1e4])[:, None, None]
    together = orthogonalise(matrices)
    for one, each in zip(together, matrices, strict=True):
        assert torch.allclose(one, reference(each), atol=1e-4)


def test_matrix_without_a_gradient_does_not_change_other_steps() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(8, 4), (4, 8), (8, 4), (6, 6), (8, 4)]
    start = [torch.randn(shape, generator=generator) for shape in shapes]
    gradients = [[torch.randn(shape, generator=generator) for shape in shapes] for _ in range(4)]
    together = [weight.clone().requires_grad_() for weight in start]
    alone = [weight.clone().requires_grad_() for weight in start]
    one = Muon(together, 0.1, weight_decay=0.1)
    each = [Muon([weight], 0.1, weight_decay=0.1) for weight in alone]
    for number, step in enumerate(gradients):
        for place, gradient in enumerate(step):
            skipped = number == 1 and place == 2
            together[place].grad = alone[place].grad = None if skipped else gradient
        one.step()
        for optimizer in each:
            optimizer.step()
    for a, b, begun in zip(together, alone, start, strict=True):
        assert torch.allclose(a, b, atol=1e-5)
        assert not torch.equal(a, begun)


def test_16_bit_steps_are_close_to_32_bit_steps() -> None:
    generator = torch.Generator().manual_seed(0)
    start, gradient = torch.randn(2, 24, 40, generator=generator)
    steps = []
    for dtype in (torch.float32, torch.bfloat16):
        weight = start.clone().requires_grad_()
        weight.grad = gradient.clone()
        Muon([weight], 0.1, dtype=dtype).step()
        assert weight.dtype == torch.float32
        steps.append(weight.detach() - start)
    assert 0 < (steps[1] - steps[0]).norm() < 0.05 * steps[0].norm()


def test_learning_rate_may_be_a_tensor() -> None:
    start = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    weights = []
    for rate in (0.1, torch.tensor(0.1)):
        weight = start.clone().requires_grad_()
        weight.grad = start.clone()
        Muon([weight], rate, weight_decay=0.5).step()
        weights.append(weight)
    assert torch.allclose(weights[0], weights[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_muon_direction_is_nearly_orthogonal(dtype: torch.dtype) -> None:
    matrix = torch.randn(24, 40, generator=torch.Generator().manual_seed(0))
    for each in (matrix, matrix.mT):
        singular = torch.linalg.svdvals(orthogonalise(each[None].to(dtype)).float())
        assert singular.min() > 0.6
        assert singular.max() < 1.3
