"""How well worlds draw what a game leaves to chance: one future, not the mean of all.

Record the games, train a world of each and measure it; what is done already is not done again:

    python tests/benchmarks/bench_chance_games.py --minutes 12 --games lot-pong boxing

Try another recipe under a name of its own, with several seeds:

    python tests/benchmarks/bench_chance_games.py --name still --seeds 0 1 2
        --train-options="--recipe.self-rollout 0"

Measure a world that is there:

    python tests/benchmarks/bench_chance_games.py --games lot-pong --world runs/mine
        --recording recordings/lotpong --passes 1 2 --measures balls serves

The games are lot-pong (our Pong, each serve one of eight ways by lot), boxing (two jointed
figures, 18 actions), breakout and doom (monsters that come from all sides).

One table per game has the figures of the game itself beside those of each world. Measures:

    balls     lot-pong: shares of frames with one ball, none and more under the scripted player,
              also in the 16 frames after a serve
    serves    lot-pong: 16 recorded serves, each continued 16 times: the share without a clear way,
              total variation from the game's even ways, and entropy of the ways in nats
              (beside them what as many fair draws have)
    looks     area, edges and objects over those of the recorded frames, up to 8, 32 and 200 steps
              (beside them those of other recorded windows)
    samples   PSNR on moving pixels of one sample, the best of 8 and the mean of 8 (beside them the
              last frame and the median frame); distances between generated and real frames and
              between clips (beside them those of the game). A world that always shows the median
              frame is near to real frames, but real frames are far from it: read both
    control   how many times larger the error is under other actions
    cost      milliseconds of a step of one lane
    film      a picture: recorded frames above samples

Two passes take about two minutes on one core. Files in --out: GAME/recording, GAME/NAME-seedS (the
run; its --train-options in NAME-seedS.options), and for each world and number of passes
GAME/measures/NAME-seedS-passesP.json and .png. Each measure is written as soon as it is taken.
"""

from __future__ import annotations

import importlib.util
import math
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

sys.path.insert(0, str(Path(__file__).parents[2]))  # a program sees its own folder only

from tests.benchmarks import chance_measures, chance_serves
from worldsim.data.recording import Recording
from worldsim.eval.held_out import HeldOutWindows
from worldsim.eval.unseen import unseen
from worldsim.game.providers import find_provider
from worldsim.rollout_state import fingerprint
from worldsim.system.files import read_object, read_text, write_json, write_text
from worldsim.world_folder import load

GameName = Literal["lot-pong", "boxing", "breakout", "doom"]
MeasureName = Literal["balls", "serves", "looks", "samples", "control", "cost", "film"]

VERSION = 2  # of the measures: another one measures anew


@dataclass(frozen=True)
class Game:
    """A game to record, train on and measure.

    Attributes:
        env_id: Its id.
        options: Those of `worldsim record`.
        measures: What can be measured in it beside what is in every game.
        filmed: The windows for its filmstrip.
    """

    env_id: str
    options: str
    measures: tuple[MeasureName, ...] = ()
    filmed: Callable[[chance_measures.Scene], HeldOutWindows] = chance_measures.filmed


GAMES: dict[GameName, Game] = {
    "lot-pong": Game(
        "worldsim/Pong-v0",
        "--env-kwargs serve='\"lot\"' --steps 40000 --policy random=0.2 sticky=0.3 scripted=0.5",
        ("balls", "serves"),
        chance_serves.filmed,
    ),
    "boxing": Game("ALE/Boxing-v5", "--steps 20000 --policy random=0.3 sticky=0.7"),
    "breakout": Game("ALE/Breakout-v5", "--steps 20000 --policy random=0.3 sticky=0.7"),
    "doom": Game(
        "VizdoomDefendCenter-v1", "--steps 20000 --policy random=0.3 sticky=0.7 --frame-skip 4"
    ),
}
MEASURES = {
    "balls": chance_serves.balls,
    "serves": chance_serves.serves,
    "looks": chance_measures.looks,
    "samples": chance_measures.samples,
    "control": chance_measures.control,
    "cost": chance_measures.cost,
}
IN_EVERY_GAME: tuple[MeasureName, ...] = ("looks", "samples", "control", "cost", "film")

Measured = dict[str, dict[str, dict[str, float]]]  # by measure, "world" or "game", and figure


