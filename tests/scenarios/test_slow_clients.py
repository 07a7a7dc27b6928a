"""Clients that send or read too slowly: they lose their connection at the deadline, and nobody else notices."""

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import Gateway, Sim, running, simulated, until
from tests.support.promises import at_least, within
from tests.support.raw_http import Wire, ask, chat, eventually, head, request, wire

DEADLINE_S = 1.0
LATE_S = 3.0
"""What a loaded machine may add to a deadline before a test fails."""

BEGINNINGS = {
    "nothing": b"",
    "headers": b"POST /v1/chat/completions HTTP/1.1\r\nHost: gateway\r\nX-Long: ",
    "body": head(content_length="100000") + b'{"model":"',
    "chunked body": head(transfer_encoding="chunked") + b"ffff\r\n",
}
EACH = 15

LONG_NAME = "m" * 1000
"""Each event names its model: with such a name few events fill the buffers of the kernel."""
STALLED = 30
STALLED_TOKENS = 20_000
BYTES_PER_STALLED_CLIENT = 3 << 20
"""Two socket reads on their way, in both directions. A whole answer is ten times that."""


@contextmanager
def gateway(folder: Path, sim: Sim, **server: Any) -> Iterator[Gateway]:
    config = {"backends": [{"url": sim.url}], "server": server, "health_check": {"enabled": False}}
    with running(folder / "gateway", config) as process:
        yield process


async def drip(connection: Wire, beginning: bytes) -> bytes:
    """Send a beginning and then a byte now and then until the server closes, in time; what it said."""
    with at_least(DEADLINE_S * 0.9, "cutting an attacker"), within(DEADLINE_S + LATE_S, "cutting an attacker"):
        connection.send(beginning)
        answer = asyncio.ensure_future(connection.closed())
        while not answer.done():
            if beginning:
                connection.send(b"a")
            await asyncio.wait([answer], timeout=0.1)
    return answer.result()


async def attack(port: int, beginning: bytes) -> bytes:
    async with wire(port) as connection:
        return await drip(connection, beginning)


async def test_drip_feeders_are_cut_while_honest_requests_succeed(tmp_path: Path) -> None:
    limits = {"header_timeout": f"{DEADLINE_S}s", "body_timeout": f"{DEADLINE_S}s"}
    with simulated(tmp_path / "sim") as sim, gateway(tmp_path, sim, **limits) as process:
        port = process.port
        attacks = [
            asyncio.ensure_future(attack(port, beginning)) for beginning in BEGINNINGS.values() for _ in range(EACH)
        ]
        await eventually(lambda: process.metrics()["zuebee_connections"] > len(attacks), "all attackers are connected")
        honest = [await ask(port, request(chat()))]
        while not all(task.done() for task in attacks):
            honest.append(await ask(port, request(chat())))
        endings = [task.result() for task in attacks]
        stats = sim.stats()
    assert {answer.status for answer in honest} == {200}
    assert all(answer.body.endswith(b"data: [DONE]\n\n") for answer in honest)
    assert stats["requests_started"] == len(honest), "no half request may reach a backend"
    assert {said[:12] for said in endings[:EACH]} == {b""}, "who said nothing is told nothing"
    told = [said for said in endings[EACH:] if said]  # who goes on sending may see a reset instead
    assert len(told) > EACH
    # Bodies of unknown length wait for room for all that they may become, and some wait in vain.
    assert {said[:12] for said in told} <= {b"HTTP/1.1 408", b"HTTP/1.1 503"}
    assert all(b'"code":"request_timeout"' in said or b'"code":"too_many_uploads"' in said for said in told)


async def test_a_slow_but_steady_upload_outlasts_the_deadline(tmp_path: Path) -> None:
    body = b" " * 12_000 + b'{"model":"sim-small","max_tokens":2,"messages":[{"role":"user","content":"hi"}]}'
    limits = {"body_timeout": "500ms", "body_min_bytes_per_s": 1000}  # a tenth of what it sends
    with simulated(tmp_path / "sim", "--tokens-per-s", "0") as sim, gateway(tmp_path, sim, **limits) as process:
        async with wire(process.port) as connection:
            connection.send(head(content_length=str(len(body))))
            with at_least(2 * 0.5, "the upload"):
                for at in range(0, len(body), 1000):
                    connection.send(body[at : at + 1000])
                    await asyncio.sleep(0.1)
            assert await connection.read_head() == 200


def stall(port: int) -> socket.socket:
    """Ask for a long stream and never read it."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
    client.connect(("127.0.0.1", port))
    client.sendall(request({**chat(STALLED_TOKENS), "model": LONG_NAME}))
    return client


def is_quiet(sim: Sim) -> bool:
    """Whether the simulated server sent nothing for a moment."""
    before = sim.stats()["events_sent"]
    time.sleep(0.3)
    return bool(sim.stats()["events_sent"] == before)


@pytest.fixture(scope="module")
def wordy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sim]:
    """A model server with a long name."""
    with simulated(tmp_path_factory.mktemp("wordy"), "--models", LONG_NAME) as process:
        yield process


@contextmanager
def readers_that_stop(process: Gateway, sim: Sim) -> Iterator[None]:
    """So many who ask and read nothing; once they are gone, each is on record once."""
    until(lambda: sim.stats()["streams_open"] == 0, "nobody else is served")
    sim.control("POST", "/_sim/reset")
    with ExitStack() as stack:
        for _ in range(STALLED):
            stack.enter_context(stall(process.port))
        yield
    rows = process.wait_for_rows(STALLED)
    until(lambda: process.metrics()["zuebee_requests_running"] == 0, "nothing runs")
    assert {row["termination_reason"] for row in rows} == {"client_gone"}
    assert len({row["request_id"] for row in rows}) == STALLED


def test_readers_that_stop_hold_the_backend_back(tmp_path: Path, wordy: Sim) -> None:
    with gateway(tmp_path, wordy, write_timeout="60s") as process:
        base_bytes = process.resident_bytes
        with readers_that_stop(process, wordy):
            until(lambda: wordy.stats()["streams_open"] == STALLED, "all streams have begun")
            until(lambda: is_quiet(wordy), "the simulated server is held back")
            stats = wordy.stats()
            assert stats["streams_open"] == STALLED, "they were held back, not cut"
            assert stats["events_sent"] < STALLED * STALLED_TOKENS / 2
            assert process.resident_bytes - base_bytes < STALLED * BYTES_PER_STALLED_CLIENT


def test_readers_that_stop_are_cut(tmp_path: Path, wordy: Sim) -> None:
    with (
        gateway(tmp_path, wordy, write_timeout="1s") as process,
        readers_that_stop(process, wordy),
        at_least(1.0, "cutting them"),
    ):
        until(lambda: wordy.stats()["streams_aborted"] == STALLED, "the write timeout cuts them", 20)
