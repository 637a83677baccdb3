"""Muon: orthogonal steps, those that torch's own takes."""

from __future__ import annotations

import copy

import pytest
import torch

from worldsim.train.muon import Muon, orthogonalize

pytestmark = pytest.mark.numeric


def test_orthogonal_matrices_keep_directions_and_lose_sizes() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((3, 16, 16), (2, 8, 24), (2, 24, 8)):
        matrices = torch.randn(shape, generator=generator)
        left, _, right = torch.linalg.svd(matrices, full_matrices=False)
        core = left.mT @ orthogonalize(matrices) @ right.mT
        sizes = core.diagonal(dim1=-2, dim2=-1)
        assert ((sizes > 0.3) & (sizes < 1.5)).all()
        torch.testing.assert_close(core, torch.diag_embed(sizes), atol=1e-4, rtol=0)
    assert not orthogonalize(torch.zeros(1, 4, 4)).any()


def test_takes_the_steps_of_torch() -> None:
    generator = torch.Generator().manual_seed(1)
    shapes = [(32, 16), (16, 32), (32, 16), (16, 16)]
    ours = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    theirs = copy.deepcopy(ours)
    begun = copy.deepcopy(ours)
    optimizers = (
        Muon(ours, lr=0.02, weight_decay=0.1),
        torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    )
    for step in range(5):
        for ours_, theirs_ in zip(ours, theirs, strict=True):
            gradient = torch.randn(ours_.shape, generator=generator)
            # A parameter that had no part in a loss stays as it is.
            ours_.grad, theirs_.grad = (None, None) if step == 2 else (gradient, gradient.clone())
        for optimizer in optimizers:
            optimizer.step()
    for our, their, before in zip(ours, theirs, begun, strict=True):
        moved = (our - before).norm()
        assert moved > 0.1
        assert (our - their).norm() < 0.02 * moved  # torch's are rounded to bfloat16


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_kernel_takes_the_steps_of_its_matrix(layout: torch.memory_format) -> None:
    generator = torch.Generator().manual_seed(2)
    numbers = torch.randn(8, 4, 3, 3, generator=generator)
    kernel = torch.nn.Parameter(numbers.clone(memory_format=layout))
    matrix = torch.nn.Parameter(numbers.flatten(1).clone())
    optimizers = (Muon([kernel], lr=0.02), Muon([matrix], lr=0.02))
    for _ in range(3):
        gradient = torch.randn(numbers.shape, generator=generator)
        kernel.grad, matrix.grad = gradient.to(memory_format=layout), gradient.flatten(1)
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(kernel.detach().flatten(1), matrix.detach())
    assert (kernel - numbers).norm() > 0.1


def test_only_matrices() -> None:
    with pytest.raises(ValueError, match=r"kernels of convolutions, got the shape \(3,\)"):
        Muon([torch.nn.Parameter(torch.ones(3))])
