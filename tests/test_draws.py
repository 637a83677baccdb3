"""The draws of a training step: of one key, in the shares of the recipe, and all there are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.tiny_worlds import make_tiny_world, write_tiny_recording
from worldsim.train.draws import NEEDLESS_CODES, Draws, draw
from worldsim.train.objective import Batch, encode, objective
from worldsim.train.recipe import Recipe
from worldsim.world_model import WorldModel

RECIPE = Recipe(self_rollout=0.4, corrupt_history=0.5, history_contrast=0.3)


@pytest.fixture(scope="module")
def world() -> WorldModel:
    return make_tiny_world(chance_bits=3).train()


def draws_of(world: WorldModel, key: tuple[int, ...], batch_size: int = 3, **given: Any) -> Draws:
    latents = torch.empty(batch_size, world.num_history + 4, 3, 16, 16)
    return draw(world, latents, RECIPE, key, **given)


def tensors_in(parts: object) -> list[torch.Tensor]:
    if isinstance(parts, torch.Tensor):
        return [parts]
    return [each for part in parts for each in tensors_in(part)] if isinstance(parts, tuple) else []


def moved(parts: Any, device: str) -> Any:
    """Named tuples of tensors, and of such tuples, on another device."""
    if isinstance(parts, torch.Tensor):
        return parts.to(device)
    if isinstance(parts, tuple):
        return type(parts)(*(moved(part, device) for part in parts))
    return parts


def test_one_key_decides_every_draw(world: WorldModel) -> None:
    one, same, other = (tensors_in(draws_of(world, key, 20)) for key in ((1, 7), (1, 7), (1, 8)))
    assert len(one) == 11
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_shares_are_those_of_the_recipe(world: WorldModel) -> None:
    steps = [draws_of(world, (0, step), code_share=0.3) for step in range(400)]
    numbers = [draws.num_own for draws in steps]
    assert set(numbers) == {1, 2}  # of three windows
    assert np.mean(numbers) == pytest.approx(3 * RECIPE.self_rollout, abs=0.08)
    with_codes = [draws.codes for draws in steps if draws.codes]
    assert len(with_codes) / len(steps) == pytest.approx(0.3, abs=0.06)
    assert not any(draws_of(world, (0, step), code_share=0.0).codes for step in range(9))

    many = draws_of(world, (0,), batch_size=2000)
    assert many.codes is not None
    assert many.hidden_actions is not None
    assert many.corruption is not None
    shares = {
        "codes.hidden": (many.codes.hidden, RECIPE.unknown_codes),
        "codes.needless": (many.codes.needless, NEEDLESS_CODES),
        "codes.bits": (many.codes.bits > 0, 0.5),
        "hidden_actions": (many.hidden_actions, RECIPE.action_dropout),
        "erased": (many.corruption.erased.flatten(1).any(1), RECIPE.corrupt_history / 2),
        "foreign": (many.corruption.foreign.flatten(1).any(1), RECIPE.corrupt_history / 2),
        "clean": (many.tau == 1, RECIPE.tau_mixture[0]),
    }
    for name, (drawn, share) in shares.items():
        assert drawn.float().mean().item() == pytest.approx(share, abs=0.03), name
    assert many.history_noise is not None
    deviations = many.history_noise.std(dim=(2, 3, 4))  # uniform up to the recipe's
    assert deviations.mean().item() == pytest.approx(RECIPE.history_noise / 2, rel=0.05)
    assert deviations.max().item() < 1.1 * RECIPE.history_noise
    assert many.history_contrast is not None
    contrast = many.history_contrast.log()
    assert contrast.mean().item() == pytest.approx(0, abs=0.01)
    assert contrast.abs().max().item() == pytest.approx(0.3, rel=0.01)


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory, world: WorldModel) -> Batch:
    recording = write_tiny_recording(tmp_path_factory.mktemp("draws") / "square", episodes=3)
    return encode(world, recording.windows([0, 1, 2], [5] * 3, world.num_history + 4))


@pytest.mark.slow
def test_the_objective_is_one_graph(batch: Batch) -> None:
    """Whatever waits for numbers, or depends on them, would break the graph."""
    one, other = (make_tiny_world(chance_bits=3).train() for _ in range(2))
    draws = draw(one, batch.latents, RECIPE, (0,))
    compiled = torch.compile(objective, fullgraph=True, backend="eager")
    losses = compiled(one, [batch], RECIPE, [draws])
    losses.total().backward()
    plain = objective(other, [batch], RECIPE, [draws])
    plain.total().backward()
    for part, same in zip(losses, plain, strict=True):
        torch.testing.assert_close(part, same)
    for (name, weights), same in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(weights.grad, same.grad, msg=name)


def test_the_objective_waits_for_no_device(world: WorldModel, batch: Batch) -> None:
    """Tensors of the device meta have shapes and no numbers: looking at one is an error."""
    draws = draw(world, batch.latents, RECIPE, (0,))
    assert len(tensors_in(draws)) == 11
    absent = make_tiny_world(chance_bits=3).train().to("meta")
    losses = objective(absent, [moved(batch, "meta")], RECIPE, [moved(draws, "meta")])
    losses.total().backward()
    assert {part.device.type for part in losses} == {"meta"}
    assert all(weights.grad is not None for weights in absent.parameters())
    with pytest.raises(RuntimeError, match="meta"):
        losses.total().item()


def test_stills_are_trained_at_all_levels_alike() -> None:
    world = make_tiny_world()
    latents = torch.zeros(4000, world.num_history + 1, 3, 1, 1)
    tau = draw(world, latents, Recipe(), (0,)).tau
    counts = torch.histc(tau, 10, 0, 1)
    assert counts.min() > 330
    assert counts.max() < 470
