"""Weights on disk: safetensors, compared with the network that a config describes before reading.

A config from a stranger may ask for a network of any size: none is made that is much larger than
what is stored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from torch import nn
from torch.overrides import TorchFunctionMode

from worldsim.system.files import check_regular, read_object

Network = TypeVar("Network", bound=nn.Module)

CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"  # as diffusers calls it
REMEDY = "write the world again or take another"


def read_network_config(path: Path) -> dict[str, Any]:
    """The arguments that a network was made with; what diffusers adds about itself is left out.

    Raises:
        OSError: If there is no such file, or it may not be read.
        ValueError: If it is no JSON object.
    """
    config = read_object(path)
    return {name: value for name, value in config.items() if not name.startswith("_")}


def build_network(make: Callable[[], Network], path: Path) -> Network:
    """Make a network and fill it with the weights in a file.

    Args:
        make: Makes the network.
        path: A safetensors file with exactly the network's tensors.

    Raises:
        OSError: If there is no such file, or it may not be read.
        ValueError: If the network and the file do not fit, or a weight is not finite.
    """
    check_regular(path).open("rb").close()  # safetensors calls missing what may not be read
    with safe_open(path, framework="pt") as file:
        names = file.keys()
        stored = {name: tuple(file.get_slice(name).get_shape()) for name in names}
        with _Limited(stored.values()):
            network = make()
        wanted = {name: tuple(each.shape) for name, each in network.state_dict().items()}
        for name in sorted(stored.keys() | wanted.keys()):
            if stored.get(name) != wanted.get(name):
                raise ValueError(
                    f"its config wants {name} of shape {wanted.get(name, 'none')}, and it has "
                    f"{stored.get(name, 'none')}"
                )
        tensors = {name: file.get_tensor(name) for name in stored}
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not tensor.isfinite().all():
            raise ValueError(f"its {name} must hold finite floating-point numbers")
    network.load_state_dict(tensors)
    return network


class _Limited(TorchFunctionMode):
    """Where this holds, no more tensors are made than twice those of some shapes, and some few."""

    FACTORIES = (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn)

    def __init__(self, shapes: Collection[tuple[int, ...]]) -> None:
        super().__init__()
        self.tensors = 2 * len(shapes) + 64
        self.numbers = 2 * sum(map(math.prod, shapes)) + 2**16

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func in self.FACTORIES:
            sizes = args[0] if args and isinstance(args[0], Sequence) else args
            self.tensors -= 1
            self.numbers -= math.prod(size for size in sizes if isinstance(size, int))
            if self.tensors < 0 or self.numbers < 0:
                raise ValueError("its config asks for many more weights than it has")
        return func(*args, **(kwargs or {}))
