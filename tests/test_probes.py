"""Scenes of which everything is known, their readers, and the command that asks worlds."""

from __future__ import annotations

import json
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import worldsim  # noqa: F401  (registers the scenes)
from worldsim.envs.scene_readers import Errors, Frames, Truth
from worldsim.envs.scenes import CONTEXT, SCENES, SHARE, Scene
from worldsim.train.probe import main, watch

# What a reader may be off on real frames, by the unit of what it reads.
PRECISION = {"px/step": 0.02, "px": 0.05, "steps": 0.0, SHARE: 0.0}
SHARES = {"momentum": 0.03, "energy": 0.06, "volume": 0.002, "total": 0.002}


def episode(name: str, band: str, seed: int) -> tuple[Frames, Truth]:
    """Frames and truth of a scene after the context."""
    frames, truth = watch(gymnasium.make("worldsim/Scene-v0", scene=name, band=band), seed)
    return frames[CONTEXT:], {key: values[CONTEXT:] for key, values in truth.items()}


def errors(name: str, shown: Frames, truth: Truth, real: Frames) -> Errors:
    return SCENES[name].read(shown, truth, real)


def dye(frames: Frames) -> Frames:
    """Red becomes green, green blue and blue red; the background stays."""
    dyed = np.roll(frames, 1, axis=-1)
    return np.where((frames == frames[0, 0, 0]).all(-1, keepdims=True), frames, dyed)


class TestScenes:
    @pytest.mark.parametrize("name", SCENES)
    def test_is_an_environment(self, name: str) -> None:
        check_env(gymnasium.make("worldsim/Scene-v0", scene=name).unwrapped, skip_render_check=True)

    @pytest.mark.parametrize("name", SCENES)
    def test_bands_do_not_meet(self, name: str) -> None:
        inside, outside = (
            np.array([SCENES[name].true_value(episode(name, band, seed)[1]) for seed in range(40)])
            for band in ("in", "out")
        )
        if name != "collision":  # two speeds, each in its band; their mean may be anywhere
            beyond = (outside < inside.min()) | (outside > inside.max())
            assert beyond.all()
            assert (outside < inside.min()).any()
            assert (outside > inside.max()).any()

    @pytest.mark.parametrize("argument", ["scene", "band", "render_mode"])
    def test_arguments_are_checked(self, argument: str) -> None:
        with pytest.raises(ValueError, match=f"{argument} must be one of .* got 'nonsense'"):
            Scene(**{argument: "nonsense"})

    def test_momentum_and_energy_are_kept_by_a_collision(self) -> None:
        for seed in range(10):
            _, truth = watch(gymnasium.make("worldsim/Scene-v0", scene="collision"), seed)
            mass, speed = truth["radius"] ** 2, truth["velocity"][..., 0]
            assert np.ptp((mass * speed).sum(1)) < 1e-9
            assert np.ptp((mass * speed**2).sum(1)) < 1e-9
            gap = np.abs(np.diff(truth["position"][..., 0])[:, 0]) - truth["radius"].sum(1)
            assert gap.min() > -1.5  # they touch and do not pass through one another
            before = speed[:CONTEXT] == speed[0]
            assert before.all()  # they meet after the context
            assert not (speed[-1] == speed[0]).any()


