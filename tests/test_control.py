from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny_worlds import WINDOW, losses_of, make_tiny_world, write_tiny_recording
from worldsim.data.recording import Recording
from worldsim.eval.control import action_shuffle_ratio
from worldsim.world_model import WorldModel

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return write_tiny_recording(tmp_path_factory.mktemp("recordings") / "square")


@pytest.fixture(scope="module")
def world() -> WorldModel:
    return make_tiny_world()


class TestActionShuffleRatio:
    def test_is_one_for_a_world_that_does_not_listen(
        self, world: WorldModel, recording: Recording
    ) -> None:
        deaf = make_tiny_world()
        torch.nn.init.zeros_(deaf.dit.action_embedding.weight)
        ratio = action_shuffle_ratio(deaf, recording, [0, 1], num_batches=2)
        assert ratio.overall == 1.0
        assert set(ratio.by_action.values()) == {1.0}
        assert action_shuffle_ratio(world, recording, [0, 1], num_batches=2).overall != 1.0

    @pytest.mark.slow
    def test_rises_for_a_world_that_learned_to_listen(self, recording: Recording) -> None:
        world = make_tiny_world()
        torch.nn.init.zeros_(world.dit.detail.head[-1].weight)
        optimizer = torch.optim.AdamW(world.parameters(), lr=4e-3)
        rng = np.random.default_rng(0)
        for step in range(240):
            windows = recording.sample_windows(rng, 8, WINDOW + world.num_history, [0, 1, 2, 3])
            losses = losses_of(world, windows, step)
            optimizer.zero_grad()
            losses.mean(losses.frame).backward()
            optimizer.step()
        ratio = action_shuffle_ratio(world, recording, [4, 5])
        assert ratio.overall > 1.5
        # a world that is given the action taken is right, whatever the other actions are
        assert list(ratio.by_action) == list(world.game.action_meanings)
        assert min(ratio.by_action.values()) > 1.2
        assert ratio == action_shuffle_ratio(world, recording, [4, 5])

    def test_is_undefined_when_the_player_never_chose(
        self, world: WorldModel, tmp_path: Path
    ) -> None:
        idle = write_tiny_recording(tmp_path / "idle", still=True)
        ratio = action_shuffle_ratio(world, idle, [0, 1], num_batches=2)
        assert np.isnan([ratio.overall, *ratio.by_action.values()]).all()

    def test_of_episodes_shorter_than_a_window(self, world: WorldModel, tmp_path: Path) -> None:
        short = write_tiny_recording(tmp_path, steps=2, episodes=4)
        assert np.isfinite(action_shuffle_ratio(world, short, [0, 1, 2, 3]).overall)
