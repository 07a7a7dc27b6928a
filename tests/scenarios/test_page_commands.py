"""Commands on the pages of the documentation run as they are printed, one after the other, on a new store."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.pages import page
from tests.support.starts import SOURCES
from tests.support.stores import made_for

PAGES = {"docs/keys.md": 9, "docs/limits.md": 2, "docs/billing.md": 3, "docs/usage.md": 5}
"""And how many commands they have, at least."""

CONFIG = "backends: [{url: 'http://127.0.0.1:9'}]\nstore: {path: data/zuebee.db}\n"
SERVERS = ("run", "sim")
SHELL = f'set -e\nzuebee() {{ "{sys.executable}" -m zuebee "$@"; }}\n'


def commands(text: str) -> list[str]:
    """The lines of code blocks that begin with `zuebee`, but for those that start a server."""
    inside, found = False, []
    for line in text.splitlines():
        if line.startswith("```"):
            inside = not inside
        elif inside and (match := re.match(r"(?:\$ )?(zuebee (\S+).*)", line)) and match[2] not in SERVERS:
            found.append(match[1])
    return found


@pytest.mark.parametrize("name", PAGES)
def test_the_commands_of_a_page_work_as_printed(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "data").mkdir()
    made_for(tmp_path / "config.yaml")
    lines = commands(page(name))
    assert len(lines) >= PAGES[name]
    done = _run(tmp_path, lines)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_command_that_does_not_exist_is_seen(tmp_path: Path) -> None:
    lines = commands("```\n$ zuebee accounts make organization acme\n```\n")
    assert _run(tmp_path, lines).returncode != 0


def _run(folder: Path, lines: list[str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["sh", "-c", SHELL + "\n".join(lines)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": SOURCES},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
