"""Weights on disk: safetensors, compared with the network that a config describes before reading.

A config from a stranger may ask for a network of any size. What it asks for is made without memory
first, and no larger than what is stored.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from worldsim.files import check_regular, read_json

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
    config = read_json(path)
    if not isinstance(config, dict):
        raise ValueError(f"it must hold a JSON object, got {type(config).__name__}")
    return {name: value for name, value in config.items() if not name.startswith("_")}


def build_network(make: Callable[[], Network], path: Path) -> Network:
    """Make a network and fill it with the weights in a file.

    Args:
        make: Makes the network; is called twice.
        path: A safetensors file with exactly the network's tensors.

    Raises:
        OSError: If there is no such file, or it may not be read.
        ValueError: If the network and the file do not fit, or a weight is not finite.
    """
    check_regular(path).open("rb").close()  # safetensors calls missing what may not be read
    with safe_open(path, framework="pt") as file:
        stored = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118  # it is no dict
        with torch.device("meta"), _Unfilled(), _parameters_limited(2 * len(stored)):
            wanted = {name: tuple(each.shape) for name, each in make().state_dict().items()}
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
        network = make()
        network.load_state_dict(tensors)
    return network


class _Unfilled(TorchFunctionMode):
    """Draws no first weights: there is no memory for them, and drawing imports torch's compiler."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (torch.Tensor.normal_, torch.Tensor.uniform_):
            return args[0]
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


@contextmanager
def _parameters_limited(count: int) -> Iterator[None]:
    """Stop the making of a network, in this thread, that has more parameters than this."""
    thread, made = threading.get_ident(), 0

    def counted(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal made
        made += threading.get_ident() == thread
        if made > count:
            raise ValueError("its config asks for many more tensors than it has")

    hook = register_module_parameter_registration_hook(counted)
    try:
        yield
    finally:
        hook.remove()
