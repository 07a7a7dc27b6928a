"""Real gateways that share limits in Redis, and what their callers see."""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import HELLO, Answer, Client, ask
from tests.support.processes import KEY, Gateway, Sim, running, simulated, until
from tests.support.promises import stopwatch
from tests.support.redis_server import RedisServer, new_prefix, redis_server

QUICK = {**HELLO, "max_tokens": 20}
HELD = {**QUICK, "stream": True, "sim": {"fault": "hang", "after_events": 1}}
AT_ONCE = 7


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sim]:
    with simulated(tmp_path_factory.mktemp("sim"), "--tokens-per-s", "0") as process:
        yield process


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as process:
        yield process


def config(
    sim: Sim, server: RedisServer | None, per_key: dict[str, Any], timeout: str = "2s", **limits: Any
) -> dict[str, Any]:
    """`timeout` is long, for the tests of exact counts: a busy machine is no outage."""
    shared = {"storage": "redis"} if server else {}
    return {
        "backends": [{"url": sim.url, "idle_timeout": "60s"}],
        "routing": {"retry": {"enabled": False}},
        "health_check": {"enabled": False},
        "rate_limit": {"per_key": per_key, **shared, **limits},
        **({"redis": {"url": server.url, "prefix": new_prefix(), "timeout": timeout}} if server else {}),
    }


def knock(gateways: list[Gateway], size: int, body: dict[str, Any]) -> list[Client]:
    """So many clients at the same moment, over all gateways: those that were let in, still there."""
    clients = [Client(gateways[number % len(gateways)].url) for number in range(size)]
    barrier = threading.Barrier(size)

    def one(client: Client) -> Client | None:
        barrier.wait(30)
        opened = client.open(body)
        if opened.status == 200:
            if body.get("stream"):
                opened.event()
            else:
                opened.rest()
            return client
        answer = opened.rest()
        assert answer.status == 429
        assert answer.code in ("concurrent_limit_exceeded", "rate_limit_exceeded")
        client.close()
        return None

    with ThreadPoolExecutor(size) as pool:
        return [client for client in pool.map(one, clients) if client is not None]


def leases(server: RedisServer) -> int:
    client = server.client()
    return sum(int(client.zcard(key)) for key in client.keys("*concurrent*"))


@pytest.mark.requirement("A084", "A078")
@pytest.mark.parametrize("count", [1, 3])
def test_two_hundred_at_once_over_all_processes(tmp_path: Path, sim: Sim, server: RedisServer, count: int) -> None:
    whole = config(sim, server, {"max_concurrent": AT_ONCE})
    with ExitStack() as stack:
        gateways = [stack.enter_context(running(tmp_path / f"{number}", whole)) for number in range(count)]
        for _ in range(2):
            before = sim.stats()["requests_started"]
            inside = knock(gateways, 200, HELD)
            assert len(inside) == AT_ONCE
            assert sim.stats()["requests_started"] - before == AT_ONCE, "the backend was not asked for the others"
            for client in inside:
                client.close()
            until(lambda: leases(server) == 0, "all places are free")


@pytest.mark.requirement("A078")
def test_two_hundred_at_once_in_memory(tmp_path: Path, sim: Sim) -> None:
    with running(tmp_path, config(sim, None, {"max_concurrent": AT_ONCE})) as gateway:
        for _ in range(2):
            inside = knock([gateway], 200, HELD)
            assert len(inside) == AT_ONCE
            for client in inside:
                client.close()
            until(lambda: gateway.metrics()["zuebee_requests_running"] == 0, "all requests have ended")


@pytest.mark.requirement("A090", "A084")
def test_a_minute_is_one_for_all_processes(tmp_path: Path, sim: Sim, server: RedisServer) -> None:
    whole = config(sim, server, {"requests_per_minute": 30})
    with running(tmp_path / "a", whole) as one, running(tmp_path / "b", whole) as two:
        passed_s = stopwatch()
        assert len(knock([one, two], 100, QUICK)) == 30
        refused = ask(two.url, QUICK)
        assert refused.status == 429
        took_ms = 1000 * passed_s()
        assert 60_000 - took_ms <= int(refused.header("retry-after-ms") or 0) <= 61_000
        assert refused.header("x-ratelimit-remaining-requests") == "0"


ROUTES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": QUICK,
    "/v1/completions": {"model": "sim-small", "prompt": "Hello", "max_tokens": 5},
    "/v1/embeddings": {"model": "sim-small", "input": "Hello"},
}


