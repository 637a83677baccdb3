"""Maze: it can be finished, the door needs the key, what goes out of sight stays."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest

from worldsim.envs import maze
from worldsim.registration import register_envs

register_envs()


def to_door(info: dict[str, Any]) -> tuple[int, int] | None:
    """The door, while it is shut."""
    return None if info["has_key"] else tuple(info["door"].tolist())


def walk(env: gymnasium.Env, info: dict[str, Any], goal: np.ndarray) -> tuple[np.ndarray, dict]:
    """Walk to a cell without passing the shut door; return the last frame and info."""
    frame = env.unwrapped.render()
    while tuple(info["player"]) != tuple(goal):
        action = maze.first_move(
            info["open_ways"],
            tuple(info["player"].tolist()),
            lambda cell: cell == tuple(goal),
            to_door(info),
        )
        assert action, "the goal cannot be reached"
        frame, _, terminated, _, info = env.step(action)
        if terminated:
            break
    return frame, info


@pytest.mark.parametrize("seed", range(5))
def test_maze_can_always_be_finished_and_needs_the_key(seed: int) -> None:
    env = gymnasium.make("worldsim/Maze-v0", render_mode="rgb_array", max_episode_steps=2000)
    _, info = env.reset(seed=seed)
    assert tuple(info["player"]) not in {tuple(info["key"]), tuple(info["door"])}
    for coin in info["coins"]:
        _, info = walk(env, info, coin)
    assert not info["coins_left"].any()
    _, info = walk(env, info, info["key"])
    assert info["has_key"]
    _, info = walk(env, info, info["door"])
    assert info["score"] == 10 + 1 + 5


def test_maze_door_stays_shut_without_the_key_and_its_coming_ends_the_episode_with_it() -> None:
    env = gymnasium.make("worldsim/Maze-v0", render_mode="rgb_array", max_episode_steps=2000)
    _, info = env.reset(seed=0)
    door = tuple(info["door"].tolist())
    ways = [action for action in range(1, 5) if maze.is_open(info["open_ways"], door, action)]
    assert len(ways) == 1  # a dead end
    before = np.add(door, maze.MOVES[ways[0]])
    game = env.unwrapped
    game._player = tuple(before.tolist())
    _, reward, terminated, _, info = env.step(maze.OPPOSITE[ways[0]])
    assert (reward, terminated, tuple(info["player"])) == (0, False, tuple(before))
    game._has_key = True
    _, reward, terminated, _, info = env.step(maze.OPPOSITE[ways[0]])
    assert (reward, terminated, tuple(info["player"])) == (5, True, door)


@pytest.mark.parametrize("seed", range(3))
def test_maze_walls_do_not_give_way_and_are_drawn_where_info_says(seed: int) -> None:
    env = gymnasium.make("worldsim/Maze-v0")
    rng = np.random.default_rng(seed)
    frame, info = env.reset(seed=seed)
    bumps = 0
    for _ in range(300):
        row, column = info["player"]
        y, x = 8 * row + 4, 8 * column + 4
        walls = {1: frame[y - 4, x], 2: frame[y + 3, x], 3: frame[y, x - 4], 4: frame[y, x + 3]}
        action = int(rng.integers(1, 5))
        is_open = maze.is_open(info["open_ways"], (int(row), int(column)), action)
        assert is_open == (walls[action] == maze.FLOOR).all()
        ahead = info["player"] + maze.MOVES[action]
        shut = tuple(ahead) == to_door(info)
        frame, _, terminated, _, info = env.step(action)
        assert (info["player"] == (ahead if is_open and not shut else (row, column))).all()
        bumps += not is_open
        if terminated:
            break
    assert bumps > 20


def test_maze_remembers_what_went_out_of_sight() -> None:
    env = gymnasium.make("worldsim/Maze-v0", render_mode="rgb_array", max_episode_steps=4000)
    at_first, info = env.reset(seed=6)
    start = info["player"]
    near = [coin for coin in info["coins"] if 0 < np.abs(coin - start).max() <= 1]
    assert near
    corners = np.array([(0, 0), (0, 7), (7, 7), (7, 0)])
    far = corners[np.abs(corners - start).max(1).argmax()]
    assert np.abs(far - start).max() > 3  # the start is out of sight from there
    assert tuple(far) != tuple(info["door"])

    there, info = walk(env, info, far)
    lit, lit_there = (maze.lit_from(tuple(cell.tolist())) for cell in (start, far))
    assert (there[~lit_there] == maze.DARK).all()
    on_return, info = walk(env, info, start)
    still_there = [coin for coin in near if left_at(info, coin)]
    changed = cell_pixels([*info["coins"][~info["coins_left"]], info["door"], info["key"], start])
    assert still_there
    assert (lit & ~changed).sum() > 800
    np.testing.assert_array_equal(on_return[~changed], at_first[~changed])

    _, info = walk(env, info, still_there[0])
    _, info = walk(env, info, far)
    on_return, info = walk(env, info, start)
    taken = cell_pixels(still_there[:1])
    assert not np.array_equal(on_return[taken], at_first[taken])


def left_at(info: dict[str, Any], coin: np.ndarray) -> bool:
    """Return whether the coin of a cell is still there."""
    return bool(info["coins_left"][(info["coins"] == coin).all(1)].item())


def cell_pixels(cells: list[np.ndarray]) -> np.ndarray:
    """Return the mask (64 64) of the pixels of some cells."""
    mask = np.zeros((64, 64), bool)
    for row, column in cells:
        mask[8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = True
    return mask


def test_maze_coins_are_where_info_says() -> None:
    env = gymnasium.make("worldsim/Maze-v0")
    rng = np.random.default_rng(0)
    frame, info = env.reset(seed=5)
    player = maze.Player()
    seen = 0
    gold = maze.COIN[1][1, 1]
    for _ in range(50):
        for coin, left in zip(info["coins"], info["coins_left"], strict=True):
            row, column = coin - info["player"]
            if 0 < abs(row) + abs(column) <= 2:
                assert (frame[8 * coin[0] + 2, 8 * coin[1] + 2] == gold).all() == left
                seen += 1
        frame, _, terminated, _, info = env.step(player(frame, info, rng))
        if terminated:
            break
    assert seen > 10
