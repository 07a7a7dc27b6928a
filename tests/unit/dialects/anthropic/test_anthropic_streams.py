"""Streams of Anthropic's dialect, read into the hub form and written from it."""

import json
from typing import Any

import pytest

from zuebee.dialects.anthropic.converter import AnthropicConverter
from zuebee.dialects.hub.canonical import (
    Begin,
    CallBegin,
    CallDelta,
    ChatRequest,
    Counts,
    Delta,
    FailureDelta,
    FinishDelta,
    Malformed,
    Over,
    Reasoning,
    TextDelta,
    ThinkingDelta,
    UsageDelta,
)
from zuebee.dialects.sse import EventCutter, event_data, event_type, split_events

ASKED = ChatRequest("anthropic", "m", [], reasoning=Reasoning(enabled=True))
PLAIN = ChatRequest("anthropic", "m", [])


def event(kind: str, **fields: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), json.dumps({"type": kind, **fields}).encode())


def start(index: int, **block: Any) -> bytes:
    return event("content_block_start", index=index, content_block=block)


def delta(index: int, **fields: Any) -> bytes:
    return event("content_block_delta", index=index, delta=fields)


def stop(index: int) -> bytes:
    return event("content_block_stop", index=index)


USAGE = {"input_tokens": 10, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 5, "output_tokens": 1}
ENDING = event("message_delta", delta={"stop_reason": "tool_use"}, usage={"output_tokens": 42})
STREAM = b"".join(
    [
        event("message_start", message={"id": "msg_1", "model": "m", "usage": USAGE}),
        event("ping"),
        start(0, type="thinking", thinking="", signature=""),
        delta(0, type="thinking_delta", thinking="Let me see ✓"),
        delta(0, type="signature_delta", signature="EqQBCgIYAhIM+/=="),
        stop(0),
        start(1, type="text", text=""),
        delta(1, type="text_delta", text="I read"),
        delta(1, type="text_delta", text=" it."),
        stop(1),
        start(2, type="tool_use", id="toolu_1", name="Read", input={}),
        delta(2, type="input_json_delta", partial_json=""),
        delta(2, type="input_json_delta", partial_json='{"file_path": "/a'),
        delta(2, type="input_json_delta", partial_json='.txt"}'),
        stop(2),
        start(3, type="tool_use", id="toolu_2", name="Now", input={}),
        stop(3),
        ENDING,
        event("message_stop"),
    ]
)
DELTAS: list[Delta] = [
    Begin("msg_1", "m", Counts(115, 1, 100, 5)),
    ThinkingDelta("Let me see ✓"),
    ThinkingDelta(signature="EqQBCgIYAhIM+/=="),
    TextDelta("I read"),
    TextDelta(" it."),
    CallBegin(0, "toolu_1", "Read"),
    CallDelta(0, '{"file_path": "/a'),
    CallDelta(0, '.txt"}'),
    CallBegin(1, "toolu_2", "Now"),
    CallDelta(1, "{}"),
    FinishDelta("tool_calls"),
    UsageDelta(Counts(115, 42, 100, 5)),
    Over(),
]


def read(*parts: bytes) -> list[Delta]:
    reader, cutter, found = AnthropicConverter().stream_reader(), EventCutter(), []
    for part in parts:
        for each in split_events(cutter.feed(part)):
            found += reader.read(event_type(each), event_data(each))
    return found + reader.end()


def written(deltas: list[Delta], request: ChatRequest = ASKED) -> bytes:
    writer = AnthropicConverter().stream_writer(request)
    return b"".join([writer.write(each) for each in deltas])


def accumulated(stream: bytes) -> dict[str, Any]:
    """The message that a strict client makes of a stream: blocks in order, one at a time."""
    message: dict[str, Any] = {}
    is_open, over = False, False
    for each in split_events(stream):
        assert not over
        found = json.loads(event_data(each))
        kind = found["type"]
        assert kind == event_type(each)
        if kind == "message_start":
            assert not message
            message = found["message"]
            continue
        content = message["content"]
        if kind == "content_block_start":
            assert not is_open
            assert found["index"] == len(content)
            content.append(found["content_block"] | {"json": ""})
            is_open = True
        elif kind == "content_block_delta":
            assert is_open
            assert found["index"] == len(content) - 1
            add(content[-1], found["delta"])
        elif kind == "content_block_stop":
            assert is_open
            assert found["index"] == len(content) - 1
            is_open = False
            block = content[-1]
            if (text := block.pop("json")) or block["type"] == "tool_use":
                block["input"] = json.loads(text) if text else {}
        elif kind == "message_delta":
            assert not is_open
            message |= found["delta"] | {"usage": found["usage"]}
        else:
            assert (kind, is_open) == ("message_stop", False)
            over = True
    assert over
    return message


