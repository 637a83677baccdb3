"""`--ray` on a real cluster of two nodes: the same results, also if workers and nodes are lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_worlds import save_tiny_world, write_tiny_recording
from worldsim.data.recording import Recording
from worldsim.envs.record import main
from worldsim.eval.report import command, effort
from worldsim.eval.report.command import EvalConfig, evaluate
from worldsim.system.cluster import ActorPool, joined
from worldsim.train.probe import main as probe

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed"),
]

PONG = ["worldsim/Pong-v0", "--frame-size", "32", "32", "--max-episode-steps", "120"]
PLAYER = """
import os, time
from pathlib import Path

def play(frame, info, rng):
    number, _ = rng.bit_generator.seed_seq.spawn_key  # of the episode
    {act}
    return int(rng.integers(3))
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of two nodes, each of one CPU."""
    from ray.cluster_utils import Cluster

    folder = tempfile.mkdtemp(prefix="ws")  # short, for the paths of Ray's sockets
    Path(tempfile.gettempdir(), "ray").mkdir(exist_ok=True)  # where Ray notes the address
    node = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "temp_dir": folder})
    cluster.add_node(**node)
    yield cluster
    cluster.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    return tmp_path


def shards(path: Path) -> dict[str, bytes]:
    return {shard.name: shard.read_bytes() for shard in path.glob("data/shards/*")}


def wait_for_shards(path: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(list(path.glob("data/shards/*.hdf5"))) < count:
        assert time.monotonic() < deadline, "no episode within a minute"
        time.sleep(0.01)


MODULE = """
import gymnasium, os, sys
from pathlib import Path
from worldsim.envs.pong import Pong

class Game(Pong):
    pass

def play(frame, info, rng):
    number, _ = rng.bit_generator.seed_seq.spawn_key  # of the episode
    if number == 2 and Path("sent").exists() and not Path("gone").exists():
        Path("gone").touch()
        os._exit(3)
    return int(rng.integers(3))

gymnasium.register("sent/Game-v0", entry_point="sentgame:Game")
if Path("sent").exists() and "ray" in sys.modules:
    Path("sentgame.py").unlink(missing_ok=True)
