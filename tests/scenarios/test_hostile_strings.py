"""Strings that callers choose are bounded before they reach the store and the log: requests cost what they cost, not
what they are called.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import ask
from tests.support.grpc_peers import calling, hello
from tests.support.processes import KEY, Sim, running, simulated, until
from zuebee.protos.llm_pb2 import LlmMetadata

COUNT = 30
BYTES_EACH = 3_000
"""In the file of the store, indexes and free pages included. Of 1,024 letters of four bytes it takes more, once."""

LINE_BYTES = 4_000
BIG = 1 << 20


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sim]:
    with simulated(tmp_path_factory.mktemp("sim")) as process:
        yield process


def config(sim: Sim) -> dict[str, Any]:
    return {
        "backends": [{"url": sim.url}],
        "health_check": {"enabled": False},
        "grpc": {"listen": "127.0.0.1:0"},
        "idempotency": {"enabled": True},
        "billing": {"unknown_price": "allow"},
        "api_keys": [{"key": KEY, "name": "test", "total_quota": 10_000_000, "organization_id": "acme"}],
        "usage": {"reporters": [{"type": "webhook", "name": "away", "url": "http://127.0.0.1:9/"}]},
        "server": {"max_body_size": "16M"},
    }


def hostile(number: int) -> list[tuple[dict[str, Any], list[tuple[str, str]]]]:
    """Bodies and header fields, each with something as long as it is let through, or longer."""
    base = {"model": "sim-small", "max_tokens": 1, "messages": [{"role": "user", "content": "Hi"}]}
    longest = f"{number:04}" + "\U0001f41d" * 1020
    return [
        ({**base, "model": longest}, []),
        ({**base, "model": f"{number:04}" + "\x01" * 1020}, []),
        ({**base, "model": f"{number}" + "m" * (4 * BIG)}, []),
        ({**base, "user": f"{number}" + "u" * BIG, "metadata": {"trace_id": "t" * BIG}, "seed": number}, []),
        (base, [("x-request-id", f"{number}" + "r" * 30_000), ("traceparent", "p" * 8_000)]),
        (base, [("idempotency-key", f"{number}" + "k" * 20_000)]),
        (base, [("idempotency-key", f"{number:04}" + "k" * 100), ("user-agent", "a" * 20_000)]),
    ]


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir() if file.name.startswith("usage.db"))


def test_what_callers_choose_does_not_fill_the_store(tmp_path: Path, sim: Sim) -> None:
    with running(tmp_path, config(sim)) as gateway:
        ask(gateway.url, {"model": "sim-small", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1})
        gateway.wait_for_rows(1)
    before, asked = size(tmp_path), 0
    with running(tmp_path, config(sim)) as gateway:
        for number in range(COUNT):
            for body, fields in hostile(number):
                ask(gateway.url, body, headers=fields)
                asked += 1
        with calling(gateway) as caller:
            for number in range(COUNT):
                meta = LlmMetadata(
                    request_id=f"{number}" + "r" * BIG, trace_id="t" * BIG, session_id="s" * BIG, user_id="u" * BIG
                )
                caller.ask(hello(max_tokens=1, meta=meta))
                caller.ask(hello(max_tokens=1, model=f"{number}" + "m" * BIG))
                caller.ask(hello(max_tokens=1), ("x-request-id", f"{number}" + "r" * 5_000))
                asked += 3
        rows = gateway.wait_for_rows(5 * COUNT)
        lines = [json.dumps(line) for line in until(gateway.access_lines, "lines of the log")]
        page = gateway.get("/metrics")[1].decode()
    assert max(map(len, lines)) < LINE_BYTES
    assert max(map(len, page.splitlines())) < LINE_BYTES
    assert max(len(str(value)) for row in rows for value in dict(row).values()) <= 1024
    assert size(tmp_path) - before < asked * BYTES_EACH
