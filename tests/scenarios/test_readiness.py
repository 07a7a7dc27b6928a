"""Readiness and reality: ready while requests would be served, and what one caller meets stops no other one."""

import json
import re
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.client import HELLO, Client, ask
from tests.support.commands import ask_here
from tests.support.databases import postgres_database
from tests.support.processes import KEY, Gateway, Sim, running, simulated, until
from tests.support.scripted import Received, ScriptedServer, http_answer, scripted
from tests.support.tcp_proxy import proxy_before

OTHER_KEY = "sk-test-of-somebody-else-01"
FAST = {"enabled": True, "interval": "100ms", "timeout": "300ms", "unhealthy_threshold": 2}
GOOD = json.dumps({"choices": [{"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"}]}).encode()


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sim]:
    with simulated(tmp_path_factory.mktemp("sim"), "--tokens", "4", "--tokens-per-s", "0") as process:
        yield process


def health(gateway: Gateway) -> tuple[int, str]:
    status, body = gateway.get("/health")
    return status, json.loads(body).get("reason", "")


def store_key(folder: Path, *more: str) -> str:
    return str(ask_here(folder, "keys", "create", "--name", "n", *more)["key"])


# --- the store ---


@pytest.mark.requirement("A265")
def test_it_is_red_while_keys_of_the_store_cannot_be_asked_for(sim: Sim, tmp_path: Path) -> None:
    with postgres_database() as address, proxy_before(address) as (proxy, url):
        config = {
            "backends": [{"url": sim.url}],
            "api_keys": None,
            "auth": {"enabled": True, "cache": "0s"},
            "store": {"url": url, "spool_path": str(tmp_path / "spool.jsonl"), "timeout": "1s"},
        }
        with running(tmp_path, config) as gateway:
            key = store_key(tmp_path)
            assert ask(gateway.url, HELLO, key=key).status == 200
            assert health(gateway) == (200, "")
            proxy.refuse()
            until(lambda: health(gateway)[0] == 503, "not ready")
            assert "the store cannot be used" in health(gateway)[1]
            with ThreadPoolExecutor(8) as pool:
                answers = list(pool.map(lambda _: ask(gateway.url, HELLO, key=key).status, range(200)))
            assert set(answers) == {503}
            assert gateway.metrics()["zuebee_store_up"] == gateway.metrics()["zuebee_ready"] == 0
            said = [line for line in gateway.output.splitlines() if re.search("WARN|ERROR", line)]
            assert len(said) < 15, "\n".join(said)
            assert any("the store cannot be used" in line for line in said)
            proxy.heal()
            until(lambda: health(gateway) == (200, ""), "ready again")
            assert ask(gateway.url, HELLO, key=key).status == 200
            assert "the store can be used again" in gateway.output


def test_it_is_green_where_nobody_needs_the_store(sim: Sim, tmp_path: Path) -> None:
    with postgres_database() as address, proxy_before(address) as (proxy, url):
        config = {
            "backends": [{"url": sim.url}],
            "store": {"url": url, "spool_path": str(tmp_path / "spool.jsonl"), "timeout": "1s"},
        }
        with running(tmp_path, config) as gateway:
            proxy.refuse()
            until(lambda: gateway.metrics()["zuebee_store_up"] == 0, "the store is seen to be gone")
            assert health(gateway) == (200, "")
            assert ask(gateway.url, HELLO).status == 200
            proxy.heal()


