"""When one model server fails, another takes over, as long as the client has seen nothing; and failing stays cheap."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import HELLO, Client, ask
from tests.support.processes import Gateway, Sim, running, simulated, until
from tests.support.records import record_of

QUICK = {**HELLO, "max_tokens": 2}
PACE = ("--tokens-per-s", "0")


@pytest.fixture(scope="module")
def sims(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Sim, Sim]]:
    folder = tmp_path_factory.mktemp("sims")
    with simulated(folder / "a", *PACE) as first, simulated(folder / "b", *PACE) as second:
        yield first, second


@pytest.fixture(scope="module")
def gateway(sims: tuple[Sim, Sim], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Always the first server first, the second after it."""
    first, second = (sim.url for sim in sims)
    # Long enough that a server is not taken for silent when the machine is busy; a silent one costs as much.
    common = {"first_byte_timeout": "1s", "idle_timeout": "1s", "timeout": "2s"}
    config = {
        "backends": [{"url": first, "name": "first", **common}, {"url": second, "name": "second", **common}],
        "routing": {"retry": {"initial_wait": "20ms"}, "fallback": [{"primary": first + "/", "fallback": [second]}]},
        "health_check": {"enabled": False},
    }
    with running(tmp_path_factory.mktemp("gateway"), config) as process:
        yield process


