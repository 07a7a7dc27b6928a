"""One address attacks the doors; honest callers hardly notice, and memory stays bounded and comes back.

`PROOF_DOORS_S` says how long each attack lasts in `make proof` (30 s unless set), on a gateway of its own. `make test`
takes each for a moment, one after the other on the same gateway: what one leaves behind counts against the next.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from tests.support.attacks import ATTACKS, LARGEST, SLOW_MODEL, Seen, begin
from tests.support.client import Client
from tests.support.naive_server import naive
from tests.support.processes import Gateway, Process, running, simulated, until

SECONDS = float(os.environ.get("PROOF_DOORS_S", "30"))
SHORT_S = 1.5
BEGUN_S = 0.5
"""An attack has begun by then."""
LONGER_S = 0.25
"""So much longer may one in a hundred honest requests wait."""
GROWTH_BYTES = 2 * LARGEST + (64 << 20)
RETURNS_BYTES = LARGEST + (64 << 20)
"""What the allocator may keep of it."""
HELLO: dict[str, Any] = {
    "model": "sim-small", "messages": [{"role": "user", "content": "hi"}], "sim": {"tokens": 3, "tokens_per_s": 0},
}  # fmt: skip


def ask(gateway: Process, seen: list[float], *, fresh: bool) -> None:
    """An honest request on a connection of its own (a caller that comes), or on one that is kept."""
    begun_s = time.monotonic()
    with Client(gateway.url) as client:
        for _ in range(1 if fresh else 3):
            begun_s = time.monotonic()
            assert client.ask({**HELLO, "stream": not fresh}).status == 200
            seen.append(time.monotonic() - begun_s)


def watch(gateway: Process, seconds: float) -> Seen:
    """Honest requests for so long, and the most memory meanwhile."""
    waits_s: list[float] = []
    until_s, peak_bytes = time.monotonic() + seconds, 0
    while time.monotonic() < until_s:
        ask(gateway, waits_s, fresh=len(waits_s) % 2 == 0)
        peak_bytes = max(peak_bytes, gateway.resident_bytes)
        time.sleep(0.005)
    return Seen(waits_s, 0, peak_bytes)


def p99(waits_s: list[float]) -> float:
    return sorted(waits_s)[max(0, round(len(waits_s) * 0.99) - 1)]


def attacked(gateway: Process, name: str, seconds: float) -> Seen:
    attack = begin(name, gateway.port, seconds)
    try:
        time.sleep(BEGUN_S)
        seen = watch(gateway, seconds - BEGUN_S + 0.2)
        tried, _ = attack.communicate(timeout=seconds + 20)
    finally:
        attack.kill()
        attack.wait()
    return seen._replace(tried=int(tried))


@contextmanager
def gateway(folder: Path) -> Iterator[Gateway]:
    """A gateway; those who read slowly have a model server of their own, which is busy with them."""
    with simulated(folder / "sim") as sim, simulated(folder / "slow", "--models", SLOW_MODEL) as slow:
        backends = [{"url": sim.url, "models": ["sim-*"]}, {"url": slow.url, "models": ["slow-*"]}]
        with running(folder / "gateway", {"backends": backends, "health_check": {"enabled": False}}) as process:
            yield process


def at_peace(process: Process, seconds: float) -> Seen:
    """What honest callers wait before anything happens, and how much memory it has then."""
    watch(process, 0.3)
    return watch(process, seconds)._replace(peak_bytes=process.resident_bytes)


def check(process: Process, name: str, seconds: float, calm: Seen | None = None) -> None:
    """Attack it, and judge by what honest callers and its memory saw."""
    calm = calm or at_peace(process, min(seconds, 5.0))
    base_bytes = calm.peak_bytes
    seen = attacked(process, name, seconds)
    longest_ms, growth_bytes = max(seen.waits_s) * 1000, seen.peak_bytes - base_bytes
    print(
        f"{name}: tried {seen.tried}, p99 {p99(calm.waits_s) * 1000:.1f} -> {p99(seen.waits_s) * 1000:.1f} ms, "
        f"longest {longest_ms:.0f} ms of {len(seen.waits_s)}, memory +{growth_bytes >> 20} MiB"
    )
    assert seen.tried
    assert p99(seen.waits_s) < p99(calm.waits_s) + LONGER_S, "honest callers wait"
    assert growth_bytes < GROWTH_BYTES, "memory grows"
    if isinstance(process, Gateway):
        until(lambda: process.metrics()["zuebee_connections"] <= 1, "the attacker's connections are gone", 45)
        assert p99(watch(process, 0.3).waits_s) < p99(calm.waits_s) + LONGER_S
        until(lambda: process.resident_bytes - base_bytes < RETURNS_BYTES, "memory comes back")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Seen]]:
    with gateway(tmp_path_factory.mktemp("shared")) as process:
        yield process, at_peace(process, SHORT_S)


@pytest.mark.alone
@pytest.mark.parametrize("name", ATTACKS)
def test_honest_callers_hardly_notice_a_short_attack(shared: tuple[Gateway, Seen], name: str) -> None:
    process, calm = shared
    check(process, name, SHORT_S, calm)


@pytest.mark.proof
@pytest.mark.parametrize("name", ATTACKS)
def test_honest_callers_hardly_notice_an_attack(tmp_path: Path, name: str) -> None:
    with gateway(tmp_path) as process:
        check(process, name, SECONDS)


CONTROLS = [("idle", SHORT_S), *(pytest.param(name, 4.0, marks=pytest.mark.proof) for name in ("unread", "stalled"))]


@pytest.mark.alone
@pytest.mark.parametrize(("name", "seconds"), CONTROLS)
def test_a_server_without_guards_is_found(name: str, seconds: float) -> None:
    with naive() as process, pytest.raises((AssertionError, OSError, HTTPException)):
        check(process, name, seconds)