def main(
    games: tuple[GameName, ...] = ("lot-pong", "boxing", "breakout", "doom"),
    minutes: float = 12,
    seeds: tuple[int, ...] = (0,),
    passes: tuple[int, ...] = (1, 2, 8),
    out: Path = Path("runs/chance"),
    name: str | None = None,
    train_options: str = "",
    world: str | None = None,
    recording: Path | None = None,
    measures: tuple[MeasureName, ...] = (),
    again: bool = False,
    seed: int = 0,
    device: str | None = None,
) -> None:
    """Record, train, measure, and print a table per game.

    Args:
        games: Games to go through.
        minutes: Minutes to train each world.
        seeds: Seeds of the trainings, one world each.
        passes: Denoising passes per frame, each measured by itself.
        out: Folder of everything that is written.
        name: Name of the recipe in files and tables; "default" if not given, or the folder's name
            of --world.
        train_options: Further options of `worldsim train`, in one word after a "=".
        world: Measure this world instead of training; needs --recording and one game.
        recording: Use this recording of the one game given.
        measures: Measures to take; all if not given.
        again: Measure anew what is measured, as after a change of the code that draws.
        seed: Seed of the measures: windows and noise.
        device: Where to measure and train, such as cuda or cpu; a GPU if there is one.
    """
    if (world or recording) and len(games) != 1:
        sys.exit(f"--world and --recording are of one game, but --games names {len(games)}")
    if world and not recording:
        sys.exit("--world needs --recording: a recording of its game to compare with")
    for game in games:
        package = find_provider(GAMES[game].env_id).module.partition(".")[0]
        if importlib.util.find_spec(package) is None:
            print(f"{game} is left out: {GAMES[game].env_id} needs the package {package}.")
            continue
        folder = out / game
        recorded = recording or record(game, folder / "recording")
        data = Recording(recorded)
        if data.game.env_id != GAMES[game].env_id:
            sys.exit(f"{recorded} is of {data.game.env_id}, but {game} is {GAMES[game].env_id}")
        # Each world is known by one name, in files and in the table.
        worlds = {name or Path(world).resolve().name: world} if world else {}
        for each in () if world else seeds:
            title = f"{name or 'default'}-seed{each}"
            options = shlex.split(train_options)
            worlds[title] = train(recorded, folder / title, minutes, each, options, device)
        chosen = [m for m in (*GAMES[game].measures, *IN_EVERY_GAME) if m in (measures or (m,))]
        columns = {}
        for title, path in worlds.items():
            loaded = load(path, device)
            episodes = unseen([loaded], data)
            for number in passes:
                scene = chance_measures.Scene(loaded, data, episodes, number, seed)
                file = folder / "measures" / f"{title}-passes{number}.json"
                columns[f"{title} x{number}"] = measure(game, scene, chosen, file, again)
        print_table(game, columns)


def record(game: GameName, folder: Path) -> Path:
    """Record a game, or what is missing of it."""
    _run("record", GAMES[game].env_id, "--out", str(folder), *shlex.split(GAMES[game].options))
    return folder


def train(
    recording: Path,
    run: Path,
    minutes: float,
    seed: int,
    options: Sequence[str],
    device: str | None,
) -> str:
    """Train a world, or what is missing of its minutes.

    The options are kept beside the run, since a finished one is taken as it is.
    """
    kept = run.with_name(f"{run.name}.options")
    words = shlex.join(options)
    if kept.exists() and read_text(kept) != words:
        sys.exit(
            f"{run} was trained with --train-options {read_text(kept)!r}, not {words!r}: give "
            "another --name"
        )
    run.parent.mkdir(parents=True, exist_ok=True)
    write_text(kept, words)
    fixed = ["--minutes", f"{minutes:g}", "--seed", str(seed), "--wandb", "disabled"]
    fixed += ["--run.num-evals", "0"]  # evaluations count as minutes
    fixed += ["--resume"] if run.exists() else []
    fixed += ["--device", device] if device else []
    _run("train", str(recording), "--out", str(run), *fixed, *options)
    return str(run)


def _run(*words: str) -> None:
    """Run a command of worldsim; its status ends this program unless it is 0."""
    print(f"worldsim {shlex.join(words)}", flush=True)
    status = subprocess.run([sys.executable, "-m", "worldsim", *words]).returncode
    if status:
        sys.exit(status)


def measure(
    game: GameName,
    scene: chance_measures.Scene,
    measures: Sequence[MeasureName],
    path: Path,
    again: bool,
) -> Measured:
    """Take the measures that are not in the file yet; each is written as soon as it is taken.

    Returns:
        By measure the figures of ``world`` and ``game``, by name.
    """
    about = {
        "version": VERSION,
        "world": fingerprint(scene.world),
        "recording": str(scene.recording.path.resolve()),
        "steps": scene.recording.total_steps,
        "passes": scene.passes,
        "seed": scene.seed,
        "device": str(scene.world.device),
    }
    known = read_object(path) if path.exists() else {}
    kept: Measured = known["measures"] if known.get("about") == about else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    for name in measures:
        if name in kept and not again:
            continue
        begun = time.monotonic()
        if name == "film":
            chance_measures.film(scene, GAMES[game].filmed(scene), path.with_suffix(".png"))
            found = chance_measures.Found({}, {})
        else:
            found = MEASURES[name](scene)
        kept[name] = found._asdict()
        write_json(path, {"about": about, "measures": kept})
        print(f"{path.stem}: {name} took {time.monotonic() - begun:.0f} s", flush=True)
    return {name: kept[name] for name in measures}


def print_table(game: GameName, columns: dict[str, Measured]) -> None:
    """Print the figures, one a line: of the game, and of each world and number of passes."""
    # The game's are nearly the same for all worlds: episodes unseen by the first one are shown.
    rows: dict[str, list[float | None]] = {}
    for place, measured in enumerate(columns.values()):
        for found in measured.values():
            for side, column in (("game", 0), ("world", place + 1)):
                for name, value in found[side].items():
                    row = rows.setdefault(name, [None] * (len(columns) + 1))
                    if row[column] is None:
                        row[column] = value
    widths = [max(8, len(title)) for title in ("game", *columns)]
    names = max(map(len, (game, *rows)))
    titles = ("game", *columns)
    print()
    print(f"{game:{names}}", *(f"{t:>{w}}" for t, w in zip(titles, widths, strict=True)))
    for name, values in rows.items():
        cells = ["" if v is None or math.isnan(v) else f"{v:.3g}" for v in values]
        print(f"{name:{names}}", *(f"{c:>{w}}" for c, w in zip(cells, widths, strict=True)))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
