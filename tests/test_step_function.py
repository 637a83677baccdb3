"""A step of a rollout is one function of tensors, which waits for nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from tests.tiny_worlds import make_tiny_vae_codec, make_tiny_world
from worldsim.rollout import Rollout
from worldsim.world_model import WorldModel

pytestmark = pytest.mark.numeric

WORLDS: dict[str, Callable[[], WorldModel]] = {
    "pixels": make_tiny_world,
    "codes": lambda: make_tiny_world(chance_bits=3),
    "latents": lambda: make_tiny_world(codec=make_tiny_vae_codec(), patch_size=4),
}


@pytest.fixture(params=WORLDS)
def world(request: pytest.FixtureRequest) -> WorldModel:
    return WORLDS[request.param]()


def begun(world: WorldModel, lanes: int = 2) -> Rollout:
    rollout = Rollout(world, lanes, with_uncertainty=True)
    rollout.begin(range(lanes), range(lanes))
    return rollout


def test_without_data_it_gives_shapes(world: WorldModel) -> None:
    """Tensors without data raise where the host would read them, or a shape depends on them."""
    rollout = Rollout(world.to("meta"), 2, with_uncertainty=True)
    outcomes, pixels = rollout._step()
    assert outcomes.shape == (4, 2)
    assert pixels is None or pixels.shape == (2, 1, 16, 16, 3)  # one frame a step
    with pytest.raises((RuntimeError, NotImplementedError)):
        outcomes[0, 0].item()


@pytest.mark.slow
def test_it_is_one_graph() -> None:
    world = WORLDS["codes"]()
    plain, traced = begun(world), begun(world)
    step = torch.compile(traced._step, fullgraph=True, backend="eager")
    for _ in range(2):
        for one, other in zip(plain._step(), step(), strict=True):
            assert (one is None) == (other is None)
            assert one is None or torch.equal(one, other)


def test_it_changes_its_tensors_where_they_are(world: WorldModel) -> None:
    rollout = begun(world)
    before = [tensor.data_ptr() for tensor in rollout._state().tensors()]
    state = rollout.clone_state()
    rollout.step(np.array([0, 1]))
    rollout.restore_state(state)
    rollout.begin([1], [5], lanes=[1])
    rollout.step(np.array([0, 1]))
    assert [tensor.data_ptr() for tensor in rollout._state().tensors()] == before


def test_what_it_gives_is_not_overwritten(world: WorldModel) -> None:
    rollout = begun(world)
    kept = [rollout.step(np.array([0, 1])), rollout.step(np.array([2, 1]))]
    copies = [[np.array(part) for part in step] for step in kept]
    latents, copied = rollout.latents, rollout.latents.clone()
    rollout.frames()[:] = 0
    assert np.array_equal(rollout.frames(), kept[1].frames)
    rollout.step(np.array([1, 1]))
    rollout.begin([0, 0], [8, 9])
    for step, copy in zip(kept, copies, strict=True):
        assert all(np.array_equal(one, same) for one, same in zip(step, copy, strict=True))
    assert torch.equal(latents, copied)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_graph_plays_as_the_function_does(world: WorldModel) -> None:
    world = world.to("cuda")
    graph, plain = begun(world), begun(world)
    plain._run_step = plain._step  # type: ignore[method-assign]
    for actions in ([0, 1], [2, 1], [1, 1]):
        for one, other in zip(
            graph.step(np.array(actions)), plain.step(np.array(actions)), strict=True
        ):
            assert np.array_equal(one, other)
    graph.num_passes = plain.num_passes = 1
    one, other = graph.step(np.array([0, 1])), plain.step(np.array([0, 1]))
    assert np.array_equal(one.frames, other.frames)


@pytest.mark.slow
def test_compiled_once_it_plays_as_it_does_eagerly() -> None:
    world = WORLDS["codes"]()
    eager, compiled = begun(world), Rollout(world, 2, compiled=True, with_uncertainty=True)
    compiled.restore_state(eager.clone_state())
    for passes, actions in enumerate(([0, 1], [2, 1], [1, 1]), start=1):
        eager.num_passes = compiled.num_passes = passes
        one = eager.step(np.array(actions))
        with torch._dynamo.config.patch(error_on_recompile=True):
            other = compiled.step(np.array(actions))
        assert np.abs(one.frames.astype(int) - other.frames).max() <= 1
        np.testing.assert_allclose(one.rewards, other.rewards, rtol=0.05, atol=0.1)


@pytest.mark.slow
def test_what_cannot_be_compiled_is_played_with_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_tiny_world()
    torch.compiler.reset()
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    with pytest.warns(UserWarning, match="compiling failed, .* slower: .*compiler") as warnings:
        rollout = Rollout(world, 2, compiled=True, with_uncertainty=True)
    assert warnings[0].filename == __file__  # where the rollout is made
    plain = begun(world)
    rollout.restore_state(plain.clone_state())
    one, other = (each.step(np.array([0, 1])) for each in (plain, rollout))
    assert np.array_equal(one.frames, other.frames)
