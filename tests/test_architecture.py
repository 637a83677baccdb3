"""The rules of the house: who imports whom, which third party lives where, how long a file is."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import worldsim

ROOT = Path(worldsim.__file__).parents[1]
LEAVES = ("envs", "train", "play")
BELOW = {"worldsim": (), "envs": (), "train": ("envs",), "play": ("envs",)}
"""Folder -> the leaves that it may import beside itself."""
MAX_LINES = 400

# Third party -> the files that may import it; a name ending in / is a folder.
HOMES = {
    "pygame": ("play/overlay.py", "play/screen.py"),
    "wandb": ("train/",),
    "ray": ("worldsim/system/cluster.py",),
    "tensorboard": ("train/",),
    "matplotlib": ("train/", "worldsim/video/animate.py", "worldsim/video/cost.py"),
    "transformers": (
        "worldsim/model/pretrained_text.py",
        "worldsim/video/pipelines.py",
        "worldsim/video/hub.py",
    ),
    "torchmetrics": ("worldsim/eval/fidelity.py",),
    "stable_baselines3": ("worldsim/sb3.py", "worldsim/game/agent_policy.py", "train/agent.py"),
    "diffusers": (
        "worldsim/model/dit.py",
        "worldsim/model/autoencoder_codec.py",
        "worldsim/model/autoencoder_sizes.py",
        "worldsim/model/sampling.py",
        "worldsim/video/pipelines.py",
        "worldsim/video/hub.py",
        "worldsim/video/flops.py",
    ),
    "h5py": (
        "worldsim/system/hdf5.py",
        "worldsim/data/shard.py",
        "worldsim/data/index.py",
        "worldsim/world_folder.py",
    ),
    "fsspec": ("worldsim/system/location.py", "worldsim/data/remote_folder.py"),
}

# The files that import what a string names: our own table of commands and of public names, games'
# packages, what Gymnasium has registered, and what the user has named.
IMPORTERS = (
    "worldsim/__init__.py",
    "worldsim/__main__.py",
    "worldsim/game/making.py",
    "worldsim/game/providers.py",
    "worldsim/system/trust.py",
)

CODE_IN_DATA = (
    "pickle",
    "dill",
    "cloudpickle",
    "joblib",
    "marshal",
    "shelve",
    "yaml",
    "subprocess",
)

MODEL_FILES = (
    "model/layers",
    "model/kv_cache",
    "model/dit",
    "model/codec",
    "model/flow",
    "model/sampling",
    "model/heads",
    "world_model",
    "rollout",
    "rollout_state",
)

SOURCES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("worldsim", *LEAVES)
    for path in (ROOT / folder).rglob("*.py")
)
TESTS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("*.py"))


def imports_of(source: str, package: str) -> Iterator[str]:
    """Yield the full name of everything that a file imports, wherever in the file.

    Args:
        source: The file's text.
        package: The package that the file is in, which relative imports start from.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = parts[: len(parts) - node.level + 1] if node.level else []
            home = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{home}.{alias.name}" for alias in node.names)


def installed_package(path: str) -> str:
    """Name the package that a file of the checkout is in once installed."""
    folder = Path(path).parent.as_posix().replace("/", ".")
    return folder if folder.startswith("worldsim") else f"worldsim.{folder}"


def imported_names(path: str) -> list[str]:
    return list(imports_of((ROOT / path).read_text(encoding="utf-8"), installed_package(path)))


