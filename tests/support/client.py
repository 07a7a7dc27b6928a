"""A plain HTTP client that hides nothing: an answer's bytes, its header fields, and whether it ended as it should."""

import http.client
import json
import socket
from collections.abc import Iterable
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tests.support.processes import KEY

CHAT = "/v1/chat/completions"
TIMEOUT_S = 15.0
HELLO: dict[str, Any] = {"model": "sim-small", "messages": [{"role": "user", "content": "Hello there"}]}

Body = bytes | dict[str, Any] | None
Fields = Iterable[tuple[str, str]]


class Answer(NamedTuple):
    """One answer. `whole`: it ended as its head promised. Header names are in lower case."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    whole: bool

    def header(self, name: str) -> str | None:
        """The first value of a header field."""
        return next((value for field, value in self.headers if field == name), None)

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The code of an error body."""
        return str(self.json["error"]["code"])

    @property
    def events(self) -> list[str]:
        """The data of each event of a stream."""
        return [event.removeprefix("data: ") for event in self.body.decode().split("\n\n") if event.strip()]


class Client:
    """One connection, kept between requests. `key` None sends no credential."""

    def __init__(self, url: str, key: str | None = KEY) -> None:
        self._authority = urlsplit(url).netloc
        self._key = key
        self._connection = http.client.HTTPConnection(self._authority, timeout=TIMEOUT_S)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave, whatever is still coming."""
        self._connection.close()

    def hang_up(self) -> None:
        """Leave while another thread waits for an answer."""
        self._connection.sock.shutdown(socket.SHUT_RDWR)

    def open(self, body: Body, path: str = CHAT, headers: Fields = (), method: str = "POST") -> "Opened":
        """Send a request; the head of its answer is there when this returns."""
        connection = self._connection
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        connection.putrequest(method, path, skip_accept_encoding=True)
        if self._key is not None:
            connection.putheader("Authorization", f"Bearer {self._key}")
        for name, value in headers:
            connection.putheader(name, value)
        if data is not None:
            connection.putheader("Content-Type", "application/json")
            connection.putheader("Content-Length", str(len(data)))
        connection.endheaders(data)
        return Opened(connection.getresponse())

    def ask(self, body: Body, path: str = CHAT, headers: Fields = (), method: str = "POST") -> Answer:
        """Send a request and read its whole answer."""
        return self.open(body, path, headers, method).rest()


class Opened:
    """An answer that has begun."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = [(name.lower(), value) for name, value in response.getheaders()]
        self._response = response

    def read(self, size_bytes: int) -> bytes:
        """So much of it."""
        return self._response.read(size_bytes)

    def close(self) -> None:
        """Read no more of it."""
        self._response.close()

    def event(self) -> bytes:
        """The next event or comment of a stream, with its empty line; `b""` at the end."""
        lines = []
        while line := self._response.readline():
            lines.append(line)
            if line == b"\n":
                break
        return b"".join(lines)

    def rest(self) -> Answer:
        """All that is still to come."""
        parts: list[bytes] = []
        whole = True
        try:
            while part := self._response.read1(1 << 16):
                parts.append(part)
        except (http.client.IncompleteRead, ConnectionError, TimeoutError):
            whole = False
        self._response.close()
        body = b"".join(parts)
        promised = next((int(value) for name, value in self.headers if name == "content-length"), len(body))
        whole = whole and promised == len(body)
        return Answer(self.status, self.headers, body, whole)


def ask(
    url: str, body: Body, path: str = CHAT, headers: Fields = (), key: str | None = KEY, method: str = "POST"
) -> Answer:
    """One request on a connection of its own."""
    with Client(url, key) as client:
        return client.ask(body, path, headers, method)
