"""Commands of `zuebee` that end by themselves: run as a user would, or within our own process, which is quicker."""

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from contextlib import chdir
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from typer.testing import CliRunner

from tests.support.starts import SOURCES, start
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
    with TemporaryFile() as stdout, TemporaryFile() as stderr, Path(os.devnull).open("rb") as nothing:
        process = start([*command], folder, nothing, stdout, stderr)
        try:
            status = process.wait(TIMEOUT_S)
        except BaseException:
            process.kill()
            raise
        for each in (stdout, stderr):
            each.seek(0)
        said, errors = stdout.read().decode(), stderr.read().decode()
    if status:
        raise Failed(command, status, said, errors)
    return said


def on_terminal(folder: Path, *command: str, columns: int = 80) -> str:
    """Run one command on a terminal of its own; all that stands on it, without carriage returns. Raises Failed."""
    screen, inside = pty.openpty()
    fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    apart = ("ZUEBEE_", "COLUMNS", "LINES", "NO_COLOR")
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith(apart)}
    with subprocess.Popen(
        [sys.executable, "-m", "zuebee", *command],
        cwd=folder,
        env={**surroundings, "PYTHONPATH": SOURCES, "TERM": "xterm"},
        stdin=inside,
        stdout=inside,
        stderr=inside,
    ) as process:
        os.close(inside)
        seen = b""
        while chunk := _read(screen):
            seen += chunk
        status = process.wait(TIMEOUT_S)
    os.close(screen)
    text = seen.decode().replace("\r\n", "\n")
    if status:
        raise Failed(command, status, text, text)
    return text


def _read(screen: int) -> bytes:
    try:
        return os.read(screen, 65536)
    except OSError:  # how Linux says that nobody is left on the other side
        return b""


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
