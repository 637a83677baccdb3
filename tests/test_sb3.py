"""Stable-Baselines3 in a learned world, its agents as players, and `worldsim agent`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecFrameStack

from tests.tiny_worlds import SIDE, make_tiny_world
from worldsim.game.agent_policy import AgentPolicy, load_agent
from worldsim.game.describe import describe_game
from worldsim.game.policy import load_policy
from worldsim.sb3 import SB3VecEnv
from worldsim.train import agent as agent_command
from worldsim.train.agent import train_agent
from worldsim.train.agent_config import AgentConfig, main
from worldsim.train.run_log import Logging
from worldsim.world_model import WorldModel
from worldsim.world_model_env import WorldModelVectorEnv

pytestmark = pytest.mark.numeric

PONG = "worldsim/Pong-v0"


@pytest.fixture(scope="module")
def mortal_world() -> WorldModel:
    return make_tiny_world(termination_bias=-1.0)


QUIET = Logging(wandb="disabled")


@pytest.fixture(scope="module")
def pong_like(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random world that takes itself for Pong."""
    game = replace(describe_game(PONG), frame_size=(SIDE, SIDE))
    folder = tmp_path_factory.mktemp("worlds") / "imagined"
    make_tiny_world(game, termination_bias=-3.0).save(folder)
    return folder


