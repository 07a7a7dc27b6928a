"""Every fault of the simulated model server, as it looks on the wire."""

import contextlib
import gzip
import json
import zlib

import pytest

from tests.support.promises import at_least
from tests.support.sim import SILENCE_S, Wire, call, events, faulty, until


def test_hang_before_the_head_and_within_the_message(url: str) -> None:
    for stream in (False, True):
        wire = Wire(url)
        with wire.socket:
            wire.send(faulty("hang", stream=stream))
            assert wire.read(SILENCE_S) == (b"", "silence")
        wire = Wire(url)
        with wire.socket:
            wire.send(faulty("hang", stream=stream, after_events=2))
            got, end = wire.read(SILENCE_S, lambda got, seen=2 * stream: bool(got) and got.count(b"data: ") == seen)
            assert (got.startswith(b"HTTP/1.1 200"), got.count(b"data: "), end) == (True, 2 * stream, "silence")
    until(lambda: call(url, "GET", "/_sim/stats")["requests_aborted"] == 4)


def test_hang_for_a_while_goes_on(wire: Wire) -> None:
    with at_least(0.39, "two pauses"):
        wire.send(faulty("hang", stream=True, for_s=0.2))
        assert len(events(wire.message()[2])) == 11
        wire.send(faulty("hang", stream=False, for_s=0.2, after_events=1))
        assert json.loads(wire.message()[2])["choices"]


@pytest.mark.parametrize("stream", [False, True])
def test_reset_before_the_head_and_within_the_message(url: str, stream: bool) -> None:
    for after, events_seen in ((None, 0), (0, 0), (3, 3 * stream)):
        wire = Wire(url)
        with wire.socket:
            wire.send(faulty("reset", stream=stream, after_events=after))
            got, end = wire.read()
            assert (got.count(b"data: "), end) == (events_seen, "reset")
            assert bool(got) == (after is not None)


def test_truncate_closes_without_the_end_of_the_message(url: str) -> None:
    wire = Wire(url)
    with wire.socket:
        wire.send(faulty("truncate", stream=True, after_events=2))
        got, end = wire.read()
        assert (got.count(b"data: "), got.endswith(b"0\r\n\r\n"), end) == (2, False, "eof")
    wire = Wire(url)
    with wire.socket:
        wire.send(faulty("truncate", stream=False))
        got, end = wire.read()
        head, _, body = got.partition(b"\r\n\r\n")
        promised = int(head.split(b"content-length: ")[1].split()[0])
        assert (0 < len(body) < promised, end) == (True, "eof")


def test_malformed(wire: Wire) -> None:
    wire.send(faulty("malformed", stream=True, after_events=3))
    data = events(wire.message()[2])
    assert len(data) == 12
    assert data[-1] == "[DONE]"
    for place, part in enumerate(data[:-1]):
        with pytest.raises(ValueError) if place == 3 else contextlib.nullcontext():  # noqa: PT011
            json.loads(part)
    wire.send(faulty("malformed", stream=False))
    status, _, body = wire.message()
    assert status == 200
    with pytest.raises(ValueError):  # noqa: PT011
        json.loads(body)


def test_error_statuses(wire: Wire) -> None:
    for status, retry_after_s, expected in ((429, None, "1"), (429, 7, "7"), (500, None, None), (503, 2, "2")):
        wire.send(faulty(status, stream=True, retry_after_s=retry_after_s))
        got, headers, body = wire.message()
        assert (got, headers.get("retry-after")) == (status, expected)
        assert json.loads(body)["error"]["code"] == status


def test_slow_drip_sends_single_bytes(wire: Wire) -> None:
    """A thousandth of a second for each byte: in greater pieces it would come sooner."""
    whole, least = b"data: [DONE]\n\n\r\n0\r\n\r\n", 500
    with at_least(SILENCE_S + 0.0009 * least, "so many bytes"):
        wire.send(faulty("slow_drip", stream=True, tokens=1, interval_s=0.001))
        got, end = wire.read(SILENCE_S, lambda got: got.endswith(whole))
    assert got.endswith(whole)
    assert (len(got) >= least, end) == (True, "silence")


def test_html(wire: Wire) -> None:
    wire.send(faulty("html", stream=True))
    status, headers, body = wire.message()
    assert (status, headers["content-type"].split(";")[0], body[:9]) == (200, "text/html", b"<!DOCTYPE")


