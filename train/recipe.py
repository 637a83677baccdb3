"""The recipe: how recorded windows become training examples, and the weights of their errors.

Nothing here needs torch, so that `worldsim train --help` answers at once.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated

from worldsim.system.options import Fraction, NotNegative, Rule

TauMixture = Annotated[
    tuple[Fraction, Fraction],
    Rule("two fractions that add up to 1 at most", lambda fractions: sum(fractions) <= 1),
]
FOCUS_DECAY = 0.4  # last part of a run, in which object_focus goes from its start to its end


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How windows become training examples, and the weights of their errors."""

    moving_weight: NotNegative = 10.0
    """Extra loss weight of moving pixels."""
    object_focus: tuple[Fraction, Fraction] = (0.6, 0.6)
    """Share of that weight on the objects themselves, at the start and at the end of the run. The
    rest lies on all places that an object may reach in a step. Lower the second number (0.15) if
    objects multiply in long play; raise it if they fade."""
    tau_mixture: TauMixture = (0.25, 0.35)
    """Fractions of frames that are clean, like the context in play, and pure noise, like the frame
    to predict. The others have a level in between."""
    history_noise: NotNegative = 0.1
    """Largest standard deviation of noise on the history, so that small errors do not grow. The
    unit is that of latents, whose range is about 2."""
    history_contrast: NotNegative | None = None
    """Largest change of the history's contrast with the median frame, as a logarithm; 0.3 for
    latents and none for pixels if not given. Pixels end at black and white; latents do not end, and
    without it they grow from step to step, or fade."""
    self_rollout: Fraction = 0.5
    """Fraction of windows whose history is the model's own one-step prediction (scheduled
    sampling). Ramps in over the second third of the run."""
    corrupt_history: Fraction = 0.0
    """Fraction of windows whose history has an object removed or added, so that the model learns to
    recover. Ramps in over the second third of the run."""
    unknown_codes: Fraction = 0.15
    """Fraction of chance codes that are hidden, so that the mean is learned too. All are in the
    first sixth of the run; falls to this in the second."""
    action_dropout: Fraction = 0.1
    """Fraction of actions that are hidden, so that the world can continue without a known
    action."""
    text_dropout: Fraction = 0.1
    """Fraction of windows whose caption is hidden, for guidance; in a world with text."""

    def at(self, fraction: float) -> Recipe:
        """The recipe at a finished share of the run, from 0 to 1, with one object focus.

        Self-rollout and corrupted histories ramp in: a model must know its game before it can learn
        from its errors. So do chance codes: it must know the mean before it can tell what differs.
        """
        start, end = self.object_focus
        focus = end + min(1.0, max(0.0, 1 - fraction) / FOCUS_DECAY) * (start - end)
        ramp = min(1.0, max(0.0, 3 * fraction - 1))
        known = (1 - self.unknown_codes) * min(1.0, max(0.0, 6 * fraction - 1))
        return dataclasses.replace(
            self,
            object_focus=(focus, focus),
            self_rollout=self.self_rollout * ramp,
            corrupt_history=self.corrupt_history * ramp,
            unknown_codes=1 - known,
        )
