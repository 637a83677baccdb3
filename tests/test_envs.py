"""The bundled games: Gymnasium's contract, seeds, truth of info, physics, scripted players."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from worldsim.envs import balls, maze, pong
from worldsim.registration import GAMES, WORLD_MODEL_ID, register_envs

register_envs()

PLAYERS = {
    "worldsim/Pong-v0": pong.play,
    "worldsim/Maze-v0": maze.play,
    "worldsim/Balls-v0": balls.play,
}
every_game = pytest.mark.parametrize("env_id", GAMES)


def record(env_id: str, seed: int, steps: int, **kwargs: Any) -> tuple[np.ndarray, list[float]]:
    """Return the frames (t+1 h w c) and rewards of an episode of random actions."""
    env = gymnasium.make(env_id, **kwargs)
    rng = np.random.default_rng(seed)
    frame, _ = env.reset(seed=seed)
    frames, rewards = [frame], []
    for _ in range(steps):
        frame, reward, terminated, truncated, _ = env.step(rng.integers(env.action_space.n))
        frames.append(frame)
        rewards.append(float(reward))
        if terminated or truncated:
            break
    return np.stack(frames), rewards


def mean_return(env_id: str, scripted: bool, seeds: range) -> float:
    """Return the mean sum of rewards of whole episodes."""
    env = gymnasium.make(env_id)
    total = 0.0
    for seed in seeds:
        rng = np.random.default_rng(seed)
        frame, info = env.reset(seed=seed)
        ended = False
        while not ended:
            random_action = int(rng.integers(env.action_space.n))
            action = PLAYERS[env_id](frame, info, rng) if scripted else random_action
            frame, reward, terminated, truncated, info = env.step(action)
            total += float(reward)
            ended = terminated or truncated
    return total / len(seeds)


@every_game
def test_gymnasium_checker_is_content(env_id: str) -> None:
    env = gymnasium.make(env_id, render_mode="rgb_array")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)
    assert env.observation_space == gymnasium.spaces.Box(0, 255, (64, 64, 3), np.uint8)


def test_registering_twice_is_silent_and_light() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        register_envs()
    spec = gymnasium.spec(WORLD_MODEL_ID)
    assert spec.entry_point == "worldsim.world_model_env:WorldModelEnv"
    assert spec.vector_entry_point == "worldsim.world_model_env:WorldModelVectorEnv"


@every_game
def test_metadata_names_the_actions_and_the_player(env_id: str) -> None:
    env = gymnasium.make(env_id).unwrapped
    meanings = env.get_action_meanings()
    assert len(meanings) == env.action_space.n
    assert set(meanings) <= {"NOOP", "UP", "DOWN", "LEFT", "RIGHT"}
    module, function = env.metadata["scripted_policy"].split(":")
    player = PLAYERS[env_id]
    assert (module, function) == (player.__module__, player.__name__)


@every_game
def test_same_seed_gives_the_same_episode(env_id: str) -> None:
    first, first_rewards = record(env_id, 3, 300)
    second, second_rewards = record(env_id, 3, 300)
    np.testing.assert_array_equal(first, second)
    assert first_rewards == second_rewards
    other, _ = record(env_id, 4, 300)
    assert not np.array_equal(first[: len(other)], other[: len(first)])


@every_game
def test_render_is_the_observation_and_frames_are_never_shared(env_id: str) -> None:
    env = gymnasium.make(env_id, render_mode="rgb_array").unwrapped
    frame, _ = env.reset(seed=0)
    np.testing.assert_array_equal(frame, env.render())
    frame[:] = 0
    assert env.render().any()


@every_game
def test_wrong_arguments_are_named(env_id: str) -> None:
    with pytest.raises(ValueError, match=r"action must be .* got 9"):
        gymnasium.make(env_id, disable_env_checker=True).unwrapped.step(9)
    with pytest.raises(ValueError, match="render_mode must be 'rgb_array' or None, got 'human'"):
        type(gymnasium.make(env_id).unwrapped)(render_mode="human")


@every_game
def test_episodes_are_truncated_at_the_registered_length(env_id: str) -> None:
    env = gymnasium.make(env_id, max_episode_steps=20)
    env.reset(seed=0)
    flags = [env.step(0)[2:4] for _ in range(20)]
    assert flags == [(False, False)] * 19 + [(False, True)]


@pytest.mark.parametrize(
    ("env_id", "margin"),
    [("worldsim/Pong-v0", 4), ("worldsim/Maze-v0", 8), ("worldsim/Balls-v0", 10)],
)
def test_scripted_player_beats_random(env_id: str, margin: float) -> None:
    seeds = range(4)
    scripted = mean_return(env_id, True, seeds)
    assert scripted > mean_return(env_id, False, seeds) + margin
    assert scripted > 0


# Pong


def colour_box(frame: np.ndarray, colour: tuple[int, int, int], top: int = 0) -> tuple[int, ...]:
    """Return (x, y, width, height) of the box around all pixels of a colour below a row."""
    ys, xs = np.nonzero((frame[top:] == colour).all(-1))
    x, y = int(xs.min()), int(ys.min())
    return x, y + top, int(xs.max()) - x + 1, int(ys.max()) + 1 - y


def test_pong_info_agrees_with_pixels() -> None:
    env = gymnasium.make("worldsim/Pong-v0")
    frame, info = env.reset(seed=1)
    rng = np.random.default_rng(0)
    for _ in range(200):
        assert colour_box(frame, pong.BALL) == (info["ball_x"], info["ball_y"], 4, 4)
        clear = 8 <= info["ball_x"] <= 52  # the ball hides no part of a paddle
        if clear:
            x, y, width, height = colour_box(frame, pong.PLAYER, top=6)
            assert (x, y, width, height) == (pong.PLAYER_X, info["player_y"], 3, 12)
            assert colour_box(frame, pong.OPPONENT, top=6)[1] == info["opponent_y"]
        pips = (frame[:6] == pong.OPPONENT).all(-1).sum() // 16
        assert pips == info["opponent_score"]
        frame, _, terminated, _, info = env.step(pong.play(frame, {}, rng))
        assert abs(info["ball_vx"]) in (2, 3)
        if terminated:
            break


def test_pong_ends_at_five_points_and_rewards_each() -> None:
    env = gymnasium.make("worldsim/Pong-v0")
    env.reset(seed=0)
    rewards, terminated = [], False
    while not terminated:
        _, reward, terminated, truncated, info = env.step(1)  # pressed into a corner
        rewards.append(reward)
        assert not truncated
    assert info["opponent_score"] == 5
    assert sum(rewards) == info["player_score"] - info["opponent_score"]
    assert (info["ball_x"], info["ball_y"]) == (30, 33)


def test_pong_two_frames_determine_the_velocity() -> None:
    """No hidden state: what moves next is a function of where things were and are."""
    env = gymnasium.make("worldsim/Pong-v0").unwrapped
    rng = np.random.default_rng(0)
    known: dict[tuple[int, ...], tuple[int, int]] = {}
    repeats = 0
    for seed in range(60):
        frame, info = env.reset(seed=seed)
        terminated = False
        for _ in range(600):
            before = info
            action = pong.play(frame, {}, rng) if seed % 2 else int(rng.integers(3))
            frame, reward, terminated, _, info = env.step(action)
            if reward:  # the serve's direction is drawn anew
                before = info
                continue
            ball = tuple(state[key] for state in (before, info) for key in ("ball_x", "ball_y"))
            touching = info["ball_x"] < 7 or info["ball_x"] > 53
            paddle = info["opponent_y"] if info["ball_x"] < 32 else info["player_y"]
            key = (*ball, paddle if touching else -1)
            velocity = (info["ball_vx"], info["ball_vy"])
            repeats += key in known
            assert known.setdefault(key, velocity) == velocity
            if terminated:
                break
    assert repeats > 1000


def test_pong_player_sees_through_the_blur_of_a_learned_world() -> None:
    env = gymnasium.make("worldsim/Pong-v0")
    frame, _ = env.reset(seed=0)
    noise = np.random.default_rng(0)
    agreed = 0
    for t in range(300):
        blurred = (
            frame * 0.8 + np.roll(frame, 1, axis=0) * 0.2 + noise.normal(0, 8, frame.shape)
        ).clip(0, 255)
        action = pong.play(frame, {}, np.random.default_rng(t))
        agreed += action == pong.play(blurred.astype(np.uint8), {}, np.random.default_rng(t))
        frame, _, terminated, _, _ = env.step(action)
        if terminated:
            frame, _ = env.reset()
    assert agreed > 270


def test_pong_player_stays_when_it_sees_no_ball() -> None:
    blank = np.zeros((64, 64, 3), np.uint8)
    rng = np.random.default_rng(0)
    actions = [pong.play(blank, {}, rng) for _ in range(300)]
    assert actions.count(0) > 250  # the rest are its slips


# Maze


def walk(env: gymnasium.Env, info: dict[str, Any], goal: np.ndarray) -> tuple[np.ndarray, dict]:
    """Walk to a tile without passing a shut door; return the last frame and info."""
    walls = info["walls"].copy()
    walls[tuple(info["door"])] = not (info["has_key"] or info["door_open"])
    frame = env.unwrapped.render()
    while tuple(info["player"]) != tuple(goal):
        place = tuple(info["player"].tolist())
        action = maze._first_move(walls, place, lambda tile: tile == tuple(goal))
        assert action, "the goal cannot be reached"
        frame, _, terminated, _, info = env.step(action)
        if terminated:
            break
    return frame, info


@pytest.mark.parametrize("seed", range(5))
def test_maze_can_always_be_finished_and_needs_the_key(seed: int) -> None:
    env = gymnasium.make("worldsim/Maze-v0", render_mode="rgb_array", max_episode_steps=2000)
    _, info = env.reset(seed=seed)
    assert tuple(info["player"]) not in {tuple(info["key"]), tuple(info["exit"])}
    walls = info["walls"].copy()
    walls[tuple(info["door"])] = True
    goal = tuple(info["exit"].tolist())
    assert maze._first_move(walls, tuple(info["player"].tolist()), lambda tile: tile == goal) == 0
    for coin in info["coins"]:
        _, info = walk(env, info, coin)
    assert not info["coins_left"].any()
    _, info = walk(env, info, info["key"])
    assert info["has_key"] or info["door_open"]
    _, info = walk(env, info, info["exit"])
    assert tuple(info["player"]) == goal
    assert info["score"] == 8 + 1 + 1 + 5


def test_maze_door_stays_shut_without_the_key() -> None:
    env = gymnasium.make("worldsim/Maze-v0", render_mode="rgb_array", max_episode_steps=2000)
    _, info = env.reset(seed=0)
    inner = 2 * info["door"] - info["exit"]  # the tile before the door
    assert not info["walls"][tuple(inner)]
    game = env.unwrapped
    game._player = tuple(inner.tolist())
    game._has_key = False
    action = maze.MOVES.index(tuple((info["door"] - inner).tolist()))
    _, reward, terminated, _, info = env.step(action)
    assert tuple(info["player"]) == tuple(inner)
    assert not terminated
    assert reward == 0


def test_maze_remembers_what_went_out_of_sight() -> None:
    env = gymnasium.make("worldsim/Maze-v0", render_mode="rgb_array", max_episode_steps=4000)
    at_first, info = env.reset(seed=8)
    start = info["player"]
    near = [coin for coin in info["coins"] if 0 < np.abs(coin - start).max() <= 3]
    corners = np.array([(1, 1), (1, 15), (15, 15), (15, 1)])
    far = corners[np.abs(corners - start).max(1).argmax()]
    assert np.abs(far - start).max() > 4  # the start is out of sight from there
    assert tuple(far) != tuple(info["exit"])
    assert near

    _, info = walk(env, info, far)
    on_return, info = walk(env, info, start)
    still_there = [coin for coin in near if left_at(info, coin)]
    hidden = window_pixels(start, [coin for coin in near if not left_at(info, coin)])
    assert still_there
    assert not info["has_key"]
    np.testing.assert_array_equal(on_return[~hidden], at_first[~hidden])

    _, info = walk(env, info, still_there[0])
    _, info = walk(env, info, far)
    on_return, info = walk(env, info, start)
    taken = window_pixels(start, still_there[:1])
    assert not np.array_equal(on_return[taken], at_first[taken])


def left_at(info: dict[str, Any], coin: np.ndarray) -> bool:
    """Return whether the coin of a tile is still there."""
    return bool(info["coins_left"][(info["coins"] == coin).all(1)].item())


def window_pixels(player: np.ndarray, tiles: list[np.ndarray]) -> np.ndarray:
    """Return the mask (64 64) of the pixels where tiles are drawn when the player is there."""
    mask = np.zeros((64, 64), bool)
    for row, column in (tile - player for tile in tiles):
        y, x = 28 + 8 * row, 28 + 8 * column
        mask[max(y, 0) : y + 8, max(x, 0) : x + 8] = True
    return mask


def test_maze_coins_are_where_info_says() -> None:
    env = gymnasium.make("worldsim/Maze-v0")
    rng = np.random.default_rng(0)
    frame, info = env.reset(seed=5)
    seen = 0
    gold = maze.COIN[1][2, 2]
    for _ in range(150):
        for coin, left in zip(info["coins"], info["coins_left"], strict=True):
            row, column = coin - info["player"]
            if max(abs(row), abs(column)) <= 2 and (row or column):
                y, x = 28 + 8 * row, 28 + 8 * column
                assert (frame[y + 2, x + 2] == gold).all() == left
                seen += 1
        wall_above = info["walls"][info["player"][0] - 1, info["player"][1]]
        assert (
            wall_above == (frame[20, 28] != maze.draw_tiles(np.zeros((1, 1), bool), 0)[0, 0]).any()
        )
        frame, _, terminated, _, info = env.step(maze.play(frame, info, rng))
        if terminated:
            break
    assert seen > 10


# Balls


def energy(info: dict[str, Any]) -> float:
    """Return the kinetic energy, with radius squared for mass."""
    return float((info["radii"] ** 2 * (info["velocities"] ** 2).sum(1)).sum() / 2)


@pytest.mark.parametrize("seed", range(4))
def test_balls_keep_their_energy_and_their_box(seed: int) -> None:
    env = gymnasium.make("worldsim/Balls-v0", drag=0.0, max_episode_steps=5000)
    _, info = env.reset(seed=seed)
    start, changed = energy(info), 0
    speeds = np.linalg.norm(info["velocities"], axis=1)
    for _ in range(1000):
        _, _, _, _, info = env.step(0)
        assert energy(info) == pytest.approx(start, rel=1e-9)
        edge = 2 + info["radii"][:, None]
        assert (info["positions"] >= edge - 1e-9).all()
        assert (info["positions"] <= 64 - edge + 1e-9).all()
        now = np.linalg.norm(info["velocities"], axis=1)
        changed += not np.allclose(now, speeds)
        speeds = now
    assert changed > 10  # collisions did happen


@pytest.mark.parametrize("gravity", [0.0, 0.1])
def test_balls_never_pass_through_one_another(gravity: float) -> None:
    env = gymnasium.make("worldsim/Balls-v0", gravity=gravity, max_episode_steps=5000)
    rng = np.random.default_rng(0)
    _, info = env.reset(seed=0)
    for t in range(2000):
        if t % 8 == 0:
            action = int(rng.integers(5))  # held for a while, to reach the greatest speed
        before = info
        _, _, _, _, info = env.step(action)
        old, new = (state["positions"][:, None] - state["positions"] for state in (before, info))
        reach = info["radii"][:, None] + info["radii"]
        distances = np.linalg.norm(new, axis=-1) + 99 * np.eye(5)
        assert (distances > reach * 0.4).all()
        # Were a ball to cross another within a step, their difference would turn right round.
        assert ((old * new).sum(-1)[~np.eye(5, dtype=bool)] > 0).all()


def test_balls_slow_down_by_drag_and_fall_by_gravity() -> None:
    env = gymnasium.make("worldsim/Balls-v0", drag=0.02, max_episode_steps=1000)
    _, info = env.reset(seed=0)
    energies = [energy(info)] + [energy(env.step(0)[4]) for _ in range(100)]
    assert (np.diff(energies) < 0).all()
    env = gymnasium.make("worldsim/Balls-v0", drag=0.02, gravity=0.1, max_episode_steps=1000)
    _, info = env.reset(seed=0)
    for _ in range(600):
        _, _, _, _, info = env.step(0)
    assert info["positions"][:, 1].mean() > 45
    with pytest.raises(ValueError, match=r"gravity must be from 0 to 0\.5 .* got -1"):
        balls.Balls(gravity=-1)
    with pytest.raises(ValueError, match="drag must be from 0 to 1, got 2"):
        balls.Balls(drag=2)


def test_balls_are_where_info_says_to_a_fraction_of_a_pixel() -> None:
    env = gymnasium.make("worldsim/Balls-v0")
    frame, info = env.reset(seed=0)
    looked = 0
    for _ in range(100):
        gaps = np.linalg.norm(info["positions"][0] - info["positions"][1:], axis=1)
        alone = (gaps > info["radii"][1:] + 7).all()
        if alone and np.linalg.norm(info["positions"][0] - info["target"]) > 12:
            x, y = info["positions"][0]
            ys, xs = np.mgrid[:64, :64] + 0.5
            weight = np.where(np.hypot(xs - x, ys - y) < 7, frame[..., 0] - 20.0, 0.0)
            looked += 1
            assert (weight * xs).sum() / weight.sum() == pytest.approx(x, abs=0.4)
            assert (weight * ys).sum() / weight.sum() == pytest.approx(y, abs=0.4)
        frame, _, _, _, info = env.step(0)
    assert looked > 20


def test_balls_pushes_and_targets() -> None:
    for action, (x, y) in enumerate(balls.PUSHES):
        env = gymnasium.make("worldsim/Balls-v0", drag=0.0)
        _, still = env.reset(seed=3)
        _, _, _, _, info = env.step(action)
        change = info["velocities"][0] - still["velocities"][0]
        np.testing.assert_allclose(change, [balls.PUSH * x, balls.PUSH * y], atol=1e-9)
    rng = np.random.default_rng(0)
    frame, info = env.reset(seed=0)
    score = 0
    for _ in range(200):
        before = info["target"]
        frame, reward, _, _, info = env.step(balls.play(frame, info, rng))
        score += int(reward)
        assert (reward == 1.0) == (not np.array_equal(before, info["target"]))
    assert info["score"] == score > 2
