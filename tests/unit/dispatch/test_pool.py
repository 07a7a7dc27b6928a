import asyncio
from typing import Any

import pytest

from tests.support.fakes import FakeInference, until
from zuebee.config.settings import BackendSettings, HealthCheckSettings
from zuebee.dispatch.balancer import Backend
from zuebee.dispatch.pool import BackendPool, Reachable, gather_answers
from zuebee.lib.units import Timeout

OFF = HealthCheckSettings(enabled=False)
PATHS = {"openai": "/health", "vllm": "/health", "tgi": "/health", "ollama": "/api/version"}


class Server(FakeInference):
    """A backend whose answer to probes can be changed."""

    def __init__(self, settings: BackendSettings) -> None:
        super().__init__([])
        self.settings = settings
        self.status: int | Exception = 200
        self.asked: list[tuple[str, str]] = []
        self.open = True

    async def get(self, path: str, method: str, timeout_s: float) -> tuple[int, bytes]:
        self.asked.append((method, path))
        if isinstance(self.status, Exception):
            raise self.status
        if self.status == 0:
            await asyncio.sleep(60)
        return self.status, b"{}"

    def close(self) -> None:
        self.open = False


class Servers:
    """Makes them, and keeps them in order."""

    def __init__(self) -> None:
        self.made: list[Server] = []

    def __call__(self, settings: BackendSettings) -> tuple[str, Reachable]:
        self.made.append(Server(settings))
        return settings.name or settings.url, self.made[-1]


def checks(**changes: Any) -> HealthCheckSettings:
    fields = {"interval_s": Timeout(0.005), "timeout_s": Timeout(0.2), "unhealthy_threshold": 2, "healthy_threshold": 2}
    return HealthCheckSettings(**{**fields, **changes})


def up(backend: Backend) -> bool:
    return not backend.health.probed_down


def backends(*urls: str, **fields: Any) -> list[BackendSettings]:
    return [BackendSettings(url=url, **fields) for url in urls]


@pytest.mark.requirement("A144", "A265")
async def test_probes_take_a_backend_out_and_bring_it_back() -> None:
    servers = Servers()
    pool = BackendPool(servers, PATHS)
    (a, b) = pool.change(pool.plan(backends("http://a", "http://b"), checks()))
    await until(lambda: len(servers.made[0].asked) > 2)
    assert up(a)
    servers.made[0].status = 500
    await until(lambda: not up(a))
    assert up(b)
    servers.made[0].status = 200
    await until(lambda: up(a))
    await pool.aclose()
    assert not any(server.open for server in servers.made)


@pytest.mark.parametrize("bad", [503, OSError("refused"), 0], ids=["status", "error", "silence"])
async def test_what_makes_a_probe_fail(bad: int | Exception) -> None:
    servers = Servers()
    pool = BackendPool(servers, PATHS)
    (a,) = pool.change(pool.plan(backends("http://a"), checks(timeout_s=Timeout(0.02))))
    servers.made[0].status = bad
    await until(lambda: not up(a))
    await pool.aclose()


@pytest.mark.requirement("A266")
@pytest.mark.parametrize(
    ("fields", "changes", "probe"),
    [
        ({"type": "vllm"}, {}, ("GET", "/health")),
        ({"type": "ollama"}, {}, ("GET", "/api/version")),
        ({"type": "vllm"}, {"path": "/ok"}, ("GET", "/ok")),
        ({"type": "vllm", "health_path": "/mine"}, {"path": "/ok", "method": "HEAD"}, ("HEAD", "/mine")),
    ],
)
async def test_what_is_probed(fields: dict[str, Any], changes: dict[str, Any], probe: tuple[str, str]) -> None:
    servers = Servers()
    pool = BackendPool(servers, PATHS)
    pool.change(pool.plan(backends("http://a", **fields), checks(**changes)))
    await until(lambda: bool(servers.made[0].asked))
    await pool.aclose()
    assert servers.made[0].asked[0] == probe


@pytest.mark.parametrize(
    ("kind", "status", "changes", "passes"),
    [
        ("openai", 404, {}, True),
        ("openai", 500, {}, False),
        ("openai", 404, {"path": "/health"}, False),
        ("vllm", 404, {}, False),
        ("vllm", 204, {}, True),
        ("vllm", 204, {"expected_status": 200}, False),
        ("vllm", 418, {"expected_status": 418}, True),
    ],
)
async def test_which_status_passes(kind: Any, status: int, changes: dict[str, Any], passes: bool) -> None:
    servers = Servers()
    pool = BackendPool(lambda settings: named_after(servers(settings), status), PATHS)
    (a,) = pool.change(pool.plan(backends("http://a", type=kind), checks(**changes)))
    await until(lambda: len(servers.made[0].asked) > 1)
    await pool.aclose()
    assert up(a) is passes


