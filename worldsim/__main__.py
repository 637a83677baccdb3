"""The command ``worldsim``: a table of subcommands, each imported only when it is called."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

from gymnasium.error import Error as GymnasiumError

from worldsim import __version__
from worldsim.system.extras import find_extra


class Command(NamedTuple):
    """A subcommand: its module, and its line in ``worldsim --help``."""

    module: str
    help: str


COMMANDS = {
    "demo": Command("worldsim.play.demo", "play a bundled world, in a window or into demo.mp4"),
    "record": Command("worldsim.envs.record", "record a game, played by a policy"),
    "train": Command("worldsim.train.config", "train a world on a recording"),
    "play": Command("worldsim.play.window", "play a world or a game in a window"),
    "eval": Command("worldsim.eval.report.command", "measure a world against a recording"),
    "codec": Command("worldsim.train.codec_config", "train a codec for large frames"),
    "probe": Command(
        "worldsim.train.probe", "train worlds on scenes of known physics, and test them"
    ),
    "agent": Command("worldsim.train.agent_config", "train a PPO agent inside a world"),
    "bench": Command("worldsim.train.bench", "time the steps of a world or of training here"),
    "animate": Command("worldsim.video.animate", "animate a photo, and measure the flicker"),
    "imagine": Command("worldsim.video.imagine", "make a video from text, an image or a world"),
    "cost": Command("worldsim.video.cost", "estimate the cost of a video, whole or in windows"),
}
"""Name -> the module whose ``main(argv) -> int`` runs it."""

HELP = """\
usage: worldsim COMMAND [OPTIONS]

Record a game, train a world model of it, play it or step it as an environment.

commands:
{commands}

`worldsim COMMAND --help` lists a command's options.

a first look:
  worldsim demo

your own game, in three commands:
  worldsim record ALE/Pong-v5 --steps 20000 --out recordings/pong
  worldsim train recordings/pong --out runs/pong --minutes 30
  worldsim play runs/pong

options, before or after the command:
  --import MODULE   import a module first (repeatable), so that worlds and
                    recordings can use the games that it registers
  --help            show this text
  --version         show the version

WORLDSIM_TRACEBACK=1 in the environment shows the traceback of an error.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Args:
        argv: The arguments after ``worldsim``; by default those of the process.

    Returns:
        Exit status: 0 on success, 2 for a user's mistake, 130 when interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Waiting threads of torch then sleep. Spinning threads would hold a core that other work
    # needs: next to such work a training step takes four times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        found = find_extra(module)
        if found is None or os.environ.get("WORLDSIM_TRACEBACK"):
            raise
        package, extra = found
        return _complain(
            f'{module} is not installed: pip install "{package}" (the extra {extra!r} of worldsim)'
        )
    except (ValueError, OSError, GymnasiumError) as error:
        if os.environ.get("WORLDSIM_TRACEBACK"):
            raise
        return _complain(str(error) or type(error).__name__)
    except (MemoryError, RuntimeError) as error:
        from worldsim.system.devices import is_out_of_memory
        from worldsim.system.files import one_line

        if os.environ.get("WORLDSIM_TRACEBACK") or not is_out_of_memory(error):
            raise
        return _complain(
            f"too little memory ({one_line(error)}): use smaller sizes or a smaller batch"
        )


def _run(arguments: list[str]) -> int:
    modules, arguments = split_imports(arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        sys.stdout.write(help_text())
        sys.stdout.flush()
        return 0
    name, *rest = arguments
    if name == "--version":
        print(f"worldsim {__version__}")
        return 0
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean `{close[0]}`?" if close else f"there are {', '.join(COMMANDS)}"
        return _complain(f"no command named {name!r}; {hint}")
    if modules:
        from worldsim.system.trust import import_named

        for module in modules:
            import_named(module)
    return int(import_module(COMMANDS[name].module).main(rest))


def split_imports(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Remove ``--import MODULE`` and ``--import=MODULE`` from a command line, up to ``--``.

    Returns:
        The modules, and the other arguments.

    Raises:
        ValueError: If ``--import`` comes without a module.

    Example:
        >>> split_imports(["--import", "mygames", "play", "runs/my", "--import=more"])
        (['mygames', 'more'], ['play', 'runs/my'])
    """
    modules: list[str] = []
    others: list[str] = []
    remaining = iter(arguments)
    for argument in remaining:
        if argument == "--":
            return modules, [*others, argument, *remaining]
        option, _, module = argument.partition("=")
        if option != "--import":
            others.append(argument)
            continue
        module = module if "=" in argument else next(remaining, "")
        if not module or module.startswith("-"):
            raise ValueError("--import must name a module, such as --import mygames")
        modules.append(module)
    return modules, others


def help_text() -> str:
    """Compose what ``worldsim --help`` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.help}" for name, command in COMMANDS.items()]
    return HELP.format(commands="\n".join(lines))


def _complain(sentence: str) -> int:
    from worldsim.system.files import printable

    rank = int(os.environ.get("RANK", "0"))  # of `torchrun`
    who = f"process {rank}: " if rank else ""
    print(f"worldsim: {who}{printable(' '.join(sentence.splitlines()))}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
