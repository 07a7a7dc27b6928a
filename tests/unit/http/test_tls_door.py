"""Connections over TLS count from the moment they are accepted."""

import errno
import socket
from typing import Any
from unittest import mock

import pytest

from tests.support.asgi_server import is_open, raw, serving
from tests.support.certificates import client_context, server_context
from tests.support.scripted_server import until

GET = b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.slow
async def test_handshakes_on_their_way_count_and_give_way() -> None:
    async with serving(tls=server_context("127.0.0.1"), max_connections=5, max_connections_per_address=50) as site:
        silent = [await raw(site, begun) for begun in (b"", b"", b"\x16\x03\x01", b"", b"")]
        await until(lambda: site.server.connection_count == 5)
        for _ in range(8):
            wire = await site.connect(client_context())
            wire.say(GET)
            assert (await wire.answer()).status == 200
            assert site.server.connection_count <= 5
        await until(lambda: not any(is_open(client) for client in silent))
        for client in silent:
            client.close()


@pytest.mark.slow
async def test_handshakes_of_one_address_are_bounded() -> None:
    async with serving(tls=server_context("127.0.0.1"), max_connections_per_address=3, header_timeout_s=0.3) as site:
        silent = [await raw(site) for _ in range(20)]
        await until(lambda: site.server.table.made_room == 17)
        wire = await site.connect(client_context())
        wire.say(GET)
        assert (await wire.answer()).status == 200
        wire.close()
        await until(lambda: site.server.connection_count == 0)
        for client in silent:
            client.close()


@pytest.mark.slow
async def test_a_door_that_finds_no_file_tries_again() -> None:
    async with serving(tls=server_context("127.0.0.1")) as site:
        real, failed = socket.socket.accept, []

        def exhausted(door: socket.socket) -> Any:
            if len(failed) < 3:
                failed.append(1)
                raise OSError(errno.EMFILE, "too many open files")
            return real(door)

        with mock.patch.object(socket.socket, "accept", exhausted):
            wire = await site.connect(client_context())
            wire.say(GET)
            assert (await wire.answer()).status == 200
        assert len(failed) == 3
