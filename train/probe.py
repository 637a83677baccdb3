"""`worldsim probe`: does a world keep the physics of small scenes whose true state is known?"""

from __future__ import annotations

import io
import math
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import gymnasium
import numpy as np
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from worldsim.data.episode import EpisodeBuilder
from worldsim.data.writer import RecordingWriter
from worldsim.envs.scene_readers import Errors, Truth
from worldsim.envs.scenes import CONTEXT, SCENES, SHARE
from worldsim.eval.bootstrap import Estimate, estimate
from worldsim.game.describe import describe_game, make_game
from worldsim.media import filmstrip
from worldsim.registration import SCENE_ID
from worldsim.system.command_line import parse
from worldsim.system.devices import pick_device
from worldsim.system.files import write_json, write_text
from worldsim.system.options import Advanced, Count, OutFolder, Range, RayAddress, Rule, Seed

from .config import Model, RunOptions, Size, TrainConfig
from .probe_ray import train_missing
from .run_log import Logging

if TYPE_CHECKING:
    from worldsim.world_model import WorldModel

Frames = NDArray[np.uint8]
BANDS = ("in", "out")
TEST_SEED = 1_000_000  # episodes from this seed on are never trained on
STRIP_STEPS = (0, 4, 8, 12, 16, 20, 24, 28, 31)
SeveralEpisodes = Annotated[int, Range(2, TEST_SEED)]  # one has no spread
SCENE_NAMES = ("all", *SCENES)
SceneName = Annotated[
    str,
    Rule(f"one of {', '.join(SCENE_NAMES)}", SCENE_NAMES.__contains__),
]
COLUMNS = {"reader": "reader", "world": "world", "copy_last": "copied"}


@dataclass(frozen=True)
class ProbeConfig:
    """Train a world on a small scene of known physics and test whether it obeys it.

    Each world is trained on a range of speeds and sizes, then continues frames inside and outside
    that range. Its frames are read back into numbers: velocity, momentum, energy, position after
    occlusion, totals, counts. Outside the range it is expected to fail; the table shows by how
    much.

    Examples:
        worldsim probe motion
        worldsim probe all --episodes 512 --size small --device cuda
    """

    scene: tyro.conf.Positional[SceneName]
    """The scene, or all of them in turn."""
    out: OutFolder = Path("runs/probes")
    """Folder for recordings, worlds and, for each scene, a table (text and JSON), a figure and a
    filmstrip. Existing recordings and worlds are reused."""
    steps: Count = 600
    """Optimizer steps of each training; about six minutes on one core."""
    episodes: tuple[SeveralEpisodes, ...] = (32, 512)
    """Training episodes: one world for each number, to show the effect of more data."""
    size: Size = "tiny"
    """Size of the model."""
    questions: SeveralEpisodes = 64
    """Test episodes inside the range, and as many outside."""
    seed: Seed = 0
    """Seed of the training."""
    device: str | None = None
    """Device to train on, such as cuda or cpu; a GPU if there is one."""
    ray: Annotated[RayAddress | None, Advanced()] = None
    """Train the worlds at the same time on a Ray cluster, one on each of its GPUs, or on each CPU
    if it has none: the cluster at HOST:PORT or ray://HOST:PORT; auto takes the one that
    RAY_ADDRESS names or that runs here, and starts one if there is none."""


class ProbeEpisodes(NamedTuple):
    """Test episodes of one band, the same for every world.

    Attributes:
        frames: ``uint8`` (n t h w 3).
        truths: The true state of each over time.
    """

    frames: Frames
    truths: list[Truth]


class Answer(NamedTuple):
    """Errors of one world on one scene in one band.

    Attributes:
        quantity: Quantity -> measured (reader, world, copy_last) -> mean error over episodes.
        each: The world's errors by quantity and episode.
        against: The true quantity of each episode that errors are plotted against.
        imagined: The world's frames, ``uint8`` (n t h w 3).
    """

    quantity: dict[str, dict[str, Estimate]]
    each: dict[str, NDArray[np.float64]]
    against: NDArray[np.float64]
    imagined: Frames


def main(argv: Sequence[str]) -> int:
    """Run the command.

    Args:
        argv: The arguments after ``worldsim probe``.

    Returns:
        Exit status: 0 when everything is measured, 130 when a training was stopped.

    Raises:
        ValueError: If an option is invalid.
    """
    config = parse(ProbeConfig, argv, "worldsim probe")
    if not probe(config):
        again = shlex.join(["worldsim", "probe", *argv])
        print(f"stopped; {config.out} keeps the finished parts; to continue: {again}")
        return 130
    return 0


