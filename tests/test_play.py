"""What play is made of, without a window: keys, pace, sessions, and the demo's files."""

from __future__ import annotations

import doctest
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from PIL import Image

from tests.tiny_worlds import SIDE, make_tiny_world
from worldsim.data.recording import Recording
from worldsim.data.rewards import RecordedRewards
from worldsim.data.writer import RecordingWriter
from worldsim.game.describe import describe_game, make_game
from worldsim.play import controls, demo, overlay, pace, session, window
from worldsim.play.sources import find_sources

PONG = "worldsim/Pong-v0"
NOOP, UP, DOWN = 0, 1, 2


@pytest.fixture(autouse=True)
def _no_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")


@pytest.fixture(scope="module")
def world_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random world that takes itself for Pong."""
    game = replace(describe_game(PONG), frame_size=(SIDE, SIDE))
    folder = tmp_path_factory.mktemp("worlds") / "imagined"
    make_tiny_world(game).save(folder)
    return folder


def test_examples_in_docstrings() -> None:
    for module in (controls, overlay, pace, session):
        result = doctest.testmod(module)
        assert result.attempted > 0
        assert result.failed == 0


@pytest.mark.parametrize("env_id", [PONG, "worldsim/Maze-v0", "worldsim/Balls-v0"])
def test_each_control_has_a_key_and_none_of_the_games(env_id: str) -> None:
    bindings = describe_game(env_id).key_bindings
    keys = controls.assign_controls(bindings)
    assert set(keys.values()) == set(controls.CONTROLS)
    assert not set(keys) & {key for binding in bindings for key in binding.split("+")}
    letters = {letter: 0 for letter in "abcdefghijklmnopqrstuvwxyz,.-="}
    assert set(controls.assign_controls(letters).values()) == set(controls.CONTROLS)


def test_pace_is_never_ahead_of_the_game_and_does_not_race_after_a_stall() -> None:
    now = 0.0
    clock = pace.Pace(10, clock=lambda: now)
    shown: list[float] = []
    stalls = {30: 1.0, 31: 0.02}
    while now < 10:
        if clock.seconds_until_due() == 0:
            work = stalls.get(len(shown), 0.03)
            now += work
            clock.mark(work)
            shown.append(now)
        now += 0.001
    for seconds in (0.5, 1.0, 5.0):
        most = max(sum(start <= at < start + seconds for at in shown) for start in shown)
        assert most <= seconds * 10 + 2
    assert clock.reached_fps == pytest.approx(10, rel=0.02)
    assert clock.milliseconds == pytest.approx(30, rel=0.02)
    assert not clock.is_slow
    for _ in range(30):
        now += 0.2
        clock.mark(0.2)
    assert clock.reached_fps == pytest.approx(5, rel=0.02)
    assert clock.is_slow


def test_speed_moves_along_the_table_and_stops_at_its_ends() -> None:
    clock = pace.Pace(15)
    clock.change_speed(1)
    assert (clock.speed, clock.wanted_fps) == (2, 30)
    clock.change_speed(9)
    assert clock.speed == pace.SPEEDS[-1]
    clock.change_speed(-99)
    assert clock.speed == pace.SPEEDS[0]
    with pytest.raises(ValueError, match="fps must be above 0, got 0"):
        pace.Pace(0)


def test_what_a_person_plays_is_recorded_exactly(tmp_path: Path) -> None:
    sources = find_sources(PONG)
    with RecordingWriter(tmp_path / "mine", sources[0].config) as writer:
        played = session.Session(sources, seed=3, writer=writer)
        for step in range(40):
            played.step(UP if step % 5 else DOWN)
        score = played.score
        played.restart()  # one episode given up, one cut off by closing the window
        for _ in range(20):
            played.step(DOWN)
        played.close()
    assert played.scores[0] == score
    recording = Recording(tmp_path / "mine")
    assert recording.episode_lengths.tolist() == [40, 20]
    env = make_game(recording.game)
    for index in range(2):
        episode = recording.episode(index)
        assert episode.policy == "person"
        assert episode.truncations.tolist() == [False] * (len(episode.actions) - 1) + [True]
        frame, _ = env.reset(seed=episode.seed)
        np.testing.assert_array_equal(episode.frames[0], frame)
        for step, action in enumerate(episode.actions):
            frame, reward, *_ = env.step(int(action))
            np.testing.assert_array_equal(episode.frames[step + 1], frame)
            assert episode.rewards[step] == reward
    env.close()


def test_a_session_of_a_few_frames_is_kept_too(tmp_path: Path) -> None:
    sources = find_sources(PONG)
    with RecordingWriter(tmp_path / "short", sources[0].config) as writer:
        played = session.Session(sources, writer=writer)
        played.step(UP)
        played.close()
    episode = Recording(tmp_path / "short").episode(0)
    assert (len(episode.frames), episode.actions.tolist()) == (2, [UP])


def test_an_episode_that_ends_is_scored_once_and_waits_for_a_restart(tmp_path: Path) -> None:
    sources = find_sources(PONG)
    with RecordingWriter(tmp_path / "mine", sources[0].config) as writer:
        played = session.Session(sources, seed=0, writer=writer)
        while not played.is_over:
            played.step(UP)  # pressed into a corner it loses soon; in the middle it may never end
        with pytest.raises(RuntimeError, match="restart"):
            played.step(NOOP)
        played.close()
    assert played.scores == [played.score]
    assert played.num_kept == 1
    assert not Recording(tmp_path / "mine").episode(0).truncations.any()


def test_only_the_first_source_is_recorded(tmp_path: Path, world_folder: Path) -> None:
    sources = find_sources(str(world_folder))
    assert [source.kind for source in sources] == ["world", "real game"]
    with RecordingWriter(tmp_path / "kept", sources[0].config) as writer:
        played = session.Session(sources, seed=0, writer=writer)
        for _ in range(3):
            played.step(UP)
        played.switch()
        assert played.source.kind == "real game"
        assert played.num_passes is None
        played.step(UP)
        played.switch()
        for _ in range(2):
            played.step(UP)
        played.close()
    recording = Recording(tmp_path / "kept")
    assert recording.episode_lengths.tolist() == [3, 2]
    assert recording.game.env_id == "worldsim/WorldModel-v0"
    with pytest.raises(ValueError, match=r"the setting world=.* in a file"):
        make_game(recording.game)
    again = make_game(recording.game, trust_code=True)  # the world is found where it was
    assert again.reset(seed=recording.episode(0).seed)[0].shape == (SIDE, SIDE, 3)
    again.close()


def test_a_missing_other_side_leaves_the_play_as_it_is(world_folder: Path) -> None:
    def missing() -> gymnasium.Env[np.ndarray, int]:
        raise ValueError("the real game needs another package: pip install ale-py")

    imagined, real = find_sources(str(world_folder))
    played = session.Session([imagined, session.Source(real.name, real.kind, real.config, missing)])
    played.step(UP)
    with pytest.raises(ValueError, match="pip install ale-py"):
        played.switch()
    assert (played.source.kind, played.num_steps, played.is_over) == ("world", 1, False)
    played.close()
    alone = session.Session(find_sources(PONG))
    with pytest.raises(ValueError, match="no other source"):
        alone.switch()
    alone.close()


def test_an_unknown_name_is_an_error_with_the_valid_kinds() -> None:
    with pytest.raises(ValueError, match=r"nowhere.*or the id of a Gymnasium environment"):
        find_sources("nowhere")
    with pytest.raises(ValueError, match="NoSuchGame"):
        find_sources("NoSuchGame-v0")


def test_the_demo_without_a_display_writes_its_files(
    tmp_path: Path, world_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--world", str(world_folder), "--out", str(tmp_path), "--seconds", "1"]
    assert demo.main(arguments) == 0
    said = capsys.readouterr().out
    assert "no window (SDL_VIDEODRIVER is dummy)" in said
    assert "frames per second" in said
    assert (tmp_path / "demo.mp4").stat().st_size > 1000
    with Image.open(tmp_path / "demo.png") as strip:
        assert strip.width > 5 * 128  # 15 frames, every third


def test_the_demo_writes_a_gif_and_nothing_else(tmp_path: Path, world_folder: Path) -> None:
    gif = tmp_path / "pong.gif"
    assert demo.main(["--world", str(world_folder), "--gif", str(gif), "--seconds", "1"]) == 0
    with Image.open(gif) as image:
        assert image.size == (256, 256)
    assert list(tmp_path.iterdir()) == [gif]


def test_why_there_is_no_window(monkeypatch: pytest.MonkeyPatch) -> None:
    assert demo.why_no_window() == "SDL_VIDEODRIVER is dummy"
    for variable in ("SDL_VIDEODRIVER", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert demo.why_no_window() == "there is no display"


def test_headless_play_needs_no_pygame(world_folder: Path, tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "sys.modules['pygame'] = None\n"
        "from worldsim.__main__ import main\n"
        "sys.exit(main(['play', *sys.argv[1:]]))\n"
    )
    command = [sys.executable, "-c", script, "worldsim/Pong-v0"]
    headless = ["--headless", "--steps", "30", "--speed", "50", "--seed", "0"]
    done = subprocess.run([*command, *headless], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("played 30 steps at ")
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.stderr.startswith("worldsim: pygame is not installed: pip install")


def test_headless_play_goes_from_episode_to_episode(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["worldsim/Maze-v0", "--headless", "--steps", "520", "--speed", "100"]
    assert window.main([*command, "--record", str(tmp_path / "kept")]) == 0
    assert "2 episodes kept" in capsys.readouterr().out
    episode = Recording(tmp_path / "kept").episode(0)
    assert (len(episode.actions), episode.policy) == (500, "noop")
    assert set(episode.actions.tolist()) == {0}


def test_a_score_beyond_every_recorded_one_is_noted(tmp_path: Path) -> None:
    world = make_tiny_world(replace(describe_game(PONG), frame_size=(SIDE, SIDE)))
    world.recorded_rewards = RecordedRewards(1.0, lowest_score=-5.0, highest_score=5.0)
    world.save(tmp_path / "pong")
    played = session.Session(find_sources(str(tmp_path / "pong")), seed=0)
    played.score = -5.0
    assert played.range_left is None
    played.score = -6.0
    assert played.range_left == "-5 to 5"
    played.switch()  # the real game ends by itself
    played.score = -6.0
    assert played.range_left is None
    played.close()
