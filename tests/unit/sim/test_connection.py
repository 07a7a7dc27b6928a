"""The connection fed byte by byte; real sockets are in the scenarios."""

import asyncio

import pytest

from zuebee.sim.base import SimSettings
from zuebee.sim.server import SimConnection
from zuebee.sim.site import Site


class Transport(asyncio.Transport):
    """Remembers what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.data, self.closing = b"", False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.data += data

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True


class Owner:
    """A server without a listener."""

    def __init__(self) -> None:
        self.site = Site(SimSettings(tokens_per_s=0), lambda _: None)

    def opened(self, connection: SimConnection) -> int:
        return 1

    def closed(self, connection: SimConnection) -> None:
        pass


async def connected(max_body_bytes: int = 1000) -> tuple[SimConnection, Transport]:
    connection, transport = SimConnection(Owner(), asyncio.get_running_loop(), max_body_bytes), Transport()
    connection.connection_made(transport)
    return connection, transport


@pytest.mark.parametrize("step", [1, 7, 1000])
async def test_requests_may_come_in_any_pieces(step: int) -> None:
    connection, transport = await connected()
    data = b"GET /health HTTP/1.1\r\nhost: a\r\nx-long: " + b"y" * 50 + b"\r\n\r\n"
    for start in range(0, len(data), step):
        connection.data_received(data[start : start + step])
    assert transport.data.startswith(b"HTTP/1.1 200 OK\r\n")
    assert not transport.closing


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n", b"400"),
        (b"POST /v1/x HTTP/1.1\r\nhost: a\r\ncontent-length: 1001\r\n\r\n" + b"x" * 1001, b"413"),
        (b"GET /health HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", b"200"),
    ],
)
async def test_what_ends_a_connection(data: bytes, status: bytes) -> None:
    connection, transport = await connected()
    connection.data_received(data)
    assert transport.data.count(b"HTTP/1.1 ") == 1
    assert transport.data.split()[1] == status
    assert transport.closing
