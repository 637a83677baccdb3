"""The cache of latents: windows a second, and the error of what is stored.

``python tests/benchmarks/bench_latents.py [CODEC RECORDING]``

Windows of 14 times (12 and the 2 before them) are drawn from latents of 120x160 frames at 1x8x8
with 8 channels, and measured in CPU seconds of one core, files in the cache of the system. With a
codec and a recording, its episodes are encoded into a temporary cache first. Then the frames a
second of that are told, and how far stored latents are from those of the frames.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from einops import rearrange

from worldsim.data.episode import Episode
from worldsim.data.latent_cache import LatentCache, encode_episodes
from worldsim.data.latents import EpisodeArrays, LatentEpisodes
from worldsim.data.recording import Recording
from worldsim.data.writer import RecordingWriter
from worldsim.game.config import GameConfig
from worldsim.model.find_codec import open_codec

SIZE, LATENT = (120, 160), (8, 15, 20)
TIMES, BATCH, NUM_BATCHES = 14, 64, 64
EPISODES, STEPS = 20, 1000


def measure_windows(
    episodes: LatentEpisodes, numbers: list[int], time_factor: int
) -> tuple[float, float]:
    """Return windows a second of one core, first with and then without checking each file."""
    rng, length = np.random.default_rng(0), 1 + time_factor * (TIMES - 1)
    rates = []
    for _ in range(2):
        begun = time.process_time()
        for _ in range(NUM_BATCHES):
            episodes.sample_windows(rng, BATCH, length, numbers, left_padding=2)
        rates.append(NUM_BATCHES * BATCH / (time.process_time() - begun))
    return rates[0], rates[1]


def made_up(folder: Path) -> LatentEpisodes:
    """Latents at random, of episodes whose steps are recorded and whose frames are black."""
    game = GameConfig("benchmarks/Doom-v0", frame_size=SIZE, action_meanings=("NOOP", "LEFT"))
    rng = np.random.default_rng(0)
    nothing = np.zeros(STEPS, bool)
    frames = np.zeros((STEPS + 1, *SIZE, 3), np.uint8)
    with RecordingWriter(folder / "doom", game) as writer:
        for seed in range(EPISODES):
            actions, rewards = rng.integers(2, size=STEPS), np.zeros(STEPS, np.float32)
            writer.write_episode(
                Episode(frames, actions, rewards, nothing, nothing, seed=seed, policy="random")
            )
    latents = EpisodeArrays(folder / "latents", np.float16, LATENT)
    moving = EpisodeArrays(folder / "moving", np.uint8, (SIZE[0], SIZE[1] // 8))
    for number in range(EPISODES):
        latents.write(str(number), rng.normal(size=(STEPS + 1, *LATENT)).astype(np.float16))
        bits = rng.integers(256, size=(STEPS + 1, *moving.row_shape), dtype=np.uint8)
        moving.write(str(number), bits)
    names = {number: str(number) for number in range(EPISODES)}
    return LatentEpisodes(Recording(folder / "doom"), names, latents, moving)


def encoded(folder: Path, codec_name: str, path: str) -> tuple[LatentEpisodes, list[int], int]:
    """Encode a recording, and print how fast that is and how large the error of storing is."""
    recording = Recording(path)
    codec = open_codec(codec_name, recording.game.channels)
    numbers = list(range(min(len(recording), EPISODES)))
    background = recording.median_frame(episodes=numbers)
    recording.path = folder  # where its cache is
    cache = LatentCache(recording, numbers, codec, background)
    begun, cpu = time.perf_counter(), time.process_time()
    todo = [(cache, number) for number in numbers]
    encode_episodes(todo, torch.get_num_threads(), lambda done: None)
    wall, cpu = time.perf_counter() - begun, time.process_time() - cpu
    num_frames = sum(map(cache.num_frames, numbers))
    print(
        f"{codec.describe()}: {num_frames:,} frames encoded at {num_frames / wall:,.0f} a second, "
        f"{num_frames / cpu:,.0f} a second of a core"
    )
    episodes = cache.reader()
    windows = episodes.windows([0], [0], 65)
    clip = torch.from_numpy(recording.frames(0, 0, 65))
    exact = codec.encode(rearrange(clip, "t h w c -> 1 t h w c")).numpy()
    assert windows.latents is not None
    error = windows.latents.astype(np.float32) - exact
    step = np.abs(exact).max() / 127
    as_int8 = np.round(exact / step) * step - exact
    for name, each in (("float16", error), ("int8, of the largest", as_int8)):
        print(f"stored in {name}: error {each.std() / exact.std():.2g} of the deviation")
    return episodes, numbers, codec.time_factor


def main() -> None:
    """Measure the cache."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if sys.argv[1:]:
            episodes, numbers, time_factor = encoded(folder, *sys.argv[1:3])
        else:
            episodes, numbers, time_factor = made_up(folder), list(range(EPISODES)), 1
        first, later = measure_windows(episodes, numbers, time_factor)
        size = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
        print(f"{size / sum(episodes.episode_lengths[numbers] + 1):,.0f} bytes a frame")
        print(f"{later:,.0f} windows a second of a core, {first:,.0f} while files are checked")


if __name__ == "__main__":
    main()
