"""What the documentation takes from the code when it is built: pictures and `--help` texts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

WORLDS = Path(__file__).parents[1] / "worldsim" / "worlds"
HELP = re.compile(r"^<!-- (worldsim .*--help(?:-all)?) -->$", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pictures of the bundled worlds, as ``worlds/NAME/FILE``."""
    for path in sorted([*WORLDS.glob("*/*.gif"), *WORLDS.glob("*/*.png")]):
        name = path.relative_to(WORLDS.parent).as_posix()
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Put the help text of a command in the place of ``<!-- worldsim COMMAND --help-all -->``."""
    return HELP.sub(lambda match: f"```text\n{help_text(match[1])}\n```", markdown)


def help_text(command: str) -> str:
    """Run a command and return what it prints, in plain letters."""
    arguments = [sys.executable, "-m", *command.split()]
    environment = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"}
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()
