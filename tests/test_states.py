"""States: they go on in the world that they are of, wherever it was loaded, and in no other."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.tiny_worlds import make_tiny_game, make_tiny_world
from worldsim.rollout import Rollout
from worldsim.rollout_state import RolloutState, fingerprint
from worldsim.world_folder import load
from worldsim.world_model import WorldModel
from worldsim.world_model_env import WorldModelEnv, WorldModelVectorEnv


def with_other(tensor: str) -> WorldModel:
    """A world in which one tensor differs."""
    world = make_tiny_world()
    with torch.no_grad():
        {**world.state_dict(), "background_latents": world.background_latents}[tensor].add_(0.1)
    return world


OTHERS: dict[str, Callable[[], WorldModel]] = {
    "weights": lambda: with_other("dit.embed.weight"),
    "head": lambda: with_other("head.reward.bias"),
    "background": lambda: with_other("background_latents"),
    "window": lambda: make_tiny_world(window=8),
    "depth": lambda: make_tiny_world(depth=4),
    "history": lambda: make_tiny_world(num_history=3),
    "frame": lambda: make_tiny_world(make_tiny_game(frame_size=(16, 24))),
    "actions": lambda: make_tiny_world(make_tiny_game(action_meanings=("NOOP", "GO"))),
}


def begun(world: WorldModel, num_envs: int = 1) -> Rollout:
    rollout = Rollout(world, num_envs)
    starts = world.starts
    rollout.reset(starts.frames[:num_envs], starts.actions[:num_envs], seeds=range(num_envs))
    return rollout


class TestRollouts:
    def test_a_state_continues_in_the_same_world_loaded_by_another_process(
        self, world: WorldModel, tmp_path: Path
    ) -> None:
        world.save(tmp_path / "square")
        rollout = begun(world)
        rollout.step(np.array([1]))
        sent = pickle.dumps(rollout.clone_state())
        again = Rollout(load(tmp_path / "square", device="cpu"))
        again.restore_state(pickle.loads(sent))
        for action in (1, 2, 0):
            ours, theirs = (r.step(np.array([action])) for r in (rollout, again))
            assert np.array_equal(ours.frames, theirs.frames)
            assert np.array_equal(ours.rewards, theirs.rewards)

    @pytest.mark.parametrize("name", OTHERS)
    def test_a_state_of_another_world_is_refused(self, world: WorldModel, name: str) -> None:
        with pytest.raises(ValueError, match="the state belongs to another world"):
            begun(world).restore_state(begun(OTHERS[name]()).clone_state())

    def test_a_world_that_was_trained_on_is_another(self) -> None:
        world = make_tiny_world()
        state = begun(world).clone_state()
        before = fingerprint(world)
        with torch.no_grad():
            for parameter in world.parameters():
                parameter.mul_(0.5)
        assert fingerprint(world) != before
        with pytest.raises(ValueError, match="or to other weights"):
            begun(world).restore_state(state)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda state: None, "got NoneType"),
            (lambda state: 5, "got int"),
            (lambda state: dataclasses.replace(state, keys=state.keys[:0]), "has 0 lanes"),
            (
                lambda state: dataclasses.replace(state, history=state.history.to("meta")),
                "the state is on meta and this world on cpu",
            ),
            (
                lambda state: dataclasses.replace(state, history=state.history[:, :1]),
                "history is torch.float32 of shape",
            ),
            (
                lambda state: dataclasses.replace(state, history=state.history.double()),
                "history is torch.float64 of shape",
            ),
            (
                lambda state: dataclasses.replace(state, keys=torch.zeros(1)),
                "random keys is torch.float32 of shape",
            ),
        ],
    )
    def test_what_is_no_state_of_it_is_refused_and_changes_nothing(
        self, world: WorldModel, change: Any, words: str
    ) -> None:
        rollout, same = begun(world), begun(world)
        with pytest.raises((TypeError, ValueError), match=words) as error:
            rollout.restore_state(change(rollout.clone_state()))
        assert "\n" not in str(error.value)
        assert np.array_equal(rollout.step(np.array([1])).frames, same.step(np.array([1])).frames)

    def test_one_that_has_not_begun_has_no_state(self, world: WorldModel) -> None:
        with pytest.raises(RuntimeError, match=r"call reset before clone_state: lanes \[0, 1\]"):
            Rollout(world, 2).clone_state()

    def test_lanes_are_of_the_same_world(self, world: WorldModel) -> None:
        state = begun(world, 2).clone_state()
        assert isinstance(state, RolloutState)
        begun(world, 3).restore_state(state.take_lanes([1, 1, 0]))


@pytest.mark.parametrize("kind", ["one", "vector"])
class TestEnvironments:
    def make(self, kind: str, world: WorldModel, **options: Any) -> Any:
        if kind == "one":
            return WorldModelEnv(world, **options)
        return WorldModelVectorEnv(world, 2, **options)

    def action(self, kind: str) -> Any:
        return 1 if kind == "one" else np.array([1, 2])

    @pytest.mark.parametrize("name", ["weights", "frame"])
    def test_a_state_of_another_world_is_refused(
        self, kind: str, world: WorldModel, name: str
    ) -> None:
        env, other = self.make(kind, world), self.make(kind, OTHERS[name]())
        env.reset(seed=0)
        other.reset(seed=0)
        words = "observes" if name == "frame" else "the state belongs to another world"
        with pytest.raises(ValueError, match=words):
            env.restore_state(other.clone_state())

    def test_what_is_no_state_is_refused_and_changes_nothing(
        self, kind: str, world: WorldModel
    ) -> None:
        env, same = self.make(kind, world), self.make(kind, world)
        latent, many = self.make(kind, world, observation="latents"), WorldModelVectorEnv(world, 3)
        for one in (env, same, latent, many):
            one.reset(seed=0)
        broken = dataclasses.replace(env.clone_state(), rngs=())
        refused = {
            "got NoneType": None,
            "got dict": {},
            "observes float32 of": latent.clone_state(),
            "cloned from one with 3": many.clone_state(),
            "lacks a part of its": broken,
        }
        for words, state in refused.items():
            with pytest.raises((TypeError, ValueError), match=words) as error:
                env.restore_state(state)
            assert "\n" not in str(error.value)
        ours, theirs = env.step(self.action(kind)), same.step(self.action(kind))
        assert np.array_equal(ours[0], theirs[0])
