"""A stream reaches its reader as it is made: no event is held back, silence is filled, the end is the end."""

import time
from collections.abc import Iterator

import pytest

from tests.support.client import HELLO, Client, ask
from tests.support.processes import KEY, Gateway, Sim, running, simulated, until
from tests.support.scripted import ScriptedServer, scripted

pytestmark = pytest.mark.alone

TOKENS = 4
CHUNK = b'data: {"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":null}]}\n\n'
DONE = b"data: [DONE]\n\n"


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sim]:
    with simulated(tmp_path_factory.mktemp("sim"), "--tokens-per-s", "0", "--tokens", str(TOKENS)) as process:
        yield process


def _without_end(*_: object) -> bytes:
    """A stream that says `[DONE]` and keeps its connection, but not the end of its body."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in (CHUNK, DONE))


@pytest.fixture(scope="module")
def endless() -> Iterator[ScriptedServer]:
    with scripted(_without_end) as server:
        yield server


@pytest.fixture(scope="module")
def gateway(sim: Sim, endless: ScriptedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    config = {
        "backends": [
            {"url": sim.url, "models": ["sim-*"], "idle_timeout": "5s"},
            {"url": endless.url, "models": ["endless"], "max_connections": 2},
        ],
        "routing": {"retry": {"enabled": False}},
        "health_check": {"enabled": False},
        "stream": {"keepalive_interval": "100ms"},
    }
    with running(tmp_path_factory.mktemp("gateway"), config) as process:
        yield process


@pytest.mark.requirement("A035")
@pytest.mark.parametrize("events", [1, 2, 4])
def test_what_the_model_has_said_is_there_before_it_says_more(sim: Sim, gateway: Gateway, events: int) -> None:
    """The model waits for ever after some events; the reader has them all, and leaving ends the model's work."""
    hang = {"fault": "hang", "after_events": events}
    with Client(gateway.url) as client:
        stream = client.open({**HELLO, "stream": True, "sim": hang})
        got = [stream.event() for _ in range(events)]
        request_id = dict(stream.headers)["x-request-id"]
        (account,) = sim.control("GET", f"/_sim/account?request_id={request_id}")
        assert (account["events"], account["ended"]) == (events, "running")
    assert all(event.startswith(b'data: {"id"') for event in got)
    until(lambda: sim.control("GET", f"/_sim/account?request_id={request_id}")[0]["ended"] == "aborted", "the abort")
    (row,) = until(lambda: [r for r in gateway.usage_rows() if r["request_id"] == request_id], "the usage record")
    assert (row["termination_reason"], row["status"]) == ("client_gone", 200)
    assert (row["completion_tokens"], row["usage_source"]) == (events, "partial")


@pytest.mark.requirement("A035")
def test_silence_is_filled_with_comments(gateway: Gateway) -> None:
    pause = {"fault": "hang", "after_events": 2, "for_s": 0.55}
    answer = ask(gateway.url, {**HELLO, "stream": True, "sim": pause})
    events = answer.body.split(b"\n\n")
    assert 2 <= events[2].count(b": keep-alive\n") <= 5
    assert answer.body.count(b": keep-alive\n") == events[2].count(b": keep-alive\n"), "before the third event only"
    assert answer.events[-1] == "[DONE]"
    assert (answer.header("x-accel-buffering"), answer.header("cache-control")) == ("no", "no-cache")


def test_without_silence_there_are_no_comments(gateway: Gateway) -> None:
    """Each byte comes alone, and so does the framing between the events: slow, but not silent."""
    drip = {"fault": "slow_drip", "interval_s": 0.0002}
    answer = ask(gateway.url, {**HELLO, "stream": True, "sim": drip})
    assert len(answer.events) == TOKENS + 3
    assert b": keep-alive" not in answer.body


def test_whoever_leaves_at_the_end_has_got_all_of_it(gateway: Gateway) -> None:
    """The server takes its time to end the body; the client has its `[DONE]` and goes. That is a complete request."""
    ids = []
    for _ in range(6):  # more than the connections that this server may have: each is given back
        answer = ask(gateway.url, {"model": "endless", "stream": True})
        assert (answer.status, answer.whole, answer.body) == (200, True, CHUNK + DONE)
        ids.append(answer.header("x-request-id"))

    def endings() -> list[str]:
        found = {row["request_id"]: row["termination_reason"] for row in gateway.usage_rows()}
        return [found[each] for each in ids] if all(each in found for each in ids) else []

    assert until(endings, "the usage records") == ["complete"] * 6


def test_a_finished_stream_does_not_wait_for_the_end_of_its_body(gateway: Gateway) -> None:
    with Client(gateway.url, KEY) as client:
        started = time.monotonic()
        assert client.ask({"model": "endless", "stream": True}).whole
        assert time.monotonic() - started < 2.0
        assert client.ask({"model": "endless", "stream": True}).whole, "and its connection takes the next request"
