"""The end of the process: nobody is cut without a word, all is settled, and it takes no longer than allowed."""

import asyncio
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.processes import Gateway, Sim, running, simulated, until
from tests.support.promises import within
from tests.support.raw_http import DONE, Wire, chat, eventually, head, request, wire

SHORT, LONG = 150, 50
LATE_S = 4.0
"""What a loaded machine may need on top of the times that are set."""


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sim]:
    with simulated(tmp_path_factory.mktemp("sim")) as process:
        yield process


@contextmanager
def gateway(folder: Path, sim: Sim, grace: str, drain: str) -> Iterator[Gateway]:
    backends = [{"url": sim.url, "type": "vllm"}]
    with running(folder / "gateway", {"backends": backends, "shutdown": {"grace": grace, "drain": drain}}) as process:
        until(lambda: process.get("/health/readiness")[0] == 200, "it is ready")
        yield process


async def open_streams(stack: AsyncExitStack, port: int, count: int, tokens: int, tokens_per_s: float) -> list[Wire]:
    """Streams that have begun."""
    wires = [await stack.enter_async_context(wire(port)) for _ in range(count)]
    for each in wires:
        each.send(request(chat(tokens, tokens_per_s=tokens_per_s)))
    assert [await each.read_head() for each in wires] == [200] * count
    return wires


async def read_rest(stream: Wire) -> bytes:
    return b"".join([part async for part in stream.parts()])


def told_why(stream: bytes) -> bool:
    """Whether a stream was ended by an error event instead of an end that it did not earn."""
    last = stream.rstrip(b"\n").rpartition(b"\n\n")[2]
    return last.startswith(b'data: {"error":') and b'"code":"shutting_down"' in last and DONE not in stream


def refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.alone
@pytest.mark.requirement("A325")
async def test_two_hundred_streams_finish_or_are_told_why_not(tmp_path: Path, sim: Sim) -> None:
    grace_s, drain_s = 1.0, 2.0
    async with AsyncExitStack() as stack:
        process = stack.enter_context(gateway(tmp_path, sim, f"{grace_s}s", f"{drain_s}s"))
        short = await open_streams(stack, process.port, SHORT, tokens=40, tokens_per_s=20)
        long = await open_streams(stack, process.port, LONG, tokens=5000, tokens_per_s=10)
        kept = await stack.enter_async_context(wire(process.port))
        assert (await kept.ask(head("/health", "GET"))).headers.get("connection") != "close"

        process.send_signal(signal.SIGTERM)
        told_s = time.monotonic()
        await eventually(lambda: process.get("/health/readiness")[0] == 503, "readiness fails at once", 1.0)
        assert process.get("/health/liveliness")[0] == 200
        for client in (kept, await stack.enter_async_context(wire(process.port))):
            late = await client.ask(request(chat()))
            assert (late.status, late.headers["connection"]) == (200, "close")
            assert await client.closed() == b""
        assert time.monotonic() - told_s < grace_s, "too late for what follows to mean anything"
        await eventually(lambda: refuses(process.port), "new connections are refused")
        assert time.monotonic() - told_s >= grace_s * 0.9

        assert all(text.endswith(DONE) for text in await asyncio.gather(*map(read_rest, short)))
        assert all(told_why(text) for text in await asyncio.gather(*map(read_rest, long)))
        assert await asyncio.to_thread(process.wait) == 0
        assert time.monotonic() - told_s < grace_s + drain_s + LATE_S
        endings = Counter(
            (row["termination_reason"], row["usage_source"], row["status"]) for row in process.usage_rows()
        )
        assert endings == {("complete", "provider", 200): SHORT + 2, ("shutdown", "partial", 200): LONG}
        assert all(row["completion_tokens"] > 0 for row in process.usage_rows())
        assert len(process.access_lines()) == SHORT + LONG + 2
        assert "Traceback" not in process.output
    await eventually(lambda: sim.stats()["streams_open"] == 0, "the model has stopped")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_hastens(tmp_path: Path, sim: Sim, number: signal.Signals) -> None:
    async with AsyncExitStack() as stack:
        process = stack.enter_context(gateway(tmp_path, sim, "60s", "60s"))
        [stream] = await open_streams(stack, process.port, 1, tokens=5000, tokens_per_s=20)
        waiting = await stack.enter_async_context(wire(process.port))
        waiting.send(request(chat(stream=False, first_token_delay_s=60)))
        uploading = await stack.enter_async_context(wire(process.port))
        uploading.send(head(content_length="100"))
        await eventually(lambda: process.metrics()["zuebee_requests_running"] == 3, "all requests run")
        process.send_signal(number)
        await eventually(lambda: "stopping" in process.output, "the first signal is heard")
        with within(LATE_S, "the end"):
            process.send_signal(number)
            assert told_why(await read_rest(stream))
            for client in (waiting, uploading):
                answer = await client.ask(b"")
                assert (answer.status, answer.error["code"]) == (503, "shutting_down")
                assert answer.headers["x-should-retry"] == "true"
            assert await asyncio.to_thread(process.wait) == 0
        rows = process.usage_rows()
    assert sorted((row["termination_reason"], row["usage_source"]) for row in rows) == [
        ("shutdown", "estimate"),
        ("shutdown", "partial"),
    ]


def is_held_back(sim: Sim) -> bool:
    """Whether a stream is open, and nothing comes of it."""
    before = sim.stats()
    time.sleep(0.3)
    after = sim.stats()
    return bool(after["streams_open"] == 1 and after["events_sent"] == before["events_sent"])


async def test_a_reader_that_has_stopped_does_not_hold_up_the_end(tmp_path: Path, sim: Sim) -> None:
    async with AsyncExitStack() as stack:
        process = stack.enter_context(gateway(tmp_path, sim, "0s", "500ms"))
        stalled = stack.enter_context(socket.socket())
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        stalled.connect(("127.0.0.1", process.port))
        stalled.sendall(request(chat(100_000)))
        await eventually(lambda: is_held_back(sim), "the model is held back")
        with within(0.5 + LATE_S, "the end"):
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait) == 0
        assert [row["termination_reason"] for row in process.usage_rows()] == ["shutdown"]
