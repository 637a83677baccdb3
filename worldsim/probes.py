"""Probes: what is read off the frames of small scenes with known true state, and how far it is off.

The scenes are ours (`envs/scenes.py`); motion, collision and parabola are those of Kang et al.
(2024, "How far is video generation from world model: a physical law perspective"), and velocity,
momentum and energy are compared as there. A reader turns frames into a state, a dict of arrays
(b t ...) under the names that a scene's ``info`` has for the true one. So frames of any origin,
real, imagined or copied, are judged by the same errors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from worldsim.probe_pictures import (
    BESIDE_STREAM,
    CANDLE_FLOOR,
    COUNTED_RADIUS,
    FLAME,
    KINDS,
    LOWER,
    LOWER_FLOOR,
    MOST_COUNTED,
    PILLAR,
    SIZE,
    UPPER,
    UPPER_FLOOR,
    WATER,
    WAX,
    Floats,
    Frames,
    find_cover,
    find_disc,
    find_discs,
)

State = dict[str, Floats]
Mask = NDArray[np.bool_]


class Probe(NamedTuple):
    """A scene and how it is judged.

    Attributes:
        context: Frames that a world is given; what matters happens after them.
        read: Frames ``uint8`` (b t h w 3) to a state, arrays (b t ...).
        errors: From a read state, the true one and the context to errors by name, (b) each, 0
            where all is right. They are of the frames after the context. nan where an episode shows
            nothing to judge.
        units: Unit of each error.
        trait: What a figure shows of an episode, from the same arguments, (b).
        trait_name: What that is, with its unit.
        straight: Parts of the state that may be continued in a straight line, for comparison.
    """

    context: int
    read: Callable[[Frames], State]
    errors: Callable[[State, State, int], dict[str, Floats]]
    units: dict[str, str]
    trait: Callable[[State, State, int], Floats]
    trait_name: str
    straight: tuple[str, ...] = ()


# ------------------------------------------------------------------------------------ balls


def read_balls(scene: str, kinds: tuple[int, ...]) -> Callable[[Frames], State]:
    """Make the reader of a scene with one ball of each of these colours.

    Returns:
        Frames (b t h w 3) to ``positions`` (b t n 2), (x, y) in pixels, nan where a ball is not
        seen, and ``radii`` (b t n) in pixels, there 0.
    """
    colours = [KINDS[kind] for kind in kinds]

    def read(frames: Frames) -> State:
        positions, radii = find_disc(find_cover(frames, colours, scene))
        return {"positions": positions, "radii": radii}

    return read


def held(positions: Floats) -> Floats:
    """Fill what is not seen with where it was last seen; before that, the middle of the frame.

    Args:
        positions: (b t ...), nan where nothing is seen.
    """
    filled = positions.copy()
    for t in range(positions.shape[1]):
        before = filled[:, t - 1] if t else np.full_like(filled[:, 0], SIZE / 2)
        filled[:, t] = np.where(np.isnan(filled[:, t]), before, filled[:, t])
    return filled


def velocities(state: State) -> Floats:
    """Pixels a step from each frame to the next, (b t-1 n 2); a ball that is not seen stands."""
    return np.diff(held(state["positions"]), axis=1)


def whole(true: State, context: int) -> Mask:
    """Frames after the context in which all balls are wholly in the frame, as the one before.

    Returns:
        (b t-1), of the second frame of each pair.
    """
    positions, radii = true["positions"], true["radii"][..., None]
    inside = ((positions >= radii) & (positions <= SIZE - radii)).all((-2, -1))
    return inside[:, 1:] & inside[:, :-1] & (np.arange(1, inside.shape[1]) >= context)


def mean_where(values: Floats, where: Mask) -> Floats:
    """Mean over time of (b t) where it counts; nan for an episode in which it never does."""
    count = where.sum(1)
    total = np.where(where, values, 0.0).sum(1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def slope(values: Floats, where: Mask) -> Floats:
    """Change a step of (b t), by least squares over the frames that count."""
    t = np.broadcast_to(np.arange(values.shape[1]), values.shape)
    from_mean = t - mean_where(t, where)[:, None]
    spread = mean_where(from_mean**2, where)
    rise = mean_where(from_mean * values, where)
    return np.where(spread > 0, rise / np.where(spread > 0, spread, 1.0), np.nan)


def motion_errors(read: State, true: State, context: int) -> dict[str, Floats]:
    """How far one ball is from moving as it should.

    Returns:
        ``velocity``, mean size of the difference in pixels a step; ``size``, mean difference of the
        radius in % of the true one; ``lost``, % of the frames in which the ball is not seen.
    """
    where = whole(true, context)
    return _ball_errors(read, true, where)


def _ball_errors(read: State, true: State, where: Mask) -> dict[str, Floats]:
    off = np.linalg.norm(velocities(read) - velocities(true), axis=-1).mean(-1)
    size = np.abs(read["radii"] / true["radii"] - 1).mean(-1)[:, 1:]
    lost = np.isnan(read["positions"]).any((-2, -1))[:, 1:].astype(float)
    return {
        "velocity": mean_where(off, where),
        "size": 100 * mean_where(size, where),
        "lost": 100 * mean_where(lost, where),
    }


def motion_speed(read: State, true: State, context: int) -> Floats:
    """Mean speed along the row after the context, pixels a step."""
    sideways = np.abs(velocities(read)[..., 0].mean(-1))
    return mean_where(sideways, whole(true, context))


def parted(true: State, context: int) -> Mask:
    """Pairs of frames after the collision, (b t-1)."""
    return whole(true, context) & true["collided"][:, :-1].astype(bool)


def collision_errors(read: State, true: State, context: int) -> dict[str, Floats]:
    """How far two balls are from parting as they should.

    All is of the frames after the collision. Mass is the radius squared, as it is read in the
    same frame.

    Returns:
        ``velocity``, ``size`` and ``lost`` as `motion_errors`, mean of both balls; ``momentum``, in
        % of the sum of what each ball carries; ``energy``, in % of the true one.
    """
    where = parted(true, context)

    def carried(state: State) -> tuple[Floats, Floats, Floats]:
        velocity, mass = velocities(state), state["radii"][:, 1:] ** 2
        momentum = mass[..., None] * velocity
        energy = mass * (velocity**2).sum(-1) / 2
        return momentum.sum(-2), energy.sum(-1), np.linalg.norm(momentum, axis=-1).sum(-1)

    momentum, energy, _ = carried(read)
    true_momentum, true_energy, amount = carried(true)
    off = np.linalg.norm(momentum - true_momentum, axis=-1) / amount
    return {
        **_ball_errors(read, true, where),
        "momentum": 100 * mean_where(off, where),
        "energy": 100 * mean_where(np.abs(energy / true_energy - 1), where),
    }


def parting_speed(read: State, true: State, context: int) -> Floats:
    """How fast the balls part after the collision, pixels a step."""
    apart = np.abs(np.diff(velocities(read)[..., 0], axis=-1)[..., 0])
    return mean_where(apart, parted(true, context))


def parabola_errors(read: State, true: State, context: int) -> dict[str, Floats]:
    """How far one ball is from falling as it should.

    Returns:
        ``velocity``, ``size`` and ``lost`` as `motion_errors`; ``gravity``, the downward
        acceleration, in % of the true one.
    """
    where = whole(true, context)
    pull, true_pull = (slope(velocities(state)[..., 0, 1], where) for state in (read, true))
    errors = _ball_errors(read, true, where)
    return {**errors, "gravity": 100 * np.abs(pull / true_pull - 1)}


# -------------------------------------------------------------------------------- occlusion


def read_occlusion(frames: Frames) -> State:
    """Read what is seen beside the pillar.

    Returns:
        ``positions`` (b t 1 2) of all that is seen, (x, y) in pixels, nan for nothing; ``radii``
        (b t 1); ``shown`` (b t 2 3), pixels left and right of the pillar by colour.
    """
    cover = find_cover(frames, KINDS, "occlusion")
    cover[..., PILLAR[0] : PILLAR[1]] = 0.0
    positions, radii = find_disc(cover.sum(-3))
    sides = (cover[..., : PILLAR[0]], cover[..., PILLAR[1] :])
    shown = np.stack([side.sum((-2, -1)) for side in sides], axis=-2)
    return {"positions": positions[..., None, :], "radii": radii[..., None], "shown": shown}


def emergence(read: State, true: State, context: int) -> Floats:
    """When half of the ball is out on the other side of the pillar, in steps from the first frame.

    It is told by the pixels that show there, of any colour; to a fraction of a step. A ball that
    never comes out comes out with the episode's last frame.
    """
    half = np.pi * (true["radii"][:, 0, 0] ** 2 + 1 / 12) / 2
    far = (true["positions"][:, 0, 0, 0] < SIZE / 2).astype(int)
    out = read["shown"].sum(-1)[np.arange(len(far)), :, far]
    last = out.shape[1] - 1
    times = np.full(len(out), float(last))
    for row, (area, enough) in enumerate(zip(out, half, strict=True)):
        later = np.flatnonzero((area >= enough) & (np.arange(last + 1) >= context))
        if len(later):
            t = int(later[0])
            gained = area[t] - area[t - 1]
            times[row] = t - (area[t] - enough) / gained if area[t - 1] < enough else t
    return times


def occlusion_errors(read: State, true: State, context: int) -> dict[str, Floats]:
    """How far what comes out is from what went in.

    Returns:
        ``time``, steps between when it comes out and when it should (see `emergence`); ``place``,
        mean pixels from where it should be once it is wholly out; ``other``, % of these frames in
        which there is not just one ball of its colour with its area to within a half.
    """
    x, radius = true["positions"][..., 0, 0], true["radii"][..., 0]
    far = (x[:, :1] < SIZE / 2).astype(int)
    beyond = np.where(far == 1, x - PILLAR[1], PILLAR[0] - x) >= radius + 0.5
    inside = (x >= radius) & (x <= SIZE - radius)
    where = beyond & inside & (np.arange(x.shape[1]) >= context)
    off = np.linalg.norm(held(read["positions"]) - held(true["positions"]), axis=-1)[..., 0]
    seen, wanted = read["shown"].sum(-2), true["shown"].sum(-2)
    kind = wanted.argmax(-1)[..., None]
    area = np.maximum(wanted.sum(-1), 1.0)
    right = np.take_along_axis(seen, kind, axis=-1)[..., 0]
    same = (np.abs(right / area - 1) <= 0.5) & (seen.sum(-1) - right <= area / 4)
    return {
        "time": np.abs(emergence(read, true, context) - emergence(true, true, context)),
        "place": mean_where(off, where),
        "other": 100 * mean_where(1.0 - same, where),
    }


# ----------------------------------------------------------------------------- conservation


def read_pour(frames: Frames) -> State:
    """Read how much water there is.

    Returns:
        ``levels`` (b t 2), pixels above the floor of the upper and of the lower vessel; ``total``
        (b t), all pixels of water, the stream's too.
    """
    cover = find_cover(frames, [WATER], "pour")[..., 0, :, :]
    upper = cover[..., :UPPER_FLOOR, UPPER[0] : UPPER[1]]
    middle = SIZE // 2
    lower = cover[..., UPPER_FLOOR + 1 : LOWER_FLOOR, :]
    beside = np.concatenate(
        (
            lower[..., LOWER[0] : middle - BESIDE_STREAM],
            lower[..., middle + BESIDE_STREAM : LOWER[1]],
        ),
        axis=-1,
    )
    levels = [part.sum(-2).mean(-1) for part in (upper, beside)]
    return {"levels": np.stack(levels, axis=-1), "total": cover.sum((-2, -1))}


def pour_errors(read: State, true: State, context: int) -> dict[str, Floats]:
    """How far water is from being poured as it should.

    Returns:
        ``level``, mean difference of both levels in pixels; ``total``, of all water, in % of the
        true one, which stays as it is.
    """
    level = np.abs(read["levels"] - true["levels"]).mean(-1)
    total = np.abs(read["total"] / true["total"] - 1)
    return {"level": level[:, context:].mean(1), "total": 100 * total[:, context:].mean(1)}


def flow(read: State, true: State, context: int) -> Floats:
    """How fast the upper level falls after the context, pixels a step."""
    level = read["levels"][..., 0]
    return -slope(level, _after(level, context))


def read_candle(frames: Frames) -> State:
    """Read how high a candle is: ``height`` (b t), pixels of wax in its three highest columns."""
    cover = find_cover(frames, [WAX, FLAME], "candle")[..., 0, :CANDLE_FLOOR, :]
    return {"height": np.sort(cover.sum(-2), axis=-1)[..., -3:].mean(-1)}


def candle_errors(read: State, true: State, context: int) -> dict[str, Floats]:
    """How far a candle is from burning down as it should.

    Returns:
        ``height``, mean difference in pixels; ``regrown``, the most that it grows above the lowest
        that it had been from the last frame of the context on, in pixels.
    """
    off = np.abs(read["height"] - true["height"])[:, context:].mean(1)
    seen = read["height"][:, context - 1 :]
    regrown = (seen - np.minimum.accumulate(seen, axis=1)).max(1)
    return {"height": off, "regrown": regrown}


def burning(read: State, true: State, context: int) -> Floats:
    """How fast the candle shrinks after the context, pixels a step."""
    return -slope(read["height"], _after(read["height"], context))


def _after(values: Floats, context: int) -> Mask:
    return np.broadcast_to(np.arange(values.shape[1]) >= context, values.shape)


# --------------------------------------------------------------------------------- counting


def read_counting(frames: Frames) -> State:
    """Read where the balls of each colour are: ``places`` (b t 3 8 2), (x, y), nan for none."""
    b, t = frames.shape[:2]
    cover = find_cover(frames, KINDS, "counting")
    places = find_discs(cover.reshape(-1, SIZE, SIZE), COUNTED_RADIUS)
    return {"places": places.reshape(b, t, len(KINDS), MOST_COUNTED, 2)}


def clear(true: State, context: int) -> Mask:
    """Frames (b t) after the context in which no ball hides much of another.

    Balls of one colour do not touch there, others may overlap by a quarter of their width.
    """
    places = true["places"]
    b, t, kinds, most, _ = places.shape
    flat = places.reshape(b, t, kinds * most, 2)
    apart = np.linalg.norm(flat[:, :, :, None] - flat[:, :, None], axis=-1)
    kind = np.arange(kinds * most) // most
    least = COUNTED_RADIUS * np.where(kind[:, None] == kind, 2.25, 1.5)
    np.fill_diagonal(least, 0.0)
    hidden = (apart < least).any((-2, -1))  # a comparison with nan, for none, is False
    return ~hidden & (np.arange(t) >= context)


def counting_errors(read: State, true: State, context: int) -> dict[str, Floats]:
    """How far the balls are from being as many, of the same colours, where they should be.

    All is of the frames in which the true ones are `clear` of one another.

    Returns:
        ``number``, mean difference in balls; ``kinds``, the same by colour, added up; ``place``,
        mean pixels from where a ball should be to the nearest of its colour, at most 16.
    """
    where = clear(true, context)
    seen, wanted = (_counts(state) for state in (read, true))
    off = read["places"][..., None, :, :] - true["places"][..., :, None, :]  # b t kinds true read 2
    distance = np.nan_to_num(np.linalg.norm(off, axis=-1), nan=np.inf).min(-1)
    distance = np.where(np.isnan(true["places"][..., 0]), 0.0, np.minimum(distance, SIZE / 2))
    place = distance.sum((-2, -1)) / wanted.sum(-1)
    return {
        "number": mean_where(np.abs(seen.sum(-1) - wanted.sum(-1)), where),
        "kinds": mean_where(np.abs(seen - wanted).sum(-1), where),
        "place": mean_where(place, where),
    }


def number(read: State, true: State, context: int) -> Floats:
    """Mean number of balls after the context."""
    return mean_where(_counts(read).sum(-1), clear(true, context))


def _counts(state: State) -> Floats:
    return (~np.isnan(state["places"][..., 0])).sum(-1).astype(np.float64)


# ------------------------------------------------------------------------------------------


def go_straight(read: State, context: int, straight: tuple[str, ...]) -> State:
    """Continue what was read in the context in a straight line, each number for itself.

    Args:
        read: A read state, (b t ...).
        context: Frames that are kept, 2 or more.
        straight: Names of the parts to continue; the others stay as in the last context frame.
    """
    result = {}
    for name, values in read.items():
        last = np.repeat(values[:, context - 1 : context], values.shape[1] - context, axis=1)
        if name in straight:
            t = np.arange(context) - (context - 1) / 2
            rise = np.tensordot(t, values[:, :context], axes=(0, 1)) / (t**2).sum()
            ahead = np.arange(1, last.shape[1] + 1).reshape(-1, *[1] * (values.ndim - 2))
            last = last + rise[:, None] * ahead
        result[name] = np.concatenate((values[:, :context], last), axis=1)
    return result


_BALL_UNITS = {"velocity": "px/step", "size": "%", "lost": "%"}

PROBES: dict[str, Probe] = {
    "motion": Probe(
        5,
        read_balls("motion", (0,)),
        motion_errors,
        _BALL_UNITS,
        motion_speed,
        "speed, pixels a step",
        ("positions",),
    ),
    "collision": Probe(
        5,
        read_balls("collision", (0, 2)),
        collision_errors,
        {**_BALL_UNITS, "momentum": "%", "energy": "%"},
        parting_speed,
        "speed of parting, pixels a step",
        ("positions",),
    ),
    "parabola": Probe(
        5,
        read_balls("parabola", (0,)),
        parabola_errors,
        {**_BALL_UNITS, "gravity": "%"},
        motion_speed,
        "speed along the row, pixels a step",
        ("positions",),
    ),
    "occlusion": Probe(
        4,
        read_occlusion,
        occlusion_errors,
        {"time": "steps", "place": "px", "other": "%"},
        emergence,
        "step at which it comes out",
    ),
    "pour": Probe(
        8,
        read_pour,
        pour_errors,
        {"level": "px", "total": "%"},
        flow,
        "fall of the upper level, pixels a step",
        ("levels", "total"),
    ),
    "candle": Probe(
        8,
        read_candle,
        candle_errors,
        {"height": "px", "regrown": "px"},
        burning,
        "shrinking, pixels a step",
        ("height",),
    ),
    "counting": Probe(
        6,
        read_counting,
        counting_errors,
        {"number": "balls", "kinds": "balls", "place": "px"},
        number,
        "number of balls",
    ),
}
"""Every probe, by the name of its scene."""
