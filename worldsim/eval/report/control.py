"""Control: whether the world obeys its actions, and each of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldsim.eval.bootstrap import Estimate, estimate
from worldsim.eval.control import (
    Counterfactuals,
    action_shuffle_ratio,
    counterfactuals,
    effect,
    motion,
)
from worldsim.eval.inverse_dynamics import accuracy_by_action

from .charts import Chart, Series, world_style
from .section import (
    ENOUGH_EPISODES,
    ENOUGH_EVENTS,
    UNSAVED,
    Grade,
    Section,
    Verdict,
    basis_of,
    with_band,
)
from .study import Study

STEPS = 16  # for which each action is held
LANES = 48  # about as many are worth a batch on a CPU
LISTENS = 1.2  # action-shuffle ratio
RECOGNISED = 0.5  # share of an action's steps in which real frames must show it, to judge by
WORSE = 0.1  # share by which imagined frames may show it less often

ByAction = dict[str, float]


@dataclass(frozen=True)
class RecognisedActions:
    """How often actions are recognised in frames, by a network that was trained on real ones.

    Attributes:
        steps_by_action: How often each was taken.
        real: Share of the steps in which it is recognised in real frames.
        real_by_action: The same by action; nan for one that was never taken.
        world: Share in imagined frames.
        world_by_action: The same by action.
    """

    steps_by_action: dict[str, int]
    real: Estimate
    real_by_action: ByAction
    world: Estimate
    world_by_action: ByAction


@dataclass(frozen=True)
class ControlSection(Section):
    """Shuffled actions, recognised actions, and every action from a few moments.

    Attributes:
        windows: How many windows were predicted.
        episodes: How many episodes they are of.
        action_shuffle_ratio: Error under other actions over the error under the true ones.
        action_shuffle_ratio_by_action: The same by the true last action.
        recognised: How often actions are recognised.
        effect_by_action: Of ``world`` and, where it can be tried, ``real``: the share of the
            pixels that holding an action changes, beside doing nothing.
        noop_pixels_a_step: Of the same: the pixels that change in a step in which nothing is done.
        no_real_counterfactuals: Why the real game could not be tried; empty where it was.
        counterfactuals: The frames of every action held.
    """

    windows: int = field(metadata=UNSAVED)
    episodes: int = field(metadata=UNSAVED)
    action_shuffle_ratio: float
    action_shuffle_ratio_by_action: ByAction
    recognised: RecognisedActions
    effect_by_action: dict[str, ByAction]
    noop_pixels_a_step: dict[str, Estimate]
    no_real_counterfactuals: str
    counterfactuals: Counterfactuals | None = field(default=None, metadata=UNSAVED)

    key = "control"
    title = "Control"
    scale = (
        f"good if the error is {LISTENS:g} times as large with wrong actions, and no action is "
        f"recognised {WORSE:.0%} less often than in real frames; poor if the error is smaller than "
        "that; else fair"
    )

    @classmethod
    def measure(cls, study: Study) -> ControlSection:
        """Shuffle, recognise and try actions."""
        game, effort = study.world.game, study.effort
        with study.stage("shuffling actions", effort.shuffle_batches) as advance:
            ratio = action_shuffle_ratio(
                study.world,
                study.recording,
                study.episodes.unseen,
                seed=study.seed,
                num_batches=effort.shuffle_batches,
                on_batch=advance,
            )
        starts = study.held_out.first(max(2, LANES // game.num_actions), 1)
        with study.stage("trying every action", STEPS) as advance:
            found = counterfactuals(
                study.world,
                study.recording,
                starts,
                num_steps=STEPS,
                num_passes=study.num_passes,
                seed=study.seed,
                on_step=advance,
            )
        sides = {"world": found.imagined} | ({} if found.real is None else {"real": found.real})
        noop = game.noop_action
        return cls(
            windows=study.num_windows,
            episodes=study.num_episodes,
            action_shuffle_ratio=ratio.overall,
            action_shuffle_ratio_by_action=ratio.by_action,
            recognised=_recognised(study),
            effect_by_action={
                name: _by_action(study, effect(frames, noop).mean(0))
                for name, frames in sides.items()
            },
            noop_pixels_a_step={
                name: estimate(
                    motion(frames[:, noop], starts.last_context),
                    np.ones(len(frames)),
                    starts.episodes,
                )
                for name, frames in sides.items()
            },
            no_real_counterfactuals=found.why_not,
            counterfactuals=found,
        )

    def verdict(self) -> Verdict:
        """Judge the action-shuffle ratio and the actions that real frames show."""
        ratio, known = self.action_shuffle_ratio, self.recognised
        basis = basis_of(self.windows, self.episodes)
        if sum(steps > 0 for steps in known.steps_by_action.values()) < 2:
            sentence = "The recording's actions never differ, so there is nothing to obey."
            return Verdict(Grade.NOT_MEASURED, sentence, basis)
        if not math.isfinite(ratio):
            sentence = "No step could be tried with another action."
            return Verdict(Grade.NOT_MEASURED, sentence, basis)
        figures = (
            f"with wrong actions its error is {ratio:.1f} times as large, and "
            f"{known.world.value:.0%} of the actions are recognised in its frames "
            f"({known.real.value:.0%} in real ones)"
        )
        if self.episodes < ENOUGH_EPISODES:
            return Verdict(Grade.UNCLEAR, f"Too few episodes to judge: {figures}.", basis)
        if ratio < LISTENS:
            return Verdict(Grade.POOR, f"It hardly obeys: {figures}.", basis)
        losses = {
            name: real - known.world_by_action[name]
            for name, real in known.real_by_action.items()
            if real > RECOGNISED  # nan for an action that was never taken
            and known.steps_by_action[name] >= ENOUGH_EVENTS
        }
        worst = max(losses, key=lambda name: losses[name], default="")
        if losses and losses[worst] > WORSE:
            return Verdict(Grade.FAIR, f"It obeys, {worst} least: {figures}.", basis)
        return Verdict(Grade.GOOD, f"It obeys: {figures}.", basis)

    def lines(self) -> list[str]:
        """The ratio by action, and the share that is recognised."""
        ratio = self.action_shuffle_ratio
        by_action = ", ".join(
            f"{name} {value:.2f}"
            for name, value in self.action_shuffle_ratio_by_action.items()
            if math.isfinite(value)
        )
        figures = f"{ratio:.3f}; by the last action: {by_action}"
        if not math.isfinite(ratio):
            figures = "undefined, since no step could be tried with another action"
        return [
            f"action-shuffle ratio: {figures}",
            f"actions recognised: in imagined frames {with_band(self.recognised.world)}, in real "
            f"ones {with_band(self.recognised.real)}",
        ]

    @classmethod
    def charts(cls, found: Mapping[str, ControlSection]) -> list[Chart]:
        """Actions recognised, the shuffle ratio, and the pixels changed, by action."""
        first = next(iter(found.values()))
        names = list(first.action_shuffle_ratio_by_action)
        recognised = [Series("real", list(first.recognised.real_by_action.values()), "real")]
        ratios, effects = [], []
        if "real" in first.effect_by_action:
            effects.append(Series("real", _percent(first.effect_by_action["real"]), "real"))
        for i, (name, one) in enumerate(found.items()):
            style = world_style(i)
            shares = list(one.recognised.world_by_action.values())
            recognised.append(Series(name, shares, style))
            ratios.append(Series(name, list(one.action_shuffle_ratio_by_action.values()), style))
            effects.append(Series(name, _percent(one.effect_by_action["world"]), style))
        return [
            Chart("actions recognised, share of the steps", recognised, names, y_from=0, y_to=1),
            Chart("action-shuffle ratio", ratios, names, line=(1.0, "no effect"), y_from=0),
            Chart("changed by the action, % of pixels", effects, names, y_from=0),
        ]

    @classmethod
    def notes(cls, found: Mapping[str, ControlSection]) -> list[str]:
        """What the charts show, and what moves when nothing is done."""
        notes = [
            "Recognised: how often a network, trained on real frames, finds the action in the "
            "frames. Action-shuffle ratio: the error under other windows' actions over the "
            "error under the true ones. Changed: the pixels that differ after holding the action, "
            "from those after doing nothing."
        ]
        for name, one in found.items():
            still = one.noop_pixels_a_step
            real = f" ({still['real'].value:.1f} in the game)" if "real" in still else ""
            notes.append(
                f"{name}: with no action {still['world'].value:.1f} pixels change in a step{real}."
            )
        why_not = next(iter(found.values())).no_real_counterfactuals
        return [*notes, f"The game could not be tried: {why_not}."] if why_not else notes


def _percent(shares: ByAction) -> list[float]:
    return [100 * share for share in shares.values()]


def _by_action(study: Study, values: NDArray[Any]) -> dict[str, Any]:
    return dict(zip(study.world.game.action_meanings, values.tolist(), strict=True))


def _recognised(study: Study) -> RecognisedActions:
    """How often the judge recognises the actions taken, in real and imagined frames."""
    held_out, num_actions = study.held_out, study.world.game.num_actions
    steps = study.recognised_real.actions.shape[1]
    taken = held_out.windows.actions[:, held_out.context - 1 :][:, :steps]

    def share(guessed: NDArray[np.int64]) -> Estimate:
        hits = guessed == taken
        return estimate(hits.sum(1), np.full(len(hits), hits.shape[1]), held_out.episodes)

    def by_action(guessed: NDArray[np.int64]) -> ByAction:
        return _by_action(study, accuracy_by_action(guessed, taken, num_actions))

    real, ours = study.recognised_real.actions, study.recognised_imagined.actions
    return RecognisedActions(
        steps_by_action=_by_action(study, np.bincount(taken.ravel(), minlength=num_actions)),
        real=share(real),
        real_by_action=by_action(real),
        world=share(ours),
        world_by_action=by_action(ours),
    )
