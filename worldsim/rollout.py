"""Rollout: sessions inside a world, one frame a step, all in one batch.

Each frame takes ``num_passes`` denoising passes. What the last of them wrote into the ring is the
frame's memory, and from its features reward and termination are read: another pass over the
finished frame would cost as much as a denoising pass and changes nothing that can be measured.
The ring has a fixed size, so a session may last for ever.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, Concatenate, NamedTuple, ParamSpec, TypeVar

import numpy as np
import torch
from einops import repeat

from worldsim.model.conditions import Conditions
from worldsim.model.dit import DiTOutput
from worldsim.model.kv_cache import KVCache
from worldsim.model.sampling import euler, pass_levels
from worldsim.rollout_state import RolloutState, check_fits, fingerprint
from worldsim.system.devices import check_memory
from worldsim.system.files import one_line
from worldsim.system.options import Count, Range, check_value
from worldsim.system.threads import forget_lost_threads, threads_for
from worldsim.world_model import WorldModel

P = ParamSpec("P")
R = TypeVar("R")


def _on_threads_that_pay(
    method: Callable[Concatenate[Rollout, P], R],
) -> Callable[Concatenate[Rollout, P], R]:
    """Let a method of a rollout compute on the threads that its batch is worth."""

    @functools.wraps(method)
    def run(self: Rollout, *args: P.args, **kwargs: P.kwargs) -> R:
        with threads_for(self._multiplications):
            return method(self, *args, **kwargs)

    return run


LaneSeed = Annotated[int, Range(0, 2**63 - 1)]  # what torch's generators take, and int64 holds


class Outcome(NamedTuple):
    """What a step of each session comes to, beside its frame.

    Attributes:
        rewards: Expected reward, float32 (b): exactly 0.0 where it is below a twentieth of the
            smallest reward of the recording, see `RecordedRewards`.
        terminations: Whether the episode ended, drawn by its probability, bool (b).
        termination_probs: That probability, float32 (b).
        uncertainties: How much the next frame depends on chance or on what the world does not
            know, float32 (b); None unless the rollout measures it.
    """

    rewards: np.ndarray
    terminations: np.ndarray
    termination_probs: np.ndarray
    uncertainties: np.ndarray | None = None


class RolloutStep(NamedTuple):
    """What one step of each session gives: frames, uint8 (b h w c), and what `Outcome` has."""

    frames: np.ndarray
    rewards: np.ndarray
    terminations: np.ndarray
    termination_probs: np.ndarray
    uncertainties: np.ndarray | None = None


class Rollout:
    """Sessions (lanes) inside a world.

    On one machine, with the same versions, device, batch size and number of threads, the same seeds
    and actions give the same steps to the bit. Between batch sizes, CPUs and devices a step from
    the same state differs by rounding: frames by 1 of 255 at most, rewards by 1e-4. Over many
    steps rounding grows, as in any chaotic game, into another future.

    On a CPU a small batch is computed on one thread, see `worldsim.system.threads`.

    Args:
        world: The world.
        batch_size: Sessions.
        num_passes: Denoising passes a frame; the world's own number if none. May be set between
            steps.
        compiled: Whether to compile the network (torch.compile) first, which takes a minute or so;
            the frames are the same but for rounding. Where that cannot be done a warning says why,
            and the rollout goes without.
        with_uncertainty: Whether to measure in each step how far two frames differ that the first
            pass makes of opposite noise (root mean square over the latents, whose range is 2).
            Costs another pass and changes nothing else.

    Raises:
        ValueError: If ``batch_size`` or ``num_passes`` is no whole number from 1 on, or so many
            sessions do not fit into memory.

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
            f"what {batch_size:,} sessions remember",
            "take fewer",
            world.device,
        )
        self._cache = world.dit.new_cache(batch_size, self._latent_size)
        channels = world.codec.latent_channels * world.num_history
        self._history = torch.zeros(batch_size, channels, *self._latent_size, device=world.device)
        self._rngs = [torch.Generator() for _ in range(batch_size)]
        self._not_begun = set(range(batch_size))
        tokens = batch_size * math.prod(self._latent_size) / world.dit.config.patch_size**2
        parameters = sum(parameter.numel() for parameter in world.dit.parameters())
        self._multiplications = parameters * tokens if world.device.type == "cpu" else math.inf
        self._predict = self._compile() if compiled else world.predict

    @property
    def num_passes(self) -> int:
        """Denoising passes a frame."""
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
        """Begin sessions from recorded frames; the next step continues after the last of them.

        Args:
            frames: uint8 (b t h w c), t of at least 1; of more than the window's the last count.
            actions: The actions between them (b t-1), ``num_actions`` where unknown.
            seeds: One for each session: its noise and its ends.
            lanes: The sessions to begin, all by default; the others are left as they are.

        Raises:
            ValueError: If shapes do not fit the world or one another, or actions, lanes or seeds
                are out of range.
        """
        world, game = self.world, self.world.game
        lanes = range(self.batch_size) if lanes is None else lanes
        expected = (*game.frame_size, game.channels)
        b, t = frames.shape[:2] if frames.ndim == 5 else (0, 0)
        if frames.shape[2:] != expected or frames.dtype != np.uint8 or t < 1:
            raise ValueError(
                f"context frames must be uint8 of shape (b t {expected[0]} {expected[1]} "
                f"{expected[2]}), got {frames.dtype} {frames.shape}"
            )
        if actions.shape != (b, t - 1) or not b == len(seeds) == len(lanes):
            raise ValueError(
                f"{len(lanes)} sessions with {t} context frames want as many rows of {t - 1} "
                f"actions and as many seeds, got actions {actions.shape} and {len(seeds)} seeds"
            )
        if not ((actions >= 0) & (actions <= game.num_actions)).all():
            raise ValueError(
                f"context actions must be in 0..{game.num_actions - 1}, or {game.num_actions} "
                f"where unknown, got {actions.min()}..{actions.max()}"
            )
        if len(set(lanes)) < len(lanes) or not set(lanes) <= set(range(self.batch_size)):
            raise ValueError(
                f"lanes must be different numbers in 0..{self.batch_size - 1}, got {list(lanes)}"
            )
        for seed in seeds:
            check_value("seeds", seed, LaneSeed)
        keep, k = min(t, world.window), world.num_history
        latents = world.encode(torch.from_numpy(frames[:, -keep:]).to(world.device))
        first = repeat(latents[:, 0], "b c h w -> b k c h w", k=k)
        histories = world.history(torch.cat((first, latents), dim=1))
        unknown = np.full((b, 1), game.num_actions)
        into = torch.from_numpy(np.concatenate((unknown, actions), axis=1)[:, -keep:])
        into = into.long().to(world.device)
        cache = world.dit.new_cache(b, self._latent_size)
        for i in range(keep):
            self._pass(latents[:, i], 1.0, into[:, i], histories[:, i], cache)
            cache.commit()
        index = torch.as_tensor(list(lanes), device=world.device)
        self._cache.copy_lanes(cache, index)
        newest = torch.cat((latents[:, -1:].flatten(1, 2), histories[:, -1]), dim=1)
        self._history[index] = newest[:, : self._history.shape[1]]
        for lane, seed in zip(lanes, seeds, strict=True):
            self._rngs[lane].manual_seed(int(seed))
        self._not_begun.difference_update(lanes)

    def begin(
        self, starts: Sequence[int], seeds: Sequence[int], lanes: Sequence[int] | None = None
    ) -> None:
        """Begin lanes from the world's own start windows.

        Args:
            starts: The row of ``world.starts`` for each lane, counted round where there are fewer.
            seeds: As in `reset`.
            lanes: As in `reset`.
        """
        rows = np.asarray(starts) % len(self.world.starts.frames)
        own = self.world.starts
        self.reset(own.frames[rows], own.actions[rows], seeds, lanes)

    def step(self, actions: np.ndarray) -> RolloutStep:
        """Play one action in each session and look: `advance`, then `frames`."""
        outcome = self.advance(actions)
        return RolloutStep(self.frames(), *outcome)

    @property
    def latents(self) -> torch.Tensor:
        """The newest frame of each session as the network knows it, (b c h w)."""
        return self._history[:, : self.world.codec.latent_channels]

    @_on_threads_that_pay
    @torch.no_grad()
    def frames(self) -> np.ndarray:
        """The newest frame of each session, uint8 (b h w c), decoded."""
        return self.world.decode(self.latents[:, None])[:, 0].cpu().numpy()

    @_on_threads_that_pay
    @torch.no_grad()
    def advance(self, actions: np.ndarray) -> Outcome:
        """Play one action in each session, without decoding what can stay latent.

        Args:
            actions: Integers in [0, num_actions], (b); ``num_actions`` stands for an action that
                is not known.

        Returns:
            Rewards and ends.

        Raises:
            RuntimeError: If a session has not begun.
            ValueError: If actions have another shape or are out of range, or what the world
                predicts is not finite.
        """
        if self._not_begun:
            raise RuntimeError(
                f"call reset before step: lanes {sorted(self._not_begun)} have no start"
            )
        world = self.world
        actions = np.asarray(actions)
        if (
            actions.shape != (self.batch_size,)
            or not np.issubdtype(actions.dtype, np.integer)
            or not ((actions >= 0) & (actions <= world.game.num_actions)).all()
        ):
            raise ValueError(
                f"actions must be {self.batch_size} integers in 0..{world.game.num_actions - 1}, "
                f"or {world.game.num_actions} where unknown, got {actions!r}"
            )
        taken = torch.as_tensor(actions, dtype=torch.int64, device=world.device)
        shape = (world.codec.latent_channels, *self._latent_size)
        noise = torch.stack([torch.randn(shape, generator=rng) for rng in self._rngs])
        noise = noise.to(world.device)
        draws = torch.cat([torch.rand(1, generator=rng) for rng in self._rngs])

        outputs: list[DiTOutput] = []

        def denoise(latent: torch.Tensor, level: float) -> torch.Tensor:
            outputs.append(self._pass(latent, level, taken, self._history, self._cache))
            return outputs[-1].latents[:, 0]

        other = denoise(-noise, 0.0) if self.with_uncertainty else None  # later passes replace it
        latent = euler(denoise, noise, self._levels)
        self._cache.commit()
        latent = world.quantize(latent[:, None])[:, 0]  # what is remembered is what is shown
        newest = torch.cat((latent, self._history), dim=1)
        self._history = newest[:, : self._history.shape[1]]
        uncertainties = None
        if other is not None:
            difference = outputs[1].latents[:, 0] - other
            uncertainties = difference.square().mean((1, 2, 3)).sqrt().cpu().numpy()
        head = world.head(outputs[-1].features)
        probs = world.head.termination_probs(head)[:, 0].cpu()
        if not probs.isfinite().all():  # weights may be finite, and what is made of them not
            raise ValueError(
                "the world predicts numbers that are not finite: its weights are damaged, so write "
                "it again or take another"
            )
        return Outcome(
            rewards=world.head.rewards(head, world.reward_floor)[:, 0].cpu().numpy(),
            terminations=(draws < probs).numpy(),
            termination_probs=probs.numpy(),
            uncertainties=uncertainties,
        )

    def _pass(
        self,
        latent: torch.Tensor,
        level: float,
        actions: torch.Tensor,
        history: torch.Tensor,
        cache: KVCache,
    ) -> DiTOutput:
        """One forward of the newest frame (b c h w) of each session."""
        tau = torch.full((len(latent), 1), level, device=latent.device)
        predict = self._predict if len(latent) == self.batch_size else self.world.predict
        return predict(latent[:, None], Conditions(tau, actions[:, None], history[:, None]), cache)

    @_on_threads_that_pay
    @torch.no_grad()
    def _compile(self) -> Callable[..., DiTOutput]:
        """The network compiled for this batch, or as it is where that fails; leaves no trace."""
        actions = torch.zeros(self.batch_size, 1, dtype=torch.int64, device=self.world.device)
        latents = torch.zeros_like(self._history[:, None, : self.world.codec.latent_channels])
        conditions = Conditions(actions.float(), actions, self._history[:, None])
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what torch says to itself while it compiles
                compiled = torch.compile(self.world.predict, dynamic=False)
                compiled(latents, conditions, self._cache)
        except Exception as error:
            warnings.warn(f"not compiled, so steps are slower: {one_line(error)}", stacklevel=3)
            return self.world.predict
        return compiled

    @_on_threads_that_pay
    def clone_state(self) -> RolloutState:
        """A snapshot: restored, the same actions give the same frames, rewards and ends.

        Raises:
            RuntimeError: If a session has not begun.
        """
        if self._not_begun:
            raise RuntimeError(
                f"call reset before clone_state: lanes {sorted(self._not_begun)} have no start"
            )
        state = self._state()
        return replace(state, cache=state.cache.clone(), history=state.history.clone())

    @_on_threads_that_pay
    def restore_state(self, state: RolloutState) -> None:
        """Go back to a snapshot of a rollout with as many sessions of the same world.

        The world may have been loaded anew, in another process too: its weights decide.

        Raises:
            TypeError: If it is no snapshot.
            ValueError: If it is of another world, device or number of sessions; nothing changes.
        """
        check_fits(state, self._state())
        self._cache = state.cache.clone()
        self._history = state.history.clone()
        self._not_begun.clear()
        for rng, rng_state in zip(self._rngs, state.rng_states, strict=True):
            rng.set_state(rng_state)

    def _state(self) -> RolloutState:
        """The state of now, which goes on changing."""
        return RolloutState(
            world=fingerprint(self.world),
            cache=self._cache,
            history=self._history,
            rng_states=[rng.get_state() for rng in self._rngs],
        )
