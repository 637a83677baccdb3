"""Files: read where they are what they seem, locked without being written to, named in errors."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from worldsim.system.files import (
    MAX_TEXT_BYTES,
    check_regular,
    locked,
    naming_damage,
    one_line,
    printable,
    read_object,
    read_text,
)


class TestOneLine:
    def test_an_error_without_a_message_is_named_by_its_class(self) -> None:
        assert one_line(AssertionError()) == "AssertionError"
        assert one_line(ValueError("  \n ")) == "ValueError"

    def test_of_several_lines_the_first_counts(self) -> None:
        assert one_line(ValueError("\n  out of\tpaint.\nwhere: there")) == "out of paint"


class TestPrintable:
    def test_escapes_of_a_terminal_become_visible(self) -> None:
        assert printable("a\x1b]0;title\x07b\nc") == "a\\x1b]0;title\\x07b\nc"

    def test_text_of_any_language_stays(self) -> None:
        assert printable("Pong – 乒乓") == "Pong – 乒乓"


class TestReading:
    def test_a_link_is_refused_by_name(self, tmp_path: Path) -> None:
        (tmp_path / "secret").write_text("{}")
        (tmp_path / "config.json").symlink_to(tmp_path / "secret")
        with pytest.raises(ValueError, match=r"config.json is a link"):
            read_object(tmp_path / "config.json")

    def test_a_pipe_does_not_wait(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "shard")
        with pytest.raises(ValueError, match="not a regular file"):
            check_regular(tmp_path / "shard")

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="there is no"):
            read_text(tmp_path / "nothing")

    def test_a_huge_text_is_not_read(self, tmp_path: Path) -> None:
        with (tmp_path / "config.json").open("wb") as file:
            file.truncate(MAX_TEXT_BYTES + 1)
        with pytest.raises(ValueError, match="at most 16,777,216 are read"):
            read_text(tmp_path / "config.json")

    def test_json_nested_without_end_is_one_sentence(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text("[" * 200_000)
        with pytest.raises(ValueError, match="nested too deeply"):
            read_object(tmp_path / "config.json")


class TestNamingDamage:
    def test_permission_is_no_damage(self, tmp_path: Path) -> None:
        with (
            pytest.raises(PermissionError, match=r"shard may not be read by this user"),
            naming_damage("shard", "delete it"),
        ):
            raise PermissionError(13, "Permission denied", "shard")

    def test_all_else_is_named_with_its_remedy(self) -> None:
        with (
            pytest.raises(ValueError, match=r"shard is damaged \(KeyError\): delete it"),
            naming_damage("shard", "delete it"),
        ):
            raise KeyError


class TestLocked:
    def test_another_process_is_refused_in_a_sentence(self, tmp_path: Path) -> None:
        code = (
            "import sys, pathlib; from worldsim.system.files import locked\n"
            "with locked(pathlib.Path(sys.argv[1]), 'taken: wait'): pass"
        )
        command = [sys.executable, "-c", code, str(tmp_path / "lock")]
        with locked(tmp_path / "lock", "taken"):
            other = subprocess.run(command, capture_output=True, text=True)
        assert "ValueError: taken: wait" in other.stderr
        assert subprocess.run(command).returncode == 0  # let go of

    def test_a_link_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "lock").symlink_to(tmp_path / "victim")
        with pytest.raises(ValueError, match="lock is a link"), locked(tmp_path / "lock", "taken"):
            pass
        assert not (tmp_path / "victim").exists()

    @pytest.mark.parametrize("link", [os.symlink, os.link])
    def test_what_a_lock_leads_to_keeps_its_content(
        self, tmp_path: Path, link: Callable[..., None]
    ) -> None:
        victim = tmp_path / "victim"
        victim.write_text("thesis")
        link(victim, tmp_path / "lock")
        with contextlib.suppress(ValueError), locked(tmp_path / "lock", "taken"):
            pass
        assert victim.read_text() == "thesis"
