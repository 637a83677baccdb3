"""Compiled layers of a run: torch.compile fuses the many small operations of a step."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch

from worldsim.model.dit import Block
from worldsim.system.files import one_line

from .run_folder import RunProgress

if TYPE_CHECKING:
    from .run import Run

# Layers with and without attention over time, each for a batch, for four sizes of a batch that the
# world predicts itself, and for a check before saving.
NUM_SHAPES = 16


def compile_layers(run: Run, progress: RunProgress) -> str | None:
    """Compile the layers of the world in training, for the shapes of the step that comes next.

    Args:
        run: The run; if compiling fails, its layers stay as they are.
        progress: Its progress.

    Returns:
        Why it failed, in a sentence; None if it did not.
    """
    dynamo = torch._dynamo.config
    dynamo.recompile_limit = max(dynamo.recompile_limit, NUM_SHAPES)
    blocks = [block for block in run.world.dit.blocks if isinstance(block, Block)]
    buffers = [(buffer, buffer.clone()) for buffer in run.world.buffers()]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # internal warnings of torch
            for block in blocks:  # not what surrounds the pass, such as the gathering of shards
                compiled = torch.compile(block.forward, dynamic=False)
                block.forward = compiled  # type: ignore[method-assign]
            run.losses_at(progress).total().backward()
    except Exception as error:
        for block in blocks:
            block.__dict__.pop("forward", None)
        return f"compiling failed, steps are slower: {one_line(error)}"
    finally:
        run.world.zero_grad(set_to_none=True)
        for buffer, values in buffers:
            buffer.copy_(values)
    return None
