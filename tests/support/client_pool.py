"""A pool on a scripted server, and exchanges on it."""

from typing import NamedTuple

from tests.support.scripted_server import Server
from zuebee.http.connect import Origin
from zuebee.http.pool import Connection, HttpFailure, HttpPool, Timeouts

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nhost: a\r\n\r\n"
LONG = Timeouts(5, 5, 8)


class Answer(NamedTuple):
    """What an exchange gave."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


def make_pool(
    server: Server, *, max_idle: int = 4, max_connections: int = 4, timeout_s: float = 5, **bounds: float
) -> HttpPool:
    origin = Origin(f"http://127.0.0.1:{server.port}", timeout_s=timeout_s)
    return HttpPool(origin, max_idle=max_idle, max_connections=max_connections, **bounds)


async def send(
    pool: HttpPool, head: bytes = GET, body: bytes = b"", timeouts: Timeouts = LONG, *, is_head: bool = False
) -> Connection:
    return await pool.send(head, body, timeouts, is_head=is_head)


async def read_all(connection: Connection) -> bytes:
    parts = []
    while data := await connection.read():
        parts.append(data)
    return b"".join(parts)


async def exchange(
    pool: HttpPool, head: bytes = GET, body: bytes = b"", timeouts: Timeouts = LONG, *, is_head: bool = False
) -> Answer | HttpFailure:
    """One exchange from begin to end; its answer, or how it failed."""
    try:
        connection = await send(pool, head, body, timeouts, is_head=is_head)
    except HttpFailure as failure:
        return failure
    try:
        return Answer(connection.status, connection.headers, await read_all(connection))
    except HttpFailure as failure:
        return failure
    finally:
        connection.finish()


async def failure_of(pool: HttpPool, head: bytes = GET, timeouts: Timeouts = LONG) -> HttpFailure:
    """How an exchange failed that must fail."""
    outcome = await exchange(pool, head, timeouts=timeouts)
    assert isinstance(outcome, HttpFailure), outcome
    return outcome


async def answer_of(pool: HttpPool, head: bytes = GET, *, is_head: bool = False) -> Answer:
    """The answer of an exchange that must succeed."""
    outcome = await exchange(pool, head, is_head=is_head)
    assert isinstance(outcome, Answer), outcome
    return outcome
