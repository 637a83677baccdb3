"""Functions of tensors made faster: by torch.compile, and by CUDA graphs.

On a GPU a small network takes longer to launch, kernel by kernel, than to compute. A CUDA graph
launches them in one call. torch.compile fuses them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from worldsim.system.files import one_line

T = TypeVar("T")


def compiled(function: Callable[..., T], *args: object, stacklevel: int = 2) -> Callable[..., T]:
    """Compile a function and call it, or warn and return it as it is if that fails.

    Args:
        function: A function of tensors.
        args: Those of the call; later calls have tensors of the same shapes.
        stacklevel: That of the warning, see `warnings.warn`.
    """
    function(*args)  # keeps the tables that it reads, so that they are not compiled
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # internal warnings of torch
            faster: Callable[..., T] = torch.compile(function, dynamic=False)
            faster(*args)
    except Exception as error:
        words = f"compiling failed, steps are slower: {one_line(error)}"
        warnings.warn(words, stacklevel=stacklevel)
        return function
    return faster


def captured(function: Callable[[], T], state: Sequence[torch.Tensor]) -> Callable[[], T]:
    """Capture a function of no arguments in a CUDA graph, or warn and return it if that fails.

    The function reads and writes tensors that stay where they are. It must not wait for the
    device, and its shapes must not depend on data.

    Args:
        function: It is called twice, once to load its kernels and once to capture them.
        state: The tensors that it changes, on one CUDA device; they keep their values here.

    Returns:
        A function that does the same. Its outputs are the same tensors in every call.
    """
    device = state[0].device
    kept = [tensor.clone() for tensor in state]
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        function()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            outputs = function()
    except RuntimeError as error:
        words = f"no CUDA graph could be captured, steps are slower: {one_line(error)}"
        warnings.warn(words, stacklevel=2)
        return function
    finally:
        for tensor, values in zip(state, kept, strict=True):
            tensor.copy_(values)

    def replay() -> T:
        graph.replay()
        return outputs

    return replay
