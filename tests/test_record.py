"""The command `worldsim record`: real processes, real kills, the same recording every time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from worldsim.data.recording import Recording
from worldsim.data.writer import RecordingWriter
from worldsim.envs import record_progress
from worldsim.envs.policies import MixedPolicy, parse_weights
from worldsim.envs.record import main
from worldsim.game.config import GameConfig
from worldsim.game.describe import make_game

PONG = ["worldsim/Pong-v0", "--frame-size", "32", "32", "--max-episode-steps", "120"]


def start(arguments: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "worldsim", "record", *arguments]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Tests that a script runs in the background inherit an ignored SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for_shards(path: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(list(path.glob("data/shards/*.hdf5"))) < count:
        assert time.monotonic() < deadline, "no episode within a minute"
        time.sleep(0.01)


def shards(path: Path) -> dict[str, bytes]:
    return {shard.name: shard.read_bytes() for shard in path.glob("data/shards/*")}


def processes_of_session(session: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a recording that nothing has interrupted, by one process."""
    path = tmp_path_factory.mktemp("whole") / "pong-v0"
    assert main([*PONG, "--steps", "6000", "--workers", "1", "--out", str(path)]) == 0
    return path


def test_it_prints_the_result_and_the_next_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*PONG, "--steps", "300", "--workers", "1", "--out", str(tmp_path / "pong-v0")]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    recording = Recording(tmp_path / "pong-v0")
    assert said == (
        f"recorded {recording.total_steps} steps in {len(recording)} episodes: {tmp_path}/pong-v0; "
        f"next: worldsim train {tmp_path}/pong-v0 --out runs/pong-v0\n"
    )
    assert 300 <= recording.total_steps < 300 + 120
    assert recording.episode_lengths.max() <= 120
    before = shards(tmp_path / "pong-v0")
    assert main(arguments) == 0, "complete already"
    assert capsys.readouterr().out == said
    assert shards(tmp_path / "pong-v0") == before


def test_progress_lines_agree_with_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(record_progress, "SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr(record_progress, "SECONDS_UNTIL_SETTLED", -1.0)
    arguments = [*PONG, "--steps", "150", "--workers", "2", "--out", str(tmp_path / "pong")]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    last = err.splitlines()[-1]
    assert last.startswith("240 of 150 steps in 2 episodes, ")
    assert last.endswith("finishing the last episodes")
    assert out.startswith("recorded 240 steps in 2 episodes: ")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_killed_at_any_moment_it_continues_to_the_same_recording(
    tmp_path: Path, whole: Path
) -> None:
    path = tmp_path / "pong-v0"
    arguments = [*PONG, "--steps", "6000", "--workers", "2", "--out", str(path)]
    for wanted in (1, 8):
        process = start(arguments)
        wait_for_shards(path, wanted)
        process.kill()
        process.communicate()
        finished = shards(path)
        assert len(finished) >= wanted
        recording = Recording(path)  # what is there can be read
        assert [len(recording.episode(i).actions) for i in range(len(recording))]
        deadline = time.monotonic() + 20
        while processes_of_session(process.pid):
            assert time.monotonic() < deadline, "a worker outlived the command"
            time.sleep(0.05)
    process = start(arguments)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert out.startswith("recorded 6,")
    assert shards(path) == shards(whole)
    files = {file.name for file in path.glob("data/*")}
    assert files == {"index.hdf5", "lock", "main_data.hdf5", "metadata.json", "shards"}
    assert not [*path.glob("data/shards/.*")]


def test_ctrl_c_keeps_finished_episodes_and_prints_how_to_continue(
    tmp_path: Path, whole: Path
) -> None:
    path = tmp_path / "pong-v0"
    arguments = [*PONG, "--steps", "1000000", "--workers", "2", "--out", str(path)]
    process = start(arguments)
    wait_for_shards(path, 2)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to each process
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err, err  # a slow machine may have said how far it was
    assert out.endswith(f"to continue: worldsim record {' '.join(arguments)}\n")
    assert len(Recording(path)) >= 2
    expected = shards(whole)
    assert all(expected[name] == data for name, data in shards(path).items() if name in expected)


def test_more_steps_extend_a_recording_and_fewer_leave_it(tmp_path: Path, whole: Path) -> None:
    path = tmp_path / "pong-v0"
    for steps in ("500", "1500", "700"):
        assert main([*PONG, "--steps", steps, "--workers", "2", "--out", str(path)]) == 0
    recorded = shards(path)
    assert 1500 <= Recording(path).total_steps < 1620
    assert recorded == {name: shards(whole)[name] for name in recorded}


def test_a_session_added_by_a_person_stays(tmp_path: Path) -> None:
    path = tmp_path / "pong-v0"
    arguments = [*PONG, "--steps", "200", "--workers", "1", "--out", str(path)]
    assert main(arguments) == 0
    recording = Recording(path)
    session = recording.episode(0)
    session.seed, session.policy = None, "person"
    with RecordingWriter(path, recording.game) as writer:
        number = writer.write_episode(session)
    assert main(arguments) == 0
    assert Recording(path).episode(number).policy == "person"


def test_a_damaged_shard_is_named_and_recorded_again_once_deleted(
    tmp_path: Path, whole: Path
) -> None:
    path = tmp_path / "pong-v0"
    arguments = [*PONG, "--steps", "500", "--workers", "1", "--out", str(path)]
    assert main(arguments) == 0
    shard = path / "data" / "shards" / "episode_00000001.hdf5"
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"episode_00000001.hdf5 is damaged .*: delete it"):
        main(arguments)
    shard.unlink()
    assert main(arguments) == 0
    assert shard.read_bytes() == shards(whole)[shard.name]


