"""Pictures of docs/concepts/tokens.md: tokens, batches and places."""

from __future__ import annotations

import tempfile
from pathlib import Path

import gymnasium
import numpy as np
import torch
from einops import rearrange
from PIL import Image

import worldsim  # noqa: F401  # registers the games
from tests.benchmarks.svg import Picture
from worldsim.data.episode import Episode
from worldsim.data.mixture import Group, Mixture
from worldsim.data.opening import open_recordings
from worldsim.data.split import Split
from worldsim.data.writer import RecordingWriter
from worldsim.frame_size import fit_frame
from worldsim.game.describe import describe_game
from worldsim.model.dit_config import DiTConfig
from worldsim.model.layers import place_features, rotary_angles
from worldsim.model.layout import Layout
from worldsim.model.patterns import Pattern, times_seen

PATCH, _ = DiTConfig(num_actions=1).patch_sides
NUM_SPECIAL = 2 + DiTConfig(num_actions=1).num_registers  # action, level and registers
WIDTH = 720


def play(env_id: str, steps: int, every: int = 1) -> Episode:
    """An episode of random play, of which every so many frames are kept."""
    env = gymnasium.make(env_id)
    frames = [env.reset(seed=1)[0]]
    rng = np.random.default_rng(0)
    actions = rng.integers(env.action_space.n, size=steps)  # type: ignore[attr-defined]
    for action in actions.repeat(every):
        frames.append(env.step(action)[0])
    env.close()
    nothing = np.zeros(steps, bool)
    kept = np.stack(frames[::every])
    return Episode(kept, actions, np.zeros(steps, np.float32), nothing, nothing)


def draw_tokens() -> Picture:
    """The tokens of a still and of a clip, with patches of one and of two frames."""
    frames = play("worldsim/Pong-v0", 4, every=4).frames
    side, gap = 50, 8
    picture = Picture(
        WIDTH, 264, "Tokens of a still, of a clip, and of a clip of two-frame patches"
    )
    x = 20.0
    for title, clip, patch_frames in (
        ("a still", frames[:1], 1),
        (f"a clip of {len(frames)} frames", frames, 1),
        ("the same clip, patch_frames = 2", frames, 2),
    ):
        layout = Layout.of(len(clip), clip.shape[1:3], (patch_frames, PATCH, PATCH), NUM_SPECIAL)
        picture.text(x, 26, title, "strong")
        patches = [brightest(frame) for frame in clip]
        for number, frame in enumerate(clip):
            picture.pixels(frame, x + number * (side + gap), 40, side / 64)
        for time in range(layout.times):
            newest = time * patch_frames
            oldest = max(0, newest - patch_frames + 1)
            left = x + (oldest + newest) / 2 * (side + gap)
            picture.arrow(left + side / 2, 98, left + side / 2, 114)
            if oldest < newest:
                ends = x + oldest * (side + gap), x + newest * (side + gap) + side
                picture.lines([(ends[0], 94), (ends[0], 98), (ends[1], 98), (ends[1], 94)])
            cell = side / layout.columns
            for depth in range(newest - oldest, -1, -1):
                at = left + 4 * depth, 124.0 - 4 * depth
                picture.rect(at[0] - 1, at[1] - 1, side + 1, side + 1, "plate")
                picture.pixels(patches[newest - depth], *at, cell, gap=1)
            for special in range(layout.num_special):
                picture.circle(left + cell * (special + 0.5), 182, 2.6, "c")
            picture.text(left + side / 2, 202, f"time {time}", "small pale middle")
        formula = f"N = {layout.times} · ({layout.rows} · {layout.columns} + {NUM_SPECIAL})"
        if len(clip) == 1:
            picture.text(x, 224, f"N = {layout.num_tokens}", "strong")
        else:
            picture.text(x, 224, f"{formula} = {layout.num_tokens}", "strong")
        x += len(clip) * (side + gap) - gap + 34
    picture.circle(24, 244, 3, "c")
    picture.text(32, 248, "special tokens of a time: action, level, registers", "small pale")
    picture.text(WIDTH - 20, 248, "a square: a patch of 8×8 pixels, one token", "small pale end")
    return picture


def brightest(frame: np.ndarray) -> np.ndarray:
    """The brightest pixel of each patch of a frame, (rows columns 3)."""
    patches = rearrange(frame, "(y p) (x q) c -> y x (p q) c", p=PATCH, q=PATCH)
    where = patches.sum(-1).argmax(-1)
    return np.take_along_axis(patches, where[:, :, None, None], axis=2)[:, :, 0]


