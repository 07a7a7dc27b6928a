"""The simulated model server in a thread, and a client that sees every byte."""

import asyncio
import contextlib
import json
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

from zuebee.sim.server import SimSettings, serve

CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {"model": "sim-small", "messages": [{"role": "user", "content": "Hello there"}]}
TIMEOUT_S = 5.0
SILENCE_S = 0.3


@contextlib.contextmanager
def running(settings: SimSettings, run: Callable[[Any], Any] = asyncio.run) -> Iterator[str]:
    """Run a server in a thread with its own event loop, and give its address."""
    ready, stop = threading.Event(), asyncio.Event()
    found: dict[str, Any] = {}

    async def main() -> None:
        found["loop"] = asyncio.get_running_loop()
        await serve(settings, lambda url: (found.update(url=url), ready.set())[0], stop)

    thread = threading.Thread(target=run, args=(main(),))
    thread.start()
    try:
        assert ready.wait(TIMEOUT_S)
        yield found["url"]
    finally:
        found["loop"].call_soon_threadsafe(stop.set)
        thread.join(TIMEOUT_S)
        assert not thread.is_alive()


def call(url: str, method: str, path: str, body: Any = None) -> Any:
    """Make a call of the control endpoints."""
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url + path, data, method=method), timeout=TIMEOUT_S) as answer:
        return json.load(answer)


def until(check: Callable[[], bool]) -> None:
    """Wait until something is so."""
    end = time.monotonic() + TIMEOUT_S
    while not check():
        assert time.monotonic() < end, "did not come about in time"
        time.sleep(0.01)


class Wire:
    """A raw connection."""

    def __init__(self, url: str) -> None:
        host, port = url.split("//")[1].split(":")
        self.socket = socket.create_connection((host, int(port)), TIMEOUT_S)

    def send(
        self, body: Any = None, path: str = CHAT, headers: str = "", method: str = "POST", version: str = "1.1"
    ) -> None:
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/{version}\r\nhost: sim\r\n{headers}content-length: {len(data)}\r\n\r\n"
        self.socket.sendall(head.encode() + data)

    def read(self, wait_s: float = TIMEOUT_S, enough: Callable[[bytes], bool] | None = None) -> tuple[bytes, str]:
        """Return all that comes, and how it ended: `eof`, `reset` or `silence`, which is `wait_s` without a byte.

        Until `enough` is there it may take its time, as on a busy machine.
        """
        got = b""
        while True:
            self.socket.settimeout(wait_s if enough is None or enough(got) else TIMEOUT_S)
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                return got, "reset"
            except TimeoutError:
                return got, "silence"
            if not data:
                return got, "eof"
            got += data

    def message(self) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of one complete response, and leave what follows it unread."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self._exactly(1)
        status_line, *lines = head.decode("latin-1").strip().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        body = b""
        if headers.get("transfer-encoding") == "chunked":
            while size := int(self._line(), 16):
                body += self._exactly(size)
                assert self._exactly(2) == b"\r\n"
            assert self._exactly(2) == b"\r\n"
        else:
            body = self._exactly(int(headers.get("content-length", 0)))
        return int(status_line.split()[1]), headers, body

    def _line(self) -> bytes:
        line = b""
        while not line.endswith(b"\r\n"):
            line += self._exactly(1)
        return line

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.socket.recv(size - len(data))
            assert piece, "the connection ended within a message"
            data += piece
        return data


def events(body: bytes) -> list[str]:
    """Return the data of the events in a stream."""
    return [part.removeprefix("data: ") for part in body.decode().split("\n\n") if part]


def faulty(name: str | int, *, stream: bool, **fields: Any) -> dict[str, Any]:
    return {**HELLO, "stream": stream, "sim": {"fault": name, **fields}}
