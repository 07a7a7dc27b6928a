"""Processes of `zuebee`: copies of one that has imported everything (`tests.support.fork_server`), or started anew."""

import functools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

from bench import trees

ROOT = Path(__file__).resolve().parents[2]
SOURCES = str(trees.PLAIN if os.environ.get("TEST_PLAIN") == "1" else trees.chosen())
"""What runs is the code beside these tests, whatever is installed: compiled where `make compiled` did that."""
READ_WHEN_PYTHON_STARTS = ("PYTHON", "LD_", "MALLOC_", "GRPC_")
"""A process that is to begin with one of these in its environment has to begin."""
MAX_MESSAGE_BYTES = 4096


def surroundings() -> dict[str, str]:
    """Our environment without what is set in it for a gateway or for these tests."""
    return {name: value for name, value in os.environ.items() if not name.startswith("ZUEBEE_")}


class Forked:
    """A command, with what `subprocess.Popen` has of it: `pid`, `returncode`, signals, and waiting for its end."""

    def __init__(self, server: "_Server", pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._server = server

    def poll(self) -> int | None:
        """Its exit status, or minus the signal that ended it; None while it runs."""
        if self.returncode is None:
            self.returncode = self._server.status(self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, once it ended. Raises subprocess.TimeoutExpired after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
            time.sleep(0.002)
        return status

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send it SIGTERM, unless it ended."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send it SIGKILL, unless it ended."""
        self.send_signal(signal.SIGKILL)


class _Server:
    """The process that makes the copies, and how those ended that it told of."""

    def __init__(self, sources: str) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        self._ended: dict[int, int] = {}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.fork_server"],
                stdin=theirs,
                cwd=ROOT,
                env={**surroundings(), "PYTHONPATH": sources},
            )

    def start(self, arguments: list[str], cwd: Path, environ: dict[str, str], files: list[int]) -> Forked:
        """Start a command with standard input, output and errors in these files."""
        order = json.dumps({"arguments": arguments, "cwd": str(cwd), "env": environ}).encode()
        with self._lock:
            self._socket.setblocking(True)
            socket.send_fds(self._socket, [order], files)
            while True:
                told = json.loads(self._socket.recv(MAX_MESSAGE_BYTES))
                if "pid" in told:
                    return Forked(self, told["pid"])
                self._ended[told["ended"]] = told["status"]

    def status(self, pid: int) -> int | None:
        """How that process ended, once for each; None while it runs."""
        with self._lock:
            self._socket.setblocking(False)
            try:
                while pid not in self._ended:
                    told = json.loads(self._socket.recv(MAX_MESSAGE_BYTES))
                    self._ended[told["ended"]] = told["status"]
            except BlockingIOError:
                return None
            return self._ended.pop(pid)


@functools.cache
def _server(sources: str) -> _Server:
    return _Server(sources)


def start(
    arguments: list[str], cwd: Path, stdin: IO[bytes], stdout: IO[bytes], stderr: IO[bytes], **environ: str
) -> "Forked | subprocess.Popen[bytes]":
    """Start `zuebee` with these arguments in that folder; `environ` is put over our own environment."""
    whole = {**surroundings(), **environ}
    if any(name.startswith(READ_WHEN_PYTHON_STARTS) for name in environ):
        command = [sys.executable, "-m", "zuebee", *arguments]
        env = {"PYTHONPATH": SOURCES, **whole}
        return subprocess.Popen(command, stdin=stdin, stdout=stdout, stderr=stderr, cwd=cwd, env=env)
    files = [each.fileno() for each in (stdin, stdout, stderr)]
    return _server(SOURCES).start(arguments, cwd, {**whole, "PYTHONPATH": SOURCES}, files)