def is_in(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def test_the_reader_of_imports_sees_every_form() -> None:
    source = """
import a.b
from c import d as e
from . import sibling
from .other import name
from .. import above
def late():
    import g
"""
    found = set(imports_of(source, "worldsim.envs"))
    assert found == {
        "a.b",
        "c.d",
        "worldsim.envs.sibling",
        "worldsim.envs.other.name",
        "worldsim.above",
        "g",
    }


def test_all_folders_are_looked_at() -> None:
    assert {path.split("/")[0] for path in SOURCES} == {"worldsim", *LEAVES}


@pytest.mark.parametrize("path", SOURCES)
def test_no_import_runs_against_the_order_of_the_leaves(path: str) -> None:
    own = path.split("/")[0]
    forbidden = [leaf for leaf in LEAVES if leaf not in (own, *BELOW[own])]
    broken = [
        name
        for name in imported_names(path)
        for leaf in forbidden
        if is_in(name, f"worldsim.{leaf}") or is_in(name, leaf)
    ]
    assert not broken, f"{path} may not import {broken}"


@pytest.mark.parametrize("path", [path for path in SOURCES if path.split("/")[0] in LEAVES])
def test_leaves_import_their_siblings_relatively(path: str) -> None:
    own = path.split("/")[0]
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    absolute = [
        node.module or ""
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level == 0
    ] + [a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names]
    broken = [name for name in absolute if is_in(name, own) or is_in(name, f"worldsim.{own}")]
    assert not broken, f"{path} should import {broken} with a leading dot"


@pytest.mark.parametrize("path", SOURCES)
def test_third_parties_stay_in_their_homes(path: str) -> None:
    broken = [
        name
        for name in imported_names(path)
        for third_party, homes in HOMES.items()
        if is_in(name, third_party)
        and not any(
            path == home or (home.endswith("/") and path.startswith(home)) for home in homes
        )
    ]
    assert not broken, f"{path} is no home of {broken}"


@pytest.mark.parametrize("path", SOURCES)
def test_few_files_turn_a_name_into_code_and_none_data(path: str) -> None:
    calls = [
        n.func for n in ast.walk(ast.parse((ROOT / path).read_text())) if isinstance(n, ast.Call)
    ]
    names = {call.id for call in calls if isinstance(call, ast.Name)}
    names |= {call.attr for call in calls if isinstance(call, ast.Attribute)} - {"eval", "compile"}
    found = names & {"import_module", "load_env_creator", "__import__", "eval", "exec", "compile"}
    assert not found or path in IMPORTERS, f"{path} may not call {found}, see trust.py"
    loaders = [name for name in imported_names(path) if name.partition(".")[0] in CODE_IN_DATA]
    assert not loaders, f"{path} may not import {loaders}, which run what they read"


@pytest.mark.parametrize("path", SOURCES)
def test_every_command_reads_and_checks_its_options_in_one_place(path: str) -> None:
    assert "tyro.cli" not in (ROOT / path).read_text() or path == "worldsim/system/command_line.py"


@pytest.mark.parametrize("name", MODEL_FILES)
def test_the_model_knows_no_environment(name: str) -> None:
    path = f"worldsim/{name}.py"
    broken = [found for found in imported_names(path) if is_in(found, "gymnasium")]
    assert not broken, f"{path} may not import {broken}"


@pytest.mark.parametrize("name", ["model/flow", "model/sampling"])
def test_flow_and_sampling_take_a_callable_and_know_no_dit(name: str) -> None:
    broken = [
        found
        for found in imported_names(f"worldsim/{name}.py")
        if any(
            is_in(found, f"worldsim.{other}")
            for other in ("model.dit", "model.layers", "world_model", "rollout")
        )
    ]
    assert not broken


@pytest.mark.parametrize("path", SOURCES)
def test_text_is_read_and_written_in_utf8_whatever_the_locale(path: str) -> None:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    broken = [
        call.lineno
        for call in calls
        if reads_text(call) and "encoding" not in {keyword.arg for keyword in call.keywords}
    ]
    assert not broken, f"{path} should say encoding='utf-8' in lines {broken}"


def reads_text(call: ast.Call) -> bool:
    """Whether a call reads or writes text by a method of a path, or by open with a mode."""
    function = call.func
    if isinstance(function, ast.Attribute) and function.attr in ("read_text", "write_text"):
        return True
    if not isinstance(function, ast.Attribute):  # the mode follows the file
        name, mode = getattr(function, "id", ""), call.args[1:2]
    else:
        name, mode = function.attr, call.args[:1]
    texts = [one.value for one in mode if isinstance(one, ast.Constant)]
    return name in ("open", "fdopen") and bool(texts) and "b" not in str(texts[0])[:3]


@pytest.mark.parametrize("path", [*SOURCES, *TESTS])
def test_no_file_is_longer_than_a_person_reads(path: str) -> None:
    lines = len((ROOT / path).read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES, f"{path} has {lines} lines: split it"


def test_the_library_has_no_drawer_for_odds_and_ends() -> None:
    stems = {Path(path).stem for path in SOURCES}
    assert not stems & {"utils", "util", "common", "base", "core", "helpers", "misc"}


def modules_after(statement: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter holds after one statement."""
    script = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import worldsim", {"torch", "diffusers", "pygame", "wandb", "h5py", "av"}),
        (
            "import worldsim.game.describe, worldsim.data.recording",
            {"torch", "diffusers", "pygame", "wandb"},
        ),
        ("import worldsim.envs.record", {"torch", "diffusers", "pygame", "wandb", "ray"}),
        (
            "import gymnasium, worldsim; gymnasium.make('worldsim/Pong-v0').close()",
            {"torch", "diffusers", "pygame", "wandb"},
        ),
        ("import worldsim.train.run_log", {"torch", "wandb", "tensorboard"}),
        ("import worldsim.world_folder", {"pygame", "wandb"}),
    ],
)
def test_an_import_brings_in_no_more_than_it_needs(statement: str, absent: set[str]) -> None:
    assert not modules_after(statement) & absent


def test_every_public_name_is_there() -> None:
    for name in worldsim.__all__:
        assert getattr(worldsim, name) is not None
    assert set(worldsim.__all__) <= set(dir(worldsim))
    tree = ast.parse(Path(worldsim.__file__).read_text(encoding="utf-8"))
    for_checkers = {
        alias.asname: (node.module or "").removeprefix("worldsim.")
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert for_checkers == worldsim._HOMES
    with pytest.raises(AttributeError, match="no attribute 'dream'"):
        worldsim.dream  # noqa: B018  # asking is the test