class TestReaders:
    @pytest.mark.parametrize("band", ["in", "out"])
    @pytest.mark.parametrize("name", SCENES)
    def test_recover_the_truth_on_real_frames(self, name: str, band: str) -> None:
        for seed in range(12):
            real, truth = episode(name, band, seed)
            for quantity, error in errors(name, real, truth, real).items():
                limit = SHARES.get(quantity, PRECISION[SCENES[name].units[quantity]])
                assert error <= limit, (seed, quantity)

    @pytest.mark.parametrize(
        ("name", "quantity", "least"),
        [
            ("motion", "velocity", 0.4),
            ("parabola", "velocity", 0.4),
            ("collision", "velocity", 0.2),
            ("collision", "momentum", 0.1),
            ("collision", "energy", 0.9),
            ("pour", "volume", 0.05),
            ("candle", "height", 1.0),
        ],
    )
    def test_notice_frames_that_do_not_move(self, name: str, quantity: str, least: float) -> None:
        real, truth = episode(name, "in", 0)
        start = 8 if name == "collision" else 0  # after they have met
        frozen = np.repeat(real[start : start + 1], len(real), axis=0)
        assert errors(name, frozen, truth, real)[quantity] > least

    def test_are_not_misled_by_a_tint_of_the_frame(self) -> None:
        real, truth = episode("motion", "in", 0)
        tint = np.random.default_rng(0).integers(0, 9, (len(real), 1, 1, 1), dtype=np.uint8)
        right = np.arange(real.shape[2])[:, None] >= real.shape[2] // 2
        tinted = np.where(right, np.minimum(real, 255 - tint) + tint, real)
        assert errors("motion", tinted, truth, real)["velocity"] < 0.06

    def test_notice_a_lost_ball(self) -> None:
        real, truth = episode("motion", "in", 1)
        gone = real.copy()
        gone[10:] = gone[0, 0, 0]
        found = errors("motion", gone, truth, real)
        assert found["lost"] == pytest.approx(1 - 10 / len(real), abs=0.02)
        assert found["velocity"] < 0.06  # as long as it was there it moved as it should

    def test_notice_what_does_not_come_out_or_comes_out_as_another(self) -> None:
        for seed in range(4):
            real, truth = episode("occlusion", "in", seed)
            hidden = np.repeat(real[:1], len(real), axis=0)
            assert errors("occlusion", hidden, truth, real)["vanished"] == 1
            other = dye(real)
            other[:, :, 26:38] = real[:, :, 26:38]  # the pillar
            found = errors("occlusion", other, truth, real)
            assert found["vanished"] == 0
            assert found["other kind"] == 1
            late = np.concatenate([np.repeat(real[:1], 3, axis=0), real[:-3]])
            assert errors("occlusion", late, truth, real)["time"] == 3
            lower = np.roll(real, 2, axis=1)
            assert errors("occlusion", lower, truth, real)["place"] > 1

    def test_notice_liquid_that_is_not_kept(self) -> None:
        real, truth = episode("pour", "in", 0)
        spilt = real.copy()
        spilt[16:] = spilt[16:17]
        spilt[16:, :20, 40:50] = spilt[0, 0, 0]
        spilt[16:, 20:28, 40:50] = spilt[0, 0, 0]
        spilt[16:, 20:28, 14:24] = spilt[0, 0, 0]
        assert errors("pour", spilt, truth, real)["total"] > 0.3

    def test_notice_a_candle_that_grows(self) -> None:
        real, truth = episode("candle", "in", 0)
        found = errors("candle", real[::-1], truth, real)
        assert found["grows"] > 0.9
        assert found["height"] > 1

    def test_count_one_too_many_one_too_few_and_another_kind(self) -> None:
        real, truth = episode("counting", "in", 2)
        fewer, more, other = (
            errors("counting", episode("counting", band, seed)[0], truth, real)
            for band, seed in (("in", 3), ("out", 0), ("in", 2))
        )
        assert other == {"number": 0, "kinds": 0}
        number_of = SCENES["counting"].true_value
        number = number_of(truth)
        for found, (band, seed) in ((fewer, ("in", 3)), (more, ("out", 0))):
            if number_of(episode("counting", band, seed)[1]) != number:
                assert found["number"] > 0.5
        found = errors("counting", dye(real), truth, real)
        assert found["number"] < 0.2
        assert found["kinds"] == 1


@pytest.mark.slow
def test_command_trains_tests_and_reports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "probes"
    words = ["candle", "--out", str(out), "--steps", "3", "--episodes", "3"]
    assert main([*words, "--questions", "3"]) == 0
    printed = capsys.readouterr().out
    assert "world 1 of 1" in printed
    assert "candle: errors" in printed
    assert "height" in (out / "candle.txt").read_text()
    report = json.loads((out / "candle.json").read_text())
    assert list(report) == ["3 episodes, in", "3 episodes, out"]
    for quantities in report.values():
        reader, world = (quantities["height"][who][0] for who in ("reader", "world"))
        assert reader < 0.01 < world
    for picture in ("candle.png", "candle_strip.png"):
        assert (out / picture).stat().st_size > 1000
    checkpoints = sorted(out.glob("candle/world_*/step_*/config.json"))
    assert len(checkpoints) == 1
    times = [path.stat().st_mtime_ns for path in checkpoints]
    assert main([*words, "--questions", "3"]) == 0  # nothing is trained again
    assert [path.stat().st_mtime_ns for path in checkpoints] == times


@pytest.mark.parametrize("option", ["--questions", "--episodes"])
def test_options_out_of_range(option: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be a whole number from 2 to"):
        main(["motion", "--out", str(tmp_path), option, "1"])
