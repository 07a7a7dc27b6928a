"""Ways to an answer that nobody pays for: leaving before its end, many prompts at once."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import HELLO, Client, ask
from tests.support.processes import KEY, Gateway, Sim, running, simulated
from tests.support.records import record_of
from zuebee.ledger.audit import reading, verify

QUOTA = 100_000_000
BIG_BYTES = 12 << 20
"""More than sockets and buffers hold, so that a client can leave in the middle of it."""


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sim]:
    with simulated(tmp_path_factory.mktemp("sim"), "--tokens-per-s", "0") as process:
        yield process


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, sim: Sim) -> Iterator[Gateway]:
    config = {
        "backends": [{"url": sim.url}],
        "health_check": {"enabled": False},
        "api_keys": [{"key": KEY, "name": "test", "total_quota": QUOTA}],
    }
    with running(tmp_path_factory.mktemp("gateway"), config) as process:
        yield process


def leave_after(gateway: Gateway, body: dict[str, Any], size_bytes: int) -> dict[str, Any]:
    """Read so much of an answer, and leave; the usage record of the request."""
    with Client(gateway.url) as client:
        opened = client.open(body)
        assert len(opened.read(size_bytes)) == size_bytes
        opened.close()
    row = record_of(gateway, dict(opened.headers)["x-request-id"])
    assert (row["status"], row["termination_reason"]) == (200, "client_gone")
    return row


def used(gateway: Gateway) -> int:
    with reading(str(gateway.usage_path)) as connection:
        assert list(verify(connection)) == []
    with reading(str(gateway.usage_path)) as connection:
        return int(connection.exec_driver_sql("SELECT coalesce(sum(used), 0) FROM ledger_balances").scalar_one())


@pytest.mark.requirement("A097", "A296")
def test_who_leaves_in_a_long_answer_pays_for_what_came(gateway: Gateway) -> None:
    before = used(gateway)
    row = leave_after(gateway, {**HELLO, "sim": {"fault": "big_event", "size_bytes": BIG_BYTES}}, 2 << 20)
    assert row["usage_source"] == "partial"
    assert (2 << 20) / 4 <= row["completion_tokens"] <= BIG_BYTES / 4
    assert used(gateway) - before == row["total_tokens"]


@pytest.mark.requirement("A095")
def test_each_of_many_prompts_needs_room_in_the_budget(tmp_path: Path, sim: Sim) -> None:
    config = {
        "backends": [{"url": sim.url}],
        "health_check": {"enabled": False},
        "api_keys": [{"key": KEY, "name": "test", "total_quota": 1_500}],
    }
    body = {"model": "sim-small", "max_tokens": 100, "ignore_eos": True}
    with running(tmp_path, config) as gateway:
        before = sim.stats()["requests_started"]
        answer = ask(gateway.url, {**body, "prompt": ["a"] * 20}, "/v1/completions")
        assert (answer.status, answer.code) == (429, "quota_exceeded")
        assert sim.stats()["requests_started"] == before
        answer = ask(gateway.url, {**body, "prompt": ["a"] * 10}, "/v1/completions")
        assert answer.status == 200
        assert record_of(gateway, answer.header("x-request-id"))["completion_tokens"] == 1_000
