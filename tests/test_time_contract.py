"""What training learns from a recording is what play does with it, step for step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.tiny_worlds import (
    WINDOW,
    losses_of,
    make_tiny_game,
    make_tiny_video_codec,
    make_tiny_world,
    write_tiny_recording,
)
from worldsim.data.episode import Episode
from worldsim.data.recording import Recording
from worldsim.data.writer import RecordingWriter
from worldsim.model.conditions import Conditions
from worldsim.model.dit import DiTOutput
from worldsim.model.kv_cache import KVCache
from worldsim.rollout import Rollout

pytestmark = pytest.mark.numeric

SHADES = np.array([40, 220, 120])  # what each action makes of the whole next frame
WORLDS: dict[str, Any] = {
    "frames": {},
    "patches": {"patch_frames": 3},
    "codec": {"codec": make_tiny_video_codec()},
}


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return write_tiny_recording(tmp_path_factory.mktemp("recordings") / "square", episodes=3)


def make_shades_episode(rng: np.random.Generator, seed: int) -> Episode:
    """The action alone decides the brightness of the next frame, its reward and its end.

    Every second episode is cut off instead of ending.
    """
    ends = seed % 2 == 0
    actions = np.append(rng.integers(2, size=rng.integers(3, 8)), 2 if ends else 1)
    shown = np.concatenate((SHADES[2:], SHADES[actions])).astype(np.uint8)
    frames = np.broadcast_to(shown[:, None, None, None], (len(shown), 16, 16, 3))
    return Episode(
        frames=frames.copy(),
        actions=actions,
        rewards=(actions == 1).astype(np.float32),
        terminations=actions == 2,
        truncations=np.arange(len(actions)) == (-1 if ends else len(actions) - 1),
        seed=seed,
        policy="random",
    )


@pytest.mark.parametrize("kind", WORLDS)
def test_play_gives_the_network_what_training_gave_it(kind: str, recording: Recording) -> None:
    length = 10
    world = make_tiny_world(**WORLDS[kind])
    p, k, context = world.patch_frames, world.num_history, WINDOW
    windows = recording.windows([0, 1], [3, 8], 1 + p * (length - 1))
    given = world.context_frames
    truth = world.encode(torch.from_numpy(windows.frames))
    shown = windows.frames if world.codec.exact else world.decode(truth).numpy()
    trained: list[tuple[Any, ...]] = []
    hook = world.dit.register_forward_pre_hook(lambda _, inputs: trained.append(inputs))
    losses_of(world, windows, tau_mixture=(1.0, 0.0))
    hook.remove()
    clean, conditions, *_ = trained[0]
    train_actions, train_history = conditions.actions, conditions.history

    # A network that draws the true next frame: play is then forced along the recording.
    played: list[tuple[torch.Tensor, ...]] = []
    forward = world.dit.forward

    def draw_truth(noisy: torch.Tensor, conditions: Conditions, cache: KVCache) -> DiTOutput:
        first, count = int(cache.positions[0]), noisy.shape[1]  # the context comes at once
        for i in range(count):
            given = (part[:, i : i + 1] for part in (noisy, *conditions[:3]))
            played.append((*(part.clone() for part in given), cache.positions + i))
        features = forward(noisy, conditions, cache).features
        return DiTOutput(truth[:, first : first + count], features)

    world.dit.forward = draw_truth  # type: ignore[method-assign]
    rollout = Rollout(world, 2, num_passes=2)
    rollout.reset(windows.frames[:, :given], windows.actions[:, : given - 1], [0, 1])
    for frame in range(given, shown.shape[1], p):
        taken = windows.actions[:, frame - 1 : frame - 1 + p]
        rollout.advance(taken if p > 1 else taken[:, 0])
        assert np.array_equal(rollout.clip().numpy(), shown[:, frame : frame + p])

    assert len(played) == context + 2 * (length - context)
    noise = torch.empty(0)
    for latent, tau, actions, history, positions in played:
        frame = int(positions[0])
        if frame < k:
            continue  # no target of training: there is no history before the window
        column = frame - k
        assert torch.equal(actions[:, 0], train_actions[:, column])
        tolerance = 0 if world.codec.exact else 1e-5
        torch.testing.assert_close(history[:, 0], train_history[:, column], atol=tolerance, rtol=0)
        if not tau.any():
            noise = latent
        level = tau[0].item()  # 1 in the context, then noise and half-way for each frame
        expected = (
            clean[:, column] if level == 1 else torch.lerp(noise[:, 0], clean[:, column], level)
        )
        torch.testing.assert_close(latent[:, 0], expected)
        assert (frame < context) == (level == 1)


def test_a_context_computes_as_the_sequence_did_in_training(recording: Recording) -> None:
    world = make_tiny_world(num_history=1, window=8)
    windows = recording.windows([0], [3], 8)
    outputs: list[DiTOutput] = []
    hook = world.dit.register_forward_hook(lambda _, __, out: outputs.append(out))
    with torch.no_grad():
        # the first frame with itself as its history and an unknown action, as play begins
        latents = world.encode(torch.from_numpy(windows.frames))
        history = world.history(torch.cat((latents[:, :1], latents), dim=1))
        actions = torch.cat((torch.full((1, 1), 3), torch.from_numpy(windows.actions)), dim=1)
        world.predict(latents, Conditions(torch.ones(1, 8), actions, history))
    Rollout(world).reset(windows.frames, windows.actions, [0])
    hook.remove()
    sequence, context = outputs
    torch.testing.assert_close(context.latents, sequence.latents)
    torch.testing.assert_close(context.features, sequence.features)


@pytest.mark.parametrize("kind", ["frames", "codec"])
def test_from_recording_to_training_to_play_nothing_slips_by_a_step(
    kind: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    with RecordingWriter(tmp_path / "shades", make_tiny_game()) as writer:
        for seed in range(40):
            writer.write_episode(make_shades_episode(rng, seed))
    recording = Recording(tmp_path / "shades")
    world = make_tiny_world(termination_bias=0.0, **WORLDS[kind]).train()
    p, before = world.patch_frames, 1 + world.patch_frames * (world.num_history - 1)
    optimizer = torch.optim.Adam(world.parameters(), lr=6e-3)
    for step in range(160):
        windows = recording.sample_windows(
            np.random.default_rng(step),
            8,
            before + 4 * p,
            left_padding=before,
            right_padding=3 * p,
        )
        losses = losses_of(world, windows, step, tau_mixture=(0.25, 0.0))
        losses.mean(losses.frame + losses.head).backward()
        optimizer.step()
        optimizer.zero_grad()

    world.eval()
    episode = make_shades_episode(rng, 40)
    rollout = Rollout(world)
    rollout.reset(episode.frames[None, :WINDOW], episode.actions[None, : WINDOW - 1], [0])
    for actions in np.reshape([0, 1, 1, 0, 0, 1, 0, 1, 1, 1, 0, 2], (-1, p)):
        played = rollout.step(actions[None] if p > 1 else actions)
        if world.codec.exact:  # random weights do not show what their latents mean
            assert played.frames.mean() == pytest.approx(SHADES[actions[0]], abs=70)
        assert played.rewards[0] == pytest.approx((actions == 1).sum(), abs=0.3)
        assert (played.termination_probs[0] > 0.5) == (2 in actions)

    # The first step of an episode pays too, and to be cut off is no end.
    for action in (0, 1):
        rollout.reset(episode.frames[None, :1], episode.actions[None, :0], [0])
        played = rollout.step(np.array([action]))
        assert played.rewards[0] == pytest.approx(p * (action == 1), abs=0.3)
        assert played.termination_probs[0] < 0.5
