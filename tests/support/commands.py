"""Commands of `zuebee` that end by themselves: run as a user would, or within our own process, which is quicker."""

import json
import os
import subprocess
import sys
from contextlib import chdir
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from tests.support.processes import SOURCES
from zuebee.cli import app

TIMEOUT_S = 60.0


class Failed(AssertionError):
    """A command that ended with another exit status than 0."""

    def __init__(self, command: tuple[str, ...], status: int, stdout: str, stderr: str) -> None:
        super().__init__(f"{' '.join(command)}: {status}\n{stderr}")
        self.status = status
        self.stderr = stderr
        self.stdout = stdout


def zuebee(folder: Path, *command: str) -> str:
    """Run one command in a folder; its standard output. Raises Failed."""
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("ZUEBEE_")}
    result = subprocess.run(
        [sys.executable, "-m", "zuebee", *command],
        cwd=folder,
        env={**surroundings, "PYTHONPATH": SOURCES},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if result.returncode:
        raise Failed(command, result.returncode, result.stdout, result.stderr)
    return result.stdout


def ask_zuebee(folder: Path, *command: str) -> Any:
    """The same with `--json`; what it says."""
    return json.loads(zuebee(folder, *command, "--json"))


def here(folder: Path, *command: str) -> str:
    """As `zuebee`, within our process: for stories about what a command does. One at a time, as the folder is ours."""
    surroundings = {name: None for name in os.environ if name.startswith("ZUEBEE_")}
    with chdir(folder):
        result = CliRunner().invoke(app, command, env=surroundings, prog_name="zuebee")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    if result.exit_code:
        raise Failed(command, result.exit_code, result.stdout, result.stderr)
    return result.stdout


def ask_here(folder: Path, *command: str) -> Any:
    """The same with `--json`; what it says."""
    return json.loads(here(folder, *command, "--json"))
