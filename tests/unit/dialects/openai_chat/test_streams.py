"""Streams and answers of chat completions, from sloppy servers and for clients."""

import json
from typing import Any

import pytest

from zuebee.dialects.hub.canonical import (
    Begin,
    CallBegin,
    CallDelta,
    ChatRequest,
    Counts,
    Delta,
    FailureDelta,
    FinishDelta,
    FunctionCall,
    Malformed,
    Over,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    UsageDelta,
)
from zuebee.dialects.openai_chat.converter import OpenAIConverter
from zuebee.dialects.sse import EventCutter, event_data, event_type, split_events

CONVERTER = OpenAIConverter()
DONE = b"data: [DONE]\n\n"


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    made = {"id": "c1", "model": "m", "created": 7, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
    return b"data: " + json.dumps(made | more).encode() + b"\n\n"


def calls(*pieces: dict[str, Any]) -> bytes:
    return chunk({"tool_calls": list(pieces)})


def heard(*blocks: bytes) -> list[Delta]:
    reader, found = CONVERTER.stream_reader(), []
    for block in blocks:
        for event in split_events(block):
            found += reader.read(event_type(event), event_data(event))
    return found


def made_calls(deltas: list[Delta]) -> list[tuple[str, str]]:
    found: dict[int, list[str]] = {}
    for delta in deltas:
        if isinstance(delta, CallBegin):
            assert delta.id
            found[delta.call] = [delta.name, ""]
        elif isinstance(delta, CallDelta):
            found[delta.call][1] += delta.arguments
    return [(name, arguments) for name, arguments in found.values()]


def said(told: bytes) -> list[Any]:
    return [json.loads(event_data(event)) for event in split_events(told) if b"[DONE]" not in event]


DEEPSEEK = b"".join(
    [
        b": keep-alive\n\n",
        chunk({"role": "assistant", "content": None, "reasoning_content": ""}),
        chunk({"content": None, "reasoning_content": "Hm ü"}),
        chunk({"content": "Hi", "reasoning_content": None}),
        chunk({"content": "!"}, "stop"),
        b'data: {"id":"c1","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3,"total_tokens":12,'
        b'"prompt_cache_hit_tokens":4,"completion_tokens_details":{"reasoning_tokens":1}}}\n\n',
        DONE,
    ]
)
DEEPSEEK_SAYS: list[Delta] = [
    Begin("c1", "m", None, 7),
    ThinkingDelta("Hm ü"),
    TextDelta("Hi"),
    TextDelta("!"),
    FinishDelta("stop"),
    UsageDelta(Counts(9, 3, 4, 0, 1)),
    Over(),
]


def test_a_stream_says_the_same_wherever_it_is_cut() -> None:
    for at in range(len(DEEPSEEK) + 1):
        cutter = EventCutter()
        assert heard(cutter.feed(DEEPSEEK[:at]), cutter.feed(DEEPSEEK[at:])) == DEEPSEEK_SAYS


def test_groq_tells_usage_in_a_field_of_its_own() -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    found = heard(chunk({"content": "a"}), chunk({}, "stop", x_groq={"id": "r", "usage": usage}), DONE)
    assert found[-3:] == [FinishDelta("stop"), UsageDelta(Counts(1, 2)), Over()]


def test_openrouters_reasoning_is_not_heard_twice() -> None:
    details = [{"type": "reasoning.text", "text": "Hm", "signature": "sig"}]
    found = heard(chunk({"content": "", "reasoning": "Hm", "reasoning_details": details}), chunk({"content": "a"}))
    assert found[1:] == [ThinkingDelta("Hm"), ThinkingDelta(signature="sig"), TextDelta("a")]


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        (  # xAI counts thoughts beside the completion
            {
                "prompt_tokens": 10,
                "completion_tokens": 5,
                "total_tokens": 22,
                "completion_tokens_details": {"reasoning_tokens": 7},
            },
            Counts(10, 12, 0, 0, 7),
        ),
        (
            {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15, "prompt_cache_hit_tokens": 8},
            Counts(10, 5, 8),
        ),
    ],
)
def test_usage_is_right_in_whole_answers(usage: dict[str, Any], counts: Counts) -> None:
    body = {"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}], "usage": usage}
    assert CONVERTER.read_answer(json.dumps(body).encode()).usage == counts


def test_kimis_usage_stands_in_the_choice() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    last = {"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "usage": usage}]}
    assert UsageDelta(Counts(3, 4)) in heard(b"data: " + json.dumps(last).encode() + b"\n\n")


def piece(name: str | None = None, arguments: str | None = None, **more: Any) -> dict[str, Any]:
    return more | {"function": {"name": name, "arguments": arguments}}


@pytest.mark.parametrize(
    "stream",
    [
        calls(piece("f", "", index=0, id="a"), piece("g", "", index=1, id="b"))
        + calls(piece(None, '{"x":', index=0), piece(None, "{}", index=1))
        + calls(piece(None, "1}", index=0)),
        calls(piece("f", '{"x":1}'), piece("g", "{}")),  # neither ids nor indexes
        calls(piece("f", '{"x":', index=0, id="a"))
        + calls(piece("f", "1}", index=0, id="a"))  # the name in each piece
        + calls(piece("g", "{}", index=1, id="b")),
        calls(piece("f", '{"x":1}', index=0, id="a")) + calls(piece("g", "{}", index=0, id="b")),  # one index for all
        calls(piece("f", '{"x":', index=0, id="a"))
        + calls(piece(None, "1}", index=0, id="z"))  # a new id for each piece
        + calls(piece("g", None, index=1, id="b")),  # no arguments at all
    ],
)
def test_calls_are_put_together_whatever_the_server_leaves_out(stream: bytes) -> None:
    found = heard(stream, chunk({}, "stop"), DONE)
    assert made_calls(found) == [("f", '{"x":1}'), ("g", "{}")]
    assert found[-2:] == [FinishDelta("tool_calls"), Over()]


def test_a_stop_in_every_chunk_is_told_once() -> None:
    found = heard(chunk({"content": "a"}, "stop"), chunk({"content": "b"}, "stop"), DONE)
    assert found[1:] == [TextDelta("a"), FinishDelta("stop"), TextDelta("b"), Over()]


def test_an_end_without_a_reason_is_an_end() -> None:
    assert heard(chunk({"content": "a"}), DONE)[-2:] == [FinishDelta("stop"), Over()]
    with pytest.raises(Malformed):
        heard(DONE)


def test_a_body_that_ends_is_whole_only_when_all_have_finished() -> None:
    reader = CONVERTER.stream_reader()
    reader.read("", event_data(chunk({"content": "a"})))
    assert reader.end() == []
    reader.read("", event_data(chunk({}, "length")))
    assert reader.end() == [Over()]
    assert reader.end() == []


@pytest.mark.parametrize(
    "event",
    [
        b'data: {"error":{"message":"busy","type":"overloaded","code":503}}\n\n',
        b'event: error\ndata: {"message":"busy","type":"overloaded","code":503}\n\n',
        b'data: {"object":"error","message":"busy","type":"overloaded","code":503}\n\n',
    ],
)
def test_errors_in_a_stream_are_seen(event: bytes) -> None:
    found = heard(chunk({"content": "a"}), event)[-1]
    assert isinstance(found, FailureDelta)
    assert (found.status, found.message, found.type) == (503, "busy", "overloaded")


def test_a_client_reads_what_it_needs_of_a_stream() -> None:
    deltas: list[Delta] = [
        Begin("id1", "m", None, 5),
        ThinkingDelta("Hm"),
        ThinkingDelta(signature="sig"),
        TextDelta("Hi"),
        CallBegin(0, "c", "f", "ts"),
        CallDelta(0, "{}"),
        FinishDelta("stop"),
        UsageDelta(Counts(5, 3, 2, 0, 1)),
        Over(),
    ]
    for usage in (True, False):
        writer = CONVERTER.stream_writer(ChatRequest("openai", "m", [], stream=True, stream_usage=usage))
        told = b"".join([writer.write(delta) for delta in deltas])
        assert told.endswith(DONE)
        chunks = said(told)
        assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
        assert ("usage" in chunks[-1]) is usage
        finish = [one["choices"][0]["finish_reason"] for one in chunks if one["choices"]]
        assert [reason for reason in finish if reason] == ["tool_calls"]
        back = heard(told)
        assert [one for one in back if not isinstance(one, FinishDelta | UsageDelta)] == [
            one for one in deltas if not isinstance(one, FinishDelta | UsageDelta)
        ]


def test_a_whole_answer_means_the_same_afterwards() -> None:
    message = {
        "role": "assistant",
        "content": None,
        "reasoning_content": "Hm",
        "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}],
    }
    body = {"id": "x", "model": "m", "created": 3, "choices": [{"index": 0, "message": message}]}
    answer = CONVERTER.read_answer(json.dumps(body).encode())
    assert answer.choices[0].parts == [Thinking("Hm"), FunctionCall("c", "f", '{"a":1}')]
    assert answer.choices[0].stop == "tool_calls"
    told = CONVERTER.write_answer(answer, ChatRequest("openai", "m", []))
    assert json.loads(told)["choices"][0]["finish_reason"] == "tool_calls"
    assert CONVERTER.read_answer(told) == answer


def test_a_client_of_functions_is_answered_in_their_words() -> None:
    body = b'{"choices":[{"message":{"tool_calls":[{"id":"c","function":{"name":"f","arguments":"{}"}}]}}]}'
    answer = CONVERTER.read_answer(body)
    told = json.loads(CONVERTER.write_answer(answer, ChatRequest("openai", "m", [], extra={"functions": b"[]"})))
    assert told["choices"][0]["message"]["function_call"] == {"name": "f", "arguments": "{}"}
    assert told["choices"][0]["finish_reason"] == "function_call"
    assert told["id"].startswith("chatcmpl-")


def test_the_text_that_ended_an_answer_is_known_where_the_server_tells() -> None:
    body = b'{"choices":[{"message":{"content":"x"},"finish_reason":"stop","stop_reason":"###"}]}'
    choice = CONVERTER.read_answer(body).choices[0]
    assert (choice.stop, choice.stop_sequence, choice.parts) == ("stop_sequence", "###", [Text("x")])


@pytest.mark.parametrize("body", [b"", b"{}", b'{"choices":[]}', b'{"error":{"message":"no"}}', b"[" * 100_000])
def test_what_is_no_answer_is_said_to_be_none(body: bytes) -> None:
    with pytest.raises(Malformed):
        CONVERTER.read_answer(body)


def test_errors_keep_their_status_and_words() -> None:
    told = CONVERTER.read_error(
        429, b'{"error":{"message":"slow down","type":"requests","code":"rate_limit_exceeded"}}'
    )
    assert (told.status, told.type, told.code, told.message) == (
        429,
        "rate_limit_error",
        "rate_limit_exceeded",
        "slow down",
    )
    vllm = b'{"object":"error","message":"This model\'s maximum context length is 10","code":400}'
    assert CONVERTER.read_error(400, vllm).code == "context_length_exceeded"
    assert CONVERTER.read_error(502, b"<html><title>Bad Gateway</title></html>").message == "Bad Gateway"
