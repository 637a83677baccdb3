"""Maze: it can be finished, the door needs the key, what goes out of sight stays."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest

from worldsim.envs import maze
from worldsim.registration import register_envs

register_envs()


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
    player = maze.Player()
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
        frame, _, terminated, _, info = env.step(player(frame, info, rng))
        if terminated:
            break
    assert seen > 10
