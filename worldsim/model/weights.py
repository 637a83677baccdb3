"""Weights in safetensors, checked against the network of a config before they are read.

A stranger's config may describe a network of any size. One that is much larger than the stored
weights is not allocated.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from torch import nn
from torch.overrides import TorchFunctionMode

from worldsim.system.files import check_regular, read_object

Network = TypeVar("Network", bound=nn.Module)

CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"  # the name in diffusers
REMEDY = "save the world again or use another"


def read_network_config(path: Path) -> dict[str, Any]:
    """The arguments of a network, without the entries that diffusers adds.

    Raises:
        OSError: If the file does not exist or may not be read.
        ValueError: If it is not a JSON object.
    """
    config = read_object(path)
    return {name: value for name, value in config.items() if not name.startswith("_")}


def build_network(
    make: Callable[[], Network], path: Path, old_names: Mapping[str, str] = MappingProxyType({})
) -> Network:
    """Make a network and fill it with the weights in a file.

    Args:
        make: Makes the network.
        path: A safetensors file with exactly the network's tensors.
        old_names: Names of layers in older files, with their names in the network.

    Raises:
        OSError: If the file does not exist or may not be read.
        ValueError: If the network and the file do not fit, or a weight is not finite.
    """
    check_regular(path).open("rb").close()  # safetensors reports an unreadable file as missing
    with safe_open(path, framework="pt") as file:
        names = file.keys()
        stored = {name: tuple(file.get_slice(name).get_shape()) for name in names}
        with _Limited(stored.values()):
            network = make()
        expected = {name: tuple(each.shape) for name, each in network.state_dict().items()}
        new = {name: name if name in expected else _renamed(name, old_names) for name in names}
        stored = {new[name]: shape for name, shape in stored.items()}
        for name in sorted(stored.keys() | expected.keys()):
            if stored.get(name) != expected.get(name):
                raise ValueError(
                    f"its {name} has shape {stored.get(name, 'none')}, but its config gives "
                    f"{expected.get(name, 'none')}"
                )
        tensors = {new[name]: file.get_tensor(name) for name in names}
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not tensor.isfinite().all():
            raise ValueError(f"its {name} must hold finite floating-point numbers")
    network.load_state_dict(tensors)
    return network


def digest(about: str, tensors: Mapping[str, torch.Tensor]) -> str:
    """A digest of a text and of named tensors, such as ``"sha256:0f34…"``."""
    found = hashlib.sha256(about.encode("utf-8", "surrogatepass"))
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return f"sha256:{found.hexdigest()}"


def _renamed(name: str, old_names: Mapping[str, str]) -> str:
    """The present name of a tensor, of which only the layer's own part may be old."""
    *path, tensor = name.split(".")
    if path:
        path[-1] = old_names.get(path[-1], path[-1])
    return ".".join([*path, tensor])


class _Limited(TorchFunctionMode):
    """A mode that limits new tensors to about twice the number and the size of some shapes."""

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
                raise ValueError("its config describes many more weights than are stored")
        return func(*args, **(kwargs or {}))
