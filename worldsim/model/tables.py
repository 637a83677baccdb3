"""Tables: tensors that depend on sizes alone, computed once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec

import torch
from torch._subclasses.fake_tensor import unset_fake_temporarily

P = ParamSpec("P")


def keep(build: Callable[P, torch.Tensor]) -> Callable[Concatenate[torch.device, P], torch.Tensor]:
    """Compute a tensor once for equal arguments, on the CPU, and keep it on each device that asks.

    It is never freed, since CUDA graphs read it. Not a cache of functools, through which
    torch.compile looks: it would compute the tensor in each step.

    Example:
        >>> squares = keep(lambda n: torch.arange(n) ** 2)
        >>> squares(torch.device("cpu"), 4) is squares(torch.device("cpu"), 4)
        True
    """
    kept: dict[object, torch.Tensor] = {}

    @functools.wraps(build)
    def get(device: torch.device, *args: P.args, **kwargs: P.kwargs) -> torch.Tensor:
        key = (device, args)
        if key not in kept and torch.compiler.is_compiling():  # which traces no inference mode
            return build(*args, **kwargs).to(device)
        if key not in kept:
            # Training may use it later, and real tensors after fake ones.
            with torch.inference_mode(mode=False), unset_fake_temporarily():
                kept[key] = build(*args, **kwargs).to(device)
        return kept[key]

    return get
