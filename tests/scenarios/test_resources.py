"""After requests of every ending nothing is left: no descriptor, no task, no place in a limit, no memory."""

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.processes import running, simulated
from tests.support.raw_http import chat, eventually, head, request, wire

REQUESTS = 300
AT_ONCE = 20
GROWTH_BYTES = 25 << 20

BODIES: dict[str, dict[str, Any]] = {
    "stream": chat(10),
    "answer": chat(10, stream=False),
    "slow": chat(10, tokens_per_s=200),
    "500": chat(fault="500"),
    "429": chat(fault="429", retry_after_s=0),
    "reset": chat(10, fault="reset", after_events=3),
    "reset first": chat(10, fault="reset"),
    "truncate": chat(10, fault="truncate", after_events=3),
    "truncated answer": chat(10, stream=False, fault="truncate"),
    "malformed": chat(10, fault="malformed", after_events=2),
    "error": chat(10, fault="error_mid", after_events=2),
    "no end": chat(10, fault="no_done"),
    "until close": chat(10, fault="close_delimited"),
    "garbage behind": chat(10, fault="garbage_after"),
    "hang": chat(10, fault="hang", after_events=2),
    "hang first": chat(10, fault="hang"),
    "big": chat(10, fault="big_event", size_bytes=900_000, after_events=1),
    "gzip": chat(10, stream=False, fault="gzip"),
    "page": chat(10, fault="html"),
    "redirect": chat(10, fault="redirect"),
    "unknown model": {**chat(), "model": "nobody"},
}


async def one(port: int, choose: random.Random) -> None:
    """One request, read to its end or not."""
    name = choose.choice([*BODIES, "no JSON", "half a body"])
    data = request(BODIES[name]) if name in BODIES else request(b"hello") if name == "no JSON" else BROKEN
    leaves_after_s = choose.uniform(0, 0.2) if choose.random() < 0.3 else 10.0
    async with wire(port) as client:
        client.send(data)
        try:
            async with asyncio.timeout(leaves_after_s):
                await client.read_head()
                async for _ in client.parts():
                    pass
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError):
            client.vanish(reset=choose.random() < 0.5)


BROKEN = head(content_length="1000") + b"{"


@pytest.mark.requirement("A365")
async def test_three_hundred_endings_leave_nothing_behind(tmp_path: Path) -> None:
    with simulated(tmp_path / "sim") as sim:
        backend = {"url": sim.url, "idle_timeout": "300ms", "first_byte_timeout": "300ms", "timeout": "3s"}
        config = {
            "backends": [backend],
            "health_check": {"enabled": False},
            "routing": {"retry": {"max_retries": 1, "initial_wait": "10ms", "retry_on": ["5xx"]}},
            "server": {"body_timeout": "500ms"},
            "rate_limit": {"per_key": {"max_concurrent": 3 * AT_ONCE}},
        }
        with running(tmp_path / "gateway", config) as gateway:
            process = psutil.Process(gateway.popen.pid)
            base_fds, base_threads, base_bytes = process.num_fds(), process.num_threads(), gateway.resident_bytes
            base_upstream = sim.stats()["connections_open"]
            choose = random.Random(7)
            places = asyncio.Semaphore(AT_ONCE)

            async def in_turn() -> None:
                async with places:
                    await one(gateway.port, choose)

            await asyncio.gather(*(in_turn() for _ in range(REQUESTS)))
            await eventually(lambda: gateway.metrics()["zuebee_connections"] == 1, "all clients are gone")

            def is_clean() -> bool:
                kept = sim.stats()["connections_open"] - base_upstream
                return kept <= AT_ONCE and process.num_fds() == base_fds + kept

            await eventually(is_clean, "only idle connections to the backend are kept")
            metrics = gateway.metrics()
            endings = {line["termination_reason"] for line in gateway.access_lines()}
            assert metrics["zuebee_requests_running"] == 0
            assert gateway.total("zuebee_backend_in_flight") == 0
            assert gateway.total("zuebee_records_dropped_total") == 0
            assert endings >= {"complete", "client_gone", "upstream_broken", "timeout", "refused"}
            assert process.num_threads() <= base_threads + 4, "the loop's own helpers at most"
            assert gateway.resident_bytes - base_bytes < GROWTH_BYTES
            assert sim.stats()["streams_open"] == 0
            async with wire(gateway.port) as client:
                assert json.loads((await client.ask(request(BODIES["answer"]))).body)["choices"]
        assert "Traceback" not in gateway.output
