"""A real Redis: one of the test's own that may be stopped and killed, or the one that is running on this machine."""

import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import redis

from tests.support.servers import need_program


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """A process of our own on a free port, with nothing on disk."""

    def __init__(self, folder: Path) -> None:
        self._program = need_program("redis-server", "redis-server")
        self._folder = folder
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        arguments = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self.process = subprocess.Popen(
            [self._program, *arguments], cwd=self._folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        client, deadline_s = self.client(), time.monotonic() + 10
        while True:
            with suppress(redis.RedisError):
                if client.ping():
                    return
            assert time.monotonic() < deadline_s, "redis-server did not start"
            time.sleep(0.01)

    def client(self) -> "redis.Redis":
        """A client of the test's own."""
        return redis.Redis(port=self.port, socket_timeout=5)

    def pause(self) -> None:
        """It takes connections and commands, and answers nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """It goes on."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """It is gone, with all it knew."""
        if self.process is not None:
            self._signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait(10)
            self.process = None

    def _signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)


@contextmanager
def redis_server(folder: Path, *, started: bool = True) -> Iterator[RedisServer]:
    """A Redis of the test's own."""
    server = RedisServer(folder)
    try:
        if started:
            server.start()
        yield server
    finally:
        server.kill()


def new_prefix() -> str:
    """A key prefix that nobody else has."""
    return f"test:{secrets.token_hex(8)}:"
