"""Muon (Jordan et al. 2024): orthogonalised momentum for matrices.

``torch.optim.Muon`` works matrix by matrix and always in bfloat16. On a CPU without native bfloat16
that took more than half of a training step of the tiny size. This one uses the device's fast
precision, and one product for all matrices of a shape.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from einops import rearrange
from torch.distributed.tensor import DTensor

from .shards import local

MOMENTUM = 0.95
ITERATIONS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of Jordan et al.: steep at 0, within 0.5 to 1.5 after 5


class Muon(torch.optim.Optimizer):
    """Orthogonalised Nesterov momentum, scaled to the size of AdamW's steps (Liu et al. 2025).

    Args:
        params: Matrices (out in), and kernels of convolutions (out in ...), as the matrices
            (out in...) that they are.
        lr: Learning rate, as for AdamW.
        weight_decay: Decoupled weight decay.
        dtype: Precision of the orthogonalisation.
        processes: Processes that share the orthogonalisation, whose gradients are equal or shards
            of one; None for one process.

    Raises:
        ValueError: If a parameter is neither.
    """

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter],
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        dtype: torch.dtype = torch.float32,
        processes: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        self.dtype = dtype
        self.processes = processes
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.ndim < 2:
                    raise ValueError(
                        "Muon needs matrices or kernels of convolutions, got the shape "
                        f"{tuple(parameter.shape)}"
                    )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Take a step; parameters without a gradient do not change."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            alike = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike[parameter.shape].append(parameter)
            for (rows, *others), parameters in alike.items():
                momenta = torch.stack(self._momenta(parameters)).to(self.dtype)
                sharded = isinstance(parameters[0], DTensor)
                whole_rows = rows if sharded else None
                updates = orthogonalize_shared(momenta.flatten(2), self.processes, whole_rows)
                updates = updates.reshape(momenta.shape)
                scale = -group["lr"] * 0.2 * math.sqrt(max(rows, math.prod(others)))
                weights = local(parameters)
                torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(weights, list(updates.to(weights[0].dtype)), alpha=scale)
        return loss

    def _momenta(self, parameters: list[torch.nn.Parameter]) -> list[torch.Tensor]:
        """Nesterov momentum: mixtures of the gradients and their running means."""
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        gradients = local(p.grad for p in parameters if p.grad is not None)
        means = local(self.state[parameter]["momentum_buffer"] for parameter in parameters)
        torch._foreach_lerp_(means, gradients, 1 - MOMENTUM)
        return list(torch._foreach_lerp(gradients, means, MOMENTUM))


def orthogonalize_shared(
    matrices: torch.Tensor, processes: dist.ProcessGroup | None, rows: int | None = None
) -> torch.Tensor:
    """Orthogonalise matrices; each process takes some whole ones and gives back the results.

    Args:
        matrices: All of them, the same in each process (n rows columns), or the rows of this
            process, as FSDP divides them (n rows_here columns).
        processes: The processes; None for one.
        rows: Rows of a whole matrix, if each process has some of them.

    Returns:
        As ``matrices``: whole ones, or the rows of this process.
    """
    size = 1 if processes is None else dist.get_world_size(processes)
    count, rows_here, _ = matrices.shape
    if size == 1:
        return orthogonalize(matrices)
    each = -(-count // size)  # matrices of a process
    spread = F.pad(matrices, (0, 0, 0, 0, 0, size * each - count))
    if rows is None:
        first = dist.get_rank(processes) * each
        done = orthogonalize(spread[first : first + each])
        everyone = torch.empty_like(spread)
        dist.all_gather_single(everyone, done, group=processes)
        return everyone[:count]
    most = -(-rows // size)  # rows of a process; the last ones have fewer or none
    spread = F.pad(spread, (0, 0, 0, most - rows_here)).contiguous()
    received = torch.empty_like(spread)
    dist.all_to_all_single(received, spread, group=processes)
    whole = rearrange(received, "(size each) most c -> each (size most) c", size=size)
    done = F.pad(orthogonalize(whole[:, :rows]), (0, 0, 0, size * most - rows))
    spread = rearrange(done, "each (size most) c -> (size each) most c", size=size).contiguous()
    dist.all_to_all_single(received, spread, group=processes)
    return received[:count, :rows_here]


def orthogonalize(matrices: torch.Tensor) -> torch.Tensor:
    """Bring the singular values of matrices (n rows columns) to about 1 (Newton-Schulz)."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
