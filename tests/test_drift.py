"""Drift, memory and counterfactuals: long sessions, what comes back, the real game once more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from tests.tiny_worlds import (
    SIDE,
    WINDOW,
    make_tiny_game,
    make_tiny_world,
    write_pong_recording,
    write_tiny_recording,
)
from worldsim.data.episode import Episode
from worldsim.data.recording import Recording
from worldsim.data.split import Measurable
from worldsim.data.writer import RecordingWriter
from worldsim.eval.control import counterfactuals, effect, motion
from worldsim.eval.drift import _known, _measure, drift, nearest, shrink
from worldsim.eval.held_out import HeldOutWindows, choose_windows, roll_out
from worldsim.eval.memory import hidden_for, remember
from worldsim.eval.real_game import CannotReplayError, replay
from worldsim.world_model import WorldModel

pytestmark = pytest.mark.numeric

EPISODES = Measurable(unseen=[4], reference=[0, 1, 2, 3, 5], sentences=[])


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return write_tiny_recording(tmp_path_factory.mktemp("recordings") / "square", steps=60)


@pytest.fixture(scope="module")
def world() -> WorldModel:
    return make_tiny_world()


class TestDrift:
    def test_an_untrained_world_is_far_from_the_game_and_real_frames_are_not(
        self, world: WorldModel, recording: Recording
    ) -> None:
        walked: list[int] = []
        found = drift(
            world,
            recording,
            EPISODES,
            bounds=(5, 110, 120, 130),
            num_lanes=3,
            on_step=lambda: walked.append(1),
        )
        assert found.steps == [5, 110, 120, 130]
        assert len(walked) == 130
        assert found.nearest.shape == found.objects.shape == found.motion.shape == (4, 3)
        assert found.nearest.min() > found.held_out_nearest + 5
        assert found.still[-1] < found.held_out_still - 10
        assert found.slope.low <= found.slope.value <= found.slope.high

    def test_same_seed_same_figures(self, world: WorldModel, recording: Recording) -> None:
        first, again, other = (
            drift(world, recording, EPISODES, bounds=(3,), num_lanes=2, seed=seed).nearest
            for seed in (0, 0, 1)
        )
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)

    def test_each_fault_is_noticed_by_its_figure(self, recording: Recording) -> None:
        """Real frames, and the same with nothing moving, with things gone, and with noise."""
        median = recording.median_frame()
        known, still = _known(recording, EPISODES.reference, median)
        episode = recording.episode(EPISODES.unseen[0])
        real, before = episode.frames[None, 1:], episode.frames[None, :-1]

        def figures(shown: np.ndarray, previous: np.ndarray) -> list[float]:
            return [float(np.mean(f)) for f in _measure(shown, previous, known, median, still)]

        right = figures(real, before)
        frozen = figures(before[:, :1].repeat(8, 1), before[:, :1].repeat(8, 1))
        empty = figures(np.broadcast_to(median, real.shape), np.broadcast_to(median, real.shape))
        noise = np.random.default_rng(0).normal(0, 40, real.shape)
        noisy = figures((real + noise).clip(0, 255).astype(np.uint8), before)
        assert right[2] > 0 == frozen[2]
        assert frozen[1] > 0 == empty[1]
        assert noisy[0] > right[0] + 5
        assert noisy[3] < right[3] - 10

    def test_nearest_is_the_distance_by_hand(self) -> None:
        known = shrink(np.stack([np.full((SIDE, SIDE, 3), v, np.uint8) for v in (0, 100)]))
        asked = shrink(np.full((1, SIDE, SIDE, 3), 70, np.uint8))
        assert nearest(asked, known) == pytest.approx(30, abs=1e-3)

    def test_bounds_must_be_positive(self, world: WorldModel, recording: Recording) -> None:
        with pytest.raises(ValueError, match="1 or more"):
            drift(world, recording, EPISODES, bounds=(0, 5))


OFF = 6  # frames in the dark


@pytest.fixture(scope="module")
def blinking(world: WorldModel, tmp_path_factory: pytest.TempPathFactory) -> Recording:
    game = make_tiny_game()
    path = tmp_path_factory.mktemp("recordings") / "lamp"
    with RecordingWriter(path, game) as writer:
        for seed in range(4):
            frames = np.full((61, SIDE, SIDE, 3), 20, np.uint8)
            on = np.arange(61) % 15 < 15 - OFF
            frames[on, 2 + seed : 6 + seed, 4:8] = 220
            nothing = np.zeros(60)
            writer.write_episode(
                Episode(
                    frames=frames,
                    actions=nothing.astype(np.int64),
                    rewards=nothing.astype(np.float32),
                    terminations=nothing.astype(bool),
                    truncations=np.arange(60) == 59,
                    seed=seed,
                    policy="random",
                )
            )
    return Recording(path)


@pytest.fixture(scope="module")
def lamp(world: WorldModel, blinking: Recording) -> HeldOutWindows:
    return choose_windows(world, blinking, [0, 1, 2, 3], horizons=(8,), num_windows=40)


class TestMemory:
    """A lamp that is on, off for a while, and on again at the same place."""

    def test_finds_what_was_hidden_and_for_how_long(self, lamp: HeldOutWindows) -> None:
        dark = np.full((SIDE, SIDE, 3), 20, np.uint8)
        ages = hidden_for(lamp, newest=2, background=dark)
        assert set(np.unique(ages)) == {0, OFF + 1}  # the frame after as many in the dark
        for row, (episode, first) in enumerate(lamp.places):
            for step in range(8):
                now = first + WINDOW + step
                seen = now % 15 == 0 and first <= now - OFF - 1 < first + WINDOW - 2
                assert (ages[row, step] > 0).sum() == (16 if seen else 0), (episode, now)

    def test_a_world_that_saw_it_is_distinguished_from_one_that_did_not(
        self, world: WorldModel, lamp: HeldOutWindows
    ) -> None:
        dark = np.full((SIDE, SIDE, 3), 20, np.uint8)
        found = remember(world, lamp, lamp.real, dark)
        assert list(found) == [8]
        assert found[8].world.value == pytest.approx(58.9, abs=0.1)  # it shows the truth
        assert found[8].forgetful.value < 30
        assert found[8].median.value == pytest.approx(20 * np.log10(255 / 200), abs=0.01)

    def test_without_returning_pixels_there_are_no_figures(
        self, world: WorldModel, tmp_path: Path
    ) -> None:
        still = write_tiny_recording(tmp_path / "still", still=True)
        held_out = choose_windows(world, still, [0, 1], horizons=(8,), num_windows=4)
        assert remember(world, held_out, held_out.real, still.median_frame()) == {}

    def test_a_short_context_is_the_newest_part(
        self, world: WorldModel, lamp: HeldOutWindows
    ) -> None:
        whole, newest = (roll_out(world, lamp, newest=n) for n in (WINDOW, 2))
        assert np.array_equal(whole, roll_out(world, lamp))
        assert not np.array_equal(whole, newest)


@pytest.fixture(scope="module")
def pong_recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return write_pong_recording(tmp_path_factory.mktemp("recordings") / "pong")


class TestTheGameAgain:
    def test_the_same_actions_give_the_same_frames(self, pong_recording: Recording) -> None:
        episode = pong_recording.episode(1)
        asked: list[int] = []
        shown = replay(
            pong_recording,
            [(1, 10), (1, 30)],
            np.stack([episode.actions[10:30], episode.actions[30:50]]),
            on_place=lambda: asked.append(1),
        )
        assert np.array_equal(shown[0], episode.frames[11:31])
        assert np.array_equal(shown[1], episode.frames[31:51])
        assert len(asked) == 2

    def test_other_actions_give_others(self, pong_recording: Recording) -> None:
        up, down = replay(pong_recording, [(0, 20)] * 2, np.repeat([[1], [2]], 10, axis=1))
        assert not np.array_equal(up[-1], down[-1])

    def test_a_game_that_differs_when_replayed_is_named(
        self, pong_recording: Recording, tmp_path: Path
    ) -> None:
        with RecordingWriter(tmp_path / "other", pong_recording.game) as writer:
            episode = pong_recording.episode(0)
            episode.seed = 12345
            writer.write_episode(episode)
        with pytest.raises(CannotReplayError, match="differs when replayed"):
            replay(Recording(tmp_path / "other"), [(0, 5)], np.zeros((1, 3), int))

    def test_a_game_that_is_not_installed_is_named(self, recording: Recording) -> None:
        with pytest.raises(CannotReplayError, match=r"tests/Square-v0 cannot be made here"):
            replay(recording, [(0, 5)], np.zeros((1, 3), int))

    def test_a_game_that_fails_is_named(self, recording: Recording, tmp_path: Path) -> None:
        gymnasium.register("tests/Broken-v0", Broken)
        try:
            with RecordingWriter(tmp_path, make_tiny_game(env_id="tests/Broken-v0")) as writer:
                episode = recording.episode(0)
                episode.frames[:] = 0
                writer.write_episode(episode)
            with pytest.raises(CannotReplayError, match=r"Broken-v0 fails .* replayed: .*Error$"):
                replay(Recording(tmp_path), [(0, 5)], np.zeros((1, 3), int))
        finally:
            del gymnasium.registry["tests/Broken-v0"]


class Broken(gymnasium.Env):
    """A game that asserts without a word when it is stepped."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space = gymnasium.spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8)
    action_space = gymnasium.spaces.Discrete(3)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(self, **options: Any) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=options.get("seed"))
        return np.zeros((SIDE, SIDE, 3), np.uint8), {}

    def step(self, action: int) -> Any:
        raise AssertionError

    def render(self) -> Any:
        return np.zeros((SIDE, SIDE, 3), np.uint8)


