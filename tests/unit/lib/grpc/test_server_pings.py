"""How often a client may say that it lives, seen from the wire: gRPC takes options that it does not know in silence."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.support.source import ROOT
from zuebee.lib.grpc import server
from zuebee.lib.grpc.server import Call, GrpcLimits, GrpcServer, Method

LIMITS = GrpcLimits(1 << 20, 8192, 100, 5.0, 0.5)
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"
ACK = b"\0\0\0\x04\x01\0\0\0\0"
PING = b"\0\0\x08\x06\0\0\0\0\0" + b"12345678"
PING_TYPE, GOAWAY_TYPE = 6, 7
TOO_OFTEN = (11, b"too_many_pings")  # ENHANCE_YOUR_CALM (RFC 9113, section 7)


@asynccontextmanager
async def serving(ping_interval_ms: int = server.PING_INTERVAL_MS) -> AsyncIterator[int]:
    async def handler(call: Call) -> None: ...

    services = {"t.Test": {"Whole": Method(handler, streams=False)}}
    server = GrpcServer(services, limits=LIMITS, ready=lambda: True, ping_interval_ms=ping_interval_ms)
    try:
        yield await server.start("127.0.0.1", 0)
    finally:
        await server.close()


async def pinged(port: int, pings: int, every_s: float) -> tuple[int, tuple[int, bytes] | None]:
    """How many pings of an idle connection were answered, and how it was sent away, if it was."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answered, sent_away = 0, None

    async def read() -> None:
        nonlocal answered, sent_away
        while True:
            head = await reader.readexactly(9)
            body = await reader.readexactly(int.from_bytes(head[:3]))
            if head[3] == PING_TYPE and head[4] & 1:
                answered += 1
            elif head[3] == GOAWAY_TYPE:
                sent_away = struct.unpack(">I", body[4:8])[0], body[8:]
                return

    writer.write(PREFACE + ACK)
    reading = asyncio.create_task(read())
    for _ in range(pings):
        await asyncio.sleep(every_s)
        if reading.done():
            break
        writer.write(PING)
    await asyncio.wait([reading], timeout=1.0)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    writer.close()
    return answered, sent_away


async def test_who_pings_too_often_is_sent_away() -> None:
    async with serving() as port:
        _, sent_away = await pinged(port, 10, 0.05)
    assert sent_away == TOO_OFTEN


@pytest.mark.slow
async def test_who_keeps_to_the_interval_stays() -> None:
    """With a shorter one, for the sake of time; half of it is too often still, so it is this option that counts."""
    async with serving(100) as port:
        patient, hasty = await asyncio.gather(pinged(port, 6, 0.25), pinged(port, 12, 0.02))
    assert patient == (6, None)
    assert hasty[1] == TOO_OFTEN


def test_the_interval_is_the_one_that_the_page_names() -> None:
    assert server.PING_INTERVAL_MS == 10_000
    assert "may ping every ten seconds" in (ROOT / "docs" / "grpc.md").read_text()
