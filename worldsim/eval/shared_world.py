"""Worlds whose lanes are shared out among the workers of a Ray cluster.

A lane depends on its context, its actions and its seed, so it does not matter, up to rounding,
which worker continues it beside which others.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldsim.find_world import find_world
from worldsim.model.text import Caption
from worldsim.rollout import Rollout
from worldsim.rollout_output import RolloutStep
from worldsim.system.cluster import ActorPool, joined, read_folder, write_folder
from worldsim.system.devices import to_host
from worldsim.world_folder import load
from worldsim.world_model import WorldModel

Frames = NDArray[np.uint8]

_BATCH = 64  # lanes of a rollout


class SharedWorld(WorldModel):
    """A world that is here, and in each worker of a pool. `imagine` uses those of the workers.

    Args:
        world: The world; its parts are shared, not copied.
        name: Its name in the workers.
        pool: The workers, each an `Imaginer`.
    """

    def __init__(self, world: WorldModel, name: str, pool: ActorPool) -> None:
        self.__dict__.update(world.__dict__)
        self._name = name
        self._pool = pool

    def imagine(
        self,
        context_frames: Frames,
        actions: NDArray[np.integer],
        seeds: Sequence[int],
        num_passes: int | None,
        prompts: Sequence[Caption] | None,
        on_step: Callable[[], None] | None,
    ) -> RolloutStep:
        """Do what `worldsim.eval.held_out.imagine` does, with a share of the lanes a worker."""
        num_lanes, steps = len(context_frames), actions.shape[1] - context_frames.shape[1] + 1
        size = min(_BATCH, -(-num_lanes // self._pool.num_workers))
        shares = [slice(begin, begin + size) for begin in range(0, num_lanes, size)]
        jobs = [
            (
                self._name,
                context_frames[lanes],
                actions[lanes],
                list(seeds[lanes]),
                num_passes,
                None if prompts is None else list(prompts[lanes]),
            )
            for lanes in shares
        ]
        found: dict[int, tuple[NDArray[Any], ...]] = {}
        total, shown = -(-num_lanes // _BATCH) * steps, 0  # as where nothing is shared out
        for index, imagined in self._pool.map("imagine", jobs):
            found[index] = imagined[:4]  # all but the uncertainty, which is not measured
            while on_step is not None and shown < total * len(found) // len(jobs):
                on_step()
                shown += 1
        parts = zip(*(found[index] for index in range(len(jobs))), strict=True)
        return RolloutStep(*map(np.concatenate, parts))


class Imaginer:
    """Worlds in a worker process.

    Args:
        folders: The files of each world's folder, by its name.
        device: Where to put them; by default a GPU if there is one.
    """

    def __init__(self, folders: Mapping[str, Mapping[str, bytes]], device: str | None) -> None:
        self._worlds = {}
        for name, files in folders.items():
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                write_folder(files, Path(folder) / "world")
                self._worlds[name] = load(Path(folder) / "world", device=device)

    def imagine(
        self,
        name: str,
        context_frames: Frames,
        actions: NDArray[np.integer],
        seeds: Sequence[int],
        num_passes: int | None,
        prompts: Sequence[Caption] | None,
    ) -> RolloutStep:
        """Continue some lanes; see `continue_frames`."""
        world = self._worlds[name]
        return continue_frames(world, context_frames, actions, seeds, num_passes, prompts)


@contextmanager
def shared_out(
    worlds: Mapping[str, WorldModel], address: str, device: str | None
) -> Iterator[dict[str, WorldModel]]:
    """Share worlds out among the workers of a Ray cluster while open.

    Their folders are sent, so that no storage is shared. There is a worker for each GPU of the
    cluster, or for each CPU if it has none or if the device is ``cpu``.

    Args:
        worlds: The worlds, by the names of their folders, as for `find_world`.
        address: The cluster, as for `joined`.
        device: The device of each worker.

    Yields:
        The same worlds; `worldsim.eval.held_out.imagine` lets the workers continue their frames.

    Raises:
        ModuleNotFoundError: If Ray is not installed.
        ConnectionError: If there is no such cluster.
    """
    folders = {name: read_folder(find_world(name)) for name in worlds}
    on_gpus = None if device is None else device != "cpu"
    with joined(address), ActorPool(Imaginer, (folders, device), on_gpus=on_gpus) as pool:
        yield {name: SharedWorld(world, name, pool) for name, world in worlds.items()}


def continue_frames(
    world: WorldModel,
    context_frames: Frames,
    actions: NDArray[np.integer],
    seeds: Sequence[int],
    num_passes: int | None = None,
    prompts: Sequence[Caption] | None = None,
    on_step: Callable[[], None] | None = None,
) -> RolloutStep:
    """Do what `worldsim.eval.held_out.imagine` does, in this process."""
    context = context_frames.shape[1]
    batches = []
    for begin in range(0, len(context_frames), _BATCH):
        lanes = slice(begin, begin + _BATCH)
        rollout = Rollout(world, len(context_frames[lanes]), num_passes=num_passes)
        said = None if prompts is None else prompts[lanes]
        before = actions[lanes, : context - 1]
        rollout.reset(context_frames[lanes], before, list(seeds[lanes]), prompts=said)
        to_take = actions[lanes, context - 1 :]
        steps = []
        for frame in range(0, to_take.shape[1], world.patch_frames):
            steps.append(_frames_of_step(rollout, to_take[:, frame : frame + world.patch_frames]))
            for _ in range(steps[-1][0].shape[1]):
                if on_step is not None:
                    on_step()
        batches.append([np.concatenate(parts, axis=1) for parts in zip(*steps, strict=True)])
    return RolloutStep(*(np.concatenate(parts) for parts in zip(*batches, strict=True)))


def _frames_of_step(rollout: Rollout, actions: NDArray[np.integer]) -> list[NDArray[Any]]:
    """Take a step, and return frames, rewards, ends and their probabilities, each (b t …).

    A step of several frames has one reward and one end, which count for the last of them.

    Args:
        rollout: The rollout.
        actions: That into each frame (b t), of at most the frames of a step.
    """
    p, t = rollout.world.patch_frames, actions.shape[1]
    taken = actions[:, 0] if p == 1 else np.pad(actions, ((0, 0), (0, p - t)), mode="edge")
    outcome = rollout.advance(taken)[:3]
    before = [np.zeros((len(actions), t - 1), one.dtype) for one in outcome]
    late = [np.append(zeros, one[:, None], 1) for zeros, one in zip(before, outcome, strict=True)]
    return [to_host(rollout.clip())[:, :t], *late]