"""


def test_a_lost_worker_costs_its_episode_and_another_makes_the_same_bytes_of_the_module_sent(
    cluster: Any, folder: Path
) -> None:
    (folder / "sentgame.py").write_text(MODULE)
    arguments = ["sentgame:sent/Game-v0", *PONG[1:], "--steps", "1500", "--policy", "sentgame:play"]
    assert main([*arguments, "--workers", "2", "--out", "here-v0"]) == 0
    (folder / "sent").touch()
    command = [sys.executable, "-m", "worldsim", "record", *arguments, "--out", "ray-v0"]
    said = subprocess.run(
        [*command, "--ray", cluster.address], capture_output=True, text=True, timeout=120
    )
    assert said.returncode == 0
    # The worker in place of the lost one has only the copy that was sent.
    assert (folder / "gone").exists()
    assert not (folder / "sentgame.py").exists()
    assert len(shards(folder / "ray-v0")) > 3
    assert shards(folder / "ray-v0") == shards(folder / "here-v0")
    assert said.stdout.startswith("recorded 1,5")
    assert said.stdout.count("\n") == 1
    assert said.stderr == (
        "a worker was lost because its worker process has died: episode 2 is begun again\n"
    )


def test_an_episode_that_no_worker_survives_is_an_error(cluster: Any, folder: Path) -> None:
    (folder / "player_b.py").write_text(PLAYER.format(act="if number == 0: os._exit(3)"))
    arguments = [*PONG, "--steps", "240", "--policy", "player_b:play", "--out", "pong-v0"]
    with pytest.raises(OSError, match="episode 0 was lost with each of 3 workers, the last time"):
        main([*arguments, "--ray", cluster.address])


def test_a_fault_of_the_game_is_in_the_sentence_of_local_workers(
    cluster: Any, folder: Path
) -> None:
    (folder / "player_c.py").write_text(PLAYER.format(act="raise KeyError('x')"))
    arguments = [*PONG, "--steps", "240", "--policy", "player_c:play"]
    sentences = []
    for way in (["--workers", "1"], ["--ray", cluster.address, "--workers", "1"]):
        with pytest.raises(ValueError, match=r"episode 0, step 0: policy 'player_c:play'") as error:
            main([*arguments, *way, "--out", way[0].strip("-")])
        sentences.append(str(error.value))
        assert "Traceback" in str(error.value.__cause__)
    assert sentences[0] == sentences[1]


def test_ctrl_c_keeps_the_finished_episodes(cluster: Any, folder: Path) -> None:
    command = [sys.executable, "-m", "worldsim", "record", *PONG, "--steps", "1000000"]
    process = subprocess.Popen(
        [*command, "--ray", "auto", "--out", "pong-v0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "RAY_ADDRESS": cluster.address},
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_for_shards(folder / "pong-v0", 3)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out.startswith("stopped: pong-v0 keeps each finished episode; to continue: worldsim rec")
    assert err == ""
    assert len(shards(folder / "pong-v0")) == len(Recording("pong-v0")) >= 3


def test_a_job_that_is_lost_with_its_worker_is_done_again_but_not_for_ever(
    cluster: Any, folder: Path
) -> None:
    class Doubler:
        def double(self, number: int) -> int:
            if number == 9 or (number == 1 and not Path("gone").exists()):
                Path("gone").touch()
                os._exit(3)
            return 2 * number

    with joined(cluster.address), ActorPool(Doubler) as pool:
        assert dict(pool.map("double", [(n,) for n in range(4)])) == {0: 0, 1: 2, 2: 4, 3: 6}
        assert (folder / "gone").exists()
        with pytest.raises(TypeError, match="missing 1 required positional argument"):
            list(pool.map("double", [()]))
        with pytest.raises(ChildProcessError, match="part 1 of 1 was lost with 3 workers of the"):
            list(pool.map("double", [(9,)]))


def test_a_report_of_shared_windows_is_that_of_one_process(
    cluster: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    brief = effort.QUICK._replace(
        horizon=16, windows=5, event_stretches=8, drift_bounds=(5, 20), inverse_steps=5,
        latency_steps=(3, 20),
    )  # fmt: skip
    monkeypatch.setattr(command, "QUICK", brief)
    save_tiny_world(folder / "square")
    write_tiny_recording(folder / "data", steps=80, episodes=4)
    alone, shared = (folder / name for name in ("alone", "shared"))
    for out, ray in ((alone, None), (shared, cluster.address)):
        evaluate(EvalConfig("square", "data", quick=True, device="cpu", out=out, ray=ray))
    reports = [
        json.loads((out / "report.json").read_text())["worlds"][0] for out in (alone, shared)
    ]
    for report in reports:  # the speed differs from one moment to the next
        del report["speed"], report["verdicts"], report["grades"]["speed"]
    assert reports[1]["fidelity"] == approx(reports[0]["fidelity"])
    assert reports[1] == approx(reports[0])


def approx(value: Any) -> Any:
    """The same figures to 0.2 % or 0.0005: rounding grows along a rollout of an untrained world."""
    if isinstance(value, dict):
        return {key: approx(one) for key, one in value.items()}
    if isinstance(value, list):
        return [approx(one) for one in value]
    if isinstance(value, float):
        return pytest.approx(value, rel=2e-3, abs=5e-4, nan_ok=True)
    return value


def test_a_probe_trains_on_the_cluster_and_leaves_what_it_leaves_here(
    cluster: Any, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["candle", "--steps", "2", "--episodes", "3", "--questions", "2", "--device", "cpu"]
    assert probe([*words, "--out", "here"]) == 0
    assert probe([*words, "--out", "there", "--ray", cluster.address]) == 0
    assert "candle, 3 episodes: trained, 1 of 1" in capfd.readouterr().out
    here, there = (folder / name / "candle" for name in ("here", "there"))
    files = [{f.relative_to(at) for at in (one,) for f in one.rglob("*")} for one in (here, there)]
    assert files[0] == files[1]
    assert shards(there / "recording_3") == shards(here / "recording_3")
    weights = [one / "world_3" / "step_00000002" / "head.safetensors" for one in (here, there)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert probe([*words, "--out", "there", "--ray", "127.0.0.1:1"]) == 0  # all is there


def test_a_lost_node_costs_its_episode_which_is_made_again(
    cluster: Any, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "player_d.py").write_text(PLAYER.format(act="time.sleep(0.005)"))
    arguments = [*PONG, "--steps", "1200", "--policy", "player_d:play"]
    assert main([*arguments, "--workers", "2", "--out", "here-v0"]) == 0

    def lose_a_node() -> None:
        wait_for_shards(folder / "ray-v0", 3)
        cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)

    thread = threading.Thread(target=lose_a_node)
    thread.start()
    assert main([*arguments, "--ray", cluster.address, "--out", "ray-v0"]) == 0
    thread.join()
    assert len(cluster.list_all_nodes()) == 1
    assert shards(folder / "ray-v0") == shards(folder / "here-v0")
    said = capfd.readouterr().err
    assert "is begun again" in said


def test_no_cluster_at_the_address_is_a_sentence(folder: Path) -> None:
    with pytest.raises(OSError, match=r"the Ray cluster 127.0.0.1:1 cannot be joined \("):
        main([*PONG, "--steps", "120", "--ray", "127.0.0.1:1"])
