"""How a training step is computed on a device.

Nothing here needs torch, so that `worldsim train --help` answers at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from worldsim.system.options import Count

Parallel = Literal["auto", "ddp", "fsdp", "hsdp"]


@dataclass(frozen=True)
class Engine:
    """Speed and memory of a training step."""

    compile: Literal["auto", "on", "off"] = "auto"
    """Compile the layers (torch.compile): faster steps, after a minute in which they are compiled.
    auto: on an NVIDIA GPU."""
    accumulate: Count | None = None
    """Parts of a step, computed in turn (gradient accumulation) or by several processes:
    activations take so many times less memory. A divisor of --optim.batch-size; if not given, one
    for each process."""
    parallel: Parallel = "auto"
    """What each of several processes (torchrun) keeps of the weights: all (ddp), a shard (fsdp), or
    a shard of its machine's copy (hsdp). auto: all, if that is a quarter of its memory at most."""
    activation_checkpointing: bool = False
    """Compute the activations of each layer again in the backward pass: a step takes up to a third
    longer, in about half of the memory."""

    def compiles_on(self, device_type: str) -> bool:
        """Whether layers are compiled on a device of this type, such as ``"cuda"``."""
        return {"auto": device_type == "cuda", "on": True, "off": False}[self.compile]
