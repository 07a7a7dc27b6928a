"""The simulated model server speaks HTTP/1.1, keeps its pace, and says what happened."""

import base64
import json
import socket
import struct
import threading
import time
from typing import Any

import pytest

from tests.support.sim import CHAT, HELLO, SILENCE_S, Wire, call, events, faulty, running, until
from zuebee.sim.server import SimSettings


def test_connections_are_kept_and_pipelined_requests_answered_in_order(wire: Wire) -> None:
    for tokens in (1, 2, 3):
        wire.send({**HELLO, "max_tokens": tokens, "stream": tokens == 2})
    bodies = [wire.message()[2] for _ in range(3)]
    assert json.loads(bodies[0])["usage"]["completion_tokens"] == 1
    assert len(events(bodies[1])) == 1 + 2 + 1 + 1
    assert json.loads(bodies[2])["usage"]["completion_tokens"] == 3


def test_a_thousand_pipelined_requests_do_not_exhaust_the_stack(wire: Wire) -> None:
    one = b"GET /health HTTP/1.1\r\nhost: sim\r\n\r\n"
    threading.Thread(target=wire.socket.sendall, args=(one * 1000,)).start()
    assert [wire.message()[0] for _ in range(1000)] == [200] * 1000


def test_expect_continue_is_answered_before_the_body(wire: Wire) -> None:
    body = json.dumps(HELLO).encode()
    wire.socket.sendall(
        f"POST {CHAT} HTTP/1.1\r\nhost: sim\r\nexpect: 100-continue\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    )
    assert wire.message()[0] == 100
    wire.socket.sendall(body)
    assert wire.message()[0] == 200


def test_chunked_request_bodies_are_read(wire: Wire) -> None:
    body = json.dumps(HELLO).encode()
    wire.socket.sendall(f"POST {CHAT} HTTP/1.1\r\nhost: sim\r\ntransfer-encoding: chunked\r\n\r\n".encode())
    for byte in body:
        wire.socket.sendall(b"1\r\n%c\r\n" % byte)
    wire.socket.sendall(b"0\r\n\r\n")
    assert wire.message()[0] == 200


def test_old_clients_get_no_chunks(wire: Wire) -> None:
    wire.send({**HELLO, "stream": True}, version="1.0")
    got, end = wire.read()
    assert b"transfer-encoding" not in got
    assert (got.endswith(b"data: [DONE]\n\n"), end) == (True, "eof")


def test_what_is_no_http_is_answered_400_and_closed(wire: Wire) -> None:
    wire.socket.sendall(b"how do you do\r\n\r\n")
    got, end = wire.read()
    assert (got.split()[1], end) == (b"400", "eof")


def test_a_body_over_the_limit_is_answered_413() -> None:
    with running(SimSettings(max_body_bytes=1000)) as url:
        wire = Wire(url)
        with wire.socket:
            wire.send(b"x" * 1001)
            assert wire.message()[0] == 413


@pytest.mark.alone
def test_tokens_come_at_the_set_pace(wire: Wire) -> None:
    begun = time.monotonic()
    wire.send({**HELLO, "stream": True, "sim": {"tokens": 20, "tokens_per_s": 100, "first_token_delay_s": 0.2}})
    assert len(events(wire.message()[2])) == 1 + 20 + 1 + 1
    assert 0.39 <= time.monotonic() - begun < 0.8
    begun = time.monotonic()
    wire.send({**HELLO, "sim": {"tokens": 20, "tokens_per_s": 100}})
    wire.message()
    assert 0.19 <= time.monotonic() - begun < 0.6


def test_a_client_that_does_not_read_stops_the_stream(url: str, wire: Wire) -> None:
    wire.send({**HELLO, "stream": True, "sim": {"tokens": 100_000}})  # 23 MB, more than the kernel buffers

    def sent() -> int:
        count: int = call(url, "GET", "/_sim/stats")["tokens_sent"]
        return count

    until(lambda: sent() > 0)
    counts = [sent()]
    until(lambda: (time.sleep(0.2), counts.append(sent()))[1] or counts[-1] == counts[-2])
    assert counts[-1] < 80_000
    tail = b""
    while not tail.endswith(b"0\r\n\r\n"):
        tail = (tail + wire.socket.recv(1 << 20))[-100:]
    assert b"data: [DONE]" in tail
    assert sent() == 100_000


def test_a_fault_is_asked_for_by_header_by_model_and_by_body_which_comes_first(wire: Wire) -> None:
    for body, headers, expected in (
        (HELLO, "x-sim-fault: 503;retry_after_s=4\r\n", 503),
        ({**HELLO, "model": "sim-fault-500"}, "", 500),
        ({**HELLO, "model": "sim-fault-500"}, "x-sim-fault: 503\r\n", 503),
        ({**faulty(429, stream=False), "model": "sim-fault-500"}, "x-sim-fault: 503\r\n", 429),
        (HELLO, "x-sim-fault: earthquake\r\n", 400),
        ({**HELLO, "model": "sim-fault-earthquake"}, "", 400),
    ):
        wire.send(body, headers=headers)
        assert wire.message()[0] == expected


def test_armed_faults_strike_as_often_as_told_and_only_their_path(url: str, wire: Wire) -> None:
    call(url, "POST", "/_sim/faults", {"fault": "500", "times": 2})
    call(url, "POST", "/_sim/faults", {"fault": 503, "path": "/health"})

    def status(path: str, method: str = "GET", body: Any = None) -> int:
        wire.send(body, path=path, method=method)
        return wire.message()[0]

    assert [status(CHAT, "POST", HELLO) for _ in range(3)] == [500, 500, 200]
    assert [status("/health") for _ in range(3)] == [503, 503, 503]
    assert status("/v1/models") == 200
    assert [armed["path"] for armed in call(url, "GET", "/_sim/faults")["armed"]] == ["/health"]
    call(url, "DELETE", "/_sim/faults")
    assert status("/health") == 200


def test_requests_are_shown_as_they_came(url: str, wire: Wire) -> None:
    body = b' {"model":"sim-small",  "messages":[{"role":"user","content":"x"}],"unknown":1}\n'
    wire.send(body, path=CHAT + "?a=b", headers="X-One: 1\r\nX-One: 2\r\n")
    assert wire.message()[0] == 200
    (seen,) = call(url, "GET", "/_sim/requests")
    assert (seen["method"], seen["target"]) == ("POST", CHAT + "?a=b")
    assert base64.b64decode(seen["body_base64"]) == body
    assert [value for name, value in seen["headers"] if name == "x-one"] == ["1", "2"]


def test_accounts_say_what_was_delivered_and_how_it_ended(url: str) -> None:
    endings = {"whole": "complete", "cut": "fault", "left": "aborted"}
    asks = {
        "whole": {**HELLO, "stream": True},
        "cut": faulty("reset", stream=True, after_events=4),
        "left": faulty("hang", stream=True, after_events=3),
    }
    for name, ask in asks.items():
        wire = Wire(url)
        with wire.socket:
            wire.send(ask, headers=f"x-request-id: {name}\r\nconnection: close\r\n")
            wire.read(SILENCE_S)
    until(lambda: call(url, "GET", "/_sim/stats")["streams_open"] == 0)
    rows = {row["request_id"]: row for row in call(url, "GET", "/_sim/account")}
    assert {name: row["ended"] for name, row in rows.items()} == endings
    assert [rows[name]["completion_tokens"] for name in endings] == [8, 3, 2]
    assert {row["prompt_tokens"] for row in rows.values()} == {3 + 4 + 3}
    assert call(url, "GET", "/_sim/account?request_id=cut") == [rows["cut"]]
    stats = call(url, "GET", "/_sim/stats")
    expected = {"connections_accepted": 3, "connections_open": 0, "requests_started": 3, "requests_finished": 1}
    expected |= {"requests_faulted": 1, "requests_aborted": 1, "streams_aborted": 1, "tokens_sent": 13}
    assert {name: stats[name] for name in expected} == expected


def test_a_client_that_resets_its_connection_is_counted_as_gone(url: str) -> None:
    wire = Wire(url)
    wire.send({**HELLO, "stream": True, "sim": {"tokens": 1000, "tokens_per_s": 100}})
    wire.socket.recv(100)
    wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wire.socket.close()
    until(lambda: call(url, "GET", "/_sim/stats")["streams_aborted"] == 1)
    assert call(url, "GET", "/_sim/account")[0]["completion_tokens"] < 1000
