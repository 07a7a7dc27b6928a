"""T23: requests cancelled wherever they are, over the pools of HTTP, Redis and databases; nobody gets another's answer.

Each caller sends a tag of its own and looks at the tag that comes back. `PROOF_CANCELS` says how many are cancelled in
`make proof` in all (100,000 unless set).
"""

import asyncio
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest
from sqlalchemy import text

from tests.support.client_pool import LONG, read_all
from tests.support.databases import postgres_database, redis_url
from zuebee.http.connect import Origin
from zuebee.http.pool import Connection, HttpFailure, HttpPool
from zuebee.lib.failures import RedisError
from zuebee.lib.redis import RedisClient
from zuebee.lib.sql.database import Database, database_url

CANCELS = int(os.environ.get("PROOF_CANCELS", "100000"))
AT_ONCE = 50

Ask = Callable[[str], Awaitable[str | None]]
"""Sends a tag; the tag that came back, None where the pool itself says that it failed."""


class Outcome(NamedTuple):
    """Of those who asked: who got their own answer, somebody else's, none, and who was cancelled before."""

    own: int
    foreign: int
    failed: int
    cancelled: int


async def storm(ask: Ask, cancels: int, seed: int) -> Outcome:
    """Ask until so many were cancelled: after some steps of the loop, or some time; one in four is left alone."""
    chance = random.Random(seed)
    loop = asyncio.get_running_loop()
    own = foreign = failed = cancelled = turn = 0

    async def one(tag: str) -> None:
        nonlocal own, foreign, failed
        answer = await ask(tag)
        own += answer == tag
        failed += answer is None
        foreign += answer not in (tag, None)

    while cancelled < cancels and not foreign:
        turn += 1
        tasks = [asyncio.ensure_future(one(f"tag-{seed}-{turn}-{number}")) for number in range(AT_ONCE)]
        for task in tasks:
            if (fate := chance.random()) < 0.5:
                loop.call_later(chance.random() * 0.006, task.cancel)
            elif fate < 0.75:
                _cancel_after(task, chance.randint(0, 8))
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        cancelled += sum(isinstance(each, asyncio.CancelledError) for each in ended)
        broken = [each for each in ended if each is not None and not isinstance(each, asyncio.CancelledError)]
        assert not broken, broken[0]
    return Outcome(own, foreign, failed, cancelled)


def _cancel_after(task: asyncio.Task[None], steps: int) -> None:
    if steps:
        asyncio.get_running_loop().call_soon(_cancel_after, task, steps - 1)
    else:
        task.cancel()


@asynccontextmanager
async def http() -> AsyncIterator[Ask]:
    """A real server that answers with the body it got, a moment later: whole, in two pieces, or in chunks."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        chance = random.Random(1)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                body = await reader.readexactly(int(head.split(b"length: ")[1].split(b"\r\n")[0]))
                await asyncio.sleep(chance.random() * 0.002)
                if chance.random() < 0.3:
                    writer.write(
                        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(body), body)
                    )
                    await asyncio.sleep(chance.random() * 0.001)
                    writer.write(b"0\r\n\r\n")
                    continue
                answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nserver: s\r\n\r\n%b" % (len(body), body)
                cut = chance.randint(1, len(answer)) if chance.random() < 0.3 else len(answer)
                writer.write(answer[:cut])
                await asyncio.sleep(0)
                writer.write(answer[cut:])
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        pool = HttpPool(Origin(f"http://127.0.0.1:{port}", timeout_s=5), max_idle=20, max_connections=AT_ONCE)

        async def ask(tag: str) -> str | None:
            body = tag.encode()
            head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(body)
            try:
                connection = await pool.send(head, body, LONG)
                try:
                    return (await read_all(connection)).decode()
                finally:
                    connection.finish()
            except HttpFailure:
                return None

        yield ask
        assert pool.in_use == 0
        pool.close()


@asynccontextmanager
async def redis() -> AsyncIterator[Ask]:
    with redis_url() as (url, _):
        client = RedisClient(url, timeout_s=5.0, max_connections=8)

        async def ask(tag: str) -> str | None:
            try:
                return (await client.call("ECHO", tag)).decode()  # type: ignore[no-any-return]
            except RedisError:
                return None

        yield ask
        await client.aclose()


@asynccontextmanager
async def database() -> AsyncIterator[Ask]:
    with postgres_database() as url:
        target = Database(database_url("postgres", url), timeout_s=5.0)

        async def ask(tag: str) -> str | None:
            return await target.run(lambda c: str(c.execute(text("SELECT CAST(:tag AS TEXT)"), {"tag": tag}).scalar()))

        yield ask
        target.close()


POOLS = {"http": (http, 0.6), "redis": (redis, 0.3), "database": (database, 0.1)}


@pytest.mark.parametrize("name", POOLS)
async def test_nobody_gets_anothers_answer(name: str) -> None:
    pool, _ = POOLS[name]
    async with pool() as ask:
        outcome = await storm(ask, 500, 1)
    assert outcome.foreign == 0
    assert outcome.own > 50


@pytest.mark.proof
@pytest.mark.parametrize("name", POOLS)
async def test_nobody_gets_anothers_answer_in_a_hundred_thousand(name: str) -> None:
    pool, share = POOLS[name]
    cancels = round(CANCELS * share)
    async with pool() as ask:
        outcome = await storm(ask, cancels, 2)
    print(
        f"\ncancel storm over {name}: {outcome.cancelled:,} cancelled, {outcome.own:,} answered, 0 by another's answer"
    )
    assert outcome.foreign == 0
    assert outcome.cancelled >= cancels


async def test_a_pool_that_keeps_connections_of_cancelled_exchanges_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def keep(self: Connection) -> None:
        if self._busy:
            self._busy = False
            self._owner.ended(self, reusable=not self._lost)

    def take_anything(self: Connection, data: bytes) -> None:
        self.answered = True
        self._feed(data)
        self._wake()

    monkeypatch.setattr(Connection, "finish", keep)
    monkeypatch.setattr(Connection, "data_received", take_anything)
    async with http() as ask:
        outcome = await storm(ask, 5000, 1)
    assert outcome.foreign
