import json
from typing import Any

import pytest

from zuebee.contracts.errors import Refusal
from zuebee.dialects.anthropic.converter import AnthropicConverter
from zuebee.dialects.anthropic.errors import PING, render_error_event
from zuebee.dialects.anthropic.meter import AnthropicMeter
from zuebee.dialects.hub.canonical import (
    Begin,
    CallBegin,
    CallDelta,
    ChatRequest,
    Counts,
    Delta,
    FailureDelta,
    FinishDelta,
    Over,
    Reasoning,
    TextDelta,
    ThinkingDelta,
    UsageDelta,
)
from zuebee.dialects.openai_usage import TokenCounts
from zuebee.dialects.sse import EventCutter, event_data, split_events


def sse(*events: dict[str, Any]) -> bytes:
    return b"".join(b"event: %b\ndata: %b\n\n" % (each["type"].encode(), json.dumps(each).encode()) for each in events)


START = {
    "type": "message_start",
    "message": {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x", "content": [],
        "usage": {
            "input_tokens": 10, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 2, "output_tokens": 1,
        },
    },
}  # fmt: skip


def started(index: int, **block: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


def grown(index: int, **delta: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": delta}


def stopped(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


LAST = {
    "type": "message_delta",
    "delta": {"stop_reason": "tool_use", "stop_sequence": None},
    "usage": {"output_tokens": 30},
}
STREAM = sse(
    START,
    started(0, type="thinking", thinking="", signature=""),
    {"type": "ping"},
    grown(0, type="thinking_delta", thinking="Hm \u2603"),
    grown(0, type="signature_delta", signature="c2ln"),
    stopped(0),
    started(1, type="text", text=""),
    grown(1, type="text_delta", text="Gr\u00fc\u00dfe"),
    stopped(1),
    started(2, type="server_tool_use", id="srv", name="web_search", input={}),
    grown(2, type="input_json_delta", partial_json='{"query":"x"}'),
    stopped(2),
    started(3, type="tool_use", id="toolu_1", name="get", input={}),
    grown(3, type="input_json_delta", partial_json=""),
    grown(3, type="input_json_delta", partial_json='{"a"'),
    grown(3, type="input_json_delta", partial_json=": 1}"),
    stopped(3),
    started(4, type="tool_use", id="toolu_2", name="now", input={}),
    stopped(4),
    LAST,
    {"type": "message_stop"},
)
DELTAS: list[Delta] = [
    Begin("msg_1", "claude-x", Counts(17, 1, 5, 2)),
    ThinkingDelta("Hm \u2603"),
    ThinkingDelta(signature="c2ln"),
    TextDelta("Gr\u00fc\u00dfe"),
    CallBegin(0, "toolu_1", "get"),
    CallDelta(0, '{"a"'),
    CallDelta(0, ": 1}"),
    CallBegin(1, "toolu_2", "now"),
    CallDelta(1, "{}"),
    FinishDelta("tool_calls"),
    UsageDelta(Counts(17, 30, 5, 2)),
    Over(),
]
THINKS = ChatRequest("anthropic", "m", [], reasoning=Reasoning(enabled=True, adaptive=True))


def deltas(parts: list[bytes]) -> list[Delta]:
    cutter, reader, found = EventCutter(), AnthropicConverter().stream_reader(), list[Delta]()
    for part in parts:
        for event in split_events(cutter.feed(part)):
            found += reader.read("", event_data(event))
    return found


def written(*given: Delta, request: ChatRequest = THINKS) -> list[dict[str, Any]]:
    writer = AnthropicConverter().stream_writer(request)
    told = b"".join(writer.write(each) for each in given)
    found = [json.loads(event_data(event)) for event in split_events(told)]
    assert sse(*found).replace(b" ", b"") == told.replace(b" ", b"") or not told.isascii()
    return found


def test_a_stream_says_the_same_wherever_the_network_cuts_it() -> None:
    assert deltas([STREAM]) == DELTAS
    for cut in range(len(STREAM)):
        assert deltas([STREAM[:cut], STREAM[cut:]]) == DELTAS


def test_what_is_written_is_read_again() -> None:
    writer = AnthropicConverter().stream_writer(THINKS)
    assert deltas([b"".join(writer.write(each) for each in DELTAS)]) == DELTAS


def blocks(events: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """The blocks as a client builds them up; one is over before the next begins, numbered from 0."""
    found: list[tuple[str, str]] = []
    open_ = False
    for event in events:
        if event["type"] == "content_block_start":
            assert not open_
            assert event["index"] == len(found)
            open_ = True
            block = event["content_block"]
            found.append((block.get("name") or block["type"], ""))
        elif event["type"] == "content_block_delta":
            assert open_
            assert event["index"] == len(found) - 1
            delta = event["delta"]
            found[-1] = (found[-1][0], found[-1][1] + next(str(v) for k, v in delta.items() if k != "type"))
        elif event["type"] == "content_block_stop":
            assert event["index"] == len(found) - 1
            open_ = False
    assert not open_
    return found


def test_parallel_calls_whose_arguments_come_in_turns_are_told_one_after_the_other() -> None:
    events = written(
        Begin("x", "m"),
        CallBegin(0, "a", "one"),
        CallDelta(0, '{"n":'),
        CallBegin(1, "b", "two"),
        CallDelta(1, '{"m":'),
        CallDelta(0, "1}"),
        CallDelta(1, "2}"),
        TextDelta("done"),
        FinishDelta("tool_calls"),
        Over(),
    )
    assert blocks(events) == [("one", '{"n":1}'), ("two", '{"m":2}'), ("text", "done")]
    assert [event["type"] for event in events[-2:]] == ["message_delta", "message_stop"]
    assert events[-2]["delta"]["stop_reason"] == "tool_use"


def test_usage_that_comes_behind_the_end_is_told_without_the_cache_in_the_input() -> None:
    events = written(Begin(), TextDelta("x"), FinishDelta("stop"), UsageDelta(Counts(17, 30, 5, 2)), Over())
    assert events[-2]["usage"] == {
        "input_tokens": 10, "cache_creation_input_tokens": 2, "cache_read_input_tokens": 5, "output_tokens": 30,
    }  # fmt: skip
    assert events[-2]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}


def test_reasoning_is_shown_only_to_clients_that_asked_for_it() -> None:
    given = (ThinkingDelta("hm"), TextDelta("x"), FinishDelta("stop"), Over())
    assert blocks(written(*given)) == [("thinking", "hm"), ("text", "x")]
    assert blocks(written(*given, request=ChatRequest("anthropic", "m", []))) == [("text", "x")]


def test_an_error_in_a_stream_keeps_the_status_that_its_type_stands_for() -> None:
    reader = AnthropicConverter().stream_reader()
    error = b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}'
    assert reader.read("error", error) == [FailureDelta(529, "overloaded_error", "overloaded_error", "Overloaded")]


# --- byte for byte ---


def test_the_meter_passes_every_byte_and_holds_back_the_last_words() -> None:
    for cut in range(0, len(STREAM), 3):
        meter = AnthropicMeter()
        told = meter.feed(STREAM[:cut]) + meter.feed(STREAM[cut:])
        assert told + meter.last_words == STREAM
        assert meter.last_words.startswith(b"event: message_stop")
        assert (meter.done, meter.whole, meter.over) == (True, True, True)
        assert meter.figures == TokenCounts(17, 30, 5, 2)


def test_a_stream_that_breaks_off_is_billed_for_what_was_made() -> None:
    meter = AnthropicMeter()
    meter.feed(sse(START, started(0, type="text", text=""), grown(0, type="text_delta", text="x" * 400)))
    assert not meter.whole
    assert meter.figures == TokenCounts(17, 100, 5, 2)
    assert meter.usage == TokenCounts(17, 1, 5, 2)


@pytest.mark.parametrize("odd", [b"data: {oops}\n\n", b": comment\n\n", PING, b'event: new\ndata: {"type":"new"}\n\n'])
def test_what_nobody_knows_passes(odd: bytes) -> None:
    meter = AnthropicMeter()
    assert meter.feed(odd) == odd
    assert not meter.over


def test_an_error_event_is_kept_from_the_client_and_known() -> None:
    refusal = Refusal(429, "rate_limit_error", "c", "Slow down.")
    meter = AnthropicMeter()
    assert meter.feed(sse(START) + render_error_event(refusal)) == sse(START)
    assert meter.told is not None
    assert (meter.told.status, meter.told.message) == (429, "Slow down.")
    assert not meter.whole