@pytest.mark.requirement("A078", "A090")
@pytest.mark.parametrize("storage", ["memory", "redis"])
def test_no_route_goes_around_the_limit(tmp_path: Path, sim: Sim, server: RedisServer, storage: str) -> None:
    shared = server if storage == "redis" else None
    with running(tmp_path, config(sim, shared, {"requests_per_minute": 20})) as gateway:
        before = sim.stats()["requests_started"]
        barrier = threading.Barrier(120)

        def one(number: int) -> int:
            path, body = list(ROUTES.items())[number % len(ROUTES)]
            barrier.wait(30)
            with Client(gateway.url) as client:
                return client.ask(body, path).status

        with ThreadPoolExecutor(120) as pool:
            assert sorted(pool.map(one, range(120))) == [200] * 20 + [429] * 100
        assert sim.stats()["requests_started"] - before == 20


def fields(answer: Answer) -> dict[str, str]:
    return {name: value for name, value in answer.headers if name.startswith("x-ratelimit-")}


def told_how_limits_stand(gateway: Gateway, key: str, body: dict[str, Any]) -> None:
    """Three requests are let in, a fourth is not; each answer says what is left."""
    for left in (2, 1, 0):
        found = fields(ask(gateway.url, body, key=key))
        assert found["x-ratelimit-limit-requests"] == found["x-ratelimit-limit"] == "3"
        assert found["x-ratelimit-remaining-requests"] == found["x-ratelimit-remaining"] == str(left)
        assert found["x-ratelimit-limit-tokens"] == "1000"
        assert 0 < int(found["x-ratelimit-remaining-tokens"]) < 1000
        assert found["x-ratelimit-reset-requests"] in ("1m0s", "1m1s")
        assert found["x-ratelimit-reset-tokens"] in ("1m0s", "1m1s")
    refused = ask(gateway.url, body, key=key)
    assert refused.status == 429
    assert fields(refused)["x-ratelimit-remaining-requests"] == "0"
    assert int(refused.header("retry-after") or 0) >= 1
    assert "3 requests a minute" in refused.json["error"]["message"]


@pytest.mark.requirement("A082")
@pytest.mark.parametrize("storage", ["memory", "redis"])
def test_every_limited_answer_says_how_limits_stand(
    tmp_path: Path, sim: Sim, server: RedisServer, storage: str
) -> None:
    shared = server if storage == "redis" else None
    whole = config(sim, shared, {"requests_per_minute": 3, "tokens_per_minute": 1000})
    keys = {"sk-whole-0123456789": False, "sk-stream-0123456789": True}
    with running(tmp_path, {**whole, "api_keys": [{"key": key} for key in keys]}) as gateway:
        for key, stream in keys.items():
            told_how_limits_stand(gateway, key, {**QUICK, "stream": stream})
        metrics = gateway.metrics()
        decisions = 'zuebee_limiter_decisions_total{decision="%s",kind="requests",scope="key"}'
        swapped = 'zuebee_limiter_decisions_total{scope="key",kind="requests",decision="%s"}'
        counts = [metrics.get(decisions % word, metrics.get(swapped % word)) for word in ("admitted", "refused")]
        assert counts == [6, 2]
        assert metrics["zuebee_limiter_degraded"] == 0


def test_other_limits_after_a_reload_keep_the_counts(tmp_path: Path, sim: Sim) -> None:
    with running(tmp_path, config(sim, None, {"requests_per_minute": 60})) as gateway:
        for _ in range(5):
            assert ask(gateway.url, QUICK).status == 200
        gateway.write_config(config(sim, None, {"requests_per_minute": 6}))
        gateway.send_signal(1)
        until(lambda: gateway.total("zuebee_config_reloads_total") == 1, "it read its configuration")
        assert fields(ask(gateway.url, QUICK))["x-ratelimit-remaining-requests"] == "0"
        assert ask(gateway.url, QUICK).status == 429