def draw_batch() -> Picture:
    """A batch of several games, sizes and lengths, and what attention sees of it."""
    window, left, top, size = 6, 316.0, 66.0, 376.0
    names, mixture, groups = mixed_batch(window)
    clips = [
        (
            group,
            clip,
            Layout.of(group.windows.valid.shape[1] - 2, frame, (1, PATCH, PATCH), NUM_SPECIAL),
        )
        for group in groups
        for frame in [group.windows.frames.shape[2:4]]
        for clip in range(len(group.sources))
    ]
    total = sum(layout.num_tokens for _, _, layout in clips)
    scale = size / total
    picture = Picture(WIDTH, 470, "A batch of several frame sizes and lengths, and its attention")
    picture.text(20, 26, "sequences", "strong")
    picture.text(254, 26, "one matrix", "strong middle")
    picture.text(254, 44, f"{total:,} tokens", "small pale middle")
    picture.text(left, 26, "who sees whom, with attention full", "strong")
    picture.rect(left, top, size, size, "paper")
    y, pairs, labelled = top, 0, set()
    for group, clip, layout in clips:
        source = int(group.sources[clip])
        style, height = "abec"[source], layout.num_tokens * scale
        valid = group.windows.valid[clip, 2:]
        n = layout.tokens_per_time * scale
        for time in range(layout.times):
            look = style if valid[time] else "unseen"
            picture.rect(240, y + time * n, 28, n - 0.5, look)
            tall = min(18.0, height - 3)
            picture.rect(20 + time * (n + 2), y + (height - tall) / 2, n, tall, look)
        mask = times_seen(layout.times, window, Pattern())[:, :-1].numpy()
        picture.mask(mask, left + y - top, y, n, style)
        pairs += int(mask.sum()) * layout.tokens_per_time**2
        if source not in labelled:
            same = [one for one in clips if int(one[0].sources[one[1]]) == source]
            count = "a clip" if len(same) == 1 else f"{len(same)} clips"
            frames = "1 frame" if layout.times == 1 else f"{layout.times} frames"
            above = y + height / 2 - 14 if len(same) == 1 else y - 4
            picture.text(20, above, f"{names[source]}: {count} of {frames}", "small")
            labelled.add(source)
        picture.lines([(272, y + height / 2), (left - 4, y + height / 2)], "line dashed")
        if clip == 0:
            end = y + len(group.sources) * height
            picture.lines([(232, y + 1), (228, y + 1), (228, end - 1), (232, end - 1)])
        y += height
    picture.text(left, 44, f"{100 * pairs / total**2:.0f} % of all pairs of tokens", "small pale")
    picture.rect(20, 449, 10, 10, "unseen")
    waste = mixture.waste(groups, (PATCH, PATCH))
    picture.text(36, 458, f"padding: waste {100 * waste:.1f} %", "small pale")
    picture.lines([(234, 449), (230, 449), (230, 459), (234, 459)])
    picture.text(240, 458, "a group: one frame size and one length", "small pale")
    return picture


def mixed_batch(window: int) -> tuple[list[str], Mixture, list[Group]]:
    """Record two games and some pictures, and draw a batch of four rows from them."""
    names = ["Pong, 64×64", "Maze, 64×64", "Pong, 48×48", "pictures, 64×64"]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        paths = [Path(folder, str(number)) for number in range(len(names))]
        for path, env_id, side, steps in (
            (paths[0], "worldsim/Pong-v0", 64, 60),
            (paths[1], "worldsim/Maze-v0", 64, 60),
            (paths[2], "worldsim/Pong-v0", 48, 4),  # shorter than the window
        ):
            game = describe_game(env_id, frame_size=(side, side))
            episode = play(env_id, steps)
            episode.frames = np.stack([fit_frame(x, (side, side), 3) for x in episode.frames])
            with RecordingWriter(path, game) as writer:
                for _ in range(2):
                    writer.write_episode(episode)
        paths[3].mkdir()
        for number in range(3):
            Image.fromarray(episode.frames[number]).save(paths[3] / f"{number}.png")
        recordings = open_recordings(paths)
        splits = [Split.of(recording, 0.5) for recording in recordings]
        mixture = Mixture(recordings, splits, window=window, num_history=2)
        return names, mixture, mixture.sample(*map(np.random.default_rng, (0, 0)), 4)


def draw_sizes() -> Picture:
    """What a patch knows of its place in frames of three sizes."""
    sizes = ((48, "b", 3.0), (64, "a", 4.5), (96, "c", 6.5))
    picture = Picture(WIDTH, 250, "Absolute places and distances in frames of three sizes")
    top, height, width = 62.0, 120.0, 300.0
    picture.text(40, 26, "place: one wave over the height", "strong")
    picture.text(390, 26, "distance: keys turn by the rows between", "strong")
    longest = max(side for side, _, _ in sizes) // PATCH
    step = width / longest
    trained = 390 + step * (64 // PATCH - 0.5)
    picture.rect(trained, top, 390 + width - trained, height, "paper")
    picture.text(trained + 6, top + 14, "not met at 64 px", "small pale")
    for x in (40.0, 390.0):
        picture.lines([(x, top), (x, top + height), (x + width, top + height)])
    for side, style, radius in reversed(sizes):
        rows = side // PATCH
        features = place_features(torch.device("cpu"), rows, 1)
        angles = rotary_angles(torch.arange(rows), 16, base=100.0)
        waves = features[:, 1].tolist()  # their second sine
        likenesses = angles.cos().mean(-1).tolist()
        # Half pixels, which are the same on every processor.
        for row, (wave, likeness) in enumerate(zip(waves, likenesses, strict=True)):
            down = round((1 - wave) * height) / 2, round((1 - likeness) * height / 0.6) / 2 + 4
            picture.circle(40 + (row + 0.5) / rows * width, top + down[0], radius, style)
            picture.circle(390 + row * step, top + down[1], radius, style)
    picture.text(40, top + height + 18, "top", "small pale")
    picture.text(40 + width, top + height + 18, "bottom", "small pale end")
    for row in range(0, longest, 2):
        picture.text(390 + row * step, top + height + 18, str(row), "small pale middle")
    x = 40
    for side, style, radius in sizes:
        picture.circle(x + 6, 226, radius, style)
        picture.text(x + 18, 230, f"{side} px: {side // PATCH} rows of patches", "small pale")
        x += 190
    return picture
