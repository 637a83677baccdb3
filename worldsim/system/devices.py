"""Where tensors live: which device serves, and whether it has memory enough.

Torch is imported only when it is needed, so that recordings can be read without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldsim.system.files import one_line

if TYPE_CHECKING:
    import torch

ALWAYS_FREE = 2**26  # bytes: with less than that nothing here runs at all


def pick_device(name: str | torch.device | None = None) -> torch.device:
    """A device that works here, by default a GPU if there is one.

    Args:
        name: As torch names it: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.

    Raises:
        ValueError: In one sentence, if there is no such device here.

    Example:
        >>> pick_device("cpu")
        device(type='cpu')
    """
    import torch

    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.zeros((), device=name)
        device.item()  # a device without memory (meta) makes tensors too, but none can be read
        return device.device
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        raise ValueError(
            f"the device {str(name)!r} cannot be used here: {one_line(error)}"
        ) from error


def free_memory(device: str | torch.device = "cpu") -> int:
    """Bytes that can still be had: of the machine, or of a GPU."""
    if str(device).startswith("cuda"):
        import torch

        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    import psutil

    return int(psutil.virtual_memory().available)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is how NumPy or torch says that there is too little memory."""
    words = str(error).lower()
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"  # torch's, which is not imported here
        or (isinstance(error, RuntimeError) and "memory" in words and "alloc" in words)
        or "not enough memory" in words
    )


def check_memory(
    num_bytes: float, what: str, remedy: str, device: str | torch.device = "cpu"
) -> None:
    """Refuse what cannot fit, before anything of it is allocated.

    Args:
        num_bytes: What it takes, at the least.
        what: What takes it.
        remedy: What to do about it.
        device: Where it is to be.

    Raises:
        ValueError: In one sentence, if less is free.
    """
    if num_bytes < ALWAYS_FREE:  # not worth the asking, which takes a tenth of a millisecond
        return
    free = free_memory(device)
    if num_bytes > free:
        where = "the GPU" if str(device).startswith("cuda") else "this machine"
        raise ValueError(
            f"too little memory: {what} takes at least {num_bytes / 2**30:,.1f} GiB, and {where} "
            f"has {free / 2**30:,.1f} GiB free: {remedy}"
        )
