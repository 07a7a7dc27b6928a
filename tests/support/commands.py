"""Commands of `zuebee` that end by themselves, run as a user would."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.processes import SOURCES

TIMEOUT_S = 60.0


class Failed(AssertionError):
    """A command that ended with another exit status than 0."""

    def __init__(self, command: tuple[str, ...], result: subprocess.CompletedProcess[str]) -> None:
        super().__init__(f"{' '.join(command)}: {result.returncode}\n{result.stderr}")
        self.status = result.returncode
        self.stderr = result.stderr
        self.stdout = result.stdout


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
        raise Failed(command, result)
    return result.stdout


def ask_zuebee(folder: Path, *command: str) -> Any:
    """The same with `--json`; what it says."""
    return json.loads(zuebee(folder, *command, "--json"))