def named_after(made: tuple[str, Reachable], status: int) -> tuple[str, Reachable]:
    assert isinstance(made[1], Server)
    made[1].status = status
    return made


async def test_a_reload_keeps_what_did_not_change() -> None:
    servers = Servers()
    pool = BackendPool(servers, PATHS)
    a, b, _ = pool.change(pool.plan(backends("http://a", "http://b", "http://c"), OFF))
    b.health.probed_down = True
    changed = [
        BackendSettings(url="http://a"),
        BackendSettings(url="http://b", weight=5),
        BackendSettings(url="http://d"),
    ]
    again = pool.change(pool.plan(changed, OFF))
    assert again[0] is a
    assert again[1] is not b
    assert again[1].weight == 5
    assert not up(again[1])  # what its probes said of the server still holds
    assert [server.open for server in servers.made] == [True, False, False, True, True]
    assert [member.backend for member in pool.members] == again
    await pool.aclose()


async def test_a_plan_changes_nothing_and_is_dropped_without_a_trace() -> None:
    servers = Servers()
    pool = BackendPool(servers, PATHS)
    (a,) = pool.change(pool.plan(backends("http://a", max_in_flight=1), OFF))
    plan = pool.plan(backends("http://a", "http://b", max_in_flight=9), checks(unhealthy_threshold=9))
    pool.drop(plan)
    assert [member.backend for member in pool.members] == [a]
    assert (a.load.limit, a.health.unhealthy_threshold) == (1, OFF.unhealthy_threshold)
    assert [server.open for server in servers.made] == [True, False]
    await pool.aclose()


async def test_a_reload_changes_the_thresholds_of_kept_backends() -> None:
    pool = BackendPool(Servers(), PATHS)
    (a,) = pool.change(pool.plan(backends("http://a"), checks(enabled=False, unhealthy_threshold=2)))
    pool.change(pool.plan(backends("http://a"), checks(enabled=False, unhealthy_threshold=4)))
    a.health.probe_passed()
    assert [a.health.probe_failed(1.0) for _ in range(4)] == [False, False, False, True]


async def test_one_failed_probe_after_a_reload_takes_nobody_out() -> None:
    servers = Servers()
    pool = BackendPool(servers, PATHS)
    (a,) = pool.change(pool.plan(backends("http://a"), checks()))
    await until(lambda: len(servers.made[0].asked) > 1)
    servers.made[0].status = 500
    asked = len(servers.made[0].asked)
    pool.change(pool.plan(backends("http://a"), checks(interval_s=Timeout(60), unhealthy_threshold=9)))
    await until(lambda: len(servers.made[0].asked) > asked)
    assert up(a)
    await pool.aclose()


async def test_answers_are_gathered_from_those_that_give_one() -> None:
    servers = Servers()
    pool = BackendPool(servers, PATHS)
    pool.change(pool.plan(backends("http://a", "http://b", "http://c"), OFF))
    servers.made[0].status = OSError("gone")
    servers.made[1].status = 0
    answers = await gather_answers(pool.members, "/v1/models", 0.05)
    assert [(member.backend.name, status) for member, status, _ in answers] == [("http://c", 200)]


@pytest.mark.requirement("A103")
async def test_a_bound_changes_without_making_the_backend_anew() -> None:
    servers = Servers()
    pool = BackendPool(servers, PATHS)
    (before,) = pool.change(pool.plan(backends("http://a", max_in_flight=1), OFF))
    assert before.load.limit == 1
    (after,) = pool.change(pool.plan(backends("http://a", max_in_flight=4), OFF))
    assert after is before
    assert after.load.limit == 4
    assert pool.members[0].settings.max_in_flight == 4
    assert len(servers.made) == 1


async def test_what_a_backend_still_answers_counts_when_it_is_made_anew() -> None:
    pool = BackendPool(Servers(), PATHS)
    (before,) = pool.change(pool.plan(backends("http://a", max_in_flight=1), OFF))
    before.load.in_flight = 1
    (after,) = pool.change(pool.plan(backends("http://a", weight=7), OFF))
    assert after is not before
    assert (after.in_flight, after.load.limit) == (1, None)
    (other,) = pool.change(pool.plan(backends("http://b"), OFF))
    assert other.in_flight == 0
