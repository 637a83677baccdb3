"""Clients of Gymnasium that take an id or an environment, and know nothing of worlds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import AtariPreprocessing, RecordVideo
from gymnasium.wrappers.vector import RecordVideo as RecordVectorVideo
from stable_baselines3.common.env_util import make_atari_env

from worldsim.media import read_frames
from worldsim.registration import BUNDLED_WORLDS, GAMES
from worldsim.world_model import WorldModel

ENV_ID = "worldsim/WorldModel-v0"


class TestMaxEpisodeSteps:
    def test_is_the_argument_of_make(self, world: WorldModel) -> None:
        env = gymnasium.make(ENV_ID, world=world, max_episode_steps=3)
        env.reset(seed=0)
        assert [env.step(0)[3] for _ in range(3)] == [False, False, True]

    def test_of_make_may_be_more_than_a_thousand(self, world: WorldModel) -> None:
        env = gymnasium.make(ENV_ID, world=world, max_episode_steps=5000)
        env.reset(seed=0)
        state = replace(env.unwrapped.clone_state(), elapsed=np.array([1000]))
        env.unwrapped.restore_state(state)
        assert not env.step(0)[3]

    def test_is_a_thousand_by_default(self, world: WorldModel) -> None:
        assert gymnasium.spec(ENV_ID).max_episode_steps == 1000
        assert gymnasium.make_vec(ENV_ID, world=world).max_episode_steps == 1000

    @pytest.mark.parametrize("mode", ["vector_entry_point", "sync"])
    def test_is_the_argument_of_make_vec(self, world: WorldModel, mode: str) -> None:
        envs = gymnasium.make_vec(
            ENV_ID, 2, world=world, max_episode_steps=2, vectorization_mode=mode
        )
        envs.reset(seed=0)
        assert [envs.step([0, 0])[3].tolist() for _ in range(2)] == [[False] * 2, [True] * 2]


@pytest.mark.slow
@pytest.mark.parametrize("env_id", BUNDLED_WORLDS)
@pytest.mark.filterwarnings("ignore:.*not within the observation space:UserWarning")
def test_an_id_makes_a_bundled_world(env_id: str) -> None:
    game_id = env_id.replace("-World", "")
    assert gymnasium.spec(env_id).max_episode_steps == GAMES[game_id][1]
    env = gymnasium.make(env_id)
    check_env(env.unwrapped)
    assert env.unwrapped.world.game.env_id == game_id
    envs = gymnasium.make_vec(env_id, num_envs=2)
    assert envs.reset(seed=0)[0].shape == (2, 64, 64, 3)


class TestAtariWrappers:
    @pytest.mark.parametrize("frame_skip", [1, 4])
    @pytest.mark.parametrize("grey", [True, False])
    def test_gymnasiums_preprocessing(self, world: WorldModel, grey: bool, frame_skip: int) -> None:
        env = gymnasium.make(ENV_ID, world=world)
        env = AtariPreprocessing(
            env,
            noop_max=2,
            frame_skip=frame_skip,
            terminal_on_life_loss=True,
            grayscale_obs=grey,
            screen_size=24,
        )
        assert env.reset(seed=0)[0].shape == ((24, 24) if grey else (24, 24, 3))
        obs, *_ = env.step(1)
        assert obs in env.observation_space
        screen = np.empty((*env.render().shape[:2],), np.uint8)
        env.unwrapped.ale.getScreenGrayscale(screen)
        red, green, blue = np.moveaxis(env.render().astype(float), -1, 0)
        np.testing.assert_allclose(screen, 0.299 * red + 0.587 * green + 0.114 * blue, atol=1)

    def test_of_stable_baselines(self, world_path: Path) -> None:
        envs = make_atari_env(ENV_ID, 2, seed=0, env_kwargs={"world": str(world_path)})
        assert envs.reset().shape == (2, 84, 84, 1)
        rewards = envs.step(np.array([0, 1]))[1]
        assert set(rewards.tolist()) <= {-1.0, 0.0, 1.0}


class TestPlay:
    def test_keys_and_meanings_are_the_games(self, world: WorldModel) -> None:
        env = gymnasium.make(ENV_ID, world=world).unwrapped
        assert env.get_action_meanings() == list(world.game.action_meanings)
        assert set(env.get_keys_to_action().values()) == set(world.game.key_bindings.values())

    @pytest.mark.filterwarnings("ignore:.*matplotlib is not installed")  # it asks for a Tk window
    def test_gymnasiums_window_plays_a_world(self, world: WorldModel) -> None:
        pygame = pytest.importorskip("pygame")
        from gymnasium.utils.play import play

        taken: list[int] = []

        def watch(*transition: Any) -> None:
            taken.append(transition[2])
            key = next(iter(env.unwrapped.get_keys_to_action()))[0]
            if len(taken) == 1:
                pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=key))
            if len(taken) == 3:
                pygame.event.post(pygame.event.Event(pygame.QUIT))

        env = gymnasium.make(ENV_ID, world=world)
        play(env, callback=watch, seed=0)
        pressed = next(iter(env.unwrapped.get_keys_to_action().values()))
        assert taken == [0, pressed, pressed]


@pytest.mark.filterwarnings("ignore:.*subprocess .* is still running:ResourceWarning")
class TestRecordVideo:
    """Gymnasium writes with moviepy, the extra `recordvideo`."""

    def test_of_a_world(self, world: WorldModel, tmp_path: Path) -> None:
        pytest.importorskip("moviepy")
        env = gymnasium.make(ENV_ID, world=world, max_episode_steps=3)
        env = RecordVideo(env, str(tmp_path / "videos"), episode_trigger=lambda _: True)
        env.reset(seed=0)
        while not env.step(0)[3]:
            pass
        env.close()
        frames = read_frames(tmp_path / "videos" / "rl-video-episode-0.mp4", last=9)
        assert frames.shape[:1] == (4,)

    def test_of_lanes(self, world: WorldModel, tmp_path: Path) -> None:
        pytest.importorskip("moviepy")
        envs = gymnasium.make_vec(ENV_ID, 2, world=world, max_episode_steps=3)
        envs = RecordVectorVideo(envs, str(tmp_path / "videos"), episode_trigger=lambda _: True)
        envs.reset(seed=0)
        for _ in range(3):
            envs.step(np.zeros(2, int))
        envs.close()
        assert list((tmp_path / "videos").glob("*.mp4"))
