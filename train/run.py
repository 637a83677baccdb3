"""A run: its settings, data, models and optimizers, and how it takes a step."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from einops import rearrange

from worldsim.data.mixture import Group, Mixture
from worldsim.world_model import WorldModel

from .checkpoint import CheckpointWriter, check_finite
from .config import TrainConfig
from .data import Data, draw_groups
from .distributed import distribute, part_of_step, release_weights, sharing_group
from .draws import draw_all
from .latents import cache_latents, make_codec
from .objective import Losses, encode, pinned
from .optimizers import (
    block_matrices,
    has_fast_bfloat16,
    make_optimizers,
    set_lr,
    update_ema,
    warm_decay,
)
from .presets import begin_from, build_world, complete
from .processes import Processes
from .read_ahead import ReadAhead
from .run_folder import RunProgress
from .shards import gather_weights, is_sharded, whole
from .words import make_text_encoder

READ_AHEAD = {"cuda": 2}  # steps; on a CPU reading is a five-hundredth of a step
CODE_SHARE_STEPS = 50  # between two looks at how many batches need chance codes
DRAWS_KEY = 1  # keeps the draws of a step apart from those of its windows

Mark = Callable[[str], None]
"""Is called at the end of each phase of a step, with its name."""


def no_mark(phase: str) -> None:
    """Do nothing at the end of a phase, so that a device works without a pause."""


@dataclasses.dataclass(frozen=True)
class Run:
    """The settings, data, models and optimizers of a run.

    Attributes:
        config: The settings.
        data: The data.
        world: The weights in training.
        ema_world: Their average, which becomes the world.
        optimizers: All optimizers, in a fixed order.
        mixture: What the clips of a step are drawn from.
        groups: The clips of each round of this process, read ahead.
        processes: The processes of the run.
        step: The objective of the world in training, on these processes.
        writer: Writes checkpoints.
    """

    config: TrainConfig
    data: Data
    world: WorldModel
    ema_world: WorldModel
    optimizers: list[torch.optim.Optimizer]
    mixture: Mixture
    groups: ReadAhead[list[Group]]
    processes: Processes
    step: torch.nn.Module
    writer: CheckpointWriter

    @classmethod
    def of(
        cls, config: TrainConfig, checkpoint: Path | None, processes: Processes | None = None
    ) -> Run:
        """Build a run: its data, a fresh model and its optimizers.

        Args:
            config: The settings.
            checkpoint: From which it will go on; None for a new run.
            processes: Its processes; this one alone if not given.

        Raises:
            ValueError: If the settings contradict the checkpoint or the recording is unusable.
        """
        processes = processes or Processes(config.device)
        data = Data.of(config, checkpoint, processes)
        codec = make_codec(config, data, checkpoint, processes)
        size = data.game.frame_size
        config = processes.first(partial(complete, config, size, processes.size, codec))
        torch.manual_seed(config.seed)
        text = make_text_encoder(config, data.recordings, checkpoint, processes)
        world = build_world(config, data, processes, text, codec)
        if config.init is not None and checkpoint is None:
            begin_from(world, config.init)
        ema_world = copy.deepcopy(world).requires_grad_(False).eval()
        to_save = copy.deepcopy(ema_world) if processes.is_first else None
        step = distribute(world, ema_world, config.engine.parallel, processes)
        optimizers = make_optimizers(
            world, block_matrices(world), config.optim.weight_decay, sharing_group(step)
        )
        data = cache_latents(data, world.codec, processes)
        device, parts = world.device.type, config.engine.accumulate or 1
        part_size = (config.optim.batch_size or parts) // parts
        rounds = -(-parts // processes.size)
        mixture = data.mixture(config, world.num_history, world.patch_frames)

        def groups_at(number: int) -> list[Group]:
            step, round_ = divmod(number, rounds)
            part, _ = processes.part(round_, parts)
            groups = draw_groups(mixture, config.seed, step, part, part_size)
            if device == "cuda":
                return [dataclasses.replace(one, windows=pinned(one.windows)) for one in groups]
            return groups

        groups = ReadAhead(groups_at, READ_AHEAD.get(device, 0))
        writer = CheckpointWriter(config.out, world, ema_world, optimizers, to_save, processes)
        return cls(
            config, data, world, ema_world, optimizers, mixture, groups, processes, step, writer
        )

    @property
    def parts(self) -> int:
        """Parts of a step."""
        return self.config.engine.accumulate or 1

    @property
    def rounds(self) -> int:
        """Parts of a step that each process computes in turn."""
        return -(-self.parts // self.processes.size)

    def losses_at(self, progress: RunProgress, round_: int = 0, mark: Mark = no_mark) -> Losses:
        """The losses of a part of a step: seed and numbers determine all that is random.

        Args:
            progress: The progress before the step.
            round_: Number of the round in which this process computes the part.
            mark: As for `take_step`.
        """
        world, recipe = self.world, self.config.recipe.at(self.config.fraction(progress))
        groups = self.groups.at(progress.step * self.rounds + round_)
        batches = [encode(world, one.windows, self.data.backgrounds_of(one)) for one in groups]
        part, _ = self.processes.part(round_, self.parts)
        key = (self.config.seed, progress.step, DRAWS_KEY)
        latents = [batch.latents for batch in batches]
        draws = draw_all(world, latents, recipe, key, part, progress.code_share)
        mark("data")
        bfloat16 = has_fast_bfloat16(world.device)
        with torch.autocast(world.device.type, torch.bfloat16, enabled=bfloat16):
            losses: Losses = self.step(batches, recipe, draws, self.ema_world)
        return losses

    def take_step(self, progress: RunProgress, mark: Mark = no_mark) -> tuple[Losses, torch.Tensor]:
        """Train by one step, in which the host never waits for the device of one process.

        Args:
            progress: The progress before it.
            mark: Called at the end of each phase with its name: data, forward, backward, optimizer.

        Returns:
            The losses of each target of all parts, and the loss with the norm of its gradient (2).
        """
        step, optim, parts = progress.step, self.config.optim, self.parts
        set_lr(self.optimizers, optim.lr_at(step, self.config.fraction(progress)))
        done: list[torch.Tensor] = []
        # Each part begins with the same running statistics, of which the mean is kept.
        chance = self.world.dit.chance
        statistics = [torch.zeros((), device=self.world.device)]
        statistics += [] if chance is None else list(chance.buffers())
        begun, means = ([each * factor for each in statistics] for factor in (1, 0))
        for round_ in range(self.rounds):
            _, counts = self.processes.part(round_, parts)
            torch._foreach_copy_(statistics, begun)
            with part_of_step(self.step, round_ == self.rounds - 1):
                losses = self.losses_at(progress, round_, mark)
                total = losses.total() * counts / parts
                mark("forward")
                (total * self.processes.size).backward()  # the gradient becomes a mean
            mark("backward")
            statistics[0].copy_(total.detach() * parts)
            torch._foreach_add_(means, statistics, alpha=counts / parts)
            done.append(torch.stack([each.detach().float() for each in losses]))
        self.processes.sum_(means)
        torch._foreach_copy_(statistics, means)
        norm = torch.nn.utils.clip_grad_norm_(self.world.parameters(), optim.max_grad_norm)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        update_ema(self.ema_world, self.world, warm_decay(optim.ema_decay, step))
        mark("optimizer")
        everyone = self.processes.gather(torch.stack(done))
        fields = rearrange(everyone, "size round field b t -> field (round size) b t")[:, :parts]
        # Of a mixture, a step may have one group or several: all targets are one row.
        rows = "(part b) t" if len(self.data.recordings) == 1 else "1 (part b t)"
        losses = Losses(*rearrange(fields, f"field part b t -> field {rows}"))
        return losses, torch.stack((statistics[0], whole(norm)))

    def waste(self, progress: RunProgress) -> float:
        """The share of the tokens of a step that holds no recorded pixel."""
        groups, cell = self.groups.at(progress.step * self.rounds), self.world.codec.space_factor
        height, width = self.world.dit.config.patch_sides
        return self.mixture.waste(groups, (height * cell, width * cell))

    def advance(self, progress: RunProgress) -> RunProgress:
        """The progress after one more step; now and then it looks how many batches need codes."""
        progress = progress._replace(step=progress.step + 1)
        chance = self.world.dit.chance
        if chance is None or progress.step % CODE_SHARE_STEPS:
            return progress
        return progress._replace(code_share=chance.needed())

    def save(self, progress: RunProgress, unlogged: list[Losses], older: Path | None) -> None:
        """Begin to write a checkpoint if the loss is finite, since it replaces a good one.

        Raises:
            FloatingPointError: If the loss is not finite; the older checkpoint is kept.
            OSError: If the checkpoint before could not be written.
        """
        with torch.no_grad():
            total = self.losses_at(progress).total()
        release_weights(self.step)
        self.processes.sum_([total])
        check_finite(total.item(), progress.step, older)
        self.writer.begin(progress, self.config.settings(), unlogged)

    def average_world(self) -> WorldModel:
        """The world of averaged weights, which is not sharded in the first process."""
        if not is_sharded(self.ema_world):
            return self.ema_world
        world = copy.deepcopy(self.writer.whole)
        if world is not None:
            world.to(self.world.device)
        gather_weights(self.ema_world, world)
        return world or self.ema_world
