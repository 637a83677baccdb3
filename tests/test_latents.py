"""Windows of cached latents: those that encoding the frames gives, up to how they are stored."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from einops import rearrange

from tests.test_mixture import HISTORY, WINDOW, rngs
from tests.test_pictures import write_pictures
from tests.tiny_worlds import (
    losses_of,
    make_tiny_dc_codec,
    make_tiny_episode,
    make_tiny_game,
    make_tiny_vae_codec,
    make_tiny_video_codec,
    make_tiny_world,
    write_tiny_recording,
)
from worldsim.data import latent_cache
from worldsim.data.episodes import Episodes
from worldsim.data.latent_cache import LatentCache, encode_episodes
from worldsim.data.latents import EpisodeArrays, LatentEpisodes, pack_bits, unpack_bits
from worldsim.data.mixture import Mixture
from worldsim.data.opening import open_recordings
from worldsim.data.recording import Recording
from worldsim.data.split import Split
from worldsim.data.windows import Windows
from worldsim.data.writer import RecordingWriter
from worldsim.model.autoencoder_codec import AutoencoderCodec
from worldsim.model.codec import Codec
from worldsim.train.objective import encode

pytestmark = pytest.mark.numeric

FRAME_WISE = [make_tiny_vae_codec, make_tiny_dc_codec]
ROUNDING = {"rtol": 2**-11, "atol": 1e-5}  # of float16; and of a batch of another size


def cached(source: Episodes, codec: Codec, background: np.ndarray | None = None) -> LatentEpisodes:
    """All episodes of a recording as latents."""
    if background is None:
        background = np.full(source.frame_shape, 20, np.uint8)
    cache = LatentCache(source, range(len(source)), codec, background)
    encode_episodes([(cache, index) for index in range(len(source))], 2, lambda done: None)
    return cache.reader()


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return write_tiny_recording(tmp_path_factory.mktemp("latents") / "square", episodes=3)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[Episodes]:
    """Episodes of many lengths, larger frames of another game, and pictures."""
    folder = tmp_path_factory.mktemp("recordings")
    game = make_tiny_game()
    with RecordingWriter(folder / "mixed", game) as writer:
        for seed, steps in enumerate((1, 4, 11, 30)):
            writer.write_episode(make_tiny_episode(game, steps, seed))
    large = make_tiny_game(
        env_id="tests/Large-v0", frame_size=(20, 32), action_meanings=("NOOP", "FIRE", "LEFT")
    )
    write_tiny_recording(folder / "large", steps=20, game=large)
    write_pictures(folder / "stills", 12)
    return open_recordings([folder / name for name in ("mixed", "large", "stills")])


@pytest.fixture(scope="module")
def video() -> AutoencoderCodec:
    return make_tiny_video_codec()


class TestFrameWise:
    @pytest.mark.parametrize("make", FRAME_WISE)
    def test_windows_are_those_of_the_frames(
        self, make: Callable[[], AutoencoderCodec], recording: Recording
    ) -> None:
        """Also before and after the episode, of 41 frames."""
        world = make_tiny_world(codec=make(), patch_size=4)
        places = [0, 1, 2, 1], [-3, 7, 34, 35], 9
        given, expected = (
            cached(recording, world.codec).windows(*places),
            recording.windows(*places),
        )
        assert given.frames.shape == (4, 9, 16, 16, 0)
        for name, values in expected.arrays.items():
            if name != "frames":
                np.testing.assert_array_equal(values, given.arrays[name], err_msg=name)
        batch, of_frames = encode(world, given), encode(world, expected)
        codes = [each.latents + world.background_latents for each in (batch, of_frames)]
        torch.testing.assert_close(*codes, **ROUNDING)
        assert not torch.equal(*codes)  # or it would tell nothing
        assert torch.equal(batch.moving, of_frames.moving)
        assert batch.moving.any()
        assert not batch.moving.all()

    @pytest.mark.parametrize("patch_frames", [1, 2])
    def test_the_loss_is_that_of_the_frames(self, patch_frames: int, recording: Recording) -> None:
        world = make_tiny_world(
            codec=make_tiny_vae_codec(), patch_size=4, patch_frames=patch_frames
        )
        places = [0, 1, 2], [-1, 5, 20], 1 + 6 * patch_frames
        windows = cached(recording, world.codec).windows(*places), recording.windows(*places)
        settings = {"moving_weight": 10.0, "history_noise": 0.1}
        one, two = (losses_of(world, each, **settings) for each in windows)
        torch.testing.assert_close(one.frame, two.frame, rtol=2e-3, atol=1e-4)
        torch.testing.assert_close(one.head, two.head, rtol=2e-3, atol=1e-4)

    def test_frames_whose_width_is_no_multiple_of_eight(self, tmp_path: Path) -> None:
        game = make_tiny_game(frame_size=(16, 20))
        recording = write_tiny_recording(tmp_path / "wide", game=game, episodes=1)
        world = make_tiny_world(game, codec=make_tiny_vae_codec(), patch_size=4)
        windows = cached(recording, world.codec).windows([0], [3], 5)
        moving = encode(world, recording.windows([0], [3], 5)).moving
        assert torch.equal(encode(world, windows).moving, moving)

    def test_an_episode_is_encoded_in_blocks(
        self, recording: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        codec = make_tiny_vae_codec()
        whole = cached(recording, codec).windows([0], [0], 41)
        monkeypatch.setattr(latent_cache, "BLOCK_PIXELS", 16 * 16 * 7)
        again = cached(write_tiny_recording(tmp_path / "square", episodes=1), codec)
        blocks = again.windows([0], [0], 41)
        torch.testing.assert_close(*map(torch.from_numpy, (whole.latents, blocks.latents)))
        np.testing.assert_array_equal(whole.moving, blocks.moving)

    def test_latents_beyond_float16_are_refused(self, recording: Recording) -> None:
        codec = make_tiny_vae_codec()
        codec.autoencoder.register_to_config(scaling_factor=1e7)
        with pytest.raises(ValueError, match=r"latents of this codec reach .*, and about 1 is usu"):
            cached(recording, AutoencoderCodec(codec.autoencoder))


class TestMixture:
    """Several recordings of several games and sizes, and pictures."""

    def mixtures(self, recordings: list[Episodes], codec: Codec) -> tuple[Mixture, Mixture]:
        p = codec.time_factor
        splits = [Split.of(recording, 0.1) for recording in recordings]
        latents = [cached(recording, codec) for recording in recordings]
        settings = {"window": WINDOW, "num_history": 1 + (HISTORY - 1) * p, "patch_frames": p}
        return Mixture(recordings, splits, **settings), Mixture(latents, splits, **settings)

    def test_draws_the_same_windows_from_the_same_seeds(self, recordings: list[Episodes]) -> None:
        codec = make_tiny_vae_codec()
        of_frames, of_latents = self.mixtures(recordings, codec)
        groups, others = (each.sample(*rngs(1, 2), 16) for each in (of_frames, of_latents))
        assert len(groups) > 4
        for group, other in zip(groups, others, strict=True):
            np.testing.assert_array_equal(group.sources, other.sources)
            assert other.windows.latents is not None
            for name in ("actions", "rewards", "terminations", "valid"):
                one, two = (each.windows.arrays[name] for each in (group, other))
                np.testing.assert_array_equal(one, two, err_msg=name)
            exact = codec.encode(torch.from_numpy(group.windows.frames))
            given = torch.from_numpy(other.windows.latents).float()
            torch.testing.assert_close(given, exact, **ROUNDING)
        patches = (8, 8)
        assert of_latents.waste(others, patches) == of_frames.waste(groups, patches)

    @pytest.mark.parametrize("make", [make_tiny_vae_codec, make_tiny_video_codec])
    def test_every_window_has_a_target_and_every_end_is_one(
        self, make: Callable[[], AutoencoderCodec], recordings: list[Episodes]
    ) -> None:
        codec = make()
        mixture = self.mixtures(recordings, codec)[1]
        ends = 0
        for seed in range(8):
            for group in mixture.sample(*rngs(seed, seed), 16):
                windows = group.windows
                times = torch.from_numpy(windows.valid)[:, mixture.num_history :]
                assert times.any(1).all()
                ends += int(windows.terminations[:, mixture.num_history - 1 :].any(1).sum())
        assert ends > 30


class TestVideo:
    def whole(self, codec: Codec, recording: Recording, index: int) -> torch.Tensor:
        """The latents (t' c h w) of an episode at once; 41 frames are 21 latents of 2."""
        frames = torch.from_numpy(recording.episode(index).frames)
        return codec.encode(rearrange(frames, "t h w c -> 1 t h w c"))[0]

    @pytest.mark.parametrize("start", [0, 4, 5, 26, 33])
    def test_windows_begin_where_a_latent_ends(
        self, start: int, video: AutoencoderCodec, recording: Recording
    ) -> None:
        windows = cached(recording, video).windows([1], [start], 9)
        border = start - start % 2
        expected = recording.windows([1], [border], 9)
        for name in ("actions", "rewards", "valid"):
            np.testing.assert_array_equal(windows.arrays[name], expected.arrays[name])
        assert windows.latents is not None
        latents = torch.from_numpy(windows.latents).float()[0]
        numbers = np.minimum(np.arange(border // 2, border // 2 + 5), 20)
        torch.testing.assert_close(latents, self.whole(video, recording, 1)[numbers], **ROUNDING)

    def test_what_moves_in_a_time_is_that_of_its_frames(
        self, video: AutoencoderCodec, recording: Recording
    ) -> None:
        world = make_tiny_world(codec=video, patch_size=4)
        windows = cached(recording, video).windows([0, 2], [4, -3], 9)
        batch, of_frames = (
            encode(world, each) for each in (windows, recording.windows([0, 2], [4, -2], 9))
        )
        assert batch.latents.shape == of_frames.latents.shape == (2, 5, 4, 8, 8)
        for name in ("moving", "actions", "rewards", "terminations", "valid"):
            assert torch.equal(getattr(batch, name), getattr(of_frames, name)), name

    def test_an_end_within_a_latent_repeats_the_last_frame(
        self, video: AutoencoderCodec, tmp_path: Path
    ) -> None:
        recording = write_tiny_recording(tmp_path / "odd", steps=7, episodes=1)
        windows = cached(recording, video).windows([0], [0], 13)
        frames = torch.from_numpy(recording.episode(0).frames)
        frames = torch.cat((frames, frames[-1:]))
        latents = video.encode(frames[None])[0, [0, 1, 2, 3, 4, 4, 4]]
        assert windows.latents is not None
        torch.testing.assert_close(
            torch.from_numpy(windows.latents).float()[0], latents, **ROUNDING
        )
        assert windows.valid.sum() == 8

    def test_a_long_episode_is_encoded_in_blocks_that_see_their_past(
        self,
        video: AutoencoderCodec,
        recording: Recording,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The second block, from latent 16 on, is encoded with the 8 latents before it."""
        monkeypatch.setattr(latent_cache, "BLOCK_PIXELS", 1)
        again = cached(write_tiny_recording(tmp_path / "square", episodes=2), video)
        windows = again.windows([1], [0], 41)
        assert windows.latents is not None
        found = torch.from_numpy(windows.latents).float()[0]
        torch.testing.assert_close(found[:16], self.whole(video, recording, 1)[:16], **ROUNDING)
        late = video.encode(torch.from_numpy(recording.episode(1).frames)[None, 16:])[0, 8:]
        torch.testing.assert_close(found[16:], late, **ROUNDING)
        moving = cached(recording, video).windows([1], [0], 41).moving
        np.testing.assert_array_equal(windows.moving, moving)


class TestFiles:
    @pytest.fixture
    def arrays(self, tmp_path: Path) -> EpisodeArrays:
        arrays = EpisodeArrays(tmp_path / "folder", np.float16, (2, 3))
        arrays.write("one", np.arange(60, dtype=np.float16).reshape(10, 2, 3))
        return arrays

    def test_rows_are_read_from_anywhere_and_by_another_process(
        self, arrays: EpisodeArrays
    ) -> None:
        for each in (arrays, pickle.loads(pickle.dumps(arrays))):
            out = np.empty((4, 2, 3), np.float16)
            each.read("one", 3, 7, out)
            np.testing.assert_array_equal(out.flatten(), np.arange(18, 42))
            assert each.has("one", 10)
            assert not each.has("two", 10)

    def test_anyone_can_open_them(self, arrays: EpisodeArrays) -> None:
        from safetensors.numpy import load_file

        rows = load_file(arrays.path("one"))["rows"]
        np.testing.assert_array_equal(rows.flatten(), np.arange(60))

    @pytest.mark.parametrize(
        ("damage", "words"),
        [
            (lambda data: data[:-1], "it has .* bytes"),
            (lambda data: b"", "Expecting value"),
            (lambda data: b"\xff" * 8 + data, "its header has"),
            (lambda data: data.replace(b"F16", b"U16"), "it holds U16 rows of"),
            (lambda data: data.replace(b"rows", b"cols"), "'rows'"),
        ],
    )
    def test_a_file_of_something_else_is_no_part_of_a_cache(
        self, arrays: EpisodeArrays, damage: Callable[[bytes], bytes], words: str
    ) -> None:
        path = arrays.path("one")
        path.write_bytes(damage(path.read_bytes()))
        out = np.empty((1, 2, 3), np.float16)
        for call in (lambda: arrays.has("one", 10), lambda: arrays.read("one", 0, 1, out)):
            with pytest.raises(
                ValueError, match=rf"one\.safetensors is damaged .*{words}.*: delet"
            ):
                call()

    def test_a_flipped_bit_is_found_when_the_episode_is_first_read(
        self, arrays: EpisodeArrays
    ) -> None:
        path = arrays.path("one")
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"one\.safetensors is damaged \(its checksum differs"):
            arrays.read("one", 0, 1, np.empty((1, 2, 3), np.float16))

    def test_a_file_that_is_gone_is_named(self, arrays: EpisodeArrays) -> None:
        out = np.empty((1, 2, 3), np.float16)
        arrays.read("one", 0, 1, out)
        arrays.path("one").unlink()
        with pytest.raises(ValueError, match=r"there is no .*one\.safetensors: delete it if"):
            arrays.read("one", 0, 1, out)

    def test_a_link_is_not_followed(self, arrays: EpisodeArrays) -> None:
        arrays.path("two").symlink_to(arrays.path("one"))
        with pytest.raises(ValueError, match=r"two\.safetensors is a link"):
            arrays.has("two", 10)

    @pytest.mark.parametrize("width", [1, 8, 21])
    def test_bits_are_packed_and_unpacked(self, width: int) -> None:
        moving = torch.rand(2, 3, 5, width) < 0.5
        bits = pack_bits(moving)
        assert bits.shape == (2, 3, 5, -(-width // 8))
        assert torch.equal(unpack_bits(torch.from_numpy(bits), width), moving)

    def test_windows_of_latents_are_selected_by_rows(self, recording: Recording) -> None:
        windows = cached(recording, make_tiny_vae_codec()).windows([0, 1], [0, 5], 4)
        assert isinstance(windows, Windows)
        (row,) = windows[[1]].latents  # type: ignore[misc]
        np.testing.assert_array_equal(row, windows.latents[1])  # type: ignore[index]
        assert replace(windows).arrays.keys() == {*recording.windows([0], [0], 2).arrays} | {
            "latents",
            "moving",
        }
