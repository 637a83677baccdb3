"""What an installation brings: every package, every file that is read, and nothing to look at."""

from __future__ import annotations

from pathlib import Path

import pytest

import worldsim

ROOT = Path(worldsim.__file__).parents[1]


@pytest.fixture(scope="module")
def installed() -> set[str]:
    """The files of the wheel, by their paths in it, as setuptools finds them."""
    pytest.importorskip("setuptools")
    from setuptools import Distribution

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        distribution = Distribution({"script_name": "setup.py"})
        distribution.parse_config_files()
        build = distribution.get_command_obj("build_py")
        build.ensure_finalized()
        modules = {
            f"{package.replace('.', '/')}/{module}.py"
            for package, module, _ in build.find_all_modules()
        }
        data = {
            f"{package.replace('.', '/')}/{file}"
            for package, _, _, files in build.data_files
            for file in files
        }
    return modules | data


def test_every_module_is_installed(installed: set[str]) -> None:
    found = {
        path.relative_to(ROOT).as_posix().removeprefix("worldsim/")
        for folder in ("worldsim", "envs", "train", "play")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert {f"worldsim/{path}" for path in found} == {p for p in installed if p.endswith(".py")}


def test_worlds_and_the_report_are_packaged_and_no_videos(installed: set[str]) -> None:
    for name in ("pong", "maze", "balls"):
        folder = ROOT / "worldsim" / "worlds" / name
        needed = {path for path in folder.rglob("*") if path.is_file() and path.suffix != ".gif"}
        assert {path.relative_to(ROOT).as_posix() for path in needed} <= installed
    assert {"worldsim/py.typed", "worldsim/eval/report/report.html"} <= installed
    assert not [path for path in installed if path.endswith(".gif")]
    size = sum((ROOT / path).stat().st_size for path in installed if path.startswith("worldsim/wo"))
    assert size < 20e6
