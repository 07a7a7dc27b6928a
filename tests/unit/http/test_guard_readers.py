"""Clients that take their answers slowly, and those that take nothing."""

import asyncio
import socket
import time

import pytest

from tests.support.asgi_server import Site, serving
from tests.support.scripted_server import until

MARGIN_S = 1.5


async def ask(site: Site, request: bytes, window_bytes: int = 0) -> socket.socket:
    """A client whose every read is its own decision."""
    client = socket.socket()
    if window_bytes:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window_bytes)
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, ("127.0.0.1", site.port))
    await loop.sock_sendall(client, request)
    return client


async def read_steadily(client: socket.socket, each_bytes: int, pause_s: float, for_s: float) -> bool:
    """Read a little now and then; whether the connection lasted."""
    loop = asyncio.get_running_loop()
    end_s = time.monotonic() + for_s
    while time.monotonic() < end_s:
        try:
            left = each_bytes
            while left and (data := await loop.sock_recv(client, left)):
                left -= len(data)
            if left:
                return False
        except ConnectionError:
            return False
        await asyncio.sleep(pause_s)
    return True


@pytest.mark.slow
@pytest.mark.parametrize("each_bytes", [40_000, 150_000])
@pytest.mark.parametrize("path", [b"/large/60000000", b"/flood"])
async def test_a_steady_reader_is_served_however_slowly_the_kernel_makes_room(path: bytes, each_bytes: int) -> None:
    async with serving(write_timeout_s=0.4) as site:
        client = await ask(site, b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % path)
        assert await read_steadily(client, each_bytes, 0.1, 2.5)
        assert site.server.connection_count == 1
        client.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    "requests",
    [
        b"GET /large/60000000 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /large/30000 HTTP/1.1\r\nHost: a\r\n\r\n" * 500,
        b"GET /flood HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /large/60000000 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    ],
    ids=["one answer", "many small answers", "a stream", "the last answer"],
)
async def test_who_takes_nothing_is_cut(requests: bytes) -> None:
    async with serving(write_timeout_s=0.4, keep_alive_s=60) as site:
        client = await ask(site, requests, 4096)
        await until(lambda: site.app.dispatched != [])
        begin_s = time.monotonic()
        await until(lambda: site.server.connection_count == 0)
        assert 0.35 < time.monotonic() - begin_s < 0.4 + 0.2 + MARGIN_S
        client.close()


@pytest.mark.slow
async def test_who_stops_after_a_while_is_cut_then() -> None:
    async with serving(write_timeout_s=0.4) as site:
        client = await ask(site, b"GET /flood HTTP/1.1\r\nHost: a\r\n\r\n")
        assert await read_steadily(client, 200_000, 0.02, 1)
        begin_s = time.monotonic()
        await until(lambda: site.server.connection_count == 0)
        assert 0.3 < time.monotonic() - begin_s < 0.4 + 0.2 + MARGIN_S
        client.close()


@pytest.mark.slow
async def test_the_rest_of_an_answer_below_the_mark_is_as_good_as_any() -> None:
    async with serving(write_timeout_s=0.4, keep_alive_s=60) as site:
        client = await ask(site, b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n", 4096)
        await asyncio.sleep(0.05)
        [connection] = site.server.table.guests
        sock = connection.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
        await asyncio.get_running_loop().sock_sendall(client, b"GET /large/50000 HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: connection.transport.get_write_buffer_size() > 0)
        assert not connection.flow.write_paused
        await until(lambda: site.server.connection_count == 0)
        client.close()
