"""Does a world follow words? Readers of the true look, on frames imagined from captions.

For captions that were trained and captions of combinations that were not, frames are drawn from
words alone (`worldsim.first_frame`), and some steps are played from them. Readers of the games'
looks (`worldsim.envs.look_readers`) then say what the frames show. Chance and the readers' accuracy
on real frames stand beside it.

    python tests/benchmarks/bench_words.py runs/words --episodes 8 --guidance 1 2 4

The recordings and captioned stills that the world was trained on are made by

    python tests/benchmarks/bench_words.py --record recordings/words
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from PIL import Image

import worldsim
from worldsim.data.recording import Recording
from worldsim.envs.look_readers import GAMES, READERS
from worldsim.first_frame import first_frames
from worldsim.media import filmstrip
from worldsim.rollout import Rollout

BALLS, PONG, MAZE = (f"worldsim/{name}-v0" for name in ("Balls", "Pong", "Maze"))
HELD_OUT: dict[str, list[dict[str, Any]]] = {
    BALLS: [
        {"num_balls": 1, "ball_colour": "red"},
        {"num_balls": 2, "ball_colour": "green"},
        {"num_balls": 3, "ball_colour": "blue"},
        {"num_balls": 4, "ball_colour": "yellow"},
        {"num_balls": 5, "ball_colour": "purple"},
        {"ball_colour": "white", "night": True},
    ],
    PONG: [{"ball_colour": "red", "night": True}, {"ball_colour": "green", "night": False}],
    MAZE: [{"wall_colour": "red", "night": True}, {"wall_colour": "blue", "night": False}],
}
POLICIES = {
    BALLS: ["random=0.5", "sticky=0.5"],
    PONG: ["random=0.4", "sticky=0.3", "scripted=0.3"],
    MAZE: ["random=0.2", "sticky=0.4", "scripted=0.4"],
}
STEPS_OF_PLAY = 8
STILL_EVERY = 12  # frames of an episode


def record(folder: Path, steps: int) -> None:
    """Record the three games in all looks but the held-out ones, and captioned stills of them."""
    stills = folder / "stills"
    stills.mkdir(parents=True)
    captions: dict[str, str] = {}
    for env_id, held_out in HELD_OUT.items():
        out = folder / env_id.split("/")[1].split("-")[0].lower()
        vary = json.dumps(sorted({name for look in held_out for name in look}))
        settings = [f"vary={vary}", f"vary_except={json.dumps(held_out)}"]
        settings += ['serve="play"'] if env_id == PONG else []
        command = [sys.executable, "-m", "worldsim", "record", env_id, "--steps", str(steps)]
        command += ["--max-episode-steps", "100", "--policy", *POLICIES[env_id]]
        subprocess.run([*command, "--env-kwargs", *settings, "--out", str(out)], check=True)
        recording = Recording(out)
        for index in range(len(recording)):
            episode = recording.episode(index)
            assert episode.caption is not None
            for frame in episode.frames[::STILL_EVERY]:
                name = f"{len(captions):06d}.png"
                Image.fromarray(frame).save(stills / name)
                captions[name] = episode.caption
    (stills / "captions.json").write_text(json.dumps(captions), encoding="utf-8")
    print(f"{len(captions):,} stills with {len(set(captions.values()))} captions in {stills}")


def captions_of(env_id: str) -> dict[bool, dict[str, dict[str, Any]]]:
    """Captions and their looks, those that were trained (True) and those that were not."""
    varied = {name for look in HELD_OUT[env_id] for name in look}
    found: dict[bool, dict[str, dict[str, Any]]] = {True: {}, False: {}}
    for caption, look in GAMES[env_id].captions().items():
        if any(look[name] not in GAMES[env_id].words[name] for name in varied):
            continue  # the usual look, without words
        is_held_out = any(one.items() <= look.items() for one in HELD_OUT[env_id])
        found[not is_held_out][caption] = {name: look[name] for name in varied}
    return found


def real_frames(env_id: str, look: dict[str, Any], number: int) -> np.ndarray:
    """First frames of the real game with a look, for the readers' own accuracy."""
    frames = []
    for seed in range(number):
        env = gymnasium.make(env_id, **look)
        frame, _ = env.reset(seed=seed)
        frames.append(frame)
        env.close()
    return np.stack(frames)