def probe(config: ProbeConfig) -> bool:
    """Train missing worlds, test them, and write a table, a figure and a filmstrip per scene.

    Args:
        config: The settings of the command.

    Returns:
        Whether everything was measured; False after Ctrl-C in a training.

    Raises:
        ValueError: If the device does not exist, or a setting of the training is invalid.
    """
    pick_device(config.device)  # before anything is recorded
    names = list(SCENES) if config.scene == "all" else [config.scene]
    if config.ray is not None:
        try:
            train_missing(config, config.ray, names)
        except KeyboardInterrupt:
            return False
    console = Console()
    total, done, begun = len(names) * len(config.episodes), 0, time.monotonic()
    for name in names:
        bands = {band: make_episodes(name, band, config.questions) for band in BANDS}
        answers: dict[tuple[int, str], Answer] = {}
        for episodes in config.episodes:
            done += 1
            console.print(
                f"{name} ({SCENES[name].about}), {episodes} episodes: world {done} of {total}"
                + _to_go(begun, done - 1, total),
                highlight=False,
                soft_wrap=True,
            )
            world = train_world(config, name, episodes)
            if world is None:
                return False
            for band, questions in bands.items():
                answers[episodes, band] = answer(name, world, questions)
        report = {
            f"{episodes} episodes, {band}": one.quantity
            for (episodes, band), one in answers.items()
        }
        console.print(table_of(name, answers))
        draw(config.out / f"{name}.png", name, answers)
        draw_strip(config.out / f"{name}_strip.png", bands, answers, max(config.episodes))
        text = io.StringIO()
        Console(file=text, width=110).print(table_of(name, answers))
        write_text(config.out / f"{name}.txt", text.getvalue())
        write_json(config.out / f"{name}.json", report)
    console.print(
        f"Tables, figures and filmstrips in {config.out}; to play a world: "
        f"worldsim play {config.out / names[0] / f'world_{config.episodes[-1]}'}",
        soft_wrap=True,
        highlight=False,
    )
    return True


def _to_go(begun: float, done: int, total: int) -> str:
    if not done:
        return ""
    minutes = (time.monotonic() - begun) / done * (total - done) / 60
    return f", about {minutes:.0f} minutes to go"


def train_world(config: ProbeConfig, name: str, episodes: int) -> WorldModel | None:
    """Record and train what is missing; None if the training was stopped."""
    folder = config.out / name
    recording = folder / f"recording_{episodes}"
    game = describe_game(SCENE_ID, frame_size=(32, 64), env_kwargs={"scene": name, "band": "in"})
    with RecordingWriter(recording, game, {"scene": name}) as writer:
        for seed in range(len(writer.episode_steps()), episodes):
            frames, _ = watch(make_game(game), seed)
            episode = EpisodeBuilder(frames[0], seed=seed, policy="none")
            for frame in frames[1:]:
                episode.add(0, frame)
            episode.cut_off()
            writer.write_episode(episode.build())
    out = folder / f"world_{episodes}"
    from worldsim.world_folder import load  # torch takes seconds

    from .dynamics import train

    outcome = train(
        TrainConfig(
            recordings=(recording,),
            out=out,
            steps=config.steps,
            size=config.size,
            resume=out.exists(),
            seed=config.seed,
            device=config.device,
            logging=Logging(wandb="disabled"),
            model=Model(window=2 * CONTEXT),
            run=RunOptions(num_evals=0),
        )
    )
    return None if outcome.ended == "stopped" else load(str(out), device=config.device)


def watch(env: gymnasium.Env, seed: int) -> tuple[Frames, Truth]:
    """Frames (t h w 3) of an episode of a scene, and the true state at each."""
    frame, info = env.reset(seed=seed)
    frames, infos, over = [frame], [info], False
    while not over:
        frame, _, _, over, info = env.step(0)
        frames.append(frame)
        infos.append(info)
    return np.stack(frames), {key: np.stack([one[key] for one in infos]) for key in infos[0]}


def make_episodes(name: str, band: str, number: int) -> ProbeEpisodes:
    """Make test episodes, which no world was trained on."""
    env = gymnasium.make(SCENE_ID, scene=name, band=band)
    made = [watch(env, TEST_SEED + i) for i in range(number)]
    return ProbeEpisodes(np.stack([frames for frames, _ in made]), [truth for _, truth in made])


