"""The documents keep up with the code: options of commands, lines of the map, the version."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import worldsim
from worldsim.__main__ import COMMANDS, main

ROOT = Path(worldsim.__file__).parents[1]
PAST = ("CHANGELOG.md", "LOG.md")  # which name what is gone, too
DOCUMENTS = [
    path
    for pattern in ("*.md", "docs/**/*.md", "examples/*.py", ".github/**/*.yml", "Makefile")
    for path in ROOT.glob(pattern)
    if path.name not in PAST
]
PLACES = re.findall(
    r"^\| [^|]+ \| `([^`]+)` \| `([^`]+)` \|$",
    (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"),
    re.MULTILINE,
)


@pytest.mark.parametrize("command", COMMANDS)
def test_documents_give_a_command_no_option_that_is_not_there(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = set()
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8").replace("\\\n", " ")
        for words in re.findall(rf"worldsim {command}( [^`\n#;]*)", text):
            given |= {(option, path.name) for option in re.findall(r" (--[\w.-]+)", words)}
    with pytest.raises(SystemExit):
        main([command, "--help-all"])
    there = {"--help", "--help-all", *re.findall(r"--[\w.-]+", capsys.readouterr().out)}
    assert not [(option, name) for option, name in given if option not in there]


@pytest.mark.parametrize(("path", "line"), PLACES)
def test_the_map_of_the_house_leads_to_the_line(path: str, line: str) -> None:
    assert (ROOT / path).read_text(encoding="utf-8").count(line) == 1


def test_the_map_is_not_empty() -> None:
    assert len(PLACES) >= 20


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [
        "README.md",
        "docs/index.md",
        "docs/how-to/record.md",
        "docs/how-to/scale.md",
        "docs/concepts/tokens.md",
    ],
)
def test_programs_in_documents_run(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(
        r"```python\n(.*?)```", (ROOT / path).read_text(encoding="utf-8"), re.DOTALL
    )
    for block in blocks:
        exec(compile(block, path, "exec"), {"__name__": "document"})


def test_the_citation_is_of_this_version() -> None:
    for name in ("CITATION.cff", "README.md"):
        assert worldsim.__version__ in (ROOT / name).read_text(encoding="utf-8")