class TestCounterfactuals:
    def test_every_action_from_the_same_moment(self, pong_recording: Recording) -> None:
        world = make_tiny_world(pong_recording.game)
        held_out = choose_windows(world, pong_recording, [0, 2], horizons=(1,), num_windows=2)
        found = counterfactuals(world, pong_recording, held_out, num_steps=6)
        assert found.imagined.shape == (2, 3, 6, 64, 64, 3)
        assert found.real is not None
        assert found.real.shape == found.imagined.shape
        changed = effect(found.real, pong_recording.game.noop_action)
        assert (changed[:, pong_recording.game.noop_action] == 0).all()
        assert (changed[:, 1:].sum(1) > 0).all()
        episode, first = held_out.places[0]
        held = np.zeros((1, 6), int)
        moment = (episode, first + held_out.context - 1)
        assert np.array_equal(found.real[0, 0], replay(pong_recording, [moment], held)[0])

    def test_without_the_game_only_the_world_is_measured(
        self, world: WorldModel, recording: Recording
    ) -> None:
        held_out = choose_windows(world, recording, [5], horizons=(1,), num_windows=2)
        found = counterfactuals(world, recording, held_out, num_steps=3)
        assert found.real is None
        assert "cannot be made here" in found.why_not
        assert found.imagined.shape == (2, 3, 3, SIDE, SIDE, 3)

    def test_motion_counts_the_pixels_that_change(self) -> None:
        frames = np.zeros((1, 3, 4, 4, 3), np.uint8)
        frames[0, 1, 0, 0] = 99  # on for one frame: two changes over three steps
        assert motion(frames, frames[:, 0]).tolist() == [pytest.approx(2 / 3)]
