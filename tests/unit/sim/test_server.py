import asyncio

import pytest

from zuebee.sim.server import SimSettings, serve, start


async def test_a_server_knows_its_address_and_leaves_it_when_closed() -> None:
    server = await start(SimSettings())
    assert server.url == f"http://127.0.0.1:{server.port}"
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    await server.close()
    writer.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", server.port)


async def test_a_port_that_is_taken_cannot_be_had() -> None:
    first = await start(SimSettings())
    with pytest.raises(OSError, match="address already in use"):
        await start(SimSettings(port=first.port))
    await first.close()


async def test_a_server_can_be_closed_while_it_refuses() -> None:
    server = await start(SimSettings())
    server.refuse(60)
    server.refuse(60)
    await server.close()


async def test_serving_ends_when_told_to() -> None:
    stop, addresses = asyncio.Event(), list[str]()

    def ready(url: str) -> None:
        addresses.append(url)
        stop.set()

    await asyncio.wait_for(serve(SimSettings(), ready, stop), 5)
    assert addresses[0].startswith("http://127.0.0.1:")