@pytest.fixture(scope="module")
def second_chances(sims: tuple[Sim, Sim], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """The same, whose operator would rather pay twice."""
    first, second = (sim.url for sim in sims)
    common = {"first_byte_timeout": "1s", "idle_timeout": "1s", "timeout": "2s"}
    more = {**common, "retry_started_on": ["timeout", "broken", "5xx"]}
    config = {
        "backends": [{"url": first, "name": "first", **more}, {"url": second, "name": "second", **more}],
        "routing": {"retry": {"initial_wait": "20ms"}, "fallback": [{"primary": first, "fallback": [second]}]},
        "health_check": {"enabled": False},
    }
    with running(tmp_path_factory.mktemp("second_chances"), config) as process:
        yield process


@pytest.fixture(autouse=True)
def _fresh(sims: tuple[Sim, Sim]) -> None:
    for sim in sims:
        sim.control("DELETE", "/_sim/faults")
        sim.control("POST", "/_sim/reset")


BEFORE_THE_FIRST_BYTE: list[tuple[str, dict[str, Any], tuple[bool, ...]]] = [
    ("reset", {}, (False, True)),
    ("truncate", {"after_events": 0}, (False, True)),
    ("redirect", {}, (False, True)),
    ("401", {}, (False, True)),
    ("429", {"retry_after_s": 0}, (False, True)),
    ("503", {"retry_after_s": 0}, (False, True)),
    ("529", {"retry_after_s": 0}, (False, True)),
]
BEGUN: list[tuple[str, dict[str, Any], str]] = [
    ("hang", {}, "timeout"),
    ("hang", {"after_events": 0}, "timeout"),
    ("malformed", {"after_events": 0}, "broken"),
    ("html", {}, "broken"),
    ("error_first", {}, "5xx"),
    ("500", {}, "5xx"),
    ("502", {}, "5xx"),
    ("504", {}, "5xx"),
]
"""What a server may have done its work for, and the word of `backends[].retry_started_on` that has it sent again."""
CASES = [(name, options, stream) for name, options, streams in BEFORE_THE_FIRST_BYTE for stream in streams]


@pytest.mark.requirement("A143")
@pytest.mark.parametrize(("name", "options", "stream"), CASES)
def test_another_server_takes_over_before_the_first_byte(
    sims: tuple[Sim, Sim], gateway: Gateway, name: str, options: dict[str, Any], stream: bool
) -> None:
    assert ask(gateway.url, QUICK).status == 200  # what failed before this is forgiven
    sims[0].fault(name, **options)
    answer = ask(gateway.url, {**QUICK, "stream": stream})
    assert (answer.status, answer.whole) == (200, True)
    assert not stream or answer.events[-1] == "[DONE]"
    row = record_of(gateway, answer.header("x-request-id"))
    assert (row["backend"], row["attempts"], row["termination_reason"], row["usage_source"]) == (
        "second",
        2,
        "complete",
        "provider",
    )
    assert sims[1].stats()["requests_started"] == 1


@pytest.mark.parametrize(
    ("name", "options", "word", "stream"), [(*case, stream) for case in BEGUN for stream in (False, True)]
)
def test_what_a_server_may_have_worked_on_is_bought_again_only_if_asked_for(
    sims: tuple[Sim, Sim], gateway: Gateway, second_chances: Gateway, name: str, options: dict[str, Any], word: str,
    stream: bool,
) -> None:  # fmt: skip
    for target, tries in ((gateway, 1), (second_chances, 2)):
        for sim in sims:
            sim.control("DELETE", "/_sim/faults")
        assert ask(target.url, QUICK).status == 200  # what failed before this is forgiven
        for sim in sims:
            sim.control("POST", "/_sim/reset")
        sims[0].fault(name, **options)
        answer = ask(target.url, {**QUICK, "stream": stream})
        assert (answer.status == 200, answer.whole) == (tries == 2, True), word
        assert record_of(target, answer.header("x-request-id"))["attempts"] == tries
        assert [sim.stats()["requests_started"] for sim in sims] == [1, tries - 1]


@pytest.mark.parametrize("fault", ["hang", "reset", "truncate", "malformed", "error_mid"])
def test_after_the_first_byte_nobody_takes_over(sims: tuple[Sim, Sim], gateway: Gateway, fault: str) -> None:
    assert ask(gateway.url, QUICK).status == 200
    sims[0].fault(fault, after_events=2)
    answer = ask(gateway.url, {**QUICK, "stream": True})
    assert (answer.status, len(answer.events)) == (200, 3)
    assert "error" in answer.events[-1]
    row = record_of(gateway, answer.header("x-request-id"))
    assert (row["backend"], row["attempts"], row["usage_source"]) == ("first", 1, "partial")
    assert sims[1].stats()["requests_started"] == 0


@pytest.mark.parametrize("status", [400, 403, 404, 413, 422])
def test_a_mistake_of_the_client_is_not_taken_elsewhere(sims: tuple[Sim, Sim], gateway: Gateway, status: int) -> None:
    sims[0].fault(str(status))
    assert ask(gateway.url, QUICK).status == status
    assert [sim.stats()["requests_started"] for sim in sims] == [1, 0]


@pytest.mark.requirement("A143")
def test_when_all_fail_the_last_real_answer_is_the_answer(sims: tuple[Sim, Sim], gateway: Gateway) -> None:
    assert ask(gateway.url, QUICK).status == 200
    for sim in sims:
        sim.fault("503")
    answer = ask(gateway.url, QUICK)
    assert answer.status == 503
    assert answer.json["error"]["message"] == "The simulated fault 503."
    assert record_of(gateway, answer.header("x-request-id"))["attempts"] == 4


@pytest.mark.requirement("A143")
@pytest.mark.parametrize("servers", [1, 2])
def test_when_everything_fails_retries_stay_within_their_budget(
    tmp_path: Path, sims: tuple[Sim, Sim], servers: int
) -> None:
    """Twenty requests at once against silence: without a budget that would be eighty tries.

    The silence is longer than a busy machine needs to send them all.
    """
    clients = 20
    config = {
        "backends": [{"url": sim.url, "timeout": "1s", "retry_started_on": ["timeout"]} for sim in sims[:servers]],
        "routing": {"retry": {"initial_wait": "100ms", "max_wait": "200ms"}},
        "health_check": {"enabled": False},
    }
    for sim in sims:
        sim.fault("hang")
    barrier = threading.Barrier(clients)

    def work(_: int) -> int:
        with Client(gateway.url) as client:
            barrier.wait(10)
            return client.ask(QUICK).status

    with running(tmp_path, config) as gateway, ThreadPoolExecutor(clients) as pool:
        assert set(pool.map(work, range(clients))) == {504}
    tries = sum(sim.stats()["requests_started"] for sim in sims)
    at_once = clients * 20 // 100
    assert clients < tries <= clients + 3 * (at_once + 1)


@pytest.mark.requirement("A131", "A144", "A265", "A266", "A370", "A379")
def test_a_server_may_die_under_load_and_come_back_and_nobody_notices(tmp_path: Path) -> None:
    checks = {"interval": "100ms", "timeout": "3s", "unhealthy_threshold": 2, "healthy_threshold": 2}
    stop = threading.Event()
    statuses: list[int] = []

    def work() -> None:
        with Client(gateway.url) as client:
            while not stop.is_set():
                statuses.append(client.ask(QUICK).status)

    def fit() -> list[float]:
        found = gateway.metrics()
        return [found[f'zuebee_backend_healthy{{backend="{name}"}}'] for name in ("stays", "dies")]

    with simulated(tmp_path / "a", *PACE) as stays, simulated(tmp_path / "b", *PACE) as dies:
        backends = [{"url": stays.url, "name": "stays"}, {"url": dies.url, "name": "dies"}]
        settings = {"backends": backends, "health_check": {**checks, "path": "/health"}}
        with running(tmp_path / "gateway", settings) as gateway, ThreadPoolExecutor(3) as pool:
            try:
                for _ in range(3):
                    pool.submit(work)
                until(lambda: dies.stats()["requests_started"] > 50, "load on both")
                dies.popen.kill()
                until(lambda: fit() == [1, 0], "the dead server is out")
                seen = len(statuses)
                until(lambda: len(statuses) > seen + 50, "life goes on")
                assert gateway.get("/health")[0] == 200
                with simulated(tmp_path / "again", *PACE, "--port", str(dies.port)) as again:
                    until(lambda: fit() == [1, 1], "the server is back")
                    until(lambda: again.stats()["requests_started"] > 20, "and is given work")
                    stop.set()
            finally:
                stop.set()
    assert set(statuses) == {200}
