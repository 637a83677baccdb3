"""Devices of torch: choose one, and check that it has enough memory.

torch is imported inside functions, so that recordings can be read without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldsim.system.files import one_line

if TYPE_CHECKING:
    import numpy as np
    import torch

LARGE = 10_000_000  # parameters from which a network is faster in bfloat16
ALWAYS_FREE = 2**26  # bytes: with less memory nothing here runs


def pick_device(name: str | torch.device | None = None) -> torch.device:
    """Return a device that works on this machine, by default a GPU if there is one.

    Args:
        name: torch's name: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.

    Raises:
        ValueError: If there is no such device.

    Example:
        >>> pick_device("cpu")
        device(type='cpu')
    """
    import torch

    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.zeros((), device=name)
        device.item()  # tensors of a device without memory (meta) cannot be read
        return device.device
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        raise ValueError(
            f"the device {str(name)!r} cannot be used here: {one_line(error)}"
        ) from error


def pick_dtype(name: str, device: torch.device, num_parameters: int) -> torch.dtype:
    """Return the type of a network's weights and activations.

    Args:
        name: ``"float32"``, ``"bfloat16"`` or ``"auto"``: bfloat16 on a GPU that multiplies fast in
            it, for networks from `LARGE` parameters on. Smaller ones wait for neither products nor
            memory.
        device: The device.
        num_parameters: The network's.
    """
    import torch

    fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if name == "bfloat16" or (name == "auto" and fast and num_parameters >= LARGE):
        return torch.bfloat16
    return torch.float32


def to_host(tensor: torch.Tensor) -> np.ndarray:
    """A tensor as an array, without a copy if it is on the CPU.

    From a CUDA device it is copied to page-locked memory, 30 times as fast as to other memory.
    """
    import torch

    if tensor.device.type != "cuda":
        return tensor.cpu().numpy()
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor).numpy()


def to_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """An array as a tensor, without a copy if the device is the CPU.

    To a CUDA device it is copied from page-locked memory, so that nothing waits.
    """
    import torch

    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.contiguous().pin_memory().to(device, non_blocking=True)


def free_memory(device: str | torch.device = "cpu") -> int:
    """Free bytes of the machine, or of a GPU."""
    if str(device).startswith("cuda"):
        import torch

        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    import psutil

    return int(psutil.virtual_memory().available)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of NumPy, of torch or of `check_memory` means too little memory."""
    words = str(error).lower()
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"  # torch's, which is not imported here
        or (isinstance(error, RuntimeError) and "memory" in words and "alloc" in words)
        or "not enough memory" in words
        or words.startswith("too little memory")
    )


def check_memory(
    num_bytes: float, subject: str, remedy: str, device: str | torch.device = "cpu"
) -> None:
    """Raise before allocating what cannot fit into memory.

    Args:
        num_bytes: Lower bound of the bytes needed.
        subject: What needs them, for the error.
        remedy: What to do, for the error.
        device: Where they are needed.

    Raises:
        ValueError: If less is free.
    """
    if num_bytes < ALWAYS_FREE:  # the query below takes a tenth of a millisecond
        return
    free = free_memory(device)
    if num_bytes > free:
        where = "the GPU" if str(device).startswith("cuda") else "this machine"
        raise ValueError(
            f"too little memory: {subject} takes at least {num_bytes / 2**30:,.1f} GiB, and "
            f"{where} has {free / 2**30:,.1f} GiB free: {remedy}"
        )
