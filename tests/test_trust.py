"""Data never names code: hostile worlds and recordings, and what the user allows."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import worldsim
from worldsim.__main__ import main
from worldsim.game.config import GameConfig
from worldsim.game.describe import describe_game, make_game
from worldsim.game.policy import load_policy
from worldsim.play.session import Session
from worldsim.play.sources import find_sources
from worldsim.system.trust import check_settings_of_file

PONG = GameConfig("worldsim/Pong-v0", action_meanings=("NOOP", "UP", "DOWN"))
PAYLOAD = """
from pathlib import Path
Path(__file__).with_name("ran").touch()
def play(observation, info, rng):
    return 0
"""
GAMES = """
import gymnasium
from worldsim.envs.pong import Pong
class Base(Pong):
    metadata = {**Pong.metadata, "scripted_policy": "NAME:still"}
gymnasium.register("my/NAME-v0", entry_point="NAME:Base", max_episode_steps=20)
def still(observation, info, rng):
    return 0
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current folder; what is imported from it is forgotten afterwards."""
    known = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in set(sys.modules) - known:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
    for env_id in [env_id for env_id in gymnasium.registry if env_id.startswith("my/")]:
        del gymnasium.registry[env_id]


def write_hostile_world(folder: Path, **game: str) -> Path:
    """A copy of the bundled Pong beside a module that leaves a trace when it is imported."""
    shutil.copytree(Path(worldsim.__file__).with_name("worlds") / "pong", folder)
    (folder / "payload.py").write_text(PAYLOAD)
    config = json.loads((folder / "config.json").read_text())
    config["game"].update(game)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_games(folder: Path, name: str) -> None:
    (folder / f"{name}.py").write_text(GAMES.replace("NAME", name))


@pytest.mark.parametrize("script", ["W.payload:play", "W"])
def test_the_script_that_a_world_names_is_not_run_but_that_of_the_game(
    here: Path, script: str
) -> None:
    world = write_hostile_world(here / "W", scripted_policy=script)
    (here / "W" / "agent.zip").write_bytes(b"a pickle")
    (here / "W" / "agent.json").write_text('{"frame_skip": 1}')
    game = worldsim.load(str(world)).game
    policy, rng = load_policy("scripted", game), np.random.default_rng(0)
    frame, info = make_game(game).reset(seed=0)
    pong, rng_of_pong = load_policy("scripted", PONG), np.random.default_rng(0)
    for _ in range(20):
        assert policy(frame, info, rng) == pong(frame, info, rng_of_pong)
    assert not (world / "ran").exists()


def test_the_commands_run_nothing_that_a_world_names(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    world = write_hostile_world(here / "W", scripted_policy="W.payload:play")
    assert main(["demo", "--world", "W", "--seconds", "0.2", "--gif", "W.gif"]) == 0
    assert main(["play", "W", "--policy", "scripted", "--headless", "--steps", "3"]) == 0
    config = json.loads((world / "config.json").read_text())
    config["game"]["env_id"] = "W.payload:worldsim/Pong-v0"
    (world / "config.json").write_text(json.dumps(config))
    assert main(["play", "W", "--policy", "scripted", "--headless", "--steps", "3"]) == 2
    assert "worldsim --import W.payload" in capsys.readouterr().err
    played = Session(find_sources("W"), seed=0)
    with pytest.raises(ValueError, match=r"worldsim --import W\.payload"):
        played.switch()  # as key g does
    played.close()
    assert not (world / "ran").exists()


@pytest.mark.parametrize("module", ["W.payload", "antigravity", "a:b", "x; rm -rf ."])
def test_a_module_that_a_file_names_is_not_imported(here: Path, module: str) -> None:
    folder = write_hostile_world(here / "W")
    game = replace(PONG, env_id=f"{module}:worldsim/Pong-v0")
    with pytest.raises(ValueError, match=r"in a file must be an id|trust_code=True") as caught:
        make_game(game)
    assert repr(module)[1:-1] in str(caught.value)
    assert ("worldsim --import" in str(caught.value)) == (module in ("W.payload", "antigravity"))
    with pytest.raises(ValueError, match=r"in a file must be an id|trust_code=True"):
        load_policy("scripted", game)
    assert not (folder / "ran").exists()
    assert module not in sys.modules


def test_a_module_that_the_user_names_or_has_imported_is_used(here: Path) -> None:
    write_games(here, "ours")
    write_games(here, "imported")
    stranger = replace(PONG, env_id="ours:my/ours-v0")
    with pytest.raises(ValueError, match="needs the module ours"):
        make_game(stranger)
    make_game(stranger, trust_code=True).close()
    make_game(stranger).close()  # it is imported now
    sys.path.insert(0, str(here))
    __import__("imported")
    make_game(replace(PONG, env_id="imported:my/imported-v0")).close()
    assert load_policy("scripted", replace(PONG, env_id="my/imported-v0")) is not None


def test_import_on_the_command_line_is_the_users_word(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_games(here, "cli_games")
    write_hostile_world(here / "W", env_id="cli_games:my/cli_games-v0")
    game = worldsim.load("W").game
    for arguments in (["--import", "nowhere.games", "cost"], ["cost", "--import"]):
        assert main([*arguments, "--help"]) == 2
    assert "cannot import nowhere.games" in capsys.readouterr().err
    for place in (["--import", "cli_games", "bench"], ["bench", "--import=cli_games"]):
        with pytest.raises(SystemExit):
            main([*place, "--help"])
        make_game(game).close()
        del sys.modules["cli_games"], gymnasium.registry["my/cli_games-v0"]
        with pytest.raises(ValueError, match=r"`worldsim --import cli_games \.\.\.`"):
            make_game(game)


def test_a_module_of_the_current_folder_hides_none_that_is_installed(here: Path) -> None:
    (here / "colorsys.py").write_text("raise SystemExit('hidden')")
    sys.modules.pop("colorsys", None)
    with pytest.raises(ValueError, match="has no play"):
        load_policy("colorsys:play", PONG)


@pytest.mark.parametrize(
    "settings",
    [
        {"xml_file": "evil"},
        {"vizdoom_path": "evil"},
        {"vizdoomPath": "evil"},
        {"game_args": "-file evil"},
        {"game_args": ["-file"]},
        {"scenario_config_file": "evil"},
        {"world": "/tmp/world"},
        {"world": "..\\world"},
        {"level": "~"},
        {"level": "-x"},
        {"env_id": "payload:Game-v0"},
        {"make_kwargs": {"id": "payload:Game-v0"}},
        {"make_kwargs": {"path": "evil"}},
        {"levels": ["easy", "evil.txt"]},
        {"level": b"bytes"},
    ],
)
def test_settings_that_a_file_names_read_and_run_nothing(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=rf"setting {next(iter(settings))}=.* in a file"):
        check_settings_of_file("Game-v0", settings)
    with pytest.raises(ValueError, match="in a file"):
        make_game(replace(PONG, env_kwargs=settings))


def test_settings_that_games_have_are_taken() -> None:
    check_settings_of_file(
        "Game-v0",
        {
            "obs_type": "grayscale",
            "map_name": "8x8",
            "continuous": False,
            "gravity": -9.8,
            "agent_start_pos": [1, 1],
            "agent_start_dir": 0,
            "max_steps": None,
            "scene": "key-door",
            "reward": {"win": 1, "name": "big win"},
        },
    )


@pytest.mark.parametrize("name", ["id", "render_mode", "disable_env_checker"])
def test_what_gymnasium_makes_games_with_is_no_setting(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is not a setting of worldsim/Pong-v0"):
        describe_game("worldsim/Pong-v0", env_kwargs={name: True})


@pytest.mark.parametrize("env_id", ["GymV21Environment-v0", "GymV26Environment-v0"])
def test_an_environment_that_makes_others_is_refused_from_a_file(env_id: str) -> None:
    game = replace(PONG, env_id=env_id, env_kwargs={"env_id": "payload:Game-v0"})
    with pytest.raises(ValueError, match="setting env_id='payload:Game-v0' in a file"):
        make_game(game)


def test_a_module_that_raises_while_it_is_imported_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "raising_games.py").write_text('raise RuntimeError("no joystick")')
    monkeypatch.chdir(tmp_path)
    assert main(["--import", "raising_games", "play", "pong"]) == 2
    assert "cannot import raising_games (RuntimeError: no joystick)" in capsys.readouterr().err
