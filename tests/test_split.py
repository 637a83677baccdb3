"""What is held out is decided once, kept with the world, and asked of it by all that measures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import worldsim
from tests.tiny_worlds import make_tiny_episode, make_tiny_game, make_tiny_world
from worldsim.data.recording import Recording
from worldsim.data.split import Split, measurable
from worldsim.data.writer import RecordingWriter
from worldsim.eval.unseen import unseen
from worldsim.system.settings import with_values
from worldsim.train.config import RunOptions, TrainConfig, main
from worldsim.train.dynamics import train


def write(path: Path, seeds: range | list[int], lengths: list[int] | None = None) -> Recording:
    """Write, or add to, a recording of the tiny game with an episode a seed."""
    game = make_tiny_game()
    with RecordingWriter(path, game) as writer:
        for number, seed in enumerate(seeds):
            writer.write_episode(make_tiny_episode(game, lengths[number] if lengths else 12, seed))
    return Recording(path)


class TestSplit:
    def test_is_spread_over_the_recording_and_always_the_same(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(1)
        recording = write(tmp_path, range(60), rng.integers(5, 60, size=60).tolist())
        split = Split.of(recording, 0.1)
        assert sorted((*split.trained_on, *split.held_out)) == list(range(60))
        assert split == Split.of(Recording(tmp_path), 0.1)
        held = list(split.held_out)
        part = recording.episode_lengths[held].sum() / recording.total_steps
        assert 0.07 < part < 0.13
        assert held[0] < 20
        assert held[-1] >= 40
        assert max(np.diff(held)) < 20

    def test_has_both_sides_and_needs_two_episodes(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="two are needed"):
            Split.of(write(tmp_path, [0]), 0.1)
        recording = write(tmp_path, [1])
        for part in (0.01, 0.99):
            split = Split.of(recording, part)
            assert (len(split.trained_on), len(split.held_out)) == (1, 1)
        with pytest.raises(ValueError, match="between 0 and 1, got 1"):
            Split.of(recording, 1)

    def test_identifies_an_episode_by_its_content(self, tmp_path: Path) -> None:
        recording, again = write(tmp_path / "a", [3, 4]), write(tmp_path / "b", [4, 3])
        assert recording.fingerprint(0) == again.fingerprint(1) != again.fingerprint(0)
        game = make_tiny_game()
        for field in ("actions", "rewards", "terminations", "truncations", "frames"):
            episode = make_tiny_episode(game, 12, 3)
            values = getattr(episode, field)
            place = -1 if field.endswith("ations") else 0  # only the last step may be an end
            values[place] = values[place] == 0
            with RecordingWriter(tmp_path / field, game) as writer:
                writer.write_episode(episode)
            assert Recording(tmp_path / field).fingerprint(0) != recording.fingerprint(0)

    def test_travels_with_the_world(self, tmp_path: Path) -> None:
        world = make_tiny_world()
        world.save(tmp_path / "old")
        assert worldsim.load(tmp_path / "old").split is None
        world.split = Split.of(write(tmp_path / "data", range(4)), 0.3)
        world.save(tmp_path / "world")
        assert worldsim.load(tmp_path / "world").split == world.split

    @pytest.mark.parametrize(
        "values",
        [
            [],
            {},
            {"held_out": [0], "episodes": "ab"},
            {"held_out": [], "episodes": ["0" * 16] * 2},
            {"held_out": [0, 1], "episodes": ["0" * 16] * 2},
            {"held_out": [2], "episodes": ["0" * 16] * 2},
            {"held_out": [1, 0], "episodes": ["0" * 16] * 3},
            {"held_out": [True], "episodes": ["0" * 16] * 2},
            {"held_out": [[0]], "episodes": ["0" * 16] * 2},
            {"held_out": [0], "episodes": ["0" * 15, 7]},
        ],
    )
    def test_that_is_none_is_damage(self, values: Any, tmp_path: Path) -> None:
        make_tiny_world().save(tmp_path / "world")
        path = tmp_path / "world" / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "split": values}))
        with pytest.raises(ValueError, match="split") as error:
            worldsim.load(tmp_path / "world")
        assert len(str(error.value)) < 400


class TestMeasurable:
    @pytest.fixture
    def recording(self, tmp_path: Path) -> Recording:
        return write(tmp_path / "data", range(10))

    def test_on_its_own_recording_what_was_held_out(self, recording: Recording) -> None:
        for fraction in (0.1, 0.2, 0.3):
            split = Split.of(recording, fraction)
            found = measurable(recording, [split])
            assert found.unseen == list(split.held_out)
            assert found.reference == list(split.trained_on)
            assert "was trained on this recording with" in found.sentences[0]

    def test_that_has_grown_also_what_is_new(self, recording: Recording) -> None:
        split = Split.of(recording, 0.2)
        found = measurable(write(recording.path, [20, 21]), [split])
        assert found.unseen == [*split.held_out, 10, 11]
        assert "2 episodes held out; 2 episodes added later are unseen too" in found.sentences[0]

    def test_that_has_lost_some_those_that_are_left(self, recording: Recording) -> None:
        split = Split.of(recording, 0.2)
        shutil.copytree(recording.path, recording.path.with_name("less"))
        with RecordingWriter(recording.path.with_name("less"), recording.game) as writer:
            writer.delete_episode(split.held_out[0])
        less = Recording(recording.path.with_name("less"))
        found = measurable(less, [split])
        assert [less.fingerprint(i) for i in found.unseen] == [split.episodes[split.held_out[1]]]
        assert (
            "Of the 9 episodes here, it was trained on 8, 1 were held out and 0 are new"
            in found.sentences[0]
        )

    def test_on_another_recording_half_of_it(self, recording: Recording, tmp_path: Path) -> None:
        found = measurable(write(tmp_path / "other", range(50, 56)), [Split.of(recording, 0.2)])
        assert len(found.unseen) == len(found.reference) == 3
        assert found.sentences == [
            "It was trained on another recording, so all 6 episodes are unseen."
        ]

    def test_of_several_worlds_the_episodes_unseen_by_all(self, recording: Recording) -> None:
        split = Split.of(recording, 0.3)
        one = Split(split.held_out[:2], split.episodes)
        other = Split(split.held_out[1:], split.episodes)
        assert measurable(recording, [one, other]).unseen == [split.held_out[1]]
        apart = Split(split.held_out[2:], split.episodes)
        with pytest.raises(ValueError, match=r"each of the 10 episodes of .* was trained on"):
            measurable(recording, [one, apart])

    def test_of_an_older_world_what_its_command_held_out(self, recording: Recording) -> None:
        world = make_tiny_world()
        found = unseen([world], recording)
        assert found.unseen == list(Split.of(recording, RunOptions.held_out).held_out)
        assert found.sentences[0].startswith(
            "An older version wrote it without its training episodes"
        )
        world.card = "- command: `worldsim train data --out runs/x --held-out 0.3 --passes 1`"
        found = unseen([world], recording)
        assert found.unseen == list(Split.of(recording, 0.3).held_out)
        assert "--run.held-out 0.3" in found.sentences[0]


@pytest.mark.usefixtures("tiny_is_tinier")
class TestRun:
    def config(self, recording: Recording, out: Path, **changes: Any) -> TrainConfig:
        values = {"steps": 4, "optim.batch_size": 2, "model.window": 4, "run.num_evals": 0}
        config = TrainConfig((recording.path,), out)
        return with_values(config, {**values, "wandb": "disabled", **changes})

    def test_is_measured_on_nothing_that_it_was_trained_on(self, tmp_path: Path) -> None:
        recording = write(tmp_path / "data", range(20))
        train(self.config(recording, tmp_path / "run", **{"run.held_out": 0.2}))
        world = worldsim.load(tmp_path / "run")
        assert world.split == Split.of(recording, 0.2)
        assert unseen([world], recording).unseen == list(world.split.held_out)

    @pytest.mark.slow
    def test_resumed_holds_out_what_it_began_with_though_the_recording_grew(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        recording = write(tmp_path / "data", range(6))
        for out in (tmp_path / "one", tmp_path / "other"):
            train(self.config(recording, out, steps=2))
        whole = train(self.config(recording, tmp_path / "one", resume=True)).checkpoint
        grown = write(tmp_path / "data", range(30, 36))
        resumed = train(self.config(grown, tmp_path / "other", resume=True)).checkpoint
        note = "6 episodes recorded since this run began are left out"
        assert note in capsys.readouterr().err
        one, other = worldsim.load(whole), worldsim.load(resumed)
        assert one.split == other.split == Split.of(recording, 0.1)
        np.testing.assert_array_equal(one.background, other.background)
        np.testing.assert_array_equal(one.starts.frames, other.starts.frames)
        for ours, theirs in zip(one.parameters(), other.parameters(), strict=True):
            assert torch.equal(ours, theirs)

    def test_is_not_resumed_with_another_recording_or_another_part_held_out(
        self, tmp_path: Path
    ) -> None:
        recording = write(tmp_path / "data", range(6))
        train(self.config(recording, tmp_path / "run", steps=2))
        other = write(tmp_path / "other", [0, 1, 2, 40, 41, 42])
        with pytest.raises(ValueError, match="3 of its 6 episodes match"):
            train(self.config(other, tmp_path / "run", resume=True))
        words = [str(recording.path), "--out", str(tmp_path / "run"), "--resume", "--steps", "4"]
        with pytest.raises(ValueError, match=r"began with --run\.held-out 0\.1, and "):
            main([*words, "--run.held-out", "0.3"])
        assert main(words) == 0


class TestJoinedSplit:
    """The split of a world of several recordings serves each of them."""

    def test_has_each_recording_as_a_part_and_travels_as_json(self, tmp_path: Path) -> None:
        recordings = [write(tmp_path / "a", range(5)), write(tmp_path / "b", range(10, 13))]
        splits = [Split.of(one, 0.3) for one in recordings]
        both = Split.joined(splits)
        assert both.parts == tuple(splits)
        assert both.recordings == (5, 3)
        assert len(both.episodes) == 8
        assert [both.episodes[number] for number in both.held_out] == [
            split.episodes[number] for split in splits for number in split.held_out
        ]
        assert Split.from_dict(json.loads(json.dumps(both.to_dict()))) == both

    def test_of_one_recording_is_what_it_was(self, tmp_path: Path) -> None:
        split = Split.of(write(tmp_path, range(4)), 0.3)
        assert Split.joined([split]) is split
        assert split.parts == (split,)
        assert split.to_dict().keys() == {"held_out", "episodes"}

    def test_measures_each_recording_on_its_own_held_out_episodes(self, tmp_path: Path) -> None:
        # Equal episodes, as of a game without chance: only their numbers tell them apart.
        recordings = [write(tmp_path / "a", range(6)), write(tmp_path / "b", [7] * 4)]
        splits = [Split.of(one, 0.2) for one in recordings]
        for one, split in zip(recordings, splits, strict=True):
            known = measurable(one, [Split.joined(splits)])
            assert known.unseen == list(split.held_out)
            assert known.reference == list(split.trained_on)
            assert known.sentences == ["It was trained on this recording with 1 episode held out."]
        with RecordingWriter(tmp_path / "b", make_tiny_game()) as writer:
            writer.write_episode(make_tiny_episode(make_tiny_game(), 12, 20))
        known = measurable(Recording(tmp_path / "b"), [Split.joined(splits)])
        assert known.unseen == [*splits[1].held_out, 4]

    @pytest.mark.parametrize("recordings", [[4], [1, 3], [-1, 5], [2, 2, 0], ["a"], [2.0, 2.0]])
    def test_is_checked(self, recordings: list[Any]) -> None:
        values = {
            "held_out": [0, 2],
            "episodes": [f"{number:016x}" for number in range(4)],
            "recordings": recordings,
        }
        if recordings == [4]:
            assert Split.from_dict(values).parts[0].held_out == (0, 2)
            return
        with pytest.raises(ValueError, match="split"):
            Split.from_dict(values)