def main() -> None:
    """Measure, print a table, and write a filmstrip of held-out captions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("world", nargs="?")
    parser.add_argument("--record", type=Path)
    parser.add_argument("--steps", type=int, default=20_000, help="of each recording")
    parser.add_argument("--episodes", type=int, default=8, help="frames of each caption")
    parser.add_argument("--captions", type=int, default=12, help="trained ones of each game")
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 2.0, 4.0])
    parser.add_argument("--out", type=Path, default=Path("words.json"))
    config = parser.parse_args()
    if config.record is not None:
        record(config.record, config.steps)
        return
    world = worldsim.load(config.world)
    rng = np.random.default_rng(0)
    rows: dict[str, dict[str, float]] = defaultdict(dict)
    strips, labels = [], []
    for env_id in HELD_OUT:
        of_game = captions_of(env_id)
        kept = list(of_game[True])
        some = [kept[i] for i in rng.permutation(len(kept))[: config.captions]]
        groups = {"trained": some, "new": list(of_game[False])}
        looks = of_game[True] | of_game[False]
        for group, scale in itertools.product(groups, config.guidance):
            hits: dict[str, list[bool]] = defaultdict(list)
            for caption in groups[group]:
                prompts = [caption] * config.episodes
                seeds = list(range(config.episodes))
                frames = first_frames(world, prompts, seeds, guidance_scale=scale)
                played = play(world, frames, prompts, scale)
                for when, shown in (("first", frames), ("played", played)):
                    for name, value in looks[caption].items():
                        read = READERS[env_id][name]
                        hits[f"{name}, {when}"] += [read(frame[-1]) == value for frame in shown]
                if group == "new" and scale == config.guidance[-1]:
                    strips.append(np.concatenate((frames[:4, 0], played[:4, -1])))
                    labels.append(caption.split(": ")[1][:28])
            for name, values in hits.items():
                key = f"{env_id.split('/')[1]} {name}"
                rows[key][f"{group} x{scale:g}"] = float(np.mean(values))
        real: dict[str, list[bool]] = defaultdict(list)
        for caption in some:
            for frame in real_frames(env_id, looks[caption], 4):
                for name, value in looks[caption].items():
                    real[name].append(READERS[env_id][name](frame) == value)
        for name, values in real.items():
            for when in ("first", "played"):
                kinds = {look[name] for look in looks.values()}
                row = rows[f"{env_id.split('/')[1]} {name}, {when}"]
                row |= {"real": float(np.mean(values)), "chance": 1 / len(kinds)}
    columns = list(next(iter(rows.values())))
    print("| | " + " | ".join(columns) + " |\n|---" + "|---" * len(columns) + "|")
    for name, row in rows.items():
        print(f"| {name} | " + " | ".join(f"{100 * row[one]:.0f} %" for one in columns) + " |")
    config.out.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    filmstrip(strips, config.out.with_suffix(".png"), labels=labels)


def play(
    world: worldsim.WorldModel, frames: np.ndarray, prompts: list[str], scale: float
) -> np.ndarray:
    """Some frames after the first ones, without actions, uint8 (b t h w c)."""
    rollout = Rollout(world, len(frames), guidance_scale=scale)
    none = np.zeros((len(frames), 0), np.int64)
    rollout.reset(frames, none, list(range(len(frames))), prompts=prompts)
    noop = np.full(len(frames), world.game.noop_action)
    return np.stack([rollout.step(noop).frames for _ in range(STEPS_OF_PLAY)], axis=1)


if __name__ == "__main__":
    main()
