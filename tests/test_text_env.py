"""Environments and evaluations of worlds that follow words."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from tests.tiny_text import CAPTIONS, make_text_world
from tests.tiny_worlds import make_tiny_world
from worldsim import WorldModelEnv, WorldModelVectorEnv
from worldsim.eval.control import next_frame_errors
from worldsim.eval.held_out import HeldOutWindows, roll_out
from worldsim.world_model import WorldModel

pytestmark = pytest.mark.numeric

RED, BLUE = "a red ball", "two blue balls"


@pytest.fixture(scope="module")
def world() -> WorldModel:
    return make_text_world()


class TestEvaluation:
    """Held-out windows are continued by their captions."""

    def test_of_frames_in_play(self, world: WorldModel) -> None:
        found = {}
        for captions in ((RED,) * 3, (BLUE, RED, RED), ()):
            windows = dataclasses.replace(world.starts, captions=captions)
            held_out = HeldOutWindows(windows, 2, 2, ((0, 0), (0, 4), (0, 8)))
            found[captions] = roll_out(world, held_out)
        red, first_blue, none = found.values()
        changed = (red != first_blue).any(axis=(1, 2, 3, 4))
        assert changed.tolist() == [True, False, False]
        assert (red != none).any()

    def test_of_a_frame_after_recorded_ones(self, world: WorldModel) -> None:
        errors = []
        for captions in ((RED,) * 3, (BLUE, RED, RED)):
            windows = dataclasses.replace(world.starts, captions=captions)
            errors.append(next_frame_errors(world, windows, torch.Generator().manual_seed(0)))
        assert (errors[0] != errors[1]).tolist() == [True, False, False]


class TestEnvironments:
    def test_begin_from_words_alone(self, world: WorldModel) -> None:
        env = WorldModelEnv(world)
        frame, info = env.reset(seed=3, options={"prompt": RED})
        assert info["start"] == -1
        again, _ = env.reset(seed=3, options={"prompt": RED})
        other, _ = env.reset(seed=3, options={"prompt": BLUE})
        assert np.array_equal(frame, again)
        assert (frame != other).mean() > 0.1
        assert env.step(1)[0].shape == frame.shape

    def test_begin_from_a_start_and_words(self, world: WorldModel) -> None:
        env = WorldModelEnv(world, guidance_scale=2.0)
        steps = []
        for prompt in (RED, BLUE, RED):
            frame, info = env.reset(seed=3, options={"prompt": prompt, "start": 1})
            assert np.array_equal(frame, world.starts.frames[1, -1])
            assert info["start"] == 1
            steps.append(env.step(1)[0])
        assert np.array_equal(steps[0], steps[2])
        assert (steps[0] != steps[1]).any()

    def test_own_frames_may_have_a_prompt(self, world: WorldModel) -> None:
        env = WorldModelEnv(world)
        frames = world.starts.frames[2]
        stepped = []
        for prompt in (RED, BLUE):
            env.reset(seed=3, options={"prompt": prompt, "start": frames})
            stepped.append(env.step(1)[0])
        assert (stepped[0] != stepped[1]).any()

    def test_lanes_have_a_prompt_each_or_one_for_all(self, world: WorldModel) -> None:
        envs = WorldModelVectorEnv(world, 2)
        each, _ = envs.reset(seed=[3, 4], options={"prompt": [RED, BLUE]})
        for lane, prompt in enumerate((RED, BLUE)):
            alone, _ = WorldModelEnv(world).reset(seed=3 + lane, options={"prompt": prompt})
            assert np.abs(alone.astype(int) - each[lane]).max() <= 1
        same, _ = envs.reset(seed=[3, 3], options={"prompt": RED})
        assert np.abs(same[0].astype(int) - same[1]).max() <= 1

    def test_lanes_of_a_mask_take_their_own_prompts(self, world: WorldModel) -> None:
        envs = WorldModelVectorEnv(world, 2)
        before, _ = envs.reset(seed=[3, 4], options={"prompt": [RED, RED]})
        mask = np.array([False, True])
        after, infos = envs.reset(seed=[3, 3], options={"prompt": [BLUE, RED], "reset_mask": mask})
        assert np.array_equal(after[0], before[0])
        assert np.abs(after[1].astype(int) - before[0]).max() <= 1
        assert infos["start"].tolist() == [0, -1]
        with pytest.raises(ValueError, match="'prompt' has one value per lane: expected 2, got 1"):
            envs.reset(options={"prompt": [RED]})

    def test_many_lanes_begin_with_the_captions_of_their_starts(self, world: WorldModel) -> None:
        """As many lanes as starts: all starts are read once."""
        envs = WorldModelVectorEnv(world, 3)
        envs.reset(seed=0, options={"start": [0, 1, 2]})
        together = envs.step(np.ones(3, int))[0]
        for lane in range(3):
            env = WorldModelEnv(world)
            options = {"start": lane, **({"prompt": CAPTIONS[lane]} if CAPTIONS[lane] else {})}
            env.reset(seed=lane, options=options)
            assert np.abs(env.step(1)[0].astype(int) - together[lane]).max() <= 1

    def test_a_start_whose_caption_is_foreign_has_none(self, world: WorldModel) -> None:
        """Nobody has typed it, so it is no error."""
        found = []
        for captions in (("a green ball",) * 3, ()):
            starts = dataclasses.replace(world.starts, captions=captions)
            env = WorldModelEnv(world, starts=starts)
            env.reset(seed=0)
            found.append(env.step(1)[0])
        assert np.array_equal(*found)

    def test_a_world_without_text_refuses_a_prompt(self) -> None:
        env = WorldModelEnv(make_tiny_world())
        for options in ({"prompt": RED}, {"prompt": RED, "start": 0}):
            with pytest.raises(ValueError, match="takes no prompt"):
                env.reset(options=options)
