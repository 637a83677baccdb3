"""What an environment returns as tensors: the same numbers, on the world's device."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.tiny_worlds import SIDE, make_tiny_world
from worldsim.rollout import Rollout
from worldsim.world_model import WorldModel
from worldsim.world_model_env import WorldModelVectorEnv

pytestmark = pytest.mark.numeric

LANES = 3


def pair(world: WorldModel, **options: Any) -> tuple[WorldModelVectorEnv, WorldModelVectorEnv]:
    """The same environment with both outputs."""
    return (
        WorldModelVectorEnv(world, LANES, output="torch", **options),
        WorldModelVectorEnv(world, LANES, **options),
    )


def assert_equal(tensors: Any, arrays: Any) -> None:
    """The same numbers in the same places, as tensors and as arrays."""
    if isinstance(arrays, dict):
        assert tensors.keys() == arrays.keys()
        for key in arrays:
            if key == "final_obs":  # an array of one object for each lane
                for lane in np.flatnonzero(arrays["_final_obs"]):
                    assert_equal(tensors[key][lane], arrays[key][lane])
            else:
                assert_equal(tensors[key], arrays[key])
    elif isinstance(arrays, tuple):
        for tensor, array in zip(tensors, arrays, strict=True):
            assert_equal(tensor, array)
    else:
        assert isinstance(tensors, torch.Tensor)
        assert np.array_equal(tensors.cpu().numpy(), arrays.astype(tensors.numpy().dtype))


@pytest.mark.parametrize(
    ("mode", "num_steps", "options"),
    [
        ("NextStep", 30, {}),
        ("SameStep", 10, {"frame_skip": 2, "frame_stack": 3}),
        ("Disabled", 10, {"observation": "latents", "max_uncertainty": 1.0}),
    ],
)
def test_has_the_numbers_of_arrays(
    mortal_world: WorldModel, mode: str, num_steps: int, options: dict[str, Any]
) -> None:
    ours, theirs = pair(mortal_world, autoreset_mode=mode, max_episode_steps=4, **options)
    assert_equal(ours.reset(seed=5), theirs.reset(seed=5))
    rng, resets = np.random.default_rng(0), 0
    for _ in range(num_steps):
        actions = rng.integers(3, size=LANES)
        step, other = ours.step(torch.from_numpy(actions)), theirs.step(actions)
        assert_equal(step, other)
        ended = step[2] | step[3]
        resets += int(ended.sum())
        if mode == "Disabled" and ended.any():
            masks = {"reset_mask": ended}, {"reset_mask": ended.numpy()}
            assert_equal(ours.reset(options=masks[0]), theirs.reset(options=masks[1]))
    assert resets > 3


def test_is_on_the_device_in_the_types_that_are_promised(mortal_world: WorldModel) -> None:
    envs = gymnasium.make_vec(
        "worldsim/WorldModel-v0",
        LANES,
        world=mortal_world,
        output="torch",
        autoreset_mode="SameStep",
        max_episode_steps=1,
    )
    obs, infos = envs.reset(seed=0)
    assert (obs.dtype, obs.shape) == (torch.uint8, (LANES, SIDE, SIDE, 3))
    *step, infos = envs.step(envs.action_space.sample())
    types = [torch.uint8, torch.float32, torch.bool, torch.bool]
    assert [part.dtype for part in step] == types
    assert infos["final_obs"].dtype == torch.uint8
    assert infos["termination_prob"].dtype == torch.float32
    assert infos["final_info"]["start"].dtype == torch.int64
    returned = [*step, *infos["final_info"].values(), infos["start"], infos["_final_obs"]]
    assert {part.device for part in returned} == {mortal_world.device}
    assert isinstance(envs.render()[0], np.ndarray)


def test_the_last_observations_of_lanes_that_go_on_are_their_newest(
    mortal_world: WorldModel,
) -> None:
    envs = pair(mortal_world, autoreset_mode="SameStep")[0]
    envs.reset(seed=5)
    while True:
        obs, _, ended, _, infos = envs.step(torch.zeros(LANES, dtype=torch.int64))
        if ended.any() and not ended.all():
            break
    assert torch.equal(infos["_final_obs"], ended)
    assert torch.equal(infos["final_obs"][~ended], obs[~ended])
    assert not torch.equal(infos["final_obs"][ended], obs[ended])


def test_what_it_has_returned_belongs_to_the_caller(mortal_world: WorldModel) -> None:
    ours, theirs = pair(mortal_world, autoreset_mode="SameStep", frame_stack=2)
    kept = [ours.reset(seed=5)[0]]
    copies = [kept[0].clone()]
    theirs.reset(seed=5)
    for _ in range(6):
        with torch.inference_mode():  # as loops of agents do
            obs = ours.step(np.array([0, 1, 2]))[0]
        assert_equal(obs, theirs.step(np.array([0, 1, 2]))[0])
        kept.append(obs)
        copies.append(obs.clone())
    assert all(map(torch.equal, kept, copies))
    ours.restore_state(theirs.clone_state())
    assert_equal(ours.step(np.array([0, 1, 2])), theirs.step(np.array([0, 1, 2])))


@pytest.mark.parametrize(
    ("actions", "error", "words"),
    [
        (torch.zeros(2, dtype=torch.int64), ValueError, r"shape \(3,\), got \(2,\)"),
        (torch.zeros(3), TypeError, "actions must be integers, got torch.float32"),
        (torch.zeros(3, dtype=torch.bfloat16), TypeError, "integers, got torch.bfloat16"),
        (torch.zeros(3, dtype=torch.bool), TypeError, "integers, got bool"),
        (torch.tensor([0, 1, 3]), ValueError, r"actions are 0 \.\. 2, got 3"),
    ],
)
def test_wrong_actions_are_refused(
    mortal_world: WorldModel, actions: torch.Tensor, error: type[Exception], words: str
) -> None:
    for envs in pair(mortal_world):
        envs.reset(seed=0)
        with pytest.raises(error, match=words):
            envs.step(actions)


def test_an_output_that_there_is_not(mortal_world: WorldModel) -> None:
    with pytest.raises(ValueError, match="output must be 'numpy' or 'torch', got 'jax'"):
        WorldModelVectorEnv(mortal_world, 1, output="jax")


def test_a_lane_weighs_what_its_tensors_do() -> None:
    rollout = Rollout(make_tiny_world(), LANES)
    rollout.begin(range(LANES), range(LANES))
    state = rollout.clone_state()
    assert rollout.bytes_per_lane == sum(tensor.nbytes for tensor in state.tensors()) / LANES


class CopiesToHost(TorchDispatchMode):
    """Adds up the bytes that are copied from CUDA devices."""

    num_bytes = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        given = [arg for arg in args if isinstance(arg, torch.Tensor)]
        if any(arg.is_cuda for arg in given) and isinstance(result, torch.Tensor):
            self.num_bytes += 0 if result.is_cuda else result.nbytes
        return result


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("output", ["torch", "numpy"])
def test_frames_stay_on_the_device(output: str) -> None:
    world = make_tiny_world(termination_bias=0.0).to("cuda")
    envs = WorldModelVectorEnv(world, LANES, output=output, autoreset_mode="SameStep")
    envs.reset(seed=0)
    actions = torch.zeros(LANES, dtype=torch.int64, device=world.device)
    first = envs.step(actions)[0]  # captures a CUDA graph
    kept = copy.deepcopy(first)
    for _ in range(4):
        with CopiesToHost() as copied:
            obs = envs.step(actions)[0]
        frames = LANES * SIDE * SIDE * 3
        if output == "torch":
            assert obs.is_cuda
            assert 0 < copied.num_bytes <= LANES * (8 + 4 * 4)  # actions and outcomes
        else:
            assert copied.num_bytes > frames
    assert (first == kept).all()
