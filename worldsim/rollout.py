"""Rollout: lanes inside a world, one frame per step, all in one batch.

Each frame takes ``num_passes`` denoising passes. The last one leaves keys and values in the cache,
and its features give reward and termination. The cache has a fixed size, and a rollout no end.

A step changes the tensors of the lanes in place, and nothing in it waits for the device. On a CPU
it is called. On a CUDA device it is captured in a CUDA graph for each number of passes, since a
small world's step takes longer to launch than to compute.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from worldsim.model.codec import LATENT_BOUND
from worldsim.model.conditions import Conditions
from worldsim.model.dit import DiTOutput
from worldsim.model.random import draw_of_frame, keys, normal_table
from worldsim.model.sampling import euler, pass_levels
from worldsim.model.text import Caption, Text
from worldsim.rollout_context import Context, blank_pass, prompts_of, read_context
from worldsim.rollout_input import (
    check_actions,
    check_context,
    check_guidance,
    check_prompts,
    check_room,
)
from worldsim.rollout_output import Outcome, RolloutStep, decode_newest
from worldsim.rollout_state import RolloutState, check_fits, fingerprint
from worldsim.rollout_text import LaneText
from worldsim.system.compiled import captured, compiled
from worldsim.system.devices import to_device, to_host
from worldsim.system.options import Count, check_value
from worldsim.system.threads import forget_lost_threads, on_threads_for
from worldsim.world_model import WorldModel

Prompts = Sequence[Caption] | None

# Rewards, probabilities of an end, ends (0 or 1) and uncertainties, float32 (4 b); and the frames,
# uint8 (b h w c), unless the codec would have to decode them.
_StepTensors = tuple[torch.Tensor, torch.Tensor | None]


# Methods run on as many CPU threads as their batch is worth.
_on_threads_that_pay = on_threads_for(lambda rollout: rollout._multiplications)


class Rollout:
    """Lanes inside a world, stepped as one batch.

    The same seeds and actions give bit-identical steps on one machine, with the same versions,
    device, batch size and threads. Between batch sizes, CPUs and devices a step from the same
    state differs by rounding: frames by at most 1 of 255, rewards by 1e-4. Over many steps
    rounding grows, as in any chaotic game, into another future.

    On a CPU a small batch is computed on one thread, see `worldsim.system.threads`.

    Args:
        world: The world.
        batch_size: Lanes.
        num_passes: Denoising passes per frame; None takes the world's own number. May be set
            between steps.
        compiled: Whether to compile the network (torch.compile) first, which takes about a minute.
            Frames change by rounding only. If compiling fails, a warning gives the reason and the
            rollout runs without.
        with_uncertainty: Whether to measure uncertainty: the root mean square difference between
            two first passes from opposite random numbers (noise and chance code), in latents of
            range 2. It costs one more pass per step and changes nothing else.
        guidance_scale: How closely frames follow the prompts of a world with text, see `LaneText`.
            1 is the prediction itself; any other number doubles passes and cache.

    Raises:
        ValueError: If ``batch_size`` or ``num_passes`` is not an integer from 1 on, the lanes do
            not fit into memory, or a world without text gets another guidance than 1.

    Example:
        >>> world = worldsim.load("pong")  # doctest: +SKIP
        >>> rollout = Rollout(world)  # doctest: +SKIP
        >>> rollout.begin(starts=[0], seeds=[0])  # doctest: +SKIP
        >>> rollout.step(np.array([1])).frames.shape  # doctest: +SKIP
        (1, 64, 64, 3)
    """

    def __init__(
        self,
        world: WorldModel,
        batch_size: int = 1,
        *,
        num_passes: int | None = None,
        compiled: bool = False,
        with_uncertainty: bool = False,
        guidance_scale: float = 1.0,
    ) -> None:
        check_value("batch_size", batch_size, Count)
        check_guidance(guidance_scale, world)
        forget_lost_threads()
        self.world = world
        self.batch_size = batch_size
        self.num_passes = world.num_passes if num_passes is None else num_passes
        self.with_uncertainty = with_uncertainty
        self.guidance_scale = guidance_scale
        num_caches = 1 if guidance_scale == 1 else 2
        self._latent_size = world.codec.latent_size(world.game.frame_size)
        channels = world.dit.config.channels
        check_room(world, batch_size, num_caches)
        self._cache = world.dit.new_cache(batch_size, self._latent_size)
        shape = (batch_size, channels * world.num_kept, *self._latent_size)
        self._history = torch.zeros(shape, device=world.device)
        self._seen = self._history[:, : channels * world.num_history]  # what the network reads
        # Those of the newest frame, from which the chance code of the next one is drawn.
        self._features = torch.zeros(batch_size, world.dit.config.width, device=world.device)
        self._keys = torch.zeros(batch_size, dtype=torch.int64, device=world.device)
        # Those of the next step, one for each of its frames.
        size = (batch_size, world.patch_frames) if world.patch_frames > 1 else (batch_size,)
        self._actions = torch.zeros(size, dtype=torch.int64, device=world.device)
        self._text: LaneText | None = None
        if world.text is not None:
            free = world.dit.new_cache(batch_size, self._latent_size) if num_caches > 1 else None
            self._text = LaneText(world.encode_text([None] * batch_size), free)
        prompts = () if self._text is None else self._text.tensors()
        kept = (*self._cache.tensors(), self._history, self._features, self._keys, *prompts)
        self._kept = kept  # by a lane from step to step; steps change them in place
        self._table = normal_table(world.device)
        self._pixels: torch.Tensor | None = None  # the newest frames, if they are decoded already
        self._graphs: dict[int, Callable[[], _StepTensors]] = {}  # by number of passes
        self._not_begun = set(range(batch_size))
        tokens = batch_size * math.prod(self._latent_size) / math.prod(world.dit.config.patch_sides)
        parameters = sum(parameter.numel() for parameter in world.dit.parameters())
        self._multiplications = parameters * tokens if world.device.type == "cpu" else math.inf
        self._predict = self._compile() if compiled else world.predict

    @property
    def num_passes(self) -> int:
        """Denoising passes per frame."""
        return len(self._levels)

    @num_passes.setter
    def num_passes(self, num_passes: int) -> None:
        self._levels = pass_levels(num_passes)

    @property
    def bytes_per_lane(self) -> int:
        """Bytes that a lane keeps on the device: keys and values, newest frames, features.

        What a pass computes on its way is not counted.
        """
        return sum(tensor.nbytes for tensor in self._kept) // self.batch_size

    @_on_threads_that_pay
    @torch.no_grad()
    def reset(
        self,
        frames: np.ndarray,
        actions: np.ndarray,
        seeds: Sequence[int],
        lanes: Sequence[int] | None = None,
        prompts: Prompts = None,
    ) -> None:
        """Begin lanes from recorded frames; the next step continues after the last of them.

        Args:
            frames: uint8 (b t h w c), t of at least 1; the last ``world.context_frames`` are used.
            actions: The actions between them (b t-1), ``num_actions`` if unknown.
            seeds: One for each lane: its noise and its ends.
            lanes: The lanes to begin, all by default; the others stay unchanged.
            prompts: One for each lane, in a world with text; None is no prompt.

        Raises:
            ValueError: If shapes do not fit the world or one another, actions, lanes or seeds are
                out of range, or the world cannot encode a prompt.
        """
        lanes = range(self.batch_size) if lanes is None else lanes
        check_context(self.world.game, frames, actions, seeds, lanes, self.batch_size)
        self.enter(self.read(frames, actions, prompts), range(len(frames)), seeds, lanes)

    @_on_threads_that_pay
    @torch.no_grad()
    def read(self, frames: np.ndarray, actions: np.ndarray, prompts: Prompts = None) -> Context:
        """Read windows, for `enter`; arguments are those of `reset`, mostly unchecked."""
        text = self._embed(prompts, len(frames))
        is_guided = self._text is not None and self._text.free is not None
        return read_context(self.world, frames, actions, text, is_guided)

    @torch.no_grad()
    def enter(
        self, context: Context, rows: Sequence[int], seeds: Sequence[int], lanes: Sequence[int]
    ) -> None:
        """Begin lanes after the given rows of a context; arguments as in `reset`, unchecked."""
        device = self.world.device
        row, index = (to_device(np.asarray(i), device) for i in (rows, lanes))
        self._cache.copy_lanes(context.cache, index, row)
        self._history[index] = context.history[row]
        self._features[index] = context.features[row]
        self._keys[index] = keys(to_device(np.array(seeds, np.int64), device))
        if self._text is not None and context.text is not None:
            self._text.copy_lanes(context.text, index, row)
        self._pixels = None
        self._not_begun.difference_update(lanes)

    def begin(
        self,
        starts: Sequence[int],
        seeds: Sequence[int],
        lanes: Sequence[int] | None = None,
        prompts: Prompts = None,
    ) -> None:
        """Begin lanes from the world's own start windows.

        Args:
            starts: The row of ``world.starts`` for each lane, modulo their number.
            seeds: As in `reset`.
            lanes: As in `reset`.
            prompts: As in `reset`; those of the starts themselves if not given.
        """
        own = self.world.starts[np.asarray(starts) % len(self.world.starts.frames)]
        prompts = prompts_of(own, self.world) if prompts is None else prompts
        self.reset(own.frames, own.actions, seeds, lanes, prompts)

    def _embed(self, prompts: Prompts, num_lanes: int) -> Text | None:
        """The prompts of so many lanes; None in a world without text."""
        if self._text is None and not any(prompts or ()):
            return None
        prompts = [None] * num_lanes if prompts is None else prompts
        check_prompts(prompts, num_lanes)
        return self.world.encode_text(prompts)

    def step(self, actions: np.ndarray) -> RolloutStep:
        """Take one action in each lane and decode its frame: `advance`, then `frames`."""
        outcome = self.advance(actions)
        return RolloutStep(self.frames(), *outcome)

    @property
    def latents(self) -> torch.Tensor:
        """The newest latent of each lane, (b c h w), a copy."""
        channels = self.world.dit.config.channels
        return self._history[:, channels - self.world.codec.latent_channels : channels].clone()

    @_on_threads_that_pay
    @torch.no_grad()
    def pixels(self) -> torch.Tensor:
        """The newest frame of each lane, decoded, uint8 (b h w c), a copy on the world's device."""
        return self.clip()[:, -1]

    @_on_threads_that_pay
    @torch.no_grad()
    def clip(self) -> torch.Tensor:
        """All frames of the newest step of each lane, uint8 (b patch_frames h w c), a copy."""
        if self._pixels is None:
            return decode_newest(self.world, self._history, self._cache.positions)
        return self._pixels.clone()

    def frames(self) -> np.ndarray:
        """`pixels` as an array."""
        return to_host(self.pixels())

    @_on_threads_that_pay
    @torch.no_grad()
    def advance(self, actions: np.ndarray) -> Outcome:
        """Take one action in each lane, without decoding the frames.

        Args:
            actions: Integers in [0, num_actions], (b); ``num_actions`` means unknown. Where a step
                has several frames, the action is held, or (b patch_frames) has one for each.

        Returns:
            Rewards and ends.

        Raises:
            RuntimeError: If a lane has not begun.
            ValueError: If actions have another shape or are out of range, or a prediction is not
                finite.
        """
        self._check_begun("step")
        patch_frames = self.world.patch_frames
        actions = check_actions(self.world.game, actions, self.batch_size, patch_frames)
        self._actions.copy_(torch.as_tensor(actions, dtype=torch.int64))
        outcomes, self._pixels = self._run_step()
        rewards, probs, ends, uncertainties = host = to_host(outcomes)
        if not np.isfinite(host).all():  # finite weights may give infinite products
            raise ValueError(
                "the world predicts numbers that are not finite: its weights are damaged, so save "
                "it again or use another world"
            )
        return Outcome(rewards, ends > 0, probs, uncertainties if self.with_uncertainty else None)

    def _run_step(self) -> _StepTensors:
        """Call the step, or replay its CUDA graph."""
        if self.world.device.type != "cuda":
            return self._step()
        if self.num_passes not in self._graphs:
            self._graphs[self.num_passes] = captured(self._step, self._kept)
        return self._graphs[self.num_passes]()

    @torch.no_grad()
    def _step(self) -> _StepTensors:
        """A step as a function of tensors: the actions in, the state changed, the outcomes out."""
        world, head, channels = self.world, self.world.head, self._history.shape[1]
        shape = (world.dit.config.channels, *self._latent_size)
        numbers = self._keys, self._cache.positions  # all that is random follows from them
        (ends, chances), noise = draw_of_frame(*numbers, 2, shape, self._table)
        code = other_code = None
        if world.dit.chance is not None:
            logits = world.dit.chance.prior_logits(self._features, self._actions)
            code = world.dit.chance.draw(logits, chances)
            other_code = world.dit.chance.draw(logits, 1 - chances)
        outputs: list[DiTOutput] = []

        def denoise(
            latent: torch.Tensor, level: float, code: torch.Tensor | None = code
        ) -> torch.Tensor:
            outputs.append(self._pass(latent, level, code))
            return outputs[-1].latents[:, 0]

        other = None
        if self.with_uncertainty:  # later passes replace it in the cache
            other = denoise(-noise, 0.0, other_code)
        latent = euler(denoise, noise, self._levels)
        self._cache.commit()
        if self._text is not None:
            self._text.commit()
        self._features.copy_(outputs[-1].features[:, 0])

        pixels = world.decode(latent[:, None]) if world.codec.exact else None
        if pixels is None:
            latent = latent.clamp(-LATENT_BOUND, LATENT_BOUND)
        else:  # the history equals the visible frames
            latent = world.encode(pixels, whole=True)[:, 0]
        self._history.copy_(torch.cat((latent, self._history), dim=1)[:, :channels])

        predicted = head(outputs[-1].features)
        probs = head.termination_probs(predicted)[:, 0]
        uncertainties = torch.zeros_like(probs)
        if other is not None:
            difference = outputs[1].latents[:, 0] - other
            uncertainties = difference.square().mean((1, 2, 3)).sqrt()
        rewards = head.rewards(predicted, world.reward_floor)[:, 0]
        return torch.stack((rewards, probs, (ends < probs).float(), uncertainties)), pixels

    def _pass(self, latent: torch.Tensor, level: float, code: torch.Tensor | None) -> DiTOutput:
        """One forward pass over the next frame (b c h w) of each lane."""
        tau = torch.full((len(latent), 1), level, device=latent.device)
        chance = None if code is None else code[:, None]
        conditions = Conditions(tau, self._actions[:, None], self._seen[:, None], chance)
        if self._text is None:
            return self._predict(latent[:, None], conditions, self._cache)
        scale = self.guidance_scale
        return self._text.predict(self._predict, latent[:, None], conditions, self._cache, scale)

    @_on_threads_that_pay
    @torch.no_grad()
    def _compile(self) -> Callable[..., DiTOutput]:
        """The network compiled for this batch, or the eager one if compiling fails."""
        text = None if self._text is None else self._text.text
        latents, conditions = blank_pass(self.world, self._actions, self._seen, text)
        predict = compiled(self.world.predict, latents, conditions, self._cache, stacklevel=6)
        # Another memory layout, such as that of the last pass, would be compiled anew.
        return lambda latents, *args: predict(latents.contiguous(), *args)

    @_on_threads_that_pay
    def clone_state(self) -> RolloutState:
        """Take a snapshot; after restoring it, the same actions give the same steps.

        Raises:
            RuntimeError: If a lane has not begun.
        """
        self._check_begun("clone_state")
        return self._state().clone()

    @_on_threads_that_pay
    def restore_state(self, state: RolloutState) -> None:
        """Restore a snapshot of a rollout with as many lanes of the same world.

        Worlds are the same if their weights are, in other processes too.

        Raises:
            TypeError: If it is not a `RolloutState`.
            ValueError: If its world, device or number of lanes differs; nothing changes then.
        """
        check_fits(state, self._state())
        own = self._state()
        for kept, restored in zip(own.tensors(), state.tensors(), strict=True):
            kept.copy_(restored)
        self._pixels = None
        self._not_begun.clear()

    def _state(self) -> RolloutState:
        """The current state, without a copy."""
        parts = self._cache, self._history, self._features, self._keys, self._text
        return RolloutState(fingerprint(self.world), *parts)

    def _check_begun(self, method: str) -> None:
        if self._not_begun:
            raise RuntimeError(
                f"call reset before {method}: lanes {sorted(self._not_begun)} have no start"
            )