@pytest.fixture(scope="module")
def agent_folder(pong_like: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("agents") / "one"
    config = AgentConfig(
        str(pong_like), out, steps=1024, num_evals=1, eval_episodes=2, horizon=20, logging=QUIET
    )
    assert train_agent(config) == (True, 1024)
    return out


def figures_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


class TestSB3VecEnv:
    def test_gives_what_the_world_gives(self, mortal_world: WorldModel) -> None:
        ours = SB3VecEnv(
            WorldModelVectorEnv(mortal_world, 3, max_episode_steps=4, autoreset_mode="SameStep")
        )
        theirs = WorldModelVectorEnv(
            mortal_world, 3, max_episode_steps=4, autoreset_mode="SameStep"
        )
        ours.seed(5)
        assert np.array_equal(ours.reset(), theirs.reset(seed=5)[0])
        rng, ended, cut = np.random.default_rng(0), 0, 0
        for _ in range(20):
            actions = rng.integers(3, size=3)
            obs, rewards, dones, infos = ours.step(actions)
            expected, values, terminations, truncations, their_infos = theirs.step(actions)
            assert np.array_equal(obs, expected)
            np.testing.assert_allclose(rewards, values, rtol=1e-6)
            assert np.array_equal(dones, terminations | truncations)
            for lane in range(3):
                if not dones[lane]:
                    keys = ("start", "termination_prob")
                    assert infos[lane] == {key: their_infos[key][lane] for key in keys}
                    continue
                ended += 1
                last = their_infos["final_obs"][lane]
                assert np.array_equal(infos[lane]["terminal_observation"], last)
                assert infos[lane]["TimeLimit.truncated"] == (
                    truncations[lane] and not terminations[lane]
                )
                cut += infos[lane]["TimeLimit.truncated"]
                assert infos[lane]["start"] == their_infos["final_info"]["start"][lane]
        assert ended > cut > 0

    def test_wants_resets_in_the_same_step_and_arrays(self, mortal_world: WorldModel) -> None:
        with pytest.raises(ValueError, match='autoreset_mode="SameStep", got'):
            SB3VecEnv(WorldModelVectorEnv(mortal_world, 2))
        tensors = WorldModelVectorEnv(mortal_world, 2, autoreset_mode="SameStep", output="torch")
        with pytest.raises(ValueError, match="output=\"numpy\", got 'torch'"):
            SB3VecEnv(tensors)

    def test_options_reach_the_world(self, mortal_world: WorldModel) -> None:
        envs = SB3VecEnv(WorldModelVectorEnv(mortal_world, 2, autoreset_mode="SameStep"))
        envs.set_options({"start": 2})
        obs = envs.reset()
        assert np.array_equal(obs, mortal_world.starts.frames[[2, 2], -1])
        assert [info["start"] for info in envs.reset_infos] == [2, 2]
        envs.set_options([{"start": 1}, {"start": 2}])
        with pytest.raises(ValueError, match="same options"):
            envs.reset()

    def test_a_lane_has_nothing_of_its_own(self, mortal_world: WorldModel) -> None:
        envs = SB3VecEnv(WorldModelVectorEnv(mortal_world, 2, autoreset_mode="SameStep"))
        assert envs.get_attr("num_passes") == [envs.envs.num_passes] * 2
        envs.set_attr("num_passes", 1)
        assert envs.envs.num_passes == 1
        with pytest.raises(ValueError, match="share 'num_passes'"):
            envs.set_attr("num_passes", 3, indices=[0])
        with pytest.raises(AttributeError, match="no method 'fly'"):
            envs.env_method("fly")
        envs.reset()
        assert len(envs.get_images()) == 2


@pytest.mark.slow
class TestAgents:
    def test_learning_inside_writes_an_agent_and_its_figures(self, agent_folder: Path) -> None:
        lines = figures_of(agent_folder)
        trials = [line for line in lines if "return/world" in line]
        assert [line["step"] for line in trials] == [0, 1024]
        agent, frame_skip = load_agent(agent_folder)
        assert frame_skip == 3
        assert agent.num_timesteps == 1024
        assert agent.observation_space.shape == (6, SIDE, SIDE)

    @pytest.mark.slow
    def test_the_real_game_grades_it(self, tmp_path: Path) -> None:
        world = tmp_path / "imagined"
        make_tiny_world(describe_game(PONG), termination_bias=-3.0).save(world)
        config = AgentConfig(
            str(world),
            tmp_path / "agent",
            steps=1024,
            learn_in="game",
            num_evals=1,
            eval_episodes=2,
            horizon=5,
            logging=QUIET,
        )
        train_agent(config)
        lines = figures_of(tmp_path / "agent")
        graded = [line["return/game"] for line in lines if "return/game" in line]
        assert len(graded) == 2
        assert all(-5 <= value <= 5 for value in graded)

    @pytest.mark.slow
    def test_it_continues_where_it_stopped(
        self, pong_like: Path, agent_folder: Path, tmp_path: Path
    ) -> None:
        config = AgentConfig(
            str(pong_like), agent_folder, steps=2048, num_evals=1, eval_episodes=2, horizon=20
        )
        with pytest.raises(ValueError, match="continue it with --resume"):
            train_agent(replace(config, logging=QUIET))
        before = load_agent(agent_folder)[0].policy.state_dict()
        load_agent.cache_clear()
        arguments = [str(pong_like), "--out", str(agent_folder), "--resume", "--steps", "2048"]
        assert main(arguments) == 0
        settings = json.loads((agent_folder / "agent.json").read_text())
        assert (settings["steps"], settings["horizon"]) == (2048, 20)  # as given, as it began
        after = load_agent(agent_folder)[0]
        assert after.num_timesteps == 2048
        assert any(
            not before[name].equal(value) for name, value in after.policy.state_dict().items()
        )

    def test_a_signal_saves_it(
        self, pong_like: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
    ) -> None:
        class Asked(agent_command.StopOnSignal):
            def __enter__(self) -> Any:
                self.asked = True
                return super().__enter__()

        monkeypatch.setattr(agent_command, "StopOnSignal", Asked)
        (tmp_path / "cut").mkdir()
        for name in ("agent.zip", "partial-agent.zip"):  # no link that lies there is followed
            (tmp_path / "cut" / name).symlink_to(tmp_path / "victim")
        arguments = [str(pong_like), "--out", str(tmp_path / "cut"), "--wandb", "disabled"]
        arguments += ["--eval-episodes", "2", "--horizon", "10"]
        assert main(arguments) == 130
        assert "--resume" in capsys.readouterr().out
        assert load_agent(tmp_path / "cut")[0].num_timesteps < 1024
        assert not (tmp_path / "victim").exists()

    @pytest.mark.parametrize("settings", ["[]", '{"steps": "x"}', '{"frame_skip": true}'])
    def test_settings_of_another_kind_are_reported_with_their_file(
        self, pong_like: Path, tmp_path: Path, settings: str
    ) -> None:
        (tmp_path / "agent.json").write_text(settings)
        with pytest.raises(ValueError, match=r"agent\.json is damaged \("):
            main([str(pong_like), "--out", str(tmp_path), "--resume", "--steps", "7"])

    def test_it_plays_as_stable_baselines_would(self, pong_like: Path, agent_folder: Path) -> None:
        envs = WorldModelVectorEnv(str(pong_like), 1, frame_skip=3, autoreset_mode="SameStep")
        stacked = VecFrameStack(SB3VecEnv(envs), 2)
        agent = PPO.load(agent_folder / "agent.zip")
        stacked.seed(3)
        obs = stacked.reset()
        policy = load_policy(str(agent_folder), envs.world.game)
        assert isinstance(policy, AgentPolicy)
        frame = obs[0, ..., -3:]
        for _ in range(5):
            wanted, _ = agent.predict(obs, deterministic=True)
            assert policy(frame, {}, np.random.default_rng()) == wanted[0]
            for _ in range(2):  # it holds
                assert policy(frame * 0, {}, np.random.default_rng()) == wanted[0]
            obs, _, dones, _ = stacked.step(wanted)
            frame = obs[0, ..., -3:]
            if dones[0]:
                break

    def test_a_folder_without_an_agent_is_refused(self, agent_folder: Path, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"no agent in .*worldsim agent WORLD --out"):
            load_agent(tmp_path)
        (tmp_path / "agent.zip").write_bytes(b"nothing")
        with pytest.raises(ValueError, match="cannot be read"):
            load_agent(tmp_path)
        for settings in ("[]", "{}", "[" * 100_000, '{"frame_skip": 0}', '{"frame_skip": "x"}'):
            (tmp_path / "agent.json").write_text(settings)
            with pytest.raises(ValueError, match="cannot be read") as caught:
                load_agent(tmp_path)
            assert "\n" not in str(caught.value)
        with pytest.raises(ValueError, match=r"the frames here are 3, 64, 64"):
            AgentPolicy(agent_folder, (64, 64, 3))

    @pytest.mark.parametrize(
        ("flag", "value", "words"),
        [
            ("--num-envs", "7", "--num-envs must be a divisor of 1,024, got 7"),
            ("--frame-skip", "0", "--frame-skip must be a whole number from 1 to 1,000, got 0"),
        ],
    )
    def test_settings_that_make_no_sense(
        self, pong_like: Path, tmp_path: Path, flag: str, value: str, words: str
    ) -> None:
        with pytest.raises(ValueError, match=words):
            main([str(pong_like), "--out", str(tmp_path / "no"), flag, value])
