"""How much a key may ask for: in a minute, at once, in all. And the seed's first scenario, limiting as it reads."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.client import HELLO, Answer, Client, ask
from tests.support.processes import KEY, Gateway, Sim, running, simulated, until
from tests.support.promises import stopwatch

SEED = Path(__file__).parents[1] / "fixtures" / "llmproxy_scenario_1.yaml"
SEED_KEY = "sk-llmproxy-dev-001"
MINUTE, THREE, OTHER = "sk-minute-0123456789", "sk-three-0123456789", "sk-other-0123456789"
TOKENS = 20
COST = 10 + TOKENS  # of one request, prompt and completion
QUICK = {**HELLO, "max_tokens": TOKENS}
HELD = {**QUICK, "stream": True, "sim": {"fault": "hang", "after_events": 1}}


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sim]:
    with simulated(tmp_path_factory.mktemp("sim"), "--tokens-per-s", "0") as process:
        yield process


def settings(sim: Sim, *keys: dict[str, Any]) -> dict[str, Any]:
    backend = {"url": sim.url, "idle_timeout": "20s"}
    routing = {"retry": {"enabled": False}}
    return {"backends": [backend], "routing": routing, "health_check": {"enabled": False}, "api_keys": list(keys)}


@pytest.fixture(scope="module")
def gateway(sim: Sim, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    keys = [
        {"key": MINUTE, "requests_per_minute": 60},
        {"key": THREE, "max_concurrent": 3},
        {"key": OTHER, "name": "other"},
    ]
    with running(tmp_path_factory.mktemp("gateway"), settings(sim, *keys)) as process:
        yield process


def refused(answer: Answer, code: str, *, should_retry: bool = True) -> bool:
    """Whether it is a 429 with this code, as clients understand it."""
    if answer.status != 429:
        return False
    assert answer.code == code
    assert answer.header("x-should-retry") == str(should_retry).lower()
    return True


@pytest.mark.requirement("A090")
def test_the_sixty_first_of_a_minute_waits_and_is_told_how_long(sim: Sim, gateway: Gateway) -> None:
    passed_s = stopwatch()
    with Client(gateway.url, MINUTE) as client:
        statuses = [client.ask(QUICK).status for _ in range(60)]
        asked_after = passed_s()
        before = sim.stats()["requests_started"]
        last = client.ask(QUICK)
    assert statuses == [200] * 60
    assert refused(last, "rate_limit_exceeded")
    exact = int(last.header("retry-after-ms") or 0) / 1000
    assert 60 - passed_s() - 0.1 <= exact <= 60 - asked_after + 1
    assert exact <= int(last.header("retry-after") or 0) <= exact + 1
    assert sim.stats()["requests_started"] == before, "the backend was not asked"
    assert ask(gateway.url, QUICK, key=OTHER).status == 200, "another key has a minute of its own"


class Crowd:
    """Twenty clients that knock at the same moment with a stream that is held, and stay."""

    def __init__(self, url: str, size: int = 20) -> None:
        self.clients = [Client(url, THREE) for _ in range(size)]
        barrier = threading.Barrier(size)

        def knock(client: Client) -> int:
            barrier.wait(10)
            opened = client.open(HELD)
            if opened.status == 200:
                opened.event()
            else:
                assert refused(opened.rest(), "concurrent_limit_exceeded")
            return opened.status

        with ThreadPoolExecutor(size) as pool:
            self.statuses = sorted(pool.map(knock, self.clients))

    def leave(self) -> None:
        for client in self.clients:
            client.close()


def free(gateway: Gateway) -> None:
    """Wait until nobody holds a place."""
    until(lambda: gateway.metrics()["zuebee_requests_running"] == 0, "all requests have ended")


@pytest.mark.requirement("A091")
def test_of_twenty_at_once_exactly_three_are_let_in(gateway: Gateway) -> None:
    for _ in range(2):  # and again, when the first ones have left in the middle of their streams
        crowd = Crowd(gateway.url)
        assert crowd.statuses == [200] * 3 + [429] * 17
        assert ask(gateway.url, QUICK, key=OTHER).status == 200
        crowd.leave()
        free(gateway)


ENDINGS: dict[str, dict[str, Any]] = {
    "the end of an answer": QUICK,
    "the end of a stream": {**QUICK, "stream": True},
    "an error answer": {**QUICK, "sim": {"fault": 500}},
    "a refused body": {"model": 5},
    "a broken stream": {**QUICK, "stream": True, "sim": {"fault": "truncate", "after_events": 2}},
    "a broken answer": {**QUICK, "sim": {"fault": "malformed"}},
}


@pytest.mark.requirement("A091")
@pytest.mark.parametrize("termination_reason", ENDINGS)
def test_a_place_is_free_again_after(gateway: Gateway, termination_reason: str) -> None:
    """Two places are held; the third serves one after the other, each let in once the one before is told its end."""
    holders = [Client(gateway.url, THREE) for _ in range(2)]
    for holder in holders:
        assert holder.open(HELD).status == 200
    for _ in range(4):
        assert ask(gateway.url, ENDINGS[termination_reason], key=THREE).status != 429
    with Client(gateway.url, THREE) as third:
        assert third.open(HELD).status == 200
        assert refused(ask(gateway.url, QUICK, key=THREE), "concurrent_limit_exceeded")
    for holder in holders:
        holder.close()
    free(gateway)
    assert ask(gateway.url, QUICK, key=THREE).status == 200


@pytest.mark.requirement("A079", "A253")
def test_a_quota_ends_and_stays_ended_over_a_restart(tmp_path: Path, sim: Sim) -> None:
    key = {"key": KEY, "total_quota": 4 * COST, "used_quota": COST}
    other = {"key": OTHER, "total_quota": 4 * COST}
    with running(tmp_path, settings(sim, key, other)) as gateway:
        for stream in (False, True, False):
            assert ask(gateway.url, {**QUICK, "stream": stream}).status == 200
        assert refused(ask(gateway.url, QUICK), "quota_exceeded", should_retry=False)
        rows = gateway.wait_for_rows(3)
        assert [row["total_tokens"] for row in rows] == [COST] * 3
    with running(tmp_path, settings(sim, key, other)) as gateway:
        last = ask(gateway.url, QUICK)
        assert refused(last, "quota_exceeded", should_retry=False)
        assert last.json["error"]["type"] == "insufficient_quota"
        assert ask(gateway.url, QUICK, key=OTHER).status == 200
    # What a prompt costs is estimated with some room after a start: what might not fit is not let in.
    with running(tmp_path, settings(sim, {**key, "total_quota": 6 * COST})) as gateway:
        assert ask(gateway.url, QUICK).status == 200, "a larger quota leaves room again"


@pytest.mark.requirement("A027", "A064", "A094", "A248", "A249", "A253", "A255")
def test_the_seeds_first_scenario_limits_as_it_reads(tmp_path: Path, sim: Sim) -> None:
    document = yaml.safe_load(SEED.read_text())
    document["backends"][0]["url"] = sim.url
    document["backends"][0]["idle_timeout"] = "20s"
    for place, statuses in (("10.0.0.0/8", {403}), ("127.0.0.0/8", {200})):
        document["api_keys"][0]["allowed_ips"] = [place]
        with running(tmp_path, document) as gateway:
            for headers in ([("Authorization", f"Bearer {SEED_KEY}")], [("X-API-Key", SEED_KEY)]):
                assert {ask(gateway.url, QUICK, headers=headers, key=None).status} == statuses
            assert ask(gateway.url, QUICK, key=None).status == 401
            if statuses == {200}:
                three_at_once_and_sixty_a_minute(gateway, already=2)
        rows = gateway.usage_rows()
    assert {row["key_name"] for row in rows} == {"Dev Team"}


def three_at_once_and_sixty_a_minute(gateway: Gateway, already: int) -> None:
    holders = [Client(gateway.url, SEED_KEY) for _ in range(3)]
    assert [holder.open(HELD).status for holder in holders] == [200] * 3
    assert refused(ask(gateway.url, QUICK, key=SEED_KEY), "concurrent_limit_exceeded")
    for holder in holders:
        holder.close()
    free(gateway)
    with Client(gateway.url, SEED_KEY) as client:
        statuses = [client.ask(QUICK).status for _ in range(60 - already - 3)]
        assert statuses == [200] * len(statuses)
        assert refused(client.ask(QUICK), "rate_limit_exceeded")