def add(block: dict[str, Any], piece: dict[str, Any]) -> None:
    kind, name = {
        "text_delta": ("text", "text"),
        "thinking_delta": ("thinking", "thinking"),
        "signature_delta": ("thinking", "signature"),
        "input_json_delta": ("tool_use", "partial_json"),
    }[piece["type"]]
    assert block["type"] == kind
    block["json" if kind == "tool_use" else name] += piece[name]


def test_a_stream_is_read_wherever_the_network_cuts_it() -> None:
    assert read(STREAM) == DELTAS
    for cut in range(1, len(STREAM)):
        assert read(STREAM[:cut], STREAM[cut:]) == DELTAS, cut
    assert read(*[STREAM[at : at + 1] for at in range(len(STREAM))]) == DELTAS


def test_what_is_read_is_written_as_it_was() -> None:
    stream = written(read(STREAM))
    assert read(stream) == DELTAS
    message = accumulated(stream)
    assert message["content"] == [
        {"type": "thinking", "thinking": "Let me see ✓", "signature": "EqQBCgIYAhIM+/=="},
        {"type": "text", "text": "I read it."},
        {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {"file_path": "/a.txt"}},
        {"type": "tool_use", "id": "toolu_2", "name": "Now", "input": {}},
    ]
    assert message["stop_reason"] == "tool_use"
    assert message["usage"] == USAGE | {"output_tokens": 42}


def test_a_stream_without_its_last_event_is_over_if_it_said_why() -> None:
    assert read(STREAM.replace(event("message_stop"), b"")) == DELTAS
    assert Over() not in read(STREAM[: STREAM.index(ENDING)]), "the control"


def test_a_failure_is_told_and_is_no_end() -> None:
    failure = event("error", error={"type": "overloaded_error", "message": "Overloaded"})
    found = read(STREAM[: STREAM.index(ENDING)] + failure)
    assert found[-1] == FailureDelta(529, "overloaded_error", "overloaded_error", "Overloaded")
    assert read(STREAM.replace(event("message_stop"), failure))[-1] == found[-1], "also behind the reason"


@pytest.mark.parametrize(
    "data", [b"{", b"[]", b'{"type":"content_block_delta","index":9,"delta":{"partial_json":"x"}}']
)
def test_an_event_that_is_none_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        AnthropicConverter().stream_reader().read("content_block_delta", data)


def test_parallel_calls_are_written_one_after_the_other_and_none_is_split() -> None:
    deltas: list[Delta] = [Begin("a", "m"), TextDelta("Both:"), CallBegin(0, "x", "f"), CallBegin(1, "y", "g")]
    for piece in ('{"a":', " [1, ", "2]}"):
        deltas += [CallDelta(1, piece), CallDelta(0, piece)]
    deltas += [TextDelta("Done."), FinishDelta("stop"), Over()]
    message = accumulated(written(deltas))
    assert message["content"] == [
        {"type": "text", "text": "Both:"},
        {"type": "tool_use", "id": "x", "name": "f", "input": {"a": [1, 2]}},
        {"type": "tool_use", "id": "y", "name": "g", "input": {"a": [1, 2]}},
        {"type": "text", "text": "Done."},
    ]
    assert message["stop_reason"] == "tool_use", "whatever the server called it"


def test_an_answer_does_not_wait_for_the_one_before_that_is_whole() -> None:
    writer = AnthropicConverter().stream_writer(PLAIN)
    for each in (Begin(), CallBegin(0, "x", "f"), CallDelta(0, '{"a":1}')):
        writer.write(each)
    assert b"content_block_start" in writer.write(CallBegin(1, "y", "g"))
    assert b'\\"b\\"' in writer.write(CallDelta(1, '{"b"'))


def test_a_client_that_did_not_ask_for_reasoning_sees_none() -> None:
    deltas: list[Delta] = [Begin(), ThinkingDelta("hmm"), TextDelta("Hi"), FinishDelta("stop"), Over()]
    assert [block["type"] for block in accumulated(written(deltas, PLAIN))["content"]] == ["text"]
    assert [block["type"] for block in accumulated(written(deltas))["content"]] == ["thinking", "text"]


def test_an_empty_answer_is_a_message() -> None:
    message = accumulated(written([Over()], PLAIN))
    assert (message["content"], message["stop_reason"], message["model"]) == ([], "end_turn", "m")