def test_error_events(wire: Wire) -> None:
    for name, after, honest in (("error_first", None, 0), ("error_mid", None, 3), ("error_mid", 5, 5)):
        wire.send(faulty(name, stream=True, after_events=after))
        status, headers, body = wire.message()
        data = events(body)
        assert (status, headers["content-type"].split(";")[0]) == (200, "text/event-stream")
        assert (len(data), "error" in json.loads(data[honest]), data[-1]) == (honest + 2, True, "[DONE]")
        wire.send(faulty(name, stream=False))
        assert "error" in json.loads(wire.message()[2])


def test_no_done_still_has_its_finish_reason_and_usage(wire: Wire) -> None:
    wire.send({**faulty("no_done", stream=True), "stream_options": {"include_usage": True}})
    data = events(wire.message()[2])
    assert json.loads(data[-2])["choices"][0]["finish_reason"] == "stop"
    assert json.loads(data[-1])["usage"]["completion_tokens"] == 8


@pytest.mark.parametrize("stream", [False, True])
def test_close_delimited(wire: Wire, stream: bool) -> None:
    wire.send(faulty("close_delimited", stream=stream))
    got, end = wire.read()
    head, _, body = got.partition(b"\r\n\r\n")
    assert b"connection: close" in head
    assert b"content-length" not in head
    assert b"chunked" not in head
    assert end == "eof"
    assert events(body)[-1] == "[DONE]" if stream else json.loads(body)["choices"]


@pytest.mark.parametrize("stream", [False, True])
def test_garbage_after_the_message(wire: Wire, stream: bool) -> None:
    wire.send(faulty("garbage_after", stream=stream))
    assert wire.message()[0] == 200
    got, end = wire.read(SILENCE_S, bool)
    assert (got.startswith(b"HTTP/9.9"), end) == (True, "silence")


@pytest.mark.parametrize("stream", [False, True])
def test_close_after_a_message_that_promised_to_keep_the_connection(wire: Wire, stream: bool) -> None:
    with at_least(0.09, "the pause before the end"):
        wire.send(faulty("close_after", stream=stream, for_s=0.1))
        status, headers, _ = wire.message()
        assert (status, "connection" in headers) == (200, False)
        assert wire.read() == (b"", "eof")


def test_big_event(wire: Wire) -> None:
    wire.send(faulty("big_event", stream=True, size_bytes=3_000_000))
    data = events(wire.message()[2])
    assert len(json.loads(data[1])["padding"]) == 3_000_000
    assert data[-1] == "[DONE]"
    wire.send(faulty("big_event", stream=False, size_bytes=3_000_000))
    assert len(wire.message()[2]) > 3_000_000


@pytest.mark.parametrize("stream", [False, True])
def test_hostile_usage(wire: Wire, stream: bool) -> None:
    expected = {"negative": -7, "huge": 2**63, "string": "seven", "float": 6.5}
    options = {"stream_options": {"include_usage": True}} if stream else {}
    for kind in ("negative", "huge", "string", "float", "null", "missing"):
        wire.send({**faulty("usage", stream=stream, kind=kind), **options})
        body = wire.message()[2]
        last = json.loads(events(body)[-2] if stream else body)
        if kind == "missing":
            assert "usage" not in last
        else:
            assert (last["usage"] or {}).get("completion_tokens") == expected.get(kind)


def test_interim_responses(wire: Wire) -> None:
    wire.send(faulty("interim_1xx", stream=False))
    assert [wire.message()[0] for _ in range(4)] == [100, 102, 103, 200]


def test_redirect(wire: Wire) -> None:
    wire.send(faulty("redirect", stream=False, location="http://example.invalid/"))
    status, headers, _ = wire.message()
    assert (status, headers["location"]) == (302, "http://example.invalid/")


def test_gzip_nobody_accepted(wire: Wire) -> None:
    wire.send(faulty("gzip", stream=True))
    _, headers, body = wire.message()
    assert headers["content-encoding"] == "gzip"
    assert events(zlib.decompress(body, wbits=31))[-1] == "[DONE]"
    wire.send(faulty("gzip", stream=False))
    assert json.loads(gzip.decompress(wire.message()[2]))["choices"]


def refused(url: str) -> bool:
    try:
        Wire(url).socket.close()
    except ConnectionRefusedError:
        return True
    return False


def test_refuse_closes_the_door_for_a_while(url: str) -> None:
    idle = Wire(url)
    with idle.socket:
        idle.send(path="/health", method="GET")
        idle.message()
        call(url, "POST", "/_sim/faults", {"fault": "refuse", "for_s": 1.0})
        assert refused(url)
        assert idle.read()[1] in ("eof", "reset")
    until(lambda: not refused(url))
    wire = Wire(url)
    with wire.socket:
        wire.send(faulty("refuse", stream=False, for_s=0.5))
        assert wire.read() == (b"", "reset")
        assert refused(url)
    until(lambda: not refused(url))