def test_it_is_red_while_the_ledger_cannot_be_written(sim: Sim, tmp_path: Path) -> None:
    config = {
        "backends": [{"url": sim.url}],
        "api_keys": None,
        "auth": {"enabled": True},
        "billing": {"prices": [{"model": "*", "input_per_million": "1", "output_per_million": "1"}]},
    }
    with running(tmp_path, config) as gateway:
        key = store_key(tmp_path, "--budget", "1000/monthly")
        assert ask(gateway.url, HELLO, key=key).status == 200
        with closing(sqlite3.connect(gateway.usage_path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            threading.Thread(target=ask, args=(gateway.url, HELLO), kwargs={"key": key}, daemon=True).start()
            until(lambda: health(gateway)[0] == 503, "not ready")
            assert ask(gateway.url, HELLO, key=key).status == 503
            other.execute("ROLLBACK")
        until(lambda: health(gateway) == (200, ""), "ready again")
        assert ask(gateway.url, HELLO, key=key).status == 200


# --- backends ---


class Moods:
    """A model server: `status` and `fields` of its answers, `wait_s` before them; `silent`: it has no time for
    probes.
    """

    def __init__(self) -> None:
        self.status, self.fields, self.wait_s, self.silent = "200 OK", "", 0.0, False

    def answer(self, request: Received) -> bytes:
        if request.line.startswith("GET"):
            time.sleep(5 if self.silent else 0)
            return http_answer(b"{}")
        time.sleep(self.wait_s)
        return http_answer(GOOD, f"content-type: application/json{self.fields}", status=self.status)


@pytest.fixture
def moods() -> Moods:
    return Moods()


@pytest.fixture
def server(moods: Moods) -> Iterator[ScriptedServer]:
    with scripted(moods.answer) as running_server:
        yield running_server


@pytest.fixture
def gateway(server: ScriptedServer, tmp_path: Path) -> Iterator[Gateway]:
    config = {
        "backends": [{"url": server.url, "max_connections": 2}],
        "health_check": FAST,
        "api_keys": [{"key": KEY, "name": "one"}, {"key": OTHER_KEY, "name": "other"}],
    }
    with running(tmp_path, config) as process:
        until(lambda: health(process)[0] == 200, "ready")
        yield process


def asked(gateway: Gateway, key: str = KEY) -> int:
    return ask(gateway.url, HELLO, key=key).status


def stays_green(gateway: Gateway, looks: int) -> None:
    for _ in range(looks):
        assert health(gateway) == (200, "")
        time.sleep(0.05)


def test_a_busy_server_that_has_no_time_for_probes_is_there(gateway: Gateway, moods: Moods) -> None:
    assert asked(gateway) == 200
    moods.silent, moods.wait_s = True, 1.5
    with ThreadPoolExecutor(2) as pool:
        running_requests = [pool.submit(asked, gateway) for _ in range(2)]  # all the connections that there may be
        stays_green(gateway, 22)
        assert [each.result() for each in running_requests] == [200, 200]
    moods.wait_s = 0.0
    assert asked(gateway) == 200


def test_one_that_is_gone_is_red_at_once_and_green_with_its_first_answer(gateway: Gateway, moods: Moods) -> None:
    moods.silent = True
    until(lambda: health(gateway)[0] == 503, "not ready")
    assert "no backend answers its probes" in health(gateway)[1]
    assert asked(gateway) == 200
    assert health(gateway) == (200, "")


def test_failures_of_a_few_requests_leave_it_green(gateway: Gateway, moods: Moods) -> None:
    moods.status = "500 Broken"
    for _ in range(7):
        assert asked(gateway) == 500
    assert health(gateway) == (200, "")
    (healthy,) = [value for name, value in gateway.metrics().items() if name.startswith("zuebee_backend_healthy{")]
    assert healthy == 1
    moods.status = "200 OK"
    assert asked(gateway, OTHER_KEY) == 200


@pytest.mark.parametrize("status", ["429 Slow down", "503 Busy"])
def test_what_is_asked_of_one_caller_stops_no_other_one(gateway: Gateway, moods: Moods, status: str) -> None:
    moods.status, moods.fields = status, "\r\nretry-after: 100"
    with Client(gateway.url) as client:
        answer = client.ask(HELLO)
        assert (answer.status, answer.header("retry-after")) == (int(status[:3]), "100")
    moods.status, moods.fields = "200 OK", ""
    assert asked(gateway, OTHER_KEY) == 200
    assert health(gateway) == (200, "")
    until(lambda: asked(gateway) == 200, "one of the first caller's goes through, and finds out")
    assert [asked(gateway) for _ in range(3)] == [200, 200, 200]
