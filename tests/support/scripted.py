"""A server that answers with exactly the bytes it is told, and keeps exactly the bytes it got."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple


class Received(NamedTuple):
    """One request as it came over the wire. Header names are in lower case."""

    line: str
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def target(self) -> str:
        """What the request line asks for."""
        return self.line.split(" ")[1]

    def header(self, name: str) -> str | None:
        """The first value of a header field."""
        return next((value for field, value in self.headers if field == name), None)


class ScriptedServer:
    """Answers each request with the bytes that `answer` gives for it."""

    def __init__(self, answer: Callable[[Received], bytes]) -> None:
        self.answer = answer
        self.received: list[Received] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), connection, connection.makefile("rb") as stream:
            while line := stream.readline():
                request = self._read(line, stream.readline, stream.read)
                self.received.append(request)
                connection.sendall(self.answer(request))

    @staticmethod
    def _read(line: bytes, readline: Callable[[], bytes], read: Callable[[int], bytes]) -> Received:
        headers = []
        while (field := readline()) not in (b"\r\n", b""):
            name, _, value = field.decode("latin-1").partition(":")
            headers.append((name.lower(), value.strip()))
        size = next((int(value) for name, value in headers if name == "content-length"), 0)
        return Received(line.decode("latin-1").strip(), headers, read(size))


@contextmanager
def scripted(answer: Callable[[Received], bytes]) -> Iterator[ScriptedServer]:
    """A running scripted server."""
    server = ScriptedServer(answer)
    try:
        yield server
    finally:
        server.close()


def http_answer(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """An answer of one piece."""
    lines = "".join(f"{line}\r\n" for line in headers or ("content-type: application/json",))
    return f"HTTP/1.1 {status}\r\n{lines}content-length: {len(body)}\r\n\r\n".encode() + body
