"""What a client sees of an odd stream through the meter, and through the gateway, is what it sees directly."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.loopback import loopback
from tests.support.odd_streams import Odd, odd_stream, pieces
from tests.support.processes import running, until
from tests.support.raw_http import ask, chat, request
from zuebee.dialects.openai_stream import StreamMeter
from zuebee.dialects.openai_usage import TokenCounts
from zuebee.dialects.sse import event_data, split_events

pytestmark = pytest.mark.slow

ROUNDS = 1500
THROUGH_THE_GATEWAY = 60
Pass = Callable[[list[bytes], bool], tuple[bytes, bool, TokenCounts | None]]


def metered(parts: list[bytes], hide: bool) -> tuple[bytes, bool, TokenCounts | None]:
    """What passes the meter, whether it is whole, and the usage found in it."""
    meter = StreamMeter(hide_usage=hide)
    passed = b"".join(meter.feed(part) for part in parts) + meter.end()
    return passed + meter.last_words, meter.whole, meter.usage


def strict(parts: list[bytes], hide: bool) -> tuple[bytes, bool, TokenCounts | None]:
    """The control: who passes on only what it can read."""
    kept = []
    for event in split_events(b"".join(parts)):
        data = event_data(event)
        try:
            if data and data != b"[DONE]":
                msgspec.json.decode(data)
        except (ValueError, RecursionError):
            break
        kept.append(event)
    return b"".join(kept), True, None


def differences(passes: Pass, *, large: bool = False, rounds: int = ROUNDS) -> list[Odd]:
    """The streams of which a client does not see what it sees directly, or whose usage is not found."""
    dice = random.Random(7)
    found = []
    for _ in range(rounds):
        stream = odd_stream(dice, large=large)
        parts = pieces(dice, stream.body)
        for hide, expected in ((False, stream.body), (True, stream.shown)):
            passed, whole, usage = passes(parts, hide)
            if (passed, whole, usage is not None) != (expected, True, stream.told):
                found.append(stream)
    return found


def test_a_reader_sees_what_it_sees_directly() -> None:
    assert differences(metered) == []


def test_of_large_events_too() -> None:
    assert differences(metered, large=True, rounds=12) == []


def test_who_passes_only_what_it_can_read_is_found_out() -> None:
    assert len(differences(strict, rounds=100)) > 50


def config(url: str) -> dict[str, Any]:
    return {
        "backends": [{"url": url}],
        "routing": {"retry": {"enabled": False}},
        "health_check": {"enabled": False},
        "stream": {"max_event_size": "2MB"},
    }


def script(dice: random.Random, stream: Odd) -> list[Any]:
    """A chunked answer, now and then with a length that is none of its own as well."""
    length = b"content-length: 5\r\n" if dice.random() < 0.3 else b""
    head = b"HTTP/1.1 200 OK\r\n%b%btransfer-encoding: chunked\r\n\r\n" % (stream.content_type, length)
    parts = pieces(dice, stream.body)[:50]
    parts.append(stream.body[sum(len(part) for part in parts) :])
    return [head, *[b"%x\r\n%b\r\n" % (len(part), part) for part in parts if part], b"0\r\n\r\n"]


@pytest.mark.parametrize("asked", [False, True], ids=["usage cut", "usage asked"])
async def test_through_the_gateway_it_is_the_same(tmp_path: Path, asked: bool) -> None:
    dice = random.Random(11 + asked)
    streams = [odd_stream(dice, large=not index % 10) for index in range(THROUGH_THE_GATEWAY)]
    async with loopback(*(script(dice, stream) for stream in streams)) as backend:
        with running(tmp_path / "gateway", config(backend.url)) as gateway:
            options = {"stream_options": {"include_usage": True}} if asked else {}
            for stream in streams:
                answer = await ask(gateway.port, request({**chat(stream=True), **options}))
                assert answer.status == 200, stream
                assert answer.body == (stream.body if asked else stream.shown)
            rows = until(lambda: len(gateway.usage_rows()) == len(streams) and gateway.usage_rows(), "the records")
            assert {row["termination_reason"] for row in rows} == {"complete"}
            sources = sorted(row["usage_source"] for row in rows)
            assert sources == sorted("provider" if stream.told else "estimate" for stream in streams)
            assert "Traceback" not in gateway.output
