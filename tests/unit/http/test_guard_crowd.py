"""Many connections at once: there is room for who comes, and nobody loses a request or an answer for it."""

import asyncio

import pytest

from tests.support.asgi_server import is_open, raw, serving
from tests.support.scripted_server import until
from zuebee.http.connections import MAX_HELD_BYTES

GET = b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize("begun", [b"", b"\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nX: "])
async def test_who_sends_no_head_gives_way_to_who_comes(begun: bytes) -> None:
    async with serving(max_connections=5, max_connections_per_address=50) as site:
        silent = [await raw(site, begun) for _ in range(5)]
        await until(lambda: site.server.connection_count == 5)
        for n in range(1, 6):
            wire = await site.connect()
            wire.say(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
            await until(lambda n=n: site.server.running_count == n)
            assert site.server.connection_count == 5
        assert not any(is_open(client) for client in silent)
        assert await (await site.connect()).ended()
        for client in silent:
            client.close()


async def test_who_was_served_goes_after_who_never_asked() -> None:
    async with serving(max_connections=4, max_connections_per_address=50) as site:
        kept = [await site.connect() for _ in range(2)]
        for wire in kept:
            wire.say(GET)
            assert (await wire.answer()).status == 200
        silent = [await raw(site) for _ in range(30)]
        await until(lambda: site.server.table.made_room == 28)
        for wire in kept:
            wire.say(GET)
            assert (await wire.answer()).status == 200
        for client in silent:
            client.close()


async def test_an_address_at_its_bound_closes_its_own() -> None:
    async with serving(max_connections=50, max_connections_per_address=3) as site:
        kept = await site.connect()
        kept.say(GET)
        await kept.answer()
        clients = [await raw(site) for _ in range(20)]
        await until(lambda: site.server.table.made_room == 17)
        assert site.server.connection_count == 4
        kept.say(GET)
        assert (await kept.answer()).status == 200
        for client in clients:
            client.close()
        await until(lambda: site.server.connection_count == 1)


async def test_a_proxy_may_have_as_many_as_there_are() -> None:
    async with serving(max_connections=50, max_connections_per_address=3, proxies=("127.0.0.2",)) as site:
        clients = [await raw(site) for _ in range(20)]
        await until(lambda: site.server.connection_count == 20)
        for client in clients:
            client.close()


async def test_no_request_and_no_answer_on_its_way_is_closed_for_another() -> None:
    busy = {
        "a body on its way": b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf",
        "a chunked body": b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "a request that runs": b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n",
        "a stream": b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n",
        "an answer that is being taken": b"GET /large/9000000 HTTP/1.1\r\nHost: a\r\n\r\n",
        "the last answer": b"GET /large/9000000 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "an early answer": b"POST /large/9000000 HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 9\r\n\r\n",
    }
    async with serving(max_connections=len(busy) + 1, max_connections_per_address=50) as site:
        clients = {name: await raw(site, data) for name, data in busy.items()}
        await until(lambda: len(site.app.dispatched) == len(busy))
        await asyncio.sleep(0.05)
        flood = [await raw(site, begun) for begun in (b"", b"G") for _ in range(30)]
        await until(lambda: site.server.table.made_room >= 59)
        await asyncio.sleep(0.05)
        assert {name for name, client in clients.items() if not is_open(client)} == set()
        assert site.app.cancelled == []
        for client in [*clients.values(), *flood]:
            client.close()


async def test_ends_that_linger_go_first() -> None:
    async with serving(max_connections=4, max_connections_per_address=50) as site:
        silent = await raw(site)
        kept = await site.connect()
        kept.say(GET)
        await kept.answer()
        refused = [await raw(site, b"POST /refuse HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n") for _ in range(2)]
        await until(lambda: len(site.app.dispatched) == 3)
        await asyncio.sleep(0.05)
        others = [await site.connect() for _ in range(2)]
        for wire in others:
            wire.say(GET)
            assert (await wire.answer()).status == 200
        assert is_open(silent)
        kept.say(GET)
        assert (await kept.answer()).status == 200
        for client in [silent, *refused]:
            client.close()


@pytest.mark.slow
async def test_heads_that_do_not_end_hold_a_bounded_memory() -> None:
    limits = {"max_connections": 2000, "max_connections_per_address": 2000, "max_header_bytes": 61440}
    async with serving(keep_alive_s=5, sweep_s=0.02, **limits) as site:
        begun = b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 60_000
        clients = [await raw(site, begun) for _ in range(700)]
        await until(lambda: site.server.connection_count < 700)
        assert 0 < site.server.held_bytes <= MAX_HELD_BYTES
        wire = await site.connect()
        wire.say(GET)
        assert (await wire.answer()).status == 200
        for client in clients:
            client.close()
        await until(lambda: site.server.connection_count == 1)
        assert site.server.held_bytes == 0


async def test_requests_that_wait_their_turn_hold_a_bounded_memory() -> None:
    limits = {"max_connections": 2000, "max_connections_per_address": 2000}
    async with serving(**limits) as site:
        waiting = b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n" + GET * 6000
        clients = []
        for _ in range(300):
            client = await raw(site)
            clients.append(client)
            client.send(waiting)
        await until(lambda: site.server.running_count == 300)
        assert site.server.held_bytes <= MAX_HELD_BYTES
        assert site.app.cancelled == []
        site.app.go.set()
        await until(lambda: site.server.running_count == 0)
        for client in clients:
            client.close()
        await until(lambda: site.server.connection_count == 0)
        assert site.server.held_bytes == 0


async def test_the_count_of_what_is_held_comes_back_to_nothing() -> None:
    async with serving() as site:
        for cut in range(1, len(GET), 3):
            wire = await site.connect()
            wire.say(GET + GET[:cut])
            assert (await wire.answer()).status == 200
            await until(lambda cut=cut: site.server.held_bytes == cut)
            if cut % 2:
                wire.say(GET[cut:])
                assert (await wire.answer()).status == 200
            wire.close()
            await until(lambda: site.server.held_bytes == 0)