@pytest.mark.alone
@pytest.mark.requirement("A093")
def test_redis_killed_under_load(tmp_path: Path, sim: Sim, server: RedisServer) -> None:
    """Nobody waits, nobody gets a 500, and when Redis is back the processes count together again."""
    whole = config(sim, server, {"max_concurrent": 40, "requests_per_minute": 100_000}, "100ms", processes=2)
    with running(tmp_path / "a", whole) as one, running(tmp_path / "b", whole) as two:
        waits: list[float] = []
        statuses: list[int] = []
        stop = threading.Event()

        def load(gateway: Gateway) -> None:
            with Client(gateway.url) as client:
                while not stop.is_set():
                    started_s = time.monotonic()
                    statuses.append(client.ask(QUICK).status)
                    waits.append(time.monotonic() - started_s)
                    time.sleep(0.005)

        with ThreadPoolExecutor(6) as pool:
            loads = [pool.submit(load, (one, two)[number % 2]) for number in range(6)]
            until(lambda: len(statuses) > 100, "load")
            server.pause()
            until(lambda: one.metrics()["zuebee_limiter_degraded"] == 1, "Redis is found silent")
            time.sleep(0.5)
            assert json.loads(one.get("/health/ready")[1])["reason"] == "limits without Redis"
            assert one.metrics()["zuebee_limiter_degraded"] == 1
            server.kill()
            time.sleep(0.5)
            server.start()
            both = (one, two)
            until(lambda: not any(each.metrics()["zuebee_limiter_degraded"] for each in both), "they ask Redis again")
            stop.set()
            for each in loads:
                each.result(10)
        assert set(statuses) == {200}
        assert len(statuses) > 300
        assert max(waits) < 1, "Redis was silent for longer than that"
        inside = knock([one, two], 100, HELD)
        assert len(inside) == 40
        for client in inside:
            client.close()
        until(lambda: leases(server) == 0, "all places are free")


@pytest.mark.requirement("A087")
def test_who_guesses_keys_is_left_standing(tmp_path: Path, sim: Sim) -> None:
    whole = config(sim, None, {}, abuse={"max_failures": 5, "window": "60s", "cool_down": "5s"})
    with running(tmp_path, whole) as gateway:
        statuses = [ask(gateway.url, QUICK, key=None).status for _ in range(8)]
        assert statuses == [401] * 8, "who shows no key does not guess"
        statuses = [ask(gateway.url, QUICK, key=f"sk-guess-{number:010}").status for number in range(8)]
        assert statuses == [401] * 5 + [429] * 3
        refused = ask(gateway.url, QUICK, key=KEY)
        assert (refused.status, refused.code) == (429, "too_many_failures")
        assert 0 < int(refused.header("retry-after") or 0) <= 5
        until(lambda: ask(gateway.url, QUICK, key=KEY).status == 200, "it is served again")


@pytest.mark.requirement("A088")
def test_a_greedy_client_and_a_modest_one(tmp_path: Path, sim: Sim) -> None:
    """Six places, three for each user: the modest one is served as if it were alone."""
    greedy = [{"key": f"sk-greedy-{number:010}", "user_id": "greedy"} for number in range(4)]
    modest = {"key": "sk-modest-0000000001", "user_id": "modest"}
    limits = {"global": {"max_concurrent": 6}, "per_user": {"max_concurrent": 3}}
    whole = {**config(sim, None, {}, **limits), "api_keys": [*greedy, modest]}
    with running(tmp_path, whole) as gateway:
        held = [Client(gateway.url, each["key"]) for each in greedy for _ in range(5)]
        with ThreadPoolExecutor(len(held)) as pool:
            assert sorted(pool.map(lambda client: client.open(HELD).status, held)) == [200] * 3 + [429] * 17
        with ThreadPoolExecutor(3) as pool:
            asked = [pool.submit(ask, gateway.url, QUICK, key=modest["key"]) for _ in range(3)]
            assert [each.result(10).status for each in asked] == [200] * 3
        for client in held:
            client.close()


@pytest.mark.proof
@pytest.mark.requirement("A091", "A084")
def test_a_killed_gateway_gives_its_places_back_when_their_lease_ends(
    tmp_path: Path, sim: Sim, server: RedisServer
) -> None:
    whole = config(sim, server, {"max_concurrent": AT_ONCE})
    with running(tmp_path / "a", whole) as dead, running(tmp_path / "b", whole) as alive:
        inside = knock([dead], 20, HELD)
        assert len(inside) == AT_ONCE
        dead.popen.kill()
        dead.popen.wait(10)
        killed_s = time.monotonic()
        assert ask(alive.url, QUICK).code == "concurrent_limit_exceeded"
        until(lambda: ask(alive.url, QUICK).status == 200, "the places are free", 40)
        assert 20 < time.monotonic() - killed_s < 35
        assert len(knock([alive], 30, HELD)) == AT_ONCE