def answer(name: str, world: WorldModel, asked_about: ProbeEpisodes) -> Answer:
    """Let a world continue the first frames, and measure its frames."""
    scene, frames = SCENES[name], asked_about.frames
    number, steps = len(frames), frames.shape[1] - CONTEXT
    from worldsim.eval.held_out import imagine

    nothing = np.zeros((number, CONTEXT - 1 + steps), int)
    imagined = imagine(world, frames[:, :CONTEXT], nothing, range(number)).frames
    real = frames[:, CONTEXT:]
    copied = np.repeat(frames[:, CONTEXT - 1 : CONTEXT], steps, axis=1)
    truths = [{k: v[CONTEXT:] for k, v in truth.items()} for truth in asked_about.truths]

    def read(videos: Frames) -> dict[str, NDArray[np.float64]]:
        errors: list[Errors] = [scene.read(*one) for one in zip(videos, truths, real, strict=True)]
        return {key: np.array([error[key] for error in errors]) for key in scene.units}

    readings = {"reader": read(real), "world": read(imagined), "copy_last": read(copied)}
    quantity = {
        key: {who: _mean(values[key]) for who, values in readings.items()} for key in scene.units
    }
    against = np.array([scene.true_value(truth) for truth in asked_about.truths])
    return Answer(quantity, readings["world"], against, imagined)


def _mean(values: NDArray[np.float64]) -> Estimate:
    """Mean over the episodes with a finite value, with its confidence interval."""
    known = values[np.isfinite(values)]
    return estimate(known, np.ones(len(known)), np.arange(len(known)))


def table_of(name: str, answers: dict[tuple[int, str], Answer]) -> Table:
    """Errors by quantity, data and band."""
    table = Table(title=f"{name}: errors, mean over episodes ± half of the 95 % interval")
    for column in ("quantity", "unit", "episodes", "band", *COLUMNS.values()):
        left = column in ("quantity", "unit")
        table.add_column(column, justify="left" if left else "right", no_wrap=True)
    for key, unit in SCENES[name].units.items():
        for (episodes, band), one in answers.items():
            cells = [_cell(one.quantity[key][who], unit, who == "world") for who in COLUMNS]
            table.add_row(key, "%" if unit == SHARE else unit, str(episodes), band, *cells)
        table.add_section()
    return table


def _cell(figure: Estimate, unit: str, with_band: bool) -> str:
    if not math.isfinite(figure.value):
        return "-"
    scale, digits = (100, 1) if unit == SHARE else (1, 3)
    half = scale * (figure.high - figure.low) / 2
    band = f" ± {half:.{digits}f}" if with_band and half > 0 else ""
    return f"{scale * figure.value:.{digits}f}{band}"


def draw(path: Path, name: str, answers: dict[tuple[int, str], Answer]) -> None:
    """Plot the world's errors against the true quantity, with the training range shaded."""
    import matplotlib

    matplotlib.use("Agg")  # before pyplot, which otherwise looks for a display
    from matplotlib import pyplot as plt

    units = SCENES[name].units
    figure, axes = plt.subplots(1, len(units), figsize=(4.2 * len(units), 3.4), squeeze=False)
    numbers = sorted({episodes for episodes, _ in answers})
    inside = next(one.against for (_, band), one in answers.items() if band == "in")
    for axis, (key, unit) in zip(axes[0], units.items(), strict=True):
        axis.axvspan(inside.min(), inside.max(), color="#3c9d5b", alpha=0.12, linewidth=0)
        for (episodes, band), one in answers.items():
            style = {"color": f"C{numbers.index(episodes)}", "markersize": 4, "alpha": 0.6}
            axis.plot(one.against, one.each[key], "o" if band == "in" else "x", **style)
        axis.set_xlabel(f"true {SCENES[name].against}")
        axis.set_title(key if unit == SHARE else f"{key}, {unit}", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    for number in numbers:
        axes[0][0].plot([], [], "o", color=f"C{numbers.index(number)}", label=f"{number} episodes")
    axes[0][0].legend(fontsize=8)
    figure.suptitle(
        f"{SCENES[name].about}: the world's errors inside (o) and outside (x) the training range"
    )
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_strip(
    path: Path,
    bands: dict[str, ProbeEpisodes],
    answers: dict[tuple[int, str], Answer],
    episodes: int,
) -> None:
    """Draw two episodes of each band: real above, the world with most data below."""
    rows, labels = [], []
    for band, questions in bands.items():
        for i in range(2):
            given = questions.frames[i, CONTEXT - 1][None]
            for label, frames in (
                (f"real, {band}", questions.frames[i, CONTEXT:]),
                ("world", answers[episodes, band].imagined[i]),
            ):
                rows.append(np.concatenate([given, frames[list(STRIP_STEPS)]]))
                labels.append(label)
    filmstrip(rows, path, 2, labels, ["given", *(f"+{step + 1}" for step in STRIP_STEPS)])
