"""Rollout: lanes inside a world, one frame per step, all in one batch.

Each frame takes ``num_passes`` denoising passes. The last pass leaves the frame's keys and values
in the cache, and its features give reward and termination. Another pass over the finished frame
brings no measurable gain. The cache has a fixed size, so a rollout has no length limit.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Concatenate, NamedTuple, ParamSpec, TypeVar

import numpy as np
import torch
from einops import repeat

from worldsim.model.conditions import Conditions
from worldsim.model.dit import DiTOutput
from worldsim.model.kv_cache import KVCache
from worldsim.model.sampling import euler, pass_levels
from worldsim.rollout_input import check_actions, check_context
from worldsim.rollout_state import RolloutState, check_fits, fingerprint
from worldsim.system.devices import check_memory
from worldsim.system.files import one_line
from worldsim.system.options import Count, check_value
from worldsim.system.threads import forget_lost_threads, threads_for
from worldsim.world_model import WorldModel

P = ParamSpec("P")
R = TypeVar("R")


def _on_threads_that_pay(
    method: Callable[Concatenate[Rollout, P], R],
) -> Callable[Concatenate[Rollout, P], R]:
    """Run a method of a rollout on as many CPU threads as its batch is worth."""

    @functools.wraps(method)
    def run(self: Rollout, *args: P.args, **kwargs: P.kwargs) -> R:
        with threads_for(self._multiplications):
            return method(self, *args, **kwargs)

    return run


class Outcome(NamedTuple):
    """The result of a step of each lane, without its frame.

    Attributes:
        rewards: Expected reward, float32 (b). Below a twentieth of the recording's smallest reward
            it is exactly 0.0, see `RecordedRewards`.
        terminations: Whether the episode ended, drawn with its probability, bool (b).
        termination_probs: That probability, float32 (b).
        uncertainties: How much the next frame depends on the noise, float32 (b), see `Rollout`;
            None unless measured.
    """

    rewards: np.ndarray
    terminations: np.ndarray
    termination_probs: np.ndarray
    uncertainties: np.ndarray | None = None


class RolloutStep(NamedTuple):
    """The result of a step of each lane: its frame, uint8 (b h w c), and its `Outcome`."""

    frames: np.ndarray
    rewards: np.ndarray
    terminations: np.ndarray
    termination_probs: np.ndarray
    uncertainties: np.ndarray | None = None


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

    Raises:
        ValueError: If ``batch_size`` or ``num_passes`` is not an integer from 1 on, or the lanes
            do not fit into memory.

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
    ) -> None:
        check_value("batch_size", batch_size, Count)
        forget_lost_threads()
        self.world = world
        self.batch_size = batch_size
        self.num_passes = world.num_passes if num_passes is None else num_passes
        self.with_uncertainty = with_uncertainty
        self._latent_size = world.codec.latent_size(world.game.frame_size)
        check_memory(
            batch_size * world.dit.new_cache(1, self._latent_size).num_bytes,
            f"the cache of {batch_size:,} lanes",
            "take fewer lanes",
            world.device,
        )
        self._cache = world.dit.new_cache(batch_size, self._latent_size)
        channels = world.codec.latent_channels * world.num_history
        self._history = torch.zeros(batch_size, channels, *self._latent_size, device=world.device)
        # Those of the newest frame, from which the chance code of the next one is drawn.
        self._features = torch.zeros(batch_size, world.dit.config.width, device=world.device)
        self._rngs = [torch.Generator() for _ in range(batch_size)]
        self._not_begun = set(range(batch_size))
        tokens = batch_size * math.prod(self._latent_size) / world.dit.config.patch_size**2
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

    @_on_threads_that_pay
    @torch.no_grad()
    def reset(
        self,
        frames: np.ndarray,
        actions: np.ndarray,
        seeds: Sequence[int],
        lanes: Sequence[int] | None = None,
    ) -> None:
        """Begin lanes from recorded frames; the next step continues after the last of them.

        Args:
            frames: uint8 (b t h w c), t of at least 1; the last ``world.window`` frames are used.
            actions: The actions between them (b t-1), ``num_actions`` if unknown.
            seeds: One for each lane: its noise and its ends.
            lanes: The lanes to begin, all by default; the others stay unchanged.

        Raises:
            ValueError: If shapes do not fit the world or one another, or actions, lanes or seeds
                are out of range.
        """
        world, game = self.world, self.world.game
        lanes = range(self.batch_size) if lanes is None else lanes
        check_context(game, frames, actions, seeds, lanes, self.batch_size)
        b, t = frames.shape[:2]
        # Before the first frame there is no history: that frame is repeated.
        keep, k = min(t, world.window), world.num_history
        latents = world.encode(torch.from_numpy(frames[:, -keep:]).to(world.device))
        first = repeat(latents[:, 0], "b c h w -> b k c h w", k=k)
        histories = world.history(torch.cat((first, latents), dim=1))
        unknown = np.full((b, 1), game.num_actions)
        into = torch.from_numpy(np.concatenate((unknown, actions), axis=1)[:, -keep:])
        into = into.long().to(world.device)
        # A separate cache, since only these lanes take the steps of the context.
        cache = world.dit.new_cache(b, self._latent_size)
        for i in range(keep):
            output = self._pass(latents[:, i], 1.0, into[:, i], histories[:, i], None, cache)
            cache.commit()
        index = torch.as_tensor(list(lanes), device=world.device)
        self._cache.copy_lanes(cache, index)
        newest = torch.cat((latents[:, -1:].flatten(1, 2), histories[:, -1]), dim=1)
        self._history[index] = newest[:, : self._history.shape[1]]
        self._features[index] = output.features[:, 0]
        for lane, seed in zip(lanes, seeds, strict=True):
            self._rngs[lane].manual_seed(int(seed))
        self._not_begun.difference_update(lanes)

    def begin(
        self, starts: Sequence[int], seeds: Sequence[int], lanes: Sequence[int] | None = None
    ) -> None:
        """Begin lanes from the world's own start windows.

        Args:
            starts: The row of ``world.starts`` for each lane, modulo their number.
            seeds: As in `reset`.
            lanes: As in `reset`.
        """
        rows = np.asarray(starts) % len(self.world.starts.frames)
        own = self.world.starts
        self.reset(own.frames[rows], own.actions[rows], seeds, lanes)

    def step(self, actions: np.ndarray) -> RolloutStep:
        """Take one action in each lane and decode its frame: `advance`, then `frames`."""
        outcome = self.advance(actions)
        return RolloutStep(self.frames(), *outcome)

    @property
    def latents(self) -> torch.Tensor:
        """The newest frame of each lane as latents, (b c h w)."""
        return self._history[:, : self.world.codec.latent_channels]

    @_on_threads_that_pay
    @torch.no_grad()
    def frames(self) -> np.ndarray:
        """The newest frame of each lane, decoded, uint8 (b h w c)."""
        return self.world.decode(self.latents[:, None])[:, 0].cpu().numpy()

    @_on_threads_that_pay
    @torch.no_grad()
    def advance(self, actions: np.ndarray) -> Outcome:
        """Take one action in each lane, without decoding the frames.

        Args:
            actions: Integers in [0, num_actions], (b); ``num_actions`` means unknown.

        Returns:
            Rewards and ends.

        Raises:
            RuntimeError: If a lane has not begun.
            ValueError: If actions have another shape or are out of range, or a prediction is not
                finite.
        """
        if self._not_begun:
            raise RuntimeError(
                f"call reset before step: lanes {sorted(self._not_begun)} have no start"
            )
        world = self.world
        actions = check_actions(world.game, actions, self.batch_size)
        # Each lane has its own generator on the CPU: its noise is the same in every batch.
        taken = torch.as_tensor(actions, dtype=torch.int64, device=world.device)
        shape = (world.codec.latent_channels, *self._latent_size)
        noise = torch.stack([torch.randn(shape, generator=rng) for rng in self._rngs])
        noise = noise.to(world.device)
        draws = torch.cat([torch.rand(1, generator=rng) for rng in self._rngs])

        code, other_code = self._draw_codes(taken)
        outputs: list[DiTOutput] = []

        def denoise(
            latent: torch.Tensor, level: float, code: torch.Tensor | None = code
        ) -> torch.Tensor:
            outputs.append(self._pass(latent, level, taken, self._history, code, self._cache))
            return outputs[-1].latents[:, 0]

        other = None
        if self.with_uncertainty:  # later passes replace it in the cache
            other = denoise(-noise, 0.0, other_code)
        latent = euler(denoise, noise, self._levels)
        self._cache.commit()
        self._features = outputs[-1].features[:, 0]
        latent = world.quantize(latent[:, None])[:, 0]  # the history equals the visible frames
        newest = torch.cat((latent, self._history), dim=1)
        self._history = newest[:, : self._history.shape[1]]
        uncertainties = None
        if other is not None:
            difference = outputs[1].latents[:, 0] - other
            uncertainties = difference.square().mean((1, 2, 3)).sqrt().cpu().numpy()
        head = world.head(outputs[-1].features)
        probs = world.head.termination_probs(head)[:, 0].cpu()
        if not probs.isfinite().all():  # finite weights may give infinite products
            raise ValueError(
                "the world predicts numbers that are not finite: its weights are damaged, so save "
                "it again or use another world"
            )
        return Outcome(
            rewards=world.head.rewards(head, world.reward_floor)[:, 0].cpu().numpy(),
            terminations=(draws < probs).numpy(),
            termination_probs=probs.numpy(),
            uncertainties=uncertainties,
        )

    def _draw_codes(
        self, actions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor] | tuple[None, None]:
        """Draw the chance code of each lane's next frame, and one from the opposite number."""
        chance = self.world.dit.chance
        if chance is None:
            return None, None
        logits = chance.prior_logits(self._features, actions)
        uniform = torch.cat([torch.rand(1, generator=rng) for rng in self._rngs]).to(logits.device)
        return chance.draw(logits, uniform), chance.draw(logits, 1 - uniform)

    def _pass(
        self,
        latent: torch.Tensor,
        level: float,
        actions: torch.Tensor,
        history: torch.Tensor,
        code: torch.Tensor | None,
        cache: KVCache,
    ) -> DiTOutput:
        """One forward pass over the newest frame (b c h w) of each lane."""
        tau = torch.full((len(latent), 1), level, device=latent.device)
        predict = self._predict if len(latent) == self.batch_size else self.world.predict
        chance = None if code is None else code[:, None]
        conditions = Conditions(tau, actions[:, None], history[:, None], chance)
        return predict(latent[:, None], conditions, cache)

    @_on_threads_that_pay
    @torch.no_grad()
    def _compile(self) -> Callable[..., DiTOutput]:
        """The network compiled for this batch, or the eager one if compiling fails."""
        actions = torch.zeros(self.batch_size, 1, dtype=torch.int64, device=self.world.device)
        latents = torch.zeros_like(self._history[:, None, : self.world.codec.latent_channels])
        bits = self.world.dit.config.chance_bits
        code = torch.zeros(self.batch_size, 1, bits, device=actions.device) if bits else None
        conditions = Conditions(actions.float(), actions, self._history[:, None], code)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # internal warnings of torch
                compiled = torch.compile(self.world.predict, dynamic=False)
                compiled(latents, conditions, self._cache)
        except Exception as error:
            warnings.warn(f"compiling failed, steps are slower: {one_line(error)}", stacklevel=5)
            return self.world.predict
        return compiled

    @_on_threads_that_pay
    def clone_state(self) -> RolloutState:
        """Take a snapshot; after restoring it, the same actions give the same steps.

        Raises:
            RuntimeError: If a lane has not begun.
        """
        if self._not_begun:
            raise RuntimeError(
                f"call reset before clone_state: lanes {sorted(self._not_begun)} have no start"
            )
        state = self._state()
        return replace(
            state,
            cache=state.cache.clone(),
            history=state.history.clone(),
            features=state.features.clone(),
        )

    @_on_threads_that_pay
    def restore_state(self, state: RolloutState) -> None:
        """Restore a snapshot of a rollout with as many lanes of the same world.

        Worlds are the same if their weights are, in other processes too.

        Raises:
            TypeError: If it is not a `RolloutState`.
            ValueError: If its world, device or number of lanes differs; nothing changes then.
        """
        check_fits(state, self._state())
        self._cache = state.cache.clone()
        self._history = state.history.clone()
        self._features = state.features.clone()
        self._not_begun.clear()
        for rng, rng_state in zip(self._rngs, state.rng_states, strict=True):
            rng.set_state(rng_state)

    def _state(self) -> RolloutState:
        """The current state, without a copy."""
        return RolloutState(
            world=fingerprint(self.world),
            cache=self._cache,
            history=self._history,
            features=self._features,
            rng_states=[rng.get_state() for rng in self._rngs],
        )
