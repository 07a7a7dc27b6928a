"""kill -9 in the middle of work: nothing that was on record is lost, nothing is there twice, and it starts again."""

import asyncio
import sqlite3
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import Gateway, running, simulated
from tests.support.raw_http import chat, eventually, request, wire

pytestmark = pytest.mark.alone

CLIENTS = 8
KILLS = 2
RECORDED_WITHIN_S = 1.0
"""A record is on the disk this long after the answer, however the process ends."""


class Load:
    """Clients that keep asking, and remember when they had each whole answer."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.answered_at_s: dict[str, float] = {}

    async def client(self) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            async with wire(self.port) as connection:
                while True:
                    answer = await connection.ask(request(chat(3)))
                    assert answer.status == 200
                    self.answered_at_s[answer.headers["x-request-id"]] = time.monotonic()


def config(sim_url: str, port: int) -> dict[str, Any]:
    return {"listen": f"127.0.0.1:{port}", "backends": [{"url": sim_url}], "health_check": {"enabled": False}}


async def run_until_killed(process: Gateway) -> set[str]:
    """Load a gateway and kill it; the requests that must be on record."""
    load = Load(process.port)
    clients = [asyncio.ensure_future(load.client()) for _ in range(CLIENTS)]
    await asyncio.sleep(RECORDED_WITHIN_S * 1.3)
    await eventually(lambda: len(load.answered_at_s) > 100, "there is load")
    killed_s = time.monotonic()
    process.popen.kill()
    process.wait()
    await asyncio.gather(*clients)
    return {name for name, at_s in load.answered_at_s.items() if at_s < killed_s - RECORDED_WITHIN_S}


async def test_what_was_answered_is_on_record_after_kills(tmp_path: Path) -> None:
    expected: set[str] = set()
    port = 0
    with simulated(tmp_path / "sim") as sim:
        for _ in range(KILLS):
            with running(tmp_path / "gateway", config(sim.url, port)) as process:
                port = process.port
                expected |= await run_until_killed(process)
        with running(tmp_path / "gateway", config(sim.url, port)) as process:
            assert process.port == port, "the port is free again at once"
            rows = process.usage_rows()
            lines = process.access_lines()
    ids = [row["request_id"] for row in rows]
    assert len(ids) == len(set(ids))
    assert len(expected) > 100 * KILLS / 2
    assert expected <= set(ids)
    assert expected <= {line["request_id"] for line in lines}
    assert all(row["total_tokens"] == row["prompt_tokens"] + row["completion_tokens"] for row in rows)
    check = sqlite3.connect(tmp_path / "gateway" / "usage.db")
    assert check.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    check.close()