def test_other_settings_on_a_recording_are_one_error(whole: Path) -> None:
    base = [*PONG, "--out", str(whole)]
    for more, sentence in (
        (["--seed", "3"], "recorded with seed 0, not 3"),
        (["--grey"], "recorded with channels 3, not 1"),
        (["--policy", "random"], "recorded with policy .*'sticky': 0.5.*, not {'random': 1.0}"),
    ):
        with pytest.raises(ValueError, match=sentence):
            main([*base, *more])


def test_one_recording_is_recorded_by_one_command(tmp_path: Path) -> None:
    path = tmp_path / "pong-v0"
    arguments = [*PONG, "--steps", "1000000", "--workers", "1", "--out", str(path)]
    process = start(arguments)
    try:
        wait_for_shards(path, 1)
        with pytest.raises(ValueError, match="is being recorded by another process"):
            main(arguments)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["Nonsense-v0"], "there is no environment Nonsense-v0"),
        (["Pendulum-v1"], "only Discrete actions"),
        (["worldsim/Pong-v0", "--policy", "random=much"], "NAME=WEIGHT .*, got 'random=much'"),
        (["worldsim/Pong-v0", "--policy", "no_such_module:play"], "cannot import no_such_module"),
        (["worldsim/Pong-v0", "--env-kwargs", "continuous"], "name=value, got 'continuous'"),
        (["worldsim/Pong-v0", "--steps", "0"], "--steps must be a whole number from 1 to"),
        (
            ["worldsim/Pong-v0", "--workers", "0"],
            "--workers must be a whole number from 1 to 1,024, got 0",
        ),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    arguments: list[str], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=sentence):
        main([*arguments, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_a_player_that_fails_is_one_sentence(tmp_path: Path) -> None:
    # `operator.setitem` cannot write to a frame at a place that is a dictionary.
    arguments = [*PONG, "--policy", "operator:setitem", "--workers", "1"]
    with pytest.raises(
        ValueError, match=r"episode 0, step 0: policy 'operator:setitem' raised IndexError\("
    ) as caught:
        main([*arguments, "--out", str(tmp_path / "pong-v0")])
    assert "Traceback" in str(caught.value.__cause__)


@pytest.mark.parametrize(
    ("env_id", "package", "more"),
    [
        ("worldsim/Pong-v0", "worldsim", []),
        ("ALE/Pong-v5", "ale_py", []),
        pytest.param(
            "ALE/Breakout-v5", "ale_py", ["--grey", "--frame-skip", "2"], marks=pytest.mark.slow
        ),
        pytest.param("VizdoomBasic-v1", "vizdoom", ["--frame-skip", "4"], marks=pytest.mark.slow),
        ("MiniGrid-Empty-5x5-v0", "minigrid", []),
        pytest.param("CartPole-v1", "pygame", ["--frame-skip", "2"], marks=pytest.mark.slow),
        pytest.param("CarRacing-v3", "Box2D", [], marks=pytest.mark.slow),
        pytest.param("worldsim/Maze-v0", "worldsim", [], marks=pytest.mark.slow),
        pytest.param("worldsim/Balls-v0", "worldsim", ["--grey"], marks=pytest.mark.slow),
    ],
)
def test_recorded_actions_replayed_give_the_recorded_frames(
    env_id: str, package: str, more: list[str], tmp_path: Path
) -> None:
    """The contract of time, from the game through the recorder and the disk to windows."""
    pytest.importorskip(package)
    arguments = [env_id, *more, "--steps", "150", "--max-episode-steps", "60", "--workers", "1"]
    assert main([*arguments, "--out", str(tmp_path / "game-v0")]) == 0
    recording = Recording(tmp_path / "game-v0")
    for index in range(len(recording)):
        env = make_game(recording.game)  # a fresh one, where the recorder used one for all
        episode = recording.episode(index)
        steps = len(episode.actions)
        frame, _ = env.reset(seed=episode.seed)
        windows = recording.windows([index] * steps, list(range(steps)), 2)
        over = False
        for t in range(steps):
            assert not over, f"the game was over at {t} of {steps}"
            np.testing.assert_array_equal(windows.frames[t, 0], frame)
            frame, reward, terminated, truncated, _ = env.step(int(windows.actions[t, 0]))
            np.testing.assert_array_equal(windows.frames[t, 1], frame)
            assert windows.rewards[t, 0] == np.float32(reward)
            assert windows.terminations[t, 0] == terminated
            assert windows.truncations[t, 0] == (truncated or (t == 59 and not terminated))
            over = terminated or truncated
        assert episode.terminations[-1] or episode.truncations[-1]
        env.close()


def test_a_mixture_takes_turns_within_an_episode() -> None:
    game = GameConfig("Game-v0", action_meanings=("A", "B", "C", "D"))
    policy, rng = MixedPolicy({"random": 1, "sticky": 3}, game), np.random.default_rng(0)
    frame = np.zeros((8, 8, 3), np.uint8)
    actions = np.array([policy(frame, {}, rng) for _ in range(20_000)])
    changes = np.diff(actions) != 0
    # Random actions of four change at 3 of 4 steps, sticky ones at about 1 of 17.
    assert 0.15 < changes.mean() < 0.31
    blocks = changes[: len(changes) // 16 * 16].reshape(-1, 16).mean(1)
    assert (blocks > 0.5).mean() > 0.1
    assert (blocks < 0.25).mean() > 0.5


def test_weights_are_read_and_checked() -> None:
    assert parse_weights(["random=0.3", "a.b:c"]) == {"random": 0.3, "a.b:c": 1.0}
    for bad in (["random=0"], ["random=-1"], ["random=nan"], ["random", "random=2"], []):
        with pytest.raises(ValueError, match="policy"):
            parse_weights(bad)
