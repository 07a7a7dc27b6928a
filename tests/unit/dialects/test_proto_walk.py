"""Messages of many small parts are known by their bytes, before they are parsed."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zuebee.contracts.errors import Refusal
from zuebee.dialects.llm_v1 import MAX_CALLS, MAX_PARTS, chat_body, crowded_field, read_answer, read_request
from zuebee.dialects.openai_usage import TokenCounts
from zuebee.protos.llm_pb2 import ChatCompletionRequest, ChatMessage, ToolCall

KIND = ChatCompletionRequest.DESCRIPTOR
SIZE = 4 << 20
CROWDS = {
    "messages": b"\x4a\x00",
    "messages of roles": b"\x4a\x03\x0a\x01u",
    "stop": b"\x52\x00",
    "tools": b"\x4a\x02\x2a\x00",
    "extra": b"\x72\x02\x0a\x00",
    "empty extras": b"\x72\x00",
    "unknown fields": b"\xa0\x06\x01",
    "unknown groups": b"\xa3\x06\xa4\x06",
    "meta": b"\x0a\x00",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CROWDS)
def test_a_crowd_is_refused_before_it_is_parsed(name: str) -> None:
    data = CROWDS[name] * (SIZE // len(CROWDS[name]))
    refusal = read_request(data)
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.code) == (400, "too_many_fields")
    assert refusal.param == {"u": None, "t": "messages", "e": "extra"}.get(name[0], name.split()[0])


def test_one_list_inside_is_a_crowd() -> None:
    request = ChatCompletionRequest()
    request.extra.update({"x": [[]] * MAX_PARTS})
    refusal = read_request(request.SerializeToString())
    assert isinstance(refusal, Refusal)
    assert refusal.param == "extra"


def test_a_long_chat_is_none() -> None:
    messages = [ChatMessage(role="user", content="hello")] * 20_000
    request = ChatCompletionRequest(model="m", messages=messages)
    request.extra.update({"logit_bias": {str(token): 1 for token in range(2000)}})
    found = read_request(request.SerializeToString())
    assert found == request
    assert isinstance(chat_body(request, "", stream=False), bytes)


texts = st.text(max_size=3)
calls = st.builds(ToolCall, id=texts, name=texts, arguments=texts)
messages = st.builds(ChatMessage, role=texts, content=texts, tool_calls=st.lists(calls, max_size=3))


def parts_of(request: ChatCompletionRequest) -> int:
    count = bool(request.model) + len(request.stop) + len(request.messages)
    for message in request.messages:
        count += sum(map(len, map(type(message).ListFields, [message]))) - bool(message.tool_calls)
        count += sum(1 + len(call.ListFields()) for call in message.tool_calls)
    return count


stops = st.lists(texts, max_size=3)


@given(st.builds(ChatCompletionRequest, model=texts, stop=stops, messages=st.lists(messages, max_size=4)))
def test_parts_are_counted(request: ChatCompletionRequest) -> None:
    count = parts_of(request)
    data = request.SerializeToString()
    assert crowded_field(data, KIND, count) is None
    if count:
        assert crowded_field(data, KIND, count - 1) is not None


@given(st.binary(max_size=200), st.integers(1, 20))
def test_no_bytes_raise(data: bytes, most: int) -> None:
    crowded_field(data, KIND, most)


def test_of_a_long_answer_only_what_is_given_is_read() -> None:
    call = b'{"id":"a","function":{"name":"f","arguments":"{}"}},'
    body = b'{"choices":[{"message":{"content":"hi","tool_calls":[' + call * 5000 + call[:-1] + b"]}},"
    body += b"{}," * (SIZE // 3) + b'{}],"usage":{"prompt_tokens":1,"completion_tokens":2}}'
    tracemalloc.start()
    piece = read_answer(body)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (piece.text, len(piece.tool_calls), piece.usage) == ("hi", MAX_CALLS + 1, TokenCounts(1, 2))
    assert peak < 2 * len(body) + (4 << 20)
